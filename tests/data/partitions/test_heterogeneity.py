"""Measures of skew: closed forms, other libraries, and what chance alone makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from scipy import stats
from scipy.spatial.distance import jensenshannon
from scipy.special import erf
from sklearn.feature_selection import f_classif

from fedlab.data import (
    dirichlet,
    embedding_skew,
    iid,
    label_distance,
    label_divergence,
    label_table,
    quantity_gini,
)

tables = nps.arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 6)),
                    elements=st.integers(0, 50)).filter(lambda table: table.sum() > 0)  # fmt: skip


# -- labels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 16])
def test_disjoint_classes_have_the_closed_forms(n: int) -> None:
    table = np.eye(n, dtype=int) * 30
    assert label_divergence(table) == pytest.approx(np.log2(n))
    assert label_distance(table) == pytest.approx(1 - 1 / n)


def test_disjoint_classes_of_unlike_sizes_give_the_entropy_of_the_sizes() -> None:
    w = np.array([0.5, 0.25, 0.25])
    table = np.diag(w * 400)
    assert label_divergence(table) == pytest.approx(1.5)
    assert label_distance(table) == pytest.approx((w * (1 - w)).sum())


@settings(deadline=None, max_examples=50)
@given(tables, st.integers(1, 5))
def test_devices_alike_have_no_skew(table: np.ndarray, times: int) -> None:
    shares = np.outer(np.arange(1, times + 1), table.sum(axis=0))  # the same shares, unlike sizes
    assert label_divergence(shares) == pytest.approx(0, abs=1e-12)
    assert label_distance(shares) == pytest.approx(0, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(tables)
def test_divergence_is_entropy_lost_and_bounded(table: np.ndarray) -> None:
    """H(p) - sum w_k H(p_k), by SciPy's entropy; within 0 ... min(H(p), H(w)); and Pinsker's
    inequality, by which the squared mean total variation is at most JS ln 2 / 2."""
    held = table[table.sum(axis=1) > 0]
    w = held.sum(axis=1) / held.sum()
    pooled = stats.entropy(held.sum(axis=0), base=2)
    divergence = label_divergence(table)
    assert divergence == pytest.approx(pooled - w @ stats.entropy(held, axis=1, base=2), abs=1e-9)
    assert 0 <= divergence <= min(pooled, stats.entropy(w, base=2)) + 1e-9
    assert label_distance(table) ** 2 <= divergence * np.log(2) / 2 + 1e-9


def test_two_devices_of_equal_size_have_scipys_divergence() -> None:
    p, q = np.array([0.1, 0.6, 0.3]), np.array([0.5, 0.25, 0.25])
    assert label_divergence([p, q]) == pytest.approx(jensenshannon(p, q, base=2) ** 2)
    assert label_distance([p, q]) == pytest.approx(np.abs(p - q).sum() / 4)


def test_divergence_is_the_g_statistic() -> None:
    table = np.random.default_rng(0).integers(1, 40, size=(7, 5))
    g = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood").statistic
    assert label_divergence(table) == pytest.approx(g / (2 * table.sum() * np.log(2)))


def test_chance_alone_makes_the_stated_divergence() -> None:
    n, classes, rows = 8, 5, 4000
    y = np.arange(rows) % classes
    drawn = [label_divergence(label_table(iid(rows, n, seed), y)) for seed in range(150)]
    expected = (n - 1) * (classes - 1) / (2 * rows * np.log(2))
    assert abs(np.mean(drawn) - expected) < 5 * np.std(drawn) / np.sqrt(150) + 0.02 * expected


def test_a_smaller_alpha_is_more_skewed() -> None:
    y = np.arange(5000) % 10
    splits = [dirichlet(y, 10, alpha, 0) for alpha in (0.1, 0.5, 5.0, 500.0)]
    for measure in (label_divergence, label_distance):
        skews = [measure(label_table(split, y)) for split in splits]
        assert skews == sorted(skews, reverse=True)


@settings(deadline=None, max_examples=50)
@given(tables)
def test_devices_without_rows_and_scale_change_nothing(table: np.ndarray) -> None:
    padded = np.vstack([table, np.zeros_like(table[:1])]) * 3
    assert label_divergence(padded) == pytest.approx(label_divergence(table), abs=1e-12)
    assert label_distance(padded) == pytest.approx(label_distance(table), abs=1e-12)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1, 2], r"counts has shape \(2,\); it takes \(devices, labels\)"),
        ([[1, -1]], "none negative"),
        ([[0, 0]], "not all 0"),
        ([[np.nan, 1]], "finite"),
        ([[np.inf, 1]], "finite"),
    ],
)
def test_counts_that_are_none_are_refused(counts: list[object], message: str) -> None:
    for measure in (label_divergence, label_distance):
        with pytest.raises(ValueError, match=message):
            measure(counts)


# -- quantities ------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 10, 101])
def test_gini_has_its_closed_forms(n: int) -> None:
    assert quantity_gini(np.full(n, 13)) == pytest.approx(0, abs=1e-12)
    assert quantity_gini([5, *[0] * (n - 1)]) == pytest.approx(1 - 1 / n)
    assert quantity_gini(np.arange(1, n + 1)) == pytest.approx((n - 1) / (3 * n))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40).filter(any))
def test_gini_is_the_mean_difference(sizes: list[int]) -> None:
    x = np.array(sizes)
    expected = np.abs(x[:, None] - x).sum() / (2 * len(x) ** 2 * x.mean())
    assert quantity_gini(sizes) == pytest.approx(expected, abs=1e-12)


def test_gini_of_a_lognormal_is_erf_of_half_its_sigma() -> None:
    sizes = np.random.default_rng(0).lognormal(4, 1, 200_000)
    assert quantity_gini(sizes) == pytest.approx(erf(0.5), abs=0.01)


@pytest.mark.parametrize("sizes", [[], [0, 0], [-1, 2], [[1, 2]], [np.nan]])
def test_sizes_that_are_none_are_refused(sizes: list[object]) -> None:
    with pytest.raises(ValueError, match="sizes"):
        quantity_gini(sizes)


# -- vectors ---------------------------------------------------------------------------------


def test_skew_of_one_dimension_follows_from_sklearns_f() -> None:
    """eps² = (n - 1)(F - 1) / ((n - 1) F + N - n), with F of the one-way analysis of variance."""
    random = np.random.default_rng(0)
    device = random.integers(4, size=90)
    x = random.normal(size=90) + 0.7 * device
    f = f_classif(x[:, None], device)[0][0]
    expected = 3 * (f - 1) / (3 * f + 90 - 4)
    assert embedding_skew(x[device == k, None] for k in range(4)) == pytest.approx(expected)


def test_random_splits_have_no_skew_on_average_and_the_plain_share_would() -> None:
    """Of 60 rows on 20 devices chance alone holds (n - 1)/(N - 1) = 32% of the variance."""
    x = np.random.default_rng(1).exponential(size=(60, 3))
    drawn = [embedding_skew(x[rows] for rows in iid(60, 20, seed).rows) for seed in range(400)]
    assert abs(np.mean(drawn)) < 5 * np.std(drawn) / np.sqrt(400)


def test_known_variances_are_estimated() -> None:
    """Means N(0, 3²) in each dimension, rows N(mean, 1): 9 / (9 + 1) of the variance."""
    random = np.random.default_rng(2)
    means = random.normal(0, 3, size=(800, 4))
    skew = embedding_skew(mean + random.normal(size=(12, 4)) for mean in means)
    assert skew == pytest.approx(0.9, abs=0.01)


def test_the_ends_are_reached() -> None:
    apart = [np.full((3, 2), 1.0), np.full((4, 2), -5.0)]
    assert embedding_skew(apart) == 1.0
    same = np.random.default_rng(0).normal(size=(50, 4))
    n, rows = 6, 300
    assert embedding_skew([same] * n) == pytest.approx(-(n - 1) / (rows - n))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 999), st.floats(0.1, 10), st.floats(-1e3, 1e3))
def test_shifts_scales_and_turns_change_nothing(seed: int, scale: float, shift: float) -> None:
    random = np.random.default_rng(seed)
    parts = [random.normal(k, 1, size=(5 + k, 3)) for k in range(4)]
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    moved = [part @ turn * scale + shift for part in parts]
    assert embedding_skew(moved) == pytest.approx(embedding_skew(parts), abs=1e-8)
    assert embedding_skew([*parts, np.empty((0, 3))]) == embedding_skew(parts)


def test_float32_far_from_zero_loses_nothing() -> None:
    random = np.random.default_rng(0)
    parts = [(1e4 + random.normal(k, 1, size=(40, 3))).astype(np.float32) for k in range(3)]
    centred = [part.astype(float) - 1e4 for part in parts]
    assert embedding_skew(parts) == pytest.approx(embedding_skew(centred), rel=1e-9)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([], "0 vectors on 0 devices"),
        ([np.ones((4, 2))], "4 vectors on 1 devices"),
        ([np.ones((1, 2)), np.zeros((1, 2))], "one of them with at least two"),
        ([np.ones((3, 2)), np.ones((3, 2))], "all vectors are alike"),
        ([np.ones((3, 2)), np.ones((3, 1))], r"device 1: \(3, 1\) given; takes \(rows, 2\)"),
        ([np.ones(3)], r"device 0: \(3,\) given; takes \(rows, d\)"),
        ([np.ones((3, 2)), np.full((3, 2), np.nan)], "device 1 hold NaN"),
    ],
)
def test_vectors_without_a_skew_are_refused(vectors: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        embedding_skew(vectors)
