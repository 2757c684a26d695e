"""Masks: they cancel exactly, tell nothing alone, and serve once."""

from __future__ import annotations

import hmac
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from fedlab.privacy.masks import Party, keystream
from fedlab.privacy.secure_sum import MissingDeviceError, Session


def met(count: int) -> list[Party]:
    parties = [Party(place) for place in range(count)]
    for party in parties:
        party.meet([other.public for other in parties])
    return parties


def chacha20(key: bytes, nonce: bytes, counter: int) -> bytes:
    """One block of RFC 8439, section 2.3, straight from its text."""
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key)]
    start += [counter, *struct.unpack("<3I", nonce)]
    state = list(start)

    def turn(a: int, b: int, c: int, d: int) -> None:
        for x, y, z, shift in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[x] = (state[x] + state[y]) % 2**32
            mixed = state[z] ^ state[x]
            state[z] = (mixed << shift | mixed >> (32 - shift)) % 2**32

    for _ in range(10):
        for column in range(4):
            turn(*(column + 4 * row for row in range(4)))
        for column in range(4):
            turn(*((column + row) % 4 + 4 * row for row in range(4)))
    return struct.pack("<16I", *((a + b) % 2**32 for a, b in zip(start, state, strict=True)))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(2, 7), st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64]))
def test_the_sum_is_exact(data: Any, count: int, kind: type) -> None:
    shape = data.draw(arrays.array_shapes(max_dims=2, max_side=5))
    values = [data.draw(arrays.arrays(kind, shape)) for _ in range(count)]
    session = Session(list(range(count)))
    exact = np.array([v.astype(object) for v in values]).sum(axis=0) % 2 ** (8 * kind().nbytes)
    for purpose in (0, 1):
        total = session.sum(lambda place: values[place], purpose)
        assert total.dtype == kind
        assert (total.astype(object) == exact).all()
    assert session.rounds == 2


def test_the_stream_is_chacha20() -> None:
    key = bytes(range(32))
    nonce = struct.pack("<IQ", 7, 11)
    expected = chacha20(key, nonce, 1) + chacha20(key, nonce, 2)  # block 0 is the tag's key
    assert keystream(key, 7, 11, 16).tobytes() == expected
    assert keystream(key, 7, 11, 32, np.uint32).tobytes() == expected


def test_both_of_a_pair_agree_on_x25519_and_on_nobody_elses() -> None:
    from nacl.bindings import crypto_scalarmult

    first, second, third = met(3)
    agreed = crypto_scalarmult(second._secret, first.public)
    low, high = sorted((first.public, second.public))
    extracted = hmac.digest(bytes(32), agreed, "sha256")  # HKDF (RFC 5869), one block
    secret = hmac.digest(extracted, b"fedlab masks" + low + high + b"\x01", "sha256")
    assert first._shared[1] == second._shared[0] == secret
    keys = {first._shared[1], first._shared[2], second._shared[2]}
    assert len(keys) == 3
    assert third._shared == {0: first._shared[2], 1: second._shared[2]}


