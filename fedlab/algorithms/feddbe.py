"""FedDBE's idea for a linear head: a bias of one's own, and embeddings whose means agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedlab.algorithms.base import State
from fedlab.algorithms.shared_parts import FedPer, last_layer
from fedlab.core.typing import F64, Array, Places
from fedlab.core.validation import not_negative, require
from fedlab.device.states import DeviceStates
from fedlab.models.base import Layout, Model
from fedlab.training.work import Work, phases_of


@dataclass(frozen=True, eq=False)
class _Centred:
    """The model's loss, and how far the mean of a batch's embeddings lies from a consensus."""

    kappa: float
    consensus: Array | None
    vectors: int = 1

    @property
    def nbytes(self) -> int:
        return 0 if self.consensus is None else self.consensus.nbytes

    def some(self, places: Any) -> _Centred:
        return self

    def loss_and_gradient(
        self, model: Model, parameters: Array, x: Array, y: Array, **chance: Any
    ) -> tuple[float, Array]:
        require(model, "a model that FedDBE trains", "embed")

        def pull(z: Array) -> tuple[float, Array]:
            off = z.mean(axis=0) - (z.mean(axis=0) if self.consensus is None else self.consensus)
            to_each = np.broadcast_to(self.kappa / z.size * off, z.shape)
            return self.kappa / 2 * float(np.square(off).mean()), to_each

        of: Any = model
        loss, gradient = of.loss_and_gradient(parameters, x, y, pull=pull, **chance)
        return loss, gradient


def _centre(model: Any, start: Array, end: Array, x: Array, y: Array) -> dict[str, Any]:
    return {"centre": model.embed(end, x).mean(axis=0, dtype=np.float64)}


@dataclass(frozen=True)
class FedDBE(FedPer):
    """Devices keep the bias of the last layer; a pull keeps the means of their embeddings together.

    The loss grows by ``kappa / 2`` times the mean squared error between the mean of a batch's
    embeddings and the consensus: the mean that the first cohort's rows had after its training.

    Parameters
    ----------
    keep, epochs
        See `FedPer`; by default the bias of the last layer stays.
    kappa : float
        Strength of the pull: 0 leaves it out.

    Notes
    -----
    It is a relative of FedDBE, not FedDBE itself. There, a device trains a vector z_k that is added
    to the embedding before the head. Through a linear head W that is a bias W z_k of the device's
    own, so this one reaches all functions that FedDBE reaches. It differs in four ways: a step of
    z_k moves W z_k by W W' times the step of a bias, and W z_k moves with W; the head's common bias
    stays on the device, too; the batch's mean is not smoothed over steps (the paper's momentum is
    1); and the consensus comes from the first round's cohort, where there all devices train once
    before.

    Source: Zhang et al., "Eliminating domain bias for federated learning in representation space",
    NeurIPS 2023, equations 4 to 8; the factor 1/2 is that of the authors' code.

    Examples
    --------
    >>> FedDBE(kappa=10.0)
    FedDBE(keep=(), epochs=5, kappa=10.0)
    """

    kappa: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(kappa=self.kappa)

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        head = layout.views(last_layer(layout))
        bias = tuple(name for name, shape in layout.shapes if len(shape) == 1 and head[name].all())
        if not (self.keep or bias):
            raise ValueError(
                f"the last layer has no bias; name what stays with keep=: {', '.join(head)}"
            )
        stays = FedPer(self.keep or bias).init(parameters, devices, layout)
        return {**stays, "consensus": None}

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        consensus = state["consensus"]
        first = consensus is None
        centred = _Centred(self.kappa, None if first else consensus.astype(parameters.dtype))
        [phase] = phases_of(super().work(state, parameters, places, kept))
        return replace(phase, objective=centred, observe=_centre if first else None)

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        consensus = means.get("centre", state["consensus"])
        return means["change"], {**state, "consensus": consensus}
