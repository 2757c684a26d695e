"""Which rounds learned from a row: against a record kept by watching what trains."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab import (
    Drifting,
    Federation,
    LocalSGD,
    Population,
    Profile,
    SoftmaxRegression,
    write_population,
)
from fedlab.algorithms import Scaffold
from fedlab.data import Drift, by_classes, iid, load_digits
from fedlab.device.device import Device
from fedlab.federation.participation import Participation
from fedlab.index.vectorindex import VectorIndex
from tests.federations import class_device

LOCAL = LocalSGD(epochs=1, batch_size=4, learning_rate=0.05)


def federation(devices: Any, **given: Any) -> Federation:
    return Federation(devices, SoftmaxRegression(4, 3), local=LOCAL, **{"seed": 3, **given})


def test_rounds_follow_the_cohort_and_held_out_rows_were_never_used():
    devices = [class_device(n, [0, 1, 2] * 4).hold_out(0.25, seed=0) for n in range(6)]
    one = federation(devices, cohort=2, record="devices")
    frame = one.run(12).to_frame().query("metric == 'rows' and who != 'server'")
    took_part = {n: frame["round"][frame.who == str(n)].tolist() for n in range(6)}
    assert sum(map(len, took_part.values())) == 24
    for device in devices:
        for key in device.training_keys.tolist():
            assert one.rounds_that_used(device.id, key).tolist() == took_part[device.id]
        for key in device.validation_keys.tolist():
            assert one.rounds_that_used(device.id, key).tolist() == []
        with pytest.warns(UserWarning, match="no row of key 999, and no round used one"):
            assert one.rounds_that_used(device.id, 999).tolist() == []
    with pytest.raises(KeyError, match="no device 'ward'"):
        one.rounds_that_used("ward", 0)


def test_sleeping_devices_and_updates_set_aside_used_nothing():
    asleep = class_device(0, [0, 1, 2] * 4)
    asleep.profile = Profile(availability=0.0)
    broken = class_device(1, [0, 1, 2] * 4)
    awake = class_device(2, [0, 1, 2] * 4)
    one = federation([asleep, broken, awake])
    broken.index.add(np.ones((1, 4)), labels=[7])  # no class of the model's
    with pytest.warns(UserWarning, match="remarks"):
        one.run(3)
    aside = set(one.history.remarks().who)
    assert aside == {"1"}
    assert [one.rounds_that_used(n, 0).tolist() for n in range(3)] == [[], [], [1, 2, 3]]


def test_a_round_that_is_skipped_used_nothing():
    devices = [class_device(n, [0, 1, 2] * 4) for n in range(3)]
    for device in devices:
        device.profile = Profile(availability=0.5)
    one = federation(devices, quorum=3)
    with pytest.warns(UserWarning, match="skipped"):
        one.run(12)
    moved = one.history.series("update_norm")
    used = one.rounds_that_used(1, 0).tolist()
    assert used == moved.index[moved > 0].tolist()
    assert 0 < len(used) < 12


def test_rows_that_come_and_go_are_used_while_they_are_there(tmp_path):
    device, other = class_device("a", [0, 1, 2] * 4), class_device("b", [0, 1, 2] * 4)
    one = federation([device, other])
    one.run(2)
    new = device.index.add(np.ones((1, 4)), labels=[1]).tolist()[0]
    one.run(2)
    device.erase([0, new])
    one.run(2)
    one.save(tmp_path / "run")
    again = federation([device, other])
    again.load(tmp_path / "run")
    for key, rounds in ((0, [1, 2, 3, 4]), (new, [3, 4]), (1, [1, 2, 3, 4, 5, 6]), (50, [])):
        for run in (one, again):
            assert run.rounds_that_used("a", key).tolist() == rounds
    assert again.rounds_that_used("b", 0).tolist() == [1, 2, 3, 4, 5, 6]


def test_it_survives_checkpoints_and_going_back(tmp_path):
    def fresh() -> Federation:
        devices = [class_device(n, [0, 1, 2] * 4).hold_out(0.25, seed=0) for n in range(5)]
        return federation(devices, cohort=2, algorithm=Scaffold())

    whole, first = fresh(), fresh()
    whole.run(8)
    first.run_to(5, tmp_path / "run", every=2)
    second = fresh()
    second.run_to(8, tmp_path / "run", every=2)
    for device in whole.devices:
        for key in device.index.keys.tolist():
            expected = whole.rounds_that_used(device.id, key).tolist()
            assert second.rounds_that_used(device.id, key).tolist() == expected
    first.run(2)
    first.load(tmp_path / "run")
    assert first.round_number == 8
    a, b = first._participation.arrays(), whole._participation.arrays()
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name], name)


def test_rows_that_drift_are_followed_from_device_to_device():
    digits = load_digits()
    start, end = iid(len(digits), 4, seed=0), by_classes(digits.y, 4, k=3, seed=0)
    drift = Drift(start, end, digits.y, first=1, last=5, seed=0)
    one = Federation(
        Drifting(digits, drift), SoftmaxRegression(64, 10), local=LOCAL, cohort=3, seed=1
    )
    one.run(6)
    rows = np.random.default_rng(0).choice(len(digits), 25, replace=False)
    for row in rows.tolist():
        expected = {
            number: drift.at(number).names[int(drift.at(number).device_of[row])]
            for number in range(1, 7)
        }
        for name in start.names:
            rounds = one.rounds_that_used(name, row).tolist()
            took_part = one._participation.rounds_of(start.names.index(name)).tolist()
            assert rounds == [r for r in took_part if expected[r] == name]


def test_devices_of_a_population_are_answered_for_by_their_store(tmp_path):
    draw = np.random.default_rng(0)
    devices = [(f"ward {n}", draw.normal(size=(5, 4)), [0, 1, 2, 0, 1]) for n in range(6)]
    write_population(tmp_path / "wards", devices, dimensions=4)
    population = Population(tmp_path / "wards")
    one = federation(population, cohort=2)
    one.run(5)
    for place, device in enumerate(population):
        took_part = one._participation.rounds_of(place).tolist()
        for key in range(30):
            expected = took_part if key // 5 == place else []
            assert one.rounds_that_used(device.id, key).tolist() == expected


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_history_of_edits_is_told_as_it_was(data):
    devices = [Device(n, VectorIndex(2)) for n in range(3)]
    taken, truth = Participation(), dict[tuple[int, int], list[int]]()
    for number in range(1, data.draw(st.integers(1, 8)) + 1):
        for device in devices:
            what = data.draw(st.sampled_from(["add", "remove", "nothing"]))
            if what == "add":
                device.index.add(np.ones((2, 2)), labels=[0, 1])
            elif what == "remove" and len(device.index):
                device.index.remove(data.draw(st.sampled_from(device.index.keys.tolist())))
        places = data.draw(st.lists(st.integers(0, 2), unique=True))
        for _ in range(data.draw(st.integers(1, 2))):  # an interrupted round is done again
            taken.note(number, places, [devices[place] for place in places])
        for place in places:
            for key in devices[place].index:
                truth.setdefault((place, key), []).append(number)
        if data.draw(st.booleans()):
            taken = Participation.of(taken.arrays())
    for place in range(3):
        for key in range(20):
            assert taken.rounds_of(place, key).tolist() == truth.get((place, key), [])


def test_a_thousand_devices_a_round_cost_a_few_milliseconds():
    devices = [class_device(n, [0, 1, 2]) for n in range(1000)]
    taken, places = Participation(), np.arange(1000)
    taken.note(0, places, devices)
    began = time.process_time()
    for number in range(1, 21):
        taken.note(number, places, devices)
    assert (time.process_time() - began) / 20 < 0.01
    assert sum(array.nbytes for array in taken.arrays().values()) < 21 * 4_100 + 1000 * 60


def test_a_record_that_does_not_add_up_is_refused():
    taken = Participation()
    taken.note(1, [0], [class_device(0, [0, 1])])
    arrays = taken.arrays()
    for name in ("sizes", "came_sizes", "went_sizes"):
        with pytest.raises(ValueError, match="entries in parts"):
            Participation.of({**arrays, name: arrays[name] + 1})
