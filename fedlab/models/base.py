"""What a model is: a layout of one flat vector, a loss with its gradient, and predictions.

Parameters travel as one flat vector, so that averaging, compressing or masking never ask what they
mean. Computation follows the vector's type: float32 in experiments, float64 where a test wants
twelve digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from fedlab.core.typing import Array
from fedlab.core.validation import number, parts_of, read_only, shown


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the arrays that stand one after another in a flat vector.

    Examples
    --------
    >>> layout = Layout((("weights", (3, 2)), ("bias", (2,))))
    >>> layout.size
    8
    >>> layout.views(np.arange(8.0))["bias"]
    array([6., 7.])
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @cached_property
    def size(self) -> int:
        return sum(math.prod(shape) for _, shape in self.shapes)

    def views(self, vector: Array) -> dict[str, Array]:
        """Return the named arrays as views into `vector`: writing to one writes to the vector."""
        arrays, start = {}, 0
        for name, shape in self.shapes:
            stop = start + int(np.prod(shape))
            arrays[name] = vector[start:stop].reshape(shape)
            start = stop
        return arrays


#: What a model has.
MEMBERS = ("layout", "inputs", "check_labels", "initial", "loss_and_gradient", "evaluate")


class Model(Protocol):
    """What training and evaluation ask of a model. Bring one of your own by writing these six.

    `check_model` tries one out. Arrays come read-only. A model that wants chance, for dropout say,
    has a class attribute ``stochastic = True``, and its `loss_and_gradient` gets a generator as
    ``draw=``: all chance of a run comes from its seed, so that it can be repeated.
    """

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""

    @property
    def inputs(self) -> int:
        """Numbers in a row."""

    def check_labels(self, y: Array) -> None:
        """Raise a ValueError or TypeError if the model can't learn from such labels."""

    def initial(self, seed: int) -> Array:
        """Return the parameters that a server begins with, float32."""

    def loss_and_gradient(self, parameters: Array, x: Array, y: Array) -> tuple[float, Array]:
        """Return the mean loss over the rows, and its gradient as a flat vector."""

    def evaluate(self, parameters: Array, x: Array, y: Array) -> dict[str, float]:
        """Return measures by name, each a mean over rows; ``loss`` is among them."""


def gradient_of(
    model: Model, parameters: Array, x: Array, y: Array, draw: np.random.Generator | None = None
) -> tuple[float, Array]:
    """Return what `Model.loss_and_gradient` gives, or say what it should have given.

    Parameters
    ----------
    model : Model
    parameters : (p,) array
    x, y : (n, inputs) and (n,) arrays
    draw : Generator, optional
        For a model that is ``stochastic``.
    """
    chance: dict[str, Any] = {"draw": draw} if getattr(model, "stochastic", False) else {}
    who = f"{type(model).__name__}.loss_and_gradient"
    try:
        given = model.loss_and_gradient(read_only(parameters), x, y, **chance)
    except ValueError as error:
        if "read-only" in str(error):
            raise ValueError(f"{who} writes into its arguments; let it work on copies") from error
        raise
    loss, gradient = parts_of(given, "loss, gradient", who)
    gradient = np.asarray(gradient)
    if gradient.shape != parameters.shape or gradient.dtype.kind != "f":
        raise ValueError(
            f"{who} gave a gradient of shape {gradient.shape}; {parameters.shape} is needed, in "
            f"floating-point numbers and not in {gradient.dtype}"
        )
    if type(loss) is not float:  # arrays of one number come from other libraries
        loss = number(np.asarray(loss)[()], f"the loss of {who}")
    return loss, gradient


def measures_of(model: Model, parameters: Array, x: Array, y: Array) -> dict[str, float]:
    """Return what `Model.evaluate` gives, or say what it should have given."""
    given, who = model.evaluate(read_only(parameters), x, y), f"{type(model).__name__}.evaluate"
    if not isinstance(given, Mapping):
        raise TypeError(f"{who} returned {shown(given)}; measures by name, with a loss, are needed")
    if "loss" not in given:
        raise TypeError(f"{who} gave {', '.join(map(str, given))}, and no 'loss'; it is needed")
    return {name: number(np.asarray(v)[()], f"{name} of {who}") for name, v in given.items()}


def refuse_other_than_classes(y: Array, classes: int) -> None:
    """Raise unless all labels are whole numbers 0 ... classes - 1."""
    if y.dtype.kind not in "iu":
        raise TypeError(
            f"labels of type {y.dtype} were given; class numbers 0 ... {classes - 1} are needed"
        )
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise ValueError(
            f"labels from {y.min()} to {y.max()} were given; the model has classes 0 ... "
            f"{classes - 1}"
        )


def cross_entropy(scores: Array, y: Array) -> tuple[Array, Array]:
    """Return each row's -log softmax(scores)[y], and the softmax.

    Parameters
    ----------
    scores : (n, c) array
    y : (n,) class numbers

    Returns
    -------
    losses : (n,) array
    shares : (n, c) array
        Rows sum to one.
    """
    shifted = scores - scores.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    totals = powers.sum(axis=1)
    losses = np.log(totals) - shifted[np.arange(len(y)), y]
    return losses, powers / totals[:, None]


def measure_classes(scores: Array, y: Array) -> dict[str, float]:
    """Return ``loss`` (mean cross-entropy) and ``accuracy`` of scores against class numbers.

    Parameters
    ----------
    scores : (n, c) array
    y : (n,) whole numbers, 0 ... c - 1
    """
    losses, _ = cross_entropy(scores, y)
    return {
        "loss": float(losses.mean(dtype=np.float64)),
        "accuracy": float((scores.argmax(axis=1) == y).mean()),
    }
