"""Upserts: rows that come in the place of others, whatever engine stands over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from fedlab.device import Device
from fedlab.erasure import Fingerprints, audit_erasure, erase_across
from fedlab.files.keys import Key
from fedlab.index.encoding import decode, encode
from fedlab.index.engines import HNSW, Annoy, FaissFlat, FaissHNSW, FaissIVF
from fedlab.index.scan import measure
from fedlab.index.vectorindex import VectorIndex
from tests.helpers import DTYPES, METRICS, clustered, content, each_installed, filled, normal

ENGINES = [HNSW(), FaissFlat(), FaissHNSW(), FaissIVF(lists=1, probes=1), Annoy(trees=5)]
each_engine = each_installed(ENGINES)


# -- what it does ------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("built", [False, True])
def test_an_upsert_is_a_removal_and_an_addition(
    metric: str, dtype: str, built: bool, tmp_path: Path
) -> None:
    rows, more = clustered(60, 5), normal(20, 5, seed=4)
    beside = {"labels": [f"é{n % 7}" for n in range(60)], "metadata": {"age": np.arange(60)}}
    one, other = (filled(rows, metric, dtype, **beside) for _ in range(2))
    if built:
        one.build_graph()
        other.build_graph()
    keys = np.array([70, 3, 71, 59, 0, *range(100, 115)])
    new = {"labels": [f"new{n}" for n in range(20)], "metadata": {"age": np.arange(20)}}
    done = one.upsert(more, keys, **new)
    other.remove([3, 59, 0])
    other.add(more, keys, **new)
    assert (done.added.tolist(), done.replaced.tolist()) == (
        [70, 71, *range(100, 115)],
        [3, 59, 0],
    )
    for exact in (True, False):
        a, b = (index.search(more, 9, exact=exact) for index in (one, other))
        np.testing.assert_array_equal(a.keys, b.keys)
        np.testing.assert_array_equal(a.distances, b.distances)
    assert content(one, tmp_path) == content(other, tmp_path)
    assert one.metadata_of([59]).age.tolist() == [3]
    assert one.add(more[:1], labels=["x"], metadata={"age": [1]}).tolist() == [115]


def test_whole_floats_are_labels_of_an_index_of_whole_numbers() -> None:
    index = filled(normal(3, 2), labels=[1, 2, 3])
    index.upsert(normal(1, 2), [1], labels=[7.0])
    index.add(normal(1, 2), labels=np.float32([-4]))
    assert index.labels.dtype == np.int64
    assert index.labels_of([0, 1, 2, 3]).tolist() == [1, 7, 3, -4]
    index.upsert(normal(2, 2), [0, 9], labels=[1.0, 1.5])  # targets, not classes
    assert index.labels_of([0, 1, 9]).tolist() == [1.0, 7.0, 1.5]
    floats = filled(normal(2, 2), labels=[0.5, 1.5])
    floats.upsert(normal(1, 2), [0], labels=[3])
    assert floats.labels_of([0, 1]).tolist() == [3.0, 1.5]


def test_an_upsert_is_one_edit_and_none_where_nothing_comes() -> None:
    index = filled(normal(5, 2))
    edits = index.edits
    index.upsert(normal(3, 2), [4, 5, 6])
    assert index.edits == edits + 1
    done = index.upsert(np.empty((0, 2)), [])
    assert (len(done.added), len(done.replaced), index.edits) == (0, 0, edits + 1)


REFUSED: dict[str, dict[str, Any]] = {
    "NaN": {"vectors": [[np.nan, 1.0], [1.0, 1.0]]},
    "zero under cosine": {"vectors": [[0.0, 0.0], [1.0, 1.0]]},
    "too wide": {"vectors": np.ones((2, 3))},
    "a key twice": {"keys": [1, 1]},
    "too few keys": {"keys": [1]},
    "a key below 0": {"keys": [-1, 1]},
    "no keys": {"keys": None},
    "no labels": {"labels": None},
    "labels of another kind": {"labels": ["a", "b"]},
    "no metadata": {"metadata": None},
    "another column": {"metadata": pd.DataFrame({"ward": [1, 2]})},
    "a column of another kind": {"metadata": {"age": ["a", "b"]}},
}


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_changes_nothing(wrong: dict[str, Any], tmp_path: Path) -> None:
    index = filled(normal(2, 2), labels=[1, 2], metadata={"age": [3, 4]})
    index.build_graph()
    before, edits = content(index, tmp_path), index.edits
    given: dict[str, Any] = {
        "vectors": [[1.0, 2.0], [3.0, 4.0]],
        "keys": [0, 1],  # all rows there are: even so the rules are theirs
        "labels": [5, 6],
        "metadata": {"age": [7, 8]},
    }
    with pytest.raises((TypeError, ValueError)):
        index.upsert(**(given | wrong))
    assert (content(index, tmp_path), index.edits) == (before, edits)
    assert len(index.upsert(**given).replaced) == 2


@each_engine
@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_an_old_vector_is_never_found_again(engine: Any, dtype: str) -> None:
    rows = clustered(400, 8)
    index = filled(rows, "l2sq", dtype, engine=engine)
    index.build_graph()
    for turn in range(3):  # few enough that the graph stays, and then so many that it is worn
        moved = np.arange(turn, 400, 11)
        index.upsert(rows[moved] + 100 * (turn + 1), moved)
        hits = index.search(rows[moved], 5, exact=False)
        stands = dict(zip(index, index.vectors, strict=True))
        for asked, keys, distances in zip(rows[moved], hits.keys, hits.distances, strict=True):
            found = np.array([stands[key] for key in keys.tolist()])
            np.testing.assert_array_equal(
                distances, measure(found, np.repeat(asked[None], 5, axis=0), "l2sq")
            )
            assert not np.isin(keys, moved).any()
        near = index.search(rows[moved] + 100 * (turn + 1), 1, exact=False)
        assert (near.keys[:, 0] == moved).mean() > 0.9


# -- devices, and erasure ------------------------------------------------------------------------


def test_a_row_that_is_held_out_stays_held_out() -> None:
    index = filled(normal(40, 3), labels=np.arange(40) % 2)
    device = Device("ward", index).hold_out(0.25, seed=0)
    held, (x, _) = device.validation_keys, device.training()
    moved = np.full((2, 3), 9.0)
    index.upsert(moved, [held[0], 41], labels=[0, 1])
    np.testing.assert_array_equal(device.validation_keys, held)
    np.testing.assert_array_equal(device.validation()[0][0], moved[0])
    trained, labels = device.training()
    assert len(trained) == len(labels) == len(x) + 1
    assert 41 in device.training_keys
    assert not np.isin(device.training_keys, held).any()


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("sealed", [False, True])
def test_an_erasure_takes_what_an_upsert_replaced(
    built: bool, sealed: bool, tmp_path: Path
) -> None:
    key, path = (Key.generate() if sealed else None), tmp_path / "ward.index"
    index = filled(
        normal(60, 24),
        labels=[f"a name of its own {n}" for n in range(60)],
        metadata={"note": [f"a longer note on row {n}" for n in range(60)]},
        engine=HNSW(dtype="f32"),
    )
    device = Device("ward", index)
    if built:
        index.build_graph()
    index.save(path, key)
    old = Fingerprints.taken(index, [3, 7])
    index.upsert(
        normal(2, 24, seed=9), [3, 7], ["new 3", "new 7"], {"note": ["a new note", "a second"]}
    )
    new = Fingerprints.taken(index, [3, 7])
    # The file still has the old rows, and so has a graph: the audit can see them.
    assert audit_erasure(device, old, files=[path], key=key).verdict == "found"
    assert (audit_erasure(device, old).verdict == "found") == built
    erase_across([device], [3, 7])
    index.save(path, key)
    for fingerprints in (old, new):
        audit = audit_erasure(device, fingerprints, files=[path], key=key)
        assert audit.verdict == "clean", str(audit)


# -- any sequence of calls against a model ---------------------------------------------------------

few = st.lists(
    st.tuples(st.integers(-2, 2), st.sampled_from([-1, 1, 2, 0.5])), min_size=1, max_size=6
)


def machine(engine: Any, folder: Path) -> type[RuleBasedStateMachine]:
    """An index beside a dict: key to row, label and text, in the order of the rows."""

    class Machine(RuleBasedStateMachine):
        @initialize(metric=st.sampled_from(METRICS), dtype=st.sampled_from(DTYPES))
        def start(self, metric: Any, dtype: Any) -> None:
            self.index = VectorIndex(2, metric, dtype, engine)
            self.model: dict[int, tuple[list[float], int, str]] = {}
            self.next = self.times = 0

        def _enter(self, rows: Any, keys: list[int], replacing: bool) -> None:
            self.times += 1
            labels = [self.times * 10 + place for place in range(len(rows))]
            texts = [f"text {label}" for label in labels]
            put = self.index.upsert if replacing else self.index.add
            put(rows, keys, labels, {"text": texts})
            columns: Any = encode(np.array(rows, np.float32), self.index.dtype)
            stored = decode(**columns, dimensions=2).tolist()
            for key in keys:
                self.model.pop(key, None)
            self.model |= dict(zip(keys, zip(stored, labels, texts, strict=True), strict=True))
            self.next = max(self.next, *(key + 1 for key in keys))

        @rule(rows=few)
        def add(self, rows: Any) -> None:
            self._enter(rows, [self.next + place for place in range(len(rows))], False)

        @rule(rows=few, data=st.data())
        def upsert(self, rows: Any, data: st.DataObject) -> None:
            known = st.sampled_from([*self.model, self.next, self.next + 3, self.next + 9])
            size = {"min_size": 1, "max_size": min(len(rows), len(self.model) + 3)}
            keys = data.draw(st.lists(known, unique=True, **size))  # type: ignore[arg-type]
            stood = [key for key in keys if key in self.model]
            self._enter(rows[: len(keys)], keys, True)
            assert all(key in self.index for key in stood)

        @rule(data=st.data())
        def remove(self, data: st.DataObject) -> None:
            if self.model:
                drawn = st.lists(st.sampled_from(sorted(self.model)), unique=True, max_size=3)
                gone = data.draw(drawn)
                assert self.index.remove(gone) == len(gone)
                for key in gone:
                    del self.model[key]

        @rule()
        def build(self) -> None:
            if self.model:
                self.index.build_graph()

        @rule()
        def save_and_open(self) -> None:
            self.index.save(folder / "machine.index")
            self.index = VectorIndex.open(folder / "machine.index")

        @rule(query=few, k=st.integers(1, 9), exact=st.booleans())
        def search(self, query: Any, k: int, exact: bool) -> None:
            queries, keys = np.array(query, np.float32), np.array(list(self.model), np.uint64)
            rows = np.array([one[0] for one in self.model.values()], np.float32).reshape(-1, 2)
            hits = self.index.search(queries, k, exact=exact)
            for place, asked in enumerate(queries):
                far = measure(rows, np.repeat(asked[None], len(rows), 0), self.index.metric)
                found = hits.keys[place, : hits.counts[place]]
                at = [list(self.model).index(key) for key in found.tolist()]
                assert len(set(at)) == len(at) == min(k, len(rows))
                assert hits.distances[place, : len(at)].tolist() == far[at].tolist()
                if exact:
                    order = np.lexsort((keys, far))[:k]
                    assert found.tolist() == keys[order].tolist()

        @invariant()
        def the_index_is_the_model(self) -> None:
            keys = list(self.model)
            assert list(self.index) == keys
            expected = np.array([one[0] for one in self.model.values()], np.float32)
            np.testing.assert_array_equal(self.index.vectors, expected.reshape(-1, 2))
            if keys:
                assert self.index.labels_of(keys).tolist() == [m[1] for m in self.model.values()]
                texts = self.index.metadata_of(keys).text.tolist()
                assert texts == [m[2] for m in self.model.values()]

    return Machine


@each_engine
def test_any_sequence_of_calls_agrees_with_a_model(engine: Any, tmp_path: Path) -> None:
    run_state_machine_as_test(
        machine(engine, tmp_path),
        settings=settings(max_examples=25, stateful_step_count=15, deadline=None),
    )
