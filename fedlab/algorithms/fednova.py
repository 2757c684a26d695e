"""FedNova: changes are normalised by how much work went into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedlab.algorithms.base import Reported, State, Stateless
from fedlab.core.typing import F64, I64, Array, Places
from fedlab.core.validation import below_one, not_negative
from fedlab.device.states import DeviceStates
from fedlab.training.local import LocalSGD
from fedlab.training.work import Phase, Work
from fedlab.updates.sent import Updates


@dataclass(frozen=True)
class FedNova(Stateless):
    """The server learns -tau_eff sum_k p_k d_k, d_k = (x - x_k) / a_k, tau_eff = sum_k p_k a_k.

    Parameters
    ----------
    momentum : float
        The local momentum rho that devices train with (`LocalSGD.momentum`).
    mu : float
        Strength of a local proximal term.

    Notes
    -----
    a_k is the sum of the weights that the local gradients enter the change with, over eta: tau for
    plain SGD, (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho) with momentum, and
    (1 - (1 - eta mu)^tau) / (eta mu) with a proximal term. The two don't go together here.

    Source: Wang et al., "Tackling the objective inconsistency problem in heterogeneous federated
    optimization", NeurIPS 2020, eq. 8 and section 3.

    Examples
    --------
    >>> FedNova().effective_steps(np.array([1, 5]), rate=0.1)
    array([1., 5.])
    """

    momentum: float = 0.0
    mu: float = 0.0

    def __post_init__(self) -> None:
        below_one(momentum=self.momentum)
        not_negative(mu=self.mu)
        if self.momentum and self.mu:
            raise ValueError("momentum and mu were both given; FedNova's weights know one of them")

    def effective_steps(self, steps: I64, rate: float | F64) -> F64:
        """Return a_k for each device."""
        tau = steps.astype(np.float64)
        if self.momentum:
            rho = self.momentum
            return np.asarray((tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho))
        if self.mu:
            return np.asarray((1 - (1 - rate * self.mu) ** tau) / (rate * self.mu))
        return tau

    def check(self, local: LocalSGD) -> None:
        if local.momentum != self.momentum:
            raise ValueError(
                f"FedNova(momentum={self.momentum}) was given with LocalSGD(momentum="
                f"{local.momentum}): its weights would be those of other steps; give both the same"
            )

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        return Phase(parameters, mu=self.mu)

    def report(self, state: State, sent: Updates, kept: DeviceStates) -> Reported:
        a = self.effective_steps(sent.stats["steps"], sent.stats["rate"])
        weighed = {**sent.weighed, "change": sent.weights * (1 / a)}
        return replace(sent, weighed=weighed, stats={**sent.stats, "effective": a}), kept

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        return means["effective"] * means["change"], state
