"""Searches while others write: each answer is that of one state, between two writes.

A row is (its key, its version): the squared distance from the origin, k^2 + v^2, tells the version.
Keys come in pairs whose rows are written in one call, so that a state in which the two differ never
stood. A search for more rows than there are shows all of a state.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from fedlab.device import Device
from fedlab.index.engines import HNSW, Annoy, FaissFlat, FaissHNSW
from fedlab.index.vectorindex import VectorIndex
from tests.helpers import each_installed

PAIRS, WRITERS = 24, 3
#: Seconds that all go on for, and, on a busy machine, until each has done enough.
SECONDS, MOST = 1.5, 60.0
ENGINES = [HNSW(), FaissFlat(), FaissHNSW(), Annoy(trees=3)]
each_engine = each_installed(ENGINES)


@pytest.fixture(autouse=True)
def _switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def rows_of(pair: int, version: int) -> tuple[Any, list[int], list[int], dict[str, Any]]:
    keys = [2 * pair + 1, 2 * pair + 2]  # none is 0
    return [[key, version] for key in keys], keys, [version] * 2, {"text": [f"v{version}"] * 2}


def versions(keys: Any, distances: Any) -> dict[int, int]:
    """The version of each key, by its squared distance from the origin; whole, or it's no state."""
    squares = np.asarray(distances) - np.asarray(keys, np.float64) ** 2
    found = np.sqrt(squares)
    assert (found == np.round(found)).all(), (keys, distances)
    return dict(zip(np.asarray(keys).tolist(), found.astype(int).tolist(), strict=True))


def check(state: dict[int, int], before: dict[int, int]) -> dict[int, int]:
    """That a state is one between two writes, and none of before what was seen already."""
    for key, version in state.items():
        other = key + 1 if key % 2 else key - 1
        assert state.get(other) == version, (key, state)
        assert version >= before.get(key, 0), (key, version, before)
    return {**before, **state}


def readers(index: VectorIndex, folder: Path) -> dict[str, Callable[[], dict[int, int]]]:
    """Ways to see a whole state: all rows' keys, and what tells their versions."""
    origin, most, device = np.zeros((1, 2)), 10 * PAIRS, Device("ward", index)

    def searched(exact: bool | None, where: str | None = None) -> dict[int, int]:
        hits = index.search(origin, most, exact=exact, where=where)
        return versions(hits.keys[hits.found], hits.distances[hits.found])

    def within() -> dict[int, int]:
        near = index.within(origin, np.inf, where="label >= 0")
        return versions(near.keys, near.distances)

    def viewed() -> dict[int, int]:
        view = index.view()
        rows, labels = view.get(view.keys), view.labels_of(view.keys)
        texts = view.metadata_of(view.keys).text.tolist()
        assert texts == [f"v{label}" for label in labels]
        np.testing.assert_array_equal(rows, np.stack([view.keys, labels], axis=1))
        return dict(zip(view.keys.tolist(), labels.tolist(), strict=True))

    def saved() -> dict[int, int]:
        index.save(folder / "saved.index")
        opened = VectorIndex.open(folder / "saved.index")
        hits = opened.search(origin, most, exact=False)
        found = versions(hits.keys[hits.found], hits.distances[hits.found])
        assert found == dict(zip(list(opened), opened.labels_of(opened.keys).tolist(), strict=True))
        return found

    def trained() -> dict[int, int]:
        (x, y), held = device.training(), device.holding_out([])
        np.testing.assert_array_equal(x[:, 1], y)
        assert len(held.training()[0]) > 0
        return dict(zip(x[:, 0].astype(int).tolist(), y.tolist(), strict=True))

    def told() -> dict[int, int]:
        frame = index.metadata
        return {key: int(text[1:]) for key, text in frame.text.items()}

    return {
        "scan": lambda: searched(True),
        "engine": lambda: searched(False),
        "filtered": lambda: searched(False, "label >= 0"),
        "within": within,
        "view": viewed,
        "save": saved,
        "metadata": told,
        "training": trained,
    }


@each_engine
def test_every_answer_is_that_of_a_state_between_two_writes(engine: Any, tmp_path: Path) -> None:
    index = VectorIndex(2, "l2sq", engine=engine)
    for pair in range(PAIRS):
        index.upsert(*rows_of(pair, 1))
    index.build_graph()
    stop, last = Event(), {}
    writes, reads = [], dict[str, int]()

    def write(writer: int) -> None:
        """Write its own pairs again and again; some go and come back."""
        draw = np.random.default_rng(writer)
        mine = range(writer, PAIRS, WRITERS)
        standing = dict.fromkeys(mine, 1)
        gone: dict[int, int] = {}
        while not stop.is_set():
            pair = int(draw.choice(mine))
            _, keys, *_ = rows_of(pair, 0)
            writes.append(pair)
            if pair in gone:
                version = standing[pair] = gone.pop(pair) + 1
                index.add(*rows_of(pair, version))
            elif draw.random() < 0.15:
                gone[pair] = standing.pop(pair)
                (index.erase if draw.random() < 0.1 else index.remove)(keys)
            else:
                standing[pair] += 1
                done = index.upsert(*rows_of(pair, standing[pair]))
                assert done.replaced.tolist() == keys  # nobody else writes to them
        last.update({key: v for pair, v in standing.items() for key in rows_of(pair, v)[1]})

    def read(name: str, see: Callable[[], dict[int, int]]) -> None:
        seen: dict[int, int] = {}
        while not stop.is_set():
            seen = check(see(), seen)
            reads[name] = reads.get(name, 0) + 1

    with ThreadPoolExecutor(16) as pool:
        writers = [pool.submit(write, writer) for writer in range(WRITERS)]
        see_all = readers(index, tmp_path)
        running = [*writers, *(pool.submit(read, *one) for one in see_all.items())]
        began = time.monotonic()
        while (past := time.monotonic() - began) < MOST and not any(one.done() for one in running):
            if past > SECONDS and len(writes) > 10 and len(reads) == len(see_all):
                break
            time.sleep(0.02)
        stop.set()
        for one in running:
            one.result(timeout=60)
    assert len(writes) > 10
    assert reads.keys() == see_all.keys()
    for name, see in readers(index, tmp_path).items():  # no update was lost
        assert see() == last, name


def test_keys_that_several_threads_are_given_are_distinct() -> None:
    index = VectorIndex(2)
    draw = np.random.default_rng(0)

    def add(_: int) -> list[int]:
        return [key for _ in range(30) for key in index.add(draw.random((3, 2)) + 1).tolist()]

    with ThreadPoolExecutor(4) as pool:
        given = [key for part in pool.map(add, range(4)) for key in part]
    assert sorted(given) == sorted(index) == list(range(360))
    assert index.edits == 120


def test_saves_of_several_threads_count_each_once(tmp_path: Path) -> None:
    index = VectorIndex(2)
    index.add(np.ones((5, 2)))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: index.save(tmp_path / "saved.index"), range(12)))
    assert index.generation == VectorIndex.open(tmp_path / "saved.index").generation == 12


def test_a_mask_fits_the_rows_of_one_state() -> None:
    index = VectorIndex(2)
    index.add(np.ones((5, 2)))
    view, mask = index.view(), np.ones(5, np.bool_)
    index.remove([0])
    assert view.search([1, 1], 9, where=mask).counts.tolist() == [5]
    with pytest.raises(ValueError, match=r"mask of shape \(5,\); \(4,\) is needed"):
        index.search([1, 1], 9, where=mask)
