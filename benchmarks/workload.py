"""What every contestant is given: rows, a model's shape, hyper-parameters, a start, the cohorts.

Contestants run in environments of their own, so this module needs NumPy and Python alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Layers = list[tuple[Array, Array]]  # (weights (in, out), bias (out,)) of each layer

_ARRAYS = ("x", "y", "offsets", "start", "cohorts")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes
    ----------
    name : str
    widths : tuple of int
        Inputs, hidden layers (ReLU between them), outputs. Two numbers make a linear model.
    loss : {"cross-entropy", "squared"}
        The mean over a batch of -log softmax(scores)[y], or of (score - y)^2 / 2.
    epochs, batch_size : int
        Passes over a device's rows in a round, and rows of a step; a batch size of None is all.
    rate, mu : float
        Step size; strength of FedProx's proximal term, 0 for FedAvg.
    seed : int
        What rows, start and cohorts were drawn from.
    """

    name: str
    widths: tuple[int, ...]
    loss: str
    epochs: int
    batch_size: int | None
    rate: float
    mu: float
    seed: int


@dataclass(frozen=True, eq=False)
class Workload:
    """A federation and what is to be done with it. Devices count by their rows.

    Attributes
    ----------
    recipe : Recipe
    x : (n, d) float32 array
        Rows of all devices, one device after another.
    y : (n,) array
        int64 classes, or float32 numbers.
    offsets : (devices + 1,) int64 array
        Device k holds rows offsets[k] ... offsets[k + 1] - 1.
    start : (p,) float32 array
        Weights (in, out), row by row, and bias of each layer in turn.
    cohorts : (rounds, m) int64 array
        Which devices train in each round.
    """

    recipe: Recipe
    x: Array
    y: Array
    offsets: Array
    start: Array
    cohorts: Array
    sizes: Array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", np.diff(self.offsets))

    @property
    def devices(self) -> int:
        return len(self.sizes)

    @property
    def rounds(self) -> int:
        return len(self.cohorts)

    def rows_of(self, device: int) -> tuple[Array, Array]:
        """Return a device's rows and labels, as views."""
        rows = slice(int(self.offsets[device]), int(self.offsets[device + 1]))
        return self.x[rows], self.y[rows]

    def batch_of(self, device: int) -> int:
        """Return how many rows a step of a device takes."""
        return self.recipe.batch_size or int(self.sizes[device])

    def layers(self, vector: Array) -> Layers:
        """Return each layer's weights and bias as views into a flat vector."""
        widths, at, layers = self.recipe.widths, 0, []
        for inputs, outputs in pairwise(widths):
            bias = at + inputs * outputs
            layers.append((vector[at:bias].reshape(inputs, outputs), vector[bias : bias + outputs]))
            at = bias + outputs
        return layers

    def pooled_loss(self, parameters: Array) -> float:
        """Return the mean loss over the rows of all devices, in float64."""
        *hidden, (weights, bias) = self.layers(np.asarray(parameters, np.float64))
        total = 0.0
        for start in range(0, len(self.x), 4096):  # a float64 copy of all rows would be large
            passed, y = self.x[start : start + 4096], self.y[start : start + 4096]
            for w, b in hidden:
                passed = np.maximum(passed @ w + b, 0)
            total += float(_losses(self.recipe.loss, passed @ weights + bias, y).sum())
        return total / len(self.x)

    def write(self, path: Path) -> None:
        """Write arrays to `path` and the recipe beside it; both are read without unpickling."""
        np.savez(path, **{name: getattr(self, name) for name in _ARRAYS})
        path.with_suffix(".json").write_text(json.dumps(asdict(self.recipe)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Workload:
        described = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        recipe = Recipe(**{**described, "widths": tuple(described["widths"])})
        with np.load(path, allow_pickle=False) as arrays:
            return cls(recipe, **{name: arrays[name] for name in _ARRAYS})


def parameter_count(widths: tuple[int, ...]) -> int:
    """Return how many weights and biases layers of such widths have."""
    return sum((i + 1) * o for i, o in pairwise(widths))


def _losses(loss: str, scores: Array, y: Array) -> Array:
    if loss == "squared":
        return np.asarray(np.square(scores[:, 0] - y) / 2)
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y])
