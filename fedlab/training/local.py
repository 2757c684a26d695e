"""The plain loop: minibatch SGD on one device. Short enough to be believed by reading."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import Array, Bool, Places
from fedlab.core.validation import (
    at_most_one,
    below_one,
    not_negative,
    positive,
    whole_number,
    whole_or_none,
)
from fedlab.device.device import Device
from fedlab.device.rows import Rows
from fedlab.models.base import Model, gradient_of
from fedlab.training.work import Phase

Some = slice | Places


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
        Step size (eta) of the first round.
    decay : float
        The step size of round t is learning_rate * decay^(t - 1); 0 < decay <= 1.
    momentum : float
        rho: steps follow v <- rho v + d, with v = 0 at the start of each round; 0 <= rho < 1.
    weight_decay : float
        Adds weight_decay * y to the gradient at y.
    clip : float or None
        Longest gradient (Euclidean) of a step, before anything is added to it; longer ones are
        shortened.

    Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized
    data", AISTATS 2017, algorithm 1, ClientUpdate.
    """

    epochs: int = 1
    batch_size: int | None = 32
    learning_rate: float = 0.1
    decay: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        whole_number(self.epochs, "epochs", 1)
        whole_or_none(self.batch_size, "batch_size", 1)
        positive(learning_rate=self.learning_rate)
        at_most_one(decay=self.decay)
        if self.clip is not None:
            positive(clip=self.clip)
        below_one(momentum=self.momentum)
        not_negative(weight_decay=self.weight_decay)

    def rate(self, round: int) -> float:
        """Return the step size of a round, counted from 1."""
        return self.learning_rate * self.decay ** (round - 1)

    def batches(
        self,
        rows: int,
        seed: int,
        round: int,
        device: int | str,
        epochs: int | None = None,
        begun: int = 0,
    ) -> Iterator[Some]:
        """Yield the rows of each step: a fresh order each epoch, drawn at the device's address.

        `begun` epochs of the round were done before.

        The order is Durstenfeld's shuffle on the words w of the address: for i from the last row
        down to the second, row i changes places with row floor(w_i (i + 1) / 2^64).
        """
        size = rows if self.batch_size is None else self.batch_size
        for epoch in range(begun, begun + (self.epochs if epochs is None else epochs)):
            if size >= rows:
                yield slice(None)
                continue
            draw = generator(seed, Purpose.BATCHES, round=round, device=device, part=epoch)
            order = _shuffled(rows, draw.bit_generator.random_raw(rows).tolist())
            for start in range(0, rows, size):
                yield order[start : start + size]

    def gradients(
        self, model: Model, point: Array, x: Array, y: Array, phase: Phase, draw: Any, **at: Any
    ) -> Iterator[tuple[float, Array]]:
        """Yield each step's loss and gradient at the point, which moves between two steps."""
        for rows in self.batches(len(x), **at):
            yield gradient_of(model, point, x[rows], y[rows], draw, phase.objective)


def _shuffled(rows: int, words: list[int]) -> Places:
    order = list(range(rows))
    for last in range(rows - 1, 0, -1):
        other = words[last] * (last + 1) >> 64
        order[last], order[other] = order[other], order[last]
    return np.array(order, np.intp)


@dataclass(frozen=True)
class Update:
    """What a device sends back.

    Attributes
    ----------
    change : (p,) array
        Parameters after training minus those at its start.
    rows, epochs, steps : int
        Rows it trained on, how often, and in how many steps.
    loss : float
        Mean loss over its steps, each on its batch before the step.
    blocks : dict of (p,) arrays
        What else the algorithm asked for.
    """

    change: Array
    rows: int
    epochs: int
    steps: int
    loss: float
    blocks: dict[str, Array] = field(default_factory=dict)


