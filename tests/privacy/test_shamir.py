"""Shamir's shares: any t tell the secret, fewer are uniform, whatever they hide."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedlab.privacy.shamir import PRIME, SHARE, combine, split

POINTS = np.uint64([1, 2, 7, 1000, 2**31 - 2])


def known(count: int) -> bytes:
    return bytes((7 * i * i + 3 * i + 11) % 256 for i in range(count))


def test_shares_are_those_of_another_library() -> None:
    """Golden values of galois 0.4.11: `galois.Poly` over GF(2**31 - 1), evaluated at the points."""
    shares = split(bytes(range(32)), POINTS, 3, known)
    numbers = np.frombuffer(b"".join(shares), "<u4").reshape(5, 9)
    assert numbers[:, 0].tolist() == [949321848, 1096160507, 1287468842, 709342976, 547067538]
    assert numbers[:, 8].tolist() == [1433615991, 502502205, 1178295403, 974721680, 496645424]


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 6), st.data())
def test_any_t_of_n_tell_the_secret_and_fewer_do_not(
    secret: bytes, threshold: int, data: st.DataObject
) -> None:
    points = np.array(
        data.draw(st.lists(st.integers(1, PRIME - 1), min_size=threshold, max_size=9, unique=True)),
        np.uint64,
    )
    shares = split(secret, points, threshold)
    assert {len(share) for share in shares} == {SHARE}
    for some in list(combinations(range(len(points)), threshold))[:10]:
        assert combine(points[list(some)], [shares[i] for i in some]) == secret
    if threshold > 1:
        told: bytes | None = None
        with suppress(ValueError):  # numbers that no secret gives are noticed
            told = combine(points[: threshold - 1], shares[: threshold - 1])
        assert told != secret


def test_fewer_than_t_shares_are_uniform_and_independent_of_the_secret() -> None:
    """Two shares below a threshold of three, of two very different secrets, 4,000 times each."""
    bits = np.uint64(27)
    for secret in (bytes(32), b"\xff" * 32):
        drawn = [split(secret, POINTS, 3)[:2] for _ in range(4000)]
        numbers = np.frombuffer(b"".join(b"".join(two) for two in drawn), "<u4").astype(np.uint64)
        pairs = numbers.reshape(-1, 2, 9) >> bits
        counts = np.zeros((16, 16))
        np.add.at(counts, (pairs[:, 0].ravel(), pairs[:, 1].ravel()), 1)
        assert stats.chisquare(counts.ravel()).pvalue > 1e-6
    # Control: with a threshold of two, two shares are a straight line's, and the test sees it.
    drawn = [split(bytes(32), POINTS, 2)[:2] for _ in range(4000)]
    numbers = np.frombuffer(b"".join(b"".join(two) for two in drawn), "<u4").astype(np.uint64)
    pairs = numbers.reshape(-1, 2, 9) >> bits
    counts = np.zeros((16, 16))
    np.add.at(counts, (pairs[:, 0].ravel(), pairs[:, 1].ravel()), 1)
    assert stats.chisquare(counts.ravel()).pvalue < 1e-6


def test_a_coefficient_too_large_is_drawn_again() -> None:
    asked = []

    def source(count: int) -> bytes:
        asked.append(count)
        return b"\xff" * count if len(asked) == 1 else os.urandom(count)

    shares = split(bytes(range(32)), POINTS, 2, source)
    assert asked == [36, 36]
    assert combine(POINTS[:2], shares[:2]) == bytes(range(32))


def test_what_is_no_secret_point_or_share_is_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes was given; 32 are needed"):
        split(bytes(31), POINTS, 2)
    with pytest.raises(ValueError, match=r"threshold is 6; .* at most 5"):
        split(bytes(32), POINTS, 6)
    for bad in ([0, 1], [1, 1], [1, PRIME]):
        with pytest.raises(ValueError, match="different whole numbers"):
            split(bytes(32), np.uint64(bad), 2)
    shares = split(bytes(32), POINTS, 2)
    with pytest.raises(ValueError, match="2 shares of 36 bytes are needed"):
        combine(POINTS[:2], shares[:3])
    with pytest.raises(ValueError, match="not of one secret"):
        combine(POINTS[:2], [shares[0], split(b"\xff" * 32, POINTS, 2)[1]])
