"""FedProto: devices agree on what each class looks like, and keep their models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from fedlab.algorithms.base import State, Stateless
from fedlab.core.typing import F64, Array, Places
from fedlab.core.validation import not_negative, require
from fedlab.device.states import DeviceStates
from fedlab.models.base import Layout, Model
from fedlab.training.work import Phase, Work


@dataclass(frozen=True, eq=False)
class _Towards:
    """The model's loss, and how far embeddings lie from their class's prototype, (c, d) or NaN."""

    lam: float
    prototypes: Array | None
    vectors: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of the prototypes that there are."""
        if self.prototypes is None:
            return 0
        return self.prototypes[~np.isnan(self.prototypes[:, 0])].nbytes

    def some(self, places: Any) -> _Towards:
        return self

    def loss_and_gradient(
        self, model: Model, parameters: Array, x: Array, y: Array, **chance: Any
    ) -> tuple[float, Array]:
        require(model, "a model that FedProto trains", "embed", "classes")
        wanted = None if self.prototypes is None else self.prototypes[y]

        def pull(z: Array) -> tuple[float, Array]:
            off = np.zeros_like(z) if wanted is None else np.nan_to_num(z - wanted)
            return self.lam * float(np.square(off).mean()), 2 * self.lam / off.size * off

        of: Any = model
        loss, gradient = of.loss_and_gradient(parameters, x, y, pull=pull, **chance)
        return loss, gradient


@dataclass(frozen=True)
class _ClassSums:
    """What a device sends: the sum of each class's embeddings, or their mean, and how many."""

    weighted: bool

    def __call__(self, model: Any, start: Array, end: Array, x: Array, y: Array) -> dict[str, Any]:
        z, counts = model.embed(end, x), np.bincount(y, minlength=model.classes).astype(np.float64)
        sums = np.zeros((model.classes, z.shape[1]))
        np.add.at(sums, y, z)
        if not self.weighted:
            sums, counts = sums / np.maximum(counts, 1)[:, None], np.minimum(counts, 1)
        return {"sums": sums.ravel(), "counts": counts}


@dataclass(frozen=True)
class FedProto(Stateless):
    """Devices learn models of their own, and share each class's mean embedding, the prototypes.

    A device's loss grows by ``lam`` times the mean squared error between a row's embedding and the
    prototype of its class; it sends sums and counts, of which the server makes the next prototypes.

    Parameters
    ----------
    lam : float
        Strength of the pull: 0 learns alone.
    weighted : bool
        Whether a prototype is the mean over rows, as in the paper's equation 6. Without, it is the
        mean over the devices that have the class, as in the authors' code.

    Notes
    -----
    The model needs an embedding (see `fedlab.models.Model`). All devices have the same model here,
    where the paper allows several; they predict with its last layer, not by the nearest prototype.
    Prototypes are computed after training, over all training rows. The server needs sums over
    devices only, so a device sends zeros for a class that it does not have; where nothing hides the
    summands, its counts tell how often it has each class.

    Source: Tan et al., "FedProto: federated prototype learning across heterogeneous clients", AAAI
    2022, algorithm 1.

    Examples
    --------
    >>> FedProto(weighted=False)
    FedProto(lam=1.0, weighted=False)
    """

    lam: float = 1.0
    weighted: bool = True

    weights: ClassVar[Literal["uniform"]] = "uniform"

    def __post_init__(self) -> None:
        not_negative(lam=self.lam)

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        return {"size": len(parameters), "prototypes": None}

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        phase = self.serve(state, parameters, places, kept)
        return replace(phase, send=None, keep="own", observe=_ClassSums(self.weighted))

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        counts = means["counts"][:, None]
        with np.errstate(invalid="ignore"):
            seen = means["sums"].reshape(len(counts), -1) / np.where(counts > 0, counts, np.nan)
        before = seen if state["prototypes"] is None else state["prototypes"]
        # A class that nobody of this cohort has stays where it was.
        prototypes = np.where(counts > 0, seen, before)
        return np.zeros(state["size"]), {**state, "prototypes": prototypes}

    def serve(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Phase:
        """Return one more round of training: a device's first, if it never took part."""
        prototypes = state["prototypes"]
        if prototypes is not None:
            prototypes = prototypes.astype(parameters.dtype)
        own = kept.rows("own", places, parameters)
        return Phase(own, own=True, objective=_Towards(self.lam, prototypes))
