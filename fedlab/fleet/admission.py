"""Who is let into a federation: devices whose rows fit the model, each with a name of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedlab.core.validation import shown
from fedlab.device.device import Device
from fedlab.fleet.roster import Changing, Columnar, Roster
from fedlab.models.base import Model


def admit(
    devices: Sequence[Device] | Changing, model: Model
) -> tuple[Roster, list[tuple[object, str]]]:
    """Return the devices that can take part, and remarks on those that are left out.

    Devices without rows are left out of a list for good. Of `Changing` ones they stay, since rows
    may come; a population's are known by their columns, and its labels are looked at when a device
    trains.

    Raises
    ------
    ValueError, TypeError
        If two devices have the same id, if rows or labels don't fit the model, or if there are no
        rows at all.
    """
    given = kept = devices.at(1) if isinstance(devices, Changing) else devices
    empty: list[object] = []
    if isinstance(given, Columnar):
        _refuse_other_vectors("the population", given.dimensions, model)
    else:
        _refuse_no_devices(given)
        _refuse_unfit(given, model)
        if not isinstance(devices, Changing):
            kept = [device for device in given if device.rows]
            empty = [device.id for device in given if not device.rows]
    roster = Roster.of(kept)
    if not roster.count:
        raise ValueError(f"none of the {len(given)} devices has rows to train on; give some data")
    return roster, [(name, "left out: no rows to train on") for name in empty]


def _refuse_no_devices(given: Any) -> None:
    if not isinstance(given, Sequence):
        way = "; give their values, list(devices.values())" if isinstance(given, Mapping) else ""
        raise TypeError(f"devices is {shown(given)}{way}; a list of Device is needed")
    for place, device in enumerate(given):
        if not isinstance(device, Device):
            raise TypeError(
                f"devices holds {shown(device)} at place {place}; give Device(name, index), or "
                "make them of data with fedlab.spread or fedlab.devices_from_table"
            )


def _refuse_unfit(devices: Sequence[Device], model: Model) -> None:
    if len({str(device.id) for device in devices}) < len(devices):
        raise ValueError("two devices have the same id; each needs one of its own")
    for device in (device for device in devices if device.rows):
        _refuse_other_vectors(f"device {device.id!r}", device.index.dimensions, model)
        try:
            model.check_labels(device.labels)
        except (TypeError, ValueError) as error:
            raise type(error)(f"device {device.id!r}: {error}") from None


def _refuse_other_vectors(who: str, dimensions: int, model: Model) -> None:
    if dimensions != model.inputs:
        raise ValueError(
            f"{who} holds vectors of {dimensions} numbers; the model takes {model.inputs}"
        )
