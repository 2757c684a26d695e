"""Models against finite differences, counts and scikit-learn's measures."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error

from fedlab.models import MLP, Layout, LinearRegression, SoftmaxRegression

MODELS = [
    LinearRegression(5),
    LinearRegression(5, l2=0.3),
    SoftmaxRegression(5, 3),
    SoftmaxRegression(5, 3, l2=0.3),
    MLP(5, (), 3),
    MLP(5, (7,), 3),
    MLP(5, (6, 4), 3),
]


def rows(model, count=11):
    draw = np.random.default_rng(1)
    x = draw.normal(size=(count, 5))
    number = isinstance(model, LinearRegression)
    y = draw.normal(size=count) if number else draw.integers(0, 3, count)
    return draw.normal(size=model.layout.size) * 0.5, x, y


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_gradient_is_the_loss_s_derivative(model):
    parameters, x, y = rows(model)
    _, gradient = model.loss_and_gradient(parameters, x, y)
    for place in range(model.layout.size):
        nudge = np.zeros(model.layout.size)
        nudge[place] = 1e-6
        up, _ = model.loss_and_gradient(parameters + nudge, x, y)
        down, _ = model.loss_and_gradient(parameters - nudge, x, y)
        assert (up - down) / 2e-6 == pytest.approx(gradient[place], abs=1e-7)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_gradient_of_all_rows_is_the_mean_of_each_row_s(model):
    parameters, x, y = rows(model)
    loss, gradient = model.loss_and_gradient(parameters, x, y)
    each = [model.loss_and_gradient(parameters, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    assert loss == pytest.approx(np.mean([one for one, _ in each]))
    np.testing.assert_allclose(gradient, np.mean([g for _, g in each], axis=0), atol=1e-12)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_computation_follows_the_parameters_type(model):
    parameters, x, y = rows(model)
    for dtype in (np.float32, np.float64):
        _, gradient = model.loss_and_gradient(parameters.astype(dtype), x.astype(np.float32), y)
        assert gradient.dtype == dtype
    assert model.initial(0).dtype == np.float32


def test_measures_are_those_of_scikit_learn():
    parameters, x, y = rows(MODELS[2])
    model = MODELS[2]
    shares = model.predict(parameters, x)
    measured = model.evaluate(parameters, x, y)
    assert measured["loss"] == pytest.approx(log_loss(y, shares, labels=[0, 1, 2]))
    assert measured["accuracy"] == accuracy_score(y, shares.argmax(axis=1))
    line = LinearRegression(5)
    parameters, x, y = rows(line)
    assert line.evaluate(parameters, x, y)["mse"] == pytest.approx(
        mean_squared_error(y, line.predict(parameters, x))
    )


def test_an_mlp_without_hidden_layers_is_softmax_regression():
    parameters, x, y = rows(SoftmaxRegression(5, 3))
    flat, softmax = MLP(5, (), 3), SoftmaxRegression(5, 3)
    a, b = flat.loss_and_gradient(parameters, x, y), softmax.loss_and_gradient(parameters, x, y)
    assert a[0] == b[0]
    np.testing.assert_array_equal(a[1], b[1])


def test_sizes_known_from_the_literature():
    # McMahan et al. 2017, section 3: the 2NN has 199,210 parameters.
    assert MLP(784, (200, 200), 10).layout.size == 199_210
    # FedProx's synthetic data: softmax regression from 60 features to 10 classes.
    assert SoftmaxRegression(60, 10).layout.size == 610


def test_initial_weights_have_he_s_variance_and_depend_on_the_seed_alone():
    model = MLP(400, (300,), 10)
    first, again, other = model.initial(3), model.initial(3), model.initial(4)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    parts = model.layout.views(first)
    # 120,000 draws: the sample's standard deviation is within .7% at 3.5 standard errors.
    assert parts["weights1"].std() == pytest.approx(np.sqrt(2 / 400), rel=0.007)
    assert not parts["bias1"].any()


def test_scores_far_apart_do_not_overflow():
    model = SoftmaxRegression(1, 2)
    loss, gradient = model.loss_and_gradient(
        np.float32([1e4, -1e4, 0, 0]), np.float32([[1e4]]), np.array([1])
    )
    assert loss == pytest.approx(2e8)
    assert np.isfinite(gradient).all()


def test_views_of_a_layout_stand_in_its_order_and_write_through():
    layout = Layout((("a", (2, 3)), ("b", (2,))))
    vector = np.arange(8.0)
    parts = layout.views(vector)
    np.testing.assert_array_equal(parts["a"], [[0, 1, 2], [3, 4, 5]])
    parts["b"][:] = -1
    assert vector[-2:].tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("model", "labels", "says"),
    [
        (SoftmaxRegression(2, 3), [0, 3], "classes 0 ... 2"),
        (SoftmaxRegression(2, 3), [-1, 0], "classes 0 ... 2"),
        (MLP(2, (3,), 3), [0.5], "class numbers"),
        (LinearRegression(2), ["ill"], "numbers are needed"),
    ],
)
def test_labels_that_a_model_cannot_learn_are_refused(model, labels, says):
    with pytest.raises((ValueError, TypeError), match=says):
        model.check_labels(np.array(labels))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearRegression(0), "inputs is 0"),
        (lambda: SoftmaxRegression(0, 2), "inputs is 0"),
        (lambda: SoftmaxRegression(3, 1), "classes is 1"),
        (lambda: MLP(0, (4,), 2), "inputs is 0"),
        (lambda: MLP(3, (4, 0), 2), "a hidden layer.s width is 0"),
        (lambda: LinearRegression(3, l2=-0.1), "l2 is -0.1; it must be zero or positive"),
        (lambda: SoftmaxRegression(3, 2, l2=float("nan")), "l2 is nan"),
    ],
)
def test_sizes_and_penalties_that_are_none_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
