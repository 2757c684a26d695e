"""Sums over a cohort, compiled: in float64 and in the cohort's order, bit for bit as NumPy's.

A column's sum does not depend on the others', so threads may share the columns.
"""

from __future__ import annotations

import numpy as np

from fedlab.core.jit import compiled

# No reordering and no fused multiplication: the bits are those of the plain loop.
#: Columns that are worked on together: their sums stay in the processor's nearest cache.
_WIDTH = 1024


@compiled()
def add_weighted(vectors, weights, total):
    """Add sum_k w_k v_k to `total`, (p,) float64; vectors are (m, p)."""
    count, size = vectors.shape
    for start in range(0, size, _WIDTH):
        stop = min(start + _WIDTH, size)
        part = total[start:stop]
        for row in range(count):
            weight, numbers = weights[row], vectors[row, start:stop]
            for place in range(len(part)):
                part[place] += np.float64(numbers[place]) * weight


@compiled(fastmath={"reassoc", "contract"})
def squares(vectors, result):
    """Write |v_k|^2 to `result`, (m,) float64."""
    for row in range(len(vectors)):
        numbers, total = vectors[row], 0.0
        for place in range(len(numbers)):
            number = np.float64(numbers[place])
            total += number * number
        result[row] = total


@compiled()
def hadamard(row):
    """Put a Walsh-Hadamard transform in a row's place, (2^k,); twice gives the row times 2^k."""
    size, half = len(row), 1
    while half < size:
        for start in range(0, size, 2 * half):
            left, right = row[start : start + half], row[start + half : start + 2 * half]
            for place in range(half):
                x, y = left[place], right[place]
                left[place], right[place] = x + y, x - y
        half *= 2
