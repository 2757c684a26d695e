"""What a model is worth on the rows that devices held out."""

from __future__ import annotations

from collections.abc import Sequence

from fedlab.device import Device
from fedlab.models.base import Array, Model
from fedlab.training.threads import one_blas_thread

__all__ = ["validate"]


def validate(devices: Sequence[Device], model: Model, parameters: Array) -> dict[str, list[float]]:
    """Return, by measure, each device's value on its held-out rows; ``rows`` counts them.

    Parameters
    ----------
    devices : sequence of Device
        Each with rows held out.
    model : Model
    parameters : (p,) array
    """
    with one_blas_thread():
        measured = [model.evaluate(parameters, *device.validation()) for device in devices]
    columns = {name: [measures[name] for measures in measured] for name in measured[0]}
    return {**columns, "rows": [float(device.validation_rows) for device in devices]}
