"""Matrix products modulo 2**64, compiled: NumPy multiplies whole numbers without its BLAS."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from fedlab.core.jit import compiled
from fedlab.core.threads import share
from fedlab.core.typing import U64

_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@compiled()
def _multiply_add(rows, low, high, out):
    # a b = al bl + ((al bh + ah bl) << 32) modulo 2**64, for processors that multiply 32 bits by
    # 32 side by side, as AVX2 does; the crossed terms are moved up once, at the end.
    n, d = rows.shape
    for row in range(n):
        line = rows[row]
        for query in range(len(low)):
            lows, highs = low[query], high[query]
            straight = crossed = np.uint64(0)
            for place in range(d):
                a = line[place]
                straight += (a & _LOW) * lows[place]
                crossed += (a & _LOW) * highs[place] + (a >> _HALF) * lows[place]
            out[query, row] += straight + (crossed << _HALF)


def multiply_add(rows: U64, queries: U64, out: U64, threads: int = 1) -> None:
    """Add rows @ queries.T to `out`, modulo 2**64; exact for any number of threads.

    Parameters
    ----------
    rows : (n, d) uint64 array, C-contiguous
    queries : (m, d) uint64 array
    out : (m, n) uint64 array
    threads : int
    """
    low, high = queries & _LOW, queries >> _HALF
    edges = np.linspace(0, len(rows), threads + 1).astype(int)
    parts = [slice(a, b) for a, b in pairwise(edges.tolist())]
    share(parts, lambda part: _multiply_add(rows[part], low, high, out[:, part]), threads)
