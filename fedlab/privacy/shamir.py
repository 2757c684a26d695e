"""Secrets in shares of which any t tell all, and fewer nothing: Shamir's scheme, vectorised.

A secret of 32 bytes stands as nine numbers of 30 bits, each the value at zero of a polynomial of
degree t - 1 over the integers modulo 2**31 - 1 whose other coefficients are uniform. A share is
their values at a holder's point, 36 bytes (Shamir, "How to share a secret", CACM 1979).
"""

from __future__ import annotations

import math
import os

import numpy as np

from fedlab.core.typing import U64
from fedlab.core.validation import whole_number
from fedlab.privacy.noise import Source

#: Products of two numbers below it fit 64 bits.
PRIME = 2**31 - 1
_BITS, _COUNT = 30, 9
#: Bytes of a share of one secret.
SHARE = 4 * _COUNT


def split(secret: bytes, points: U64, threshold: int, source: Source = os.urandom) -> list[bytes]:
    """Share a secret of 32 bytes among holders, so that any `threshold` of them can tell it.

    Parameters
    ----------
    secret : bytes
    points : (n,) uint64 array
        One for each holder, in 1 ... 2**31 - 2, all different.
    threshold : int
    source : callable
        Where random bytes come from; by default the operating system.

    Returns
    -------
    list of n bytes

    Raises
    ------
    ValueError
        If the secret has another length, points are no such points, or fewer than `threshold`.

    Examples
    --------
    >>> points = np.uint64([1, 2, 3])
    >>> shares = split(bytes(range(32)), points, threshold=2)
    >>> combine(points[1:], shares[1:]) == bytes(range(32))
    True
    """
    whole_number(threshold, "threshold", 1, len(points))
    if len(secret) != 32:
        raise ValueError(f"a secret of {len(secret)} bytes was given; 32 are needed")
    _check(points)
    whole = int.from_bytes(secret, "little")
    limbs = [whole >> _BITS * place & 2**_BITS - 1 for place in range(_COUNT)]
    shares = np.zeros((len(points), _COUNT), np.uint64)
    for row in (*_uniform((threshold - 1, _COUNT), source), np.array(limbs, np.uint64)):
        shares = (shares * points[:, None] + row) % PRIME
    return [row.tobytes() for row in shares.astype("<u4")]


def combine(points: U64, shares: list[bytes]) -> bytes:
    """Return the secret whose shares these are: as many as its threshold, at their points.

    Fewer, or altered ones, give other bytes or a ValueError.
    """
    _check(points)
    if len(shares) != len(points) or {len(share) for share in shares} != {SHARE}:
        raise ValueError(f"{len(points)} shares of {SHARE} bytes are needed, one a point")
    # Lagrange's weights at zero: products of x_m / (x_m - x_j) over m other than j.
    apart = (points[None] + np.uint64(PRIME) - points[:, None]) % PRIME
    above = np.tile(points, (len(points), 1))
    np.fill_diagonal(apart, 1)
    np.fill_diagonal(above, 1)
    top, bottom = (np.ones(len(points), np.uint64) for _ in range(2))
    for place in range(len(points)):
        top, bottom = top * above[:, place] % PRIME, bottom * apart[:, place] % PRIME
    inverse = np.array([pow(int(number), -1, PRIME) for number in bottom], np.uint64)
    numbers = np.frombuffer(b"".join(shares), "<u4").reshape(-1, _COUNT).astype(np.uint64)
    limbs = ((top * inverse % PRIME)[:, None] * numbers % PRIME).sum(axis=0) % PRIME
    whole = sum(int(limb) << _BITS * place for place, limb in enumerate(limbs))
    if whole >> 256 or (limbs >> np.uint64(_BITS)).any():
        raise ValueError("the shares are not of one secret, or too few")
    return whole.to_bytes(32, "little")


def _check(points: U64) -> None:
    good = points.ndim == 1 and points.size and points.min() >= 1 and points.max() < PRIME
    if not good or len(np.unique(points)) < len(points):
        raise ValueError("points must be different whole numbers in 1 ... 2**31 - 2")


def _uniform(shape: tuple[int, int], source: Source) -> U64:
    # 31 bits, drawn again where they are the one value too many.
    words = np.frombuffer(source(4 * math.prod(shape)), "<u4") >> 1
    while (over := words == PRIME).any():
        words[over] = np.frombuffer(source(4 * int(over.sum())), "<u4") >> 1
    return words.astype(np.uint64).reshape(shape)
