"""Training torch modules: as the plain loop does, as torch by hand does, whoever else is there."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from fedlab import Federation, LocalSGD
from fedlab.models import MLP, LinearRegression, TorchModel
from fedlab.training import Phase, train_cohort, train_device, trainer_of, validate
from tests.federations import class_device, regression_device

torch = pytest.importorskip("torch", reason="torch is not installed (the extra torch)")
nn = torch.nn

DRAW = np.random.default_rng(1)
DEVICES = [
    class_device(name, DRAW.integers(0, 3, 14 + 9 * number).tolist(), inputs=8, seed=number)
    for number, name in enumerate(["a", 1, 2, "d", 4])
]
NUMBERS = [regression_device(name, 12 + name, 8, seed=0) for name in range(3)]
PLAIN = LocalSGD(epochs=2, batch_size=8, learning_rate=0.05)
ALL = replace(PLAIN, momentum=0.5, weight_decay=0.1, clip=0.5)


def convolution(drop=0.0):
    return nn.Sequential(
        *(nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.Tanh(), nn.Flatten()),
        *(nn.Dropout(drop), nn.Linear(12, 3)),
    )


def perceptron():
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def of(module, loss=None, **settings):
    return TorchModel(module, loss or nn.CrossEntropyLoss(), 8, **settings)


MODELS = {
    "convolution": (lambda: of(convolution(drop=0.3)), DEVICES, "torch"),
    "bf16": (lambda: of(convolution().bfloat16()), DEVICES, "torch"),
    "perceptron": (lambda: of(perceptron()), DEVICES, "compiled"),
    "softmax": (lambda: of(nn.Sequential(nn.Flatten(), nn.Linear(8, 3))), DEVICES, "compiled"),
    "line": (lambda: of(nn.Linear(8, 1), nn.MSELoss()), NUMBERS, "torch"),
    "two layers": (
        lambda: of(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1)), nn.MSELoss()),
        *(NUMBERS, "torch"),
    ),
}


def phases(size, devices, numbers):
    mask = np.ones(size, np.bool_)
    mask[3:9] = mask[-1] = False
    start = (0.1 * DRAW.normal(size=size) + 0.5).astype(numbers)
    offset = 0.1 * DRAW.normal(size=(devices, size))
    yield PLAIN, Phase(start)
    yield ALL, Phase(start, mu=0.3, anchor=start + 0.1, offset=offset, trained=mask, gradient=True)


@pytest.mark.parametrize("numbers", [np.float32, np.float64])
@pytest.mark.parametrize("name", MODELS)
def test_its_trainer_gives_what_the_plain_loop_gives(name, numbers):
    made, devices, trainer = MODELS[name]
    model = made()
    assert trainer_of(model).name == trainer
    close = {"atol": 1e-12} if numbers == np.float64 else {"atol": 2e-6, "rtol": 1e-5}
    if name == "bf16" and numbers == np.float32:
        close = {"atol": 2e-2}
    for local, phase in phases(model.layout.size, len(devices), numbers):
        fast, plain = (
            train_cohort(devices, model, phase, local, seed=3, round=2, engine=engine)
            for engine in ("auto", "plain")
        )
        assert not fast.set_aside
        assert fast.blocks.keys() == plain.blocks.keys()
        for block in plain.blocks:
            np.testing.assert_allclose(fast.blocks[block], plain.blocks[block], **close)
        np.testing.assert_allclose(fast.losses, plain.losses, **close)
        assert fast.changes.dtype == numbers
        assert np.abs(fast.changes).max() > 1e-2
    held = [device.holding_out(device.index.keys[:5]) for device in devices]
    point = model.initial(0).astype(numbers)
    measures = [validate(held, model, point, engine=engine) for engine in ("auto", "plain")]
    for measure in measures[1]:
        np.testing.assert_allclose(measures[0][measure], measures[1][measure], rtol=1e-5)


def by_hand(model, device, start, local, round, fused=True):
    """Plain torch: a module, an optimiser, and the batches of the device's address.

    torch's optimiser may fuse the product and the sum of a step; the plain loop rounds both.
    """
    module = copy.deepcopy(model.module).train()
    parts = {n: torch.tensor(v) for n, v in model.layout.views(start).items()}
    module.load_state_dict(parts, strict=False)
    x, y = (torch.tensor(part) for part in device.training())
    step = torch.optim.SGD(module.parameters(), local.learning_rate, local.momentum)
    for rows in local.batches(len(x), 0, round, device.id):
        step.zero_grad()
        model.loss(module(x[rows]), y[rows]).backward()
        if fused:
            step.step()
            continue
        with torch.no_grad():
            for parameter in module.parameters():
                parameter -= local.learning_rate * parameter.grad
    held = module.state_dict()
    return np.concatenate([held[name].ravel() for name, _ in model.layout.shapes])


@pytest.mark.parametrize("engine", ["auto", "plain"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_is_a_torch_loop_by_hand(engine, momentum):
    torch.set_num_threads(1)
    model, local = of(convolution()), replace(PLAIN, momentum=momentum)
    start = model.initial(0)
    trained = train_cohort(DEVICES, model, start, local, seed=0, round=4, engine=engine)
    for device, change in zip(DEVICES, trained.changes, strict=True):
        hand = by_hand(model, device, start, local, round=4)
        np.testing.assert_allclose(start + change, hand, atol=1e-6)


@pytest.mark.parametrize("engine", ["auto", "plain"])
def test_buffers_after_training_are_those_of_the_loop_by_hand_to_the_bit(engine):
    model = of(convolution())
    start, buffered = model.initial(0), model.layout.buffered
    start[buffered] = 0  # so that the change is the value
    trained = train_cohort(DEVICES, model, start, PLAIN, seed=0, round=1, engine=engine)
    for device, change in zip(DEVICES, trained.changes, strict=True):
        hand = by_hand(model, device, start, PLAIN, round=1, fused=engine == "auto")
        np.testing.assert_array_equal(change[buffered], hand[buffered])


def test_nothing_but_new_values_moves_a_buffer():
    """Not decay, nor a pull, an offset, momentum or a clip: with a mask they stay at the start."""
    model = of(convolution())
    start, buffered = model.initial(0), model.layout.buffered
    anchor = start + np.float32(5)
    wild = Phase(start, mu=0.5, anchor=anchor, offset=np.full_like(start, 3))
    small = LocalSGD(1, None, 1e-30)
    bare = train_device(DEVICES[0], model, start, small, seed=0, round=1)
    for local in (small, replace(small, momentum=0.9, weight_decay=0.5, clip=1e-3)):
        for engine in ("auto", "plain"):
            moved = train_cohort(
                DEVICES[:1], model, wild, local, seed=0, round=1, engine=engine
            ).changes[0]
            np.testing.assert_array_equal(moved[buffered], bare.change[buffered])
            masked = replace(wild, trained=~buffered)
            still = train_cohort(
                DEVICES[:1], model, masked, local, seed=0, round=1, engine=engine
            ).changes[0]
            np.testing.assert_array_equal(still[buffered], 0)


def test_a_clip_does_not_measure_buffers():
    model = of(convolution())
    start = model.initial(0)
    x, y = DEVICES[0].training()
    gradient = model.loss_and_gradient(start, x, y)[1]
    length = np.linalg.norm(gradient[~model.layout.buffered])
    assert np.linalg.norm(gradient) > 1.5 * length
    above = LocalSGD(1, None, 0.1, clip=1.2 * float(length))
    changes = [
        train_cohort(DEVICES[:1], model, start, local, seed=0, round=1, engine=engine).changes
        for local in (above, replace(above, clip=None))
        for engine in ("auto", "plain")
    ]
    for change in changes[1:]:
        np.testing.assert_allclose(change, changes[0], atol=1e-7)


@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_a_device_gets_the_same_bits_in_any_cohort_order_and_number_of_threads(drop):
    model = of(convolution(drop))
    start = model.initial(0)

    def trained(places, **settings):
        some = [DEVICES[place] for place in places]
        return train_cohort(some, model, start, ALL, seed=0, round=1, **settings).changes

    everybody = trained(range(5))
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(everybody, trained(range(5), threads=threads))
    np.testing.assert_array_equal(everybody[[4, 2]], trained([4, 2]))
    np.testing.assert_array_equal(everybody[[3]], trained([3]))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    np.testing.assert_array_equal(everybody, trained(range(5)))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    state = torch.get_rng_state()
    torch.manual_seed(9)
    np.testing.assert_array_equal(everybody, trained(range(5)))
    torch.set_rng_state(state)


@pytest.mark.parametrize(
    ("twin", "module", "loss", "devices"),
    [
        (MLP(8, (6, 5), 3), perceptron(), nn.CrossEntropyLoss(), DEVICES),
        (LinearRegression(8), nn.Linear(8, 1), nn.MSELoss(), NUMBERS),
    ],
)
def test_the_built_in_model_learns_the_same(twin, module, loss, devices):
    model = of(module, loss)
    start = model.initial(0)
    parts = model.layout.views(start).values()
    turned = np.concatenate([part.T.ravel() for part in parts])
    rate = 0.05 if isinstance(twin, MLP) else 0.1  # torch's squared error is twice ours
    ours = train_cohort(devices, twin, turned, replace(PLAIN, learning_rate=rate), seed=0, round=1)
    theirs = train_cohort(devices, model, start, PLAIN, seed=0, round=1)
    sums = [np.sort(trained.changes, axis=1) for trained in (ours, theirs)]
    np.testing.assert_allclose(*sums, atol=1e-6)


def test_the_compiled_loops_are_refused_for_what_they_do_not_know():
    with pytest.raises(ValueError, match=r"compiled loops know nn\.Linear with nn\.ReLU"):
        trainer_of(of(convolution()), "compiled")
    for other in (
        of(nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))),
        of(nn.Linear(8, 3, bias=False)),
        of(nn.Linear(8, 3), nn.CrossEntropyLoss(label_smoothing=0.1)),
        of(nn.Linear(8, 3, dtype=torch.bfloat16)),
        TorchModel(nn.Sequential(nn.Linear(4, 3), nn.Flatten()), nn.CrossEntropyLoss(), (2, 4)),
    ):
        assert trainer_of(other).name == "torch"


def test_devices_with_alike_rows_learn_with_normalisation_as_one_with_all_rows_does():
    """BatchNorm under FedAvg, where it is known to go wrong: IID devices equal a central run."""
    labels = DRAW.integers(0, 3, 600)
    central = class_device("all", labels.tolist(), inputs=8, seed=7)
    x, y = central.training()
    spread = []
    for number, rows in enumerate(np.array_split(np.arange(600), 4)):
        device = class_device(number, [0], inputs=8)
        device.index.add(x[rows], labels=y[rows])
        spread.append(device.holding_out(device.index.keys[:1]))
    local = LocalSGD(1, 30, 0.1)
    losses = []
    for devices in ([central], spread):
        run = Federation(devices, of(convolution()), local=local, seed=0)
        run.run(rounds=8)
        losses.append(run.model.evaluate(run.parameters, x, y))
    assert losses[1]["accuracy"] == pytest.approx(losses[0]["accuracy"], abs=0.03)
    assert losses[0]["accuracy"] > 0.8


def test_a_run_with_chance_is_resumed_to_the_same_bits(tmp_path):
    def made():
        return Federation(DEVICES, of(convolution(0.3)), local=PLAIN, seed=2)

    whole = made()
    whole.run(rounds=4)
    half = made()
    half.run(rounds=2)
    half.save(tmp_path / "half.npz")
    again = made()
    again.load(tmp_path / "half.npz")
    again.run(rounds=2)
    np.testing.assert_array_equal(whole.parameters, again.parameters)


def test_a_device_whose_labels_do_not_fit_is_set_aside():
    wrong = class_device("wrong", [5, 1], inputs=8)
    trained = train_cohort([*DEVICES, wrong], of(convolution()), of(convolution()).initial(0),
                           PLAIN, seed=0, round=1)  # fmt: skip
    assert list(trained.set_aside) == [5]
    assert "classes 0 ... 2" in trained.set_aside[5]
