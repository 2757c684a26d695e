"""What a model is: a layout of one flat vector, a loss with its gradient, and predictions.

Parameters travel as one flat vector, so that averaging, compressing or masking never ask what they
mean. Computation follows the vector's type: float32 in experiments, float64 where a test wants
twelve digits.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from fedlab.core.typing import F64, Array, Bool
from fedlab.core.validation import number, parts_of, read_only, shown

#: A further loss of a batch's embeddings, (n, d): its mean over the rows, and its gradient, (n, d).
Pull = Callable[[Array], tuple[float, Array]]


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the arrays that stand one after another in a flat vector.

    Parameters
    ----------
    shapes : tuple of (name, shape)
    buffers : tuple of str
        Arrays that no gradient moves, such as a batch normalisation's running statistics. Training
        gives them new values; servers average them, and never step along them.

    Examples
    --------
    >>> layout = Layout((("weights", (3, 2)), ("bias", (2,))))
    >>> layout.size
    8
    >>> layout.views(np.arange(8.0))["bias"]
    array([6., 7.])
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    buffers: tuple[str, ...] = ()

    @cached_property
    def size(self) -> int:
        return sum(math.prod(shape) for _, shape in self.shapes)

    @cached_property
    def buffered(self) -> Bool | None:
        """(p,) mask of what stands in buffers, read-only; None where nothing does."""
        return self.mask(*self.buffers) if self.buffers else None

    def names(self, pattern: str = "*") -> list[str]:
        """Return the names of the arrays, or of those that match a pattern (see `fnmatch`)."""
        return [name for name, _ in self.shapes if fnmatch.fnmatchcase(name, pattern)]

    def mask(self, *patterns: str) -> Bool:
        """Return which numbers belong to arrays of these names, (p,), read-only.

        Parameters
        ----------
        *patterns : str
            Names, or patterns such as ``"head.*"`` (see `fnmatch`); each must match.

        Examples
        --------
        >>> Layout((("weights", (2,)), ("bias", (1,)))).mask("b*")
        array([False, False,  True])
        """
        chosen = np.zeros(self.size, np.bool_)
        parts = self.views(chosen)
        for pattern in patterns:
            if not (named := self.names(pattern)):
                raise ValueError(f"no array is called {pattern!r}; there are {', '.join(parts)}")
            for name in named:
                parts[name][...] = True
        return read_only(chosen)

    def part(self, mask: Bool) -> Layout:
        """Return the layout of the numbers under a mask, (p,): arrays that are cut are vectors.

        Examples
        --------
        >>> layout = Layout((("weights", (2, 2)), ("bias", (2,))))
        >>> layout.part(np.array([True, True, True, False, False, False])).shapes
        (('weights', (3,)),)
        """
        left = {name: int(np.count_nonzero(part)) for name, part in self.views(mask).items()}
        kept = [(name, shape) for name, shape in self.shapes if left[name]]
        shapes = ((n, shape if left[n] == math.prod(shape) else (left[n],)) for n, shape in kept)
        return Layout(tuple(shapes), tuple(name for name in self.buffers if left[name]))

    def views(self, vector: Array) -> dict[str, Array]:
        """Return the named arrays as views into `vector`: writing to one writes to the vector."""
        arrays, start = {}, 0
        for name, shape in self.shapes:
            stop = start + math.prod(shape)
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

    Where an algorithm works on embeddings (MOON, FedProto), a model also has ``classes``, ``embed(
    parameters, x)``, which returns what enters its last layer, (n, d), and a `loss_and_gradient`
    that takes ``pull=``: a further loss of the batch's embeddings, to be added (see `Pull`). Where
    rows are chosen by their loss, ``losses(parameters, x, y)`` tells it for all at once, (n,).
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
        """Return the mean loss over the rows, and its gradient as a flat vector.

        Where the layout has buffers, the gradient holds their new values.
        """

    def evaluate(self, parameters: Array, x: Array, y: Array) -> dict[str, float]:
        """Return measures by name, each a mean over rows; ``loss`` is among them."""


def gradient_of(
    model: Model,
    parameters: Array,
    x: Array,
    y: Array,
    draw: np.random.Generator | None = None,
    objective: Any = None,
) -> tuple[float, Array]:
    """Return what `Model.loss_and_gradient` gives, or say what it should have given.

    Parameters
    ----------
    model : Model
    parameters : (p,) array
    x, y : (n, inputs) and (n,) arrays
    draw : Generator, optional
        For a model that is ``stochastic``.
    objective : Objective, optional
        What is minimised instead of the model's loss (see `fedlab.training.work.Objective`).
    """
    chance: dict[str, Any] = {"draw": draw} if getattr(model, "stochastic", False) else {}
    who = f"{type(model if objective is None else objective).__name__}.loss_and_gradient"
    try:
        if objective is None:
            given = model.loss_and_gradient(read_only(parameters), x, y, **chance)
        else:
            given = objective.loss_and_gradient(model, read_only(parameters), x, y, **chance)
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


def losses_of(model: Model, parameters: Array, x: Array, y: Array) -> F64:
    """Return each row's loss, (r,).

    A model with ``losses(parameters, x, y)`` is asked once; others are measured row by row.
    """
    if hasattr(model, "losses"):
        return np.asarray(model.losses(parameters, x, y), np.float64)
    rows = zip(x[:, None], y[:, None], strict=True)
    return np.array([measures_of(model, parameters, *row)["loss"] for row in rows])


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


def refuse_other_than_numbers(y: Array) -> None:
    """Raise unless labels are numbers."""
    if y.dtype.kind not in "iuf":
        raise TypeError(f"labels of type {y.dtype} were given; numbers are needed")


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


class OfClasses:
    """What models of classes have in common that give a score for each: see `cross_entropy`."""

    classes: int

    def scores(self, parameters: Array, x: Array) -> Array:
        """Return each row's scores, (n, classes)."""
        raise NotImplementedError

    def check_labels(self, y: Array) -> None:
        refuse_other_than_classes(y, self.classes)

    def predict(self, parameters: Array, x: Array) -> Array:
        """Return each row's class probabilities, (n, classes)."""
        scores = self.scores(parameters, x)
        return cross_entropy(scores, np.zeros(len(scores), np.int64))[1]

    def evaluate(self, parameters: Array, x: Array, y: Array) -> dict[str, float]:
        """Return ``loss`` (mean cross-entropy) and ``accuracy``."""
        scores = self.scores(parameters, x)
        loss = cross_entropy(scores, y)[0].mean(dtype=np.float64)
        return {"loss": float(loss), "accuracy": float((scores.argmax(axis=1) == y).mean())}

    def losses(self, parameters: Array, x: Array, y: Array) -> Array:
        """Return each row's cross-entropy, (n,)."""
        return cross_entropy(self.scores(parameters, x), y)[0]

    @staticmethod
    def errors(scores: Array, y: Array) -> tuple[Any, Array]:
        """Return the mean loss, (), and its gradient by the scores, (n, classes)."""
        losses, error = cross_entropy(scores, y)
        error[np.arange(len(y)), y] -= 1
        error /= len(y)
        return losses.mean(), error
