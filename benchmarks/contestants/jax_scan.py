"""JAX by hand: a cohort's whole round is one compiled call, loops over devices and steps inside it.

Steps of all devices stand packed in one list. Its length is what the largest cohort possible needs,
so that there is one compilation; loops end where a device's steps end, so that nothing is computed
for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contest import Laps, main
from benchmarks.contestants.fedjax_jit import per_example_loss
from benchmarks.workload import Array, Workload


def train(workload: Workload, seed: int, laps: Laps) -> Array:
    draw = np.random.default_rng(seed)
    x, y = jnp.asarray(workload.x), jnp.asarray(workload.y)
    train_round = _compiled(workload)
    server = [(jnp.asarray(w), jnp.asarray(b)) for w, b in workload.layers(workload.start)]
    laps.start()
    for cohort in workload.cohorts:
        server = jax.block_until_ready(train_round(server, x, y, *_packed(workload, cohort, draw)))
        laps.lap()
    return np.concatenate([np.ravel(array) for layer in server for array in layer])


def _packed(
    workload: Workload, cohort: Array, draw: np.random.Generator
) -> tuple[Array, Array, Array, Array]:
    """Return rows of each step and what each counts, (s, B); where devices begin; their weights."""
    epochs = workload.recipe.epochs
    batch = min(workload.recipe.batch_size or int(workload.sizes.max()), int(workload.sizes.max()))
    each = -(-workload.sizes // batch)
    longest = epochs * int(np.sort(each)[-len(cohort) :].sum())
    firsts = np.concatenate([[0], np.cumsum(epochs * each[cohort])]).astype(np.int32)
    rows = np.zeros((longest, batch), np.int32)
    shares = np.zeros((longest, batch), np.float32)
    for place, device in enumerate(cohort):
        size, padded = int(workload.sizes[device]), int(each[device]) * batch
        order = np.zeros((epochs, padded), np.int64)
        order[:, :size] = draw.permuted(np.tile(np.arange(size), (epochs, 1)), axis=1)
        counted = np.tile(np.arange(padded) < size, (epochs, 1)).reshape(-1, batch)
        own = slice(firsts[place], firsts[place + 1])
        rows[own] = order.reshape(-1, batch) + workload.offsets[device]
        shares[own] = counted / counted.sum(axis=1, keepdims=True)
    sizes = workload.sizes[cohort]
    return rows, shares, firsts, (sizes / sizes.sum()).astype(np.float32)


def _compiled(workload: Workload) -> Callable[..., Any]:
    recipe = workload.recipe
    losses = per_example_loss(recipe.loss)
    each = jax.tree_util.tree_map

    def loss(layers: Any, x: Any, y: Any, share: Any) -> Any:
        return jnp.dot(losses(layers, {"x": x, "y": y}, None), share)

    @jax.jit
    def train_round(
        server: Any, x: Any, y: Any, rows: Any, shares: Any, firsts: Any, weights: Any
    ) -> Any:
        def step(place: Any, layers: Any) -> Any:
            row = rows[place]
            moves = jax.grad(loss)(layers, x[row], y[row], shares[place])
            if recipe.mu:
                moves = each(lambda g, p, s: g + recipe.mu * (p - s), moves, layers, server)
            return each(lambda p, g: p - recipe.rate * g, layers, moves)

        def device(number: Any, average: Any) -> Any:
            trained = jax.lax.fori_loop(firsts[number], firsts[number + 1], step, server)
            return each(lambda a, p: a + weights[number] * p, average, trained)

        return jax.lax.fori_loop(0, len(weights), device, each(jnp.zeros_like, server))

    return train_round


if __name__ == "__main__":
    main(train, "jax", "jaxlib")
