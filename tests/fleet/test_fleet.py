"""Cohorts: uniform, reachable, ordered."""

import numpy as np
import pytest

from fedlab import Device, Profile, VectorIndex
from fedlab.fleet import choose_cohort

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


def test_nobody_reachable_is_an_empty_cohort():
    devices = [Device(0, VectorIndex(2), Profile(availability=0.0))]
    assert choose_cohort(devices, 1, seed=0, round=1) == []


@pytest.mark.parametrize(
    "wrong", [{"bandwidth": 0}, {"compute": float("nan")}, {"availability": 1.5}]
)
def test_profiles_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Profile(**wrong)
