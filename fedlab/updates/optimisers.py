"""How the server moves the model along the change that an algorithm has learned.

Any of them goes with any algorithm: ``Federation(devices, model, algorithm="fedprox",
server="adam")``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from fedlab.core.typing import F64, Array
from fedlab.core.validation import below_one, known, positive

State = Any


class ServerOptimiser(Protocol):
    """A frozen dataclass of hyper-parameters with these two methods."""

    def init(self, parameters: Array) -> State:
        """Return the state before the first round, such as a checkpoint holds."""

    def step(self, state: State, parameters: Array, change: F64) -> tuple[F64, State]:
        """Return the next parameters and the next state; neither in place."""


@dataclass(frozen=True)
class SGD:
    """x <- x + eta v with v <- beta v + D, where D is the change.

    Parameters
    ----------
    rate : float
        eta; 1 without momentum replaces the model by the average, as FedAvg does.
    momentum : float
        beta, 0 <= beta < 1.

    Sources: McMahan et al., "Communication-efficient learning of deep networks from decentralized
    data", AISTATS 2017; with momentum Hsu, Qi and Brown, "Measuring the effects of non-identical
    data distribution", 2019, section 4.3 (FedAvgM).

    Examples
    --------
    >>> SGD(rate=0.5).step({}, np.zeros(2), np.ones(2))
    (array([0.5, 0.5]), {})
    """

    rate: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        positive(rate=self.rate)
        below_one(momentum=self.momentum)

    def init(self, parameters: Array) -> State:
        return {"velocity": np.zeros(len(parameters))} if self.momentum else {}

    def step(self, state: State, parameters: Array, change: F64) -> tuple[F64, State]:
        if self.momentum:
            change = self.momentum * state["velocity"] + change
            state = {"velocity": change}
        return np.asarray(parameters + self.rate * change), state


@dataclass(frozen=True)
class _Adaptive:
    """The change D is a pseudo-gradient: x <- x + eta m / (sqrt(v) + tau).

    Parameters
    ----------
    rate : float
        eta.
    beta1, beta2 : float
        Memory of the first and the second moment.
    tau : float
        Adaptivity.
    convention : {"paper", "flower"}
        The paper starts v at tau^2 and corrects no bias. Flower starts v at 0, and its Adam
        corrects the bias of both moments through the step size.

    Source: Reddi et al., "Adaptive federated optimization", ICLR 2021, algorithm 2.
    """

    rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    convention: Literal["paper", "flower"] = "paper"

    _corrects_bias: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.convention not in ("paper", "flower"):
            raise ValueError(f"convention is {self.convention!r}; choose 'paper' or 'flower'")
        positive(rate=self.rate, tau=self.tau)
        below_one(beta1=self.beta1, beta2=self.beta2)

    def init(self, parameters: Array) -> State:
        first = 0.0 if self.convention == "flower" else self.tau**2
        size = len(parameters)
        return {"m": np.zeros(size), "v": np.full(size, first), "steps": 0}

    def step(self, state: State, parameters: Array, change: F64) -> tuple[F64, State]:
        m = self.beta1 * state["m"] + (1 - self.beta1) * change
        v = self._second_moment(state["v"], np.square(change))
        steps, rate = state["steps"] + 1, self.rate
        if self.convention == "flower" and self._corrects_bias:
            counted = steps + 1  # Flower's first round counts as the second
            rate *= np.sqrt(1 - self.beta2**counted) / (1 - self.beta1**counted)
        moved = parameters + rate * m / (np.sqrt(v) + self.tau)
        return np.asarray(moved), {"m": m, "v": v, "steps": steps}

    def _second_moment(self, v: F64, square: F64) -> F64:
        raise NotImplementedError


@dataclass(frozen=True)
class Adam(_Adaptive):
    """v <- b2 v + (1 - b2) D^2: FedAdam, over FedAvg.

    Examples
    --------
    >>> Adam(rate=0.1).step(Adam().init(np.zeros(1)), np.zeros(1), np.array([0.3]))[0].round(4)
    array([0.0967])
    """

    _corrects_bias: ClassVar[bool] = True

    def _second_moment(self, v: F64, square: F64) -> F64:
        return np.asarray(self.beta2 * v + (1 - self.beta2) * square)


@dataclass(frozen=True)
class Yogi(_Adaptive):
    """v <- v - (1 - b2) D^2 sign(v - D^2): FedYogi, over FedAvg."""

    def _second_moment(self, v: F64, square: F64) -> F64:
        return np.asarray(v - (1 - self.beta2) * square * np.sign(v - square))


@dataclass(frozen=True)
class Adagrad(_Adaptive):
    """v <- v + D^2: FedAdagrad, over FedAvg."""

    def _second_moment(self, v: F64, square: F64) -> F64:
        return np.asarray(v + square)


OPTIMISERS: dict[str, ServerOptimiser] = {
    "sgd": SGD(),
    "momentum": SGD(momentum=0.9),
    "adam": Adam(),
    "yogi": Yogi(),
    "adagrad": Adagrad(),
}


def optimiser(name: str) -> ServerOptimiser:
    """Return a server optimiser by its name, with the settings of its paper.

    Raises
    ------
    ValueError
        If none has that name; the message lists those there are.

    Examples
    --------
    >>> optimiser("momentum")
    SGD(rate=1.0, momentum=0.9)
    """
    return OPTIMISERS[known(name, OPTIMISERS, "server optimiser")]
