"""Weighted averages of what devices send: whose weights, how they add up, how far apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import F64, Array
from fedlab.updates.weights import normalised

__all__ = ["drift", "weighted_average", "weighted_sum"]


def weighted_sum(vectors: Array | Sequence[Array], weights: Sequence[float] | Array) -> Array:
    """Return sum_k w_k v_k in float64, added up in the given order, so that bits don't vary."""
    if not len(vectors):
        raise ValueError("there are no vectors to add up; give at least one")
    if isinstance(vectors, np.ndarray):
        from fedlab.updates import kernels

        total = np.empty(vectors.shape[1])
        kernels.weighted_sum(vectors, np.asarray(weights, np.float64), total)
        return total
    total = np.multiply(vectors[0], weights[0], dtype=np.float64)
    for weight, vector in zip(weights[1:], vectors[1:], strict=True):
        total += np.multiply(vector, weight, dtype=np.float64)
    return total


def weighted_average(vectors: Sequence[Array], weights: ArrayLike) -> F64:
    """Return sum_k w_k v_k / sum_k w_k, added up in the given order in float64.

    Raises
    ------
    ValueError
        If the weights are not finite and non-negative numbers, one a vector, with a positive sum.

    Examples
    --------
    >>> weighted_average([np.array([1.0, 0.0]), np.array([0.0, 1.0])], [3, 1])
    array([0.75, 0.25])
    """
    return weighted_sum(vectors, normalised(weights, len(vectors)))


def drift(vectors: Array | Sequence[Array], weights: ArrayLike, average: Array) -> float:
    """Return how far updates lie apart, relative to their average's length.

    The root of sum_k p_k |v_k - v|^2, divided by |v|, with p_k the weights scaled to sum to one and
    v the weighted average: 0 where all devices agree, and without bound where they cancel out.

    Examples
    --------
    >>> drift([np.array([1.0, 1.0]), np.array([1.0, -1.0])], [1, 1], np.array([1.0, 0.0]))
    1.0
    """
    w = np.asarray(weights, np.float64)
    apart = np.empty(len(vectors))
    if isinstance(vectors, np.ndarray):
        from fedlab.updates import kernels

        kernels.distances_squared(vectors, average, apart)
    else:
        apart[:] = [np.square(vector - average).sum() for vector in vectors]
    length = float(np.linalg.norm(average))
    return float(np.sqrt(np.dot(w / w.sum(), apart))) / length if length else 0.0
