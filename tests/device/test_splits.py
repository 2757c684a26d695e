"""Groups that stand on one side, and devices that no training sees."""

import warnings

import numpy as np
import pandas as pd
import pytest

from fedlab import Device, VectorIndex, devices_from_table
from fedlab.data import load_digits, read_table, train_test
from fedlab.device import audit_groups, hold_out_devices
from fedlab.metrics import refuse_broken
from tests.federations import class_device


def ward(name="ward", patients=30, seed=0):
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), draw.integers(1, 6, patients))
    labels = draw.integers(0, 2, patients)[groups]
    index = VectorIndex(2)
    about = {"patient": groups, "name": np.char.add("no. ", groups.astype(str))}
    index.add(draw.normal(size=(len(groups), 2)), labels=labels, metadata=about)
    return Device(name, index), groups


@pytest.mark.parametrize("column", ["patient", "name"])
def test_a_patient_s_rows_stand_on_one_side(column):
    device, groups = ward()
    held = device.hold_out(0.25, seed=3, groups=column)
    sides = [
        device.index.metadata_of(k).patient for k in (held.training_keys, held.validation_keys)
    ]
    assert not set(sides[0]) & set(sides[1])
    assert held.validation_rows == pytest.approx(0.25 * len(groups), abs=2)
    ill = held.validation()[1].mean() - device.labels.mean()
    assert abs(ill) < 0.1
    audit_groups([held], column)
    same = device.hold_out(0.25, seed=3, groups=device.index.metadata[column].to_numpy())
    np.testing.assert_array_equal(held.validation_keys, same.validation_keys)
    other = device.hold_out(0.25, seed=4, groups=column)
    assert not np.array_equal(held.validation_keys, other.validation_keys)


def test_rows_drawn_one_by_one_break_patients_and_the_audit_names_them():
    device, _ = ward()
    with pytest.raises(ValueError, match=r"device 'ward' breaks \d+ of 30 groups: rows of 'no\. "):
        audit_groups([device.hold_out(0.3, seed=0)], "name")


def test_groups_of_rows_that_came_in_another_order_are_the_rows_own():
    index = VectorIndex(1)
    index.add(np.ones((6, 1)), keys=[9, 2, 7, 4, 5, 1], labels=[0] * 6)
    held = Device("a", index).hold_out(0.5, seed=0, groups=["x", "y", "x", "y", "x", "y"])
    assert set(held.validation_keys.tolist()) in ({9, 7, 5}, {2, 4, 1})


def test_a_column_that_is_not_there_or_of_other_length_is_refused():
    device, _ = ward()
    with pytest.raises(ValueError, match=r"no metadata 'person'.*\['patient', 'name'\]"):
        device.hold_out(0.2, seed=0, groups="person")
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        device.hold_out(0.2, seed=0, groups=[1, 2])


def test_a_group_on_several_devices_is_told():
    devices = [ward("a")[0], ward("b")[0]]
    devices = [device.hold_out(0.3, seed=0, groups="patient") for device in devices]
    with pytest.warns(UserWarning, match=r"30 groups stand on several .* on 'a', 'b'\. If they"):
        audit_groups(devices, "patient")
    of_row = {one.id: [f"{one.id} {p}" for p in one.index.metadata.patient] for one in devices}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audit_groups(devices, of_row)


def visits():
    draw = np.random.default_rng(0)
    patient = np.repeat(np.arange(100, 160), 4)
    return pd.DataFrame(
        {
            "patient": patient,
            "age": draw.normal(60, 9, 240).round(1),
            "ill": draw.integers(0, 2, 60)[patient - 100],
            "ward": np.where(patient % 2, "north", "south"),
        }
    )


def test_a_table_s_groups_are_no_feature_and_stay_whole():
    made = devices_from_table(
        visits(), label="ill", device="ward", group="patient", held_out=0.25, seed=1
    )
    assert made.preparation.features == ("age",)
    for device in made.devices:
        assert device.validation_rows in (28, 32)  # of 120, in fours
        audit_groups([device], "patient")
    assert list(made.devices[0].index.metadata) == ["patient"]


def test_a_mask_that_breaks_a_group_is_refused():
    aside = np.arange(240) % 5 == 0
    given = {"label": "ill", "device": "ward", "group": "patient"}
    with pytest.raises(ValueError, match=r"device 'north' breaks \d+ of 30 groups"):
        devices_from_table(visits(), **given, held_out=aside)
    table = read_table(visits(), **given, metadata=["age"])
    assert (table.group, list(table.metadata), table.numeric) == (
        *("patient", ["age", "patient"]),
        ("age",),
    )
    with pytest.raises(ValueError, match=r"breaks"):
        devices_from_table(table, held_out=aside)


def test_a_table_s_group_is_missing_nowhere_and_for_one_use():
    holes = visits().astype({"patient": float})
    holes.loc[3, "patient"] = np.nan
    with pytest.raises(ValueError, match="group column 'patient' is missing in 1 row"):
        read_table(holes, label="ill", device="ward", group="patient")
    with pytest.raises(ValueError, match="two uses"):
        read_table(visits(), label="ill", device="ward", group="patient", numeric=["patient"])


def test_groups_stand_on_one_side_of_train_and_test():
    digits = load_digits()
    writers = np.arange(len(digits)) // 25
    train, test = train_test(digits, 0.2, seed=0, groups=writers)
    rows = {row.tobytes(): place for place, row in enumerate(digits.x)}
    aside = np.zeros(len(digits), bool)
    aside[[rows[row.tobytes()] for row in test.x]] = True
    refuse_broken(writers, aside)
    assert len(train) + len(test) == len(digits)
    assert len(test) == pytest.approx(0.2 * len(digits), abs=13)
    assert np.ptp(np.bincount(test.y) / np.bincount(digits.y)) < 0.1
    with pytest.raises(ValueError, match="no group can be held back"):
        train_test(digits, 0.2, seed=0, groups=np.zeros(len(digits), int))


def fleet(sizes):
    return [class_device(name, [0, 1] * size) for name, size in enumerate(sizes)]


def test_unseen_devices_are_whole_and_of_all_sizes():
    devices = fleet(range(1, 41))
    parts, unseen = hold_out_devices(devices, 0.25, seed=0)
    assert (len(parts), len(unseen)) == (30, 10)
    assert {d.id for d in parts} | {d.id for d in unseen} == set(range(40))
    # One of each four that follow each other in size: so their mean can't be far off.
    assert sorted(d.id // 4 for d in unseen) == list(range(10))
    assert [d.id for d in parts] == sorted(d.id for d in parts)


def test_the_draw_of_unseen_devices_has_an_address_and_every_device_may_be_drawn():
    devices = fleet([3] * 10)
    draws = [{d.id for d in hold_out_devices(devices, 3, seed)[1]} for seed in range(60)]
    assert set().union(*draws) == set(range(10))
    for seed in range(5):
        again = {d.id for d in hold_out_devices(devices[::-1], 3, seed)[1]}
        assert again == draws[seed]
    counts = np.bincount([name for draw in draws for name in draw], minlength=10)
    assert counts.min() >= 5  # 18 expected


@pytest.mark.parametrize("many", [0, 10, 1.0, 0.0, -1, True, "2"])
def test_no_device_or_every_device_unseen_is_refused(many):
    with pytest.raises((ValueError, TypeError), match="many"):
        hold_out_devices(fleet([2] * 10), many, seed=0)
    assert len(hold_out_devices(fleet([2] * 10), 0.01, seed=0)[1]) == 1
