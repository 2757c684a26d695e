"""What a model is worth on rows that were not trained on: all devices at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.typing import F32, Array
from fedlab.core.validation import read_only, require, whole_or_none
from fedlab.device.device import Device
from fedlab.device.rows import Rows
from fedlab.index.ingest import as_labels, as_vectors
from fedlab.models.base import Model
from fedlab.training.local import refuse_other_widths
from fedlab.training.rules import mask_of
from fedlab.training.trainer import Backend, Measures, Trainer, trainer_of
from fedlab.training.work import checked_parameters

if TYPE_CHECKING:
    import pandas as pd

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
    if empty := [device.id for device in devices if not device.validation_rows]:
        raise ValueError(f"devices {empty[:5]} hold no rows out; use Device.hold_out first")
    return on_held_out(devices, trainer_of(model, engine), parameters, threads)


def on_held_out(
    devices: Sequence[Device], trainer: Trainer, parameters: Array, threads: int | None
) -> Measures:
    """Return what `validate` does, by a trainer that is at hand."""
    rows = [device.held_out_rows() for device in devices]
    counts = np.array([len(part) for part in rows], np.float64)
    return {**_evaluated(trainer, rows, parameters, threads), "rows": counts}


class Near(Device):
    """A device that is judged on those of its held-out rows that are nearest to queries.

    For ``Federation.validate(devices=[Near(device, queries, 5) for device in devices])`` and
    `validate`. It trains as the device does.

    Parameters
    ----------
    device : Device
        With rows held out.
    queries : (q, d) array
        Cases like those that matter; they are sent to the device.
    k : int
        Each query asks for so many rows; one that several ask for counts once.
    """

    def __init__(self, device: Device, queries: ArrayLike, k: int) -> None:
        super().__init__(device.id, device.index, device.profile)
        hits = device.most_similar(queries, k, mask_of(device.held_out_rows()))
        self._held_out, self._of = np.unique(hits.keys[hits.found]), device

    def training_rows(self) -> Rows:
        """Return the device's own: what else it holds out is not for training."""
        return self._of.training_rows()


def evidence(device: Device, model: Model, parameters: Array, x: ArrayLike, k: int) -> pd.DataFrame:
    """Return a model's predictions with the device's training rows that are nearest to each.

    For the device's own screen: it shows labels of single rows.

    Parameters
    ----------
    device : Device
    model : Model
        With `predict`.
    parameters : (p,) array
    x : (n, d) array
        Rows to predict.
    k : int
        Nearest rows of each.

    Returns
    -------
    DataFrame
        query, predicted (a class, or a number), key, distance, label; for each query the nearest
        row first.
    """
    import pandas as pd

    require(model, "a model whose predictions are shown", "predict")
    asked = as_vectors(x, model.inputs, "rows to predict")
    hits = device.most_similar(asked, k, mask_of(device.training_rows()))
    scores = np.asarray(model.predict(read_only(parameters), asked))  # type: ignore[attr-defined]
    predicted = scores if scores.ndim == 1 else scores.argmax(axis=1)
    found = {"key": hits.keys[hits.found], "distance": hits.distances[hits.found]}
    each = {"query": np.arange(len(asked)), "predicted": predicted}
    repeated = {name: np.repeat(column, hits.counts) for name, column in each.items()}
    return pd.DataFrame({**repeated, **found, "label": device.index.labels_of(found["key"])})


def checked_rows(model: Model, x: ArrayLike, y: ArrayLike) -> tuple[F32, NDArray[Any]]:
    """Return rows and labels as a device would hold them, or say what doesn't fit the model."""
    rows = as_vectors(x, model.inputs, "test rows")
    labels = as_labels(y, len(rows))
    if not len(rows):
        raise ValueError("no test rows were given; at least one is needed")
    model.check_labels(labels)
    return rows, labels


def on_rows(
    x: F32, y: NDArray[Any], trainer: Trainer, parameters: Array, threads: int | None
) -> dict[str, float]:
    """Return a model's measures on rows that were checked: each a mean over rows."""
    if np.ndim(parameters) != 1:
        raise ValueError(
            f"parameters of shape {np.shape(parameters)} were given; one model's, (p,)"
        )
    parts = [Rows(x[at : at + _PART], y[at : at + _PART]) for at in range(0, len(x), _PART)]
    measures = _evaluated(trainer, parts, parameters, threads)
    counts = [len(part) for part in parts]
    return {name: float(np.average(values, weights=counts)) for name, values in measures.items()}


def _evaluated(
    trainer: Trainer, rows: Sequence[Rows], parameters: Array, threads: int | None
) -> Measures:
    """Let a trainer evaluate; compiled loops read these without looking at their shapes."""
    model = trainer.model
    for part in rows:
        refuse_other_widths(part, model)
    given = checked_parameters(parameters, "the model", len(rows), model.layout.size)
    whole_or_none(threads, "threads", 1)
    return trainer.evaluate(rows, given, threads)
