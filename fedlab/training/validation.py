"""What a model is worth on rows that were not trained on: all devices at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.threads import one_blas_thread, usable_threads
from fedlab.core.typing import F64, Array
from fedlab.device.device import Device
from fedlab.device.rows import Rows
from fedlab.models.base import Model
from fedlab.training.cohort import Engine, engine_of, labels_needed
from fedlab.training.compiled import engine
from fedlab.training.compiled.stack import Stack

__all__ = ["measure", "validate"]

#: Rows of a test set that one thread takes at a time.
_PART = 512

Measures = dict[str, F64]


def validate(
    devices: Sequence[Device],
    model: Model,
    parameters: Array,
    *,
    threads: int | None = None,
    engine: Engine = "auto",
) -> Measures:
    """Return, by measure, each device's mean on its held-out rows, (m,); ``rows`` counts them.

    Parameters
    ----------
    devices : sequence of Device
        Each with rows held out.
    model : Model
    parameters : (p,) array
    threads, engine
        See `train_cohort`.
    """
    rows = [device.held_out_rows() for device in devices]
    counts = np.array([len(part) for part in rows], np.float64)
    return {**_measured(rows, model, parameters, threads, engine), "rows": counts}


def measure(
    x: ArrayLike,
    y: ArrayLike,
    model: Model,
    parameters: Array,
    *,
    threads: int | None = None,
    engine: Engine = "auto",
) -> dict[str, float]:
    """Return a model's measures on rows x, (n, d), with labels y, (n,): each a mean over rows."""
    vectors, labels = np.ascontiguousarray(x, np.float32), np.asarray(y)
    parts = [
        Rows(vectors[start : start + _PART], labels[start : start + _PART])
        for start in range(0, len(vectors), _PART)
    ]
    measures = _measured(parts, model, parameters, threads, engine)
    counts = [len(part) for part in parts]
    return {name: float(np.average(values, weights=counts)) for name, values in measures.items()}


def _measured(
    rows: Sequence[Rows], model: Model, parameters: Array, threads: int | None, engine: Engine
) -> Measures:
    stack = engine_of(model, engine)
    if stack is not None:
        return _compiled(rows, stack, parameters, threads or usable_threads())
    with one_blas_thread():
        each = [model.evaluate(parameters, *part.gathered()) for part in rows]
    return {name: np.array([measures[name] for measures in each]) for name in each[0]}


def _compiled(rows: Sequence[Rows], stack: Stack, parameters: Array, threads: int) -> Measures:
    where = engine.Addresses.of(rows)
    if any(part.x.shape[1] != stack.widths[0] for part in rows):
        raise ValueError(f"rows of other than {stack.widths[0]} numbers; the model takes those")
    losses, hits = engine.evaluate(where, stack, parameters, threads)
    if (hits < 0).any():
        raise ValueError(labels_needed(stack))
    losses /= where.counts
    if stack.squared:
        return {"loss": losses, "mse": 2 * losses}
    return {"loss": losses, "accuracy": hits / where.counts}
