"""The k-th distance and the vote over devices equal those over one index of all rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from fedlab import Device, VectorIndex
from fedlab.index.vectorindex import Metric
from fedlab.privacy.secure_sum import MissingDeviceError, Session
from fedlab.search.private.knn_vote import vote
from fedlab.search.private.kth_distance import (
    Codes,
    FalseCountsError,
    Side,
    distances_of,
    kth_distances,
    ordered,
)
from tests.helpers import METRICS, normal


def spread(
    rows: NDArray[np.float32], labels: NDArray[np.generic], count: int, metric: Metric = "l2sq"
) -> tuple[list[Device], VectorIndex]:
    """Rows dealt out to devices of very different sizes, one of them empty; and all in one."""
    whole = VectorIndex(rows.shape[1], metric)
    whole.add(rows, labels=labels)
    draw = np.random.default_rng(1)
    holder = np.minimum(draw.geometric(0.4, len(rows)) - 1, count - 2)
    devices = []
    for place in range(count):
        index = VectorIndex(rows.shape[1], metric)
        mine = holder == place
        index.add(rows[mine], labels=labels[mine])
        devices.append(Device(f"device {place}", index))
    return devices, whole


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=30), st.sampled_from([32, 64]))
def test_codes_stand_in_the_order_of_distances(values: list[float], bits: int) -> None:
    distances = np.array(values)
    codes = ordered(distances, bits)  # type: ignore[arg-type]
    with np.errstate(over="ignore"):
        kept = distances.astype({32: np.float32, 64: np.float64}[bits])
    assert (np.less.outer(codes, codes) == np.less.outer(kept, kept)).all()
    assert (distances_of(codes) == kept).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 7, 200])
def test_the_kth_distance_is_the_central_one(metric: Metric, k: int) -> None:
    rows, queries = normal(300, 6), normal(40, 6, seed=5)
    devices, whole = spread(rows, np.zeros(300, int), 6, metric)
    central = whole.search(queries, k).distances[:, -1]
    assert (kth_distances(devices, queries, k, 64).distances == central).all()
    # Under inner product, products are told apart: 1 - p of short vectors would be 1.
    beside = 1.0 if metric == "inner" else 0.0
    rounded = (central - beside).astype(np.float32).astype(np.float64) + beside
    np.testing.assert_allclose(kth_distances(devices, queries, k).distances, rounded, rtol=1e-15)


def test_too_few_rows_put_it_at_infinity() -> None:
    devices, _ = spread(normal(10, 3), np.zeros(10, int), 4)
    assert kth_distances(devices, normal(3, 3), 10).distances.max() < np.inf
    assert (kth_distances(devices, normal(3, 3), 11).distances == np.inf).all()
    assert vote(devices, normal(3, 3), 11, [0]).counts.ravel().tolist() == [10, 10, 10]


def test_the_server_sees_sums_that_are_cut_off_at_k() -> None:
    rows, queries, k = normal(300, 4), normal(20, 4, seed=2), 5
    devices, _ = spread(rows, np.zeros(300, int), 5)
    found = kth_distances(devices, queries, k)
    assert found.sums.shape == (32, 20)
    all_codes = [
        ordered(d.index.search(queries, max(1, len(d.index))).distances, 32) for d in devices
    ]
    reach, true = np.zeros(20, np.uint32), np.empty_like(found.sums)
    for step in range(32):
        threshold = reach | np.uint32(2 ** (31 - step) - 1)
        inside = [(codes <= threshold[:, None]).sum(axis=1) for codes in all_codes]
        held = [len(d.index) for d in devices]
        # Empty places stand at inf, up to k of them a device, and only count there.
        true[step] = sum(np.minimum(i, min(h, k)) for i, h in zip(inside, held, strict=True))
        reach |= np.where(true[step] >= k, np.uint32(0), np.uint32(2 ** (31 - step)))
    finite = reach < ordered(np.array([np.inf]), 32)
    assert finite.all()
    low = true < len(devices) * k
    assert (found.sums[low] >= true[low]).all()
    assert (distances_of(reach) == found.distances).all()
    assert found.sums.max() <= len(devices) * k


def test_what_is_sent() -> None:
    devices, _ = spread(normal(60, 8), np.zeros(60, int), 50)
    queries = normal(100, 8)
    reach = kth_distances(devices, queries, 3)
    frame = reach.ledger.to_frame().groupby("what")["bytes"].sum()
    assert frame["queries"] == 50 * 100 * 8 * 4
    assert frame["masked counts"] == 32 * 50 * 100  # sums up to 150: a byte
    for k, size in ((5, 1), (6, 2), (1311, 4)):
        wide = kth_distances(devices, queries[:1], k).ledger.to_frame()
        assert wide.loc[wide["what"] == "masked counts", "bytes"].eq(size).all()
    assert frame["decisions"] == 32 * 50 * 13  # 100 bits
    assert reach.ledger.rounds == 32
    votes = vote(devices, queries, 3, [0, 1])
    assert votes.ledger.bytes - reach.ledger.bytes == 50 * 100 * 2 * 4
    assert votes.ledger.rounds == 33


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 99), st.integers(2, 6), st.sampled_from([32, 64]))
def test_all_rows_tied_at_the_kth_distance_vote(k: int, seed: int, count: int, bits: int) -> None:
    """Rows on a small grid: exact duplicates and ties within and across devices."""
    draw = np.random.default_rng(seed)
    rows = draw.integers(-1, 2, (30, 2)).astype(np.float32)
    labels = draw.integers(0, 3, 30)
    queries = draw.integers(-1, 2, (5, 2)).astype(np.float32)
    devices, _ = spread(rows, labels, count)
    answer = vote(devices, queries, k, [0, 1, 2], bits)  # type: ignore[arg-type]
    whole = np.square(queries[:, None] - rows[None]).sum(axis=2)  # whole numbers: exact
    reach = np.sort(whole, axis=1)[:, min(k, 30) - 1]
    for query in range(5):
        near = labels[whole[query] <= reach[query]]
        assert answer.counts[query].tolist() == np.bincount(near, minlength=3).tolist()


@pytest.mark.parametrize("k", [1, 5, 15])
def test_digits_on_ten_devices_vote_as_scikit_learn_does_on_all_rows(k: int) -> None:
    digits = load_digits()
    x, y = digits.data.astype(np.float32), digits.target
    order = np.argsort(y[:1500], kind="stable")  # each device has one or two digits only
    devices = []
    for place, part in enumerate(np.array_split(order, 10)):
        index = VectorIndex(64, "l2sq")
        index.add(x[part], labels=y[part])
        devices.append(Device(place, index))
    queries = x[1500:]
    answer = vote(devices, queries, k, np.arange(10))

    central = KNeighborsClassifier(k, algorithm="brute").fit(x[:1500], y[:1500])
    apart = np.square(queries[:, None].astype(np.int64) - x[None, :1500].astype(np.int64))
    squares = np.sort(apart.sum(axis=2), axis=1)
    assert (answer.reach.distances == squares[:, k - 1]).all()
    clear = squares[:, k - 1] < squares[:, k]  # without a tie at the k-th distance
    assert clear.mean() > 0.9
    assert (answer.counts[clear] == np.rint(k * central.predict_proba(queries[clear]))).all()
    assert (answer.winners[clear] == central.predict(queries[clear])).all()
    assert (answer.counts[~clear].sum(axis=1) > k).all()
    assert (answer.winners == digits.target[1500:]).mean() > 0.93


def test_text_classes_keep_their_given_order() -> None:
    rows = np.float32([[0], [1], [2], [9]])
    devices, _ = spread(rows, np.array(["b", "a", "b", "c"]), 3)
    answer = vote(devices, [[0.0]], 3, ["c", "b", "a"])
    assert answer.counts.tolist() == [[0, 2, 1]]
    assert answer.winners.tolist() == ["b"]


def test_one_session_serves_many_searches() -> None:
    devices, whole = spread(normal(50, 3), np.zeros(50, int), 4)
    session = Session([device.id for device in devices])
    for seed in (1, 2):
        queries = normal(4, 3, seed=seed)
        found = kth_distances(devices, queries, 2, 64, session=session)
        assert (found.distances == whole.search(queries, 2).distances[:, 1]).all()
    assert session.rounds == 2


class Gone(VectorIndex):
    """An index on a device that drops out after it has answered some times."""

    def scan(self, *args: object, **kwargs: object) -> None:  # type: ignore[override]
        raise ConnectionError("the device went home")


def test_a_device_that_drops_out_ends_the_search_which_begins_again_without_it() -> None:
    devices, _ = spread(normal(50, 3), np.zeros(50, int), 4)
    queries = normal(4, 3, seed=3)
    all_devices = [*devices, Device("gone", Gone(3, "l2sq"))]
    with pytest.raises(MissingDeviceError, match="'gone'") as error:
        vote(all_devices, queries, 2, [0])
    left = [device for device in all_devices if device.id not in error.value.devices]
    assert (vote(left, queries, 2, [0]).counts == vote(devices, queries, 2, [0]).counts).all()


def test_a_device_that_counts_falsely_is_noticed_only_if_the_sum_is_impossible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What `does_not` says: one liar moves the k-th distance, and nothing tells."""
    devices, whole = spread(normal(50, 3), np.zeros(50, int), 4)
    queries = normal(4, 3, seed=3)
    count, near = Side.count, ordered(np.array([0.001]))[0]

    def lying(beyond: int, amount: int) -> None:
        def lie(side: Side) -> Codes:
            threshold = side.reach | np.uint64(2**side._bit - 1)
            true = count(side)
            liar = side.device.id == "device 0"
            return true + np.where((threshold >= beyond) & liar, np.uint32(amount), np.uint32(0))

        monkeypatch.setattr(Side, "count", lie)

    lying(near, 2)
    lied = kth_distances(devices, queries, 2, 64).distances
    assert (lied == 0.001).all()
    assert (lied < whole.search(queries, 1).distances[:, 0]).all()
    for beyond, amount in ((0, 2), (near, 100), (near, 2**32 - 40)):
        lying(beyond, amount)
        with pytest.raises(FalseCountsError, match="4 of 4 queries can't be true"):
            kth_distances(devices, queries, 2, 64)


