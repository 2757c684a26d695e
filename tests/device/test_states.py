"""What devices keep: a dictionary's answers, as a value that earlier holders don't see change."""

from __future__ import annotations

import numpy as np
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
