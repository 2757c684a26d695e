"""SCAFFOLD: control variates undo client drift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedlab.algorithms.base import State
from fedlab.core.typing import Array, Places
from fedlab.training.work import Work
from fedlab.updates.returned import Returned

__all__ = ["Scaffold"]


@dataclass(frozen=True)
class Scaffold:
    """Devices step along g + c - c_i; the server averages uniformly.

    Parameters
    ----------
    option : {2, 1}
        How a device renews its control variate: 2, from its own change, c_i - c + (x - y) / (K
        eta); 1, the gradient of its whole loss at x, which costs another pass over its rows.
    server_rate : float
        eta_g.

    Source: Karimireddy et al., "SCAFFOLD: stochastic controlled averaging for federated learning",
    ICML 2020, algorithm 1. All variates start at zero, and c is their mean over *all* devices.

    Examples
    --------
    >>> Scaffold().init(np.zeros(2), devices=10)["server"]
    array([0., 0.])
    """

    option: Literal[1, 2] = 2
    server_rate: float = 1.0

    def __post_init__(self) -> None:
        if self.option not in (1, 2):
            raise ValueError(f"option is {self.option}; choose 1 or 2")
        if not 0 < self.server_rate < np.inf:
            raise ValueError(f"server_rate is {self.server_rate}; it must be a positive number")

    def init(self, parameters: Array, devices: int) -> State:
        # Only devices that took part have a variate other than zero: memory follows those.
        return {"server": np.zeros(len(parameters)), "device": {}, "devices": devices}

    def _variates(self, state: State, places: Places) -> Array:
        zero = np.zeros_like(state["server"])
        return np.array([state["device"].get(int(place), zero) for place in places])

    def work(self, state: State, parameters: Array, places: Places) -> Work:
        offset = state["server"] - self._variates(state, places)
        return Work(parameters, offset=offset.astype(parameters.dtype), gradient=self.option == 1)

    def step(self, state: State, parameters: Array, returned: Returned) -> tuple[Array, State]:
        old = self._variates(state, returned.places)
        if self.option == 1:
            new = returned.blocks["gradient"].astype(np.float64)
        else:
            taken = (returned.steps * returned.rate)[:, None]
            new = old - state["server"] - returned.changes / taken
        server = state["server"] + (new - old).sum(axis=0) / state["devices"]
        device = {**state["device"], **dict(zip(returned.places.tolist(), new, strict=True))}
        uniform = np.full(len(new), 1 / len(new))
        moved = parameters + self.server_rate * returned.mean(returned.changes, uniform)
        return moved, {**state, "server": server, "device": device}
