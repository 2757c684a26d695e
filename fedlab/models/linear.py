"""Linear and softmax regression."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedlab.core.typing import Array
from fedlab.core.validation import not_negative, whole_number
from fedlab.models.base import Layout, OfClasses, refuse_other_than_numbers


@dataclass(frozen=True)
class LinearRegression:
    """f(x) = x w + b, with the loss (f(x) - y)^2 / 2, whose gradient is (f(x) - y) x.

    Parameters
    ----------
    inputs : int
        Numbers in a row.
    l2 : float
        Adds ``l2 / 2 |w|^2`` to the loss (not to the bias).

    Examples
    --------
    >>> model = LinearRegression(inputs=1)
    >>> model.loss_and_gradient(np.zeros(2), np.array([[2.0]]), np.array([3.0]))
    (4.5, array([-6., -3.]))
    """

    inputs: int
    l2: float = 0.0

    def __post_init__(self) -> None:
        whole_number(self.inputs, "inputs", 1)
        not_negative(l2=self.l2)

    @cached_property
    def layout(self) -> Layout:
        return Layout((("weights", (self.inputs,)), ("bias", (1,))))

    def check_labels(self, y: Array) -> None:
        refuse_other_than_numbers(y)

    def initial(self, seed: int) -> Array:
        """Return zeros: the problem is convex, so the start decides nothing."""
        return np.zeros(self.layout.size, np.float32)

    def predict(self, parameters: Array, x: Array) -> Array:
        """Return f(x), (n,)."""
        return np.asarray(x @ parameters[:-1] + parameters[-1])

    def loss_and_gradient(self, parameters: Array, x: Array, y: Array) -> tuple[float, Array]:
        error = self.predict(parameters, x) - y.astype(parameters.dtype)
        weights = parameters[:-1]
        gradient = np.empty_like(parameters)
        gradient[:-1] = error @ x / len(x) + self.l2 * weights
        gradient[-1] = error.mean()
        return float(np.square(error).mean() / 2 + self.l2 / 2 * weights @ weights), gradient

    def evaluate(self, parameters: Array, x: Array, y: Array) -> dict[str, float]:
        """Return ``loss`` (half the mean squared error) and ``mse``."""
        mse = float(np.square(self.predict(parameters, x) - y, dtype=np.float64).mean())
        return {"loss": mse / 2, "mse": mse}

    def losses(self, parameters: Array, x: Array, y: Array) -> Array:
        """Return half of each row's squared error, (n,)."""
        return np.asarray(np.square(self.predict(parameters, x) - y, dtype=np.float64) / 2)


@dataclass(frozen=True)
class SoftmaxRegression(OfClasses):
    """P(class | x) = softmax(x W + b), with the cross-entropy as loss.

    Parameters
    ----------
    inputs, classes : int
        Numbers in a row; classes 0 ... classes - 1.
    l2 : float
        Adds ``l2 / 2 |W|^2`` to the loss (not to the bias).

    Examples
    --------
    >>> model = SoftmaxRegression(inputs=2, classes=3)
    >>> loss, _ = model.loss_and_gradient(np.zeros(9), np.ones((1, 2)), np.array([0]))
    >>> round(loss, 6) == round(float(np.log(3)), 6)
    True
    """

    inputs: int
    classes: int
    l2: float = 0.0

    def __post_init__(self) -> None:
        whole_number(self.inputs, "inputs", 1)
        whole_number(self.classes, "classes", 2)
        not_negative(l2=self.l2)

    @cached_property
    def layout(self) -> Layout:
        return Layout((("weights", (self.inputs, self.classes)), ("bias", (self.classes,))))

    def initial(self, seed: int) -> Array:
        """Return zeros: the problem is convex, so the start decides nothing."""
        return np.zeros(self.layout.size, np.float32)

    def scores(self, parameters: Array, x: Array) -> Array:
        """Return x W + b, (n, classes)."""
        parts = self.layout.views(parameters)
        return np.asarray(x @ parts["weights"] + parts["bias"])

    def loss_and_gradient(self, parameters: Array, x: Array, y: Array) -> tuple[float, Array]:
        weights = self.layout.views(parameters)["weights"]
        loss, error = self.errors(self.scores(parameters, x), y)
        gradient = np.empty_like(parameters)
        parts = self.layout.views(gradient)
        parts["weights"][:] = x.T @ error + self.l2 * weights
        parts["bias"][:] = error.sum(axis=0)
        return float(loss + self.l2 / 2 * np.square(weights).sum()), gradient
