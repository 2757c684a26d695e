"""The devices of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import Places
from fedlab.core.validation import whole_number
from fedlab.device.device import Device
from fedlab.fleet.roster import Roster


def choose_cohort(devices: Sequence[Device], size: int, seed: int, round: int) -> list[Device]:
    """Draw up to `size` devices uniformly, without replacement, among those reachable.

    A device is reachable in a round with the probability `Profile.availability`. The cohort stands
    in the order of ids (see `fedlab.fleet.roster.in_order`), in which sums are taken.

    Examples
    --------
    >>> from fedlab.index.vectorindex import VectorIndex
    >>> devices = [Device(number, VectorIndex(2)) for number in range(100)]
    >>> cohort = choose_cohort(devices, size=10, seed=0, round=1)
    >>> len({device.id for device in cohort})
    10
    """
    roster = replace(Roster.of(devices), able=None)
    return [roster.devices[place] for place in choose_places(roster, size, seed, round)]


def choose_places(roster: Roster, size: int, seed: int, round: int) -> Places:
    """Draw the places of a cohort among the devices that have rows, by id (see `choose_cohort`).

    Where all devices are reachable this takes time by the cohort, not by the population.
    """
    reachable, count = roster.able, roster.count
    if roster.availability is None and count <= size:  # all of them: nothing is drawn
        return np.arange(count) if reachable is None else reachable
    draw = generator(seed, Purpose.COHORT, round=round)
    if roster.availability is not None:
        able = np.arange(len(roster.devices)) if reachable is None else reachable
        reachable = able[draw.random(len(able)) < roster.availability[able]]
        count = len(reachable)
    if count <= size:
        return np.arange(count) if reachable is None else np.asarray(reachable, np.intp)
    chosen = np.sort(draw.choice(count, size, replace=False, shuffle=False))
    return np.asarray(chosen if reachable is None else reachable[chosen], np.intp)


def cohort_size(cohort: int | float | None, able: int) -> int:
    """Return how many devices a round has: a number, a share of those able, or all of them.

    Examples
    --------
    >>> cohort_size(0.1, able=50), cohort_size(None, able=50)
    (5, 50)
    """
    if cohort is None:
        return able
    if isinstance(cohort, float):
        if not 0 < cohort <= 1:
            raise ValueError(f"cohort is {cohort}; a share must lie above 0 and at most at 1")
        return max(1, round(cohort * able))
    return whole_number(cohort, "cohort", 1, able)
