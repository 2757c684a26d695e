"""FedProx: local work is pulled towards the server's model."""

from __future__ import annotations

from dataclasses import dataclass

from fedlab.algorithms.base import State, Stateless
from fedlab.core.typing import Array, Places
from fedlab.core.validation import not_negative
from fedlab.device.states import DeviceStates
from fedlab.training.work import Phase, Work


@dataclass(frozen=True)
class FedProx(Stateless):
    """Devices minimise ``f_k(y) + mu / 2 |y - x|^2``; the server learns the average.

    Parameters
    ----------
    mu : float
        Strength of the proximal term; 0 is FedAvg, bit for bit.

    Source: Li et al., "Federated optimization in heterogeneous networks", MLSys 2020, algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> phase = FedProx(mu=0.1).work({}, np.zeros(2), np.arange(3), DeviceStates())
    >>> phase.mu
    0.1
    """

    mu: float = 1.0

    def __post_init__(self) -> None:
        not_negative(mu=self.mu)

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        return Phase(parameters, mu=self.mu)
