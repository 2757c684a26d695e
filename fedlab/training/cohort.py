"""A whole cohort, part by part: what its devices make of their work, and who was set aside.

A device that fails, or sends back what can't be averaged, is set aside with a reason: it never
stops the others. Parts are as large as memory allows; results don't depend on how they are cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.typing import F64, I64, Array, Bool, Places
from fedlab.core.validation import read_only, whole_number, whole_or_none
from fedlab.device.device import Device
from fedlab.device.dispatch import Dispatch
from fedlab.device.rows import Rows
from fedlab.models.base import Model
from fedlab.training.local import LocalSGD, held_by, train_device
from fedlab.training.private import PrivateSGD
from fedlab.training.trainer import (
    NOT_FINITE,
    Backend,
    Job,
    Part,
    Ready,
    Trainer,
    asked,
    reason,
    trainer_for,
)
from fedlab.training.work import Phase, Work, phases_of

#: Bytes of all changes that are held at once; and where a cohort has to come whole.
HELD, ALL = 1 << 28, 1 << 62


@dataclass(frozen=True, eq=False)
class Trained:
    """Updates that can be averaged, row by row, and why other devices gave none.

    Attributes
    ----------
    places : (k,) int array
        Which devices of the cohort, rising.
    blocks : dict of (k, p) arrays
        What was asked for: ``change``, parameters after local work minus those at its start, and
        others.
    kept : dict of (k, n) arrays
        Where phases ended that devices keep, by name.
    stats : dict of (k,) arrays
        What phases observed, and which model a device chose.
    rows, epochs, steps : (k,) int arrays
        Rows trained on, passes over them, gradient steps.
    losses : (k,) float64 array
        Mean loss over a device's steps, each on its batch before the step.
    set_aside : dict of int to str
        The others: place in the cohort, and why.
    error : Exception, optional
        The first one that a device's training raised.
    """

    places: Places
    blocks: dict[str, Array]
    kept: dict[str, Array]
    stats: dict[str, NDArray[Any]]
    rows: I64
    epochs: I64
    steps: I64
    losses: F64
    set_aside: dict[int, str]
    error: Exception | None = None

    @property
    def changes(self) -> Array:
        """(k, p) block ``change``."""
        return self.blocks["change"]

    @property
    def none_could(self) -> bool:
        """Whether every device failed, so that the fault is hardly any device's own."""
        failed = [why for why in self.set_aside.values() if why != NOT_FINITE]
        return not len(self.places) and 0 < len(failed) == len(self.set_aside)


def train_cohort(
    devices: Sequence[Device],
    model: Model,
    work: Work | Array,
    local: LocalSGD,
    *,
    seed: int,
    round: int | ArrayLike,
    epochs: ArrayLike | None = None,
    rates: ArrayLike | None = None,
    threads: int | None = None,
    engine: Backend = "auto",
) -> Trained:
    """Train a model on each device of a cohort.

    Parameters
    ----------
    devices : sequence of Device
    model : Model
    work : Phase, tuple of Phases, or (p,) array
        Of the cohort; plain parameters just start there.
    local : LocalSGD
    seed : int
    round : int, or (m,) ints
        Where the orders of the batches are drawn; one for all, or one for each device.
    epochs, rates : number or (m,) array, optional
        Passes and step size of each device, if not those of `local`.
    threads : int, optional
        By default all processors for built-in models; one where a model's own code runs, which
        need not be made for several. Results don't depend on it.
    engine : {"auto", "compiled", "plain"}
        "auto" compiles built-in models, but for large ones in large batches (see `suits_blas`).

    Examples
    --------
    >>> from fedlab.index.vectorindex import VectorIndex
    >>> from fedlab.models import LinearRegression
    >>> index = VectorIndex(1)
    >>> _ = index.add([[1.0], [2.0]], labels=[2.0, 4.0])
    >>> one_step = LocalSGD(batch_size=None, learning_rate=0.1)
    >>> cohort = [Device(0, index), Device(1, VectorIndex(1))]
    >>> start = np.zeros(2, np.float32)
    >>> trained = train_cohort(cohort, LinearRegression(1), start, one_step, seed=0, round=1)
    >>> trained.changes, trained.set_aside
    (array([[0.5, 0.3]], dtype=float32), {1: 'ValueError: it has no rows to train on'})
    """
    count = len(devices)
    rounds = np.broadcast_to(round, count)
    own = [local.rate(int(number)) for number in rounds] if rates is None else rates
    order = Dispatch(
        rounds,
        np.array(np.broadcast_to(np.asarray(own, np.float64), count)),
        np.broadcast_to(local.epochs if epochs is None else epochs, count),
        np.zeros(count, np.int64),
    ).checked(count)
    whole_number(seed, "seed", 0, 2**64 - 1)
    how: dict[str, Any] = {"seed": seed, "threads": threads, "held": 2**63}
    [whole] = train_in_parts(devices, trainer_for(model, local, engine), work, local, order, **how)
    return whole


