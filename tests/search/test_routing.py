"""Routing: summaries are what they say, and queries go where their neighbours are."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from fedlab import Device
from fedlab.search import Ledger
from fedlab.search.routing import Router, Summary, summarise
from tests.helpers import DTYPES, METRICS, clustered, distances, filled, normal


def device(name: int | str, rows: np.ndarray, *kind: str) -> Device:
    return Device(name, filled(rows, *kind))


def islands(metric: str = "l2sq") -> list[Device]:
    """Ten devices, each with rows around a direction of its own."""
    return [
        device(place, np.float32(np.eye(10)[place] * 20 + normal(40, 10, place)), metric)
        for place in range(10)
    ]


@pytest.mark.parametrize("metric", METRICS)
def test_counts_are_of_all_rows_and_centroids_are_their_groups_means(metric):
    rows = clustered(300, 6, seed=1)
    found = summarise(device("a", rows, metric), centroids=5)
    assert (found.counts.sum(), len(found.centroids)) == (300, 5)
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    # However rows fall into groups, the groups' means weighted by size give the mean of all.
    mean = (found.centroids * found.counts[:, None]).sum(axis=0) / 300
    np.testing.assert_allclose(mean, rows.mean(axis=0, dtype=np.float64), atol=1e-5)


def test_a_summary_describes_rows_as_well_as_a_thorough_k_means():
    rows = clustered(400, 6, seed=2)
    found = summarise(device("a", rows, "l2sq"), centroids=20)
    spread = distances(rows, found.centroids, "l2sq").min(axis=0).sum()
    assert spread < 1.5 * KMeans(20, n_init=10, random_state=0).fit(rows).inertia_


def test_a_summary_repeats_for_any_number_of_threads_and_is_the_device_s_own():
    rows = clustered(3000, 16, seed=3)
    first = summarise(device("a", rows), 8, seed=4)
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            again = summarise(device("a", rows), 8, seed=4)
        np.testing.assert_array_equal(first.centroids, again.centroids)
        np.testing.assert_array_equal(first.counts, again.counts)
    for other in (summarise(device("b", rows), 8, seed=4), summarise(device("a", rows), 8, 5)):
        assert not np.array_equal(first.centroids, other.centroids)


def test_tiny_and_empty_devices_send_fewer_centroids_or_none():
    assert [len(summarise(device(0, normal(n, 3))).centroids) for n in (0, 1, 3, 9, 40)] == [
        *(0, 1, 1, 2, 8)
    ]
    same = summarise(device(0, np.ones((40, 3), np.float32)), 8)
    assert same.counts.tolist() == [40]
    assert summarise(device(0, normal(0, 3))).nbytes == 0


@pytest.mark.parametrize("metric", METRICS)
def test_the_devices_chosen_are_those_of_the_nearest_centroids(metric):
    devices = [device(place, clustered(50 + place, 7, seed=place), metric) for place in range(6)]
    devices.insert(2, device("empty", normal(0, 7), metric))
    router = Router.learn(devices, centroids=3)
    queries = clustered(40, 7, seed=9)
    near = np.full((40, 7), np.inf)
    for place, summary in enumerate(router.summaries):
        if len(summary.centroids):
            near[:, place] = distances(summary.centroids, queries, metric).min(axis=1)
    for m in (1, 3, 5):
        expected = np.zeros((40, 7), bool)
        np.put_along_axis(expected, np.argsort(near, axis=1)[:, :m], True, axis=1)
        np.testing.assert_array_equal(router.choose(queries, m), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_a_query_goes_to_the_island_it_lies_on(metric, dtype):
    devices = [
        device(place, np.float32(np.eye(10)[place] * 20 + normal(40, 10, place)), metric, dtype)
        for place in range(10)
    ]
    router = Router.learn(devices, centroids=2)
    np.testing.assert_array_equal(router.choose(np.eye(10) * 15, 1), np.eye(10, dtype=bool))


def test_all_devices_with_rows_are_asked_where_m_allows_and_ties_go_to_the_first():
    devices = [*islands(), device("empty", normal(0, 10), "l2sq")]
    router = Router.learn(devices)
    assert router.choose(normal(3, 10), 10).sum(axis=1).tolist() == [10, 10, 10]
    assert not router.choose(normal(3, 10), 10)[:, 10].any()
    assert router.choose(normal(3, 10), 11).all()
    twins = [device(place, np.ones((4, 3), np.float32)) for place in range(4)]
    assert Router.learn(twins).choose(np.ones(3), 2).tolist() == [[True, True, False, False]]
    nobody = Router.learn([device(0, normal(0, 3))])
    assert nobody.choose(normal(2, 3), 1).all()


def test_the_choice_does_not_depend_on_the_batch(monkeypatch):
    router = Router.learn(islands(), centroids=4)
    queries = normal(50, 10, seed=8)
    at_once = router.choose(queries, 3)
    monkeypatch.setattr("fedlab.search.routing._PRODUCTS", 100)
    np.testing.assert_array_equal(router.choose(queries, 3), at_once)
    np.testing.assert_array_equal([router.choose(query, 3)[0] for query in queries], at_once)


def test_rows_that_point_all_ways_have_a_centroid_that_is_near_to_none():
    around = device("around", np.float32([[1, 0], [-1, 0], [0, 1], [0, -1]]))
    east = device("east", np.float32([[1, 0.1]] * 4))
    router = Router.learn([around, east], centroids=1)
    assert router.choose([[1.0, 0.0]], 1).tolist() == [[False, True]]


def test_noisy_summaries_may_stand_in_the_place_of_plain_ones():
    directions = np.eye(3)
    noisy = [
        Summary(directions[:2] + 0.01, np.array([12, -3])),  # as released with noise, in float64
        Summary(directions[1:] - 0.01, np.array([5, 4])),
        Summary(directions[:1], np.array([0])),
    ]
    router = Router(["a", "b", "c"], noisy, "cosine")
    asked = router.choose(directions, 1)
    assert asked.tolist() == [[True, False, False], [False, True, False], [False, True, False]]
    assert router.choose(directions[0], 2).tolist() == [[True, True, False]]
    assert router.nbytes == 16 * 5


def test_bytes_are_counted_as_set_up():
    devices = [device(name, normal(rows, 16)) for name, rows in (("a", 100), ("b", 9), ("c", 0))]
    router = Router.learn(devices, centroids=8)
    ledger = Ledger(["a", "b", "c"])
    router.note(ledger)
    assert (ledger.up, ledger.down, ledger.rounds) == (4 * 17 * (8 + 2), 0, 0)
    assert router.nbytes == ledger.up
    assert ledger.to_frame()["bytes"].tolist() == [4 * 17 * 8, 4 * 17 * 2, 0]


def test_what_cannot_be_routed_is_refused():
    with pytest.raises(ValueError, match="no devices were given"):
        Router.learn([])
    with pytest.raises(ValueError, match=r"device 1 holds 3 .* l2sq, device 0 3 for cosine"):
        Router.learn([device(0, normal(9, 3)), device(1, normal(9, 3), "l2sq")])
    with pytest.raises(ValueError, match="two devices have the same id, 0"):
        Router.learn(islands()[:1] * 2)
    with pytest.raises(TypeError, match=r"device 0 alone was given; devices go in a list"):
        Router.learn(islands()[0])
    with pytest.raises(ValueError, match="centroids is 0"):
        Router.learn(islands(), centroids=0)
    router = Router.learn(islands())
    with pytest.raises(ValueError, match="m is 0"):
        router.choose(normal(1, 10), 0)
    with pytest.raises(ValueError, match="queries"):
        router.choose(normal(1, 11), 1)
    summary = Summary(normal(2, 3), np.array([1, 1]))
    with pytest.raises(ValueError, match="1 summaries were given for 2"):
        Router(["a", "b"], [summary], "cosine")
    with pytest.raises(ValueError, match="differ in dimensions"):
        Router(["a", "b"], [summary, Summary(normal(2, 4), np.ones(2))], "cosine")
    with pytest.raises(ValueError, match="metric is 'dot'"):
        Router(["a"], [summary], "dot")
    with pytest.raises(ValueError, match="NaN"):
        Summary(np.float32([[np.nan]]), np.ones(1))
    with pytest.raises(ValueError, match="shape"):
        Summary(normal(2, 3), np.ones(3))
