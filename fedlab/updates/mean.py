"""A weighted average of updates, and how far apart they lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import F64, Array
from fedlab.updates.weights import normalised


class Means(dict[str, F64]):
    """What a round gives an algorithm to learn from, by the names of blocks and stats."""

    def __missing__(self, name: str) -> F64:
        raise KeyError(f"no {name!r} came in this round; there are {', '.join(self)}")


def weighted_average(vectors: Array | Sequence[Array], weights: ArrayLike) -> F64:
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
    shares = normalised(weights, len(vectors))
    total = np.multiply(vectors[0], shares[0], dtype=np.float64)
    for share, vector in zip(shares[1:], vectors[1:], strict=True):
        total += np.multiply(vector, share, dtype=np.float64)
    return np.asarray(total)


def client_drift(squares: ArrayLike, weights: ArrayLike, average: Array) -> float:
    """Return how far updates lie apart, relative to their average's length.

    The root of sum_k p_k |v_k - v|^2, divided by |v|, with p_k the weights scaled to sum to one and
    v the weighted average: 0 where all devices agree, and without bound where they cancel out. It
    is found from each update's length alone, as sum_k p_k |v_k|^2 - |v|^2.

    Parameters
    ----------
    squares : (m,) array
        |v_k|^2.
    weights : (m,) array
    average : (n,) array
        v.

    Examples
    --------
    >>> client_drift([2.0, 2.0], [1, 1], np.array([1.0, 0.0]))
    1.0
    """
    w = np.asarray(weights, np.float64)
    mean = float(np.dot(w / w.sum(), np.asarray(squares, np.float64)))
    length = float(np.dot(average, average))
    apart = mean - length
    if apart < 1e-12 * mean:  # rounding alone
        return 0.0
    return float(np.sqrt(apart / length)) if length else 0.0
