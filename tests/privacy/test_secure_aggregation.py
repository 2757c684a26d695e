"""Secure aggregation: exact sums whoever drops out, and a server that sees nothing but them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError
from scipy import stats

from fedlab.privacy.masks import agreed, hkdf
from fedlab.privacy.secure_aggregation import (
    SecureExchange,
    Summand,
    SummingServer,
    ThresholdError,
    few_neighbours,
    ring,
)
from fedlab.privacy.shamir import SHARE


def test_keys_are_derived_by_hkdf_sha256() -> None:
    """RFC 5869, appendix A.3: no salt, no info."""
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert hkdf(b"\x0b" * 22, b"").hex() == expected


def test_two_agree_on_a_key_that_is_bound_to_its_purpose() -> None:
    a, b = bytes(range(32)), bytes(range(32, 64))
    pa, pb = crypto_scalarmult_base(a), crypto_scalarmult_base(b)
    key = agreed(a, pa, pb, b"one")
    assert key == agreed(b, pb, pa, b"one") != agreed(a, pa, pb, b"two")
    assert key == hkdf(crypto_scalarmult(a, pb), b"one" + min(pa, pb) + max(pa, pb))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_sum_is_exact_whoever_drops_out_before_or_after_sending(data: Any) -> None:
    count = data.draw(st.integers(2, 9))
    near = data.draw(st.sampled_from([None, 4]))
    graph = ring(count, near, data.draw(st.permutations(range(count))))
    holders = len(graph[0]) + 1
    threshold = data.draw(st.integers(holders // 2 + 1, holders).filter(lambda t: t > 1))
    absent = data.draw(st.sets(st.integers(0, count - 1), max_size=3))
    gone = data.draw(st.sets(st.integers(0, count - 1), max_size=2))
    widths = [data.draw(st.sampled_from([8, 16, 24, 32])), 64]
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = [
        [
            draw.integers(0, 2**width, size, np.uint64)
            for width, size in zip(widths, (5, 3), strict=True)
        ]
        for _ in range(count)
    ]
    exchange = SecureExchange(graph, threshold, widths)
    came = [place for place in range(count) if place not in absent]
    for place in came:
        exchange.send(place, [values[place][0].astype(np.uint32), values[place][1]])
    told = {place for place in came if place not in gone}
    near = [len({place, *graph[place]} & {*came}) for place in told]
    left = [len(told & {place, *graph[place]}) for place in range(count) if place in came]
    left += [len(told & {*graph[p]}) for p in absent if {*graph[p]} & {*came}]
    if not came or min([*left, *near]) < threshold:
        with pytest.raises(ThresholdError, match=r"are needed|no device"):
            exchange.finish(gone)
        return
    for total, width, place in zip(exchange.finish(gone), widths, (0, 1), strict=True):
        exact = sum(values[p][place].astype(object) for p in came) % 2**width
        assert total.tolist() == exact.tolist()


def test_a_device_never_tells_both_shares_of_one_nor_tells_twice() -> None:
    exchange = SecureExchange(ring(4), 3, [32])
    for place in range(4):
        exchange.send(place, [np.uint32([place])])
    member = exchange.members[0]
    with pytest.raises(ValueError, match=r"\[2\] are said to have come and dropped out"):
        member.unmask({1, 2}, {2, 3})
    with pytest.raises(ThresholdError, match="2 neighbours came, and 3 are needed"):
        member.unmask({0, 1}, {2, 3})
    told = member.unmask({0, 1, 2}, {3})  # the refusal told nothing, and took nothing away
    assert {len(share) for share in told.values()} == {SHARE}
    assert told[3] == member._held[3][SHARE:]
    assert told[1] == member._held[1][:SHARE]
    with pytest.raises(ValueError, match="it does so once"):
        member.unmask({0, 1, 3}, {2})
    with pytest.raises(ValueError, match="masks serve once"):
        member.masked([np.uint32([0])])


def test_shares_travel_encrypted_and_an_altered_one_is_noticed() -> None:
    first, second, third = (Summand(place) for place in range(3))
    publics = {m.place: m.publics for m in (first, second, third)}
    sent = {
        m.place: m.share({p: k for p, k in publics.items() if p != m.place}, 2)
        for m in (first, second, third)
    }
    third.receive({0: sent[0][2]})
    assert third._held[0] not in sent[0][2]
    assert first._seed not in b"".join(sent[0].values())
    for message in (sent[0][2], sent[2][1]):  # not for it
        with pytest.raises(CryptoError):
            second.receive({0: message})
    altered = bytes([sent[0][1][0] ^ 1]) + sent[0][1][1:]
    with pytest.raises(CryptoError):
        second.receive({0: altered})
    with pytest.raises(CryptoError):  # nor its own message, reflected
        second.receive({0: sent[1][0]})


def seen(values: list[Any], watch: Callable[[int, Any], None]) -> None:
    exchange = SecureExchange(ring(3), 2, [32])
    add = exchange.server.add
    given: list[Any] = []
    exchange.server.add = lambda p, m: (given.append(m), watch(p, m[0]), add(p, m))[2]  # type: ignore
    for place, words in enumerate(values):
        assert exchange.send(place, [words]) is given[-1]
    exchange.finish()


@pytest.mark.parametrize("value", [0, 1, 2**31])
def test_what_the_server_sees_of_a_device_is_uniform_whatever_it_hides(value: int) -> None:
    """Many runs with fresh keys, and many words of each: no place and no byte is left bare."""
    views: list[Any] = []
    values = [np.full(64, value, np.uint32)] * 3
    for _ in range(300):
        seen(values, lambda place, message: views.append(message.tobytes()))
    bytes_seen = np.frombuffer(b"".join(views), np.uint8).reshape(-1, 64, 4)
    for place in range(4):
        counts = np.bincount(bytes_seen[:, :, place].ravel(), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6
    for word in (0, 63):  # one number, over the runs
        counts = np.bincount(bytes_seen[:, word, 3] >> 4, minlength=16)
        assert stats.chisquare(counts).pvalue > 1e-6
    assert len(set(views)) == len(views)


def test_a_view_does_not_tell_which_of_two_values_it_hides() -> None:
    draw, table = np.random.default_rng(0), np.zeros((2, 16))
    for _ in range(200):
        values = [draw.integers(0, 2, 100).astype(np.uint32) for _ in range(3)]

        def watch(place: int, words: Any, values: Any = values) -> None:
            np.add.at(table, (values[place].astype(int), words & 15), 1)

        seen(values, watch)
    assert stats.chi2_contingency(table).pvalue > 1e-6


def test_all_that_the_server_sees_before_shares_are_told_leaves_any_sum_uniform() -> None:
    """Added up, vectors of all devices stay under their own masks: masks of pairs cancel alone."""
    draws = []
    for _ in range(400):
        exchange = SecureExchange(ring(3), 2, [32])
        for place in range(3):
            exchange.send(place, [np.full(16, 7, np.uint32)])
        draws.append(exchange.server._total[0] >> 28)
    assert stats.chisquare(np.bincount(np.concatenate(draws), minlength=16)).pvalue > 1e-6


def test_fewer_holders_than_the_threshold_unmask_nothing() -> None:
    """The server with t - 1 holders, who tell it all they hold, can't tell a seed or a key."""
    exchange = SecureExchange(ring(5), 4, [32])
    for place in range(5):
        exchange.send(place, [np.uint32([place])])
    everything = {p: exchange.members[p]._held for p in (2, 3, 4)}
    for part in (slice(0, SHARE), slice(SHARE, None)):
        told = {p: {q: held[part] for q, held in all_.items()} for p, all_ in everything.items()}
        with pytest.raises(ThresholdError, match=r"3 of the 5 holders .* 4 are needed"):
            exchange.server.finish(told)


