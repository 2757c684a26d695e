"""The table of costs says what was sent."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab import Device, VectorIndex
from fedlab.search.private import Session, costs, vote
from tests.helpers import normal


def test_costs_are_those_of_the_schemes() -> None:
    devices = []
    for place in range(5):
        index = VectorIndex(16)
        index.add(normal(40, 16, place), labels=np.arange(40) % 3)
        devices.append(Device(place, index))
    queries = normal(20, 16, 9)
    table = costs(devices, queries, 4, [0, 1, 2])
    assert list(table.index) == [
        "plain",
        "masked k-th distance",
        "masked vote",
        "two-server shares",
    ]
    # Devices x (vector + hits); one-byte counts and a bit a round; votes; shares of 200 rows.
    assert table["bytes"].tolist() == [
        5 * (16 * 4 + 4 * 16),
        5 * (16 * 4 + 32 * 1 + 32 * 3 / 20),
        5 * (16 * 4 + 32 * 1 + 32 * 3 / 20 + 3 * 4),
        32 * 16 + 24 * 200,
    ]
    assert table["vectors"].tolist() == [5 * 16 * 4] * 3 + [2 * 16 * 8]
    assert table["rounds"].tolist() == [1, 32, 33, 2]
    assert table["setup_bytes"].tolist() == [0, 5 * 32 * 5, 5 * 32 * 5, 32 * 16 * 200 + 64]
    assert (table["ms"] > 0).all()
    session = Session(range(5))
    ledger = vote(devices, queries, 4, [0, 1, 2], session=session).ledger
    assert table.loc["masked vote", "bytes"] * 20 == ledger.bytes
    with pytest.raises(ValueError, match="no queries"):
        costs(devices, np.empty((0, 16)), 4)
