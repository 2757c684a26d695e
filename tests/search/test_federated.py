"""The federated answer against brute force over all rows of all devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlab.device.device import Device
from fedlab.index.scan import measure
from fedlab.search import FederatedHits, FederatedSearch
from fedlab.search.federated import first_asked
from tests.helpers import DTYPES, METRICS, clustered, distances, filled, normal


def federation(
    parts: Sequence[NDArray[np.float32]], metric: str = "l2sq", dtypes: Sequence[str] = ("f32",)
) -> list[Device]:
    """Devices over given rows, each with keys of its own in no order."""
    draw = np.random.default_rng(7)
    return [
        Device(
            f"device {place}",
            filled(
                rows,
                metric,
                dtypes[place % len(dtypes)],
                keys=draw.choice(10 * len(rows) + 1, len(rows), replace=False),
            ),
        )
        for place, rows in enumerate(parts)
    ]


def check(devices: Sequence[Device], queries: NDArray[np.float32], k: int, hits: Any) -> None:
    """Compare with one sort over all rows, measured in extended precision and by `measure`."""
    rows = np.concatenate([device.index.vectors for device in devices])
    keys = np.concatenate([device.index.keys for device in devices])
    holder = np.repeat(np.arange(len(devices)), [len(device.index) for device in devices])
    held, metric = min(k, len(rows)), devices[0].index.metric
    assert hits.counts.tolist() == [held] * len(queries)
    assert hits.certified.all()
    assert not hits.set_aside
    assert (hits.devices[:, held:] == -1).all()
    assert (hits.keys[:, held:] == 2**64 - 1).all()
    assert np.isposinf(hits.distances[:, held:]).all()
    exact = distances(rows, queries, metric)
    for q, query in enumerate(queries):
        measured = measure(rows, np.repeat(query[None], len(rows), axis=0), metric)
        order = np.lexsort((keys, holder, measured))[:held]
        assert hits.devices[q, :held].tolist() == holder[order].tolist()
        assert hits.keys[q, :held].tolist() == keys[order].tolist()
        assert hits.distances[q, :held].tolist() == measured[order].tolist()
        scale = 1 + np.abs(exact[q]).max(initial=0)
        assert (np.abs(hits.distances[q, :held] - np.sort(exact[q])[:held]) < 1e-6 * scale).all()


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Device], NDArray[np.float32], int, int | None]:
    """Devices of any sizes and types, with few distinct rows: duplicates within and across."""
    metric, dimensions = draw(st.sampled_from(METRICS)), draw(st.integers(1, 20))
    sizes = draw(st.lists(st.integers(0, 15), min_size=1, max_size=7))
    dtypes = draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4))
    distinct = draw(st.integers(1, 30))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    near = draw(st.sampled_from([1.0, 1e-4, 1e-7]))
    rows = (1 + near * generator.normal(size=(distinct, dimensions))).astype(np.float32)
    parts = [rows[generator.integers(distinct, size=size)] for size in sizes]
    queries = np.concatenate([rows[:2], normal(draw(st.integers(0, 5)), dimensions) + 0.1])
    first = draw(st.one_of(st.none(), st.integers(1, 5)))
    return federation(parts, metric, dtypes), queries, draw(st.integers(1, 40)), first


@settings(max_examples=150, deadline=None)
@given(cases())
def test_the_federated_answer_is_the_central_one(case: Any) -> None:
    devices, queries, k, first = case
    check(devices, queries, k, FederatedSearch(devices, first=first).search(queries, k))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queries", [1, 40])
def test_real_sizes(metric: str, dtype: str, queries: int) -> None:
    rows = clustered(1500, 40)
    parts = np.split(rows, [3, 3, 400, 401, 900, 1100])  # one of them is empty
    devices = federation(parts, metric, (dtype, "f32"))
    asked = clustered(queries, 40, seed=0)
    check(devices, asked, 10, FederatedSearch(devices).search(asked, 10))


def test_k_beyond_all_rows_and_no_rows_at_all() -> None:
    devices = federation(np.split(normal(10, 3), [4, 4]))
    check(devices, normal(5, 3, seed=1), 50, FederatedSearch(devices).search(normal(5, 3, 1), 50))
    empty = federation([normal(0, 3), normal(0, 3)])
    hits = FederatedSearch(empty).search(normal(2, 3), 4)
    assert (hits.counts.tolist(), hits.certified.tolist()) == ([0, 0], [True, True])
    none = FederatedSearch(devices).search(np.empty((0, 3)), 4)
    assert none.keys.shape == (0, 4)


def test_equal_rows_stand_by_device_and_key() -> None:
    same = np.ones((50, 4), np.float32)
    devices = federation([same, same[:7], same])
    hits = FederatedSearch(devices, first=2).search(same[0], 60)
    check(devices, same[:1], 60, hits)
    assert hits.devices[0].tolist() == [0] * 50 + [1] * 7 + [2] * 3


def test_bits_do_not_depend_on_threads_batches_or_the_first_round() -> None:
    devices = federation(np.array_split(clustered(3000, 32), 12), "cosine")
    queries = clustered(60, 32, seed=0)
    plain = FederatedSearch(devices, threads=1).search(queries, 10)
    for first, threads in ((1, 1), (4, 3), (10, 2)):
        other = FederatedSearch(devices, first=first, threads=threads).search(queries, 10)
        for name in ("devices", "keys", "distances"):
            np.testing.assert_array_equal(getattr(other, name), getattr(plain, name))
    alone = [FederatedSearch(devices).search(query, 10) for query in queries[:10]]
    found = np.concatenate([hits.distances for hits in alone])
    np.testing.assert_array_equal(found, plain.distances[:10])


def test_large_batches_are_cut_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = federation(np.array_split(clustered(600, 8), 5))
    queries = clustered(50, 8, seed=0)
    whole = FederatedSearch(devices).search(queries, 6)
    monkeypatch.setattr("fedlab.search.federated._QUERIES", 7)
    cut = FederatedSearch(devices).search(queries, 6)
    np.testing.assert_array_equal(cut.keys, whole.keys)
    assert cut.certified.all()
    assert cut.ledger.rounds == whole.ledger.rounds


def rounds(hits: FederatedHits) -> dict[int, set[Any]]:
    frame = hits.ledger.to_frame()
    return {r: set(part["device"]) for r, part in frame.groupby("round")}


def test_only_those_that_could_hold_more_are_asked_again() -> None:
    near = np.zeros((8, 2), np.float32) + np.arange(8)[:, None] / 100
    devices = federation([near, near + 50, near + 100])
    hits = FederatedSearch(devices, first=2).search([[0.0, 0.0], [50.0, 50.0]], 5)
    check(devices, np.float32([[0, 0], [50, 50]]), 5, hits)
    assert rounds(hits)[2] == {"device 0", "device 1"}
    one = FederatedSearch(devices, first=5).search([0.0, 0.0], 5)
    assert one.ledger.rounds == 1


def test_the_ledger_counts_queries_hits_and_rounds() -> None:
    devices = federation([normal(6, 4), normal(6, 4, seed=1), normal(1, 4, seed=2)])
    hits = FederatedSearch(devices, first=3).search(normal(2, 4, seed=3), 3)
    # A query is 16 bytes, k and nonce 20; a hit 16, a count 4, a nonce 16.
    assert hits.ledger.down == 3 * (2 * 16 + 20)
    assert hits.ledger.up == (2 * 6 + 2) * 16 + 3 * (2 * 4 + 16)
    assert hits.ledger.rounds == 1


def test_small_first_rounds_save_bytes_and_rarely_need_a_second() -> None:
    devices = federation(np.array_split(clustered(5000, 24), 50))
    queries = clustered(300, 24, seed=0)
    small, full = (FederatedSearch(devices, first=f).search(queries, 10) for f in (None, 10))
    np.testing.assert_array_equal(small.keys, full.keys)
    assert small.ledger.up < 0.4 * full.ledger.up
    frame = small.ledger.to_frame()
    again = frame[(frame["round"] == 2) & (frame["what"] == "queries")]["bytes"].sum()
    assert again < 0.05 * frame[frame["round"] == 1]["bytes"].sum()


def test_first_asked_follows_the_birthday_bound() -> None:
    draw = np.random.default_rng(0)
    for count, k in ((100, 10), (50, 10), (20, 30), (7, 5)):
        first = first_asked(count, k)
        lots = draw.integers(count, size=(4000, k))
        held = np.stack([(lots == device).sum(axis=1) for device in range(count)])
        assert (held >= first).sum(axis=0).mean() < 0.15
        if first > 1:
            assert (held >= first - 1).sum(axis=0).mean() > 0.05
    assert first_asked(1, 8) == 8
    assert first_asked(10, 1) == 1


def test_a_graph_voids_the_certificate_and_the_answer_says_so() -> None:
    devices = federation(np.array_split(clustered(1500, 16), 3))
    queries = clustered(20, 16, seed=0)
    hits = FederatedSearch(devices, exact=False).search(queries, 5)
    assert not hits.certified.any()
    assert hits.approximate == ("device 0", "device 1", "device 2")
    exact = FederatedSearch(devices).search(queries, 5)
    assert (hits.keys == exact.keys).mean() > 0.95
    # By default sizes would choose the scan here.
    chosen = FederatedSearch(devices, exact=None).search(queries, 5)
    assert chosen.certified.all()
    assert chosen.approximate == ()


def test_what_cannot_be_searched_is_refused() -> None:
    a, b = federation([normal(5, 3), normal(5, 3)])
    with pytest.raises(ValueError, match="no devices"):
        FederatedSearch([])
    with pytest.raises(ValueError, match="same id"):
        FederatedSearch([a, a])
    with pytest.raises(TypeError, match=r"alone was given; devices go in a list: \[device\]"):
        FederatedSearch(a)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"4 dimensions for l2sq.*3 for l2sq"):
        FederatedSearch([a, Device("other", filled(normal(5, 4), "l2sq"))])
    with pytest.raises(ValueError, match="check is 'all'"):
        FederatedSearch([a, b], check="all")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"no .*show"):
        FederatedSearch([a, object()])  # type: ignore[list-item]
    search = FederatedSearch([a, b])
    with pytest.raises(ValueError, match="NaN"):
        search.search([np.nan, 0, 0], 3)
    with pytest.raises(ValueError, match="k is 0"):
        search.search([1, 0, 0], 0)


def test_hits_name_devices_by_id_and_make_a_frame() -> None:
    devices = federation([normal(4, 3), normal(2, 3, seed=1)])
    devices = [Device(name, device.index) for name, device in zip((7, "x"), devices, strict=True)]
    hits = FederatedSearch(devices).search(normal(2, 3, seed=2), 8)
    assert hits.ids.shape == (2, 8)
    assert (hits.ids[:, 6:] == None).all()  # noqa: E711 - element by element
    frame = hits.to_frame()
    assert len(frame) == 12
    assert frame.columns.tolist() == ["query", "device", "key", "distance"]
    for q, part in frame.groupby("query"):
        assert part.device.tolist() == [(7, "x")[d] for d in hits.devices[q, :6]]
        assert part.key.tolist() == hits.keys[q, :6].tolist()
        assert part.distance.tolist() == hits.distances[q, :6].tolist()
