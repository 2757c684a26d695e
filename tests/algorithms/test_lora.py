"""Averages of low-rank adapters, against the mean of the devices' own layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fedlab import MLP, Device, Federation, LocalSGD
from fedlab.algorithms import FedAvg, FedExLoRA, FFALoRA, FlexLoRA, FLoRA
from fedlab.core.randomness import Purpose, generator
from fedlab.models import Layout, SoftmaxRegression, check_model
from fedlab.training import Phase, train_device
from tests.federations import class_device

INPUTS, CLASSES, RANK = 8, 4, 3


@dataclass(frozen=True)
class Adapted:
    """Scores (W + B A) x, with B at zero in the beginning."""

    random_b: bool = False
    inputs: int = INPUTS

    @property
    def layout(self) -> Layout:
        shapes = (
            ("layer.base_layer.weight", (CLASSES, INPUTS)),
            ("layer.lora_A.default.weight", (RANK, INPUTS)),
            ("layer.lora_B.default.weight", (CLASSES, RANK)),
            ("bias", (CLASSES,)),
        )
        return Layout(shapes)

    def parts(self, parameters: Any) -> list[Any]:
        return list(self.layout.views(parameters).values())

    def whole(self, parameters: Any) -> Any:
        w, a, b, _ = self.parts(np.asarray(parameters, np.float64))
        return w + b @ a

    def check_labels(self, y: Any) -> None:
        SoftmaxRegression(INPUTS, CLASSES).check_labels(y)

    def initial(self, seed: int) -> Any:
        start = generator(seed, Purpose.INITIAL).normal(0, 0.3, self.layout.size).astype(np.float32)
        _, _, b, bias = self.parts(start)
        b *= self.random_b
        bias[:] = 0
        return start

    def dense(self, parameters: Any) -> Any:
        w, a, b, bias = self.parts(parameters)
        return np.concatenate([(w + b @ a).T.ravel(), bias])

    def loss_and_gradient(self, parameters: Any, x: Any, y: Any) -> tuple[float, Any]:
        dense = SoftmaxRegression(INPUTS, CLASSES)
        loss, gradient = dense.loss_and_gradient(self.dense(parameters), x, y)
        of_w = gradient[:-CLASSES].reshape(INPUTS, CLASSES).T
        _, a, b, _ = self.parts(parameters)
        parts = [of_w, b.T @ of_w, of_w @ a.T, gradient[-CLASSES:]]
        return loss, np.concatenate([part.ravel() for part in parts])

    def evaluate(self, parameters: Any, x: Any, y: Any) -> dict[str, float]:
        return SoftmaxRegression(INPUTS, CLASSES).evaluate(self.dense(parameters), x, y)


def devices() -> list[Device]:
    return [
        class_device(n, [0, 1, 2, 3] * (2 + n) + [n] * 5, inputs=INPUTS, seed=n) for n in range(4)
    ]


def federation(algorithm: Any, model: Any = None, **settings: Any) -> Federation:
    given = {"local": LocalSGD(epochs=3, batch_size=4, learning_rate=0.3), "seed": 1} | settings
    return Federation(devices(), model or Adapted(), algorithm=algorithm, **given)


def mean_of_the_layers(one: Federation, trained: Any, cut: Any = None) -> Any:
    """Of W + B_k A_k after each device's own training, by rows."""
    model, total = one.model, 0.0
    for place, device in enumerate(one.devices):
        start = one.parameters
        if cut is not None:
            model.parts(start)[1][cut(place) :] = 0
        update = train_device(
            device, model, Phase(start, trained=trained), one.local, seed=1, round=1
        )
        total = total + device.rows * model.whole(start + update.change)
    return total / sum(device.rows for device in one.devices)


def test_the_model_of_these_tests_is_right() -> None:
    x = np.random.default_rng(0).normal(size=(10, INPUTS))
    check_model(Adapted(random_b=True), x, np.arange(10) % CLASSES)


@pytest.mark.parametrize(
    ("algorithm", "random_b", "cut"),
    [
        (FedExLoRA(), True, None),
        (FLoRA(), False, None),
        (FLoRA(ranks=(1, 2, 3)), False, lambda place: (1, 2, 3)[place % 3]),
        (FFALoRA(), True, None),
    ],
)
def test_the_average_is_exact(algorithm: Any, random_b: bool, cut: Any) -> None:
    one = federation(algorithm, Adapted(random_b))
    mask = one.layout.mask("layer.base_layer.weight")
    if isinstance(algorithm, FFALoRA):
        mask = mask | one.layout.mask("layer.lora_A.default.weight")
    expected = mean_of_the_layers(one, ~mask, cut)
    one.round()
    np.testing.assert_allclose(one.model.whole(one.parameters), expected, atol=2e-6)
    one.run(2)  # from another start, with a residual in W


