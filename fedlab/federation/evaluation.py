"""What a model is worth: on the server's test rows, and on what devices hold out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import Array, Places
from fedlab.core.validation import read_only, require, shown
from fedlab.device.device import Device
from fedlab.device.dispatch import Dispatch
from fedlab.federation.nodes import own_models
from fedlab.federation.on_devices import Where
from fedlab.federation.plan import Plan
from fedlab.federation.state import RunState
from fedlab.fleet import Roster, Topology
from fedlab.metrics.scores import named_metrics
from fedlab.models.base import Model
from fedlab.training.choice import choosing
from fedlab.training.cohort import train_in_parts
from fedlab.training.validation import checked_rows, on_rows
from fedlab.training.work import phases_of

if TYPE_CHECKING:
    import pandas as pd


def checked_test(model: Model, test: tuple[ArrayLike, ArrayLike]) -> tuple[Array, Array]:
    """Return test rows and labels as arrays, or say what doesn't fit the model."""
    if not isinstance(test, tuple | list) or len(test) != 2:
        raise TypeError(f"test is {shown(test)}; give rows and labels, (x, y)")
    x, y = test
    return checked_rows(model, x, y)


def evaluated(
    plan: Plan, fleet: Roster, parameters: Array, threads: int | None, where: Where
) -> dict[str, float]:
    """Return the measures of a model: ``validation_...`` over all held-out rows, ``test_...``."""
    measured: dict[str, float] = {}
    if holding := holding_of(fleet):
        by_device = where.measure(plan, holding, parameters, threads)
        rows = by_device.pop("rows")
        told = rows > 0  # a device elsewhere may not have answered
        for name, values in by_device.items() if told.any() else ():
            measured[f"validation_{name}"] = float(np.average(values[told], weights=rows[told]))
    if plan.evaluation.test is not None:
        on_test = on_rows(*plan.evaluation.test, plan.trainer, parameters, threads)
        measured |= {f"test_{name}": value for name, value in on_test.items()}
    return measured


def personal(
    plan: Plan, state: RunState, devices: Sequence[Device], places: Places, threads: int | None
) -> Array:
    """Return the parameters of the model that each device predicts with, (m, p).

    Parameters
    ----------
    plan : Plan
    state : RunState
        It stays as it is.
    devices : sequence of Device
        What they train for it does not leave them.
    places : (m,) int array
        Theirs in the federation; those of strangers lie beyond it.
    threads : int, optional

    Raises
    ------
    ValueError
        If a device could not train.
    """
    start = read_only(state.parameters)
    if isinstance(plan.schedule, Topology):
        return own_models(state, places)
    serve = getattr(plan.algorithm, "serve", None)
    if serve is None or not len(devices):
        return np.broadcast_to(start, (len(devices), len(start)))
    *before, last = phases_of(serve(state.algorithm, start, places, state.kept))
    work = (*before, replace(last, keep="personal", stays=None))
    number = state.round + 1
    order = Dispatch.alike(len(devices), number, plan.local.rate(number), plan.local.epochs)
    at = {"seed": plan.seed, "round": number}
    shown = choosing(plan.rows, devices, plan.model, phases_of(work)[0], **at)
    how = (shown, plan.trainer, work, plan.local, order)
    parts = list(train_in_parts(*how, seed=plan.seed, threads=threads))
    for part in parts:
        for place, why in part.set_aside.items():
            raise ValueError(
                f"device {devices[place].id!r} could not make its model: {why}"
            ) from part.error
    return np.concatenate([part.kept["personal"] for part in parts])


def validated(
    plan: Plan,
    holding: Sequence[Device],
    parameters: Array,
    threads: int | None,
    where: Where,
    metrics: Any = (),
) -> pd.DataFrame:
    """Return a model's measures on each device's held-out rows, and metrics of its scores.

    Parameters are one model's, (p,), or each device's, (m, p).

    Raises
    ------
    ValueError, TypeError
        If there is no device, or a metric can't be had.
    """
    import pandas as pd

    named = named_metrics(metrics)
    if named:
        require(plan.model, "a model whose scores are measured", "predict")

    if not holding:
        raise ValueError(
            "no device has rows held out; use Device.hold_out first, or measure on rows of "
            "your own with Federation(test=...)"
        )
    measures = where.measure(plan, holding, parameters, threads)
    measures["rows"] = measures["rows"].astype(np.int64)
    frame = pd.DataFrame(measures, pd.Index([d.id for d in holding], name="device"))
    undefined: dict[str, list[str]] = {}
    scored = where.score(plan, holding, parameters, named) if named else [{}] * len(holding)
    for device, told in zip(holding, scored, strict=True):
        for name, (value, why) in told.items():
            frame.loc[device.id, name] = value
            if why:
                undefined.setdefault(f"device {device.id!r}: {why}", []).append(name)
    if undefined:
        said = "; ".join(f"{who} ({', '.join(names)})" for who, names in undefined.items())
        warnings.warn(f"NaN stands where a metric says nothing: {said}", stacklevel=3)
    return frame


def holding_of(fleet: Roster) -> list[Device]:
    """Return the devices that hold rows out: those of one may have been erased since."""
    return [device for device in fleet.holding if device.validation_rows]
