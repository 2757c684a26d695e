"""How much each device's update counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.typing import F64, I64
from fedlab.device.device import Device

Weigher = Callable[[Sequence[Device], I64], NDArray[Any]]
Weights = Literal["rows", "uniform"] | Mapping[int | str, float] | Callable[[Device], float]


def normalised(weights: ArrayLike, count: int) -> F64:
    """Return weights scaled to sum to one; refuse what is no weight."""
    w = np.asarray(weights, np.float64)
    if w.shape != (count,) or not np.isfinite(w).all() or (w < 0).any() or not w.sum() > 0:
        raise ValueError(
            f"weights {np.array2string(w, threshold=8)} were given for {count} updates; one "
            "finite, non-negative number each is needed, not all of them zero"
        )
    return np.asarray(w / w.sum())


def weigher(weights: Weights, devices: Iterable[Device] = ()) -> Weigher:
    """Return what weighs devices: by rows, uniformly, or by numbers of one's own.

    It takes devices and their rows, (m,), and returns their weights, (m,).

    Parameters
    ----------
    weights : {"rows", "uniform"}, mapping of device id to number, or function of a device
    devices : iterable of Device
        Those for which a mapping must have a number; of others it is found out when they are asked.
    """
    if isinstance(weights, str):
        if weights == "rows":
            return lambda devices, rows: rows
        if weights == "uniform":
            return lambda devices, rows: np.ones(len(rows))
    elif isinstance(weights, Mapping):
        _refuse_missing(weights, devices)

        def looked_up(devices: Sequence[Device], rows: I64) -> NDArray[Any]:
            _refuse_missing(weights, devices)
            return np.array([float(weights[device.id]) for device in devices])

        return looked_up
    elif callable(weights):
        return lambda devices, rows: np.array([float(weights(device)) for device in devices])
    raise ValueError(
        f"weights is {weights!r}; choose 'rows', 'uniform', a mapping of device id to number, or a "
        "function of a device"
    )


def _refuse_missing(weights: Mapping[int | str, float], devices: Iterable[Device]) -> None:
    if missing := [device.id for device in devices if device.id not in weights]:
        raise ValueError(f"weights name no number for the devices {missing[:5]}")
