"""How much each device's update counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import F64, I64
from fedlab.core.validation import not_negative
from fedlab.device.device import Device

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


@dataclass(frozen=True)
class Weigher:
    """What weighs devices: by rows, uniformly, or by numbers of one's own.

    Parameters
    ----------
    weights : {"rows", "uniform"}, mapping of device id to number, or function of a device

    Examples
    --------
    >>> Weigher("uniform")([], np.array([10, 20]))
    array([1., 1.])
    """

    weights: Weights

    def __post_init__(self) -> None:
        own = isinstance(self.weights, Mapping) or callable(self.weights)
        if not own and self.weights not in ("rows", "uniform"):
            raise ValueError(
                f"weights is {self.weights!r}; choose 'rows', 'uniform', a mapping of device id to "
                "number, or a function of a device"
            )

    def __call__(self, devices: Sequence[Device], rows: I64) -> F64:
        """Return the weights, (m,), of devices that have so many rows, (m,)."""
        if self.weights == "rows":
            return rows.astype(np.float64)
        if self.weights == "uniform":
            return np.ones(len(rows))
        if isinstance(self.weights, Mapping):
            _refuse_missing(self.weights, devices)
        return np.array([self._own(device) for device in devices], np.float64)

    def check(self, devices: Iterable[Device], left_out: Collection[object] = ()) -> None:
        """Refuse weights that are none for some of the devices, or that name others.

        Parameters
        ----------
        devices : iterable of Device
        left_out : collection of ids
            Devices that have weights, and no rows.
        """
        if isinstance(self.weights, str):
            return
        there = list(devices)
        if isinstance(self.weights, Mapping):
            _refuse_missing(self.weights, there)
            ids = {*left_out, *(device.id for device in there)}
            if others := sorted(map(str, self.weights.keys() - ids)):
                raise ValueError(f"weights name devices that are not here: {others[:5]}")
        for device in there:
            self._own(device)

    def _own(self, device: Device) -> float:
        own: Any = self.weights  # a function, or a mapping
        given = own(device) if callable(own) else own[device.id]
        not_negative(**{f"the weight of device {device.id!r}": given})
        return float(given)


def _refuse_missing(weights: Mapping[int | str, float], devices: Iterable[Device]) -> None:
    if missing := [device.id for device in devices if device.id not in weights]:
        raise ValueError(f"weights name no number for the devices {missing[:5]}")