def test_where_nobody_votes_nobody_wins() -> None:
    answer = vote([Device(place, VectorIndex(2)) for place in "ab"], np.eye(2), 3, [0, 1])
    assert answer.counts.tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match=r"nobody voted on 2 of 2 queries .*first is query 0"):
        _ = answer.winners


def test_refusals() -> None:
    devices, _ = spread(normal(20, 3), np.zeros(20, int), 3)
    queries = normal(2, 3)
    with pytest.raises(ValueError, match="1 devices were given"):
        kth_distances(devices[:1], queries, 1)
    with pytest.raises(ValueError, match="one dimension and metric"):
        kth_distances([*devices, Device("other", VectorIndex(3))], queries, 1)
    with pytest.raises(ValueError, match="choose one of 32, 64"):
        kth_distances(devices, queries, 1, 16)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k is 0"):
        kth_distances(devices, queries, 0)
    with pytest.raises(ValueError, match="NaN"):
        kth_distances(devices, [[np.nan, 0, 0]], 1)
    with pytest.raises(ValueError, match="other devices"):
        kth_distances(devices, queries, 1, session=Session(["a", "b", "c"]))
    with pytest.raises(ValueError, match="same id"):
        kth_distances([devices[0], devices[0]], queries, 1)
    with pytest.raises(TypeError, match="alone was given"):
        vote(devices[0], queries, 1, [0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="class 0"):
        vote(devices, queries, 1, [1, 2])
    with pytest.raises(ValueError, match="each once"):
        vote(devices, queries, 1, [0, 0])
