"""FedDyn: dynamic regularisation makes devices' minima agree with the global one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fedlab.algorithms.base import Reported, State, Stateless
from fedlab.core.typing import F64, Array, Places
from fedlab.core.validation import positive
from fedlab.device.states import DeviceStates
from fedlab.models.base import Layout
from fedlab.training.work import Phase, Work
from fedlab.updates.sent import Updates


@dataclass(frozen=True)
class FedDyn(Stateless):
    """Devices minimise ``f_k(y) - <g_k, y> + alpha / 2 |y - x|^2`` and renew g_k.

    A device keeps g_k, which becomes g_k - alpha (y - x); the server keeps h, which becomes h -
    alpha / N sum_S (y - x), and goes to mean_S y - h / alpha. It averages uniformly. Where devices
    minimise exactly, its fixed point is the minimum of the mean loss, whatever cohorts are drawn.

    Parameters
    ----------
    alpha : float
        Strength of the pull; the larger, the slower and the steadier.

    Source: Acar et al., "Federated learning based on dynamic regularization", ICLR 2021,
    algorithm 1.

    Examples
    --------
    >>> FedDyn(alpha=0.1)
    FedDyn(alpha=0.1)
    """

    alpha: float = 0.1

    weights: ClassVar[Literal["uniform"]] = "uniform"

    def __post_init__(self) -> None:
        positive(alpha=self.alpha)

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        return {"h": np.zeros(len(parameters)), "devices": devices}

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        offset = -kept.rows("dual", places, np.zeros_like(parameters))
        return Phase(parameters, mu=self.alpha, offset=offset)

    def report(self, state: State, sent: Updates, kept: DeviceStates) -> Reported:
        change = sent.blocks["change"]
        old = kept.rows("dual", sent.places, np.zeros(change.shape[1], change.dtype))
        return sent, kept.put("dual", sent.places, old - change.dtype.type(self.alpha) * change)

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        change = means["change"]
        h = state["h"] - self.alpha * devices / state["devices"] * change
        return change - h / self.alpha, {**state, "h": h}
