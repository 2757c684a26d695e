"""The index as its user meets it; each trap of a bare vector library has its test here."""

from __future__ import annotations

import copy
import gc
import linecache
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from fedlab.index import vectorindex as index_module
from fedlab.index.encoding import decode, encode
from fedlab.index.engines import HNSW
from fedlab.index.planner import BUILD_PAYS_AFTER, SCAN_LIMIT, graph_pays
from fedlab.index.scan import measure
from fedlab.index.vectorindex import VectorIndex
from tests.helpers import DTYPES, METRICS, clustered, content, filled, normal, recall


def same_hits(a: VectorIndex, b: VectorIndex, queries: Any, k: int = 7) -> None:
    for exact in (True, False):
        one, other = (index.search(queries, k, exact=exact) for index in (a, b))
        np.testing.assert_array_equal(one.keys, other.keys)
        np.testing.assert_array_equal(one.distances, other.distances)
        np.testing.assert_array_equal(one.counts, other.counts)
        assert one.engine == other.engine == ("scan" if exact else "graph")


# -- parameters -------------------------------------------------------------------------------


def test_the_storage_type_is_ours_and_not_the_machines() -> None:
    index = VectorIndex(3)
    assert (index.metric, index.dtype) == ("cosine", "f32")
    index.add([[1, 2, 3]])
    index.build_graph()
    assert index._graph is not None
    assert "F32" in str(index._graph._index.dtype)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dimensions": 0}, ValueError, "dimensions is 0"),
        ({"dimensions": 2.0}, TypeError, "dimensions is 2.0"),
        ({"dimensions": 2**20}, ValueError, "at most 65536"),
        ({"metric": "euclid"}, ValueError, "'euclid'; choose one of cosine, inner, l2sq"),
        ({"dtype": "f64"}, ValueError, "'f64'; choose one of f32, f16, bf16, i8, b1"),
        ({"engine": "graph"}, TypeError, "engine of type str was given"),
        ({"engine": HNSW}, TypeError, r"engine is the class HNSW; give an object: HNSW\(...\)"),
    ],
)
def test_parameters_are_checked(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        VectorIndex(**{"dimensions": 3, **arguments})


# -- what is refused leaves the index as it was -----------------------------------------------

ROWS = clustered(40, 4)
REFUSED: dict[str, Callable[[VectorIndex], Any]] = {
    "NaN": lambda index: index.add([[1, 2, np.nan, 3]], labels=["a"]),
    "inf among good rows": lambda index: index.add(
        [*ROWS[:3].tolist(), [1, 2, np.inf, 3]], labels=list("abcd")
    ),
    "zero": lambda index: index.add([[1, 1, 1, 1], [0, 0, 0, 0]], labels=["a", "b"]),
    "vanishes": lambda index: index.add([[1e-30, 0, 0, 0]], labels=["a"]),
    "too long": lambda index: index.add([[1e30, 0, 0, 0]], labels=["a"]),
    "dimensions": lambda index: index.add(np.ones((2, 5)), labels=["a", "b"]),
    "sparse": lambda index: index.add(scipy.sparse.eye(4).tocsr(), labels=list("abcd")),
    "key -1": lambda index: index.add(ROWS[:1], [-1], ["a"]),
    "key 1.5": lambda index: index.add(ROWS[:1], [1.5], ["a"]),
    "key 2**64 - 1": lambda index: index.add(ROWS[:1], [2**64 - 1], ["a"]),
    "key true": lambda index: index.add(ROWS[:1], [True], ["a"]),
    "key text": lambda index: index.add(ROWS[:1], ["7"], ["a"]),
    "too few keys": lambda index: index.add(ROWS[:2], [100], ["a", "b"]),
    "key twice": lambda index: index.add(ROWS[:3], [100, 101, 100], ["a", "b", "c"]),
    "key taken": lambda index: index.add(ROWS[:3], [100, 101, 3], ["a", "b", "c"]),
    "no labels": lambda index: index.add(ROWS[:1]),
    "labels of another kind": lambda index: index.add(ROWS[:1], labels=[1]),
    "too few labels": lambda index: index.add(ROWS[:2], labels=["a"]),
    "remove unknown": lambda index: index.remove([1, 2, 99]),
    "remove -1": lambda index: index.remove([-1]),
    "get unknown": lambda index: index.get([99]),
    "get text": lambda index: index.get(["a"]),
    "labels of unknown": lambda index: index.labels_of([99]),
    "k 0": lambda index: index.search(ROWS[:1], 0),
    "k 1.5": lambda index: index.search(ROWS[:1], 1.5),  # type: ignore[arg-type]
    "k enormous": lambda index: index.search(ROWS[:1], 10**12),
    "threads 0": lambda index: index.search(ROWS[:1], 1, threads=0),
    "threads enormous": lambda index: index.search(ROWS[:1], 1, threads=10**9),
    "query NaN": lambda index: index.search([[np.nan] * 4], 1),
    "query zero": lambda index: index.search([[0] * 4], 1),
    "query dimensions": lambda index: index.search([[1, 2]], 1),
    "build with no thread": lambda index: index.build_graph(0),
    "view beyond": lambda index: index.view(0, 41),
    "view backwards": lambda index: index.view(5, 4),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("graph", [False, True])
def test_what_is_refused_changes_nothing(
    call: Callable[[VectorIndex], Any], graph: bool, tmp_path: Path
) -> None:
    index = filled(ROWS, "cosine", "f16", labels=[str(number) for number in range(40)])
    if graph:
        index.build_graph()
    before = content(index, tmp_path)
    with pytest.raises((KeyError, TypeError, ValueError)) as caught:
        call(index)
    assert len(str(caught.value)) > 20
    assert content(index, tmp_path) == before
    assert index.add(ROWS[:1], labels=["next"]).tolist() == [40]


@pytest.mark.parametrize("metric", ["inner", "l2sq"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_length_zero_are_rows_unless_direction_counts(metric: str, dtype: str) -> None:
    index = filled(np.zeros((3, 2), np.float32), metric, dtype)
    assert index.search([0, 0], 2).counts.tolist() == [2]


def test_rows_that_vanish_when_stored_are_refused_under_cosine() -> None:
    with pytest.raises(ValueError, match="1e-09; f16 keeps rows whose largest"):
        filled(np.float32([[1e-9, 0]]), "cosine", "f16")


# -- keys -------------------------------------------------------------------------------------


def test_keys_are_given_in_order_and_never_twice() -> None:
    index = VectorIndex(2)
    assert index.add([[1, 2], [3, 4]]).tolist() == [0, 1]
    assert index.add([5, 6]).tolist() == [2]
    index.remove([2])
    assert index.add([[7, 8]]).tolist() == [3]
    assert index.add([[1, 1]], [10]).tolist() == [10]
    assert index.add([[2, 1]]).tolist() == [11]
    assert index.add(np.empty((0, 2))).tolist() == []
    assert list(index) == index.keys.tolist() == [0, 1, 3, 10, 11]


def test_the_largest_key_is_found_again_and_no_key_is_free_above_it() -> None:
    index = filled(np.float32([[1, 2]]), keys=[2**64 - 2])
    assert index.search([1, 2], 1).keys.tolist() == [[2**64 - 2]]
    assert index.search([1, 2], 1, exact=False).keys.tolist() == [[2**64 - 2]]
    with pytest.raises(ValueError, match="no keys are free"):
        index.add([[3, 4]])
    assert index.add([[3, 4]], [0]).tolist() == [0]


def test_in_asks_for_whole_keys() -> None:
    index = filled(normal(3, 2), keys=[5, 7, 2**63])
    assert 5 in index
    assert np.uint64(2**63) in index
    for other in (4, -1, 2**64 - 1, 2**64, 10**30, 5.0, "5", None, True):
        assert other not in index
    assert 5 not in VectorIndex(2)


def test_the_callers_arrays_stay_the_callers() -> None:
    rows, keys, labels = normal(5, 3), np.arange(5, dtype=np.uint64), np.array(list("abcde"))
    index = filled(rows, keys=keys, labels=labels)
    given = index.add(rows, keys + 5, labels)
    stored = index.vectors.copy()
    rows[:], keys[:], labels[:], given[:] = 9, 9, "z", 9
    np.testing.assert_array_equal(index.vectors, stored)
    assert index.keys.tolist() == list(range(10))
    assert index.labels is not None
    assert index.labels.tolist() == list("abcdeabcde")
    for array in (index.vectors, index.keys, index.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    got = index.get([0])
    got[:] = 7
    np.testing.assert_array_equal(index.vectors, stored)


# -- rows in, rows out ------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_get_returns_what_was_stored_with_its_length(metric: str, dtype: str) -> None:
    rows = normal(50, 8) * np.geomspace(0.01, 100, 50, dtype=np.float32)[:, None]
    index = filled(rows, metric, dtype)
    expected = decode(**encode(rows, dtype), dimensions=8)  # type: ignore[arg-type]
    np.testing.assert_array_equal(index.vectors, expected)
    np.testing.assert_array_equal(index.get([49, 0, 3, 3]), expected[[49, 0, 3, 3]])
    norms = np.linalg.norm(index.get(index.keys), axis=1) / np.linalg.norm(rows, axis=1)
    if dtype == "b1":  # mean|x| in each place: a length that is less, unless all are equal
        norms = norms * np.linalg.norm(rows, axis=1) * np.sqrt(8) / np.abs(rows).sum(axis=1)
    np.testing.assert_allclose(norms, 1, rtol={"f32": 1e-6, "f16": 1e-3}.get(dtype, 0.02))


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_small_integers_are_numbers(kind: Any) -> None:
    rows = np.random.default_rng(0).integers(0, 100, (60, 8)).astype(kind)
    index = VectorIndex(8, "l2sq")
    index.add(rows)
    np.testing.assert_array_equal(index.vectors, rows.astype(np.float32))
    for exact in (True, False):
        hits = index.search(rows, 1, exact=exact)
        assert (hits.distances == 0).all()


def test_nbytes_counts_what_is_held() -> None:
    rows = normal(100, 8)
    index = filled(rows, "l2sq", "i8", labels=np.arange(100))
    assert index.nbytes == 100 * (8 + 4 + 4 + 8 + 8)
    assert filled(rows, "l2sq", "b1").nbytes == 100 * (1 + 4 + 4 + 8)
    wide = filled(rows)
    before = wide.nbytes
    assert before == 100 * (8 * 4 + 4 + 8)
    wide.build_graph()
    links = wide.nbytes - before
    assert 0 < links < 100 * 1000
    wide.remove([0])  # the graph still holds all rows
    assert wide.nbytes == before + links + rows.nbytes - 44
    assert "99 rows of 8 in f32, cosine, with graph" in repr(wide)


# -- search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("queries", [1, 2])
def test_fewer_rows_than_asked_for(exact: bool, queries: int) -> None:
    index = filled(normal(3, 4))
    hits = index.search(normal(queries, 4, seed=1), 5, exact=exact)
    assert hits.counts.tolist() == [3] * queries
    assert hits.keys.shape == hits.distances.shape == hits.found.shape == (queries, 5)
    assert hits.found.tolist() == [[True] * 3 + [False] * 2] * queries
    assert (hits.keys[:, 3:] == 2**64 - 1).all()
    assert np.isposinf(hits.distances[:, 3:]).all()
    assert len(hits) == queries


@pytest.mark.parametrize("exact", [True, False, None])
def test_an_empty_index_and_no_queries(exact: bool | None) -> None:
    index = VectorIndex(3)
    hits = index.search([[1, 2, 3]], 4, exact=exact)
    assert hits.counts.tolist() == [0]
    assert hits.keys.shape == (1, 4)
    assert filled(normal(2, 3)).search(np.empty((0, 3)), 4, exact=exact).keys.shape == (0, 4)


def test_one_query_is_a_batch_of_one() -> None:
    index = filled(normal(20, 3))
    for exact in (True, False):
        flat, batch = (index.search(q, 4, exact=exact) for q in ([1, 2, 3], [[1, 2, 3]]))
        assert flat.keys.shape == (1, 4)
        np.testing.assert_array_equal(flat.keys, batch.keys)


def test_ties_stand_in_the_order_of_their_keys() -> None:
    keys = np.random.default_rng(0).permutation(30)
    index = filled(np.ones((30, 2), np.float32), "l2sq", keys=keys)
    assert index.search([1, 1], 10, exact=True).keys.tolist() == [list(range(10))]
    found = index.search([1, 1], 10, exact=False).keys[0]
    assert found.tolist() == sorted(found.tolist())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_engines_measure_alike(metric: str, dtype: str) -> None:
    rows, queries = clustered(800, 16), normal(40, 16, seed=3)
    index = filled(rows, metric, dtype)
    for exact in (True, False):
        hits = index.search(queries, 5, exact=exact)
        for q in range(40):
            stored = index.get(hits.keys[q])
            expected = measure(stored, np.repeat(queries[q][None], 5, axis=0), metric)
            np.testing.assert_array_equal(hits.distances[q], expected)


def test_a_walk_in_parts_is_a_walk_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    index, queries = filled(clustered(1000, 8)), normal(50, 8)
    index.build_graph()
    index.remove(range(150))
    whole = index.search(queries, 10, exact=False)
    monkeypatch.setattr(index_module, "_MANY", 100)
    parts = index.search(queries, 10, exact=False)
    np.testing.assert_array_equal(whole.keys, parts.keys)
    np.testing.assert_array_equal(whole.distances, parts.distances)


def test_the_answer_does_not_depend_on_threads() -> None:
    index, queries = filled(clustered(3000, 16)), normal(100, 16)
    one, two = (index.search(queries, 10, exact=False, threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.keys, two.keys)
    np.testing.assert_array_equal(one.distances, two.distances)


def test_sizes_decide_who_answers_and_the_answer_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not graph_pays(SCAN_LIMIT // 10, 10, 10**9, 0)
    assert graph_pays(SCAN_LIMIT // 10 + 1, 10, 1, 0)
    assert not graph_pays(10**6, 384, BUILD_PAYS_AFTER - 1, 10**6)
    assert graph_pays(10**6, 384, BUILD_PAYS_AFTER, 10**6)
    # A few new rows are taken in by a query that a scan would keep longer.
    assert graph_pays(10**6, 384, 1, 10**6 // BUILD_PAYS_AFTER)
    assert not graph_pays(10**6, 384, 1, 10**6 // BUILD_PAYS_AFTER + 1)
    index = filled(normal(50, 4))
    assert index.search([1, 1, 1, 1], 1).engine == "scan"
    monkeypatch.setattr("fedlab.index.planner.SCAN_LIMIT", 100)
    assert index.search([1, 1, 1, 1], 1).engine == "scan"
    assert not index.has_graph
    monkeypatch.setattr("fedlab.index.planner.BUILD_PAYS_AFTER", 20)
    assert index.search(normal(20, 4), 1).engine == "graph"
    assert index.search([1, 1, 1, 1], 1).engine == "graph"
    assert index.search([1, 1, 1, 1], 1, exact=True).engine == "scan"


def test_many_threads_may_search_while_the_graph_is_still_to_be_built() -> None:
    index, queries = filled(clustered(3000, 16)), normal(20, 16)
    index.search(queries, 5, exact=False)
    index.add(clustered(500, 16, seed=1))
    barrier, answers = threading.Barrier(8), []

    def ask() -> None:
        barrier.wait()
        answers.append(index.search(queries, 5, exact=False))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    for hits in answers:
        np.testing.assert_array_equal(hits.keys, answers[0].keys)
    assert index._graph is not None
    assert index._graph.entries == 3500


# -- repeatable builds ------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_builds_repeat_whether_rows_come_at_once_or_in_parts(
    metric: str, dtype: str, tmp_path: Path
) -> None:
    rows = clustered(400, 8)
    once = filled(rows, metric, dtype)
    once.build_graph()
    parts = VectorIndex(8, metric, dtype)  # type: ignore[arg-type]
    for part in np.split(rows, [1, 7, 200]):
        parts.add(part)
        parts.build_graph()
    assert content(once, tmp_path) == content(parts, tmp_path)
    same_hits(once, parts, rows[:30])


# -- removal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_removed_rows_leave_the_array_and_the_file(dtype: str, tmp_path: Path) -> None:
    rows = normal(200, 16)
    index = filled(rows[:150], "l2sq", dtype)
    index.add(rows[150:])
    index.build_graph()
    codes = [encode(row[None], dtype)["codes"].tobytes() for row in rows]
    assert all(code in content(index, tmp_path) for code in codes)
    gone = np.arange(0, 200, 7)
    assert index.remove(gone) == len(gone)
    array = index._table.columns["codes"]
    base = array if array.base is None else array.base
    for place in (base.tobytes(), content(index, tmp_path)):
        assert not any(codes[key] in place for key in gone)
        assert all(codes[key] in place for key in index)


@pytest.mark.parametrize("exact", [True, False])
def test_removed_rows_are_never_found(exact: bool) -> None:
    rows = clustered(1000, 8)
    index = filled(rows)
    index.build_graph()
    gone = np.arange(0, 1000, 9)
    assert index.remove(gone) == 112
    assert index.remove([]) == 0
    assert index.remove(5) == 1
    hits = index.search(rows, 10, exact=exact)
    assert not np.isin(hits.keys, [*gone, 5]).any()
    assert (hits.counts == 10).all()
    assert all(key not in index for key in gone)
    with pytest.raises(KeyError, match="keys 0, 9, 18, 27, 36 and 107 more are not in the index"):
        index.get(gone)


@pytest.mark.parametrize("batch", [1, 30])
def test_a_neighbourhood_that_was_removed_does_not_hide_the_next(batch: int) -> None:
    far, near = normal(1000, 8) + 20, normal(200, 8)
    index = filled(np.concatenate([near, far]), "l2sq")
    index.build_graph()
    index.remove(np.arange(198))  # just below the share at which the graph is built anew
    assert index._graph is not None
    assert not index._graph.worn
    graph, scan = (index.search(near[:batch], 10, exact=exact) for exact in (False, True))
    np.testing.assert_array_equal(graph.keys, scan.keys)


def test_the_same_key_may_come_back_with_another_vector() -> None:
    index = filled(np.float32([[1, 0], [0, 1], [1, 1]]), "l2sq")
    index.build_graph()
    index.remove([0])
    index.add([[5, 5]], [0])
    np.testing.assert_array_equal(index.get([0]), [[5, 5]])
    for exact in (True, False):
        assert index.search([5, 5], 1, exact=exact).keys.tolist() == [[0]]
        assert index.search([1, 0], 1, exact=exact).distances.tolist() == [[1]]


def test_removing_all_and_starting_again() -> None:
    index = filled(normal(10, 3), labels=["a"] * 10)
    index.build_graph()
    assert index.remove(index.keys) == 10
    assert len(index) == 0
    for exact in (True, False):
        assert index.search([1, 2, 3], 2, exact=exact).counts.tolist() == [0]
    index.add(normal(10, 3))  # no labels this time
    assert index.labels is None
    same_hits(index, filled(normal(10, 3), keys=range(10, 20)), normal(3, 3))


def test_churn_costs_no_recall() -> None:
    # Rows without any structure, which a graph finds hardest.
    draw = np.random.default_rng(0)
    index, queries = filled(normal(4000, 32)), normal(300, 32, seed=99)
    index.build_graph()
    for number in range(1, 21):
        index.remove(draw.choice(index.keys, 400, replace=False))
        index.add(normal(400, 32, seed=number))
        index.build_graph()
    assert index._graph is not None
    assert index._graph.removed > 0.1 * index._graph.entries
    fresh = filled(np.array(index.vectors))
    assert 1 > recall(fresh, queries) > 0.9
    assert recall(index, queries) >= recall(fresh, queries) - 0.005


# -- labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ([1, 2], [3], np.array([1, 2, 3])),
        ([True, False], [True], np.array([1, 0, 1])),
        ([0.5, 1.5], [2.5], np.array([0.5, 1.5, 2.5])),
        ([1, 2], [0.5], np.array([1.0, 2.0, 0.5])),
        ([0.5, 1.5], [2], np.array([0.5, 1.5, 2.0])),
        (["a", "b"], ["longer"], np.array(["a", "b", "longer"])),
    ],
)
def test_labels_go_in_and_out(first: Any, second: Any, both: NDArray[Any], tmp_path: Path) -> None:
    index = filled(normal(2, 3), labels=first)
    index.add(normal(1, 3, seed=1), labels=second)
    index.save(tmp_path / "labelled.index")
    for one in (index, VectorIndex.open(tmp_path / "labelled.index")):
        assert one.labels is not None
        assert one.labels.dtype == both.dtype
        np.testing.assert_array_equal(one.labels, both)
        np.testing.assert_array_equal(one.labels_of([2, 0]), both[[2, 0]])
        one.remove([1])
        np.testing.assert_array_equal(one.labels, both[[0, 2]])


def test_either_all_rows_have_labels_or_none() -> None:
    index = filled(normal(2, 3))
    assert index.labels is None
    with pytest.raises(ValueError, match="no labels; leave them out"):
        index.add(normal(1, 3), labels=[1])
    with pytest.raises(KeyError, match="no labels"):
        index.labels_of([0])
    with pytest.raises(
        ValueError, match="labels: a column was given as text; in this index it holds whole numbers"
    ):
        filled(normal(2, 3), labels=[1, 2]).add(normal(1, 3), labels=["a"])


# -- views and copies -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_index_over_given_columns_answers_as_their_owner(dtype: str) -> None:
    owner = filled(clustered(90, 8), "l2sq", dtype, labels=np.arange(90))
    over = VectorIndex.over(owner.columns, 8, "l2sq", owner.dtype, next_key=1000)
    assert np.may_share_memory(over.columns["codes"], owner.columns["codes"])
    same_hits(over, owner, normal(20, 8))
    assert over.add(normal(1, 8), labels=[90]).tolist() == [1000]
    assert (len(over), len(owner)) == (91, 90)
    assert VectorIndex.over(owner.columns, 8, "l2sq", owner.dtype).add(
        normal(1, 8), labels=[90]
    ).tolist() == [90]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"keys": None}, "there is no column 'keys'; codes, squares, keys are needed"),
        ({"codes": np.zeros((5, 3), np.float32)}, "codes has float32 of shape"),
        ({"codes": np.zeros((5, 2))}, "codes has float64 of shape"),
        ({"labels": np.zeros(4)}, "labels: of another length than the 5 keys"),
    ],
)
def test_columns_of_other_sizes_or_types_are_refused(
    changed: dict[str, NDArray[Any] | None], message: str
) -> None:
    columns = {**filled(normal(5, 2)).columns, **changed}
    kept = {name: column for name, column in columns.items() if column is not None}
    with pytest.raises(ValueError, match=message):
        VectorIndex.over(kept, 2)


def test_what_an_index_holds_is_told_with_its_room_and_what_its_graph_borrowed() -> None:
    index = filled(normal(20, 4), labels=np.arange(20))
    assert index.graph_bytes() is None
    index.add(normal(1, 4), labels=[20])
    index.build_graph()
    names = [name for name, _ in index.buffers()]
    assert names.count("the buffer of codes") == 2  # the column, and what it is a part of
    assert "a buffer that the graph borrowed" in names
    assert max(len(part) for name, part in index.buffers() if name == "the buffer of codes") == 42
    assert len(index.graph_bytes() or b"") > 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_view_answers_as_an_owner(metric: str, dtype: str, tmp_path: Path) -> None:
    rows, labels = clustered(300, 8), np.arange(300)
    store = filled(rows, metric, dtype, labels=labels)
    view = store.view(100, 220)
    owner = filled(rows[100:220], metric, dtype, keys=range(100, 220), labels=labels[100:220])
    assert np.may_share_memory(view._table.columns["codes"], store._table.columns["codes"])
    assert content(view, tmp_path)[-32:] != content(store, tmp_path)[-32:]
    np.testing.assert_array_equal(view.vectors, owner.vectors)
    np.testing.assert_array_equal(view.get([219, 100]), owner.get([219, 100]))
    np.testing.assert_array_equal(view.labels_of([150]), [150])
    same_hits(view, owner, rows[:40])
    inner = view.view(10, 30)
    assert list(inner) == list(range(110, 130))
    assert 220 not in view
    assert len(store.view(5, 5)) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_view_and_its_store_go_their_own_ways(dtype: str) -> None:
    rows = clustered(100, 6)
    store = VectorIndex(6, "l2sq", dtype)  # type: ignore[arg-type]
    for part in np.split(rows, 10):  # so that there is room at the end
        store.add(part)
    views = [store.view(0, 100), store.view(0, 50), store.view(50, 100)]
    before = [np.array(view.vectors) for view in views]
    stored = np.array(store.vectors)
    for number, view in enumerate(views):
        view.build_graph()
        view.add(np.full((3, 6), number + 1.0))
        view.remove(view.keys[:2])
        np.testing.assert_array_equal(view.vectors[: len(before[number]) - 2], before[number][2:])
        np.testing.assert_array_equal(store.vectors, stored)
    fresh = [store.view(0, 100), store.view(50, 100)]
    store.add(np.full((5, 6), 9.0))
    store.remove(store.keys[:60])
    np.testing.assert_array_equal(fresh[0].vectors, stored)
    np.testing.assert_array_equal(fresh[1].vectors, stored[50:])
    for view in fresh:
        assert (view.search(view.vectors, 1, exact=False).distances < 1e-3).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_view_and_a_graph_keep_their_memory_alive(dtype: str) -> None:
    rows = clustered(2000, 16)
    store = filled(rows, "l2sq", dtype)
    view = store.view(500, 1500)
    view.build_graph()
    expected = view.search(rows[500:600], 5, exact=False)
    del store
    gc.collect()
    noise = [np.full((2000, 16), np.nan, np.float32) for _ in range(20)]
    again = view.search(rows[500:600], 5, exact=False)
    np.testing.assert_array_equal(again.distances, expected.distances)
    assert len(noise) == 20


def test_a_graph_outlives_growth_removal_and_collection() -> None:
    rows = clustered(600, 8)
    index = filled(rows[:300], "l2sq")
    index.build_graph()
    for part in np.split(rows[300:], 60):  # the table moves to larger buffers again and again
        index.add(part)
    gc.collect()
    noise = [np.full((300, 8), np.nan, np.float32) for _ in range(50)]
    same = filled(rows, "l2sq")
    same_hits(index, same, rows[::5])
    index.remove(range(100))
    del noise
    gc.collect()
    noise = [np.full((300, 8), np.nan, np.float32) for _ in range(50)]
    assert (index.search(rows[100:], 1, exact=False).distances == 0).all()
    assert len(noise) == 50


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda index: pickle.loads(pickle.dumps(index))]
)
def test_copies_are_indexes_of_their_own(duplicate: Callable[[VectorIndex], VectorIndex]) -> None:
    rows = clustered(100, 4)
    index = VectorIndex(4)
    for part in np.split(rows, 10):
        index.add(part, labels=["x"] * 10)
    index.build_graph()
    twin = duplicate(index)
    index.add(rows[:1], labels=["one"])
    twin.add(rows[1:2], labels=["two"])
    assert (index.labels_of([100])[0], twin.labels_of([100])[0]) == ("one", "two")
    np.testing.assert_array_equal(index.get([100]), rows[:1])
    np.testing.assert_array_equal(twin.get([100]), rows[1:2])
    same_hits(index.view(0, 100), twin.view(0, 100), rows[:9])


# -- interruptions ----------------------------------------------------------------------------


def interrupted(call: Callable[[], object], at: int) -> bool:
    """Run `call`, raising KeyboardInterrupt at its `at`-th line in this package."""
    lines = 0
    package = str(Path(index_module.__file__).parent)

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(package):
            return None
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        # Python takes no interrupt on its way out of a `with`, which tracing shows as a line.
        if event == "line" and not text.startswith("with "):
            lines += 1
            if lines == at:
                raise KeyboardInterrupt
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(previous)
    return False


@pytest.mark.parametrize("operation", ["add", "upsert", "remove", "build"])
def test_an_interrupt_on_any_line_leaves_the_old_index_or_the_new(
    operation: str, tmp_path: Path
) -> None:
    rows = clustered(60, 3)
    queries = rows[:5]

    def start() -> VectorIndex:
        index = VectorIndex(3, "l2sq", "bf16")
        index.add(rows[:30], labels=np.arange(30))
        index.build_graph()
        index.add(rows[30:50], labels=np.arange(20))
        return index

    calls: dict[str, Callable[[VectorIndex], object]] = {
        "add": lambda index: index.add(rows[50:], labels=np.arange(10) / 2),
        "upsert": lambda index: index.upsert(rows[50:], range(27, 37), labels=np.arange(10) / 2),
        "remove": lambda index: index.remove([1, 3, 35]),
        "build": lambda index: index.build_graph(),
    }
    old, new = start(), start()
    calls[operation](new)
    files = {content(index.view(0, len(index)), tmp_path) for index in (old, new)}
    at, broken = 1, True
    while broken:
        index = start()
        broken = interrupted(lambda index=index: calls[operation](index), at)  # type: ignore[misc]
        assert content(index.view(0, len(index)), tmp_path) in files
        exact, graph = (index.search(queries, 5, exact=exact) for exact in (True, False))
        np.testing.assert_array_equal(exact.distances, graph.distances)
        index.add(rows[:2], [900, 901], labels=[1, 1])
        index.remove([900])
        assert len(index.search(queries, 5, exact=False)) == 5
        at += 1
    assert at > 5


# -- any sequence of calls against a model ----------------------------------------------------


class Machine(RuleBasedStateMachine):
    """An index beside a dict of its rows."""

    @initialize(
        metric=st.sampled_from(METRICS),
        dtype=st.sampled_from(DTYPES),
        labelled=st.booleans(),
        folder=st.builds(lambda: Path(Machine.folder)),
    )
    def start(self, metric: str, dtype: str, labelled: bool, folder: Path) -> None:
        self.index = VectorIndex(2, metric, dtype)  # type: ignore[arg-type]
        self.labelled, self.path = labelled, folder / "machine.index"
        self.model: dict[int, tuple[list[float], int]] = {}

    folder = ""
    # Few values, so that there are many ties; none is zero, so that cosine takes them all.
    rows = st.lists(
        st.tuples(st.integers(-2, 2), st.sampled_from([-1, 1, 2, 0.5])), min_size=1, max_size=6
    )

    def _add(self, rows: Any, keys: Any) -> None:
        labels = list(range(len(rows)))
        given = self.index.add(rows, keys, labels if self.labelled else None)
        columns: Any = encode(np.array(rows, np.float32), self.index.dtype)
        stored = decode(**columns, dimensions=2)
        self.model |= {
            int(key): (row.tolist(), label)
            for key, row, label in zip(given, stored, labels, strict=True)
        }

    @rule(rows=rows)
    def add(self, rows: Any) -> None:
        self._add(rows, None)

    @rule(rows=rows, first=st.integers(0, 2**63))
    def add_with_keys(self, rows: Any, first: int) -> None:
        keys = list(range(first, first + len(rows)))
        if self.model.keys().isdisjoint(keys):
            self._add(rows, keys)

    @precondition(lambda self: self.model)
    @rule(rows=rows, data=st.data())
    def add_a_taken_key(self, rows: Any, data: st.DataObject) -> None:
        taken = data.draw(st.sampled_from(sorted(self.model)))
        keys = [*range(2**64 - 1 - len(rows), 2**64 - 2), taken]
        with pytest.raises(ValueError, match="already"):
            self.index.add(rows, keys, [0] * len(rows) if self.labelled else None)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True, max_size=4))
        assert self.index.remove(gone) == len(gone)
        for key in gone:
            del self.model[key]

    @rule()
    def build(self) -> None:
        self.index.build_graph()

    @rule()
    def save_and_open(self) -> None:
        self.index.save(self.path)
        self.index = VectorIndex.open(self.path)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def go_on_with_a_view(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(self.index) // 2))
        self.index = self.index.view(start, len(self.index))
        self.model = {key: self.model[key] for key in self.index}

    @rule(query=rows, k=st.integers(1, 12), exact=st.booleans())
    def search(self, query: Any, k: int, exact: bool) -> None:
        queries = np.array(query, np.float32)
        hits = self.index.search(queries, k, exact=exact)
        keys = np.array(list(self.model), np.uint64)
        rows = np.array([row for row, _ in self.model.values()], np.float32).reshape(-1, 2)
        held = min(k, len(keys))
        assert hits.counts.tolist() == [held] * len(queries)
        for q in range(len(queries)):
            far = measure(rows, np.repeat(queries[q : q + 1], len(rows), 0), self.index.metric)
            order = np.lexsort((keys, far))[:held]
            place = {key: row for row, key in enumerate(self.model)}
            found = far[[place[key] for key in hits.keys[q, :held].tolist()]]
            assert len(set(hits.keys[q, :held].tolist())) == held
            assert hits.distances[q, :held].tolist() == sorted(found.tolist()) == found.tolist()
            # So few rows are all within a graph's reach; compressed, it may take one for another.
            if exact or self.index.dtype == "f32":
                assert hits.distances[q, :held].tolist() == far[order].tolist()
            if exact:
                assert hits.keys[q, :held].tolist() == keys[order].tolist()

    @invariant()
    def the_index_is_the_model(self) -> None:
        assert list(self.index) == list(self.model)
        keys = list(self.model)
        expected = np.array([row for row, _ in self.model.values()], np.float32).reshape(-1, 2)
        np.testing.assert_array_equal(self.index.vectors, expected)
        np.testing.assert_array_equal(self.index.get(keys), expected)
        if self.labelled and keys:
            assert self.index.labels_of(keys).tolist() == [
                label for _, label in self.model.values()
            ]


def test_any_sequence_of_calls_agrees_with_a_model(tmp_path: Path) -> None:
    Machine.folder = str(tmp_path)
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=60, stateful_step_count=25, deadline=None)
    )
