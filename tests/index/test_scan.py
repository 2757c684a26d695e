from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from fedlab.index import scan
from fedlab.index.encoding import SMALLEST
from fedlab.index.vectorindex import VectorIndex
from tests.helpers import DTYPES, METRICS, clustered, distances, filled, normal


def check(index: VectorIndex, queries: NDArray[np.float32], k: int) -> None:
    """Compare a scan with brute force: distances, places, ties, nothing left out."""
    rows, keys = index.vectors, index.keys
    hits = index.search(queries, k, exact=True)
    held = min(k, len(rows))
    assert hits.counts.tolist() == [held] * len(queries)
    assert (hits.keys[:, held:] == 2**64 - 1).all()
    assert np.isposinf(hits.distances[:, held:]).all()
    exact = distances(rows, queries, index.metric)
    lengths = np.sqrt(np.square(rows.astype(np.longdouble)).sum(axis=1))
    for q, query in enumerate(queries):
        measured = scan.measure(rows, np.repeat(query[None], len(rows), axis=0), index.metric)
        size = lengths * np.sqrt(np.square(query.astype(np.longdouble)).sum())
        scale = {"cosine": 1, "inner": 1 + size, "l2sq": exact[q]}[index.metric]
        assert (np.abs(measured - exact[q]) <= 1e-13 * scale).all()
        beside = np.repeat(query[None], len(rows), axis=0)
        order = np.lexsort((keys, scan.ordering(rows, beside, index.metric)))[:held]
        assert hits.keys[q, :held].tolist() == keys[order].tolist()
        assert hits.distances[q, :held].tolist() == measured[order].tolist()


@st.composite
def cases(draw: st.DrawFn) -> tuple[VectorIndex, NDArray[np.float32], int]:
    """Odd shapes, few distinct values and rows (so: ties), norms up to the limits."""
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
    exponents = st.integers(-14, 8) if dtype == "f16" else st.integers(-50, 50)
    scales = draw(st.sampled_from(["one", "each"]))
    base = draw(matrix)
    if scales == "one":
        base = base * np.float32(2.0 ** draw(exponents))
    else:
        drawn = draw(arrays.arrays(np.int64, (rows, 1), elements=exponents))
        base = base * np.exp2(drawn).astype(np.float32)
    repeated = draw(arrays.arrays(np.int64, rows, elements=st.integers(0, rows - 1)))
    base = base[repeated] if draw(st.booleans()) else base
    queries = np.concatenate([base[:3], draw(matrix)[:3]])
    index = VectorIndex(dimensions, metric, dtype)  # type: ignore[arg-type]
    if metric == "cosine":
        base[np.abs(base).max(axis=1) < 1e-6] += 1
        queries[np.abs(queries).max(axis=1) < 1e-6] += 1
    # Shorter rows are refused.
    base[np.abs(base).max(axis=1) < SMALLEST[dtype]] = metric == "cosine"
    keys = draw(st.lists(st.integers(0, 2**64 - 2), min_size=rows, max_size=rows, unique=True))
    index.add(base, keys)
    return index, queries, draw(st.integers(1, rows + 3))


