"""Noise follows its formula exactly, and what is released keeps the epsilon that it claims."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fedlab import Device, VectorIndex
from fedlab.index.vectorindex import Metric
from fedlab.privacy.mechanisms import Mechanism
from fedlab.privacy.noise import _below, discrete_gaussian, discrete_laplace
from fedlab.privacy.release import _GRID, _clipped
from fedlab.search.private import (
    Budget,
    BudgetError,
    Gaussian,
    Laplace,
    protections,
    release_centroids,
    release_counts,
)
from tests.helpers import normal

Whole = NDArray[np.int64]


def source(seed: int):  # type: ignore[no-untyped-def]
    return np.random.default_rng(seed).bytes


def device(rows: NDArray[np.float32], metric: Metric = "l2sq", labels: object = None) -> Device:
    index = VectorIndex(rows.shape[1], metric)
    index.add(rows, labels=labels)  # type: ignore[arg-type]
    return Device("ward", index)


def fit(drawn: Whole, weight: NDArray[np.float64], reach: int) -> float:
    """p-value of chi-square against weights of -reach ... reach, tails joined where few."""
    expected = weight / weight.sum() * len(drawn)
    inside = expected >= 10
    first, last = np.flatnonzero(inside)[[0, -1]]
    seen = np.bincount(np.clip(drawn + reach, first, last), minlength=2 * reach + 1)
    tails = expected.copy()
    tails[first], tails[last] = expected[: first + 1].sum(), expected[last:].sum()
    part = slice(first, last + 1)
    return float(stats.chisquare(seen[part], tails[part]).pvalue)


# -- the samplers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["1/3", "1", "5/2", "17", "1000003/100003"])
def test_discrete_laplace_has_its_distribution(scale: str) -> None:
    drawn = discrete_laplace(Fraction(scale), 100_000, source(1))
    reach = int(40 * Fraction(scale)) + 20
    ratio = math.exp(-1 / Fraction(scale))
    whole = np.arange(-reach, reach + 1)
    weight = (1 - ratio) / (1 + ratio) * ratio ** np.abs(whole)  # the closed form
    assert weight.sum() == pytest.approx(1)
    assert fit(drawn, weight, reach) > 1e-4
    # Control: the same test tells a scale that is 5% off.
    assert fit(drawn, np.exp(-np.abs(whole) / (1.05 * float(Fraction(scale)))), reach) < 1e-4


@pytest.mark.parametrize("sigma", ["1/2", "1", "33/16", "10", "300"])
def test_discrete_gaussian_has_its_distribution(sigma: str) -> None:
    drawn = discrete_gaussian(Fraction(sigma), 100_000, source(2))
    reach = int(10 * Fraction(sigma)) + 10
    whole = np.arange(-reach, reach + 1)
    assert fit(drawn, np.exp(-(whole**2) / (2 * float(Fraction(sigma)) ** 2)), reach) > 1e-4
    assert (
        fit(drawn, np.exp(-(whole**2) / (2 * (1.05 * float(Fraction(sigma))) ** 2)), reach) < 1e-4
    )


def test_large_noise_has_its_moments() -> None:
    """Scales beyond what a chi-square on single numbers can see."""
    laplace = discrete_laplace(Fraction(10**9, 7), 100_000, source(3)) / (10**9 / 7)
    assert stats.kstest(laplace, stats.laplace.cdf).pvalue > 1e-4
    gaussian = discrete_gaussian(Fraction(2**24), 100_000, source(4)) / 2**24
    assert stats.kstest(gaussian, stats.norm.cdf).pvalue > 1e-4


def test_uniform_numbers_have_no_modulo_bias() -> None:
    """Three quarters of 2**62: a plain remainder would favour the lower third."""
    limit = 3 << 60
    drawn = _below(np.full(60_000, limit), source(5))
    assert drawn.min() >= 0
    assert drawn.max() < limit
    assert stats.chisquare(np.bincount(drawn >> 60)).pvalue > 1e-4


def test_noise_comes_from_the_system_unless_a_seed_is_given() -> None:
    many = [discrete_laplace(Fraction(1000), 20).tolist() for _ in range(2)]
    assert many[0] != many[1]
    ward = device(normal(20, 2), labels=np.zeros(20, int))
    counts = [release_counts(ward, range(50), Laplace(0.1), seed=s).tolist() for s in (1, 1, 2)]
    assert counts[0] == counts[1] != counts[2]
    assert release_counts(ward, range(50), Laplace(0.1)).tolist() != counts[0]


def test_limits_of_the_samplers() -> None:
    for scale in (Fraction(0), Fraction(-1), Fraction(1 << 50)):
        with pytest.raises(ValueError, match="scale is"):
            discrete_laplace(scale, 1)
    for sigma in (Fraction(1, 17), Fraction(1, 32), Fraction(513, 2), Fraction((1 << 24) + 1)):
        with pytest.raises(ValueError, match="sigma is"):
            discrete_gaussian(sigma, 1)
    assert discrete_laplace(Fraction(1), 0).shape == (0,)


# -- what is released ------------------------------------------------------------------------------


def epsilon_at_least(one: Whole, other: Whole, delta: float = 0.0) -> float:
    """Return the largest epsilon that two samples refute, over all thresholds.

    With confidence .999 each (Clopper and Pearson), either side may be the likelier one.
    """
    best = 0.0
    for a, b in ((one, other), (other, one), (-one, -other), (-other, -one)):
        for threshold in np.unique(a):
            hits, misses = (a <= threshold).sum(), (b <= threshold).sum()
            low = stats.beta.ppf(5e-4, hits, len(a) - hits + 1) if hits else 0.0
            high = stats.beta.ppf(1 - 5e-4, misses + 1, len(b) - misses) if misses < len(b) else 1.0
            if low > delta:
                best = max(best, math.log((low - delta) / high))
    return best


def many_counts(rows: int, mechanism: Mechanism, seed: int) -> Whole:
    """Releases of one count, `rows`, by a device of 40,000 classes with as many rows each."""
    names = np.arange(40_000)
    labels = np.repeat(names, rows)
    index = VectorIndex(1, "l2sq")
    index.add(np.zeros((len(labels), 1)), labels=labels)
    return release_counts(Device("ward", index), names, mechanism, seed=seed)


@pytest.mark.parametrize("mechanism", [Laplace(0.5), Laplace(2.0), Gaussian(1.0, 1e-2)])
def test_counts_keep_their_epsilon_as_far_as_can_be_measured(mechanism: Mechanism) -> None:
    """Neighbours, 40,000 times; a third of the noise would be found out."""
    claimed, delta = mechanism.epsilon, mechanism.delta
    found = epsilon_at_least(many_counts(2, mechanism, 6), many_counts(3, mechanism, 7), delta)
    assert found <= claimed
    if isinstance(mechanism, Laplace):
        assert found > 0.8 * claimed  # the noise is no larger than it need be
        weak: Mechanism = Laplace(3 * claimed)
    else:
        weak = Gaussian(3 * claimed, delta)
    assert epsilon_at_least(many_counts(2, weak, 6), many_counts(3, weak, 7), delta) > claimed


def test_a_release_of_counts_is_the_counts_and_the_noise() -> None:
    labels = np.repeat(["cat", "dog", "owl"], [500, 300, 7])
    ward = device(normal(807, 2), labels=labels)
    found = release_counts(ward, ["owl", "cat", "eel"], Laplace(1.0), seed=3)
    assert np.abs(found - [7, 500, 0]).max() < 25
    # Unbiased, with the variance of the closed form.
    draws = many_counts(2, Laplace(1.0), 1)
    ratio = math.exp(-1)
    variance = 2 * ratio / (1 - ratio) ** 2
    assert abs(draws.mean() - 2) < 5 * math.sqrt(variance / len(draws))
    assert draws.var() == pytest.approx(variance, rel=0.1)


def test_gaussian_noise_is_what_the_conversion_asks_for() -> None:
    for epsilon, delta in ((0.1, 1e-6), (1.0, 1e-5), (8.0, 1e-3)):
        rho = Gaussian(epsilon, delta).rho
        assert rho + 2 * math.sqrt(rho * math.log(1 / delta)) == pytest.approx(epsilon)
        # Sampled: sigma is not below what rho asks for. (Four parts each get a quarter of rho.)
        drawn = Gaussian(epsilon, delta).halved(4).noise(10, 100_000, source(8))
        assert drawn.std() >= 0.98 * 10 / math.sqrt(2 * rho / 4)
    # Exactly: delta at epsilon, from the closed form of the noise that is drawn.
    for epsilon, delta in ((0.3, 1e-6), (1.0, 1e-5), (8.0, 1e-3)):
        sigma = float(Gaussian(epsilon, delta).sigma(1))
        whole = np.arange(-math.ceil(14 * sigma), math.ceil(14 * sigma) + 1)
        here = np.exp(-(whole**2) / (2 * sigma**2))
        here /= here.sum()
        assert np.maximum(here[:-1] - math.exp(epsilon) * here[1:], 0).sum() <= delta
    # The exact privacy curve of the Gaussian mechanism (Balle and Wang, ICML 2018) lies within.
    sigma = 1 / math.sqrt(2 * Gaussian(1.0, 1e-5).rho)
    cdf = stats.norm.cdf
    tight = cdf(1 / (2 * sigma) - sigma) - math.e * cdf(-1 / (2 * sigma) - sigma)
    assert tight <= 1e-5


@pytest.mark.parametrize("metric", ["l2sq", "cosine"])
@pytest.mark.parametrize("norm", [1, 2])
def test_no_row_moves_sums_by_more_than_the_clipping_length(metric: Metric, norm: int) -> None:
    sizes = 10.0 ** np.arange(-100, 100).clip(-8, 8)
    rows = (normal(200, 5) * sizes[:, None]).astype(np.float32)
    rows[0], rows[1] = [3, 0, 0, 0, 0], [-0.5, 0.5, 0.5, 0.5, 0.5]
    clipped = _clipped(device(rows, metric), 0.7, norm)
    lengths = np.linalg.norm(clipped, ord=norm, axis=1)
    assert lengths.max() <= 0.7
    assert lengths.max() > 0.7 * (1 - 1e-8)
    steps = np.trunc(clipped / 0.7 * _GRID)
    assert np.linalg.norm(steps, ord=norm, axis=1).max() <= _GRID
    if metric == "l2sq":
        short = np.linalg.norm(rows, ord=norm, axis=1) < 0.69
        assert (clipped[short] == rows[short]).all()


class Silent:
    """No noise: shows what noise is added to."""

    epsilon = delta = 0.0

    def __init__(self, norm: int) -> None:
        self.norm = norm

    def noise(self, sensitivity: int, size: int, source: object) -> Whole:
        return np.zeros(size, np.int64)

    def halved(self, times: int = 2) -> Silent:
        return self


@pytest.mark.parametrize("norm", [1, 2])
def test_one_row_more_changes_what_is_told_by_the_sensitivity_at_most(norm: int) -> None:
    from fedlab.privacy.release import _told

    rows = normal(41, 4) * 3
    centroids = normal(3, 4, 1).astype(np.float64)

    def told(part: NDArray[np.float32]) -> tuple[Whole, Whole]:
        return _told(device(part), centroids, Silent(norm), 1.0, np.random.bytes)  # type: ignore[arg-type]

    everything = told(rows)
    largest = 0.0
    for gone in range(41):
        fewer = told(np.delete(rows, gone, axis=0))
        moved = np.linalg.norm((everything[0] - fewer[0]).ravel(), ord=norm)
        assert moved <= _GRID
        largest = max(largest, float(moved))
        assert np.abs(everything[1] - fewer[1]).sum() == 1
    assert largest > 0.99 * _GRID  # all rows were longer than the clipping length


@pytest.mark.parametrize("mechanism", [Laplace(4.0), Gaussian(2.0, 1e-6)])
def test_the_noise_of_all_steps_adds_up_to_what_is_claimed(
    mechanism: Mechanism, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Mechanism, int, int]] = []
    noise = type(mechanism).noise

    def noted(self: Mechanism, sensitivity: int, size: int, source: object) -> Whole:
        drawn.append((self, sensitivity, size))
        return noise(self, sensitivity, size, source)  # type: ignore[arg-type]

    monkeypatch.setattr(type(mechanism), "noise", noted)
    ward = device(normal(50, 3))
    release_centroids([ward], normal(2, 3), mechanism, iterations=5, seed=0)
    assert [entry[1:] for entry in drawn] == [(_GRID, 6), (1, 2)] * 5
    if isinstance(mechanism, Laplace):
        spent = sum(entry[0].epsilon for entry in drawn)
        assert spent == pytest.approx(mechanism.epsilon)
    else:
        rho = sum(e[0].rho / e[0].steps for e in drawn if isinstance(e[0], Gaussian))
        assert rho == pytest.approx(mechanism.rho)


def test_without_noise_centroids_move_as_lloyds_do() -> None:
    from sklearn.cluster import KMeans

    draw = np.random.default_rng(0)
    middles = np.array([[0.5, 0.1], [-0.4, 0.4], [0, -0.6]])
    rows = (middles[draw.integers(3, size=600)] + draw.normal(0, 0.05, (600, 2))).astype(np.float32)
    wards = [device(part) for part in np.array_split(rows, 4)]
    for place, ward in enumerate(wards):
        ward.id = place
    start = middles + 0.1
    found = release_centroids(wards, start, Silent(2), clip=2.0, iterations=2)  # type: ignore[arg-type]
    expected = KMeans(3, init=start.astype(np.float32), n_init=1, max_iter=2, tol=0).fit(rows)
    assert np.abs(found.centroids - expected.cluster_centers_).max() < 2 * 2.0 / _GRID
    assert found.counts.tolist() == np.bincount(expected.labels_).tolist()


@pytest.mark.parametrize("mechanism", [Laplace(4.0), Gaussian(2.0, 1e-6)])
def test_noisy_centroids_find_the_groups(mechanism: Mechanism) -> None:
    draw = np.random.default_rng(0)
    middles = np.array([[0.5, 0.1], [-0.4, 0.4], [0, -0.6]])
    rows = (middles[draw.integers(3, size=9000)] + draw.normal(0, 0.05, (9000, 2))).astype("f4")
    found = release_centroids([device(rows)], middles + 0.2, mechanism, seed=1)
    assert np.abs(found.centroids - middles).max() < 0.03
    assert np.abs(found.counts - 3000).max() < 200
    assert (found.epsilon, found.delta) == (mechanism.epsilon, mechanism.delta)
    assert found.ledger.bytes == 3 * (3 * 2 * 8 + 3 * 2 * 8 + 3 * 8)
    assert found.ledger.rounds == 3
    again = release_centroids([device(rows)], middles + 0.2, mechanism, seed=1)
    assert (found.centroids == again.centroids).all()
    other = release_centroids([device(rows)], middles + 0.2, mechanism)
    assert (found.centroids != other.centroids).any()


def test_noise_differs_between_devices_and_steps() -> None:
    empty = [Device(name, VectorIndex(50, "l2sq")) for name in ("a", "b")]
    single = [
        release_centroids([ward], np.zeros((1, 50)), Laplace(1.0), iterations=1, seed=0).counts
        for ward in empty
    ]
    joint = release_centroids(empty, np.zeros((1, 50)), Laplace(1.0), iterations=1, seed=0)
    assert single[0] != single[1]
    assert joint.counts == single[0] + single[1]


def test_a_budget_ends() -> None:
    ward = device(normal(30, 2), labels=np.zeros(30, int))
    budget = Budget(epsilon=1.0, delta=1e-5)
    release_counts(ward, [0], Laplace(0.5), budget=budget)
    release_centroids([ward], np.eye(2), Gaussian(0.25, 1e-5), budget=budget)
    assert budget.left == (0.25, 0.0)
    for mechanism in (Laplace(0.3), Gaussian(0.1, 1e-9)):
        with pytest.raises(BudgetError, match="is left: release it with more noise"):
            release_counts(ward, [0], mechanism, budget=budget)
    assert len(budget.spent) == 2
    release_counts(ward, [0], Laplace(0.25), budget=budget)
    assert budget.left[0] == 0


def test_refusals() -> None:
    ward = device(normal(5, 2), labels=np.zeros(5, int))
    for epsilon in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="epsilon is"):
            Laplace(epsilon)
    for delta in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="delta is"):
            Gaussian(1.0, delta)
    with pytest.raises(ValueError, match="each once"):
        release_counts(ward, [0, 0], Laplace(1.0))
    for clip in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="clip is"):
            release_centroids([ward], np.eye(2), Laplace(1.0), clip=clip)
    with pytest.raises(ValueError, match="no centroid"):
        release_centroids([ward], np.empty((0, 2)), Laplace(1.0))
    with pytest.raises(ValueError, match="no devices were given"):
        release_centroids([], np.eye(2), Laplace(1.0))
    with pytest.raises(ValueError, match="iterations is 0"):
        release_centroids([ward], np.eye(2), Laplace(1.0), iterations=0)


def test_what_is_no_device_mechanism_or_budget_is_named() -> None:
    ward = device(normal(5, 2), labels=np.zeros(5, int))
    with pytest.raises(TypeError, match="device is an object of type list; give a Device"):
        release_counts([ward], [0], Laplace(1.0))  # type: ignore[arg-type]
    for mechanism in (1.0, Laplace):
        with pytest.raises(TypeError, match=r"a mechanism, Laplace\(epsilon\) or"):
            release_counts(ward, [0], mechanism)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"a mechanism, Laplace\(epsilon\) or"):
            release_centroids([ward], np.eye(2), mechanism)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"budget is 1\.0 \(float\); give a Budget"):
        release_counts(ward, [0], Laplace(1.0), budget=1.0)  # type: ignore[arg-type]


def test_every_scheme_says_what_it_does_not_protect() -> None:
    table = protections()
    assert (table.map(len) > 20).all().all()
    assert table.loc["two-server shares", "assumes"].startswith("two servers that don't collude")


@pytest.mark.parametrize(
    ("epsilon", "error"),
    [
        (float("nan"), ValueError),
        (-1.0, ValueError),
        (float("inf"), ValueError),
        ("1", TypeError),
        (True, TypeError),
    ],
)
def test_budgets_are_numbers(epsilon, error) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match="epsilon is"):
        Budget(epsilon)


def test_tenths_of_a_budget_are_ten() -> None:
    budget = Budget(1.0)
    for _ in range(10):
        budget.spend(Laplace(0.1), "counts")
    with pytest.raises(BudgetError):
        budget.spend(Laplace(0.1), "counts")
