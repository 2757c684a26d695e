"""A device: its rows, what it tells, what it holds out."""

import numpy as np
import pytest

from fedlab import Device, VectorIndex
from fedlab.device.device import held_out_rows
from tests.federations import class_device


def test_counts_and_shares_are_of_the_rows_to_train_on():
    device = class_device("d", [0] * 6 + [2] * 2)
    assert device.class_counts() == {0: 6, 2: 2}
    fewer = device.holding_out(device.index.keys[:3])
    assert fewer.class_counts() == {0: 3, 2: 2}
    assert (fewer.rows, fewer.validation_rows) == (5, 3)


def test_training_and_validation_rows_are_the_index_s_rows_split_in_two():
    device = class_device("d", [0, 1, 2] * 10).hold_out(0.3, seed=4)
    (x, y), (vx, vy) = device.training(), device.validation()
    rows = np.concatenate([x, vx])
    assert len(y) + len(vy) == 30
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(device.index.vectors, axis=0))
    assert np.bincount(vy).tolist() == [3, 3, 3]


def test_holding_out_keeps_one_row_of_each_class_and_shares_the_index():
    device = class_device("d", [0] * 5 + [1])
    held = device.hold_out(0.9, seed=0)
    assert held.class_counts() == {0: 1, 1: 1}
    assert held.index is device.index
    assert device.validation_rows == 0
    assert class_device("empty", []).index.labels is None


def test_the_split_is_the_device_s_own_and_repeats():
    labels = np.repeat([0, 1], 40)
    first = held_out_rows(labels, 0.25, seed=1, device="a")
    np.testing.assert_array_equal(first, held_out_rows(labels, 0.25, seed=1, device="a"))
    assert not np.array_equal(first, held_out_rows(labels, 0.25, seed=1, device="b"))
    assert not np.array_equal(first, held_out_rows(labels, 0.25, seed=2, device="a"))
    numbers = np.linspace(0, 1, 80)
    assert held_out_rows(numbers, 0.25, seed=1, device="a").sum() == 20


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        class_device("d", [0, 1]).hold_out(share, seed=0)


def test_holding_out_keys_that_are_not_there_is_refused():
    with pytest.raises(KeyError, match="99"):
        class_device("d", [0, 1]).holding_out([99])


def test_most_similar_rows_are_its_own_nearest():
    device = class_device("d", [0, 1, 2] * 10)
    hits = device.most_similar(device.index.vectors[:4], k=3)
    assert hits.keys[:, 0].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(hits.distances[:, 0], 0, atol=1e-12)


def test_cosine_keeps_the_norms_that_were_put_in():
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32) * 5
    index = VectorIndex(8, "cosine")
    index.add(vectors, labels=np.zeros(20, int))
    np.testing.assert_array_equal(Device("d", index).training()[0], vectors)


def test_rows_given_out_cannot_be_written_to():
    device = class_device("d", [0, 1])
    with pytest.raises(ValueError, match="read-only"):
        device.training()[0][0] = 0
    with pytest.raises(ValueError, match="read-only"):
        device.training()[1][0] = 0


def test_rows_without_labels_cannot_be_trained_on():
    index = VectorIndex(2)
    index.add(np.eye(2))
    with pytest.raises(ValueError, match="device 'd' has rows without labels"):
        Device("d", index).training()


def test_a_name_is_a_whole_number_or_text() -> None:
    index = VectorIndex(2)
    largest = np.uint64(2**64 - 1)
    assert [Device(name, index).id for name in (largest, "7", 7)] == [2**64 - 1, "7", 7]
    for odd in (1e19, np.float64(7), None, True, ("ward", 7)):
        with pytest.raises(TypeError, match="names are whole numbers or text"):
            Device(odd, index)  # type: ignore[arg-type]
