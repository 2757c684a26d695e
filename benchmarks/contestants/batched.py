"""NumPy over all devices of a cohort at once: 3-D matrix products with the devices in front.

Devices stand in falling order of their number of steps, so that those that are done fall off the
end and nothing is computed for them; short batches are padded with rows of weight zero.
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
        trained, weights = local_training(workload, cohort, server, draw)
        server = weights @ trained
        laps.lap()
    return server


def local_training(
    workload: Workload, cohort: Array, server: Array, draw: np.random.Generator
) -> tuple[Array, Array]:
    """Return the devices' parameters, (m, p), and what each counts."""
    recipe = workload.recipe
    cohort = cohort[np.argsort(-workload.sizes[cohort], kind="stable")]
    vectors = np.repeat(server[None], len(cohort), axis=0)
    gradient = np.empty_like(vectors)
    layers, gradients = _stacked(workload, vectors), _stacked(workload, gradient)
    rate, mu = np.float32(recipe.rate), np.float32(recipe.mu)
    for x, y, share in _steps(workload, cohort, draw):
        active = len(x)
        _backpropagate(
            [(w[:active], b[:active]) for w, b in layers],
            [(w[:active], b[:active]) for w, b in gradients],
            x,
            y,
            share,
            recipe.loss,
        )
        moves, points = gradient[:active], vectors[:active]
        if mu:
            moves += mu * (points - server)
        moves *= rate
        points -= moves
    weights = workload.sizes[cohort] / workload.sizes[cohort].sum()
    return vectors, weights.astype(np.float32)


def _steps(workload: Workload, cohort: Array, draw: np.random.Generator):
    """Yield each step's rows (a, B, d), labels (a, B), and what each row counts (a, B, 1)."""
    recipe, sizes = workload.recipe, workload.sizes[cohort]
    if recipe.batch_size is None and (sizes == sizes[0]).all() and len(cohort) == workload.devices:
        x = workload.x.reshape(len(cohort), sizes[0], -1)  # the order of devices stayed
        y = workload.y.reshape(len(cohort), sizes[0])
        share = np.full((1, 1, 1), 1 / sizes[0], np.float32)
        for _ in range(recipe.epochs):
            yield x, y, np.broadcast_to(share, (*y.shape, 1))
        return
    rows, counted = _plan(workload, cohort, draw)
    active = (counted[:, :, 0] > 0).sum(axis=1)
    share = counted / np.maximum(counted.sum(axis=2, keepdims=True), 1)
    for step, many in enumerate(active):
        chosen = rows[step, :many]
        yield workload.x[chosen], workload.y[chosen], share[step, :many, :, None]


def _plan(workload: Workload, cohort: Array, draw: np.random.Generator) -> tuple[Array, Array]:
    """Return which row of all stands where, (steps, m, B), and 1 where a row counts, else 0."""
    epochs = workload.recipe.epochs
    sizes = workload.sizes[cohort]
    batch = workload.recipe.batch_size or int(sizes.max())
    batch = min(batch, int(sizes.max()))
    per_epoch = -(-sizes // batch)
    steps = epochs * int(per_epoch.max())
    rows = np.zeros((steps, len(cohort), batch), np.int64)
    counted = np.zeros((steps, len(cohort), batch), np.float32)
    for place, device in enumerate(cohort):
        size, each = int(sizes[place]), int(per_epoch[place])
        # No device is cut at an epoch's end by another's: each goes on to its own next epoch.
        order = np.zeros((epochs, each * batch), np.int64)
        order[:, :size] = draw.permuted(np.tile(np.arange(size), (epochs, 1)), axis=1)
        mask = np.arange(each * batch) < size
        stop = epochs * each
        rows[:stop, place] = order.reshape(stop, batch) + workload.offsets[device]
        counted[:stop, place] = np.tile(mask, (epochs, 1)).reshape(stop, batch)
    return rows, counted


def _stacked(workload: Workload, vectors: Array) -> Layers:
    """Return views of (m, in, out) weights and (m, 1, out) biases of each layer."""
    layers, at = [], 0
    for weights, bias in workload.layers(vectors[0]):
        middle, end = at + weights.size, at + weights.size + bias.size
        # Rows of a slice aren't contiguous with each other, but each reshapes without a copy.
        stacked = vectors[:, at:middle].reshape(len(vectors), *weights.shape, copy=False)
        layers.append((stacked, vectors[:, None, middle:end]))
        at = end
    return layers


def _backpropagate(
    layers: Layers, gradients: Layers, x: Array, y: Array, share: Array, loss: str
) -> None:
    """Write the gradients of the devices' mean losses over their batches into `gradients`."""
    entered = [x]
    for weights, bias in layers[:-1]:
        entered.append(np.maximum(entered[-1] @ weights + bias, 0))
    scores = entered[-1] @ layers[-1][0] + layers[-1][1]
    error = _error(scores, y, loss)
    error *= share
    for place in reversed(range(len(layers))):
        np.matmul(entered[place].transpose(0, 2, 1), error, out=gradients[place][0])
        error.sum(axis=1, keepdims=True, out=gradients[place][1])
        if place:
            error = error @ layers[place][0].transpose(0, 2, 1)
            error *= entered[place] > 0


def _error(scores: Array, y: Array, loss: str) -> Array:
    if loss == "squared":
        return scores - y[:, :, None]
    error = np.exp(scores - scores.max(axis=2, keepdims=True))
    error /= error.sum(axis=2, keepdims=True)
    np.put_along_axis(
        error, y[:, :, None], np.take_along_axis(error, y[:, :, None], axis=2) - 1, axis=2
    )
    return error


if __name__ == "__main__":
    main(train)
