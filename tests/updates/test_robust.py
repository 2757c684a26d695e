"""Robust aggregators: other libraries' values, plain loops, and what attackers can't do to them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fedlab import Device, VectorIndex
from fedlab.updates import Updates, robust
from fedlab.updates.robust import (
    NNM,
    Bulyan,
    CenteredClipping,
    FLTrust,
    GeometricMedian,
    Krum,
    Median,
    MultiKrum,
    TrimmedMean,
)

#: Eleven updates, of which the last two lie.
ROWS = np.array(
    [
        [0.13, 0.87, 8.4, 0.31],
        [-0.54, 1.36, 15.04, 0.39],
        [-0.7, -0.27, -4.23, 0.3],
        [-2.33, 0.78, -10.46, 0.23],
        [-0.54, 0.68, 6.12, 0.4],
        [-0.13, 2.37, -4.65, 0.34],
        [0.9, 1.09, -5.43, 0.21],
        [-0.46, 1.22, -8.1, 0.28],
        [-0.16, 1.54, 4.15, 0.34],
        [49.35, -39.13, 309.84, 2.45],
        [-4.26, 4.51, -4.54, 0.88],
    ]
)
#: Computed with byzfl 0.0.11 (NumPy arrays, f = 2; GeometricMedian(nu=1e-6, T=20000)), 12 digits.
BYZFL = {
    "Median()": (Median(), [-0.46, 1.09, -4.23, 0.34]),
    "TrMean(2)": (
        TrimmedMean(2),
        [-0.342857142857, 1.077142857143, -0.025714285714, 0.337142857143],
    ),
    "Krum(2)": (Krum(2, "byzfl"), [-0.7, -0.27, -4.23, 0.3]),
    "MultiKrum(2)": (
        MultiKrum(2, "byzfl"),
        [-0.838888888889, 1.421111111111, -2.082222222222, 0.365555555556],
    ),
    "GeometricMedian": (
        GeometricMedian(),
        [-0.595487294391, 1.322492667735, -2.278783292395, 0.359171992838],
    ),
    "CenteredClipping(L=1, tau=2.0)": (
        CenteredClipping(2.0),
        [-0.152353286007, 0.348011396086, -0.089790472004, 0.100477450204],
    ),
    "CenteredClipping(L=3, tau=2.0)": (
        CenteredClipping(2.0, steps=3),
        [-0.353712645748, 0.801519005698, -0.274827670917, 0.22903398891],
    ),
    "NNM(2), then Median()": (
        NNM(2, Median()),
        [-0.838888888889, 1.421111111111, -2.082222222222, 0.365555555556],
    ),
    "NNM(2), then Average()": (
        NNM(2, TrimmedMean(0)),
        [-0.245353535354, 1.042828282828, 2.417171717172, 0.395555555556],
    ),
}


def sent(weights: Any = None, **blocks: Any) -> Updates:
    count = len(next(iter(blocks.values())))
    w = np.full(count, 1 / count) if weights is None else np.asarray(weights, float)
    return Updates(np.arange(count), blocks, w, {})


def combined(aggregator: Any, rows: Any, weights: Any = None, own: Any = None) -> Any:
    means, _ = aggregator.combine(
        aggregator.init(4), sent(weights, change=rows), {} if own is None else {"change": own}
    )
    return means["change"]


def root() -> Device:
    index = VectorIndex(1)
    index.add([[1.0]], labels=[0])
    return Device("root", index)


#: Every aggregator, for at most two liars of eleven devices.
ALL = {
    "median": Median(),
    "trimmed mean": TrimmedMean(2),
    "krum": Krum(2),
    "krum of 3": Krum(2, keep=3),
    "multi-krum": MultiKrum(2),
    "bulyan": Bulyan(2),
    "geometric median": GeometricMedian(),
    "centred clipping": CenteredClipping(1.0),
    "fltrust": FLTrust(root()),
    "nnm, median": NNM(2, Median()),
    "nnm, krum": NNM(2, Krum(2)),
}
each = pytest.mark.parametrize("name", ALL)


@pytest.mark.parametrize("name", BYZFL)
def test_values_are_those_of_byzfl(name):
    aggregator, expected = BYZFL[name]
    np.testing.assert_allclose(combined(aggregator, ROWS), expected, atol=1e-10)


def test_centred_clipping_goes_on_from_the_last_rounds_aggregate():
    """The second call of byzfl's object, which remembers."""
    aggregator = CenteredClipping(2.0)
    state = aggregator.init(4)
    for _ in range(2):
        means, state = aggregator.combine(state, sent(change=ROWS), {})
    expected = [-0.267384952278, 0.60845691021, -0.18193300132, 0.174751095103]
    np.testing.assert_allclose(means["change"], expected, atol=1e-10)
    assert means["change"] is not state["change"]


