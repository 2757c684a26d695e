"""MOON: embeddings are drawn to the server's model, and away from the device's last one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedlab.algorithms.base import State, Stateless
from fedlab.core.typing import Array, Places
from fedlab.core.validation import not_negative, positive, require
from fedlab.device.states import DeviceStates
from fedlab.models.base import Model
from fedlab.training.work import Phase, Work


@dataclass(frozen=True, eq=False)
class _Contrast:
    """The model's loss, and the contrast of embeddings with those under two other models."""

    mu: float
    temperature: float
    now: Array
    before: Array
    vectors: int = 1
    nbytes: int = 0

    def some(self, places: Any) -> _Contrast:
        return replace(self, before=self.before[places])

    def loss_and_gradient(
        self, model: Model, parameters: Array, x: Array, y: Array, **chance: Any
    ) -> tuple[float, Array]:
        require(model, "a model that MOON trains", "embed")
        of: Any = model
        now, before = (_unit(of.embed(own, x))[0] for own in (self.now, self.before))

        def pull(z: Array) -> tuple[float, Array]:
            unit, length = _unit(z)
            apart, away = before - now, np.einsum("nd,nd->n", unit, before - now)
            losses = np.logaddexp(0.0, away / self.temperature)
            scale = 1 / (1 + np.exp(-away / self.temperature)) / self.temperature / len(z)
            # Where an embedding is all zeros, it has no direction that could turn.
            scale = np.divide(scale, length, out=np.zeros_like(scale), where=length > 0)
            turn = apart - away[:, None] * unit
            return self.mu * float(losses.mean()), self.mu * scale[:, None] * turn

        loss, gradient = of.loss_and_gradient(parameters, x, y, pull=pull, **chance)
        return loss, gradient


def _unit(z: Array) -> tuple[Array, Array]:
    """Return rows of length one, and their lengths; a row of zeros stays one."""
    length = np.linalg.norm(z, axis=1)
    return z / np.where(length > 0, length, 1)[:, None], length


@dataclass(frozen=True)
class MOON(Stateless):
    """Devices add a contrast of embeddings to their loss; the server learns the average.

    With s_g and s_p the cosines between a row's embedding and those that it has under the server's
    model and under the device's model of the last time, the loss grows by

        mu * -log(exp(s_g / T) / (exp(s_g / T) + exp(s_p / T))).

    Parameters
    ----------
    mu : float
        Weight of the contrast; 0 is FedAvg.
    temperature : float
        T.

    Notes
    -----
    The model needs an embedding (see `fedlab.models.Model`): here it is what enters the last layer,
    where the paper adds a projection head. A device's first time, its last model is the server's:
    the contrast is ln 2, and pulls nowhere. Devices compute three embeddings a step.

    Source: Li, He and Song, "Model-contrastive federated learning", CVPR 2021, algorithm 1, eq. 3.

    Examples
    --------
    >>> MOON(mu=5.0)
    MOON(mu=5.0, temperature=0.5)
    """

    mu: float = 1.0
    temperature: float = 0.5

    def __post_init__(self) -> None:
        not_negative(mu=self.mu)
        positive(temperature=self.temperature)

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        before = kept.rows("last model", places, parameters)
        contrast = _Contrast(self.mu, self.temperature, parameters, before)
        return Phase(parameters, objective=contrast, keep="last model")
