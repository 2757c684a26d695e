"""Weighted averages of what devices send: whose weights, how they add up, how far apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.device.device import Device
from fedlab.models.base import Array

__all__ = [
    "Weigher",
    "Weights",
    "drift",
    "normalised",
    "weigher",
    "weighted_average",
    "weighted_sum",
]

Weigher = Callable[[Sequence[Device], NDArray[np.int64]], NDArray[Any]]
Weights = Literal["rows", "uniform"] | Mapping[int | str, float] | Callable[[Device], float]


def weighted_sum(vectors: Array | Sequence[Array], weights: Sequence[float] | Array) -> Array:
    """Return sum_k w_k v_k in float64, added up in the given order, so that bits don't vary."""
    if not len(vectors):
        raise ValueError("there are no vectors to add up; give at least one")
    if isinstance(vectors, np.ndarray):
        from fedlab import reductions

        total = np.empty(vectors.shape[1])
        reductions.weighted_sum(vectors, np.asarray(weights, np.float64), total)
        return total
    total = np.multiply(vectors[0], weights[0], dtype=np.float64)
    for weight, vector in zip(weights[1:], vectors[1:], strict=True):
        total += np.multiply(vector, weight, dtype=np.float64)
    return total


def weighted_average(vectors: Sequence[Array], weights: ArrayLike) -> NDArray[np.float64]:
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


def normalised(weights: ArrayLike, count: int) -> NDArray[np.float64]:
    """Return weights scaled to sum to one; refuse what is no weight."""
    w = np.asarray(weights, np.float64)
    if w.shape != (count,) or not np.isfinite(w).all() or (w < 0).any() or not w.sum() > 0:
        raise ValueError(
            f"weights {np.array2string(w, threshold=8)} were given for {count} updates; one "
            "finite, non-negative number each is needed, not all of them zero"
        )
    return np.asarray(w / w.sum())


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
        from fedlab import reductions

        reductions.distances_squared(vectors, average, apart)
    else:
        apart[:] = [np.square(vector - average).sum() for vector in vectors]
    length = float(np.linalg.norm(average))
    return float(np.sqrt(np.dot(w / w.sum(), apart))) / length if length else 0.0


def weigher(weights: Weights, devices: Iterable[Device]) -> Weigher:
    """Return what weighs devices: by rows, uniformly, or by numbers of one's own.

    It takes devices and their rows, (m,), and returns their weights, (m,).
    """
    if isinstance(weights, str):
        if weights == "rows":
            return lambda devices, rows: rows
        if weights == "uniform":
            return lambda devices, rows: np.ones(len(rows))
    elif isinstance(weights, Mapping):
        missing = [device.id for device in devices if device.id not in weights]
        if missing:
            raise ValueError(f"weights name no number for the devices {missing[:5]}")
        return lambda devices, rows: np.array([float(weights[device.id]) for device in devices])
    elif callable(weights):
        return lambda devices, rows: np.array([float(weights(device)) for device in devices])
    raise ValueError(
        f"weights is {weights!r}; choose 'rows', 'uniform', a mapping of device id to number, or a "
        "function of a device"
    )
