"""The compiled door equals the plain one; one device's fault never stops another."""

import numpy as np
import pytest

from fedlab import MLP, Device, LinearRegression, LocalSGD, SoftmaxRegression, VectorIndex
from fedlab.training import Phase, train_cohort
from tests.federations import class_device

MODELS = [
    LinearRegression(7),
    LinearRegression(7, l2=0.3),
    SoftmaxRegression(5, 3),
    SoftmaxRegression(5, 17, l2=0.1),
    MLP(5, (9,), 4),
    MLP(5, (33, 16), 10),
]


def cohort_of(model, sizes=(1, 2, 7, 33, 100, 130)):
    draw = np.random.default_rng(0)
    devices = []
    for place, rows in enumerate(sizes):
        index = VectorIndex(model.inputs, "l2sq")
        labels = (
            draw.normal(size=rows)
            if isinstance(model, LinearRegression)
            else draw.integers(0, model.classes, rows)
        )
        index.add(draw.normal(size=(rows, model.inputs)), labels=labels)
        device = Device(place if place % 2 else f"ward {place}", index)
        devices.append(device.hold_out(0.2, seed=1) if rows > 30 else device)
    return devices


def both(devices, model, work, local, **settings):
    return [
        train_cohort(devices, model, work, local, seed=3, round=2, engine=engine, **settings)
        for engine in ("compiled", "plain")
    ]


def assert_equal(fast, plain, tolerance):
    np.testing.assert_array_equal(fast.places, plain.places)
    np.testing.assert_array_equal(fast.steps, plain.steps)
    np.testing.assert_array_equal(fast.rows, plain.rows)
    np.testing.assert_array_equal(fast.epochs, plain.epochs)
    scale = np.abs(plain.changes).max()
    np.testing.assert_allclose(fast.changes, plain.changes, rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(fast.losses, plain.losses, rtol=tolerance)
    assert fast.blocks.keys() == plain.blocks.keys()
    for name, block in fast.blocks.items():
        np.testing.assert_allclose(block, plain.blocks[name], rtol=0, atol=tolerance * 10)


def start_of(model, dtype):
    draw = np.random.default_rng(5)
    return (0.3 * draw.normal(size=model.layout.size)).astype(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-5), (np.float64, 1e-13)])
@pytest.mark.parametrize("model", MODELS, ids=repr)
@pytest.mark.parametrize("batch", [1, 3, 32, 64, 100, None])
def test_both_doors_give_one_answer(model, batch, dtype, tolerance):
    local = LocalSGD(epochs=2, batch_size=batch, learning_rate=0.05)
    fast, plain = both(cohort_of(model), model, start_of(model, dtype), local)
    assert_equal(fast, plain, tolerance)


OPTIONS = [
    {"momentum": 0.9},
    {"weight_decay": 0.1},
    {"clip": 0.5},
    {"momentum": 0.5, "weight_decay": 0.2, "clip": 1.0, "decay": 0.5},
]


@pytest.mark.parametrize("model", MODELS, ids=repr)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_momentum_decay_and_clipping_in_both_doors(model, options):
    local = LocalSGD(epochs=2, batch_size=10, learning_rate=0.05, **options)
    fast, plain = both(cohort_of(model), model, start_of(model, np.float64), local)
    assert_equal(fast, plain, 1e-13)


def works(model, devices):
    draw = np.random.default_rng(8)
    size, count = model.layout.size, len(devices)
    start = start_of(model, np.float64)
    one, each = 0.1 * draw.normal(size=size), 0.1 * draw.normal(size=(count, size))
    mask = draw.random(size) < 0.5
    yield Phase(start, mu=0.7)
    yield Phase(start, mu=0.7, anchor=start + one)
    yield Phase(start, mu=0.7, anchor=start + each)
    yield Phase(start, offset=one)
    yield Phase(start, offset=each, gradient=True)
    yield Phase(start + each, mu=0.2)
    yield Phase(start, mu=0.5, offset=one, trained=mask)


@pytest.mark.parametrize("model", MODELS, ids=repr)
@pytest.mark.parametrize("batch", [10, None])
def test_all_that_an_algorithm_can_ask_for_in_both_doors(model, batch):
    devices = cohort_of(model)
    local = LocalSGD(epochs=2, batch_size=batch, learning_rate=0.05)
    epochs = np.array([1, 2, 3, 1, 2, 4])
    for work in works(model, devices):
        fast, plain = both(devices, model, work, local, epochs=epochs)
        assert_equal(fast, plain, 1e-12)
        if work.trained is not None:
            assert not fast.changes[:, ~work.trained].any()


