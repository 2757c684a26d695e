"""The compiled door, registered for the models whose loops it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedlab.core.randomness import address_of
from fedlab.core.threads import usable_threads
from fedlab.core.typing import Array, Places
from fedlab.device.device import Device
from fedlab.device.rows import Rows
from fedlab.models import MLP, LinearRegression, Model, SoftmaxRegression
from fedlab.training.compiled import engine, moments
from fedlab.training.compiled.stack import Stack, stack_of, suits_blas
from fedlab.training.local import held_by
from fedlab.training.trainer import (
    NOT_FINITE,
    Backend,
    Job,
    Measures,
    Part,
    Plain,
    Ready,
    Trainer,
    refuse_unknown,
    trainer_of,
)
from fedlab.training.work import Phase


@dataclass(frozen=True)
class Compiled:
    """Networks of affine layers, in machine code, on all processors.

    Parameters
    ----------
    model : Model
    stack : Stack
        The model as the loops take it.
    chosen : bool
        Whether large models in large batches go through NumPy's BLAS (see `suits_blas`).
    """

    model: Model
    stack: Stack
    chosen: bool = True
    name: str = "compiled"

    def __post_init__(self) -> None:
        sizes = self.stack.size, self.model.layout.size
        if sizes[0] != sizes[1] or self.stack.widths[0] != self.model.inputs:
            raise ValueError(
                f"{self.stack} has {sizes[0]} parameters, {type(self.model).__name__} {sizes[1]} "
                f"and {self.model.inputs} inputs; they must agree"
            )

    def gather(self, devices: Sequence[Device]) -> Ready:
        def rows(place: int) -> Rows:
            part = held_by(devices[place], self.model)
            _ = part.memory
            return part

        return Ready.of(devices, rows)

    def train(self, ready: Ready, places: Places, phase: Phase, job: Job) -> Part:
        threads = job.threads or usable_threads()
        large = self.chosen and suits_blas(self.stack, job.local.batch_size)
        if phase.objective is not None or large:
            return Plain(self.model).train(ready, places, phase, replace(job, threads=threads))
        parts = list(map(ready.rows.__getitem__, places.tolist()))
        counts = np.array([part.count for part in parts], np.int64)
        largest = int(counts.max(initial=1)) if len(parts) == len(ready.rows) else ready.largest
        if moments.pays(self.stack, job.local, largest):
            trained = moments.train(parts, self.stack, phase, job.local, job.order)
        else:
            names = [address_of(ready.devices[place].id) for place in places.tolist()]
            trained = engine.train(
                *(engine.Addresses.of(parts), self.stack, phase, job.local, job.order),
                *(np.array(names, np.uint64), job.seed, threads, largest),
            )
        changes, gradients, losses, steps = trained
        good = steps >= 0
        if phase.gradient:
            good &= np.isfinite(gradients).all(axis=1)
        aside = dict[int, str]()
        if not good.all():
            aside = dict.fromkeys(np.flatnonzero(~good).tolist(), NOT_FINITE)
            aside |= dict.fromkeys(np.flatnonzero(steps == -1).tolist(), labels_needed(self.stack))
        return Part(changes, gradients if phase.gradient else None, losses, counts, steps, aside)

    def evaluate(self, rows: Sequence[Rows], parameters: Array, threads: int | None) -> Measures:
        where = engine.Addresses.of(rows)
        losses, hits = engine.evaluate(where, self.stack, parameters, threads or usable_threads())
        if (hits < 0).any():
            raise ValueError(labels_needed(self.stack))
        losses /= where.counts
        if self.stack.squared:
            return {"loss": losses, "mse": 2 * losses}
        return {"loss": losses, "accuracy": hits / where.counts}


def labels_needed(stack: Stack) -> str:
    """Return what is said of labels that are no classes of a network."""
    return f"labels other than class numbers 0 ... {stack.widths[-1] - 1}"


@trainer_of.register(LinearRegression)
@trainer_of.register(SoftmaxRegression)
@trainer_of.register(MLP)
def _built_in(
    model: LinearRegression | SoftmaxRegression | MLP, backend: Backend = "auto"
) -> Trainer:
    refuse_unknown(backend)
    # The exact class: one that is derived from these may have another loss.
    if type(model) not in (LinearRegression, SoftmaxRegression, MLP):
        return trainer_of.dispatch(object)(model, backend)
    if backend == "plain":
        return Plain(model)
    return Compiled(model, stack_of(model), chosen=backend == "auto")
