"""Agnostic federated learning: the model is trained for the worst mixture of the devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from fedlab.algorithms.base import Reported, State, Stateless
from fedlab.algorithms.qffl import loss_at_start
from fedlab.core.typing import F64, Array, Places
from fedlab.core.validation import positive
from fedlab.device.states import DeviceStates
from fedlab.models.base import Layout
from fedlab.training.work import Phase, Work
from fedlab.updates.sent import Updates


def on_simplex(point: F64) -> F64:
    """Return the nearest point of the probability simplex.

    Source: Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions",
    ICML 2008, figure 1.

    Examples
    --------
    >>> on_simplex(np.array([1.0, 0.5, -1.0]))
    array([0.75, 0.25, 0.  ])
    """
    falling = np.sort(point)[::-1]
    over = (np.cumsum(falling) - 1) / np.arange(1, len(point) + 1)
    theta = over[np.flatnonzero(falling > over)[-1]]
    return np.asarray(np.maximum(point - theta, 0))


@dataclass(frozen=True)
class AFL(Stateless):
    """``min_x max_lambda sum_k lambda_k F_k(x)``: the server climbs in lambda as x descends.

    lambda stays on the probability simplex and begins at the uniform mixture; each round lambda_k
    of the cohort grows by `rate` times the device's loss at the model that it was sent, and the
    whole is projected back. The server reads the losses of single devices.

    Parameters
    ----------
    rate : float
        Step size of lambda.

    Source: Mohri, Sivek and Suresh, "Agnostic federated learning", ICML 2019, algorithm 1; with
    several local steps in place of one stochastic gradient.

    Examples
    --------
    >>> AFL(rate=0.05)
    AFL(rate=0.05)
    """

    rate: float = 0.1

    weights: ClassVar[Literal["uniform"]] = "uniform"
    reads: ClassVar[tuple[str, ...]] = ("places", "loss_at_start")

    def __post_init__(self) -> None:
        positive(rate=self.rate)

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        return {"mixture": np.full(devices, 1 / devices)}

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        return Phase(parameters, observe=loss_at_start)

    def report(self, state: State, sent: Updates, kept: DeviceStates) -> Reported:
        weighed = {**sent.weighed, "change": state["mixture"][sent.places]}
        return replace(sent, weighed=weighed), kept

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        places, mixture = means["places"].astype(np.intp), state["mixture"].copy()
        total = mixture[places].sum()
        change = means["change"] / total if total > 0 else np.zeros_like(means["change"])
        mixture[places] += self.rate * means["loss_at_start"]
        return change, {"mixture": on_simplex(mixture)}
