"""What devices must have in common before anything is searched across them."""

from __future__ import annotations

from collections.abc import Sequence

from fedlab.core.validation import require
from fedlab.device.device import Device


def one_kind(devices: Sequence[Device]) -> tuple[str, int]:
    """Return the metric and the number of dimensions that all devices share.

    Raises
    ------
    ValueError
        If there is no device, two have the same id, or they differ.
    TypeError
        If one device was given, or something else.

    Examples
    --------
    >>> from fedlab import VectorIndex
    >>> one_kind([Device(place, VectorIndex(3, "l2sq")) for place in range(2)])
    ('l2sq', 3)
    """
    require_several(devices)
    for device in devices:
        require(device, "a device", "id", "index")
    return in_common([(d.id, d.index.metric, d.index.dimensions) for d in devices])


def require_several(devices: object) -> None:
    """Refuse one device where a sequence of them is needed."""
    if isinstance(devices, Device):
        raise TypeError(f"device {devices.id!r} alone was given; devices go in a list: [device]")


def in_common(told: Sequence[tuple[int | str, str, int]]) -> tuple[str, int]:
    """Return the metric and dimensions that are the same for all, each told as (id, both)."""
    if not told:
        raise ValueError("no devices were given; give at least one")
    seen = set()
    for name, _, _ in told:
        if name in seen:
            raise ValueError(
                f"two devices have the same id, {name!r}; answers name devices by it: give each "
                "device once, with an id of its own"
            )
        seen.add(name)
    first, *kind = told[0]
    for name, metric, dimensions in told:
        if [metric, dimensions] != kind:
            raise ValueError(
                f"device {name!r} holds {dimensions} dimensions for {metric}, device {first!r} "
                f"{kind[1]} for {kind[0]}; one dimension and metric is needed for all: distances "
                "compare within these"
            )
    return told[0][1], told[0][2]
