"""The devices of a round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedlab.device import Device
from fedlab.randomness import Purpose, generator

__all__ = ["choose_cohort"]


def choose_cohort(devices: Sequence[Device], size: int, seed: int, round: int) -> list[Device]:
    """Draw up to `size` devices uniformly, without replacement, among those reachable.

    A device is reachable in a round with the probability `Profile.availability`. The cohort stands
    in the order of `devices`, in which sums are taken.

    Examples
    --------
    >>> from fedlab.index import VectorIndex
    >>> devices = [Device(number, VectorIndex(2)) for number in range(100)]
    >>> cohort = choose_cohort(devices, size=10, seed=0, round=1)
    >>> len({device.id for device in cohort})
    10
    """
    draw = generator(seed, Purpose.COHORT, round=round)
    reachable = devices
    if any(device.profile.availability < 1 for device in devices):
        chances = draw.random(len(devices))
        reachable = [
            device
            for device, chance in zip(devices, chances, strict=True)
            if chance < device.profile.availability
        ]
    if len(reachable) <= size:
        return list(reachable)
    chosen = draw.choice(len(reachable), size, replace=False, shuffle=False)
    return [reachable[place] for place in np.sort(chosen)]
