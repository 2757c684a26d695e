"""What a model is worth: both doors measure what `Model.evaluate` does, on any network and size."""

import numpy as np
import pytest

from fedlab import MLP, Device, Federation, LinearRegression, SoftmaxRegression, VectorIndex
from fedlab.training import measure, validate

WIDTHS = (1, 2, 3, 5, 8, 16, 17, 33, 64, 100)
MODELS = [
    *(LinearRegression(width) for width in WIDTHS),
    *(SoftmaxRegression(width, 3) for width in WIDTHS),
    SoftmaxRegression(7, 40),
    MLP(5, (9,), 4),
    MLP(20, (33, 16), 10),
]


def data(model, rows, seed=0):
    draw = np.random.default_rng([seed, rows])
    x = draw.normal(size=(rows, model.inputs)).astype(np.float32)
    if isinstance(model, LinearRegression):
        return x, draw.normal(size=rows)
    return x, draw.integers(0, model.classes, rows)


def parameters(model, dtype=np.float64):
    return np.random.default_rng(3).normal(size=model.layout.size).astype(dtype)


@pytest.mark.parametrize("model", MODELS, ids=repr)
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 63, 64, 65, 511, 513, 1200])
def test_a_set_of_rows(model, rows):
    x, y = data(model, rows)
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 2e-5)):
        w = parameters(model, dtype)
        expected = model.evaluate(w, x, y)
        for engine in ("compiled", "plain"):
            found = measure(x, y, model, w, engine=engine)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                assert found[name] == pytest.approx(value, rel=tolerance)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_devices_held_out_rows(model):
    devices = []
    for place, rows in enumerate((120, 130, 257, 400)):
        index = VectorIndex(model.inputs, "l2sq")
        x, y = data(model, rows, seed=place)
        index.add(x, labels=y)
        devices.append(Device(place, index).hold_out(0.3, seed=0))
    w = parameters(model)
    fast = validate(devices, model, w, engine="compiled")
    plain = validate(devices, model, w, engine="plain")
    assert fast.keys() == plain.keys()
    for name in fast:
        np.testing.assert_allclose(fast[name], plain[name], rtol=1e-12)
    for place, device in enumerate(devices):
        assert fast["loss"][place] == pytest.approx(
            model.evaluate(w, *device.validation())["loss"], rel=1e-12
        )


def test_a_federation_s_measures_are_the_model_s():
    model = LinearRegression(8)
    x, y = data(model, 300)
    index = VectorIndex(8, "l2sq")
    index.add(x, labels=y)
    device = Device("one", index).hold_out(0.4, seed=0)
    federation = Federation([device], model, test=(x[:50], y[:50]))
    federation.run(3)
    w = federation.parameters
    on_held_out, on_test = (
        model.evaluate(w, *device.validation()),
        model.evaluate(w, x[:50], y[:50]),
    )
    assert federation.validate().mse["one"] == pytest.approx(on_held_out["mse"], rel=1e-5)
    assert federation.history.last("validation_mse") == pytest.approx(on_held_out["mse"], rel=1e-5)
    assert federation.history.last("test_mse") == pytest.approx(on_test["mse"], rel=1e-5)


def test_equal_scores_count_for_the_first_class_as_argmax_does():
    model = SoftmaxRegression(2, 3)
    x, y = np.ones((4, 2), np.float32), np.array([0, 1, 2, 0])
    found = measure(x, y, model, np.zeros(9, np.float32), engine="compiled")
    assert found["accuracy"] == model.evaluate(np.zeros(9), x, y)["accuracy"] == 0.5


def test_labels_or_rows_that_do_not_fit_are_refused():
    model, w = SoftmaxRegression(2, 3), np.zeros(9, np.float32)
    with pytest.raises(ValueError, match=r"0 \.\.\. 2"):
        measure(np.ones((2, 2)), [0, 3], model, w)
    with pytest.raises(ValueError, match="other than 2 numbers"):
        measure(np.ones((2, 5)), [0, 1], model, w)
