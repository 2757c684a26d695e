"""What a model is worth: on the server's test rows, and on what devices hold out."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.threads import one_blas_thread
from fedlab.core.typing import Array
from fedlab.core.validation import require, shown
from fedlab.device.device import Device
from fedlab.federation.plan import Plan
from fedlab.fleet import Roster
from fedlab.metrics.scores import named_metrics, score
from fedlab.models.base import Model
from fedlab.training.validation import checked_rows, on_held_out, on_rows

if TYPE_CHECKING:
    import pandas as pd


def checked_test(model: Model, test: tuple[ArrayLike, ArrayLike]) -> tuple[Array, Array]:
    """Return test rows and labels as arrays, or say what doesn't fit the model."""
    if not isinstance(test, tuple | list) or len(test) != 2:
        raise TypeError(f"test is {shown(test)}; give rows and labels, (x, y)")
    x, y = test
    return checked_rows(model, x, y)


def evaluated(
    plan: Plan, fleet: Roster, parameters: Array, threads: int | None
) -> dict[str, float]:
    """Return the measures of a model: ``validation_...`` over all held-out rows, ``test_...``."""
    measured: dict[str, float] = {}
    if holding := _holding(fleet):
        by_device = on_held_out(holding, plan.trainer, parameters, threads)
        rows = by_device.pop("rows")
        for name, values in by_device.items():
            measured[f"validation_{name}"] = float(np.average(values, weights=rows))
    if plan.evaluation.test is not None:
        on_test = on_rows(*plan.evaluation.test, plan.trainer, parameters, threads)
        measured |= {f"test_{name}": value for name, value in on_test.items()}
    return measured


def validated(
    plan: Plan, fleet: Roster, parameters: Array, threads: int | None, metrics: Any = ()
) -> pd.DataFrame:
    """Return a model's measures on each device's held-out rows, and metrics of its scores.

    Raises
    ------
    ValueError, TypeError
        If no device has rows held out, or a metric can't be had.
    """
    import pandas as pd

    named = named_metrics(metrics)
    if named:
        require(plan.model, "a model whose scores are measured", "predict")

    if not (holding := _holding(fleet)):
        raise ValueError(
            "no device has rows held out; use Device.hold_out first, or measure on rows of "
            "your own with Federation(test=...)"
        )
    measures = on_held_out(holding, plan.trainer, parameters, threads)
    measures["rows"] = measures["rows"].astype(np.int64)
    frame = pd.DataFrame(measures, pd.Index([d.id for d in holding], name="device"))
    undefined: dict[str, list[str]] = {}
    for device in holding if named else ():
        x, y = device.validation()
        with one_blas_thread(), np.errstate(all="ignore"):
            scores = np.asarray(plan.model.predict(parameters, x))  # type: ignore[attr-defined]
        for name, metric in named.items():
            frame.loc[device.id, name], why = score(metric, y, scores)
            if why:
                undefined.setdefault(f"device {device.id!r}: {why}", []).append(name)
    if undefined:
        said = "; ".join(f"{who} ({', '.join(names)})" for who, names in undefined.items())
        warnings.warn(f"NaN stands where a metric says nothing: {said}", stacklevel=3)
    return frame


def _holding(fleet: Roster) -> list[Device]:
    """Return the devices that hold rows out: those of one may have been erased since."""
    return [device for device in fleet.holding if device.validation_rows]