@pytest.mark.parametrize("value", [0, 1, 2**63])
def test_a_masked_value_is_uniform_whatever_it_hides(value: int) -> None:
    values = np.full(50_000, value, np.uint64)
    masked = met(3)[1].masked(values, round=1)
    counts = np.bincount(masked.view(np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-6
    # Each byte's place alone, and neighbours together: no bit is left bare.
    for place in range(8):
        column = masked.view(np.uint8).reshape(-1, 8)[:, place]
        assert stats.chisquare(np.bincount(column, minlength=256)).pvalue > 1e-6
    assert abs(np.corrcoef(masked[:-1].astype(float), masked[1:].astype(float))[0, 1]) < 0.03


def test_a_masked_value_is_independent_of_what_it_hides() -> None:
    draw = np.random.default_rng(0)
    values = draw.integers(0, 2, 40_000).astype(np.uint64)
    masked = met(2)[0].masked(values, round=1)
    table = np.zeros((2, 16))
    np.add.at(table, (values.astype(int), (masked >> np.uint64(60)).astype(int)), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-6
    # Control: the same test finds values under a mask that is too short.
    np.add.at(table, (values.astype(int), (values * np.uint64(3)).astype(int)), 1)
    assert stats.chi2_contingency(table).pvalue < 1e-6


def test_all_but_one_together_see_only_the_sum_of_the_rest() -> None:
    """Without the last device's answer, what is added up stays uniform."""
    parties = met(4)
    sent = [party.masked(np.full(20_000, 5, np.uint64), 1) for party in parties]
    rest = sent[0] + sent[1] + sent[2]
    assert stats.chisquare(np.bincount(rest.view(np.uint8), minlength=256)).pvalue > 1e-6
    assert (rest + sent[3] == 20).all()


def test_rounds_and_purposes_have_masks_of_their_own() -> None:
    zeros = np.zeros(100, np.uint64)
    party = met(2)[0]
    addresses = [(1, 0), (2, 0), (1, 1), (2**40, 0)]
    masks = [party.masked(zeros, round, purpose) for round, purpose in addresses]
    for one in range(len(masks)):
        for other in range(one):
            assert not (masks[one] == masks[other]).any()


def test_a_mask_serves_once() -> None:
    party = met(2)[0]
    party.masked(np.zeros(1, np.uint64), round=3)
    with pytest.raises(ValueError, match="round 3 with purpose 0 was answered before"):
        party.masked(np.ones(1, np.uint64), round=3)
    party.masked(np.ones(1, np.uint64), round=3, purpose=1)


def test_keys_of_another_session_dont_open_a_sum() -> None:
    values = np.full(1000, 9, np.uint64)
    here, there = met(3), met(3)
    sent = [party.masked(values, 1) for party in here]
    assert (sum(sent) == 27).all()
    mixed = sent[0] + sent[1] + there[2].masked(values, 1)
    assert not (mixed == 27).any()


def test_a_missing_device_fails_the_round_and_a_new_session_goes_on() -> None:
    session = Session(["a", "b", "c", "d"])

    def answer(place: int) -> np.ndarray:
        if place in (1, 3):
            raise TimeoutError("no answer")
        return np.uint64([place])

    with pytest.raises(
        MissingDeviceError, match=r"2 of 4 devices did not answer \('b', 'd'\)"
    ) as e:
        session.sum(answer)
    assert e.value.devices == ("b", "d")
    again = Session([device for device in session.devices if device not in e.value.devices])
    assert again.sum(lambda place: np.uint64([place + 1])).tolist() == [3]


def test_the_key_exchange_is_counted() -> None:
    ledger = Session(range(50)).ledger
    assert (ledger.up, ledger.down, ledger.rounds) == (50 * 32, 50 * 49 * 32, 1)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least two are needed"):
        Session(["alone"])
    with pytest.raises(ValueError, match="each id once"):
        Session(["a", "a"])
    party = Party(0)
    with pytest.raises(ValueError, match="met no others"):
        party.masked(np.zeros(1, np.uint64), 1)
    with pytest.raises(ValueError, match="a public key stands twice"):
        party.meet([party.public, party.public])
    with pytest.raises(ValueError, match="not this device's"):
        party.meet([Party(0).public, party.public])
    one = met(2)[0]
    for values in (np.zeros(1), np.zeros(1, np.int64), np.zeros(1, bool)):
        with pytest.raises(TypeError, match="unsigned is needed"):
            one.masked(values, 1)  # type: ignore[arg-type]
    one.masked(np.zeros(1, np.uint64), 1)  # a refusal used nothing up
    with pytest.raises(ValueError, match="one kind is needed"):
        Session([0, 1]).sum(lambda place: np.zeros(place + 1, np.uint64))
    with pytest.raises(Exception, match=r".+"):  # a point of low order would agree on zero
        party.meet([party.public, bytes(32)])


@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
def test_a_series_sums_exactly_under_masks_that_differ(kind: type) -> None:
    session = Session(range(3))
    series = session.series(4, 1000, kind)
    masks = [mask for party in series._masks for mask in party]
    for one in range(len(masks)):
        for other in range(one):
            assert (masks[one] == masks[other]).sum() < 5
    for step in range(4):
        answer = np.arange(1000).astype(kind)
        assert (
            series.sum(lambda place, a=answer, s=step: a + kind(place * s)) == 3 * answer + 3 * step
        ).all()
    with pytest.raises(ValueError, match="all 4 sums were made"):
        series.sum(lambda place: np.zeros(1000, kind))
    with pytest.raises(ValueError, match=r"this series is of uint\d\d, \(1000,\)"):
        session.series(1, 1000, kind).sum(lambda place: np.zeros(1, kind))
