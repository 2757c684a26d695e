"""Factor models, compiled: a step touches its batch's items, and not the gradient of all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedlab.core.jit import announced
from fedlab.core.randomness import Purpose, address_of
from fedlab.core.threads import by_cost, share, usable_threads
from fedlab.core.typing import Array, Places
from fedlab.device.device import Device
from fedlab.device.rows import Rows
from fedlab.models.factors import AdditiveFactorisation, MatrixFactorisation
from fedlab.training.local import rows_to_train_on
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
class CompiledFactors:
    """Matrix factorisation in machine code, on all processors; other steps than SGD's are plain."""

    model: MatrixFactorisation
    name: str = "compiled"

    def gather(self, devices: Sequence[Device]) -> Ready:
        def rows(place: int) -> Rows:
            x, y = rows_to_train_on(devices[place], self.model)
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
            *(
                x[:, 0].astype(np.int64),
                y.astype(start.dtype),
                ends,
                order.rates.astype(start.dtype),
            ),
            *(addresses, np.array([order.epochs, order.begun], np.int64)),
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
def _factors(model: MatrixFactorisation, backend: Backend = "auto") -> Trainer:
    refuse_unknown(backend)
    # The exact class: one that is derived from these may have another loss.
    if type(model) not in (MatrixFactorisation, AdditiveFactorisation):
        return trainer_of.dispatch(object)(model, backend)
    return Plain(model) if backend == "plain" else CompiledFactors(model)
