"""Two-server shares: exact products, answers equal to the plain ones, views that tell nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.datasets import load_digits

from fedlab import Device, VectorIndex
from fedlab.index.vectorindex import Metric
from fedlab.privacy.fixed_point import error_bound, from_products, to_words
from fedlab.privacy.ring import multiply_add
from fedlab.privacy.secret_shares import Dealer, Server, share
from fedlab.search.private import SharedIndex
from tests.helpers import METRICS, distances, normal

Words = NDArray[np.uint64]


def words(shape: tuple[int, ...], seed: int = 0) -> Words:
    return np.random.default_rng(seed).integers(0, 2**64, shape, dtype=np.uint64)


def devices_of(rows: NDArray[np.float32], metric: Metric, sizes: list[int]) -> list[Device]:
    devices = []
    for place, part in enumerate(np.split(rows, np.cumsum(sizes)[:-1])):
        index = VectorIndex(rows.shape[1], metric)
        index.add(part, keys=np.arange(len(part))[::-1] + 10 * place)
        devices.append(Device(place, index))
    return devices


def served(rows: Words, threads: int = 1) -> tuple[Dealer, list[Server]]:
    dealer = Dealer(*rows.shape, threads)  # type: ignore[misc]
    servers = [
        Server(key, part, threads) for key, part in zip(dealer.keys, share(rows), strict=True)
    ]
    opened = servers[0].opening + servers[1].opening
    for server in servers:
        server.open(opened)
    return dealer, servers


def asked(dealer: Dealer, servers: list[Server], queries: Words) -> list[Words]:
    sides = list(zip(servers, share(queries), dealer.deal(len(queries)), strict=True))
    opened = np.add(*[server.mask(part, dealt) for server, part, dealt in sides])
    return [server.answer(part, opened, dealt) for server, part, dealt in sides]


# -- whole numbers ---------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 5), st.integers(1, 4))
def test_products_modulo_two_to_the_64(n: int, d: int, m: int, threads: int) -> None:
    rows, queries, start = words((n, d)), words((m, d), 1), words((m, n), 2)
    out = start.copy()
    multiply_add(rows, queries, out, threads)
    exact = start.astype(object) + queries.astype(object) @ rows.astype(object).T
    assert (out.astype(object) == exact % 2**64).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 6), st.integers(0, 99))
def test_the_answers_add_up_to_the_products(n: int, d: int, m: int, seed: int) -> None:
    rows, queries = words((n, d), seed), words((m, d), seed + 1)
    dealer, servers = served(rows)
    for _ in range(2):  # with fresh triples each time
        total = np.add(*asked(dealer, servers, queries))
        exact = queries.astype(object) @ rows.astype(object).T % 2**64
        assert (total.astype(object) == exact).all()


def test_numbers_become_whole_and_come_back_within_the_bound() -> None:
    draw = np.random.default_rng(0)
    for dimensions in (1, 8, 385):
        rows = draw.normal(size=(300, dimensions))
        rows *= np.sqrt(2) / np.linalg.norm(rows, axis=1, keepdims=True)  # as long as allowed
        rows[::2] = np.sqrt(2 / dimensions)  # all numbers rounded the same way
        queries = rows[::-1]
        whole = (to_words(rows) * to_words(queries)).sum(axis=1, dtype=np.uint64)
        exact = (rows.astype(np.longdouble) * queries).sum(axis=1)
        error = np.abs(from_products(whole) - exact).max()
        assert error <= error_bound(dimensions) <= 2e-6


# -- search ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1.0, 300.0, 0.01])
def test_the_answer_is_the_central_one(metric: Metric, scale: float) -> None:
    rows, queries = normal(500, 24) * np.float32(scale), normal(80, 24, 3) * np.float32(scale / 7)
    devices = devices_of(rows, metric, [100, 0, 399, 1])
    shared = SharedIndex(devices)
    hits = shared.search(queries, 10)
    exact = distances(rows, queries, metric)
    order = np.argsort(exact, axis=1)[:, :10]
    best = np.take_along_axis(exact, order, axis=1)
    assert (np.abs(hits.distances - best) <= shared.error(queries)[:, None]).all()
    assert hits.certified.mean() > 0.95
    holder = np.repeat([0, 1, 2, 3], [100, 0, 399, 1])
    key = np.concatenate([device.index.keys for device in devices])
    assert (hits.devices == holder[order])[hits.certified].all()
    assert (hits.keys == key[order])[hits.certified].all()
    assert hits.found.all()


def test_unit_vectors_are_searched_within_two_millionths() -> None:
    rows = normal(400, 384)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    shared = SharedIndex(devices_of(rows, "inner", [200, 200]))
    queries = rows[:20] + np.float32(0.01)
    assert shared.error(queries).max() <= 2e-6
    hits = shared.search(queries, 400)
    exact = np.sort(distances(rows, queries, "inner"), axis=1)
    assert np.abs(hits.distances - exact).max() <= 2e-6


def test_digits_on_ten_devices_are_found_as_in_one_index() -> None:
    pixels = load_digits().data.astype(np.float32)
    devices = devices_of(pixels[:1500], "l2sq", [150] * 10)
    hits = SharedIndex(devices).search(pixels[1500:], 5)
    whole = VectorIndex(64, "l2sq")
    whole.add(pixels[:1500])
    central = whole.search(pixels[1500:], 5)
    assert (np.rint(hits.distances) == central.distances).all()  # whole numbers, up to 3,000
    assert np.abs(hits.distances - central.distances).max() < 0.02
    sure = hits.certified
    row = np.empty((297, 5), np.int64)
    for place, device in enumerate(devices):
        mine = hits.devices == place
        row[mine] = 150 * place + device.index.rows_of(hits.keys[mine])
    assert (row[sure] == central.keys[sure]).all()
    assert sure.mean() > 0.9  # the others have ties


def test_ties_stand_by_device_then_key_and_are_not_certified() -> None:
    rows = np.float32([[1, 0]] * 4 + [[0, 1]])
    hits = SharedIndex(devices_of(rows, "cosine", [2, 3])).search([1.0, 0.0], 3)
    assert hits.devices.tolist() == [[0, 0, 1]]
    assert hits.keys.tolist() == [[0, 1, 11]]  # the second device's keys are 12, 11, 10
    assert not hits.certified.any()


def test_order_within_rounding_is_not_certified() -> None:
    rows = np.float32([[1, 0], [1, 1e-5], [0, 1]])
    shared = SharedIndex(devices_of(rows, "cosine", [2, 1]))
    near, far = shared.search([[1.0, 0.0], [0.3, 1.0]], 2).certified
    assert far
    assert not near


def test_fewer_rows_than_asked_for() -> None:
    hits = SharedIndex(devices_of(normal(3, 4), "l2sq", [2, 1])).search(normal(2, 4), 5)
    assert hits.counts.tolist() == [3, 3]
    assert (hits.keys[:, 3:] == 2**64 - 1).all()
    assert (hits.devices[:, 3:] == -1).all()
    assert np.isposinf(hits.distances[:, 3:]).all()


def test_batches_and_threads_change_nothing() -> None:
    devices = devices_of(normal(300, 16), "cosine", [150, 150])
    queries = normal(130, 16, 1)  # three batches
    one, many = SharedIndex(devices), SharedIndex(devices, threads=3)
    whole = one.search(queries, 5)
    again = many.search(queries, 5)
    assert (whole.distances == again.distances).all()
    assert (whole.keys == again.keys).all()
    single = [one.search(query, 5).distances[0] for query in queries[60:70]]
    assert (whole.distances[60:70] == single).all()


def test_what_is_sent() -> None:
    n, d, q = 50, 8, 3
    shared = SharedIndex(devices_of(normal(n, d), "cosine", [20, 30]))
    setup = shared.setup.to_frame().groupby("what")["bytes"].sum()
    assert setup.to_dict() == {
        "keys": 64,
        "openings": 2 * n * d * 8,
        "shares of rows": 2 * n * d * 8,
    }
    ledger = shared.search(normal(q, d), 2).ledger
    assert ledger.bytes == q * (32 * d + 24 * n)
    assert ledger.rounds == 2
    sent = ledger.to_frame().groupby(["what", "device"])["bytes"].sum()
    assert sent["triples", "dealer"] == q * n * 8
    assert sent["shares of scores", "server 1"] == q * n * 8


# -- what is seen ----------------------------------------------------------------------------------


def bytes_of(*views: Words) -> NDArray[np.int64]:
    joined = np.concatenate([view.ravel() for view in views])
    return np.bincount(joined.view(np.uint8), minlength=256)


def test_all_that_a_server_sees_is_uniform_whatever_the_rows_are() -> None:
    """Its share, the openings, queries' shares, triples and answers, for two databases."""
    plain = [np.zeros((60, 40)), np.tile(np.linspace(-1, 1, 40) / 6, (60, 1))]
    for side in (0, 1):
        views = []
        for values in plain:
            rows, queries = to_words(values), to_words(values[:10] + 0.01)
            dealer = Dealer(60, 40)
            parts = share(rows)
            servers = [Server(key, part) for key, part in zip(dealer.keys, parts, strict=True)]
            opened = servers[0].opening + servers[1].opening
            other = servers[1 - side].opening.copy()
            for server in servers:
                server.open(opened)
            asks, dealt = share(queries), dealer.deal(10)
            masked = [s.mask(a, t) for s, a, t in zip(servers, asks, dealt, strict=True)]
            told = dealt[1].products if side == 1 else np.empty(0, np.uint64)
            assert told is not None
            answer = servers[side].answer(asks[side], masked[0] + masked[1], dealt[side])
            seen = [parts[side], other, opened, asks[side], *masked, told, answer]
            for view in seen:
                if view.size:
                    assert stats.chisquare(bytes_of(view)).pvalue > 1e-6
                if view.size > 1000:
                    flat = values.ravel() if view.size == values.size else None
                    if flat is not None and flat.std() > 0:
                        assert abs(np.corrcoef(flat, view.ravel().astype(float))[0, 1]) < 0.12
            views.append(bytes_of(*seen))
        assert stats.chi2_contingency(np.stack(views)).pvalue > 1e-6
    # Control: the same test finds the rows themselves.
    assert stats.chisquare(bytes_of(to_words(plain[1]))).pvalue < 1e-6


