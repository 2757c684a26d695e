"""What a run is made of: all that its results depend on, and that never changes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from fedlab.algorithms import Algorithm
from fedlab.core.settings import described
from fedlab.core.typing import Array
from fedlab.device.device import Device
from fedlab.federation.guarantee import Privacy, RowPrivacy
from fedlab.fleet import Columnar, Roster, Schedule, Selection, Stragglers
from fedlab.models.base import Model
from fedlab.training import LocalSGD, Trainer
from fedlab.training.choice import RowChoice
from fedlab.updates import Chain, Codec, ServerOptimiser
from fedlab.updates.weights import Weigher

Record = Literal["cohort", "devices"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What is measured of a model, when, and what is noted. It changes no result.

    Attributes
    ----------
    test : tuple of arrays, optional
        (x, y) on which the server measures.
    every : int
        Rounds between two measurements.
    record : {"cohort", "devices"}
        Whether the history has rows for the cohort as a whole, or one for each device besides.
    """

    test: tuple[Array, Array] | None = None
    every: int = 1
    record: Record = "cohort"


@dataclass(frozen=True, eq=False)
class Plan:
    """A run's parts. Those whose metadata says so change nothing about its results.

    Attributes
    ----------
    model, algorithm, local, stragglers, seed
        See `Federation`.
    cohort, quorum : int
        Devices of a round, and least updates of one.
    selection : Selection
        Who they are.
    schedule : Deadline, FedBuff, FedAsync, Hierarchy or Gossip, optional
        When a round ends, if not when all of its cohort are done; and who averages with whom.
    weights : Weigher
    rows : tuple of RowChoice
        What devices choose their rows by.
    chain : Chain
        The stages that updates pass, and the aggregator.
    down : tuple of Codec
        What codes the server's model on its way to devices.
    server : ServerOptimiser
    trainer : Trainer
        Who trains and measures.
    evaluation : Evaluation
    privacy : Privacy, optional
    row_privacy : RowPrivacy, optional
        What noise is worth, to devices and to their rows; it follows from the other parts.
    """

    model: Model
    algorithm: Algorithm
    local: LocalSGD
    cohort: int
    quorum: int
    selection: Selection
    schedule: Schedule | None
    stragglers: Stragglers | None
    weights: Weigher
    rows: tuple[RowChoice, ...]
    chain: Chain
    down: tuple[Codec, ...]
    server: ServerOptimiser
    seed: int
    trainer: Trainer = field(metadata={"set": False})
    evaluation: Evaluation = field(metadata={"set": False})
    privacy: Privacy | None = field(default=None, metadata={"set": False})
    row_privacy: RowPrivacy | None = field(default=None, metadata={"set": False})

    @property
    def engine(self) -> str:
        """The trainer's name."""
        return self.trainer.name

    def words(self) -> dict[str, str]:
        """Return in words what all rounds are made of: another run differs in some of it.

        Raises
        ------
        TypeError
            If a part can't be told from another one of its class.
        """
        parts = {p.name: getattr(self, p.name) for p in fields(self) if p.metadata.get("set", True)}
        words = {name: described(part, name) for name, part in parts.items()}
        weights = described(self.weights.weights, "weights")
        layout = described(self.model.layout)
        return words | {"weights": weights, "engine": self.engine, "layout": layout}

    def settings(self, began_with: Roster, parameters: Array) -> dict[str, str]:
        """Return `words`, and those that take longer: what the devices of the first round hold.

        Parameters
        ----------
        began_with : Roster
            The devices of the first round.
        parameters : array
            Of which type.
        """
        held = {"type of parameters": str(parameters.dtype), "devices": began_with.description}
        words = self.words() | held
        devices = began_with.devices
        if callable(self.weights.weights) and not isinstance(devices, Columnar):
            # A function is told from another one by what it gives for the first devices, too.
            words["weights"] += f", giving {described(self.weights(devices, rows_of(devices)))}"
        return words


def rows_of(devices: Any) -> Any:
    """Return how many rows each device trains on, (m,)."""
    return np.array([_rows_of(device) for device in devices], np.int64)


def _rows_of(device: Device) -> int:
    try:
        return device.rows
    except Exception:  # what is wrong with it is said when it trains, and sets it aside
        return 0
