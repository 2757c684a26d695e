"""Sums over a cohort, compiled: in float64 and in the cohort's order, bit for bit as NumPy's.

A column's sum does not depend on the others', so threads may share the columns.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fedlab.core.jit import INNER, compiled

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


@compiled()
def rounded(row, edges, symbols):
    """Add to `symbols`, (n,), how many of some edges the numbers of a row lie above."""
    for edge in edges:
        for place in range(len(row)):
            symbols[place] += row[place] > edge


@compiled()
def sketched(row, keys, sums):
    """Add a row, (n,), to its sums, (lines, cells) float64."""
    for line in range(len(sums)):
        for place in range(len(row)):
            cell, sign = _cell(keys[line], place, sums.shape[1])
            sums[line, cell] += sign * row[place]


@compiled()
def unsketched(sums, keys, row):
    """Write to a row, (n,), the median of what sums, (lines, cells), say."""
    lines, cells = sums.shape
    said = np.empty((lines, _WIDTH), sums.dtype)
    for start in range(0, len(row), _WIDTH):
        part = row[start : start + _WIDTH]
        for line in range(lines):
            for place in range(len(part)):
                cell, sign = _cell(keys[line], start + place, cells)
                said[line, place] = sign * sums[line, cell]
        for last in range(lines - 1, 0, -1):  # all places are sorted at once, by exchanges
            for line in range(last):
                for place in range(len(part)):
                    x, y = said[line, place], said[line + 1, place]
                    said[line, place], said[line + 1, place] = min(x, y), max(x, y)
        for place in range(len(part)):
            part[place] = said[lines // 2, place] / 2 + said[(lines - 1) // 2, place] / 2


@njit(**INNER)
def _cell(key, place, cells):
    """Return where a number enters a line, and its sign: splitmix64 (Steele et al., 2014)."""
    mixed = key + np.uint64(place + 1) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    cell = (mixed >> np.uint64(32)) * np.uint64(cells) >> np.uint64(32)
    return cell, 1 - 2 * np.int64(mixed & np.uint64(1))
