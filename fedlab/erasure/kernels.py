"""The rolling hash, compiled: every window of a buffer against a set of hashes."""

from __future__ import annotations

import numpy as np

from fedlab.core.jit import compiled


@compiled()
def hashed(content, base):
    """Return sum_j b_j B^(L - 1 - j) mod 2^64 over L bytes."""
    total = np.uint64(0)
    for byte in content:
        total = total * base + np.uint64(byte)
    return total


@compiled()
def matching(piece, size, first, base, leaving, likely, hashes, places):
    """Write to `places` where windows begin whose hash is among `hashes`; return how many do.

    `leaving` is B^size, `likely` (a power of two long) says which highest bits some hash has, and
    `hashes` rise.
    """
    count, bits = 0, 0
    while 1 << bits < len(likely):
        bits += 1
    shift = np.uint64(64 - bits)
    if first + size > len(piece):
        return count
    total = hashed(piece[first : first + size], base)
    for place in range(first, len(piece) - size + 1):
        if place > first:
            total = total * base + np.uint64(piece[place + size - 1])
            total -= leaving * np.uint64(piece[place - 1])
        if likely[total >> shift]:
            near = np.searchsorted(hashes, total)
            if near < len(hashes) and hashes[near] == total:
                places[count] = place
                count += 1
    return count
