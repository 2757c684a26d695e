from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlab.index import planner
from fedlab.index.encoding import encode
from fedlab.index.engines import hnsw
from fedlab.index.engines.hnsw import HNSW, Graph, library_version
from fedlab.index.table import RowTable
from fedlab.index.vectorindex import VectorIndex
from tests.helpers import DTYPES, METRICS, clustered, distances, filled, normal, recall

SETTINGS = HNSW()


def table_of(rows: Any, dtype: str) -> RowTable:
    keys = np.arange(len(rows), dtype=np.uint64)
    squares = np.square(rows).sum(axis=1)
    columns = {**encode(rows, dtype), "keys": keys, "squares": squares}
    return RowTable(columns, dimensions=rows.shape[1])


def graph_of(rows: Any, metric: str = "cosine", dtype: str = "f32", threads: int = 1) -> Graph:
    graph = Graph(rows.shape[1], metric, dtype, SETTINGS)
    graph.extend(table_of(rows, dtype), threads)
    return graph


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_graph_proposes_the_nearest(metric: str, dtype: str) -> None:
    rows, queries = clustered(2000, 24), clustered(100, 24, seed=0)
    index = filled(rows, metric, dtype)
    assert recall(index, queries) > 0.98


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_rows_make_the_same_bytes_at_once_or_in_parts(metric: str, dtype: str) -> None:
    rows = clustered(700, 16)
    whole = graph_of(rows, metric, dtype)
    parts = Graph(16, metric, dtype, SETTINGS)
    for stop in (1, 2, 300, 700):
        parts.extend(table_of(rows[:stop], dtype), 1)
    assert whole.to_bytes() == graph_of(rows, metric, dtype).to_bytes() == parts.to_bytes()


@pytest.mark.parametrize("threads", [2, 64])
def test_threads_may_outnumber_rows_and_queries(threads: int) -> None:
    rows = normal(5, 3)
    graph = graph_of(rows, threads=threads)
    assert sorted(graph.candidates(rows[:1], 5, threads)[0].tolist()) == [0, 1, 2, 3, 4]
    assert graph.candidates(rows, 1, threads).tolist() == [[0], [1], [2], [3], [4]]


def test_candidates_do_not_depend_on_threads_or_batches() -> None:
    rows = clustered(2000, 16)
    graph = graph_of(rows)
    queries = normal(200, 16, seed=2)
    one = graph.candidates(queries, 20, 1)
    np.testing.assert_array_equal(one, graph.candidates(queries, 20, 2))
    alone = np.concatenate([graph.candidates(query[None], 20, 1) for query in queries[:20]])
    np.testing.assert_array_equal(one[:20], alone)


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tiny_graphs(rows: int, dimensions: int, metric: str, dtype: str) -> None:
    data = np.abs(normal(rows, dimensions)) + 1
    index = filled(data, metric, dtype)
    for k in (1, 3, 10):
        for queries in (data[:1], data):
            graph, scan = (index.search(queries, k, exact=exact) for exact in (False, True))
            np.testing.assert_array_equal(graph.counts, scan.counts)
            np.testing.assert_array_equal(graph.distances, scan.distances)


