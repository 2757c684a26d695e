"""Whoever proposes the candidates, an index answers by the same rules."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlab.index.certificate import content_hash
from fedlab.index.engines import (
    ENGINES,
    HNSW,
    Annoy,
    Engine,
    FaissFlat,
    FaissHNSW,
    FaissIVF,
    FaissIVFPQ,
    FaissPQ,
    engine_from,
    settings_of,
)
from fedlab.index.engines.entries import Entries
from fedlab.index.file import IndexFileError
from fedlab.index.scan import measure
from fedlab.index.vectorindex import VectorIndex
from tests.helpers import METRICS, clustered, content, filled, normal, recall

needs_annoy = pytest.mark.skipif(find_spec("annoy") is None, reason="annoy is not installed")

MADE = [
    HNSW(),
    FaissFlat(),
    FaissIVF(lists=16, probes=6),
    FaissHNSW(),
    FaissPQ(code_bytes=8),
    FaissIVFPQ(lists=16, probes=6, code_bytes=8),
    pytest.param(Annoy(trees=10, search_nodes=1000), marks=needs_annoy),
]
each = pytest.mark.parametrize("engine", MADE, ids=lambda engine: engine.name)
ROWS, QUERIES = clustered(900, 16), clustered(40, 16, seed=0)


def test_every_engine_is_tried_here() -> None:
    tried = {getattr(made, "values", (made,))[0].name for made in MADE}
    assert tried == set(ENGINES)


# -- answers ----------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("metric", METRICS)
def test_an_engine_proposes_and_the_stored_rows_are_measured(engine: Engine, metric: str) -> None:
    index = filled(ROWS, metric, "f16", engine=engine)
    hits = index.search(QUERIES, 5, exact=False)
    assert hits.engine == engine.name
    assert index.search(QUERIES, 5).engine == "scan"  # sizes decide
    for q in range(len(QUERIES)):
        stored = index.get(hits.keys[q])
        expected = measure(stored, np.repeat(QUERIES[q][None], 5, axis=0), metric)
        np.testing.assert_array_equal(hits.distances[q], expected)
        assert (np.diff(hits.distances[q]) >= 0).all()
    assert recall(index, QUERIES) > 0.95


@each
def test_rows_come_and_go(engine: Engine) -> None:
    index = filled(ROWS[:600], "l2sq", "f32", engine=engine)
    index.build_graph()
    gone = np.arange(0, 600, 6)
    index.remove(gone)
    index.add(ROWS[600:])
    hits = index.search(index.vectors[::9], 3, exact=False)
    np.testing.assert_array_equal(hits.keys[:, 0], index.keys[::9])
    assert (hits.distances[:, 0] == 0).all()
    assert not np.isin(hits.keys, gone).any()
    assert recall(index, QUERIES) > 0.95
    index.remove(index.keys[:500])  # far more than a graph bears
    np.testing.assert_array_equal(
        index.search(index.vectors[:9], 1, exact=False).keys[:, 0], index.keys[:9]
    )


@each
def test_a_removed_neighbourhood_does_not_hide_the_next(engine: Engine) -> None:
    far, near = normal(1000, 8) + 20, normal(200, 8)
    index = filled(np.concatenate([near, far]), "l2sq", engine=engine)
    index.build_graph()
    index.remove(np.arange(198))
    graph, scan = (index.search(near[:30], 10, exact=exact) for exact in (False, True))
    assert graph.counts.tolist() == scan.counts.tolist() == [10] * 30
    np.testing.assert_array_equal(graph.keys[:, :2], scan.keys[:, :2])


@each
def test_more_neighbours_than_an_engine_looks_at_are_found_all_the_same(engine: Engine) -> None:
    index = filled(ROWS, "cosine", "f32", engine=engine)
    hits = index.search(QUERIES[:4], 700, exact=False)
    assert hits.counts.tolist() == [700] * 4
    assert all(len(set(keys)) == 700 for keys in hits.keys.tolist())


@each
@pytest.mark.parametrize("queries", [1, 30])
def test_threads_do_not_change_the_answer(engine: Engine, queries: int) -> None:
    index = filled(ROWS, "cosine", "i8", engine=engine)
    one, two = (index.search(QUERIES[:queries], 5, exact=False, threads=n) for n in (1, 3))
    np.testing.assert_array_equal(one.keys, two.keys)
    np.testing.assert_array_equal(one.distances, two.distances)


@each
def test_builds_repeat(engine: Engine) -> None:
    first, second = (filled(ROWS, "l2sq", engine=engine) for _ in range(2))
    for index in (first, second):
        index.build_graph()
    assert first._graph is not None
    assert second._graph is not None
    assert first._graph.to_bytes() == second._graph.to_bytes()
    np.testing.assert_array_equal(
        first._graph.candidates(QUERIES, 30, 1), second._graph.candidates(QUERIES, 30, 1)
    )


@each
def test_views_and_copies_have_the_engine_of_their_index(engine: Engine) -> None:
    index = filled(ROWS, engine=engine)
    index.build_graph()
    twins = [index.view(0, 900), copy.deepcopy(index), pickle.loads(pickle.dumps(index))]
    expected = index.search(QUERIES, 5, exact=False)
    for twin in twins:
        assert twin.engine == engine
        np.testing.assert_array_equal(twin.search(QUERIES, 5, exact=False).keys, expected.keys)


@each
def test_bytes_are_counted_once_the_engine_stands(engine: Engine) -> None:
    index = filled(ROWS, engine=engine)
    rows = index.nbytes
    index.build_graph()
    beside = index.nbytes - rows
    numbers = ROWS.nbytes
    ours = {"graph": 0, "faiss-pq": 8 * 900, "faiss-ivf-pq": 8 * 900}.get(engine.name, numbers)
    assert ours < beside + (engine.name == "faiss-flat") < ours + 900 * 400


# -- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: HNSW(connectivity=1), ValueError, "connectivity is 1"),
        (lambda: HNSW(expansion_add=0), ValueError, "expansion_add is 0"),
        (lambda: HNSW(expansion_search="64"), TypeError, "expansion_search is '64'"),  # type: ignore[arg-type]
        (lambda: HNSW(dtype="f64"), ValueError, "dtype is 'f64'; choose one of f32"),
        (lambda: HNSW(rescored=0), ValueError, "rescored is 0"),
        (lambda: FaissHNSW(connectivity=10**9), ValueError, "connectivity is"),
        (lambda: FaissIVF(lists=0), ValueError, "lists is 0"),
        (lambda: FaissIVF(lists=8, probes=9), ValueError, "probes is 9; .* at most 8"),
        (lambda: FaissPQ(code_bytes=0), ValueError, "code_bytes is 0"),
        (lambda: FaissPQ(rescored=0), ValueError, "rescored is 0"),
        (lambda: FaissIVFPQ(seed=-1), ValueError, "seed is -1"),
        (lambda: Annoy(trees=0), ValueError, "trees is 0"),
        (lambda: Annoy(search_nodes=2**40), ValueError, "search_nodes is"),
        (
            lambda: VectorIndex(20, engine=FaissPQ(code_bytes=8)),
            ValueError,
            "code_bytes is 8, which 20 dimensions don't divide by; .* like 4, 5, 10",
        ),
        (
            lambda: VectorIndex(20, "l2sq", engine=HNSW(dtype="i8")),
            ValueError,
            "a graph in i8 compares directions alone",
        ),
        (
            lambda: VectorIndex(20, "inner", engine=HNSW(dtype="b1")),
            ValueError,
            "a graph in b1 compares directions alone",
        ),
    ],
)
def test_settings_are_checked(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


TUNED: dict[str, dict[str, int]] = {
    "graph": {"expansion_search": 300, "rescored": 5},
    "faiss-flat": {},
    "faiss-hnsw": {"expansion_search": 300},
    "faiss-ivf": {"probes": 16},
    "faiss-pq": {"rescored": 90},
    "faiss-ivf-pq": {"probes": 16, "rescored": 90},
    "annoy": {"search_nodes": 100_000},
}


@each
def test_a_search_is_tuned_without_building_anew(engine: Engine) -> None:
    settings = TUNED[engine.name]
    assert set(settings) == set(engine.searching)
    tuned, made = filled(ROWS, engine=engine), filled(ROWS, engine=replace(engine, **settings))  # type: ignore[type-var]
    tuned.build_graph()
    graph = tuned._graph
    tuned.tune(**settings)
    assert tuned.engine == made.engine
    a, b = (index.search(QUERIES, 10, exact=False) for index in (tuned, made))
    np.testing.assert_array_equal(a.keys, b.keys)
    assert tuned._graph is graph
    assert recall(tuned, QUERIES) > 0.999  # all rows, or nearly all, are looked at


def test_what_is_built_is_not_tuned() -> None:
    index = filled(ROWS, engine=FaissIVF(lists=16, probes=6))
    index.build_graph()
    with pytest.raises(ValueError, match=r"lists is nothing .* reads; it reads probes"):
        index.tune(lists=8, probes=7)
    with pytest.raises(ValueError, match="probes is 17"):
        index.tune(probes=17)
    assert index.engine == FaissIVF(lists=16, probes=6)


@each
def test_an_engine_goes_into_a_file_and_comes_back(engine: Engine) -> None:
    assert engine_from(json.loads(json.dumps(settings_of(engine)))) == engine


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(ValueError, match=r"called 'scann'; this library has graph, faiss-flat, "):
        engine_from({"name": "scann"})


@dataclass(frozen=True)
class Every:
    """An engine of one's own, which proposes all rows."""

    name = "every"
    searching = ()

    def suits(self, dimensions: int, metric: str) -> None:
        pass

    def library(self) -> str:
        return "none"

    def proposer(self, dimensions: int, metric: str, dtype: str) -> Proposing:
        return Proposing()


