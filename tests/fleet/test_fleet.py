"""Cohorts: uniform, reachable, ordered."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from fedlab import Device, Profile, VectorIndex
from fedlab.fleet import Roster, choose_cohort
from fedlab.fleet.selection import choose_places

DEVICES = [Device(number, VectorIndex(2)) for number in range(20)]


def test_each_device_is_drawn_equally_often_and_each_pair_too():
    rounds, size = 4000, 5
    chosen = np.zeros((rounds, 20))
    for number in range(rounds):
        cohort = choose_cohort(DEVICES, size, seed=3, round=number)
        ids = [device.id for device in cohort]
        assert ids == sorted(set(ids))
        assert len(ids) == size
        chosen[number, ids] = 1
    share = size / 20
    error = np.sqrt(share * (1 - share) / rounds)
    assert np.abs(chosen.mean(axis=0) - share).max() < 4 * error
    together = (chosen.T @ chosen / rounds)[np.triu_indices(20, 1)]
    pair = share * (size - 1) / 19
    assert np.abs(together - pair).max() < 4.5 * np.sqrt(pair * (1 - pair) / rounds)


def test_devices_are_reachable_as_often_as_their_profile_says():
    devices = [
        Device(number, VectorIndex(2), Profile(availability=number / 4)) for number in range(5)
    ]
    seen = np.zeros(5)
    for number in range(2000):
        seen[[d.id for d in choose_cohort(devices, 5, seed=1, round=number)]] += 1
    expected = np.arange(5) / 4
    error = np.sqrt(expected * (1 - expected) / 2000)
    assert (np.abs(seen / 2000 - expected) <= 4 * error).all()


def test_cohorts_among_reachable_devices_are_as_likely_as_enumeration_says():
    available = np.array([0.25, 0.5, 0.9, 1.0, 0.7])
    devices = [Device(n, VectorIndex(2), Profile(availability=p)) for n, p in enumerate(available)]
    likely: dict[tuple[int, ...], float] = {}
    for there in itertools.product([False, True], repeat=5):
        chance = np.where(there, available, 1 - available).prod()
        cohorts = list(itertools.combinations(np.flatnonzero(there).tolist(), min(2, sum(there))))
        for cohort in cohorts:
            likely[cohort] = likely.get(cohort, 0.0) + chance / len(cohorts)
    drawn = Counter(
        tuple(d.id for d in choose_cohort(devices, 2, seed=5, round=n)) for n in range(6000)
    )
    possible = {cohort: p for cohort, p in likely.items() if p > 0}
    assert drawn.keys() <= possible.keys()
    often = [cohort for cohort, p in possible.items() if 6000 * p >= 5]
    seen = [drawn[cohort] for cohort in often]
    expected = np.array([possible[cohort] for cohort in often])
    assert chisquare(seen, expected / expected.sum() * sum(seen)).pvalue > 1e-3


class Counted(np.ndarray):
    """An array that counts how many of its numbers were asked for."""

    asked = 0

    def __getitem__(self, places):
        type(self).asked += np.size(places)
        return np.asarray(super().__getitem__(places))


@pytest.mark.parametrize("share", [0.5, 0.001])
def test_a_large_fleet_is_not_asked_as_a_whole(share):
    count = 100_000
    availability = np.full(count, share).view(Counted)
    roster = Roster([], np.arange(count), {"availability": availability}, [])
    Counted.asked = 0
    places = choose_places(roster, 20, seed=0, round=1)
    assert len(set(places.tolist())) == 20
    assert Counted.asked < 10 * 20 / share
    alone = replace(roster, places=np.arange(30), profiles={"availability": np.full(30, 0.9)})
    assert len(choose_places(alone, 100, seed=0, round=1)) > 20


def test_nobody_reachable_is_an_empty_cohort():
    devices = [Device(0, VectorIndex(2), Profile(availability=0.0))]
    assert choose_cohort(devices, 1, seed=0, round=1) == []


@pytest.mark.parametrize(
    "wrong", [{"bandwidth": 0}, {"compute": float("nan")}, {"availability": 1.5}]
)
def test_profiles_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Profile(**wrong)
