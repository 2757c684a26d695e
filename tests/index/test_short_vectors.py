"""Under inner product, vectors scaled by a power of two stand in the same order, however short."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab import Device, VectorIndex
from fedlab.search import FederatedSearch
from fedlab.search.messages import Request, Shown
from fedlab.search.private.shared_index import SharedIndex
from fedlab.search.verification import flaw_in_rows
from tests.helpers import filled, normal

ROWS, QUERIES = normal(3_000, 24), normal(20, 24, seed=1)
EXPECTED = np.argsort(-(QUERIES.astype(np.float64) @ ROWS.T.astype(np.float64)), axis=1)[:, :10]

scales = pytest.mark.parametrize("scale", [2.0**-8, 2.0**-30, 2.0**-62])


@scales
@pytest.mark.parametrize("few", [2, 20])
def test_the_scan_orders_by_products(scale: float, few: int) -> None:
    index = filled(np.float32(scale) * ROWS, "inner")
    hits = index.search(np.float32(scale) * QUERIES[:few], 10, exact=True)
    assert hits.keys.tolist() == EXPECTED[:few].tolist()
    # The true distances can't be told apart; they are what the docs say.
    products = (QUERIES[:few, None].astype(np.float64) * ROWS[EXPECTED[:few]]).sum(axis=2)
    np.testing.assert_allclose(hits.distances, 1 - scale**2 * products, atol=1e-13)


@scales
def test_chosen_rows_and_those_within_a_radius_are_ordered_by_products(scale: float) -> None:
    index = filled(np.float32(scale) * ROWS, "inner")
    queries = np.float32(scale) * QUERIES
    mask = np.isin(np.arange(len(ROWS)), EXPECTED)
    assert index.search(queries, 10, where=mask).keys.tolist() == EXPECTED.tolist()
    near = index.within(queries, 2.0, limit=10)
    assert near.keys.reshape(20, 10).tolist() == EXPECTED.tolist()


@scales
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("where", [None, "key >= 0"])
def test_answers_across_devices_are_ordered_by_products(
    scale: float, exact: bool, where: str | None
) -> None:
    devices = []
    for place, part in enumerate(np.split(np.arange(len(ROWS)), 3)):
        index = VectorIndex(24, "inner")
        index.add(np.float32(scale) * ROWS[part], keys=part)
        devices.append(Device(place, index))
    search = FederatedSearch(devices, exact=exact, check="vectors")
    hits = search.search(np.float32(scale) * QUERIES, 10, where=where)
    assert not hits.set_aside
    right = np.mean(hits.keys == EXPECTED)
    assert right == 1 if exact else right > 0.95


@scales
def test_a_graph_over_short_rows_finds_them(scale: float) -> None:
    index = filled(np.float32(scale) * ROWS, "inner")
    hits = index.search(np.float32(scale) * QUERIES, 10, exact=False)
    assert np.mean([np.isin(a, b).mean() for a, b in zip(hits.keys, EXPECTED, strict=True)]) > 0.95


def test_a_row_that_claims_a_product_it_does_not_have_is_caught_however_short() -> None:
    rows = np.float32(2.0**-30) * ROWS[:30]
    query = np.float32(2.0**-30) * QUERIES[:1]
    true = -(rows[:1].astype(np.float64) * query).sum()
    for claimed, caught in ((true, False), (2 * true, True)):
        flaw = flaw_in_rows(
            Shown(b"n", rows[:1]),
            Request(np.zeros(1, np.uint64), b"n"),
            (np.zeros(1, np.int64), query, np.array([claimed])),
            "inner",
            None,
        )
        assert (flaw is not None) == caught


@scales
def test_rows_in_secret_shares_are_ordered_by_products(scale: float) -> None:
    few = [
        Device(place, filled(np.float32(scale) * ROWS[place:300:2], "inner")) for place in (0, 1)
    ]
    hits = SharedIndex(few).search(np.float32(scale) * QUERIES[:3], 5)
    expected = np.argsort(-(QUERIES[:3].astype(np.float64) @ ROWS[:300].T), axis=1)[:, :5]
    assert (2 * hits.keys.astype(np.int64) + hits.devices).tolist() == expected.tolist()
