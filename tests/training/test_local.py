"""The plain loop: batches, steps, and what storage does to training."""

import numpy as np
import pytest

from fedlab import LinearRegression, LocalSGD, SoftmaxRegression, VectorIndex
from fedlab.device.device import Device
from fedlab.training import train_device
from tests.federations import class_device, regression_device


@pytest.mark.parametrize(("rows", "size"), [(10, 3), (10, 10), (10, 64), (10, None), (1, 4)])
def test_an_epoch_passes_every_row_once(rows, size):
    local = LocalSGD(epochs=3, batch_size=size)
    steps = [np.arange(rows)[batch] for batch in local.batches(rows, seed=0, round=1, device=5)]
    per_epoch = 1 if size is None else -(-rows // size)
    assert len(steps) == 3 * per_epoch
    for epoch in range(3):
        seen = np.concatenate(steps[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert sorted(seen) == list(range(rows))


def test_batches_differ_by_epoch_round_device_and_seed_and_repeat_at_the_same_address():
    def order(**address):
        local = LocalSGD(epochs=2, batch_size=50)
        where = {"seed": 0, "round": 1, "device": "a"} | address
        return np.concatenate(list(local.batches(50 + 1, **where)))

    same = order()
    np.testing.assert_array_equal(same, order())
    assert not np.array_equal(same[:51], same[51:])
    for other in ({"seed": 1}, {"round": 2}, {"device": "b"}):
        assert not np.array_equal(same, order(**other))


def test_k_steps_of_full_batches_follow_the_closed_form():
    from tests.federations import quadratic

    device = regression_device(0, rows=30, inputs=4, seed=2)
    hessian, centre = quadratic(device)
    start, rate, steps = np.ones(5), 0.1, 7
    local = LocalSGD(epochs=steps, batch_size=None, learning_rate=rate)
    update = train_device(device, LinearRegression(4), start, local, seed=0, round=1)
    shrink = np.linalg.matrix_power(np.eye(5) - rate * hessian, steps)
    np.testing.assert_allclose(
        start + update.change, centre + shrink @ (start - centre), atol=1e-12
    )
    assert (update.rows, update.steps) == (30, steps)
    np.testing.assert_array_equal(start, np.ones(5))


@pytest.mark.parametrize("metric", ["cosine", "inner", "l2sq"])
@pytest.mark.parametrize("dtype", ["f16", "bf16", "i8", "b1"])
def test_training_from_compressed_rows_is_training_on_the_decoded_rows(dtype, metric):
    draw = np.random.default_rng(3)
    x, y = draw.normal(size=(40, 6)).astype(np.float32), draw.integers(0, 3, 40)
    stored = VectorIndex(6, metric, dtype)
    keys = stored.add(x, labels=y)
    decoded = VectorIndex(6, metric)
    decoded.add(stored.get(keys), labels=y)
    model, local = SoftmaxRegression(6, 3), LocalSGD(epochs=2, batch_size=8)
    start = np.zeros(model.layout.size, np.float32)
    changes = [
        train_device(Device("d", index), model, start, local, seed=1, round=1).change
        for index in (stored, decoded)
    ]
    np.testing.assert_array_equal(*changes)
    plain = VectorIndex(6, metric)
    plain.add(x, labels=y)
    uncompressed = train_device(Device("d", plain), model, start, local, seed=1, round=1).change
    assert not np.array_equal(changes[0], uncompressed), "what storage lost shows in the model"


def test_a_view_into_a_shared_store_trains_to_the_same_bits_as_an_owner():
    draw = np.random.default_rng(4)
    x, y = draw.normal(size=(60, 5)).astype(np.float32), draw.integers(0, 3, 60)
    store = VectorIndex(5, dtype="i8")
    store.add(x, labels=y)
    owner = VectorIndex(5, dtype="i8")
    owner.add(x[20:50], keys=np.arange(20, 50), labels=y[20:50])
    model, local = SoftmaxRegression(5, 3), LocalSGD(epochs=2, batch_size=7)
    start = np.zeros(model.layout.size, np.float32)
    changes = [
        train_device(Device("d", index), model, start, local, seed=1, round=1).change
        for index in (store.view(20, 50), owner)
    ]
    np.testing.assert_array_equal(*changes)


def test_held_out_rows_are_not_trained_on():
    device = class_device("d", [0, 1] * 10)
    kept = device.holding_out(device.index.keys[:6])
    small = VectorIndex(4, "l2sq")
    small.add(device.index.vectors[6:], labels=device.labels[6:])
    model, start = SoftmaxRegression(4, 2), np.zeros(10, np.float32)
    a, b = (
        train_device(d, model, start, LocalSGD(batch_size=4), seed=0, round=1)
        for d in (kept, Device("d", small))
    )
    np.testing.assert_array_equal(a.change, b.change)
    assert a.rows == 14


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"epochs": 1.5}, {"batch_size": 0}, {"learning_rate": 0}, {"epochs": True}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        LocalSGD(**wrong)
