"""The compiled doors, registered for the models whose loops they have: networks and factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedlab.core.jit import announced
from fedlab.core.randomness import Purpose, address_of
from fedlab.core.threads import by_cost, share, usable_threads
from fedlab.core.typing import Array, Places
from fedlab.device.device import Device
from fedlab.device.rows import Rows
from fedlab.models import MLP, LinearRegression, Model, SoftmaxRegression
from fedlab.models.factors import AdditiveFactorisation, MatrixFactorisation
from fedlab.training.compiled import engine, moments
from fedlab.training.compiled.stack import Stack, stack_of, suits_blas
from fedlab.training.local import held_by, rows_to_train_on
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

_EXACTLY = MLP, LinearRegression, SoftmaxRegression, MatrixFactorisation, AdditiveFactorisation


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
        inputs = self.model.inputs

        def rows(device: Device) -> Rows:
            part = device.training_rows()
            if not part.count or part.x.shape[1] != inputs:
                held_by(device, self.model)  # says why not
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


@dataclass(frozen=True)
class CompiledFactors:
    """Factor models in machine code, on all processors: a step touches its batch's items alone.

    Other steps than SGD's are plain.
    """

    model: MatrixFactorisation
    name: str = "compiled"

    def gather(self, devices: Sequence[Device]) -> Ready:
        def rows(device: Device) -> Rows:
            x, y = rows_to_train_on(device, self.model)
            self.model.places(x)
            return Rows(x, y)

        return Ready.of(devices, rows)

    def train(self, ready: Ready, places: Places, phase: Phase, job: Job) -> Part:
        from fedlab.training.compiled.factor_kernels import train_devices

        model, local, order, start = self.model, job.local, job.order, phase.start
        mask = np.ones(model.layout.size, np.bool_) if phase.trained is None else phase.trained
        parts = model.layout.views(mask).values()
        trains = [bool(part.all()) for part in parts]
        more = local.momentum, local.weight_decay, local.clip, phase.mu, phase.gradient
        cut = phase.offset is not None or trains != [part.any() for part in parts]
        if start is None or phase.objective is not None or any(more) or cut:
            return Plain(model).train(ready, places, phase, job)
        rows = [ready.rows[place] for place in places.tolist()]
        counts = np.array([len(part) for part in rows], np.int64)
        ends = np.append(0, np.cumsum(counts))
        x, y = (np.concatenate([getattr(part, name) for part in rows]) for name in ("x", "y"))
        names = [address_of(ready.devices[place].id) for place in places.tolist()]
        addresses = np.array([order.rounds.astype(np.uint64), np.array(names, np.uint64)])
        ways = [isinstance(model, AdditiveFactorisation), model.loss == "squared", *trains]
        weights = [getattr(model, name, 0.0) for name in ("l2", "lam", "mu", "centre")]
        changes, told = np.empty((len(rows), len(mask)), start.dtype), np.zeros((2, len(rows)))

        given = (
            *(x[:, 0].astype(np.int64), y.astype(start.dtype), ends),
            *(order.rates.astype(start.dtype), addresses),
            np.array([order.epochs, order.begun], np.int64),
            *(np.array([model.items, local.batch_size or 0]), np.array(ways)),
            *(np.array(weights, start.dtype), np.require(np.atleast_2d(start), None, ["C", "W"])),
            *(np.array([job.seed, Purpose.BATCHES], np.uint64), changes, told),
        )
        threads = job.threads or usable_threads()
        costs = np.asarray((counts * order.epochs * model.size + len(mask)) * 1e-9, np.float64)
        with announced("the loops of factor models", "5 to 10"):
            share(by_cost(costs, threads), lambda which: train_devices(which, *given), threads)
        losses, steps = told[0], told[1].astype(np.int64)
        aside = dict.fromkeys(np.flatnonzero(steps < 0).tolist(), NOT_FINITE)
        return Part(changes, None, losses, counts, steps, aside)

    def evaluate(self, rows: Sequence[Rows], parameters: Array, threads: int | None) -> Measures:
        return Plain(self.model).evaluate(rows, parameters, threads)


@trainer_of.register(MatrixFactorisation)
@trainer_of.register(LinearRegression)
@trainer_of.register(SoftmaxRegression)
@trainer_of.register(MLP)
def _built_in(model: Any, backend: Backend = "auto") -> Trainer:
    refuse_unknown(backend)
    # The exact class: one that is derived from these may have another loss.
    if type(model) not in _EXACTLY:
        return trainer_of.dispatch(object)(model, backend)
    if backend == "plain":
        return Plain(model)
    if isinstance(model, MatrixFactorisation):
        return CompiledFactors(model)
    return Compiled(model, stack_of(model), chosen=backend == "auto")