class Proposing(Entries):
    oversampling, whole, worn = 1, True, False

    def extend(self, table: Any, threads: int) -> None:
        self.begin(table.rows)

    def candidates(self, queries: Any, count: int, threads: int) -> Any:
        return np.tile(np.arange(self.entries), (len(queries), 1))

    def nbytes_beside(self, table: Any) -> int:
        return 0


def test_an_engine_of_ones_own_answers_and_is_not_saved(tmp_path: Path) -> None:
    index = filled(ROWS, engine=Every())
    found, exact = (index.search(QUERIES, 9, exact=exact) for exact in (False, True))
    assert (found.engine, exact.engine) == ("every", "scan")
    assert len(found.rescued) == 0
    np.testing.assert_array_equal(found.keys, exact.keys)
    np.testing.assert_array_equal(found.distances, exact.distances)
    with pytest.raises(ValueError, match="Every is no engine that a file can name"):
        index.save(tmp_path / "saved.index")
    assert not list(tmp_path.iterdir())
    assert index.generation == 0


def test_rows_of_an_engine_of_ones_own_can_be_erased_and_their_index_told(tmp_path: Path) -> None:
    index, other = filled(ROWS, engine=Every()), filled(ROWS)
    assert content_hash(index) != content_hash(other)
    certificate = index.erase([3])
    assert certificate.keys == (3,)
    assert 3 not in index
    assert content_hash(index) == certificate.hash_after


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (lambda near: near + 10**9, "proposes rows 1000000000"),
        (lambda near: near + 1, "there are 900, and -1 stands for none"),
        (lambda near: near - 5, "proposes rows -5"),
        (lambda near: near[:1], r"row numbers are needed, \(\d+, n\)"),
        (lambda near: near[0], r"of shape \(900,\)"),
        (lambda near: near.astype(float), "proposes float64"),
        (lambda near: np.repeat(near, 2, axis=1), "proposes a row twice"),
    ],
)
def test_what_an_engine_proposes_is_looked_at_before_loops_read_it(odd: Any, says: str) -> None:
    class Odd(Proposing):
        def candidates(self, queries: Any, count: int, threads: int) -> Any:
            return odd(super().candidates(queries, count, threads))

    @dataclass(frozen=True)
    class Wrong(Every):
        def proposer(self, dimensions: int, metric: str, dtype: str) -> Proposing:
            return Odd()

    with pytest.raises(ValueError, match=says):
        filled(ROWS, engine=Wrong()).search(QUERIES, 9, exact=False)