@settings(max_examples=250, deadline=None)
@given(cases())
def test_the_scan_is_brute_force(case: tuple[VectorIndex, NDArray[np.float32], int]) -> None:
    check(*case)


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 7), st.integers(1, 200))
def test_the_answer_does_not_depend_on_how_the_work_is_cut(
    case: tuple[VectorIndex, NDArray[np.float32], int], queries: int, products: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_QUERIES", queries)
        patch.setattr(scan, "_PRODUCTS", products)
        patch.setattr(scan, "_DECODED", products)
        patch.setattr(scan, "_CANDIDATES", products // 2)
        check(*case)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_real_sizes_are_brute_force_too(metric: str, dtype: str) -> None:
    check(filled(clustered(3000, 33), metric, dtype), normal(20, 33, seed=1), 15)


@pytest.mark.parametrize("metric", METRICS)
def test_bits_do_not_depend_on_batches_or_blas_threads(metric: str) -> None:
    index, queries = filled(clustered(6000, 48), metric), normal(300, 48, seed=1)
    with threadpool_limits(1):
        together = index.search(queries, 7, exact=True)
        alone = [index.search(query, 7, exact=True) for query in queries[::30]]
    with threadpool_limits(2):
        threaded = index.search(queries, 7, exact=True)
    np.testing.assert_array_equal(threaded.keys, together.keys)
    np.testing.assert_array_equal(threaded.distances, together.distances)
    np.testing.assert_array_equal(
        np.concatenate([hits.distances for hits in alone]), together.distances[::30]
    )
    np.testing.assert_array_equal(np.concatenate([h.keys for h in alone]), together.keys[::30])


@pytest.mark.parametrize(("metric", "theirs"), [("cosine", "cosine"), ("l2sq", "sqeuclidean")])
def test_scikit_learn_finds_the_same(metric: str, theirs: str) -> None:
    rows, queries = clustered(2000, 24), normal(50, 24, seed=1)
    oracle = NearestNeighbors(n_neighbors=10, metric=theirs, algorithm="brute")
    far, near = oracle.fit(rows.astype(np.float64)).kneighbors(queries.astype(np.float64))
    hits = filled(rows, metric).search(queries, 10, exact=True)
    np.testing.assert_array_equal(hits.keys, near.astype(np.uint64))
    np.testing.assert_allclose(hits.distances, far, rtol=1e-9, atol=1e-12)


def test_many_equal_rows_stand_in_the_order_of_their_keys_across_blocks() -> None:
    draw = np.random.default_rng(0)
    rows = np.repeat(normal(3, 5), 10_000, axis=0)[draw.permutation(30_000)]
    keys = draw.permutation(30_000).astype(np.uint64)
    index = filled(rows, "l2sq", keys=keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_DECODED", 5_000)  # 1,000 rows a block
        hits = index.search(rows[:2], 50, exact=True)
    for q in range(2):
        same = np.sort(keys[(rows == rows[q]).all(axis=1)])[:50]
        assert hits.keys[q].tolist() == same.tolist()
        assert (hits.distances[q] == 0).all()


@pytest.mark.parametrize("metric", ["inner", "l2sq"])
def test_one_enormous_row_makes_candidates_of_its_own_block_only(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = normal(60_000, 20)
    rows[45_000] *= 1e15
    seen = []
    few = scan._scan_few

    def counted(*given: Any) -> int:
        seen.append(few(*given))
        return seen[-1]

    monkeypatch.setattr(scan, "_scan_few", counted)
    monkeypatch.setattr(scan, "_DECODED", 20 * 5_000)
    index = filled(rows, metric)
    index.search(rows[:8], 10, exact=True)
    assert 0 < sum(seen) < 8 * 6_000
    monkeypatch.undo()
    check(index, rows[:1], 10)


def test_memory_stays_bounded_where_every_row_is_a_candidate() -> None:
    # Far from the origin float32 sees no difference between rows at all.
    rows = normal(12_000, 4) + np.float32(1e6)
    index = filled(rows, "l2sq")
    tracemalloc.start()
    index.search(rows[:256], 5, exact=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 350e6, f"{peak / 1e6:.0f} MB"
    check(index, rows[:2], 5)


def test_all_neighbours_of_many_queries_take_memory_for_the_answer_only() -> None:
    rows = normal(20_000, 4)
    index = filled(rows)
    tracemalloc.start()
    hits = index.search(rows[:64], 20_000, exact=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    answer = hits.keys.nbytes + hits.distances.nbytes
    assert peak < 4 * answer + 150e6, f"{peak / 1e6:.0f} MB for {answer / 1e6:.0f} MB"


def test_measure_is_the_definition() -> None:
    rows, queries = normal(30, 6), normal(30, 6, seed=1)
    for metric in METRICS:
        exact = np.diagonal(distances(rows, queries, metric))
        np.testing.assert_allclose(scan.measure(rows, queries, metric), exact, rtol=1e-12)
    assert (scan.measure(rows, rows, "cosine") >= 0).all()
