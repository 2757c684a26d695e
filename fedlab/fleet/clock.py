"""Simulated time: what a round would take on the devices' own hardware."""

from __future__ import annotations

from fedlab.device import Profile

__all__ = ["round_seconds"]

#: Operations of a training step for each parameter and row: two forward, four backward.
OPERATIONS = 6.0


def round_seconds(
    profile: Profile, bytes_down: float, bytes_up: float, parameters: int, rows: float
) -> float:
    """Return the simulated seconds of a device's round: receive, train, send.

    Parameters
    ----------
    profile : Profile
    bytes_down, bytes_up : float
        What it receives and sends.
    parameters : int
        Size of the model.
    rows : float
        Rows that pass through training, each epoch counted.

    Examples
    --------
    >>> round_seconds(Profile(bandwidth=1e6, compute=1e9), 5e5, 5e5, parameters=1000, rows=1e6)
    7.0
    """
    transfer = profile.seconds_to_send(bytes_down + bytes_up)
    return transfer + profile.seconds_to_compute(OPERATIONS * parameters * rows)
