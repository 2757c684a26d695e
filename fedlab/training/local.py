"""The plain loop: minibatch SGD on one device. Short enough to be believed by reading."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlab.checks import whole_number
from fedlab.device import Device
from fedlab.models.base import Array, Model
from fedlab.randomness import Purpose, generator

__all__ = ["LocalSGD", "Update", "train_device"]


@dataclass(frozen=True)
class LocalSGD:
    """How a device trains: minibatch stochastic gradient descent.

    Parameters
    ----------
    epochs : int
        Passes over the device's rows in a round (E).
    batch_size : int or None
        Rows of a step (B); None takes all of them. The last batch of a pass may be smaller.
    learning_rate : float
        Step size (eta).

    Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized
    data", AISTATS 2017, algorithm 1, ClientUpdate.
    """

    epochs: int = 1
    batch_size: int | None = 32
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        whole_number(self.epochs, "epochs", 1)
        if self.batch_size is not None:
            whole_number(self.batch_size, "batch_size", 1)
        if not 0 < self.learning_rate < np.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be a positive number")

    def batches(self, rows: int, seed: int, round: int, device: int | str) -> Iterator[Rows]:
        """Yield the rows of each step: a fresh order each epoch, drawn at the device's address."""
        size = rows if self.batch_size is None else self.batch_size
        for epoch in range(self.epochs):
            if size >= rows:
                yield slice(None)
                continue
            draw = generator(seed, Purpose.BATCHES, round=round, device=device, part=epoch)
            order = draw.permutation(rows)
            for start in range(0, rows, size):
                yield order[start : start + size]


Rows = slice | NDArray[np.intp]


@dataclass(frozen=True)
class Update:
    """What a device sends back.

    Attributes
    ----------
    change : (p,) array
        Parameters after training minus those it was sent.
    rows, steps : int
        Rows it trained on, and steps it took.
    loss : float
        Mean loss over its steps, each on its batch before the step.
    """

    change: Array
    rows: int
    steps: int
    loss: float

    @property
    def nbytes(self) -> int:
        """Bytes on the wire: the change, and three numbers of eight bytes."""
        return self.change.nbytes + 3 * 8


def train_device(
    device: Device, model: Model, parameters: Array, local: LocalSGD, *, seed: int, round: int
) -> Update:
    """Train a model on a device's rows, and return what changed.

    Parameters
    ----------
    device : Device
        With at least one row to train on.
    model : Model
    parameters : (p,) array
        What the server sent; left as it is.
    local : LocalSGD
    seed, round : int
        Where the order of the batches is drawn.

    Examples
    --------
    >>> from fedlab.index import VectorIndex
    >>> from fedlab.models import LinearRegression
    >>> index = VectorIndex(1)
    >>> _ = index.add([[1.0], [2.0]], labels=[2.0, 4.0])
    >>> one_step = LocalSGD(batch_size=None, learning_rate=0.1)
    >>> start = np.zeros(2, np.float32)
    >>> update = train_device(
    ...     Device(0, index), LinearRegression(1), start, one_step, seed=0, round=1
    ... )
    >>> update.change, update.steps
    (array([0.5, 0.3], dtype=float32), 1)
    """
    x, y = device.training()
    trained = parameters.copy()
    rate = parameters.dtype.type(local.learning_rate)
    losses = []
    # A run that diverges is told by its update, which is looked at; not by a warning a step.
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in local.batches(len(x), seed, round, device.id):
            loss, gradient = model.loss_and_gradient(trained, x[rows], y[rows])
            trained -= rate * gradient
            losses.append(loss)
    return Update(trained - parameters, len(x), len(losses), float(np.mean(losses)))
