"""Agnostic federated learning: the model is trained for the worst mixture of the devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from fedlab.algorithms.base import State, Stateless
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
        # Devices that never took part are alike: one number stands for each of them.
        uniform = {"rest": 1 / devices, "devices": devices}
        return {"places": np.empty(0, np.int64), "mixture": np.empty(0), **uniform}

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        return Phase(parameters, observe=loss_at_start)

    def report(
        self, state: State, sent: Updates, kept: DeviceStates
    ) -> tuple[Updates, DeviceStates]:
        weighed = {**sent.weighed, "change": mixture_of(state, sent.places)}
        return replace(sent, weighed=weighed), kept

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        places = means["places"].astype(np.int64)
        total = mixture_of(state, places).sum()
        change = means["change"] / total if total > 0 else np.zeros_like(means["change"])
        known = np.union1d(state["places"], places)
        mixture = mixture_of(state, known)
        mixture[np.searchsorted(known, places)] += self.rate * means["loss_at_start"]
        others = max(state["devices"] - len(known), 0)
        whole = on_simplex(np.concatenate([mixture, np.full(others, state["rest"])]))
        rest = float(whole[-1]) if others else 0.0
        return change, {**state, "places": known, "mixture": whole[: len(known)], "rest": rest}


def mixture_of(state: State, places: Places) -> F64:
    """Return lambda_k of the devices at some places, (m,)."""
    known = dict(zip(state["places"].tolist(), state["mixture"].tolist(), strict=True))
    return np.array([known.get(place, state["rest"]) for place in places.tolist()], np.float64)
