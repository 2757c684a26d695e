"""Real numbers as whole ones modulo 2**64, so that sums and products of secret shares are exact.

A number x stands as round(x 2**28). A product of two then stands in steps of 2**-56, and an inner
product of vectors of length at most sqrt(2) stays far from the 2**7 at which it would wrap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F64, U64

#: Bits behind the point.
FRACTION = 28


def to_words(values: F64) -> U64:
    """Round numbers of size below 2**6 to steps of 2**-28; negative ones stand above 2**63.

    Examples
    --------
    >>> to_words(np.array([1.0, -1.0])).tolist() == [2**28, 2**64 - 2**28]
    True
    """
    words: U64 = np.rint(values * 2.0**FRACTION).astype(np.int64).view(np.uint64)
    return words


def from_words(words: U64) -> F64:
    """Read such numbers.

    Examples
    --------
    >>> from_words(to_words(np.array([0.25, -1.0])))
    array([ 0.25, -1.  ])
    """
    return np.asarray(words.view(np.int64) * 2.0**-FRACTION)


def from_products(words: U64) -> F64:
    """Read sums of products of two such numbers."""
    return np.asarray(words.view(np.int64) * 2.0 ** (-2 * FRACTION))


def to_bits(words: NDArray[np.unsignedinteger[Any]], bits: int) -> bytes:
    """Return the lowest bits of each word, one after another.

    Examples
    --------
    >>> to_bits(np.uint32([1, 2, 3]), 12).hex()
    '0120000300'
    >>> from_bits(to_bits(np.uint32([1, 2, 3]), 12), 12, np.uint32)
    array([1, 2, 3], dtype=uint32)
    """
    size = words.dtype.itemsize
    rows = words.astype(words.dtype.newbyteorder("<")).view(np.uint8).reshape(len(words), size)
    if bits % 8 == 0:  # the same bytes, without an array of single bits
        return rows[:, : bits // 8].tobytes()
    flags = np.unpackbits(rows, 1, bitorder="little")[:, :bits]
    return np.packbits(flags, bitorder="little").tobytes()


def from_bits(data: bytes, bits: int, kind: Any) -> NDArray[np.unsignedinteger[Any]]:
    """Return the words of `to_bits`, of an unsigned type."""
    kind, coded = np.dtype(kind), np.frombuffer(data, np.uint8)
    count = 8 * len(data) // bits
    whole = np.zeros((count, kind.itemsize), np.uint8)
    if bits % 8 == 0:
        whole[:, : bits // 8] = coded[: count * bits // 8].reshape(count, bits // 8)
    else:
        flags = np.unpackbits(coded, count=count * bits, bitorder="little").reshape(count, bits)
        packed = np.packbits(flags, 1, bitorder="little")
        whole[:, : packed.shape[1]] = packed
    return np.asarray(whole.view(kind.newbyteorder("<")).ravel().astype(kind))


def error_bound(dimensions: int) -> float:
    """Return how far an inner product can lie from that of the vectors before rounding.

    Rounding moves each number by at most h = 2**-29, and so the product of x and y by at most
    h (|x|_1 + |y|_1) + d h**2 <= h sqrt(d) (|x| + |y|) + d h**2. Lengths are at most sqrt(2); to
    read the sum as float64 adds 2**-52 of it.

    Examples
    --------
    >>> error_bound(384) < 2e-6
    True
    """
    half = 2.0 ** -(FRACTION + 1)
    return float(half * np.sqrt(dimensions) * 2**1.5 + dimensions * half**2 + 2.0**-51)
