"""The floor: a round's matrix products alone, at a step's shapes, on one BLAS thread.

No contestant: it trains nothing. The time of each round's products, one after another, is divided
by the number of cores, as if they were spread without loss. No gradient is taken with respect to
the rows, nobody needs it.
"""

from __future__ import annotations

import os
import time
from functools import cache
from itertools import pairwise

import numpy as np

from benchmarks.contest import Laps, main
from benchmarks.workload import Array, Workload


def measure(workload: Workload, seed: int, laps: Laps) -> Array:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

    @cache
    def seconds(batch: int) -> float:
        return step_seconds(workload.recipe.widths, batch)

    for cohort in workload.cohorts:
        total = sum(
            count * seconds(batch)
            for device in cohort
            for batch, count in batches(workload, device).items()
        )
        laps.seconds.append(total / (cores or 1))
    return workload.start


def batches(workload: Workload, device: int) -> dict[int, int]:
    """Return how many steps of a round a device takes with how many rows."""
    size, batch, epochs = int(workload.sizes[device]), workload.batch_of(device), 1
    epochs = workload.recipe.epochs
    counts = {batch: epochs * (size // batch), size % batch: epochs}
    return {rows: count for rows, count in counts.items() if rows and count}


def products(widths: tuple[int, ...], batch: int) -> list[tuple[Array, Array, Array]]:
    """Return (a, b, out) of each product a @ b of a step: scores, gradients, errors passed back."""
    draw = np.random.default_rng(0)
    made = []
    for place, (inputs, outputs) in enumerate(pairwise(widths)):
        entered = draw.random((batch, inputs), np.float32)
        weights = draw.random((inputs, outputs), np.float32)
        error = draw.random((batch, outputs), np.float32)
        pairs = [(entered, weights), (entered.T, error)]
        if place:
            pairs.append((error, weights.T))
        made += [(a, b, np.empty((len(a), b.shape[1]), np.float32)) for a, b in pairs]
    return made


def step_seconds(widths: tuple[int, ...], batch: int) -> float:
    """Return the median seconds of a step's products over repetitions that last .2 s or so."""
    made, times = products(widths, batch), []
    until = time.perf_counter() + 0.2
    while time.perf_counter() < until or len(times) < 20:
        before = time.perf_counter()
        for a, b, out in made:
            np.matmul(a, b, out=out)
        times.append(time.perf_counter() - before)
    return float(np.median(times))


if __name__ == "__main__":
    main(measure)