def test_the_same_query_looks_different_each_time() -> None:
    dealer, servers = served(words((5, 1000)))
    query = words((1, 1000), 1)
    seen = []
    for _ in range(2):
        parts, dealt = share(query), dealer.deal(1)
        masked = [s.mask(p, t) for s, p, t in zip(servers, parts, dealt, strict=True)]
        seen.append(np.concatenate([parts[0], parts[1], masked[0] + masked[1]]))
    assert not (seen[0] == seen[1]).any()


def test_a_mask_is_refused_the_second_time_since_two_would_tell_the_difference() -> None:
    dealer, servers = served(words((4, 6)))
    first, second = words((1, 6), 1), words((1, 6), 2)
    dealt = dealer.deal(1)
    parts = share(first), share(second)
    opened = [s.mask(p, t) for s, p, t in zip(servers, parts[0], dealt, strict=True)]
    with pytest.raises(ValueError, match=r"triples 0 \.\.\. 0 were used"):
        servers[0].mask(parts[1][0], dealt[0])
    servers[0].answer(parts[0][0], opened[0] + opened[1], dealt[0])
    with pytest.raises(ValueError, match=r"triples 0 \.\.\. 0 were used"):
        servers[0].answer(parts[1][0], opened[0] + opened[1], dealt[0])
    for server in servers:  # what the refusal prevents
        server._masked = 0
    reused = [s.mask(p, t) for s, p, t in zip(servers, parts[1], dealt, strict=True)]
    assert (np.add(*opened) - np.add(*reused) == first - second).all()
    assert dealer.deal(2)[0].first == 1


