"""Epsilons are those of the accountant's own tests and papers, for the sampling that is named."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from fedlab.privacy.accounting import Fixed, Sampled, Sampling, Unsampled, epsilon_of, noise_for

REASON = "dp-accounting is not installed (the extra privacy)"


@pytest.fixture
def _accountant() -> None:
    pytest.importorskip("dp_accounting", reason=REASON)


@pytest.mark.usefixtures("_accountant")
@pytest.mark.parametrize(
    ("rate", "z", "rounds", "rdp", "pld"),
    [(0.01, 4.0, 10_000, 1.03549, 0.94700), (0.1, 1.0, 100, 7.90385, 7.04660)],
)
def test_poisson_sampling(rate: float, z: float, rounds: int, rdp: float, pld: float) -> None:
    assert epsilon_of(z, rounds, Sampled(rate), 1e-5) == pytest.approx(rdp, abs=1e-5)
    assert epsilon_of(z, rounds, Sampled(rate), 1e-5, "pld") == pytest.approx(pld, abs=1e-4)


@pytest.mark.usefixtures("_accountant")
def test_a_replaced_device_moves_a_fixed_cohorts_sum_by_twice_the_clip() -> None:
    assert epsilon_of(2.0, 100, Fixed(100, 1000), 1e-5) == pytest.approx(14.05, abs=5e-3)
    assert epsilon_of(1.0, 100, Fixed(100, 1000), 1e-5) == pytest.approx(83.9, abs=5e-2)


def gaussian_delta(epsilon: float, z: float) -> float:
    """Balle & Wang, ICML 2018, theorem 8: the exact delta of the Gaussian mechanism."""
    a, b = 1 / (2 * z), epsilon * z
    return float(norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b))


@pytest.mark.usefixtures("_accountant")
@pytest.mark.parametrize(
    ("adjacency", "moved"), [("replace one device", 2), ("add or remove one device", 1)]
)
def test_without_sampling_rounds_are_one_gaussian(adjacency: str, moved: int) -> None:
    z, rounds = 20.0, 30
    found = epsilon_of(z, rounds, Unsampled(adjacency), 1e-5, "pld")  # type: ignore[arg-type]
    assert gaussian_delta(found, z / moved / math.sqrt(rounds)) == pytest.approx(1e-5, rel=2e-3)
    assert epsilon_of(z, rounds, Unsampled(adjacency), 1e-5) >= found  # type: ignore[arg-type]


@pytest.mark.usefixtures("_accountant")
@pytest.mark.parametrize("sampling", [Sampled(0.1), Fixed(10, 100), Unsampled()])
def test_calibrated_noise_meets_its_target_and_is_kept(
    sampling: Sampling,
) -> None:
    z = noise_for(3.0, 1e-5, 20, sampling)
    assert 2.98 < epsilon_of(z, 20, sampling, 1e-5) <= 3.0
    before = noise_for.cache_info().hits
    assert noise_for(3.0, 1e-5, 20, sampling) == z
    assert noise_for.cache_info().hits == before + 1


@pytest.mark.usefixtures("_accountant")
def test_epsilon_grows_with_rounds_and_begins_at_zero() -> None:
    spent = [epsilon_of(1.0, rounds, Sampled(0.1), 1e-5) for rounds in range(4)]
    assert spent[0] == 0.0
    assert np.all(np.diff(spent) > 0)


def test_what_is_not_covered_is_refused_before_any_library_is_needed() -> None:
    with pytest.raises(ValueError, match=r"'pld' was given with a fixed cohort.*take 'rdp'"):
        epsilon_of(1.0, 10, Fixed(10, 100), 1e-5, "pld")
    with pytest.raises(ValueError, match="accountant is 'gdp'"):
        noise_for(1.0, 1e-5, 10, Unsampled(), "gdp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"lie between 0 and 1, as in delta=0\.95"):
        epsilon_of(1.0, 10, Unsampled(), 0.0)
    with pytest.raises(ValueError, match="cohort is 11"):
        Fixed(11, 10)