def test_median_and_trimmed_mean_of_three():
    rows = np.arange(1.0, 10.0).reshape(3, 3)
    assert combined(Median(), rows).tolist() == combined(TrimmedMean(1), rows).tolist() == [4, 5, 6]


# -- plain loops ----------------------------------------------------------------------------------


def krum_scores(rows, f, others):
    scores = []
    for i in range(len(rows)):
        far = sorted(np.sum((rows[i] - rows[j]) ** 2) for j in range(len(rows)) if j != i)
        scores.append(sum(far[:others]))
    return np.array(scores)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("neighbours", "fewer"), [("paper", 2), ("byzfl", 1)])
def test_krum_and_multi_krum_are_the_plain_loop(seed, neighbours, fewer):
    draw = np.random.default_rng(seed)
    count, f = 7 + seed, 1 + seed // 4
    rows = draw.normal(size=(count, 6)) * draw.exponential(size=(count, 1))
    order = np.argsort(krum_scores(rows, f, count - f - fewer))
    np.testing.assert_array_equal(combined(Krum(f, neighbours), rows), rows[order[0]])
    for keep in (3, count - f):
        expected = rows[order[:keep]].mean(axis=0)
        given = Krum(f, neighbours, keep=keep)
        np.testing.assert_allclose(combined(given, rows), expected, rtol=1e-12)
    np.testing.assert_array_equal(combined(MultiKrum(f, neighbours), rows), combined(given, rows))


@pytest.mark.parametrize("seed", range(6))
def test_bulyan_is_the_plain_loop(seed):
    draw = np.random.default_rng(seed)
    f = 1 + seed % 2
    count = 4 * f + 3 + seed
    rows = draw.normal(size=(count, 5)) * draw.exponential(size=(count, 1))
    left, chosen = list(range(count)), []
    for _ in range(count - 2 * f):
        scores = krum_scores(rows[left], f, len(left) - f - 2)
        chosen.append(left.pop(int(np.argmin(scores))))
    expected = []
    for column in rows[chosen].T:
        far = np.abs(column - np.median(column))
        # Of an even count, the two in the middle are as near as each other: both are taken.
        near = column[far <= sorted(far)[count - 4 * f - 1]]
        assert len(near) - (count - 4 * f) in (0, 1)
        expected.append(near.mean())
    np.testing.assert_allclose(combined(Bulyan(f), rows), expected, rtol=1e-12)


def test_nearest_neighbour_mixing_is_the_plain_loop():
    rows = np.random.default_rng(3).normal(size=(9, 4))
    mixed = []
    for row in rows:
        near = sorted(range(9), key=lambda j, r=row: np.sum((rows[j] - r) ** 2))[:7]
        mixed.append(rows[near].mean(axis=0))
    for then in (Median(), Krum(2), TrimmedMean(0)):
        np.testing.assert_allclose(
            combined(NNM(2, then), rows), combined(then, np.array(mixed)), rtol=1e-12
        )


def test_at_the_geometric_median_unit_vectors_cancel_out():
    draw = np.random.default_rng(0)
    rows, weights = draw.normal(size=(12, 5)), draw.random(12)
    point = combined(GeometricMedian(), rows, weights)
    away = rows - point
    pull = weights @ (away / np.linalg.norm(away, axis=1)[:, None])
    assert np.abs(pull).max() < 1e-7
    # A weight of two is as good as two devices.
    twice = np.concatenate([rows, rows[:1]])
    alike = combined(GeometricMedian(), twice, np.ones(13))
    doubled = combined(GeometricMedian(), rows, [2.0] + [1.0] * 11)
    np.testing.assert_allclose(alike, doubled, atol=1e-8)


def test_fltrust_is_its_equation():
    own, rows = np.array([0.0, 2.0]), np.array([[3.0, 3.0], [0.0, -5.0], [0.0, 7.0], [0.0, 0.0]])
    trust = [np.sqrt(0.5), 0.0, 1.0, 0.0]
    expected = (trust[0] * 2 / np.sqrt(18) * rows[0] + 2 / 7 * rows[2]) / sum(trust)
    np.testing.assert_allclose(combined(FLTrust(root()), rows, own=own), expected, rtol=1e-12)
    assert combined(FLTrust(root()), -own[None], own=own).tolist() == [0, 0]
    assert combined(FLTrust(root()), rows, own=0 * own).tolist() == [0, 0]


# -- what holds of all ----------------------------------------------------------------------------


def honest_and_liars(scale: float, seed: int = 0) -> Any:
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(11, 40)) + 1
    rows[9:] = scale * draw.normal(size=(2, 40))
    return rows


