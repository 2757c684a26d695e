"""DP-SGD on a device: samples, lengths, noise and steps against formulas, and against autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest

from fedlab import MLP, Device, LinearRegression, LocalSGD, PrivateSGD, SoftmaxRegression
from fedlab.core.randomness import Purpose, generator
from fedlab.models.base import cross_entropy, gradient_of
from fedlab.privacy.noise import continuous_gaussian
from fedlab.training import Phase, train_cohort, train_device, trainer_of
from fedlab.training.cohort import train_in_parts
from fedlab.training.private import clipped_sum
from tests.federations import class_device, regression_device

MODELS = {
    "line": LinearRegression(4),
    "line with l2": LinearRegression(4, l2=0.3),
    "softmax": SoftmaxRegression(4, 3),
    "softmax with l2": SoftmaxRegression(4, 3, l2=0.3),
    "one layer": MLP(4, (), 3),
    "three layers": MLP(4, (6, 5), 3),
}


class Own:
    """A model of one's own, which knows means over rows alone."""

    def __init__(self) -> None:
        self.inner = SoftmaxRegression(4, 3)
        self.layout, self.inputs, self.initial = self.inner.layout, 4, self.inner.initial
        self.check_labels, self.evaluate = self.inner.check_labels, self.inner.evaluate

    def loss_and_gradient(self, parameters: Any, x: Any, y: Any) -> Any:
        return self.inner.loss_and_gradient(parameters, x, y)


def rows(model: Any, count: int, seed: int = 0) -> tuple[Any, Any, Any]:
    draw = np.random.default_rng(seed)
    x, point = draw.normal(size=(count, 4)), draw.normal(size=model.layout.size)
    line = isinstance(model, LinearRegression)
    return point, x, draw.normal(size=count) if line else draw.integers(0, 3, count)


def by_hand(model: Any, point: Any, x: Any, y: Any, clip: float, mask: Any = True) -> Any:
    loss, total = 0.0, np.zeros(len(point))
    for one in range(len(x)):
        value, gradient = gradient_of(model, point, x[one : one + 1], y[one : one + 1])
        gradient = np.where(mask, gradient, 0)
        loss, total = loss + value, total + gradient * min(1, clip / np.linalg.norm(gradient))
    return loss, total


def private(**given: Any) -> PrivateSGD:
    settings = {"row_clip": 0.5, "noise_multiplier": 1.2, "share": 0.3, "delta": 1e-3}
    return PrivateSGD(**{**settings, "simulated": True, "learning_rate": 0.2, **given})


def trained(device: Device, model: Any, start: Any, local: Any, **given: Any) -> Any:
    [out] = train_cohort([device], model, start, local, seed=5, round=3, **given).changes
    return out


# -- clipped sums --------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [0.3, 2.0, 1e9])
@pytest.mark.parametrize("model", [*MODELS.values(), Own()], ids=[*MODELS, "own"])
def test_the_sum_is_that_of_gradients_shortened_one_by_one(model: Any, clip: float) -> None:
    point, x, y = rows(model, 9)
    loss, total = clipped_sum(model, point, x, y, clip)
    want = by_hand(model, point, x, y, clip)
    assert loss == pytest.approx(want[0], rel=1e-12)
    np.testing.assert_allclose(total, want[1], atol=1e-12)


