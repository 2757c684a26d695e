"""What devices must have in common before anything is searched across them."""

from __future__ import annotations

from collections.abc import Sequence

from fedlab.device import Device

__all__ = ["one_kind"]


def one_kind(devices: Sequence[Device]) -> tuple[str, int]:
    """Return the metric and the number of dimensions that all devices share.

    Raises
    ------
    ValueError
        If there is no device, or they differ.

    Examples
    --------
    >>> from fedlab import VectorIndex
    >>> one_kind([Device(place, VectorIndex(3, "l2sq")) for place in range(2)])
    ('l2sq', 3)
    """
    kinds = {(device.index.metric, device.index.dimensions) for device in devices}
    if len(kinds) != 1:
        raise ValueError(
            f"devices of {len(kinds)} kinds were given ({sorted(kinds)}); at least one is needed, "
            "and one dimension and metric for all: distances compare within these"
        )
    return kinds.pop()
