"""What a search saves: equal to brute force over whom it asked and what it sent, and honest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlab import Device
from fedlab.data.partitions.schemes import dirichlet
from fedlab.search import FederatedSearch, federated_recall
from fedlab.search.messages import Answer, Question
from fedlab.search.queries import QUERY_TYPES, bytes_a_query, pack
from fedlab.search.respondent import Responding
from fedlab.search.routing import Router
from tests.helpers import METRICS, clustered, distances, filled, gaussians, normal

SIZES = (60, 0, 25, 1, 110, 3)
D = 24


def federation(metric: str = "cosine", dtype: str = "f32") -> list[Device]:
    parts = [clustered(rows, D, seed=10 + rows) for rows in SIZES]
    return [
        Device(f"ward {place}", filled(rows, metric, dtype)) for place, rows in enumerate(parts)
    ]


def brute_force(
    devices: list[Device], queries: Any, k: int, asked: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.float64]]:
    """Devices, keys and distances of the k nearest among the devices asked."""
    rows = np.concatenate([device.index.vectors for device in devices])
    places = np.repeat(np.arange(len(devices)), [len(device.index) for device in devices])
    keys = np.concatenate([device.index.keys for device in devices])
    far = distances(rows, queries, devices[0].index.metric).astype(np.float64)
    if asked is not None:
        far[~asked[:, places]] = np.inf
    order = np.array([np.lexsort((keys, places, row)) for row in far])[:, :k]
    return places[order], keys[order], np.take_along_axis(far, order, 1)


@pytest.mark.parametrize("first", [1, 4, None])
@pytest.mark.parametrize("metric", METRICS)
def test_the_answer_is_that_of_the_devices_asked(metric, first):
    devices, queries = federation(metric), clustered(30, D, seed=5)
    router = Router.learn(devices, centroids=3)
    for ask in (2, 3):
        found = FederatedSearch(devices, router=router, ask=ask, first=first).search(queries, 5)
        places, keys, far = brute_force(devices, queries, 5, router.choose(queries, ask))
        there = np.isfinite(far)  # two devices may hold fewer than five rows
        assert found.counts.tolist() == there.sum(axis=1).tolist()
        np.testing.assert_array_equal(found.devices[there], places[there])
        np.testing.assert_array_equal(found.keys[there], keys[there])
        np.testing.assert_allclose(found.distances, far, atol=1e-6, rtol=1e-6)
        assert not found.certified.any()


def test_all_devices_asked_is_the_central_answer_certified():
    devices, queries = federation(), clustered(30, D, seed=5)
    central = FederatedSearch(devices).search(queries, 10)
    routed = FederatedSearch(devices, router=Router.learn(devices), ask=6).search(queries, 10)
    for name in ("devices", "keys", "distances", "certified"):
        np.testing.assert_array_equal(getattr(routed, name), getattr(central, name))
    assert routed.certified.all()


@pytest.mark.parametrize("query", QUERY_TYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_devices_search_for_what_they_decode(metric, query):
    devices, queries = federation(metric), clustered(20, D, seed=7)
    found = FederatedSearch(devices, query=query).search(queries, 8)
    decoded = pack(queries, D, metric, query).decoded()
    places, keys, far = brute_force(devices, decoded, 8)
    np.testing.assert_array_equal(found.keys, keys)
    np.testing.assert_array_equal(found.devices, places)
    np.testing.assert_allclose(found.distances, far, atol=1e-6, rtol=1e-6)
    assert (found.certified == (query == "f32")).all()


@pytest.mark.parametrize("query", QUERY_TYPES)
def test_bytes_are_what_the_formula_says(query):
    devices, queries = federation(), clustered(40, D, seed=6)
    router = Router.learn(devices)
    for ask in (1, 2, 5):
        search = FederatedSearch(devices, first=10, router=router, ask=ask, query=query)
        ledger = search.search(queries, 10).ledger
        asked = router.choose(queries, ask).sum(axis=0)
        messages = np.count_nonzero(asked)
        # A question: k and 16 bytes of nonce; an answer: counts, distances, keys and the nonce.
        assert ledger.down == (asked * bytes_a_query(D, query)).sum() + 20 * messages
        hits = asked * np.minimum(10, SIZES)
        assert ledger.up == router.nbytes + (16 * hits + 4 * asked).sum() + 16 * messages
        assert ledger.rounds == 1
        setup = ledger.to_frame().query("round == 0")
        assert (setup.what == "centroids").all()
        assert setup["bytes"].sum() == router.nbytes


def test_not_asking_again_leaves_certified_what_the_first_hits_prove():
    devices, queries = federation(), clustered(60, D, seed=3)
    once = FederatedSearch(devices, first=6, ask_again=False).search(queries, 10)
    central = FederatedSearch(devices).search(queries, 10)
    assert once.ledger.rounds == 1
    assert once.certified.tolist() != [False] * 60
    assert not once.certified.all()
    np.testing.assert_array_equal(once.keys[once.certified], central.keys[once.certified])
    wrong = (once.keys != central.keys).any(axis=1) | (once.devices != central.devices).any(axis=1)
    assert wrong.any()
    assert not (wrong & once.certified).any()


def test_savings_work_together_through_graphs_checks_and_threads():
    devices, queries = federation("l2sq", "f16"), clustered(25, D, seed=9)
    router = Router.learn(devices)
    given = {"router": router, "ask": 3, "query": "i8", "exact": False, "check": "commitment"}
    one, several = (
        FederatedSearch(devices, threads=threads, **given).search(queries, 4) for threads in (1, 3)
    )
    np.testing.assert_array_equal(one.keys, several.keys)
    decoded = pack(queries, D, "l2sq", "i8").decoded()
    _, keys, _ = brute_force(devices, decoded, 4, router.choose(queries, 3))
    assert (one.keys == keys).mean() > 0.97
    assert not one.set_aside
    assert set(one.approximate) <= {f"ward {place}" for place in range(6)}
    assert one.approximate
    assert not one.certified.any()


def test_a_block_of_queries_is_routed_query_by_query(monkeypatch):
    devices, queries = federation(), clustered(50, D, seed=4)
    search = FederatedSearch(devices, router=Router.learn(devices), ask=2)
    whole = search.search(queries, 5)
    monkeypatch.setattr("fedlab.search.federated._QUERIES", 7)
    np.testing.assert_array_equal(search.search(queries, 5).keys, whole.keys)
    np.testing.assert_array_equal(
        np.concatenate([search.search(query, 5).keys for query in queries]), whole.keys
    )


def test_nobody_to_ask_finds_nothing():
    empty = [Device(place, filled(normal(0, 3))) for place in range(3)]
    found = FederatedSearch(empty, router=Router.learn(empty), ask=1).search(normal(2, 3), 5)
    assert found.counts.tolist() == [0, 0]
    assert (found.devices == -1).all()


def test_what_cannot_be_saved_is_refused():
    devices = federation()
    router = Router.learn(devices)
    with pytest.raises(ValueError, match="no router says whom"):
        FederatedSearch(devices, ask=3)
    with pytest.raises(ValueError, match="not how many devices to ask"):
        FederatedSearch(devices, router=router)
    with pytest.raises(ValueError, match="another order"):
        FederatedSearch(devices[::-1], router=router, ask=1)
    with pytest.raises(ValueError, match="ask is 0"):
        FederatedSearch(devices, router=router, ask=0)
    with pytest.raises(ValueError, match="query is 'f8'"):
        FederatedSearch(devices, query="f8")
    others = [Device(device.id, filled(normal(5, 3))) for device in devices]
    with pytest.raises(ValueError, match="24 dimensions under cosine, the devices hold 3"):
        FederatedSearch(others, router=router, ask=1)


@dataclass
class Liar:
    """A device that claims to hold a row at distance zero from every query."""

    honest: Responding

    def __getattr__(self, name: str) -> Any:
        return getattr(self.honest, name)

    def ask(self, question: Question) -> Answer:
        answer = self.honest.ask(question)
        distances = answer.distances.copy()
        distances[:, 0] = 0.0
        return replace(answer, distances=distances)


def test_a_hostile_device_that_routing_chose_is_set_aside():
    devices, queries = federation("l2sq"), clustered(30, D, seed=5)
    router = Router.learn(devices)
    liar: list[Any] = [*devices[:4], Liar(Responding(devices[4])), devices[5]]
    given = {"router": router, "ask": 2, "query": "f16", "check": "vectors"}
    found = FederatedSearch(liar, **given).search(queries, 4)
    assert list(found.set_aside) == ["ward 4"]
    # The rest of those chosen answer alone; nobody is asked in its place.
    asked = router.choose(queries, 2)
    asked[:, 4] = False
    _, keys, far = brute_force(devices, pack(queries, D, "l2sq", "f16").decoded(), 4, asked)
    there = np.isfinite(far)
    np.testing.assert_array_equal(found.keys[there], keys[there])
    assert found.counts.tolist() == there.sum(axis=1).tolist()


@pytest.mark.parametrize("check", ["none", "vectors"])
@pytest.mark.parametrize("metric", METRICS)
def test_rescoring_puts_order_and_distances_right(metric, check):
    devices, queries = federation(metric), clustered(20, D, seed=8)
    pool = FederatedSearch(devices, query="b1").search(queries, 30)
    found = FederatedSearch(devices, query="b1", rescore=30, check=check).search(queries, 5)
    for number, query in enumerate(queries):
        held = list(zip(pool.devices[number].tolist(), pool.keys[number], strict=True))
        rows = np.concatenate([devices[place].index.get([key]) for place, key in held])
        far = distances(rows, query[None], metric)[0].astype(np.float64)
        order = np.lexsort((pool.keys[number], pool.devices[number], far))[:5]
        assert found.keys[number].tolist() == [held[place][1] for place in order]
        assert found.devices[number].tolist() == [held[place][0] for place in order]
        np.testing.assert_allclose(found.distances[number], far[order], atol=1e-6, rtol=1e-6)
    assert not found.certified.any()
    assert not found.set_aside
    assert found.ledger.rounds == (3 if check == "none" else 4)


def test_rescoring_counts_its_bytes_and_lifts_recall():
    devices, queries = federation("l2sq"), clustered(60, D, seed=8)
    central = FederatedSearch(devices).search(queries, 5)
    pool = FederatedSearch(devices, query="b1").search(queries, 20)
    plain = FederatedSearch(devices, query="b1").search(queries, 5)
    again = FederatedSearch(devices, query="b1", rescore=20).search(queries, 5)
    recalls = [federated_recall(hits, central) for hits in (plain, again)]
    assert recalls[0] + 0.1 < recalls[1]
    third = again.ledger.to_frame().query("round == 3")
    holders = sum(len(np.unique(row)) for row in pool.devices)
    messages = len(np.unique(pool.devices))
    down, up = (third[third.direction == way]["bytes"].sum() for way in ("down", "up"))
    assert down == holders * 4 * D + 60 * 20 * 12 + 16 * messages
    assert up == 60 * 20 * 8 + 16 * messages


def test_the_more_is_measured_again_the_more_is_found():
    rows, of_row, queries = gaussians(rows=4_000, queries=100, seed=1)
    split = dirichlet(of_row, 10, 0.1, 0)
    devices = [Device(place, filled(rows[part])) for place, part in enumerate(split.rows)]
    central = FederatedSearch(devices).search(queries, 10)
    found = [
        FederatedSearch(devices, first=10, query="b1", rescore=rescore).search(queries, 10)
        for rescore in (0, 40, 160)
    ]
    recalls = [federated_recall(hits, central) for hits in found]
    assert recalls[0] + 0.2 < recalls[1] < recalls[2] - 0.05
    assert found[0].ledger.bytes < found[1].ledger.bytes < found[2].ledger.bytes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: replace(m, distances=m.distances * np.nan), "metric doesn't have"),
        (lambda m: replace(m, distances=-1 - m.distances), "metric doesn't have"),
        (lambda m: replace(m, distances=m.distances[1:]), "no float64 distances"),
        (lambda m: replace(m, nonce=bytes(16)), "replay"),
        (lambda m: None, "NoneType"),
        (lambda m: replace(m, distances=m.distances * 0), "distance it had claimed"),
    ],
)
def test_false_measurements_are_noticed(change, said):
    devices = federation("l2sq")
    liar = Liar(Responding(devices[4]))
    liar.ask, honest = liar.honest.ask, liar.honest.measure
    liar.measure = lambda request: change(honest(request))
    members: list[Any] = [*devices[:4], liar, devices[5]]
    search = FederatedSearch(members, query="i8", rescore=8, check="vectors")
    found = search.search(clustered(20, D, seed=2), 4)
    assert said in found.set_aside["ward 4"]
    assert not (found.devices == 4).any()


def test_rescoring_needs_something_to_put_right():
    devices = federation()
    with pytest.raises(ValueError, match="queries travel in full"):
        FederatedSearch(devices, rescore=10)
    with pytest.raises(ValueError, match="rescore is -1"):
        FederatedSearch(devices, query="i8", rescore=-1)
    empty = FederatedSearch([Device(0, filled(normal(0, 3)))], query="i8", rescore=5)
    assert empty.search(normal(2, 3), 3).counts.tolist() == [0, 0]
