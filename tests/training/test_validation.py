"""What a model is worth: both doors measure what `Model.evaluate` does, on any network and size."""

import numpy as np
import pytest

from fedlab import (
    MLP,
    Device,
    Federation,
    LinearRegression,
    LocalSGD,
    SoftmaxRegression,
    VectorIndex,
)
from fedlab.training import Compiled, train_cohort, trainer_of, validate
from fedlab.training.compiled.stack import Stack
from fedlab.training.validation import checked_rows, on_rows
from tests.federations import class_device


def measure(x, y, model, parameters, *, threads=None, engine="auto"):
    """What a federation measures on its test rows, by either door."""
    return on_rows(*checked_rows(model, x, y), trainer_of(model, engine), parameters, threads)


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
    with pytest.raises(ValueError, match=r"\(rows, 2\) is needed"):
        measure(np.ones((2, 5)), [0, 1], model, w)


# -- the door to compiled loops, which look at no shapes -------------------------------------------

SOFTMAX, START = SoftmaxRegression(4, 3), np.zeros(15, np.float32)
COHORT = [class_device(n, [0, 1, 2] * 4).hold_out(0.25, seed=0) for n in range(3)]
engines = pytest.mark.parametrize("engine", ["compiled", "plain"])


@engines
@pytest.mark.parametrize("wrong", [np.zeros(7), np.zeros((2, 15)), np.zeros((3, 7)), np.zeros(0)])
def test_a_model_of_another_size_is_never_read_beyond_its_end(wrong, engine):
    with pytest.raises(ValueError, match=r"numbers of shape \(15,\) or \(3, 15\)"):
        validate(COHORT, SOFTMAX, wrong, engine=engine)
    with pytest.raises(ValueError, match=r"numbers of shape|one model's"):
        measure(np.zeros((3, 4)), [0, 1, 2], SOFTMAX, wrong, engine=engine)


@engines
@pytest.mark.parametrize(
    ("x", "y", "parameters", "says"),
    [
        (np.zeros((3, 4)), [0, 1, 2], np.full(15, np.nan), "the model holds NaN"),
        (np.zeros((3, 4)), [0, 1, 2], np.zeros(15, complex), "complex128"),
        (np.zeros((3, 4)), [0, 1, 2], np.zeros((3, 15)), "one model's"),
        (np.zeros((3, 4)), [[0], [1], [2]], START, r"labels of shape \(3, 1\)"),
        (np.zeros((3, 4)), [0, 1], START, r"labels of shape \(2,\) were given for 3 rows"),
        (np.zeros((3, 4)), [0, 1, 3], START, "labels from 0 to 3"),
        (np.zeros((3, 4)), ["a", "b", "c"], START, "class numbers"),
        (np.full((3, 4), np.inf), [0, 1, 2], START, "hold NaN, inf"),
        (np.zeros((0, 4)), [], START, "no test rows"),
    ],
)
def test_rows_and_parameters_that_fit_no_model_are_refused(x, y, parameters, says, engine):
    with pytest.raises((TypeError, ValueError), match=says):
        measure(x, y, SOFTMAX, parameters, engine=engine)


@engines
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epochs": 0}, r"epochs are 0 \.\.\. 0; least is 1"),
        ({"epochs": [1, -1, 1]}, "epochs are -1"),
        ({"epochs": [1.5, 1, 1]}, "epochs of shape.*float64"),
        ({"rates": np.nan}, "rates are nan"),
        ({"rates": [0.1, -1, 0.1]}, "rates are -1"),
        ({"round": -1}, "rounds are -1"),
        ({"round": 1.5}, "rounds of shape.*float64"),
        ({"seed": -1}, "seed is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": -1}, "threads is -1"),
    ],
)
def test_a_dispatch_that_sends_out_no_cohort_is_refused(settings, says, engine):
    given = {"seed": 0, "round": 1, **settings}
    with pytest.raises((TypeError, ValueError), match=says):
        train_cohort(COHORT, SOFTMAX, START, LocalSGD(), engine=engine, **given)


@engines
def test_devices_of_other_widths_are_set_aside_by_both_engines_in_the_same_words(engine):
    wider = SoftmaxRegression(5, 3)
    trained = train_cohort(
        COHORT, wider, np.zeros(18, np.float32), LocalSGD(), seed=0, round=1, engine=engine
    )
    said = "ValueError: vectors of 4 numbers; the model takes 5"
    assert trained.set_aside == dict.fromkeys(range(3), said)


def test_devices_that_hold_nothing_out_are_named():
    with pytest.raises(ValueError, match=r"devices \['bare'\] hold no rows out"):
        validate([*COHORT, class_device("bare", [0, 1, 2])], SOFTMAX, START)


def test_a_stack_must_be_its_model_s():
    with pytest.raises(ValueError, match="they must agree"):
        Compiled(SOFTMAX, Stack((4, 4)))
    with pytest.raises(ValueError, match="one layer with one output"):
        Stack((4, 3, 1), squared=True)
    with pytest.raises(ValueError, match="a layer's width is 0"):
        Stack((4, 0))