@pytest.mark.parametrize("model", [*MODELS.values(), Own()], ids=[*MODELS, "own"])
def test_lengths_are_of_what_trains(model: Any) -> None:
    point, x, y = rows(model, 9)
    mask = model.layout.mask(model.layout.names()[-1])
    _, total = clipped_sum(model, point, x, y, 0.3, mask)
    np.testing.assert_allclose(total, by_hand(model, point, x, y, 0.3, mask)[1], atol=1e-12)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_no_rows_and_rows_beyond_numbers_add_nothing(model: Any) -> None:
    point, x, y = rows(model, 3)
    assert clipped_sum(model, point, x[:0], y[:0], 1.0)[1].tolist() == [0.0] * len(point)
    odd = np.vstack([x, np.full((1, 4), 1e308)])
    with np.errstate(all="ignore"):
        found = clipped_sum(model, 1e3 * point, odd, np.append(y, y[0]), 1.0)
    np.testing.assert_allclose(found[1], clipped_sum(model, 1e3 * point, x, y, 1.0)[1])


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 12),
    clip=st.floats(1e-3, 1e3),
    name=st.sampled_from(list(MODELS)),
    share=st.floats(0, 1),
)
def test_a_row_less_moves_the_sum_by_the_clip_at_most(
    seed: int, count: int, clip: float, name: str, share: float
) -> None:
    point, x, y = rows(MODELS[name], count, seed)
    draw = np.random.default_rng(seed)
    x *= 10.0 ** draw.integers(-3, 3)
    mask = draw.random(len(point)) <= share
    whole = clipped_sum(MODELS[name], point, x, y, clip, mask)[1]
    left = clipped_sum(MODELS[name], point, x[1:], y[1:], clip, mask)[1]
    assert np.linalg.norm(whole - left) <= clip * (1 + 1e-9)
    assert not whole[~mask].any()


# -- the step ------------------------------------------------------------------------------------


