"""Epsilons are those of the accountant's own tests and papers, for the sampling that is named."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from scipy.stats import norm

from fedlab.privacy.accounting import (
    Fixed,
    Sampled,
    Sampling,
    Shared,
    Unsampled,
    epsilon_of,
    noise_for,
)

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
def test_a_further_round_is_added_up_and_not_worked_out_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    event = PoissonSampledDpEvent(0.17, GaussianDpEvent(1.3))
    want = RdpAccountant().compose(event, 40).get_epsilon(1e-5)
    epsilon_of(1.3, 39, Sampled(0.17), 1e-5)
    monkeypatch.setattr(RdpAccountant, "compose", None)
    assert epsilon_of(1.3, 40, Sampled(0.17), 1e-5) == pytest.approx(want, rel=1e-12)


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


# -- noise that devices share ---------------------------------------------------------------------


def divergence(alpha: float, deviation: float, devices: int, moved: int) -> float:
    """Of the sum of discrete Gaussians from the same sum moved by a whole number, by its masses."""
    x = np.arange(-200, 201)
    one = np.exp(-(x**2) / (2 * deviation**2))
    one /= one.sum()
    total = one
    for _ in range(devices - 1):
        total = np.convolve(total, one)
    p, q = total[moved:], total[:-moved]
    some = (p > 1e-280) & (q > 1e-280)
    powers = alpha * np.log(p[some]) - (alpha - 1) * np.log(q[some])
    return float(logsumexp(powers) / (alpha - 1))


def test_sums_of_discrete_gaussians_diverge_by_no_more_than_the_bound_and_by_more_than_one() -> (
    None
):
    """Kairouz, Liu and Steinke, proposition 14, for one number; the second is why tau is needed."""
    beyond = 0
    for deviation in (0.5, 0.6, 0.75, 1.0, 1.5):
        for devices in (1, 2, 3, 5):
            tau = Shared(devices, deviation, 1).tau
            for alpha in (1.25, 1.5, 2.0, 4.0, 6.0):
                for moved in (1, 2):
                    exact = divergence(alpha, deviation, devices, moved)
                    far = moved / (math.sqrt(devices) * deviation)
                    assert exact <= alpha / 2 * (far + tau) ** 2 * (1 + 1e-9)
                    beyond += exact > alpha / 2 * far**2 * (1 + 1e-6)
    assert beyond > 20
    assert Shared(2, 0.5, 1).tau == pytest.approx(10 * math.exp(-(math.pi**2) / 4))


@pytest.mark.usefixtures("_accountant")
@pytest.mark.parametrize(
    ("deviation", "devices", "rounds"), [(1.0, 2, 5), (0.75, 3, 20), (2.0, 4, 9)]
)
def test_epsilon_of_shared_noise_is_just_above_that_of_the_exact_divergence(
    deviation: float, devices: int, rounds: int
) -> None:
    """A device moves three numbers by (1, 2, 1); the conversion is that of Canonne et al. 2020."""
    delta, moved = 1e-5, (1, 2, 1)

    def epsilon(alpha: float) -> float:
        told = rounds * sum(divergence(alpha, deviation, devices, each) for each in moved)
        return told + math.log1p(-1 / alpha) - math.log(delta * alpha) / (alpha - 1)

    found = minimize_scalar(epsilon, bounds=(1.05, 8), method="bounded").fun
    # The sum moves by 2 S = sqrt(6), and its noise is z S.
    z = math.sqrt(devices) * deviation / (math.sqrt(6) / 2)
    ours = epsilon_of(z, rounds, Shared(devices, deviation, 3), delta)
    assert found <= ours <= found * (1.25 if deviation < 1 else 1.01)


@pytest.mark.usefixtures("_accountant")
def test_shared_noise_of_many_steps_costs_what_one_gaussian_does() -> None:
    shared = Shared(100, 50.0, 200_000)
    assert shared.tau == 0
    for rounds in (1, 30):
        want = epsilon_of(4.0, rounds, Unsampled(), 1e-6)
        assert epsilon_of(4.0, rounds, shared, 1e-6) == pytest.approx(want, rel=1e-9)
    z = noise_for(2.0, 1e-5, 30, shared)
    assert z == pytest.approx(noise_for(2.0, 1e-5, 30, Unsampled()), rel=1e-3)
    assert epsilon_of(4.0, 1, Shared(100, 0.8, 200_000), 1e-6) > 10 * epsilon_of(
        4.0, 1, shared, 1e-6
    )
    with pytest.raises(ValueError, match=r"a deviation of 0\.4 whole .* takes 1/2; take more bits"):
        Shared(10, 0.4, 5)
