"""Simulated time: what a round would take on the devices' own hardware."""

from __future__ import annotations

from typing import Any

from fedlab.device.profile import Profile
from fedlab.fleet.roster import Hardware

#: Operations of a training step for each parameter and row: two forward, four backward.
OPERATIONS, FORWARD = 6.0, 2.0


def round_seconds(
    profile: Profile | Hardware, down: Any, up: Any, parameters: int, rows: Any
) -> Any:
    """Return the simulated seconds of a device's round, or of several: receive, train, send.

    Parameters
    ----------
    profile : Profile, or Hardware of m devices
    down, up : float, or (m,) array
        Bytes that it receives and sends.
    parameters : int
        Size of the model.
    rows : float, or (m,) array
        Rows that pass through training, each epoch counted.

    Examples
    --------
    >>> round_seconds(Profile(bandwidth=1e6, compute=1e9), 5e5, 5e5, parameters=1000, rows=1e6)
    7.0
    """
    compute = OPERATIONS * parameters * rows / profile.compute
    if profile.upload is None:
        return (down + up) / profile.bandwidth + compute
    return down / profile.bandwidth + compute + up / profile.upload
