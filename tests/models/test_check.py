"""`check_model` lets right models through, and names what is wrong with others."""

import numpy as np
import pytest

from fedlab.models import MLP, LinearRegression, SoftmaxRegression, check_model

DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(12, 4)), DRAW.integers(0, 3, 12)


class Broken(SoftmaxRegression):
    """Softmax regression with one thing wrong."""

    def __init__(self, **wrong):
        super().__init__(4, 3)
        self.__dict__.update(wrong=wrong)

    def initial(self, seed):
        return self.wrong.get("initial", super().initial)(seed)

    def loss_and_gradient(self, parameters, x, y):
        loss, gradient = super().loss_and_gradient(parameters, x, y)
        return self.wrong.get("loss", lambda loss, g, n: (loss, g))(loss, gradient, len(x))

    def evaluate(self, parameters, x, y):
        return self.wrong.get("evaluate", super().evaluate)(parameters, x, y)


def biased(loss, gradient, rows):
    gradient[12:] *= 1.01
    return loss, gradient


@pytest.mark.parametrize(
    "model",
    [SoftmaxRegression(4, 3), SoftmaxRegression(4, 3, l2=0.1), MLP(4, (8, 5), 3), Broken()],
    ids=repr,
)
def test_right_models_pass(model):
    check_model(model, X, Y)
    check_model(LinearRegression(4), X, DRAW.normal(size=12))


def test_a_model_that_computes_in_float32_passes():
    def rounded(loss, gradient, rows):
        return np.float32(loss), gradient.astype(np.float32)

    check_model(Broken(loss=rounded), X, Y)
    with pytest.raises(ValueError, match="wrong gradient of 'weights'"):
        check_model(Broken(loss=lambda loss, g, n: rounded(loss, 1.5 * g, n)), X, Y)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"loss": biased}, "wrong gradient of 'bias'"),
        ({"loss": lambda loss, g, n: (loss, -g)}, "wrong gradient of 'weights'"),
        ({"loss": lambda loss, g, n: (loss * n, g * n)}, "the loss must be a mean over rows"),
        ({"loss": lambda loss, g, n: g}, r"must return \(loss, gradient\)"),
        ({"initial": lambda seed: np.zeros(3)}, r"initial gave shape \(3,\).*15 numbers"),
        ({"initial": lambda seed: np.full(15, np.nan)}, "all must be finite"),
        ({"initial": lambda seed: DRAW.normal(size=15)}, "another start each time"),
        ({"evaluate": lambda p, x, y: 0.5}, "Broken.evaluate returned 0.5"),
    ],
)
def test_what_is_wrong_is_named(wrong, says):
    with pytest.raises((TypeError, ValueError), match=says):
        check_model(Broken(**wrong), X, Y)


def test_what_is_no_model_or_no_rows_is_refused():
    with pytest.raises(TypeError, match="has no layout, inputs"):
        check_model("mlp", X, Y)
    with pytest.raises(ValueError, match=r"\(n, 4\) with n labels"):
        check_model(SoftmaxRegression(4, 3), X[:, :2], Y)
    with pytest.raises(ValueError, match="labels from"):
        check_model(SoftmaxRegression(4, 3), X, Y + 5)


class Dropout(SoftmaxRegression):
    stochastic = True

    def loss_and_gradient(self, parameters, x, y, draw):
        return super().loss_and_gradient(parameters, x * (draw.random(x.shape[1]) > 0.5), y)


def test_chance_is_held_still_while_a_gradient_is_checked():
    check_model(Dropout(4, 3), X, Y)
