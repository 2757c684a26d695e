"""Personalisation at its simplest: fine-tune the server's model, or learn alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedlab.algorithms.base import Algorithm, Reported, State, Stateless
from fedlab.algorithms.fedavg import FedAvg
from fedlab.core.typing import F64, Array, Places
from fedlab.core.validation import positive, require, whole_number
from fedlab.device.states import DeviceStates
from fedlab.models.base import Layout
from fedlab.training.local import LocalSGD
from fedlab.training.work import Phase, Work, phases_of
from fedlab.updates.sent import Updates


@dataclass(frozen=True)
class FineTuned:
    """Any algorithm, whose model each device trains further on its own rows before it predicts.

    What is learned together is the algorithm's. With FedAvg it is often the one to beat (Matsuda et
    al., "Benchmark for personalized federated learning", IEEE OJCS 2024). With `only` the last
    layer it is a linear probe.

    Parameters
    ----------
    algorithm : Algorithm
    epochs : int
        Passes over a device's training rows.
    rate : float
        Times the step size of local training.
    only : tuple of str
        Names, or patterns, of the arrays that are trained further (see `Layout.mask`); by default
        all.

    Examples
    --------
    >>> FineTuned(epochs=3)
    FineTuned(algorithm=FedAvg(), epochs=3, rate=1.0, only=())
    """

    algorithm: Algorithm = field(default_factory=FedAvg)
    epochs: int = 5
    rate: float = 1.0
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.algorithm, "algorithm", "check", "init", "work", "report", "learn")
        whole_number(self.epochs, "epochs", 1)
        positive(rate=self.rate)

    def __getattr__(self, name: str) -> Any:
        if name not in ("weights", "reads"):
            raise AttributeError(name)
        return getattr(self.algorithm, name)

    def check(self, local: LocalSGD) -> None:
        self.algorithm.check(local)

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        only = layout.mask(*self.only) if self.only else None
        return {"of": self.algorithm.init(parameters, devices, layout), "only": only}

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        return self.algorithm.work(state["of"], parameters, places, kept)

    def report(self, state: State, sent: Updates, kept: DeviceStates) -> Reported:
        return self.algorithm.report(state["of"], sent, kept)

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        change, after = self.algorithm.learn(state["of"], means, devices)
        return change, {**state, "of": after}

    def serve(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        """Return the work by which devices make the model that they predict with."""
        further = Phase(trained=state["only"], epochs=self.epochs, rate=self.rate, send=None)
        served = getattr(self.algorithm, "serve", None)
        if served is None:
            return replace(further, start=parameters)
        return (*phases_of(served(state["of"], parameters, places, kept)), further)


@dataclass(frozen=True)
class Alone(Stateless):
    """Each device trains a model of its own, and sends nothing: what joining is compared with.

    A device that has never taken part has trained nothing, and predicts with the start.

    Examples
    --------
    >>> Alone()
    Alone()
    """

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        return {"size": len(parameters)}

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        own = kept.rows("own", places, parameters)
        return Phase(own, own=True, send=None, keep="own")

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        return np.zeros(state["size"]), state

    def serve(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        """Return the work by which devices make the model that they predict with."""
        return Phase(kept.rows("own", places, parameters), own=True, epochs=0)