def train_in_parts(
    devices: Sequence[Device],
    trainer: Trainer,
    work: Work | Array,
    local: LocalSGD,
    order: Dispatch,
    *,
    seed: int,
    threads: int | None = None,
    held: int = HELD,
) -> Iterator[Trained]:
    """Yield what the devices of a cohort give, some of them at a time, in their order.

    Parameters
    ----------
    devices, work, local, seed, threads
        See `train_cohort`.
    trainer : Trainer
    order : Dispatch
    held : int
        Bytes of changes that are held at once; a part has one device at least.
    """
    whole_or_none(threads, "threads", 1)
    if isinstance(local, PrivateSGD) and getattr(trainer, "loop", None) is not train_device:
        raise ValueError(f"{type(trainer).__name__} has no PrivateSGD; take that of trainer_for")
    phases = phases_of(work)
    first = phases[0].start
    if first is None and phases[0].choose is None:
        raise ValueError("the first phase has no start; give the server's parameters")
    first = phases[0].choose if first is None else first
    numbers = np.result_type(np.asarray(first).dtype, np.float32)
    size = trainer.model.layout.size
    phases = tuple(phase.checked(len(devices), size, numbers) for phase in phases)
    width = sum(phase.vectors + phase.gradient for phase in phases)
    each = width * size * numbers.itemsize
    ready, job = trainer.gather(devices), Job(local, order, seed, threads)
    step = min(max(1, held // max(each, 1)), max(1, len(devices)))
    for begin in range(0, max(1, len(devices)), step):
        within = (ready.places >= begin) & (ready.places < begin + step)
        aside = {p: reason(e) for p, e in ready.failed.items() if begin <= p < begin + step}
        yield _trained(ready, trainer, phases, job, ready.places[within], aside)


def _trained(
    ready: Ready,
    trainer: Trainer,
    phases: tuple[Phase, ...],
    job: Job,
    places: Places,
    aside: dict[int, str],
) -> Trained:
    """Let the devices at some places do all phases, one after another."""
    model, good = trainer.model, np.ones(len(places), np.bool_)
    error = next(iter(ready.failed.values()), None)
    blocks, kept = dict[str, Array](), dict[str, Array]()
    stats = dict[str, NDArray[Any]]()
    everybody, end = len(places) == len(job.order), None
    mine = job.order if everybody else job.order.some(places)
    numbers: tuple[I64, I64, F64] | None = None
    epochs = np.zeros(len(places), np.int64)

    def set_aside(failed: Mapping[int, Exception]) -> None:
        nonlocal error
        aside.update({int(places[one]): reason(why) for one, why in failed.items()})
        good[list(failed)] = False
        error = error or next(iter(failed.values()), None)

    for phase in phases:
        given = phase if everybody else phase.some(places)
        if given.choose is not None:
            choice, failed = _choice(ready, trainer, places, given.choose, job.threads)
            set_aside(failed)
            given = replace(given, start=given.choose[choice])
            stats["choice"] = choice
        elif given.start is None:
            given = replace(given, start=end)
        assert given.start is not None
        passes, turn = mine.epochs, mine
        if phase.epochs is not None:
            passes = np.full(len(places), given.epochs)
        if len(phases) > 1 or phase.epochs is not None or np.ndim(given.rate) or given.rate != 1:
            turn = replace(mine, epochs=passes, begun=epochs, rates=mine.rates * given.rate)
        if not passes.any():
            done = _idle(given.start, len(places))
        else:
            done = trainer.train(ready, places, given, replace(job, order=turn))
        if done.aside:
            aside |= {int(places[one]): why for one, why in done.aside.items()}
            good[list(done.aside)] = False
        error, epochs = error or done.error, epochs + passes
        changes = done.changes
        if len(phases) > 1 or phase.observe is not None or (phase.keep and phase.stays is None):
            end = given.start + changes
        if phase.vectors > 1:
            first = model.layout.size
            changes, rest = changes[:, :first], end[:, first:] if end is not None else None
            end = None if end is None else end[:, :first]
        elif phase.keep is None or phase.stays is None:
            rest = end
        else:  # a few of many numbers, it may be: the others are not added up for it
            rest = given.start[..., phase.stays] + changes.compress(phase.stays, axis=1)
        if phase.observe is not None and end is not None:
            start = np.broadcast_to(given.start, (len(places), given.start.shape[-1]))
            seen, failed = _observed(ready, model, places, good, phase, start, end)
            set_aside(failed)
            for name, column in seen.items():
                (blocks if column.ndim == 2 else stats)[name] = column
        if phase.keep is not None and rest is not None:
            kept[phase.keep] = rest
        if phase.send is not None:
            blocks[phase.send] = changes
        if done.gradients is not None:
            blocks["gradient"] = done.gradients
        if numbers is None or phase.send is not None:
            numbers = done.rows, done.steps, done.losses
    assert numbers is not None
    rows, steps, losses = numbers
    if not good.all():
        blocks = {name: block[good] for name, block in blocks.items()}
        kept = {name: block[good] for name, block in kept.items()}
        stats = {name: column[good] for name, column in stats.items()}
        places, rows, epochs = places[good], rows[good], epochs[good]
        steps, losses = steps[good], losses[good]
    return Trained(
        *(places, blocks, kept, stats, rows, epochs, steps, losses),
        *(dict(sorted(aside.items())), error),
    )


def _idle(start: Array, count: int) -> Part:
    """Return what devices give that do nothing."""
    changes = np.zeros((count, start.shape[-1]), start.dtype)
    none = np.zeros(count, np.int64)
    return Part(changes, None, np.zeros(count), none, none, {})


def _choice(
    ready: Ready, trainer: Trainer, places: Places, models: Array, threads: int | None
) -> tuple[Places, dict[int, Exception]]:
    """Return which of the models, (k, p), has the least loss on each device's rows, and who failed.

    Whoever failed is given the first.
    """

    def checked(place: int) -> Rows:
        part = held_by(ready.devices[place], trainer.model)
        trainer.model.check_labels(part.gathered()[1])
        return part

    rows, failed = asked(enumerate(places.tolist()), checked)
    chosen = np.zeros(len(places), np.intp)
    if parts := list(rows.values()):
        losses = [trainer.evaluate(parts, model, threads)["loss"] for model in models]
        chosen[list(rows)] = np.argmin(losses, axis=0)
    return chosen, failed


def _observed(
    ready: Ready,
    model: Model,
    places: Places,
    good: Bool,
    phase: Phase,
    starts: Array,
    ends: Array,
) -> tuple[dict[str, Array], dict[int, Exception]]:
    """Return what devices observe of their rows, a row for each, and who failed."""

    def observed(one: int) -> dict[str, F64]:
        device = ready.devices[places[one]]
        rows = device.held_out_rows() if phase.held_out else device.training_rows()
        if not len(rows):
            raise ValueError("it holds no rows out; use Device.hold_out first")
        assert phase.observe is not None
        found = phase.observe(model, read_only(starts[one]), read_only(ends[one]), *rows.gathered())
        return {name: np.asarray(value, np.float64) for name, value in found.items()}

    seen, failed = asked(((one, one) for one in np.flatnonzero(good).tolist()), observed)
    columns = dict[str, Array]()
    for name, like in next(iter(seen.values()), {}).items():
        kind = np.float64 if like.ndim == 0 else ends.dtype
        columns[name] = np.zeros((len(places), *like.shape), kind)
        columns[name][list(seen)] = [found[name] for found in seen.values()]
    return columns, failed
