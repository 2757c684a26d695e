"""What a model is: a layout of one flat vector, a loss with its gradient, and predictions.

Parameters travel as one flat vector, so that averaging, compressing or masking never ask what they
mean. Computation follows the vector's type: float32 in experiments, float64 where a test wants
twelve digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedlab.core.typing import Array


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

    @property
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


class Model(Protocol):
    """What training and evaluation ask of a model. Bring one of your own by writing these six."""

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
