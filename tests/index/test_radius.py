"""All rows within a radius: nothing less, nothing more, measured in float64."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import usearch.index
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from sklearn.neighbors import NearestNeighbors

from fedlab.index import radius, scan
from fedlab.index.answers import Neighbourhoods
from fedlab.index.encoding import SMALLEST
from fedlab.index.vectorindex import VectorIndex
from tests.helpers import DTYPES, METRICS, clustered, filled, normal


def measured(index: VectorIndex, queries: NDArray[np.float32]) -> NDArray[np.float64]:
    """(q, n) distances by the definition, each pair alone."""
    rows = index.vectors
    each = [
        scan.measure(rows, np.repeat(q[None], len(rows), axis=0), index.metric) for q in queries
    ]
    return np.array(each).reshape(len(queries), len(rows))


def check(
    index: VectorIndex,
    queries: NDArray[np.float32],
    radius: float,
    limit: int | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> Neighbourhoods:
    """Compare an answer with brute force: keys, distances, order, counts, what was cut."""
    near = index.within(queries, radius, limit=limit, where=mask)
    passing = np.ones(len(index), np.bool_) if mask is None else mask
    assert len(near) == len(queries)
    for q, distance in enumerate(measured(index, queries)):
        rows = np.flatnonzero((distance <= radius) & passing)
        beside = np.repeat(queries[q : q + 1], len(rows), axis=0)
        by = scan.ordering(index.vectors[rows], beside, index.metric)
        rows = rows[np.lexsort((index.keys[rows], by))]
        assert near.totals[q] == len(rows)
        kept = rows[:limit]
        keys, distances = near[q]
        assert keys.tolist() == index.keys[kept].tolist()
        assert distances.tolist() == distance[kept].tolist()
        assert near.counts[q] == len(kept)
        assert near.cut[q] == (len(kept) < len(rows))
    assert near.offsets.tolist() == [0, *np.cumsum(near.counts).tolist()]
    return near


@st.composite
def cases(
    draw: st.DrawFn,
) -> tuple[VectorIndex, NDArray[np.float32], float, int | None, NDArray[np.bool_] | None]:
    """Odd shapes, few distinct values, and radii that are a distance, or just not."""
    metric, dtype = draw(st.sampled_from(METRICS)), draw(st.sampled_from(DTYPES))
    dimensions, rows = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    values = draw(
        st.sampled_from(
            [
                st.integers(-2, 2).map(float),
                st.floats(-100, 100, width=32),
                st.sampled_from([0.0, 1.0, 1.0 + 2.0**-20, 1.0 - 2.0**-22]),
            ]
        )
    )
    matrix = arrays.arrays(np.float32, (rows, dimensions), elements=values)
    scale = 2.0 ** draw(st.integers(-14, 8) if dtype == "f16" else st.integers(-50, 50))
    base = draw(matrix) * np.float32(scale)
    queries = np.concatenate([base[:3], draw(matrix)[:2] * np.float32(scale)])
    if metric == "cosine":
        base[np.abs(base).max(axis=1) < 1e-6] += 1
        queries[np.abs(queries).max(axis=1) < 1e-6] += 1
    # Shorter rows are refused.
    base[np.abs(base).max(axis=1) < SMALLEST[dtype]] = metric == "cosine"
    index = VectorIndex(dimensions, metric, dtype)  # type: ignore[arg-type]
    index.add(base, draw(st.permutations(range(rows))))
    among = measured(index, queries).ravel()
    radius = float(among[draw(st.integers(0, len(among) - 1))])
    radius = float(draw(st.sampled_from([radius, np.nextafter(radius, -np.inf), 2 * radius])))
    radius = radius if metric == "inner" else max(radius, 0.0)
    limit = draw(st.none() | st.integers(1, rows + 1))
    mask = draw(st.none() | arrays.arrays(np.bool_, rows))
    return index, queries, radius, limit, mask


@settings(max_examples=120, deadline=None)
@given(cases())
def test_what_is_found_is_what_is_within(case: Any) -> None:
    check(*case)


@settings(max_examples=40, deadline=None)
@given(cases(), st.integers(1, 4), st.integers(1, 60))
def test_the_answer_does_not_depend_on_how_the_work_is_cut(
    case: Any, queries: int, numbers: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radius, "_QUERIES", queries)
        patch.setattr(scan, "_GATHERED", numbers)
        patch.setattr(radius, "_DECODED", numbers // 2 + 1)
        patch.setattr(radius, "_HELD", numbers // 3)
        check(*case)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_real_sizes(metric: str, dtype: str) -> None:
    index = filled(clustered(3000, 33), metric, dtype)
    queries = clustered(20, 33, seed=1)
    radius = float(np.quantile(measured(index, queries), 0.05))
    near = check(index, queries, radius)
    assert near.totals.sum() == pytest.approx(3000, rel=0.01)
    cut = check(index, queries, radius, limit=40, mask=np.arange(3000) % 3 > 0)
    assert 0 < cut.cut.sum() < 20 or metric == "inner"


def test_scipy_and_scikit_learn_find_the_same() -> None:
    rows, queries = clustered(2000, 8), normal(50, 8, seed=1)
    for metric, theirs in (("l2sq", "sqeuclidean"), ("cosine", "cosine")):
        radius = float(np.quantile(measured(filled(rows, metric), queries), 0.03))
        oracle = NearestNeighbors(metric=theirs, algorithm="brute").fit(rows.astype(np.float64))
        far, places = oracle.radius_neighbors(queries.astype(np.float64), radius)
        near = filled(rows, metric).within(queries, radius)
        for (keys, distances), d, found in zip(near, far, places, strict=True):
            assert sorted(keys.tolist()) == sorted(found.tolist())
            np.testing.assert_allclose(distances, np.sort(d), rtol=1e-9, atol=1e-12)
    balls = cKDTree(rows.astype(np.float64)).query_ball_point(queries.astype(np.float64), 5.0)
    near = filled(rows, "l2sq").within(queries, 25.0)
    assert [sorted(keys.tolist()) for keys, _ in near] == [sorted(ball) for ball in balls]
    assert near.totals.max() > 0


def test_usearch_itself_ignores_a_radius_and_ours_holds_to_it() -> None:
    rows = normal(500, 8)
    theirs = usearch.index.Index(ndim=8, metric="l2sq", dtype="f32")
    theirs.add(np.arange(500, dtype=np.uint64), rows)
    assert theirs.search(rows[:3], 10, radius=1.0).distances.max() > 1.0
    index = filled(rows, "l2sq")
    index.build_graph()
    near = check(index, rows[:3], 1.0)
    assert near.distances.max(initial=0) <= 1.0
    assert (near.totals >= 1).all()
    assert check(index, rows[:3], 1e6).counts.tolist() == [500] * 3


def test_the_edge_belongs_to_the_inside_where_float32_sees_no_difference() -> None:
    rows = np.float32([[1 + n * 2.0**-20, 1000.0] for n in range(64)])
    index = filled(rows, "l2sq")
    query = np.float32([[1.0, 1000.0]])
    edge = (40 * 2.0**-20) ** 2
    assert index.within(query, edge).totals.tolist() == [41]
    assert index.within(query, np.nextafter(edge, 0)).totals.tolist() == [40]


def test_equal_rows_are_all_within_distance_zero() -> None:
    rows = np.repeat(normal(5, 6), 20, axis=0)
    index = filled(rows, "l2sq", keys=np.random.default_rng(0).permutation(100))
    near = check(index, rows[::20], 0.0)
    assert near.totals.tolist() == [20] * 5
    assert (near.distances == 0).all()


def test_filters_hold() -> None:
    index = filled(normal(300, 4), labels=np.arange(300) % 3)
    near = index.within(normal(5, 4, seed=1), 0.4, where="label == 1")
    check(index, normal(5, 4, seed=1), 0.4, mask=np.arange(300) % 3 == 1)
    assert set(index.labels_of(near.keys)) == {1}


def test_an_answer_is_read_by_query_and_as_a_frame() -> None:
    index = filled(np.float32([[0], [1], [2], [5]]), "l2sq", keys=[40, 30, 20, 10])
    near = index.within([[1], [9], [4]], 1.0, limit=2)
    assert [(keys.tolist(), far.tolist()) for keys, far in near] == [
        ([30, 20], [0, 1]),
        ([], []),
        ([10], [1]),
    ]
    assert near[-1][0].tolist() == near[2][0].tolist() == [10]
    with pytest.raises(IndexError):
        near[3]
    assert near.cut.tolist() == [True, False, False]
    assert near.totals.tolist() == [3, 0, 1]
    assert near.to_frame().to_dict("list") == {
        "query": [0, 0, 2],
        "key": [30, 20, 10],
        "distance": [0.0, 1.0, 1.0],
    }
    assert near.keys.dtype == np.uint64


def test_no_rows_and_no_queries() -> None:
    assert VectorIndex(3).within(normal(2, 3), 1.0).counts.tolist() == [0, 0]
    assert len(filled(normal(4, 3)).within(np.empty((0, 3)), 1.0)) == 0
    nothing = filled(normal(4, 3)).within(normal(2, 3), 1.0, where=np.zeros(4, bool))
    assert nothing.totals.tolist() == [0, 0]
    assert nothing.to_frame().shape == (0, 3)


@pytest.mark.parametrize(
    ("metric", "arguments", "error", "message"),
    [
        ("cosine", {"radius": float("nan")}, ValueError, "radius is nan"),
        ("cosine", {"radius": -0.1}, ValueError, "under cosine no distance is below 0"),
        ("l2sq", {"radius": -1}, ValueError, "under l2sq no distance is below 0"),
        ("l2sq", {"radius": "1"}, TypeError, "radius is '1'"),
        ("l2sq", {"radius": True}, TypeError, "radius is True"),
        ("l2sq", {"radius": 1, "limit": 0}, ValueError, "limit is 0"),
        ("l2sq", {"radius": 1, "limit": 1.5}, TypeError, "limit is 1.5"),
        ("l2sq", {"radius": 1, "queries": [[np.nan, 1]]}, ValueError, "queries"),
        ("cosine", {"radius": 1, "queries": [[0, 0]]}, ValueError, "queries"),
    ],
)
def test_what_is_refused(
    metric: str, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        filled(normal(5, 2), metric).within(**{"queries": [[1, 2]], **arguments})


def test_an_inner_product_may_lie_beyond_one() -> None:
    index = filled(np.float32([[3, 4], [1, 0], [-1, 0]]), "inner")
    assert index.within([1, 0], -2.0).keys.tolist() == [0]
    assert index.within([1, 0], 0.0).keys.tolist() == [0, 1]
    assert index.within([1, 0], np.inf).keys.tolist() == [0, 1, 2]


def test_an_answer_too_large_is_refused_before_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled(normal(1000, 3), "l2sq")
    monkeypatch.setattr(radius, "ANSWER", 5000)
    monkeypatch.setattr(radius, "_QUERIES", 2)
    assert index.within(normal(5, 3), 1e6).totals.sum() == 5000
    with pytest.raises(radius.RadiusTooWide, match=r"than 5,000 neighbours .* with a limit"):
        index.within(normal(6, 3), 1e6)
    assert index.within(normal(100, 3), 1e6, limit=50).counts.tolist() == [50] * 100
    with pytest.raises(radius.RadiusTooWide):
        index.within(normal(101, 3), 1e6, limit=50)


def test_memory_follows_the_answer_and_not_what_lies_within(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(radius, "_HELD", 1 << 17)
    monkeypatch.setattr(radius, "_DECODED", 1 << 16)
    index = filled(normal(40_000, 4), "l2sq")
    tracemalloc.start()
    near = index.within(normal(32, 4), 1e6, limit=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert near.totals.sum() == 40_000 * 32
    assert near.cut.all()
    assert peak < 20e6 < 40_000 * 32 * 24, f"{peak / 1e6:.0f} MB"


@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_those_of_a_search(metric: str) -> None:
    index, queries = filled(clustered(500, 7), metric), normal(8, 7)
    hits = index.search(queries, 9, exact=True)
    for q in range(8):
        keys, distances = index.within(queries[q], hits.distances[q, -1])[0]
        assert keys.tolist() == hits.keys[q].tolist()
        assert distances.tolist() == hits.distances[q].tolist()
