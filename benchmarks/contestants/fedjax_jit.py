"""FedJAX: its own `federated_averaging` and `fed_prox`, on its default `jit` backend for clients.

Batches come from `ClientDataset.shuffle_repeat_batch`, as in its examples: always of full size, the
last one filled up from a further pass, so that one compiled step serves all devices. Its `pmap`
backend over two host devices was slower (W2 204 ms against 76, W4 483 against 372).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fedjax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contest import Laps, main
from benchmarks.workload import Array, Workload


def train(workload: Workload, seed: int, laps: Laps) -> Array:
    # Seedless, as in FedJAX's examples: a seed would give a device the same batches every round.
    algorithm = _algorithm(workload)
    datasets = [_dataset(workload, number) for number in range(workload.devices)]
    start = [(jnp.asarray(w), jnp.asarray(b)) for w, b in workload.layers(workload.start)]
    state = algorithm.init(start)
    laps.start()
    for number, cohort in enumerate(workload.cohorts):
        # Keys as FedJAX's own samplers draw them.
        keys = jax.random.split(jax.random.PRNGKey(number), len(cohort))
        clients = [
            (int(device), datasets[device], key) for device, key in zip(cohort, keys, strict=True)
        ]
        state, _ = algorithm.apply(state, clients)
        jax.block_until_ready(state.params)
        laps.lap()
    return np.concatenate([np.ravel(array) for layer in state.params for array in layer])


def _dataset(workload: Workload, number: int) -> fedjax.ClientDataset:
    x, y = workload.rows_of(number)
    return fedjax.ClientDataset({"x": x, "y": y.astype(np.int32) if y.dtype.kind == "i" else y})


def _algorithm(workload: Workload) -> fedjax.FederatedAlgorithm:
    recipe = workload.recipe
    loss = per_example_loss(recipe.loss)
    batches = fedjax.ShuffleRepeatBatchHParams(
        batch_size=recipe.batch_size or int(workload.sizes.max()),
        num_epochs=recipe.epochs,
        skip_shuffle=recipe.batch_size is None,
    )
    client, server = fedjax.optimizers.sgd(recipe.rate), fedjax.optimizers.sgd(1.0)
    if recipe.mu:
        return fedjax.algorithms.fed_prox.fed_prox(loss, client, server, batches, recipe.mu)
    gradient = jax.grad(lambda *given: loss(*given).mean())
    return fedjax.algorithms.fed_avg.federated_averaging(gradient, client, server, batches)


def per_example_loss(loss: str) -> Callable[[Any, Any, Any], Any]:
    """Return the function of (parameters, batch, key) to each row's loss."""

    def losses(layers: Any, batch: Any, key: Any) -> Any:
        passed = batch["x"]
        for weights, bias in layers[:-1]:
            passed = jax.nn.relu(passed @ weights + bias)
        scores = passed @ layers[-1][0] + layers[-1][1]
        if loss == "squared":
            return jnp.square(scores[:, 0] - batch["y"]) / 2
        chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), batch["y"][:, None], axis=1)
        return -chosen[:, 0]

    return losses


if __name__ == "__main__":
    main(train, "fedjax", "jax", "jaxlib")
