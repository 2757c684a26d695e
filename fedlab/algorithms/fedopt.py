"""Adaptive server optimisers: FedAdagrad, FedYogi, FedAdam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedlab.algorithms.base import State, Stateless
from fedlab.core.typing import Array
from fedlab.updates.returned import Returned

__all__ = ["FedOpt"]


@dataclass(frozen=True)
class FedOpt(Stateless):
    """The average change is a gradient for an adaptive optimiser at the server.

    Parameters
    ----------
    rule : {"adam", "yogi", "adagrad"}
        How the second moment v follows D = sum_k p_k (x_k - x): b2 v + (1 - b2) D^2,
        v - (1 - b2) D^2 sign(v - D^2), or v + D^2.
    rate : float
        eta.
    beta1, beta2 : float
        Memory of the first and the second moment.
    tau : float
        Adaptivity: x <- x + eta m / (sqrt(v) + tau).
    convention : {"paper", "flower"}
        The paper starts v at tau^2 and corrects no bias. Flower starts v at 0, and its Adam
        corrects the bias of both moments through the step size.

    Source: Reddi et al., "Adaptive federated optimization", ICLR 2021, algorithm 2.

    Examples
    --------
    >>> FedOpt("yogi", rate=0.1).rule
    'yogi'
    """

    rule: Literal["adam", "yogi", "adagrad"] = "adam"
    rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    convention: Literal["paper", "flower"] = "paper"

    def __post_init__(self) -> None:
        if self.rule not in ("adam", "yogi", "adagrad"):
            raise ValueError(f"rule is {self.rule!r}; choose 'adam', 'yogi' or 'adagrad'")
        if self.convention not in ("paper", "flower"):
            raise ValueError(f"convention is {self.convention!r}; choose 'paper' or 'flower'")
        for name in ("rate", "tau"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a positive number")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be at least 0 and below 1"
                )

    def init(self, parameters: Array, devices: int) -> State:
        first = 0.0 if self.convention == "flower" else self.tau**2
        size = len(parameters)
        return {"m": np.zeros(size), "v": np.full(size, first), "steps": 0}

    def step(self, state: State, parameters: Array, returned: Returned) -> tuple[Array, State]:
        change = returned.average
        m = self.beta1 * state["m"] + (1 - self.beta1) * change
        v = self._second_moment(state["v"], np.square(change))
        steps = state["steps"] + 1
        rate = self.rate
        if self.convention == "flower" and self.rule == "adam":
            counted = steps + 1  # Flower's first round counts as the second
            rate *= np.sqrt(1 - self.beta2**counted) / (1 - self.beta1**counted)
        moved = parameters + rate * m / (np.sqrt(v) + self.tau)
        return moved, {"m": m, "v": v, "steps": steps}

    def _second_moment(self, v: Array, square: Array) -> Array:
        if self.rule == "adagrad":
            return v + square
        if self.rule == "yogi":
            return np.asarray(v - (1 - self.beta2) * square * np.sign(v - square))
        return self.beta2 * v + (1 - self.beta2) * square
