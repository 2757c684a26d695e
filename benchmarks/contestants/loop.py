"""Plain NumPy as a competent user writes it: one device after another, one batch after another.

One BLAS thread: at these shapes a second one costs more than it computes.
"""

from __future__ import annotations

import numpy as np

from benchmarks.contest import Laps, main
from benchmarks.workload import Array, Layers, Workload


def train(workload: Workload, seed: int, laps: Laps) -> Array:
    draw = np.random.default_rng(seed)
    server = workload.start.copy()
    laps.start()
    for cohort in workload.cohorts:
        weights = workload.sizes[cohort] / workload.sizes[cohort].sum()
        server = sum(
            weight * local_training(workload, device, server, draw)
            for device, weight in zip(cohort, weights.astype(np.float32), strict=True)
        )
        laps.lap()
    return server


def local_training(
    workload: Workload, device: int, server: Array, draw: np.random.Generator
) -> Array:
    """Return the flat vector of a device's parameters after its epochs."""
    recipe = workload.recipe
    x, y = workload.rows_of(device)
    vector, gradient = server.copy(), np.empty_like(server)
    layers, gradients = workload.layers(vector), workload.layers(gradient)
    rate, mu, batch = np.float32(recipe.rate), np.float32(recipe.mu), workload.batch_of(device)
    for _ in range(recipe.epochs):
        order = draw.permutation(len(x)) if batch < len(x) else np.arange(len(x))
        for start in range(0, len(x), batch):
            rows = order[start : start + batch] if batch < len(x) else slice(None)
            backpropagate(layers, gradients, x[rows], y[rows], recipe.loss)
            if mu:
                gradient += mu * (vector - server)
            gradient *= rate
            vector -= gradient
    return vector


def backpropagate(layers: Layers, gradients: Layers, x: Array, y: Array, loss: str) -> None:
    """Write the gradient of the mean loss over a batch into `gradients`."""
    entered = [x]
    for weights, bias in layers[:-1]:
        entered.append(np.maximum(entered[-1] @ weights + bias, 0))
    scores = entered[-1] @ layers[-1][0] + layers[-1][1]
    error = _error(scores, y, loss)
    for place in reversed(range(len(layers))):
        np.dot(entered[place].T, error, out=gradients[place][0])
        error.sum(axis=0, out=gradients[place][1])
        if place:
            error = error @ layers[place][0].T
            error *= entered[place] > 0


def _error(scores: Array, y: Array, loss: str) -> Array:
    """Return the mean loss's gradient with respect to the scores."""
    if loss == "squared":
        error = scores - y[:, None]
    else:
        error = np.exp(scores - scores.max(axis=1, keepdims=True))
        error /= error.sum(axis=1, keepdims=True)
        error[np.arange(len(y)), y] -= 1
    error /= len(y)
    return error


if __name__ == "__main__":
    main(train)
