"""What a run is made of: all that its results depend on, and that never changes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from fedlab.algorithms import Algorithm
from fedlab.core.settings import described
from fedlab.core.typing import Array
from fedlab.device.device import Device
from fedlab.fleet import Columnar, Roster, Stragglers
from fedlab.models.base import Model
from fedlab.training import LocalSGD, Trainer
from fedlab.updates import Chain, ServerOptimiser
from fedlab.updates.weights import Weigher, Weights

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
    weights : Weights
    weigh : Weigher
        What they give.
    chain : Chain
        The stages that updates pass, and the aggregator.
    server : ServerOptimiser
    trainer : Trainer
        Who trains and measures.
    evaluation : Evaluation
    """

    model: Model
    algorithm: Algorithm
    local: LocalSGD
    cohort: int
    quorum: int
    stragglers: Stragglers | None
    weights: Weights
    chain: Chain
    server: ServerOptimiser
    seed: int
    weigh: Weigher = field(metadata={"set": False})
    trainer: Trainer = field(metadata={"set": False})
    evaluation: Evaluation = field(metadata={"set": False})

    @property
    def engine(self) -> str:
        """The trainer's name."""
        return self.trainer.name

    def settings(self, began_with: Roster, parameters: Array) -> dict[str, str]:
        """Return in words what the run is made of: another one differs in some of it.

        Parameters
        ----------
        began_with : Roster
            The devices of the first round.
        parameters : array
            Of which type.
        """
        words = {
            part.name: described(getattr(self, part.name))
            for part in fields(self)
            if part.metadata.get("set", True)
        }
        return words | {
            "engine": self.engine,
            "layout": described(self.model.layout),
            "weights": self._described_weights(began_with),
            "type of parameters": str(parameters.dtype),
            "devices": began_with.description,
        }

    def _described_weights(self, began_with: Roster) -> str:
        """Return the weights in words; of a function, what it gave for the first devices."""
        words, devices = described(self.weights), began_with.devices
        if not callable(self.weights) or isinstance(devices, Columnar):
            return words
        return f"{words}, giving {described(self.weigh(devices, rows_of(devices)))}"


def rows_of(devices: Any) -> Any:
    """Return how many rows each device trains on, (m,)."""
    return np.array([_rows_of(device) for device in devices], np.int64)


def _rows_of(device: Device) -> int:
    try:
        return device.rows
    except Exception:  # what is wrong with it is said when it trains, and sets it aside
        return 0