@pytest.mark.parametrize("metric", ["inner", "l2sq"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_length_zero_harm_nothing(metric: str, dtype: str) -> None:
    rows = clustered(1000, 12)
    rows[::100] = 0
    index = filled(rows, metric, dtype)
    assert recall(index, clustered(50, 12)) > 0.97
    hits = index.search(np.zeros((2, 12)), 5, exact=False)
    assert hits.counts.tolist() == [5, 5]
    assert np.isfinite(hits.distances).all()


@pytest.mark.parametrize(
    ("metric", "scale"),
    [("cosine", 1e-17), ("cosine", 1e16), ("l2sq", 1e-17), ("l2sq", 1e16), ("inner", 1e16)],
)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
def test_norms_near_the_limits_are_found(metric: str, scale: float, dtype: str) -> None:
    rows = clustered(800, 12) * np.float32(scale)
    assert recall(filled(rows, metric, dtype), rows[:40]) > 0.97


def test_queries_beyond_half_precision_are_answered() -> None:
    rows = clustered(800, 12)
    for metric in METRICS:
        index = filled(rows, metric, "f16")
        for scale in (1e-12, 1e9):
            hits = index.search(rows[:20] * np.float32(scale), 3, exact=False)
            assert (hits.counts == 3).all()
            assert np.isfinite(hits.distances).all()
            if metric != "l2sq":  # where scaling changes nothing
                assert recall(index, rows[:20] * np.float32(scale)) > 0.97


def test_i8_keeps_norms_and_the_scale_of_distances() -> None:
    rows = clustered(1000, 24) * np.random.default_rng(1).uniform(0.1, 10, (1000, 1))
    rows = rows.astype(np.float32)
    queries = clustered(30, 24)
    for metric in ("l2sq", "inner"):
        small, wide = filled(rows, metric, "i8"), filled(rows, metric, "f32")
        for exact in (True, False):
            a, b = (index.search(queries, 10, exact=exact) for index in (small, wide))
            shared = np.mean(
                [len(np.intersect1d(x, y)) / 10 for x, y in zip(a.keys, b.keys, strict=True)]
            )
            assert shared > 0.9
            scale = np.abs(distances(rows, queries, metric)).mean()
            assert np.abs(a.distances - b.distances).max() < 0.05 * scale


@pytest.mark.parametrize(
    ("graph", "metric", "least"),
    [
        ("f16", "l2sq", 0.99),
        ("bf16", "inner", 0.99),
        ("bf16", "cosine", 0.99),
        ("i8", "cosine", 0.99),
        ("b1", "cosine", 0.97),
    ],
)
@pytest.mark.parametrize("rows", ["f32", "i8", "b1"])
def test_a_graph_in_another_type_than_the_rows(
    rows: str, graph: str, metric: str, least: float
) -> None:
    data, queries = clustered(1500, 128), clustered(60, 128, seed=0)
    index = filled(data, metric, rows, engine=HNSW(dtype=graph))
    before = index.nbytes
    assert recall(index, queries) > least
    copied = 0 if rows == graph else 1500 * 128 * {"i8": 1, "b1": 1 / 8}.get(graph, 2)
    assert copied < index.nbytes - before < copied + 1500 * 250


def test_measuring_puts_right_the_order_that_bits_put_rows_in() -> None:
    rows, queries = clustered(3000, 128), clustered(100, 128, seed=0)
    found = [
        recall(filled(rows, engine=HNSW(dtype="b1", rescored=factor)), queries)
        for factor in (1, 2, 5, 10)
    ]
    assert found == sorted(found)
    assert found[0] + 0.2 < found[-1] > 0.85


def test_lengths_count_for_graphs_over_i8_and_b1_rows() -> None:
    data = clustered(1500, 64) * np.random.default_rng(1).lognormal(0, 1, (1500, 1))
    for metric in ("inner", "l2sq"):
        for dtype in ("i8", "b1"):
            index = filled(np.float32(data), metric, dtype)
            assert recall(index, clustered(60, 64, seed=0)) > 0.95


def test_bits_that_differ_are_counted_as_numpy_counts_them() -> None:
    rows, queries = normal(300, 37), normal(9, 37, seed=1)
    graph = graph_of(rows, dtype="b1")
    found = graph.candidates(queries, 300, 1)
    differ = (queries[:, None, :] >= 0) != (rows[None, :, :] >= 0)
    counts = np.take_along_axis(differ.sum(axis=2), found, axis=1)
    assert (np.diff(counts, axis=1) >= 0).all()
    assert (np.sort(found, axis=1) == np.arange(300)).all()


def test_a_graph_borrows_rows_and_keeps_them_alive() -> None:
    rows = clustered(500, 8)
    graph = graph_of(rows)
    before = graph.candidates(rows, 5, 1)
    for _ in range(20):  # rubs over memory that was given back
        normal(500, 8).sum()
    np.testing.assert_array_equal(graph.candidates(rows, 5, 1), before)
    table = table_of(rows, "f32")
    shared = Graph(8, "cosine", "f32", SETTINGS)
    shared.extend(table, 1)
    other = table_of(rows.copy(), "f32")
    assert shared.nbytes_beside(other) - shared.nbytes_beside(table) == rows.nbytes


def test_rows_that_are_gone_are_no_candidates() -> None:
    rows = clustered(500, 8)
    graph = graph_of(rows)
    kept = np.random.default_rng(0).random(500) > 0.1
    smaller = graph.without(kept)
    assert (smaller.entries, smaller.removed) == (500, int((~kept).sum()))
    assert (graph.whole, smaller.whole) == (True, False)
    found = smaller.candidates(rows, 10, 1)
    assert set(np.unique(found)) <= {-1, *range(int(kept.sum()))}
    where = np.flatnonzero(kept)
    old = graph.candidates(rows, found.shape[1], 1)
    np.testing.assert_array_equal(
        np.where(found >= 0, where[found], -1), np.where(kept[old], old, -1)
    )


def test_a_graph_wears_out() -> None:
    graph = graph_of(normal(100, 4))
    assert not graph.without(np.arange(100) >= 20).worn
    assert graph.without(np.arange(100) >= 21).worn


def test_bytes_of_another_kind_of_graph_are_refused() -> None:
    content = memoryview(graph_of(normal(50, 4)).to_bytes())
    with pytest.raises(ValueError, match="4 dimensions"):
        Graph(5, "cosine", "f32", SETTINGS).load(content)
    with pytest.raises(ValueError, match="F32"):
        Graph(4, "cosine", "bf16", SETTINGS).load(content)
    with pytest.raises(ValueError, match="connectivity 16"):
        Graph(4, "cosine", "f32", HNSW(connectivity=8)).load(content)
    with pytest.raises(RuntimeError):
        Graph(4, "cosine", "f32", SETTINGS).load(memoryview(b"nothing"))


def test_loading_restores_the_search_settings() -> None:
    given = HNSW(connectivity=7, expansion_add=33, expansion_search=55)
    rows = normal(200, 4)
    first, second = (Graph(4, "l2sq", "f16", given) for _ in range(2))
    first.extend(table_of(rows, "f16"), 1)
    second.load(memoryview(first.to_bytes()))
    found = second._index
    assert (found.connectivity, found.expansion_add, found.expansion_search) == (7, 33, 55)
    np.testing.assert_array_equal(second.candidates(rows, 5, 1), first.candidates(rows, 5, 1))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an interval timer")
def test_ctrl_c_while_building_is_ctrl_c_and_leaves_an_index_that_works() -> None:
    index = filled(clustered(20_000, 64))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            index.build_graph()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert not index.has_graph
    index.remove(index.keys[1000:])
    assert recall(index, index.vectors[:20]) > 0.97


def test_a_build_that_was_broken_off_is_never_used() -> None:
    rows = clustered(300, 8)
    index = filled(rows[:200])
    index.build_graph()
    index.add(rows[200:])
    assert index._graph is not None
    # As if USearch had been stopped amid the new rows.
    index._graph._index.add(np.arange(200, 230, dtype=np.uint64), rows[200:230], threads=1)
    assert index._graph.worn
    assert recall(index, rows[:50]) > 0.97
    assert index._graph.entries == 300


def test_the_library_says_its_version() -> None:
    import usearch

    assert library_version() == usearch.__version__


# -- equal rows ------------------------------------------------------------------------------------


def with_equal_rows(rows: int = 6_000, equal: int = 3_000, dtype: str = "f32") -> VectorIndex:
    """Half of the rows are one and the same, as empty texts are; keys in no order."""
    vectors = normal(rows, 24)
    vectors[np.random.default_rng(3).permutation(rows)[:equal]] = vectors[0]
    return filled(vectors, dtype=dtype, keys=np.random.default_rng(4).permutation(rows))


def found_themselves(index: VectorIndex) -> float:
    """The share of distinct rows that come first when they are asked for."""
    rows, keys = index.vectors, index.keys
    distinct = np.flatnonzero((rows != rows[0]).any(axis=1))
    hits = index.search(rows[distinct], 1, exact=False)
    return float(np.mean(hits.keys[:, 0] == keys[distinct]))


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_many_equal_rows_hide_no_others(dtype: str) -> None:
    index = with_equal_rows(dtype=dtype)
    assert found_themselves(index) > 0.98
    # Of equal ones the least keys are the answer, as a scan gives it.
    near = index.vectors[:1]
    walked, scanned = (index.search(near, 20, exact=exact) for exact in (False, True))
    assert walked.keys.tolist() == scanned.keys.tolist()
    assert walked.engine == "graph"
    assert not len(walked.rescued)


def test_equal_rows_come_and_go(tmp_path: Any) -> None:
    index = with_equal_rows()
    index.build_graph()
    entries = index._graph.entries  # type: ignore[union-attr]
    assert entries == 3_001
    index.save(tmp_path / "saved")
    index = VectorIndex.open(tmp_path / "saved")
    assert found_themselves(index) > 0.98
    assert index._graph.entries == entries  # type: ignore[union-attr]
    same = index.vectors[:1]
    index.add(np.repeat(same, 50, axis=0), keys=np.arange(10_000, 10_050))
    index.add(normal(10, 24, seed=9))
    assert recall(index, index.vectors[-200:]) > 0.98
    assert index._graph.entries == entries + 10  # type: ignore[union-attr]
    # The first of them goes, others stand for it.
    twins = index.keys[(index.vectors == same).all(axis=1)]
    index.remove(np.sort(twins)[:30])
    assert index.search(same, 5, exact=False).keys.tolist() == [np.sort(twins)[30:35].tolist()]
    assert index._graph.removed == 0  # type: ignore[union-attr]
    index.remove(np.sort(twins)[30:])
    assert index._graph.removed == 1  # type: ignore[union-attr]
    assert found_themselves(index) > 0.98
    # Entries are no longer numbered as their first rows come, so this one is built anew.
    index.save(tmp_path / "saved")
    assert not VectorIndex.open(tmp_path / "saved").has_graph


@pytest.mark.parametrize("seed", range(5))
def test_entries_of_equal_rows_agree_with_brute_force(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = normal(400, 6)[draw.integers(40, size=400)]
    index = VectorIndex(6)
    keys = draw.permutation(5_000)[:400]
    for part in np.array_split(np.arange(400), 7):
        index.add(rows[part], keys=keys[part])
        gone = draw.choice(index.keys, 5, replace=False)
        assert index.search(rows[:50], 12, exact=False).keys.shape == (50, 12)
        index.remove(gone)
        walked, scanned = (index.search(rows[:50], 12, exact=exact) for exact in (False, True))
        assert walked.keys.tolist() == scanned.keys.tolist()


# -- what a query costs, and what it doesn't wait for --------------------------------------------


def test_a_query_adds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After rows went, candidates cost what they cost before: nothing as long as the table."""
    index = filled(normal(2_000, 16))
    index.build_graph()
    index.remove(np.arange(100))
    index.search(normal(1, 16), 5, exact=False)
    graph = index._graph
    assert graph is not None
    assert graph.removed == 100
    monkeypatch.setattr(graph, "_settle", None)
    monkeypatch.setattr(hnsw, "_hashed", None)
    index.search(normal(1, 16), 5, exact=False)


def test_a_default_query_never_waits_for_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "SCAN_LIMIT", 10_000)
    monkeypatch.setattr(planner, "BUILD_PAYS_AFTER", 1_000)
    index = filled(normal(2_000, 10))

    def engine(queries: int = 1, exact: bool | None = None) -> str:
        return index.search(normal(queries, 10), 5, exact).engine

    assert engine(20) == "scan"
    assert not index.has_graph
    assert engine(1_000) == "graph"  # these pay for it
    assert engine() == "graph"
    index.add(normal(1, 10, seed=7))  # one row is taken in sooner than all are scanned
    assert engine() == "graph"
    index.add(normal(500, 10, seed=8))
    assert engine() == "scan"
    index.remove(np.arange(600))  # too many: it must be built anew
    assert [engine(), engine(exact=False), engine()] == ["scan", "graph", "graph"]


def test_building_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedlab.core import progress

    seen = []

    def draw(items: Any, total: int, label: str) -> Any:
        seen.append((total, label))
        yield from items

    monkeypatch.setattr(progress, "_current", draw)
    index = filled(normal(9_000, 4))
    index.build_graph(threads=2)
    assert seen == [(3, "building a graph of 9,000 rows")]
    index.add(normal(10, 4))
    index.build_graph()
    assert len(seen) == 1


@pytest.mark.parametrize("metric", ["cosine", "inner", "l2sq"])
def test_a_graph_of_no_rows_is_saved_opened_and_built(metric: Any, tmp_path: Path) -> None:
    index = VectorIndex(2, metric)
    for _ in range(2):
        index.build_graph()
        index.save(tmp_path / "empty")
        index = VectorIndex.open(tmp_path / "empty")
    index.build_graph()
    index.add(np.eye(2))
    assert index.search([1.0, 0.1], 1, exact=False).keys.tolist() == [[0]]