def train_device(
    device: Device,
    model: Model,
    work: Phase | Array,
    local: LocalSGD,
    *,
    seed: int,
    round: int,
    epochs: int | None = None,
    rate: float | None = None,
    begun: int = 0,
) -> Update:
    """Train a model on a device's rows, and return what changed.

    Labels are checked before anything else: a class number beyond the model's would be an index
    beyond its memory.

    Parameters
    ----------
    device : Device
        With at least one row to train on.
    model : Model
    work : Phase of one device, or (p,) array
        Where to start and what to add to gradients; plain parameters just start there.
    local : LocalSGD
    seed, round : int
        Where the order of the batches is drawn.
    epochs, rate : int, float, optional
        Passes and step size of this device, if not those of `local`.
    begun : int
        Passes that it has done before in this round; orders of rows go on from there.

    Examples
    --------
    >>> from fedlab.index.vectorindex import VectorIndex
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
    phase = work if isinstance(work, Phase) else Phase(work)
    start = phase.start
    if start is None:
        raise ValueError("a device's first phase needs a start")
    x, y = rows_to_train_on(device, model)
    epochs = local.epochs if epochs is None else epochs
    trained = start.copy()
    step_size = trained.dtype.type(local.rate(round) if rate is None else rate)
    velocity = np.zeros_like(trained)
    phase, buffered, renewed = without_buffers(phase, model)
    losses = []
    chance = generator(seed, Purpose.MODEL, round=round, device=device.id, part=begun)
    # A run that diverges is told by its update, which is looked at; not by a warning a step.
    with np.errstate(over="ignore", invalid="ignore"):
        at = {"seed": seed, "round": round, "device": device.id, "epochs": epochs, "begun": begun}
        for loss, gradient in local.gradients(model, trained, x, y, phase, chance, **at):
            if buffered is not None:
                gradient, values = np.where(buffered, 0, gradient), gradient[renewed]
            direction = _corrected(gradient, trained, phase, local)
            if local.momentum:
                velocity *= local.momentum
                velocity += direction
                direction = velocity
            trained -= step_size * direction
            if buffered is not None:
                trained[renewed] = values
            losses.append(loss)
        blocks = {}
        if phase.gradient:
            blocks["gradient"] = gradient_of(model, start, x, y, chance, phase.objective)[1]
            if buffered is not None:
                blocks["gradient"] = np.where(buffered, 0, blocks["gradient"])
    change, loss = trained - start, float(np.mean(losses))
    return Update(change, len(x), epochs, len(losses), loss, blocks)


def without_buffers(phase: Phase, model: Model) -> tuple[Phase, Bool | None, Bool | None]:
    """Return the phase with buffers out of its steps, where they stand, and which get new values.

    A buffer's entry of a gradient is its new value (see `fedlab.models.Model`). No step, decay,
    pull or clip touches it; outside of the phase's mask it stays at the start, like a parameter.
    """
    if model.layout.buffered is None:
        return phase, None, None
    buffered = np.tile(model.layout.buffered, phase.vectors)
    if phase.trained is None:
        return replace(phase, trained=~buffered), buffered, buffered
    return replace(phase, trained=phase.trained & ~buffered), buffered, buffered & phase.trained


def rows_to_train_on(device: Device, model: Model) -> tuple[Array, Array]:
    """Return a device's rows and labels, or say why the model can't train on them."""
    x, y = held_by(device, model).gathered()
    model.check_labels(y)
    return x, y


def held_by(device: Device, model: Model) -> Rows:
    """Return a device's rows where they lie: some there are, as wide as the model takes them."""
    held = device.training_rows()
    if not held.count:
        raise ValueError("it has no rows to train on")
    refuse_other_widths(held, model)
    return held


def refuse_other_widths(rows: Rows, model: Model) -> None:
    """Raise a ValueError unless rows are as wide as a model takes them."""
    if rows.x.shape[1] != model.inputs:
        raise ValueError(f"vectors of {rows.x.shape[1]} numbers; the model takes {model.inputs}")


def _corrected(gradient: Array, point: Array, phase: Phase, local: LocalSGD) -> Array:
    """Return g, clipped, + weight_decay y + mu (y - anchor) + offset, where parameters train."""
    if local.clip is not None:
        length = float(np.linalg.norm(gradient))
        if length > local.clip:
            gradient = gradient * gradient.dtype.type(local.clip / length)
    if local.weight_decay:
        gradient = gradient + gradient.dtype.type(local.weight_decay) * point
    if phase.mu:
        anchor = phase.start if phase.anchor is None else phase.anchor
        gradient = gradient + gradient.dtype.type(phase.mu) * (point - anchor)
    if phase.offset is not None:
        gradient = gradient + phase.offset
    if phase.trained is not None:
        gradient = np.where(phase.trained, gradient, gradient.dtype.type(0))
    return gradient