def test_a_step_on_softmax_by_hand() -> None:
    """Abadi et al., algorithm 1, from the address of the chance up."""
    device, model = class_device("a", [0, 1, 2] * 7), SoftmaxRegression(4, 3)
    x, y = (part.astype(dtype) for part, dtype in zip(device.training(), (float, int), strict=True))
    start = np.random.default_rng(0).normal(size=15)
    local = private(share=0.6)
    assert local.steps == 2
    source = generator(5, Purpose.PRIVATE_ROWS, round=3, device="a").bytes
    point = start.copy()
    for _ in range(2):
        words = np.frombuffer(source(8 * 21), np.uint64)
        some = words / 2.0**64 < 0.6
        error = cross_entropy(x[some] @ point[:12].reshape(4, 3) + point[12:], y[some])[1]
        error -= np.eye(3)[y[some]]
        wide = np.column_stack([x[some], np.ones(some.sum())])
        lengths = np.linalg.norm(error, axis=1) * np.linalg.norm(wide, axis=1)
        total = wide.T @ (error * np.minimum(1, 0.5 / lengths)[:, None])
        noise = continuous_gaussian(1.2 * 0.5, 15, source)
        point -= 0.2 * (total.ravel() + noise) / (0.6 * 21)
    np.testing.assert_allclose(trained(device, model, start, local), point - start, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_without_noise_and_clip_it_is_plain_sgd_on_the_same_samples(name: str) -> None:
    model = MODELS[name]
    device = class_device(1, [0, 1, 2] * 7)
    if isinstance(model, LinearRegression):
        device = regression_device(1, rows=21, inputs=4, seed=0)
    start = rows(model, 1)[0]
    plain = LocalSGD(batch_size=None, learning_rate=0.2)
    if name.endswith("l2"):  # each row has its part: of samples, as large as they happen to be
        local = private(share=1.0, row_clip=1e9, noise_multiplier=1e-20)
        np.testing.assert_allclose(
            trained(device, model, start, local), trained(device, model, start, plain), atol=1e-9
        )
        return
    local = private(row_clip=1e9, noise_multiplier=1e-20, momentum=0.5, weight_decay=0.1)
    source = generator(5, Purpose.PRIVATE_ROWS, round=3, device=1).bytes
    x, y = device.training()
    point, velocity = start.copy(), np.zeros_like(start)
    for _ in range(local.steps):
        words = np.frombuffer(source(8 * 21), np.uint64)
        source(16 * ((len(start) + 1) // 2))
        some = words / 2.0**64 < 0.3
        gradient = gradient_of(model, point, x[some], y[some])[1] * some.sum() / (0.3 * 21)
        velocity = 0.5 * velocity + gradient + 0.1 * point
        point = point - 0.2 * velocity
    np.testing.assert_allclose(trained(device, model, start, local), point - start, atol=1e-9)


def test_the_noise_has_the_width_that_was_asked_for() -> None:
    device, model = class_device(1, [0, 1, 2] * 7), SoftmaxRegression(4, 3)
    local = private(share=0.1, epochs=60, row_clip=1e-9, noise_multiplier=3e9, learning_rate=1.0)
    change, steps = trained(device, model, np.zeros(15), local), 600
    width = 3.0 / (0.1 * 21) * np.sqrt(steps)
    changes = [change / width]
    for seed in range(30):
        update = train_device(device, model, np.zeros(15), local, seed=seed, round=1)
        assert update.steps == steps
        changes.append(update.change / width)
    assert kstest(np.concatenate(changes), "norm").pvalue > 1e-3


def test_each_row_is_sampled_by_itself_and_no_empty_sample_is_skipped() -> None:
    """With gradients of length one, a step's estimated loss is the count over q n."""
    from fedlab import VectorIndex

    index = VectorIndex(1)
    index.add(np.full((3, 1), 1.0), labels=np.full(3, np.sqrt(2)))
    local = private(share=0.05, noise_multiplier=1e-20, row_clip=1e-20)
    counts = []
    for seed in range(200):
        update = train_device(
            Device(0, index), LinearRegression(1), np.zeros(2), local, seed=seed, round=1
        )
        counts.append(update.loss * 20 * 0.05 * 3)  # twenty steps
        assert update.steps == 20
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
    assert min(counts) == pytest.approx(0)
    assert binomtest(round(sum(counts)), 200 * 20 * 3, 0.05).pvalue > 1e-3


def test_secrets_are_the_systems_and_simulated_ones_have_an_address() -> None:
    device, model, start = class_device("a", [0, 1, 2] * 7), SoftmaxRegression(4, 3), np.zeros(15)
    secret = private(simulated=False)
    assert not np.array_equal(*(trained(device, model, start, secret) for _ in range(2)))
    again = [trained(device, model, start, private()) for _ in range(2)]
    np.testing.assert_array_equal(*again)
    for address in ({"seed": 6}, {"round": 4}, {"begun": 1}):
        at: dict[str, Any] = {"seed": 5, "round": 3, **address}
        other = train_device(device, model, start, private(), **at)
        assert not np.array_equal(other.change, again[0])


def test_devices_train_alike_whoever_else_is_there_and_by_how_many_threads() -> None:
    devices = [class_device(n, [0, 1, 2] * (4 + n)) for n in range(5)]
    model = MODELS["three layers"]
    start = model.initial(0)
    whole = [
        train_cohort(devices, model, start, private(), seed=5, round=3, threads=n) for n in (1, 4)
    ]
    np.testing.assert_array_equal(whole[0].changes, whole[1].changes)
    for place in (3, 1):
        alone = trained(devices[place], model, start, private())
        np.testing.assert_array_equal(whole[0].changes[place], alone)


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"batch_size": 8}, "batch_size=8 and clip=None were given.*leave both out; see share"),
        ({"clip": 1.0}, "see share and row_clip"),
        ({"row_clip": 0.0}, "row_clip"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"share": 1.5}, "share"),
        ({"delta": 1.0}, "delta"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"accountant": "gdp"}, "gdp"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_settings_that_are_none_are_refused(given: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        private(**given)


def test_no_trainer_takes_its_steps_but_the_plain_loop() -> None:
    device, model = class_device("a", [0, 1, 2] * 7), SoftmaxRegression(4, 3)
    with pytest.raises(ValueError, match="the compiled loops have no PrivateSGD; choose"):
        trained(device, model, np.zeros(15), private(), engine="compiled")
    from fedlab.device.dispatch import Dispatch

    order = Dispatch.alike(1, 1, 0.1, 1)
    with pytest.raises(ValueError, match="Compiled has no PrivateSGD"):
        next(train_in_parts([device], trainer_of(model), np.zeros(15), private(), order, seed=0))


@pytest.mark.parametrize(
    ("phase", "says"),
    [
        ({"gradient": True}, "what devices compute of rows and tell without noise"),
        ({"observe": lambda *given: {"loss": 1.0}}, "tell without noise; take FedAvg"),
    ],
)
def test_phases_that_tell_more_are_refused(phase: Any, says: str) -> None:
    device, model = class_device("a", [0, 1, 2] * 7), SoftmaxRegression(4, 3)
    found = train_cohort([device], model, Phase(np.zeros(15), **phase), private(), seed=0, round=1)
    assert says in found.set_aside[0]


# -- torch ---------------------------------------------------------------------------------------


def networks() -> dict[str, Any]:
    torch = pytest.importorskip("torch", reason="torch is not installed (the extra torch)")
    nn = torch.nn

    class Shared(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head, self.still = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 4)
            self.still.requires_grad_(False)

        def forward(self, x: Any) -> Any:
            return self.head(self.still(self.inner(torch.tanh(self.inner(x)))))

    convolution = nn.Sequential(
        *(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 4, 2), nn.GroupNorm(2, 4), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(12, 3)),
    )
    return {"affine": nn.Sequential(nn.Linear(4, 3)), "shared": Shared(), "conv": convolution}


