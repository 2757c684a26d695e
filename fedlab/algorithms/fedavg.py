"""Federated averaging, with an optional server step size and momentum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlab.algorithms.base import State, Stateless
from fedlab.core.typing import Array
from fedlab.updates.returned import Returned

__all__ = ["FedAvg"]


@dataclass(frozen=True)
class FedAvg(Stateless):
    """x <- x + eta_g v with v <- beta v + sum_k p_k (x_k - x).

    Parameters
    ----------
    server_rate : float
        eta_g; 1 replaces the model by the average.
    momentum : float
        beta, 0 <= beta < 1.

    Sources: McMahan et al., AISTATS 2017, algorithm 1; with momentum Hsu, Qi and Brown, "Measuring
    the effects of non-identical data distribution", 2019, section 4.3 (FedAvgM).

    Examples
    --------
    >>> FedAvg(momentum=0.9)
    FedAvg(server_rate=1.0, momentum=0.9)
    """

    server_rate: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.server_rate < np.inf:
            raise ValueError(f"server_rate is {self.server_rate}; it must be a positive number")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must be at least 0 and below 1")

    def init(self, parameters: Array, devices: int) -> State:
        return {"velocity": np.zeros(len(parameters))} if self.momentum else {}

    def step(self, state: State, parameters: Array, returned: Returned) -> tuple[Array, State]:
        move = returned.average
        if self.momentum:
            move = self.momentum * state["velocity"] + move
            state = {"velocity": move}
        return parameters + self.server_rate * move, state
