"""The workloads, each drawn from its seed.

Cohorts are those that `fedlab` draws at the workload's seed, so that the engine needs no door of
its own for the benchmark; every contestant is handed the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.workload import Array, Recipe, Workload, parameter_count
from fedlab import MLP, Device, VectorIndex
from fedlab.data import dirichlet, shards, synthetic
from fedlab.fleet import choose_cohort

# Device sizes of synthetic(1, 1) are lognormal with a heavy tail. Of seeds 0 ... 399 this one comes
# nearest to the federation that the published table was measured on: 19,888 rows against 20,101,
# the largest device 4,839 against 4,645.
PROX_SEED = 105


def prox(rounds: int, *, devices: int = 30, cohort: int = 10) -> Workload:
    """W1: FedProx on synthetic(1, 1), softmax regression."""
    recipe = Recipe(
        name="W1",
        widths=(60, 10),
        loss="cross-entropy",
        epochs=20,
        batch_size=10,
        rate=0.01,
        mu=1.0,
        seed=PROX_SEED,
    )
    drawn = synthetic(1, 1, recipe.seed, devices=devices)
    rows = [np.asarray(part) for part in drawn.train_partition.rows]
    return _workload(recipe, drawn.train.x, drawn.train.y, rows, cohort, rounds)


def digits(rounds: int, *, devices: int = 1000, cohort: int = 100, rows_each: int = 60) -> Workload:
    """W2: many small devices. scikit-learn's digits, resampled with noise; Dirichlet(.3) skew."""
    from sklearn.datasets import load_digits

    recipe = Recipe(
        name="W2",
        widths=(64, 128, 10),
        loss="cross-entropy",
        epochs=1,
        batch_size=32,
        rate=0.1,
        mu=0.0,
        seed=0,
    )
    draw = np.random.default_rng(recipe.seed)
    originals, classes = load_digits(return_X_y=True)
    chosen = draw.integers(len(originals), size=devices * rows_each)
    x = originals[chosen] / 16 + draw.normal(0, 0.1, (len(chosen), 64))
    split = dirichlet(classes[chosen], devices, 0.3, recipe.seed, min_rows=2)
    return _workload(recipe, x, classes[chosen], split.rows, cohort, rounds)


def regression(
    rounds: int, *, devices: int = 50, rows_each: int = 2000, batches: bool = False
) -> Workload:
    """W3: linear regression, everybody takes one full-batch step; W3b: 5 epochs of batches."""
    recipe = Recipe(
        name="W3b" if batches else "W3",
        widths=(10, 1),
        loss="squared",
        epochs=5 if batches else 1,
        batch_size=32 if batches else None,
        rate=0.01 if batches else 0.1,
        mu=0.0,
        seed=0,
    )
    draw = np.random.default_rng(recipe.seed)
    x = draw.normal(size=(devices * rows_each, 10))
    # Devices differ in their solution around a common one.
    common = draw.normal(size=10)
    solutions = common + 0.3 * draw.normal(size=(devices, 10))
    noise = 0.1 * draw.normal(size=len(x))
    y = np.einsum("nd,nd->n", x, np.repeat(solutions, rows_each, axis=0)) + noise
    rows = np.split(np.arange(len(x)), devices)
    return _workload(recipe, x, y.astype(np.float32), rows, devices, rounds)


def minibatches(rounds: int) -> Workload:
    """W3b."""
    return regression(rounds, batches=True)


def images(rounds: int, *, devices: int = 100, cohort: int = 10, rows_each: int = 600) -> Workload:
    """W4: the 2NN of McMahan et al. 2017 on rows of MNIST's shape, two one-class shards each."""
    recipe = Recipe(
        name="W4",
        widths=(784, 200, 200, 10),
        loss="cross-entropy",
        epochs=1,
        batch_size=10,
        rate=0.05,
        mu=0.0,
        seed=0,
    )
    draw = np.random.default_rng(recipe.seed)
    total = devices * rows_each
    classes = np.arange(total) % 10
    # A class is a pattern of lit pixels, about a fifth of them as in MNIST, under heavy noise.
    patterns = (draw.random((10, 784)) < 0.2).astype(np.float32)
    x = 0.3 * patterns[classes] + 0.2 * draw.random((total, 784), np.float32)
    x += 0.5 * (draw.random((total, 784), np.float32) < 0.1)
    split = shards(classes, devices, recipe.seed)
    return _workload(recipe, x, classes, split.rows, cohort, rounds)


WORKLOADS: dict[str, Callable[[int], Workload]] = {
    "W1": prox,
    "W2": digits,
    "W3": regression,
    "W3b": minibatches,
    "W4": images,
}

# How far a final loss may lie from the plain loop's, relative to it, since batch orders differ: at
# least twice what the loop's own losses lay apart from their median over 8 to 16 orders, after 4
# and after 10 rounds (1.9%, .2%, 0, 1e-6, 6%). What this notices: no proximal term in W1 (6% and
# 72%); in W2, W3 and W4 an epoch more (10% to 43%) or a round less (4% to 35%); in W2 and W3 a step
# size a tenth larger (1.5% to 9%). W3b is at its fixed point from the fourth round on, so that
# only another fixed point is noticed.
TOLERANCES = {"W1": 0.04, "W2": 0.01, "W3": 1e-4, "W3b": 1e-4, "W4": 0.15}


def _workload(
    recipe: Recipe, x: Array, y: Array, rows: Sequence[Array], cohort: int, rounds: int
) -> Workload:
    # A device's rows lie in random order: pfl-research takes batches in the order that it is given.
    draw = np.random.default_rng([recipe.seed, 1])
    order = np.concatenate([draw.permutation(part) for part in rows])
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in rows])])
    return Workload(
        recipe,
        np.ascontiguousarray(x[order], np.float32),
        y[order],
        offsets,
        _start(recipe),
        _cohorts(len(rows), cohort, recipe.seed, rounds),
    )


def _start(recipe: Recipe) -> Array:
    """Return zeros for a linear model (the problem is convex), and He's start for an MLP."""
    inputs, *hidden, outputs = recipe.widths
    if not hidden:
        return np.zeros(parameter_count(recipe.widths), np.float32)
    return MLP(inputs, tuple(hidden), outputs).initial(recipe.seed)


def _cohorts(devices: int, cohort: int, seed: int, rounds: int) -> Array:
    population = [Device(number, VectorIndex(1)) for number in range(devices)]
    chosen = [choose_cohort(population, cohort, seed, number) for number in range(1, rounds + 1)]
    return np.array([[device.id for device in round] for round in chosen], np.int64)


def spread_of_sizes(workload: Workload) -> str:
    """Return a line on how rows are spread."""
    sizes = workload.sizes
    return (
        f"{workload.devices:,} devices, {len(workload.x):,} rows, "
        f"{sizes.min():,} to {sizes.max():,} on a device, {workload.cohorts.shape[1]} a round"
    )