@each
@pytest.mark.parametrize("scale", [1e6, 1e12])
def test_two_liars_of_eleven_move_it_no_further_than_its_proof_allows(name, scale):
    rows, aggregator = honest_and_liars(scale), ALL[name]
    own = np.ones(40)
    given, honest = combined(aggregator, rows, own=own), rows[:9]
    if name in ("median", "trimmed mean", "bulyan"):
        assert (given >= honest.min(axis=0)).all()
        assert (given <= honest.max(axis=0)).all()
    elif name == "krum":
        assert any(np.array_equal(given, row) for row in honest)
    elif name == "centred clipping":
        assert np.linalg.norm(given) <= 1 + 1e-12
    elif name == "fltrust":
        assert np.linalg.norm(given) <= np.linalg.norm(own) * (1 + 1e-12)
    elif name == "geometric median":
        centre = honest.mean(axis=0)
        widest = np.linalg.norm(honest - centre, axis=1).max()
        assert np.linalg.norm(given - centre) <= 2 * 9 / (11 - 2 * 2) * widest
    else:  # means of honest rows
        np.testing.assert_array_less(np.abs(given - honest.mean(axis=0)), np.ptp(honest))
    assert np.abs(rows.mean(axis=0)).max() > scale / 100  # the mean moves as far as they like


@pytest.mark.parametrize("name", ["median", "trimmed mean", "krum", "multi-krum", "bulyan"])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_not_even_infinity_gets_in(name):
    rows = honest_and_liars(1.0)
    rows[9], rows[10] = np.inf, -np.inf
    given, honest = combined(ALL[name], rows), rows[:9]
    assert (given >= honest.min(axis=0)).all()
    assert (given <= honest.max(axis=0)).all()


@each
def test_the_order_of_devices_changes_nothing(name):
    draw = np.random.default_rng(1)
    rows, own = honest_and_liars(1e3), draw.normal(size=40) + 1
    weights = draw.random(11) if ALL[name].weights is None else None
    given = combined(ALL[name], rows, weights, own)
    order = draw.permutation(11)
    again = combined(ALL[name], rows[order], None if weights is None else weights[order], own)
    np.testing.assert_allclose(again, given, rtol=1e-9, atol=1e-12)


@each
def test_a_device_is_judged_by_all_its_blocks_together(name):
    """Cut into three blocks, with the lie in one of them, the answer is that of one vector."""
    rows, own = np.ones((11, 40)) + honest_and_liars(1.0), np.ones(40)
    rows[9:, 30:] = 1e4  # liars that look honest in the first two blocks
    whole = combined(ALL[name], rows, own=own)
    cuts = {n: slice(a, b) for n, (a, b) in zip("abc", pairwise([0, 7, 30, 40]), strict=True)}
    blocks = {n: rows[:, cut] for n, cut in cuts.items()}
    means, _ = ALL[name].combine(
        ALL[name].init(40), sent(**blocks), {n: own[cut] for n, cut in cuts.items()}
    )
    np.testing.assert_allclose(np.concatenate([means[n] for n in "abc"]), whole, rtol=1e-9)


@each
def test_float32_blocks_give_float64_that_is_near(name):
    rows, own = honest_and_liars(1e3).astype(np.float32), np.ones(40)
    given = combined(ALL[name], rows, own=own)
    exact = combined(ALL[name], rows.astype(np.float64), own=own)
    assert given.dtype == exact.dtype == np.float64
    np.testing.assert_allclose(given, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "aggregator",
    [
        TrimmedMean(0),
        MultiKrum(0),
        Bulyan(0),
        CenteredClipping(1e9),
        NNM(0, Median()),
    ],
)
def test_without_liars_it_is_the_mean(aggregator):
    rows = np.random.default_rng(2).normal(size=(8, 30))
    np.testing.assert_allclose(combined(aggregator, rows), rows.mean(axis=0), rtol=1e-10)


@pytest.mark.parametrize("numbers", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 1023, 1024, 2500])
def test_distances_do_not_cancel_out(numbers, size):
    draw = np.random.default_rng(size)
    rows = (draw.normal(size=(6, size)) + 1e7).astype(numbers)
    exact = np.square(rows[:, None].astype(np.longdouble) - rows[None]).sum(axis=2)
    given = robust.apart([rows])
    np.testing.assert_allclose(given, exact.astype(float), rtol=1e-12)
    assert (given == given.T).all()


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Krum(-1), "f is -1; it must be a whole number of at least 0"),
        (lambda: Krum(1, "flower"), "no count of neighbours is called 'flower'"),
        (lambda: Krum(1, keep=0), "keep is 0"),
        (lambda: GeometricMedian(nu=0), "nu is 0; it must be a positive number"),
        (lambda: CenteredClipping(0.0), "radius is 0.0"),
        (lambda: FLTrust("hospital"), "root is 'hospital'"),
        (lambda: FLTrust(Device(0, VectorIndex(2))), "no rows to train on"),
        (lambda: NNM(1, "median"), "then .* has no init, combine"),
    ],
)
def test_settings_that_mean_nothing_are_refused(made, says):
    with pytest.raises((ValueError, TypeError), match=says):
        made()
