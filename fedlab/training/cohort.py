"""A whole cohort at once, through one of two doors to the same answer.

The compiled door trains built-in models in machine code; the plain one calls `train_device` for any
model. Which one opens depends on the model and the shapes alone, and their results agree to float
tolerance. A device that fails, or sends back what can't be averaged, is set aside
with a reason: it never stops the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedlab.core.randomness import address_of
from fedlab.core.threads import one_blas_thread, usable_threads
from fedlab.core.typing import F64, I64, Array, Places
from fedlab.device.device import Device
from fedlab.device.rows import Rows
from fedlab.models.base import Model
from fedlab.training.compiled import engine, moments
from fedlab.training.compiled.stack import Stack, stack_of, suits_blas
from fedlab.training.local import LocalSGD, Update, train_device
from fedlab.training.work import Work

__all__ = ["Engine", "Trained", "engine_of", "labels_needed", "train_cohort"]

Engine = Literal["auto", "compiled", "plain"]


@dataclass(frozen=True)
class Trained:
    """What those of a cohort sent back whose updates can be averaged, row by row.

    Attributes
    ----------
    places : (k,) int array
        Which devices of the cohort, rising.
    changes : (k, p) array
        Parameters after local work minus those at its start, all finite.
    rows, epochs, steps : (k,) int arrays
        Rows trained on, passes over them, gradient steps.
    losses : (k,) float64 array
        Mean loss over a device's steps, each on its batch before the step.
    blocks : dict of (k, p) arrays
        What else the algorithm asked for.
    set_aside : dict of int to str
        The others: place in the cohort, and why.
    error : Exception, optional
        The first one that a device's training raised.
    """

    places: Places
    changes: Array
    rows: I64
    epochs: I64
    steps: I64
    losses: F64
    blocks: dict[str, Array]
    set_aside: dict[int, str]
    error: Exception | None = None

    @property
    def none_could(self) -> bool:
        """Whether every device failed, so that the fault is hardly any device's own."""
        failed = [why for why in self.set_aside.values() if why != NOT_FINITE]
        return not len(self.places) and 0 < len(failed) == len(self.set_aside)

    @property
    def nbytes_each(self) -> int:
        """Bytes of one device's update: the change and other blocks, and three numbers of eight."""
        numbers = [block.shape[1] * block.itemsize for block in self.blocks.values()]
        return int(self.changes.shape[1] * self.changes.itemsize + sum(numbers) + 3 * 8)


def engine_of(model: Model, engine: Engine = "auto") -> Stack | None:
    """Return the stack by which the compiled door knows a model, or None: the plain door.

    Raises
    ------
    ValueError
        If an engine is asked for that there isn't, or that can't train the model.
    """
    if engine not in ("auto", "compiled", "plain"):
        raise ValueError(f"engine is {engine!r}; choose 'auto', 'compiled' or 'plain'")
    stack = None if engine == "plain" else stack_of(model)
    if engine == "compiled" and stack is None:
        raise ValueError(
            f"the compiled engine does not know {type(model).__name__}; choose engine='plain' or "
            "'auto'"
        )
    return stack