@pytest.mark.parametrize("dtype", ["f16", "bf16", "i8", "b1"])
def test_compressed_rows_in_both_doors(dtype):
    draw = np.random.default_rng(1)
    index = VectorIndex(5, dtype=dtype)
    index.add(draw.normal(size=(40, 5)), labels=draw.integers(0, 3, 40))
    model = SoftmaxRegression(5, 3)
    devices = [Device(0, index), Device(1, index).hold_out(0.25, seed=0)]
    fast, plain = both(devices, model, start_of(model, np.float64), LocalSGD(batch_size=7))
    assert_equal(fast, plain, 1e-13)


def test_results_do_not_depend_on_threads():
    model = MLP(20, (24,), 10)
    devices = cohort_of(model, sizes=[5, 400, 30, 30, 250, 1, 80, 80, 80, 600] * 3)
    local = LocalSGD(epochs=3, batch_size=8)
    start = start_of(model, np.float32)
    alone, *others = (
        train_cohort(devices, model, start, local, seed=0, round=1, threads=threads)
        for threads in (1, 2, 5)
    )
    for other in others:
        assert other.changes.tobytes() == alone.changes.tobytes()
        assert other.losses.tobytes() == alone.losses.tobytes()


def test_a_row_that_came_or_went_is_noticed():
    device = class_device("d", [0, 1, 2] * 4)
    model, local = SoftmaxRegression(4, 3), LocalSGD(batch_size=4)
    start = np.zeros(15, np.float32)

    def now():
        fast, plain = both([device], model, start, local)
        assert_equal(fast, plain, 2e-5)
        return fast.rows.tolist()

    assert now() == [12]
    added = device.index.add(np.ones((3, 4)), labels=[0, 1, 2])
    assert now() == [15]
    device.index.remove(added[:1])
    assert now() == [14]


class Faulty(Device):
    def training_rows(self):
        raise OSError("its disk is gone")


@pytest.mark.parametrize("engine", ["compiled", "plain"])
def test_one_device_s_fault_is_said_and_stops_no_other(engine):
    good = class_device("good", [0, 1, 2] * 5)
    text, huge = VectorIndex(4), VectorIndex(4, "l2sq")
    text.add(np.eye(4), labels=["a", "b", "c", "d"])
    huge.add(np.full((3, 4), 4e17), labels=[0, 1, 2])
    devices = {
        "good": good,
        "OSError: its disk is gone": Faulty("faulty", good.index),
        "0 ... 2": class_device("label", [0, 1, 7]),
        "6": class_device("wide", [0, 1, 2], inputs=6),
        "labels of type <U1": Device("text", text),
        "no rows to train on": Device("empty", VectorIndex(4)),
        "NaN or inf; try a lower learning rate": Device("huge", huge),
        "again": Device("good", good.index),
    }

    def train(some):
        return train_cohort(
            list(some),
            SoftmaxRegression(4, 3),
            np.zeros(15, np.float32),
            LocalSGD(batch_size=2, learning_rate=1e30),
            seed=0,
            round=1,
            engine=engine,
        )

    trained = train(devices.values())
    assert trained.places.tolist() == [0, 7]
    assert trained.changes[0].tobytes() == train([good]).changes[0].tobytes()
    for place, reason in enumerate(devices):
        if place not in (0, 7):
            assert reason in trained.set_aside[place]


def test_a_large_network_in_large_batches_goes_through_blas_in_any_number_of_threads():
    model, local = MLP(40, (1000, 1000), 3), LocalSGD(batch_size=64, learning_rate=0.01)
    devices = cohort_of(MLP(40, (8,), 3), sizes=[70, 20, 40])
    start = model.initial(0)

    def train(engine, threads=None):
        return train_cohort(
            devices, model, start, local, seed=0, round=1, engine=engine, threads=threads
        ).changes

    plain = train("plain", threads=1)
    assert train("auto", threads=1).tobytes() == plain.tobytes()
    assert train("auto", threads=3).tobytes() == plain.tobytes()
    np.testing.assert_allclose(train("compiled"), plain, rtol=0, atol=1e-6)


def test_an_unknown_engine_or_one_that_cannot_is_refused():
    class Own(SoftmaxRegression):
        pass

    device = class_device("d", [0, 1])
    start = np.zeros(10, np.float32)
    with pytest.raises(ValueError, match="choose one of auto, compiled, plain"):
        train_cohort(
            [device], SoftmaxRegression(4, 2), start, LocalSGD(), seed=0, round=1, engine="c"
        )
    with pytest.raises(ValueError, match="does not know Own"):
        train_cohort([device], Own(4, 2), start, LocalSGD(), seed=0, round=1, engine="compiled")
    assert train_cohort([device], Own(4, 2), start, LocalSGD(), seed=0, round=1).rows.tolist() == [
        2
    ]
