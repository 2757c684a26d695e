"""A whole cohort, part by part: what its devices make of their work, and who was set aside.

A device that fails, or sends back what can't be averaged, is set aside with a reason: it never
stops the others. Parts are as large as memory allows; results don't depend on how they are cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import F64, I64, Array, Places
from fedlab.core.validation import whole_number
from fedlab.device.device import Device
from fedlab.device.dispatch import Dispatch
from fedlab.models.base import Model
from fedlab.training.local import LocalSGD
from fedlab.training.trainer import NOT_FINITE, Backend, Ready, Trainer, trainer_of
from fedlab.training.work import Phase, Work, phases_of

#: Bytes of all changes that are held at once.
_HELD = 1 << 28


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
    kept : dict of (k, p) arrays
        Where phases ended that devices keep, by name.
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
    parts = list(
        train_in_parts(
            *(devices, trainer_of(model, engine), work, local, order), seed=seed, threads=threads
        )
    )
    first = parts[0]
    if len(parts) == 1:
        return first

    def joined(name: str) -> dict[str, Array]:
        whole = {key: [getattr(part, name)[key] for part in parts] for key in getattr(first, name)}
        return {key: np.concatenate(blocks) for key, blocks in whole.items()}

    columns = ("places", "rows", "epochs", "steps", "losses")
    return Trained(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns},
        blocks=joined("blocks"),
        kept=joined("kept"),
        set_aside={place: why for part in parts for place, why in part.set_aside.items()},
        error=next((part.error for part in parts if part.error), None),
    )


def train_in_parts(
    devices: Sequence[Device],
    trainer: Trainer,
    work: Work | Array,
    local: LocalSGD,
    order: Dispatch,
    *,
    seed: int,
    threads: int | None = None,
    held: int = _HELD,
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
    if threads is not None:
        whole_number(threads, "threads", 1)
    phases = phases_of(work)
    first = phases[0].start
    if first is None:
        raise ValueError("the first phase has no start; give the server's parameters")
    numbers = np.result_type(np.asarray(first).dtype, np.float32)
    size = trainer.model.layout.size
    phases = tuple(phase.checked(len(devices), size, numbers) for phase in phases)
    width = sum(1 + phase.gradient for phase in phases)
    each = width * size * numbers.itemsize
    ready = trainer.gather(devices)
    step = max(1, held // max(each, 1))
    if step >= len(devices):
        yield _trained(
            *(ready, trainer, phases, local, order, ready.places, dict(ready.aside)),
            *(seed, threads),
        )
        return
    for begin in range(0, len(devices), step):
        within = (ready.places >= begin) & (ready.places < begin + step)
        aside = {p: why for p, why in ready.aside.items() if begin <= p < begin + step}
        yield _trained(
            *(ready, trainer, phases, local, order, ready.places[within], aside),
            *(seed, threads),
        )


def _trained(
    ready: Ready,
    trainer: Trainer,
    phases: tuple[Phase, ...],
    local: LocalSGD,
    order: Dispatch,
    places: Places,
    aside: dict[int, str],
    seed: int,
    threads: int | None,
) -> Trained:
    """Let the devices at some places do all phases, one after another."""
    error, good = ready.error, np.ones(len(places), np.bool_)
    blocks, kept = dict[str, Array](), dict[str, Array]()
    everybody, end = len(places) == len(order), None
    mine = order if everybody else order.some(places)
    numbers: tuple[I64, I64, F64] | None = None
    epochs = np.zeros(len(places), np.int64)
    for phase in phases:
        given = phase if everybody else phase.some(places)
        given = given if given.start is not None else replace(given, start=end)
        passes, turn = mine.epochs, mine
        if phase.epochs is not None:
            passes = np.full(len(places), phase.epochs)
        if len(phases) > 1 or phase.epochs is not None:
            turn = replace(mine, epochs=passes, begun=epochs)
        done = trainer.train(ready, places, given, local, turn, seed=seed, threads=threads)
        if done.aside:
            aside |= {int(places[one]): why for one, why in done.aside.items()}
            good[list(done.aside)] = False
        error, epochs = error or done.error, epochs + passes
        assert given.start is not None
        if phase.keep is not None or len(phases) > 1:
            end = given.start + done.changes
        if phase.keep is not None and end is not None:
            kept[phase.keep] = end
        if phase.send is not None:
            blocks[phase.send] = done.changes
        if done.gradients is not None:
            blocks["gradient"] = done.gradients
        if numbers is None or phase.send is not None:
            numbers = done.rows, done.steps, done.losses
    assert numbers is not None
    rows, steps, losses = numbers
    if not good.all():
        blocks = {name: block[good] for name, block in blocks.items()}
        kept = {name: block[good] for name, block in kept.items()}
        places, rows, epochs = places[good], rows[good], epochs[good]
        steps, losses = steps[good], losses[good]
    return Trained(
        *(places, blocks, kept, rows, epochs, steps, losses, dict(sorted(aside.items())), error)
    )