def train_cohort(
    devices: Sequence[Device],
    model: Model,
    work: Work | Array,
    local: LocalSGD,
    *,
    seed: int,
    round: int,
    epochs: I64 | None = None,
    threads: int | None = None,
    engine: Engine = "auto",
) -> Trained:
    """Train a model on each device of a cohort.

    Parameters
    ----------
    devices : sequence of Device
    model : Model
    work : Work, or (p,) array
        Of the cohort; plain parameters just start there.
    local : LocalSGD
    seed, round : int
        Where the orders of the batches are drawn.
    epochs : (m,) int array, optional
        Passes of each device, if not those of `local`.
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
    work = work if isinstance(work, Work) else Work(work)
    passes = np.full(len(devices), local.epochs) if epochs is None else epochs
    threads = threads or (usable_threads() if stack_of(model) else 1)
    stack = engine_of(model, engine)
    if stack is None or (engine == "auto" and suits_blas(stack, local.batch_size)):
        return _plain(devices, model, work, local, passes, seed, round, threads)
    return _compiled(devices, stack, work, local, passes, seed, round, threads)


def _compiled(
    devices: Sequence[Device],
    stack: Stack,
    work: Work,
    local: LocalSGD,
    epochs: I64,
    seed: int,
    round: int,
    threads: int,
) -> Trained:
    rows, aside, error = _gather(devices, stack)
    ready = np.array(list(rows), np.intp)
    passes = np.asarray(epochs[ready], np.int64)
    parts, mine = list(rows.values()), work.some(ready)
    if not parts:
        return _nobody(work, aside, error)
    counts = np.array([len(part) for part in parts], np.int64)
    if moments.pays(stack, local, parts):
        trained = moments.train(parts, stack, mine, local, passes, round)
    else:
        addresses = np.array([address_of(devices[place].id) for place in ready], np.uint64)
        where = engine.Addresses.of(parts)
        trained = engine.train(where, stack, mine, local, passes, addresses, seed, round, threads)
    changes, gradients, losses, steps = trained
    blocks = {"gradient": gradients} if work.gradient else {}
    good = steps >= 0
    for block in blocks.values():
        good &= np.isfinite(block).all(axis=1)
    aside |= dict.fromkeys(ready[~good].tolist(), NOT_FINITE)
    aside |= dict.fromkeys(ready[steps == -1].tolist(), labels_needed(stack))
    if not good.all():
        changes, blocks = changes[good], {name: block[good] for name, block in blocks.items()}
    return Trained(
        *(ready[good], changes, counts[good], passes[good], steps[good], losses[good]),
        *(blocks, aside, error),
    )


def _nobody(work: Work, aside: dict[int, str], error: Exception | None) -> Trained:
    whole, nothing = np.empty(0, np.int64), np.empty((0, work.start.shape[-1]), work.start.dtype)
    blocks = {"gradient": nothing} if work.gradient else {}
    return Trained(whole, nothing, whole, whole, whole, np.empty(0), blocks, aside, error)


NOT_FINITE = "its update holds NaN or inf; try a lower learning rate"


def labels_needed(stack: Stack) -> str:
    """Return what is said of labels that are no classes of a network."""
    return f"labels other than class numbers 0 ... {stack.widths[-1] - 1}"


def _gather(
    devices: Sequence[Device], stack: Stack
) -> tuple[dict[int, Rows], dict[int, str], Exception | None]:
    """Ask devices for their rows: those that fit the network, and why others don't, by place."""
    rows, aside, first = dict[int, Rows](), dict[int, str](), None
    for place, device in enumerate(devices):
        try:
            part = device.training_rows()
            if not len(part):
                raise ValueError("it has no rows to train on")
            if part.x.shape[1] != stack.widths[0]:
                raise ValueError(f"vectors of {part.x.shape[1]}, not {stack.widths[0]} numbers")
            _ = part.memory
            rows[place] = part
        except Exception as error:
            aside[place], first = _reason(error), first or error
    return rows, aside, first


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


# -- the plain door -------------------------------------------------------------------------------


def _plain(
    devices: Sequence[Device],
    model: Model,
    work: Work,
    local: LocalSGD,
    epochs: I64,
    seed: int,
    round: int,
    threads: int,
) -> Trained:
    errors: dict[int, Exception] = {}

    def train(place: int) -> Update | str:
        try:
            update = train_device(
                *(devices[place], model, work.of(place), local),
                seed=seed,
                round=round,
                epochs=int(epochs[place]),
            )
        except Exception as error:
            errors[place] = error
            return _reason(error)
        return _complaint(update, work) or update

    with one_blas_thread():
        if threads == 1:
            results = [train(place) for place in range(len(devices))]
        else:
            with ThreadPoolExecutor(threads) as pool:
                results = list(pool.map(train, range(len(devices))))
    good = {p: update for p, update in enumerate(results) if isinstance(update, Update)}
    size, updates = work.start.shape[-1], list(good.values())
    names = ["gradient"] if work.gradient else []

    def stacked(parts: Sequence[Array]) -> Array:
        return np.array(parts) if parts else np.empty((0, size), work.start.dtype)

    return Trained(
        places=np.array(list(good), np.intp),
        changes=stacked([update.change for update in updates]),
        rows=np.array([update.rows for update in updates], np.int64),
        epochs=np.array([update.epochs for update in updates], np.int64),
        steps=np.array([update.steps for update in updates], np.int64),
        losses=np.array([update.loss for update in updates], np.float64),
        blocks={name: stacked([update.blocks[name] for update in updates]) for name in names},
        set_aside={p: why for p, why in enumerate(results) if isinstance(why, str)},
        error=errors[min(errors)] if errors else None,
    )


def _complaint(update: Update, work: Work) -> str | None:
    """Return why an update can't be averaged, or None."""
    size = work.start.shape[-1]
    for name, block in {"change": update.change, **update.blocks}.items():
        if block.shape != (size,):
            return f"its {name} has shape {block.shape}; ({size},) is needed"
        if not np.isfinite(block).all():
            return NOT_FINITE
    return None