def test_an_altered_answer_is_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `does_not` says: servers are trusted to follow the protocol."""
    devices = devices_of(normal(50, 8), "cosine", [25, 25])
    shared = SharedIndex(devices)
    query = normal(1, 8, 4)
    true = shared.search(query, 1)
    answer, liar = Server.answer, shared.servers[0]

    def altered(self: Server, *given: object) -> Words:
        told = answer(self, *given)  # type: ignore[arg-type]
        if self is liar:
            told[:, 7] += to_words(np.array([2.0]))[0] << np.uint64(28)
        return told

    monkeypatch.setattr(Server, "answer", altered)
    false = shared.search(query, 1)
    assert false.certified.all()
    assert false.distances[0, 0] < true.distances[0, 0]
    assert (false.devices[0, 0], false.keys[0, 0]) == (0, devices[0].index.keys[7])


def test_who_asks_enough_learns_all_rows() -> None:
    """What `does_not` says: d independent queries tell every row."""
    rows = normal(20, 6)
    shared = SharedIndex(devices_of(rows, "inner", [12, 8]))
    hits = shared.search(np.eye(6), 20)
    learned = np.empty((20, 6))
    place = {
        (d, k): at for at, (d, k) in enumerate(zip(shared._holders, shared._keys, strict=True))
    }
    for column in range(6):
        for device, key, far in zip(
            *(a[column] for a in (hits.devices, hits.keys, hits.distances)), strict=True
        ):
            learned[place[device, key], column] = 1 - far
    assert np.abs(learned - rows).max() < 1e-5


def test_refusals() -> None:
    rows = normal(4, 3)
    with pytest.raises(ValueError, match="one dimension and metric"):
        SharedIndex([*devices_of(rows, "cosine", [4]), Device("other", VectorIndex(3, "l2sq"))])
    with pytest.raises(ValueError, match="two devices have the same id"):
        SharedIndex(devices_of(rows, "cosine", [4]) * 2)
    with pytest.raises(ValueError, match="nothing to share"):
        SharedIndex([Device(0, VectorIndex(3))])
    shared = SharedIndex(devices_of(rows, "cosine", [4]))
    with pytest.raises(ValueError, match="NaN"):
        shared.search([np.nan, 0, 0], 1)
    with pytest.raises(ValueError, match="length 0"):
        shared.search([0.0, 0, 0], 1)
    with pytest.raises(ValueError, match="k is 0"):
        shared.search(rows, 0)
    server = Server(bytes(32), words((2, 3)))
    dealt = Dealer(2, 3).deal(1)[0]
    with pytest.raises(ValueError, match="not opened"):
        server.answer(words((1, 3)), words((1, 3)), dealt)
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        server.open(words((1, 3)))
    with pytest.raises(ValueError, match="triples for 1 queries were given with 2"):
        server.mask(words((2, 3)), dealt)


def test_zero_queries_and_zero_rows_are_defined_where_the_metric_is() -> None:
    rows = np.float32([[0, 0], [3, 4]])
    assert SharedIndex(devices_of(rows, "l2sq", [2])).search([0.0, 0.0], 2).distances == (
        pytest.approx(np.array([[0.0, 25.0]]), abs=1e-5)
    )
    zeros = np.zeros((2, 2), np.float32)
    assert SharedIndex(devices_of(zeros, "inner", [2])).search([0.0, 0.0], 1).distances == 1.0
