"""FedEx: local hyper-parameters tuned within one run, by what devices' own models are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlab.algorithms.base import State, Stateless
from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, I64, Array, Places
from fedlab.core.validation import below_one
from fedlab.device.states import DeviceStates
from fedlab.models.base import Layout, Model, measures_of
from fedlab.training.work import Phase, Work


def error_held_out(model: Model, start: Array, end: Array, x: Array, y: Array) -> dict[str, float]:
    """Return 1 minus the accuracy of the model that training ended with, or its loss; and rows."""
    measures = measures_of(model, end, x, y)
    error = 1 - measures["accuracy"] if "accuracy" in measures else measures["loss"]
    return {"held_out_error": error, "held_out_rows": float(len(x))}


@dataclass(frozen=True)
class FedEx(Stateless):
    """Each device of a round trains by one of k configurations, drawn from a distribution theta.

    Devices tell how far wrong the models are that they end with, on rows that they hold out: 1
    minus the accuracy, or the loss where a model has none. With w_i the share of those rows, L_i
    device i's error, c_i its configuration, lambda a discounted mean of earlier rounds' errors, and
    g_j = sum_i w_i (L_i - lambda) [c_i = j] / theta_j, the server sets

        theta_j <- theta_j exp(-sqrt(2 ln k) g_j / max_i abs(g_i)),

    and brings theta back to the sum 1.

    Changes are averaged as by FedAvg. The server reads the errors of single devices. One whose
    training fails tells none, so what makes it fail isn't held against its configuration.

    Parameters
    ----------
    rates : (k,) numbers
        Each configuration's step size, times that of the local training.
    epochs : (k,) ints
        Each one's passes over a device's rows.
    discount : float
        0 takes the last round's error for lambda; towards 1, all rounds count alike.
    seed : int
        Of the draws.

    Source: Khodak et al., "Federated hyperparameter tuning: challenges, baselines, and connections
    to weight-sharing", NeurIPS 2021, algorithm 2, with the "aggressive" steps of its code.

    Examples
    --------
    >>> method = FedEx(rates=(0.1, 1.0), epochs=(1, 1))
    >>> method.init(np.zeros(2), 10, Layout((("weights", (2,)),)))["theta"]
    array([0.5, 0.5])
    """

    rates: tuple[float, ...]
    epochs: tuple[int, ...]
    discount: float = 0.0
    seed: int = 0

    reads: ClassVar[tuple[str, ...]] = ("places", "held_out_rows", "held_out_error")

    def __post_init__(self) -> None:
        if len(self.rates) < 2 or len(self.rates) != len(self.epochs):
            counts = f"{len(self.rates)} rates and {len(self.epochs)} epochs were given"
            raise ValueError(f"{counts}; FedEx takes as many of both, and two or more")
        below_one(discount=self.discount)

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        count = len(self.rates)
        return {"theta": np.full(count, 1 / count), "past": np.zeros(2), "round": 0}

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        which = self.drawn(state, places)
        rates, epochs = np.asarray(self.rates, np.float64)[which], np.asarray(self.epochs)[which]
        return Phase(parameters, rate=rates, epochs=epochs, observe=error_held_out, held_out=True)

    def drawn(self, state: State, places: Places) -> I64:
        """Return the configuration of each device in the coming round, (m,)."""
        at = (self.seed, Purpose.FEDEX)
        draws = [generator(*at, round=state["round"], device=p).random() for p in places.tolist()]
        edges = np.cumsum(state["theta"])
        return np.asarray(np.searchsorted(edges / edges[-1], draws, side="right"), np.int64)

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        theta, shares = state["theta"], means["held_out_rows"] / means["held_out_rows"].sum()
        errors = means["held_out_error"]
        which, (before, weight) = self.drawn(state, means["places"].astype(np.intp)), state["past"]
        above = shares * (errors - before / max(weight, 1.0))
        gradient = np.bincount(which, above, len(theta)) / np.maximum(theta, 1e-300)
        eta = math.sqrt(2 * math.log(len(theta))) / (np.abs(gradient).max() or 1.0)
        moved = theta * np.exp(eta * (gradient.min() - gradient))
        past = self.discount * state["past"] + np.array([shares @ errors, 1.0])
        after = {"theta": moved / moved.sum(), "past": past, "round": state["round"] + 1}
        return means["change"], after
