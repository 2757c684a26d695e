"""Approximate search: equal to brute force where nothing is saved, and honest where it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedlab import Device
from fedlab.checks import KEY_LIMIT
from fedlab.search.approximate import ApproximateSearch
from fedlab.search.quantised import QUERY_TYPES, bytes_a_query, pack
from fedlab.search.routing import Router
from tests.helpers import METRICS, clustered, distances, filled, normal

SIZES = (60, 0, 25, 1, 110, 3)


def federation(metric: str = "cosine", dtype: str = "f32") -> list[Device]:
    parts = [clustered(rows, 24, seed=10 + rows) for rows in SIZES]
    return [
        Device(f"ward {place}", filled(rows, metric, dtype)) for place, rows in enumerate(parts)
    ]


def brute_force(devices: list[Device], queries: Any, k: int, metric: str) -> tuple[Any, Any, Any]:
    """Devices, keys and distances of the k nearest, in the order distance, device, key."""
    rows = np.concatenate([device.index.vectors for device in devices])
    places = np.repeat(np.arange(len(devices)), [len(device.index) for device in devices])
    keys = np.concatenate([device.index.keys for device in devices])
    far = distances(rows, queries, metric).astype(np.float64)
    order = np.array([np.lexsort((keys, places, row)) for row in far])[:, :k]
    return places[order], keys[order], np.take_along_axis(far, order, 1)


@pytest.mark.parametrize("dtype", ["f32", "i8"])
@pytest.mark.parametrize("metric", METRICS)
def test_where_nothing_is_saved_the_answer_is_the_central_one_and_certified(metric, dtype):
    devices, queries = federation(metric, dtype), clustered(30, 24, seed=5)
    found = ApproximateSearch(devices, exact=True).search(queries, 10)
    places, keys, far = brute_force(devices, queries, 10, metric)
    np.testing.assert_array_equal(found.devices, places)
    np.testing.assert_array_equal(found.keys, keys)
    np.testing.assert_allclose(found.distances, far, atol=1e-6, rtol=1e-6)
    assert found.certified.all()
    everyone = ApproximateSearch(devices, Router.learn(devices), ask=6, exact=True)
    np.testing.assert_array_equal(everyone.search(queries, 10).keys, keys)
    assert everyone.search(queries, 10).certified.all()


def test_ties_within_and_across_devices_stand_in_the_order_of_device_and_key():
    devices = [Device(place, filled(np.ones((4, 3), np.float32), "l2sq")) for place in range(3)]
    found = ApproximateSearch(devices, exact=True).search(np.ones(3), 10)
    assert found.devices[0].tolist() == [0] * 4 + [1] * 4 + [2] * 2
    assert found.keys[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_each_saving_voids_the_certificate():
    devices, queries = federation(), clustered(9, 24, seed=5)
    router = Router.learn(devices)
    for saving in (
        ApproximateSearch(devices, router, ask=4, exact=True),
        ApproximateSearch(devices, query="f16", exact=True),
        ApproximateSearch(devices, exact=False),
        ApproximateSearch(devices, exact=True, rescore=5),
    ):
        assert not saving.search(queries, 5).certified.any()
    exact = ApproximateSearch(devices, exact=True)
    assert not exact.search(queries, 5, hits=4).certified.any()
    assert exact.search(queries, 500, hits=110).certified.all()  # that is all they have


@pytest.mark.parametrize("query", QUERY_TYPES)
def test_bytes_are_what_the_formula_says(query):
    devices, queries = federation(), clustered(40, 24, seed=6)
    router = Router.learn(devices)
    for m, hits in ((1, 3), (2, 10), (5, 30)):
        ledger = ApproximateSearch(devices, router, m, query).search(queries, 10, hits).ledger
        asked = router.choose(queries, m).sum(axis=0)
        returned = np.minimum(hits, SIZES)
        assert ledger.down == (asked * bytes_a_query(24, query)).sum()
        assert ledger.up == router.nbytes + (asked * returned * 12).sum()
        assert ledger.rounds == 1
        by_device = ledger.frame().query("what == 'hits'").set_index("device")["bytes"]
        assert {name: size for name, size in by_device.items() if size} == {
            f"ward {place}": size for place, size in enumerate(asked * returned * 12) if size
        }


def test_distances_are_to_the_decoded_query():
    devices, queries = federation("l2sq"), clustered(20, 24, seed=7)
    found = ApproximateSearch(devices, query="b1", exact=True).search(queries, 8)
    decoded = pack(queries, 24, "l2sq", "b1").decoded()
    _, keys, far = brute_force(devices, decoded, 8, "l2sq")
    np.testing.assert_array_equal(found.keys, keys)
    np.testing.assert_allclose(found.distances, far, rtol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_rescoring_puts_distances_and_order_right_and_counts_its_bytes(metric):
    devices, queries = federation(metric), clustered(20, 24, seed=8)
    plain = ApproximateSearch(devices, query="b1", exact=True)
    again = ApproximateSearch(devices, query="b1", exact=True, rescore=10)
    pool, found = plain.search(queries, 10), again.search(queries, 5, hits=10)
    for number, query in enumerate(queries):
        rows = np.concatenate(
            [
                devices[place].index.get([key])
                for place, key in zip(pool.devices[number], pool.keys[number], strict=True)
            ]
        )
        far = distances(rows, query[None], metric)[0].astype(np.float64)
        order = np.lexsort((pool.keys[number], pool.devices[number], far))[:5]
        np.testing.assert_array_equal(found.keys[number], pool.keys[number][order])
        np.testing.assert_allclose(found.distances[number], far[order], atol=1e-6, rtol=1e-6)
    second = found.ledger.frame().query("round == 2")
    holders = sum(len(np.unique(row)) for row in pool.devices)
    assert second[second.direction == "down"]["bytes"].sum() == holders * 24 * 4 + 200 * 8
    assert second[second.direction == "up"]["bytes"].sum() == 200 * 4


def test_graphs_answer_and_find_nearly_all():
    devices, queries = federation(), clustered(40, 24, seed=9)
    found = ApproximateSearch(devices, exact=False).search(queries, 10)
    truth = ApproximateSearch(devices, exact=True).search(queries, 10)
    assert all(device.index.has_graph for device in devices if len(device.index))
    assert (found.keys == truth.keys).mean() > 0.98


def test_fewer_rows_than_asked_for_leave_places_empty():
    devices = [Device(0, filled(normal(2, 3))), Device(1, filled(normal(0, 3)))]
    found = ApproximateSearch(devices).search(normal(2, 3), 5)
    assert found.counts.tolist() == [2, 2]
    assert (found.keys[:, 2:] == KEY_LIMIT).all()
    assert (found.devices[:, 2:] == -1).all()
    assert np.isinf(found.distances[:, 2:]).all()
    nothing = ApproximateSearch(devices[1:], rescore=5).search(normal(2, 3), 5)
    assert nothing.counts.tolist() == [0, 0]
    assert ApproximateSearch(devices).search(np.empty((0, 3)), 5).keys.shape == (0, 5)


def test_what_cannot_be_searched_is_refused():
    devices = federation()
    with pytest.raises(ValueError, match="no router says whom"):
        ApproximateSearch(devices, ask=3)
    with pytest.raises(ValueError, match="another order"):
        ApproximateSearch(devices, Router.learn(devices[::-1]))
    with pytest.raises(ValueError, match="query is 'f8'"):
        ApproximateSearch(devices, query="f8")
    with pytest.raises(ValueError, match="2 kinds"):
        ApproximateSearch([*devices, Device("odd", filled(normal(9, 24), "l2sq"))])
    with pytest.raises(ValueError, match="ask is 0"):
        ApproximateSearch(devices, Router.learn(devices), ask=0)
    with pytest.raises(ValueError, match="k is 0"):
        ApproximateSearch(devices).search(normal(1, 24), 0)
    with pytest.raises(ValueError, match="hits is 0"):
        ApproximateSearch(devices).search(normal(1, 24), 5, hits=0)
