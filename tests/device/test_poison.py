"""Poisoned data: who gets it, what it is, and that the original stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab import Device, SoftmaxRegression, VectorIndex
from fedlab.device.poison import BackDoor, LabelFlip, attackers, poisoned
from fedlab.device.states import DeviceStates
from fedlab.updates import Updates
from fedlab.updates.attacks import SignFlip
from fedlab.updates.stages import At


def device(name, rows=20):
    draw = np.random.default_rng(name)
    index = VectorIndex(6, "l2sq")
    index.add(
        draw.normal(size=(rows, 6)).astype(np.float32),
        keys=100 * name + np.arange(rows),
        labels=np.arange(rows) % 4,
        metadata={"age": np.arange(rows)},
    )
    return Device(name, index).hold_out(0.25, seed=0)


@pytest.fixture
def devices():
    return [device(n) for n in range(10)]


def told(one):
    return [*one.training(), *one.validation(), one.training_keys, one.validation_keys]


@pytest.mark.parametrize("how", [LabelFlip(4), BackDoor(3, (0, 1), 9.0)])
def test_only_attackers_training_rows_change_and_only_in_a_copy(devices, how):
    before = [[np.array(part) for part in told(one)] for one in devices]
    after = poisoned(devices, [2, 7], how, seed=0)
    for place, (one, other, was) in enumerate(zip(devices, after, before, strict=True)):
        for part, same in zip(told(one), was, strict=True):
            np.testing.assert_array_equal(part, same)
        assert (other is one) == (place not in (2, 7))
        _, y, *rest = told(other)
        assert (y != was[1]).any() == (place in (2, 7))
        for part, same in zip(rest, was[2:], strict=True):
            np.testing.assert_array_equal(part, same)
        assert other.index.metadata_of(other.index.keys).equals(
            one.index.metadata_of(other.index.keys)
        )


def test_a_flipped_label_is_the_class_on_the_other_side(devices):
    [other] = poisoned(devices[:1], 1.0, LabelFlip(4), seed=0)
    np.testing.assert_array_equal(other.training()[0], devices[0].training()[0])
    np.testing.assert_array_equal(other.training()[1], 3 - devices[0].training()[1])


def test_a_share_of_an_attackers_rows_gets_the_trigger_and_the_target(devices):
    door = BackDoor(target=3, features=(0, 4), value=9.0, share=0.4)
    [other] = poisoned([devices[0]], 1.0, door, seed=0)
    (x, y), (was, labels) = other.training(), devices[0].training()
    bad = (x[:, [0, 4]] == 9).all(axis=1)
    assert bad.sum() == round(0.4 * len(y))
    assert (y[bad] == 3).all()
    np.testing.assert_array_equal(x[~bad], was[~bad])
    np.testing.assert_array_equal(y[~bad], labels[~bad])
    np.testing.assert_array_equal(x[:, [1, 2, 3, 5]], was[:, [1, 2, 3, 5]])


def test_success_counts_rows_of_other_classes_that_obey(devices):
    class Obeys:
        def predict(self, parameters, x):
            scores = np.zeros((len(x), 4))
            scores[np.arange(len(x)), np.where(x[:, 0] == 9, np.where(x[:, 1] > 0, 3, 1), 0)] = 1
            return scores

    x = np.array([[0, 1], [0, -1], [0, 1], [0, 1.0]])
    door = BackDoor(target=3, features=(0,), value=9.0)
    assert door.success(Obeys(), np.zeros(1), x, np.array([0, 1, 2, 3])) == pytest.approx(2 / 3)
    assert (x[:, 0] == 0).all()
    model = SoftmaxRegression(2, 4)
    assert door.success(model, model.initial(0), x, np.array([0, 1, 2, 3])) in (0, 1 / 3, 2 / 3, 1)
    with pytest.raises(ValueError, match="all 2 rows are of class 3"):
        door.success(Obeys(), np.zeros(1), x[:2], np.array([3, 3]))


def test_a_share_draws_the_devices_that_the_stages_of_attacks_draw(devices):
    bad = attackers(devices, np.arange(10), 0.3, seed=5)
    assert bad.sum() == 3
    changed = poisoned(devices, 0.3, LabelFlip(4), seed=5)
    assert [a is not b for a, b in zip(changed, devices, strict=True)] == bad.tolist()
    sent = Updates(np.arange(10), {"change": np.ones((10, 2))}, np.ones(10), {})
    after, _, _ = SignFlip(0.3).apply({}, sent, DeviceStates(), At(5, 1, devices))
    assert (after.blocks["change"][:, 0] < 0).tolist() == bad.tolist()


def test_draws_depend_on_the_device_and_not_on_the_others(devices):
    door = BackDoor(3, (0,), 9.0)
    alone, among = (
        poisoned([devices[4]], [4], door, seed=0),
        poisoned(devices, [1, 4], door, seed=0),
    )
    np.testing.assert_array_equal(alone[0].training()[0], among[4].training()[0])
    with pytest.raises(ValueError, match=r"attackers are named that are not here: \['44'\]"):
        poisoned(devices, [44], door, seed=0)
