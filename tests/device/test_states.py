"""What devices keep: a dictionary's answers, as a value that earlier holders don't see change."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.device.states import DeviceStates

PUTS = st.lists(
    st.lists(st.integers(0, 2_000_000), min_size=1, max_size=40, unique=True), max_size=12
)


@settings(deadline=None)
@given(PUTS)
def test_it_answers_as_a_dictionary_and_earlier_stores_stay(puts: list[list[int]]) -> None:
    store, known = DeviceStates(), dict[int, float]()
    stores, knowns = [store], [dict(known)]
    for number, places in enumerate(puts, start=1):
        store = store.put("c", np.array(places), np.full((len(places), 2), float(number)))
        known |= dict.fromkeys(places, float(number))
        stores.append(store)
        knowns.append(dict(known))
    asked = np.array(sorted({0, 31, 32, 5_000_000, *known}))
    for one, expected in zip(stores, knowns, strict=True):
        rows = one.rows("c", asked, np.array([-1.0, -1.0]))
        assert rows[:, 0].tolist() == [expected.get(int(place), -1.0) for place in asked]
        back = DeviceStates.of(one.arrays())
        assert back.rows("c", asked, np.array([-1.0, -1.0])).tolist() == rows.tolist()
        if expected:
            assert one.column("c")[0].tolist() == sorted(expected)


def test_rows_are_copies_and_names_are_apart() -> None:
    given = np.ones((1, 3))
    store = DeviceStates().put("a", np.array([4]), given)
    given[:] = 7
    taken = store.rows("a", np.array([4]), np.zeros(3))
    taken[:] = 9
    both = store.put("b", np.array([4]), np.zeros((1, 3)))
    assert both.rows("a", np.array([4]), np.zeros(3)).tolist() == [[1.0] * 3]
    assert (store.names, both.names) == (["a"], ["a", "b"])


def test_rows_in_files_answer_as_rows_in_memory_and_go_with_their_last_holder(
    tmp_path: Path,
) -> None:
    draw = np.random.default_rng(0)
    there, here = DeviceStates(tmp_path), DeviceStates()
    stores = []
    for _ in range(6):
        places = draw.permutation(200)[:30]
        rows = draw.normal(size=(30, 5)).astype(np.float32)
        there, here = there.put("v", places, rows), here.put("v", places, rows)
        stores.append((there, here))
    asked, nothing = np.arange(200), np.zeros(5, np.float32)
    for one, other in stores:
        assert (one.rows("v", asked, nothing) == other.rows("v", asked, nothing)).all()
    back = DeviceStates.of(there.arrays(), tmp_path)
    assert (back.rows("v", asked, nothing) == here.rows("v", asked, nothing)).all()
    assert len(list(tmp_path.iterdir())) == 6
    del stores, one, back
    gc.collect()
    there.pin()
    pinned = there
    there = there.put("v", np.arange(200), np.ones((200, 5), np.float32))
    del pinned
    gc.collect()
    assert len(list(tmp_path.iterdir())) == 7  # a checkpoint speaks of six
    before = DeviceStates.of(DeviceStates(tmp_path).arrays(), tmp_path)
    there.pin(before)
    del there
    gc.collect()
    assert len(list(tmp_path.iterdir())) == 7


def test_an_altered_or_missing_file_is_refused(tmp_path: Path) -> None:
    store = DeviceStates(tmp_path).put("v", np.arange(3), np.eye(3))
    arrays, [path] = store.arrays(), list(tmp_path.iterdir())
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="was altered"):
        DeviceStates.of(arrays, tmp_path)
    for odd in ("../x.npy", "other.npy"):
        with pytest.raises((ValueError, FileNotFoundError)):
            DeviceStates.of({**arrays, "v files": np.array([odd] * 3)}, tmp_path)
    with pytest.raises(ValueError, match="keep_in"):
        DeviceStates.of(arrays)