def test_sums_do_not_depend_on_keys() -> None:
    def keyed(word: bytes) -> list[Any]:
        drawn = iter(range(10**6))

        def source(count: int) -> bytes:
            return hashlib.shake_256(word + next(drawn).to_bytes(8, "big")).digest(count)

        exchange = SecureExchange(ring(5), 3, [24], source)
        for place in (0, 1, 3):
            exchange.send(place, [np.uint32([2**24 - 1, place])])
        return [*exchange.finish()[0].tolist(), exchange.members[0].publics]

    first, again, other = keyed(b"a"), keyed(b"a"), keyed(b"b")
    assert first == again
    assert first[:2] == other[:2] == [3 * (2**24 - 1) % 2**24, 4]
    assert first[2] != other[2]


def test_every_message_is_counted() -> None:
    exchange = SecureExchange(ring(4), 3, [24, 64])
    for place in range(3):
        exchange.send(place, [np.zeros(100, np.uint32), np.zeros(2, np.uint64)])
    exchange.finish()
    frame = exchange.ledger.to_frame()
    sums = frame.groupby(["what", "direction"]).bytes.sum()
    assert sums["public keys", "up"] == 4 * 64
    assert sums["public keys", "down"] == 4 * 3 * 64
    assert sums["encrypted shares", "up"] == sums["encrypted shares", "down"] == 4 * 3 * 88
    assert sums["masked numbers", "up"] == 3 * (300 + 16)
    assert sums["shares", "up"] == 3 * 4 * SHARE  # of three neighbours, and its own
    assert sums["shares", "down"] == 3
    assert exchange.ledger.rounds == 4


def test_thresholds_that_protect_nothing_are_refused() -> None:
    for devices, threshold in ((1, 1), (2, 1), (4, 2), (3, 4), (0, 2)):
        with pytest.raises(ThresholdError, match="more than half of them"):
            SecureExchange(ring(devices), threshold, [32])


def test_rings_are_regular_and_symmetric() -> None:
    order = np.random.default_rng(0).permutation(30).tolist()
    graph = ring(30, 5, order)
    assert {len(near) for near in graph} == {6}
    assert all(place in graph[other] for place in range(30) for other in graph[place])
    assert ring(4, 3) == ring(4) == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


@pytest.mark.parametrize("devices", [100, 1000])
def test_few_neighbours_keep_their_bounds(devices: int) -> None:
    """Exact hypergeometric tails, in whole numbers."""
    near, threshold = few_neighbours(devices)
    bad, others, ways = devices // 10, devices - 1, comb(devices - 1, near)

    def chance(count: int) -> Fraction:
        return Fraction(comb(bad, count) * comb(others - bad, near - count), ways)

    assert devices * sum(map(chance, range(threshold, near + 1))) <= Fraction(1, 2**40)
    assert devices * sum(map(chance, range(near - threshold + 1, near + 1))) <= Fraction(1, 2**30)
    assert devices * 0.2 ** (near / 2) <= 2**-40
    assert threshold > near / 2
    assert few_neighbours(20) == (19, 14)  # so few are all neighbours


def test_the_server_holds_no_vector_of_a_device() -> None:
    exchange = SecureExchange(ring(3), 2, [32])
    for place in range(3):
        exchange.send(place, [np.zeros(4, np.uint32)])
    held = vars(exchange.server)
    assert isinstance(exchange.server, SummingServer)
    assert [len(words) for words in held["_total"]] == [4]
    assert set(held) == {"graph", "threshold", "bits", "publics", "came", "_total"}