@pytest.mark.parametrize("carries", [False, True])
@pytest.mark.parametrize("name", ["affine", "shared", "conv"])
def test_gradients_of_rows_are_those_of_autograd_row_by_row(name: str, carries: bool) -> None:
    from fedlab.models import TorchModel

    module = networks()[name]
    loss = __import__("torch").nn.CrossEntropyLoss()
    names = ("still*",) if carries and name == "shared" else ()
    model = TorchModel(module, loss, 4, carries=names)
    point, x, y = rows(model, 9)
    losses, gradients = model.row_gradients(point, x, y)
    for one in range(9):
        value, gradient = gradient_of(model, point, x[one : one + 1], y[one : one + 1])
        assert losses[one] == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(gradients[one], gradient, atol=1e-12)
    total = clipped_sum(model, point, x, y, 0.3)[1]
    np.testing.assert_allclose(total, by_hand(model, point, x, y, 0.3)[1], atol=1e-12)


def test_a_network_of_torch_trains_as_the_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedlab.models import TorchModel

    module, device = networks()["affine"], class_device("a", [0, 1, 2] * 7)
    model = TorchModel(module, __import__("torch").nn.CrossEntropyLoss(), 4)
    start = np.random.default_rng(0).normal(size=15)
    local = private(row_clip=1.0, noise_multiplier=1e-20)
    order = np.append(np.arange(12).reshape(4, 3).T.ravel(), [12, 13, 14])
    want = trained(device, SoftmaxRegression(4, 3), start, local)
    np.testing.assert_allclose(trained(device, model, start[order], local), want[order], atol=1e-12)
    monkeypatch.setattr("fedlab.training.private._HELD", 1)  # row by row
    np.testing.assert_allclose(trained(device, model, start[order], local), want[order], atol=1e-12)


def test_dropout_is_drawn_for_each_row_by_the_seed_and_threads_change_nothing() -> None:
    from fedlab.models import TorchModel

    torch = pytest.importorskip("torch", reason="torch is not installed (the extra torch)")
    nn = torch.nn
    net = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    model = TorchModel(net, nn.CrossEntropyLoss(), 4)
    point, x, y = rows(model, 1)
    x, y = np.repeat(x, 8, axis=0), np.repeat(y, 8)
    before = torch.get_rng_state()
    one, two = (model.row_gradients(point, x, y, np.random.default_rng(0))[0] for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert len(np.unique(one)) == 8
    devices = [class_device(n, [0, 1, 2] * (4 + n)) for n in range(4)]
    whole = [
        train_cohort(devices, model, model.initial(0), private(), seed=5, round=3, threads=n)
        for n in (1, 3)
    ]
    assert not whole[0].set_aside
    np.testing.assert_array_equal(whole[0].changes, whole[1].changes)
    assert torch.equal(torch.get_rng_state(), before)
    secret = private(simulated=False, share=1.0, noise_multiplier=1e-20)
    twice = [trained(devices[0], model, model.initial(0), secret) for _ in range(2)]
    assert not np.array_equal(*twice)  # who knows the seed knows no masks
