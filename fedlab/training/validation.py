"""What a model is worth on rows that were not trained on: all devices at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import Array
from fedlab.device.device import Device
from fedlab.device.rows import Rows
from fedlab.models.base import Model
from fedlab.training.trainer import Backend, Measures, Trainer, trainer_of

#: Rows of a test set that one thread takes at a time.
_PART = 512


def validate(
    devices: Sequence[Device],
    model: Model,
    parameters: Array,
    *,
    threads: int | None = None,
    engine: Backend = "auto",
) -> Measures:
    """Return, by measure, each device's mean on its held-out rows, (m,); ``rows`` counts them.

    Parameters
    ----------
    devices : sequence of Device
        Each with rows held out.
    model : Model
    parameters : (p,) or (m, p) array
        One model's, or one for each device.
    threads, engine
        See `train_cohort`.
    """
    return on_held_out(devices, trainer_of(model, engine), parameters, threads)


def on_held_out(
    devices: Sequence[Device], trainer: Trainer, parameters: Array, threads: int | None
) -> Measures:
    """Return what `validate` does, by a trainer that is at hand."""
    rows = [device.held_out_rows() for device in devices]
    counts = np.array([len(part) for part in rows], np.float64)
    return {**trainer.evaluate(rows, parameters, threads), "rows": counts}


def measure(
    x: ArrayLike,
    y: ArrayLike,
    model: Model,
    parameters: Array,
    *,
    threads: int | None = None,
    engine: Backend = "auto",
) -> dict[str, float]:
    """Return a model's measures on rows x, (n, d), with labels y, (n,): each a mean over rows."""
    return on_rows(x, y, trainer_of(model, engine), parameters, threads)


def on_rows(
    x: ArrayLike, y: ArrayLike, trainer: Trainer, parameters: Array, threads: int | None
) -> dict[str, float]:
    """Return what `measure` does, by a trainer that is at hand."""
    vectors, labels = np.ascontiguousarray(x, np.float32), np.asarray(y)
    parts = [
        Rows(vectors[start : start + _PART], labels[start : start + _PART])
        for start in range(0, len(vectors), _PART)
    ]
    measures = trainer.evaluate(parts, parameters, threads)
    counts = [len(part) for part in parts]
    return {name: float(np.average(values, weights=counts)) for name, values in measures.items()}
