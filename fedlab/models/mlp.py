"""The multilayer perceptron."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import Array
from fedlab.core.validation import shown, whole_number
from fedlab.models.base import Layout, OfClasses, Pull


@dataclass(frozen=True)
class MLP(OfClasses):
    """Fully connected layers with ReLU between them, and the cross-entropy as loss.

    Parameters
    ----------
    inputs : int
        Numbers in a row.
    hidden : tuple of int
        Width of each hidden layer; (200, 200) on 784 inputs is the 2NN of McMahan et al. 2017.
    classes : int
        Classes 0 ... classes - 1.

    Examples
    --------
    >>> MLP(inputs=784, hidden=(200, 200), classes=10).layout.size
    199210
    """

    inputs: int
    hidden: tuple[int, ...]
    classes: int

    def __post_init__(self) -> None:
        whole_number(self.inputs, "inputs", 1)
        whole_number(self.classes, "classes", 2)
        if not isinstance(self.hidden, tuple):
            raise TypeError(
                f"hidden is {shown(self.hidden)}; give the width of each hidden layer in a tuple, "
                "such as (200, 200), or (32,) for a single one"
            )
        for width in self.hidden:
            whole_number(width, "a hidden layer's width", 1)

    @cached_property
    def layout(self) -> Layout:
        widths = (self.inputs, *self.hidden, self.classes)
        shapes: list[tuple[str, tuple[int, ...]]] = []
        for layer, (before, after) in enumerate(pairwise(widths), start=1):
            shapes += [(f"weights{layer}", (before, after)), (f"bias{layer}", (after,))]
        return Layout(tuple(shapes))

    def initial(self, seed: int) -> Array:
        """Return weights from N(0, 2 / inputs of the layer) and biases of zero, float32.

        Source: He et al., "Delving deep into rectifiers", ICCV 2015, eq. 10.
        """
        draw = generator(seed, Purpose.INITIAL)
        vector = np.zeros(self.layout.size, np.float32)
        for weights, _ in self._layers(vector):
            weights[:] = draw.normal(0.0, np.sqrt(2 / len(weights)), weights.shape)
        return vector

    def _layers(self, vector: Array) -> list[tuple[Array, Array]]:
        arrays = list(self.layout.views(vector).values())
        return list(zip(arrays[::2], arrays[1::2], strict=True))

    def _forward(self, parameters: Array, x: Array) -> list[Array]:
        """Return what enters each layer, and the scores at the end."""
        passed = [x]
        *hidden, last = self._layers(parameters)
        for weights, bias in hidden:
            passed.append(np.maximum(passed[-1] @ weights + bias, 0))
        passed.append(passed[-1] @ last[0] + last[1])
        return passed

    def scores(self, parameters: Array, x: Array) -> Array:
        """Return what the last layer gives, (n, classes)."""
        return self._forward(parameters, x)[-1]

    def embed(self, parameters: Array, x: Array) -> Array:
        """Return what enters the last layer, (n, its inputs)."""
        return self._forward(parameters, x)[-2]

    def loss_and_gradient(
        self, parameters: Array, x: Array, y: Array, pull: Pull | None = None
    ) -> tuple[float, Array]:
        *entered, scores = self._forward(parameters, x)
        mean, error = self.errors(scores, y)
        loss, pulled = float(mean), None
        if pull is not None:
            further, pulled = pull(entered[-1])
            loss += further
        gradient = np.empty_like(parameters)
        layers = zip(self._layers(parameters), self._layers(gradient), entered, strict=True)
        for (weights, _), (to_weights, to_bias), received in reversed(list(layers)):
            to_weights[:] = received.T @ error
            to_bias[:] = error.sum(axis=0)
            if received is not x:
                error = error @ weights.T
                if pulled is not None:
                    error, pulled = error + pulled.astype(error.dtype), None
                error *= received > 0
        return loss, gradient
