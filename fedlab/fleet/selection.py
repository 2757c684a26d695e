"""The devices of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, Places
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

    It takes time by the cohort, not by the population, unless few devices are reachable.
    """
    able, count = roster.able, roster.count
    if roster.availability is not None:
        chosen = _reachable(roster.availability, able, count, size, seed, round)
    elif count <= size:  # all of them: nothing is drawn
        return np.arange(count) if able is None else able
    else:
        draw = generator(seed, Purpose.COHORT, round=round)
        chosen = draw.choice(count, size, replace=False, shuffle=False)
    chosen = np.sort(chosen)
    return np.asarray(chosen if able is None else able[chosen], np.intp)


def _reachable(
    availability: F64, able: Places | None, count: int, size: int, seed: int, round: int
) -> Places:
    """Go through the devices in a random order, and take those that are reachable until enough are.

    That draws uniformly among the reachable ones, without asking all who is.
    """
    draw = generator(seed, Purpose.COHORT, round=round)
    asked, taken = np.empty(0, np.intp), np.empty(0, np.intp)
    while len(taken) < size and len(asked) < count:
        if 2 * len(asked) < count:  # the order is that of first appearance among draws
            drawn = draw.integers(count, size=2 * size + 16)
            first = np.sort(np.unique(drawn, return_index=True)[1])
            following = drawn[first][~np.isin(drawn[first], asked)]
        else:
            following = draw.permutation(np.setdiff1d(np.arange(count), asked))
        places = following if able is None else able[following]
        there = draw.random(len(following)) < availability[places]
        asked, taken = np.append(asked, following), np.append(taken, following[there])
    return taken[:size]


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
