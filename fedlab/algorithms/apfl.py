"""APFL: each device predicts with a mixture of its own model and the server's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlab.algorithms.base import State, Stateless
from fedlab.core.typing import Array, Places
from fedlab.core.validation import share_of_one
from fedlab.device.states import DeviceStates
from fedlab.models.base import Model
from fedlab.training.work import Phase, Work


@dataclass(frozen=True)
class _Mixture:
    """The loss of w, and that of a v + (1 - a) w as a function of v, side by side."""

    share: float
    vectors: int = 2
    nbytes: int = 0

    def some(self, places: Any) -> _Mixture:
        return self

    def loss_and_gradient(
        self, model: Model, parameters: Array, x: Array, y: Array, **chance: Any
    ) -> tuple[float, Array]:
        w, v = parameters.reshape(2, -1)
        loss, of_w = model.loss_and_gradient(w, x, y, **chance)
        mixed = self.share * v + (1 - self.share) * w
        of_v = np.array(model.loss_and_gradient(mixed.astype(w.dtype), x, y, **chance)[1])
        buffered = model.layout.buffered
        of_v[slice(None) if buffered is None else ~buffered] *= self.share
        return loss, np.concatenate([of_w, of_v])


@dataclass(frozen=True)
class APFL(Stateless):
    """Devices train the server's w as FedAvg does and, in the same steps, a v of their own.

    v steps along the gradient, with respect to v, of the loss at the mixture a v + (1 - a) w, which
    the device predicts with.

    Parameters
    ----------
    share : float
        a: 0 serves the server's model, 1 learns alone.

    Notes
    -----
    Sources differ on whether the gradient of v carries the factor a, which the chain rule gives:
    here it does, as in the paper's equation. The paper's adaptive a is left out.

    Source: Deng, Kamani and Mahdavi, "Adaptive personalized federated learning", 2020, algorithm 1.

    Examples
    --------
    >>> APFL(share=0.25)
    APFL(share=0.25)
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        share_of_one(share=self.share)

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        own = kept.rows("own", places, parameters)
        both = np.concatenate([np.broadcast_to(parameters, own.shape), own], axis=1)
        return Phase(both, objective=_Mixture(self.share), keep="own")

    def serve(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        """Return the mixture of v, as it was kept, with the server's newest w.

        A device that has never taken part has no v yet, and predicts with w.
        """
        own = kept.rows("own", places, parameters)
        mixed = self.share * own + (1 - self.share) * parameters
        return Phase(mixed.astype(parameters.dtype), own=True, epochs=0)
