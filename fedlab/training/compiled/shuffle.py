"""The order in which a device passes its rows: what `LocalSGD.batches` draws, compiled.

A fresh NumPy generator costs more than an epoch of a small device; here the device's Philox stream
is computed in place.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox4x64-10);
Durstenfeld, "Algorithm 235: random permutation", CACM 1964.
"""

from __future__ import annotations

import numpy as np

from fedlab.core.jit import compiled
from fedlab.training.compiled.tiles import high_product

_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)


@compiled()
def draw_words(words, count, seed, purpose, round, device, part):
    """Fill `words` with the first `count` outputs at an address (see `fedlab.core.randomness`).

    `words` has room for `count` rounded up to a multiple of four.
    """
    block = np.uint64(0)
    for start in range(0, count, 4):
        block += np.uint64(1)  # NumPy counts before it draws
        c0, c1, c2, c3 = block, part, device, round
        k0, k1 = seed, purpose
        for _ in range(10):
            high0, low0 = high_product(_M0, c0), _M0 * c0
            high1, low1 = high_product(_M1, c2), _M1 * c2
            c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
            k0, k1 = k0 + _W0, k1 + _W1
        words[start] = c0
        words[start + 1] = c1
        words[start + 2] = c2
        words[start + 3] = c3


@compiled()
def shuffle(order, count, words):
    """Shuffle the first `count` entries: the last changes places with one drawn, and so on down."""
    for last in range(count - 1, 0, -1):
        other = high_product(words[last], np.uint64(last + 1))
        order[last], order[other] = order[other], order[last]
