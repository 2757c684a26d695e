"""Who takes part in a round: rules of selection, as frozen dataclasses.

What a rule costs besides training is said with it: by the cohort, or by the population, of whose
columns it then makes an array or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import Places
from fedlab.core.validation import positive, share_of_one, whole_number
from fedlab.device.device import Device
from fedlab.fleet.roster import Roster
from fedlab.fleet.view import Cohort, Plainly, State, View


@dataclass(frozen=True)
class AtRandom(Plainly):
    """Uniformly, without replacement, among those reachable. It takes time by the cohort."""

    def choose(self, state: State, view: View) -> Cohort:
        places = choose_places(view.fleet, view.size, view.seed, view.round)
        return Cohort(places, state, "drawn among those reachable")


@dataclass(frozen=True)
class ByRows(Plainly):
    """Devices with more rows are more likely: one after another, each with a chance by its rows.

    Give ``weights="uniform"`` with it, so that rows don't count twice. It takes time by the
    population.

    Source: Li et al., "Federated optimization in heterogeneous networks", MLSys 2020, algorithm 2.
    """

    def choose(self, state: State, view: View) -> Cohort:
        places = view.reachable
        chosen = view.sample(places, view.size, view.fleet.rows(places))
        rows = view.fleet.rows(chosen).astype(np.float64)
        return Cohort(chosen, state, "drawn by its rows", numbers={"rows": rows})


@dataclass(frozen=True)
class Poisson(Plainly):
    """Each device by itself, with one probability: a cohort may have any size, and be empty.

    Accounts of differential privacy that count on sampling assume this. The draw follows from the
    seed, as all of a simulation: where privacy is real, nobody may know it. It takes time by the
    cohort.

    Parameters
    ----------
    rate : float
        The probability of each reachable device, 0 ... 1.
    """

    rate: float

    def __post_init__(self) -> None:
        share_of_one(rate=self.rate)

    def choose(self, state: State, view: View) -> Cohort:
        draw, count = view.draw(), view.fleet.count
        some = draw.choice(count, draw.binomial(count, self.rate), replace=False, shuffle=False)
        places = view.fleet.places[some]
        chance = view.fleet.chance(places)
        if chance is not None:
            places = places[draw.random(len(places)) < chance]
        return Cohort(places, state, f"drawn by itself, at a rate of {self.rate:g}")


@dataclass(frozen=True)
class RoundRobin(Plainly):
    """In turn, by id, skipping those that can't be reached. It takes time by the cohort."""

    def init(self, devices: int, size: int) -> State:
        return {"next": 0}

    def choose(self, state: State, view: View) -> Cohort:
        able, draw = view.fleet.places, view.draw()
        taken, asked = np.empty(0, np.intp), 0
        while len(taken) < view.size and asked < len(able):
            count = min(2 * view.size, len(able) - asked)
            turns = (state["next"] + asked + np.arange(count)) % len(able)
            asked, chance = asked + count, view.fleet.chance(able[turns])
            if chance is not None:
                turns = turns[draw.random(count) < chance]
            taken = np.append(taken, turns)
        taken = taken[: view.size]
        after = {"next": int(taken[-1]) + 1} if len(taken) else state
        return Cohort(able[taken], after, "its turn")


@dataclass(frozen=True)
class FedCS(Plainly):
    """Among those expected to be done within a deadline, as many as a cohort takes.

    What a device is expected to take follows from its profile, its rows, and the model's bytes with
    nothing coded. In this house uploads don't wait for one another, so that the paper's greedy
    search (algorithm 3) comes down to that. It takes time by the population.

    Parameters
    ----------
    deadline : float
        Simulated seconds.

    Source: Nishio & Yonetani, "Client selection for federated learning with heterogeneous resources
    in mobile edge", ICC 2019.
    """

    deadline: float

    def __post_init__(self) -> None:
        positive(deadline=self.deadline)

    def choose(self, state: State, view: View) -> Cohort:
        places = view.reachable
        within = places[view.expected_seconds(places) <= self.deadline]
        chosen = view.sample(within, view.size)
        expected = view.expected_seconds(chosen)
        reason = f"expected within {self.deadline:g} s"
        return Cohort(chosen, state, reason, numbers={"expected seconds": expected})


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
    roster = replace(Roster.of(devices), places=np.arange(len(devices)))
    return [roster.devices[place] for place in choose_places(roster, size, seed, round)]


def choose_places(roster: Roster, size: int, seed: int, round: int) -> Places:
    """Draw the places of a cohort among the devices that have rows, by id (see `choose_cohort`).

    It takes time by the cohort, not by the population, unless few devices are reachable.
    """
    if roster.chance(roster.places[:0]) is not None:
        chosen = _reachable(roster, size, seed, round)
    elif roster.count <= size:  # all of them: nothing is drawn
        return roster.places
    else:
        draw = generator(seed, Purpose.COHORT, round=round)
        chosen = draw.choice(roster.count, size, replace=False, shuffle=False)
    return roster.places[np.sort(chosen)]


def _reachable(roster: Roster, size: int, seed: int, round: int) -> Places:
    """Go through the devices in a random order, and take those that are reachable until enough are.

    That draws uniformly among the reachable ones, without asking all who is.
    """
    draw, count = generator(seed, Purpose.COHORT, round=round), roster.count
    asked, taken = np.empty(0, np.intp), np.empty(0, np.intp)
    while len(taken) < size and len(asked) < count:
        if 2 * len(asked) < count:  # the order is that of first appearance among draws
            few = 2 * size + 16  # many, where hardly anybody is there
            drawn = draw.integers(count, size=few if len(asked) < 20 * few else len(asked))
            first = np.sort(np.unique(drawn, return_index=True)[1])
            following = drawn[first][~np.isin(drawn[first], asked)]
        else:
            following = draw.permutation(np.setdiff1d(np.arange(count), asked))
        chance = roster.chance(roster.places[following])
        there = draw.random(len(following)) < chance  # type: ignore[operator]
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