# -- files ----------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("metric", METRICS)
def test_what_was_saved_is_opened(engine: Engine, metric: str, tmp_path: Path) -> None:
    index = filled(ROWS, metric, "bf16", engine=engine)
    index.build_graph()
    index.save(tmp_path / "saved.index")
    opened = VectorIndex.open(tmp_path / "saved.index")
    assert opened.engine == engine
    assert opened.has_graph == (engine.name not in ("annoy", "faiss-flat"))
    a, b = (one.search(QUERIES, 5, exact=False) for one in (index, opened))
    assert a.engine == b.engine
    np.testing.assert_array_equal(a.keys, b.keys)
    np.testing.assert_array_equal(a.distances, b.distances)
    assert content(opened, tmp_path) == content(index, tmp_path)
    opened.add(ROWS[:50])
    opened.remove([1, 2, 3])
    assert recall(opened, QUERIES) > 0.95


@each
def test_flipped_bits_reach_no_library(engine: Engine, tmp_path: Path) -> None:
    index = filled(ROWS[:300], engine=engine)
    index.build_graph()
    whole = content(index, tmp_path)
    path = tmp_path / "flipped.index"
    draw = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[draw.integers(len(whole))] ^= 1 << draw.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(IndexFileError, match=r"flipped\.index"):
            VectorIndex.open(path)
    path.write_bytes(whole)
    assert len(VectorIndex.open(path)) == 300