def test_averaging_a_and_b_apart_is_wrong_by_the_product_of_the_deviations() -> None:
    draw, p = np.random.default_rng(0), np.array([0.5, 0.3, 0.2])
    a, b = draw.normal(size=(3, RANK, INPUTS)), draw.normal(size=(3, CLASSES, RANK))
    mean_a, mean_b = np.tensordot(p, a, 1), np.tensordot(p, b, 1)
    lost = np.tensordot(p, b @ a, 1) - mean_b @ mean_a
    apart = np.tensordot(p, (b - mean_b) @ (a - mean_a), 1)
    np.testing.assert_allclose(lost, apart, atol=1e-12)
    one = federation(FedAvg(), Adapted(random_b=True))
    expected = mean_of_the_layers(one, ~one.layout.mask("layer.base_layer.weight"))
    frozen = federation(FedExLoRA(), Adapted(random_b=True))
    frozen.round()
    model, after = frozen.model, frozen.parameters
    w, a1, b1, _ = model.parts(after.astype(np.float64))
    start = model.parts(one.parameters)[0]
    assert np.abs(start + b1 @ a1 - expected).max() > 1e-3  # what FedExLoRA put into W
    np.testing.assert_allclose(w - start, expected - start - b1 @ a1, atol=2e-6)


def test_flexlora_is_the_nearest_of_its_rank_and_wrong_by_what_was_cut_off() -> None:
    one = federation(FlexLoRA(), Adapted(random_b=True))
    w = one.model.parts(one.parameters)[0].astype(np.float64)
    expected = mean_of_the_layers(one, ~one.layout.mask("layer.base_layer.weight")) - w
    one.round()
    sizes = np.linalg.svd(expected, compute_uv=False)
    error = np.square(one.model.whole(one.parameters) - w - expected).sum()
    assert error == pytest.approx(np.square(sizes[RANK:]).sum(), rel=1e-3)
    assert error > 1e-6
    np.testing.assert_array_equal(one.model.parts(one.parameters)[0], w.astype(np.float32))


def test_bytes_are_those_of_the_adapters() -> None:
    adapters, bias = RANK * (INPUTS + CLASSES), CLASSES
    for algorithm, up, first, then in [
        (FFALoRA(), CLASSES * RANK + bias, CLASSES * RANK + bias, CLASSES * RANK + bias),
        (FedExLoRA(), adapters + bias, adapters + bias, 5 * adapters + bias),
        (FLoRA(), adapters + bias, adapters + bias, 5 * adapters + bias),
        (FlexLoRA(), adapters + bias, adapters + bias, adapters + bias),
    ]:
        one = federation(algorithm)
        reports = [one.round(), one.round()]
        assert [r.measures["bytes_up"] for r in reports] == [4 * (24 + 4 * up)] * 2
        assert [r.measures["bytes_down"] for r in reports] == [4 * 4 * first, 4 * 4 * then]
    ranked = federation(FLoRA(ranks=(1, 3))).round().measures["bytes_up"]
    assert ranked == 4 * 24 + 4 * (2 * (INPUTS + CLASSES) * (1 + 3) + 4 * bias)


def test_models_without_adapters_are_refused() -> None:
    for algorithm in (FFALoRA(), FedExLoRA()):
        with pytest.raises(ValueError, match=r"no lora_A.default in the model's layout"):
            federation(algorithm, MLP(INPUTS, (3,), CLASSES))
    with pytest.raises(ValueError, match="B must be zero"):
        federation(FLoRA(), Adapted(random_b=True))
    with pytest.raises(ValueError, match="ranks up to 5"):
        federation(FLoRA(ranks=(5,)))


@pytest.mark.parametrize("algorithm", [FFALoRA(), FedExLoRA(), FLoRA(ranks=(1, 3)), FlexLoRA()])
def test_a_run_goes_on_from_a_file(algorithm: Any, tmp_path: Any) -> None:
    whole, first, second = (federation(algorithm, cohort=2) for _ in range(3))
    whole.run(4)
    first.run(2)
    first.save(tmp_path / "run")
    second.load(tmp_path / "run")
    second.run(2)
    assert whole.parameters.tobytes() == second.parameters.tobytes()
    assert whole.history.to_frame().equals(second.history.to_frame())