def test_a_file_of_a_library_that_is_not_here_still_gives_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = filled(ROWS, engine=FaissHNSW())
    index.build_graph()
    index.save(tmp_path / "saved.index")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.warns(UserWarning, match=r"written by Faiss .*; this is no Faiss"):
        opened = VectorIndex.open(tmp_path / "saved.index")
    np.testing.assert_array_equal(opened.vectors, index.vectors)
    assert opened.search(QUERIES, 5, exact=True).engine == "scan"
    with pytest.raises(ImportError, match=r"takes faiss, .* the extra 'faiss': pip install"):
        opened.search(QUERIES, 5, exact=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened.save(tmp_path / "again.index")
        VectorIndex.open(tmp_path / "again.index")


def test_annoy_that_is_not_here_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "annoy", None)
    index = filled(ROWS, engine=Annoy())
    assert index.search(QUERIES, 5).engine == "scan"
    with pytest.raises(ImportError, match=r"takes annoy, .* the extra 'annoy': pip install"):
        index.build_graph()


def test_a_graph_under_another_engines_name_is_left_out(tmp_path: Path) -> None:
    from tests.index.test_file import parts_of, sealed

    index = filled(ROWS, engine=FaissHNSW())
    index.build_graph()
    header, body = parts_of(content(index, tmp_path))
    header["parameters"]["engine"] = settings_of(HNSW())
    path = tmp_path / "other.index"
    path.write_bytes(sealed(header, body))
    with pytest.warns(UserWarning, match=r"written by Faiss .*; this is USearch"):
        assert not VectorIndex.open(path).has_graph


def altered(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["parameters"]["engine"].update({name: value})


@pytest.mark.parametrize(
    "change",
    [
        altered("lists", 17),
        altered("lists", -1),
        altered("probes", 10**9),
        altered("code_bytes", 4),
        altered("code_bytes", "8"),
        altered("name", "faiss-ivf"),
        altered("trees", 3),
        lambda header: header["parameters"].update(metric="l2sq"),
        lambda header: header["arrays"][-1].update(type="|i1"),
    ],
)
def test_a_graph_of_other_settings_is_refused(
    change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    from tests.index.test_file import parts_of, sealed

    index = filled(ROWS, engine=FaissIVFPQ(lists=16, probes=6, code_bytes=8))
    index.build_graph()
    header, body = parts_of(content(index, tmp_path))
    path = tmp_path / "forged.index"
    path.write_bytes(sealed(header, body))
    assert VectorIndex.open(path).has_graph  # the control
    change(header)
    path.write_bytes(sealed(header, body))
    with pytest.raises(IndexFileError, match=r"forged\.index"):
        VectorIndex.open(path)
