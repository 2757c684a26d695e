"""fedlab, through its front door: `Federation.round`, threads as they come."""

from __future__ import annotations

from benchmarks.contest import Laps, main
from benchmarks.workload import Array, Recipe, Workload
from fedlab import MLP, Device, Federation, LinearRegression, LocalSGD, SoftmaxRegression
from fedlab.algorithms import FedAvg, FedProx
from fedlab.fleet import choose_cohort
from fedlab.index.vectorindex import VectorIndex
from fedlab.models.base import Model


def train(workload: Workload, seed: int, laps: Laps) -> Array:
    """Train; `seed` plays no part, since the workload's decides both cohorts and batches."""
    recipe = workload.recipe
    federation = Federation(
        [device_of(workload, number) for number in range(workload.devices)],
        model_of(recipe),
        algorithm=FedProx(mu=recipe.mu) if recipe.mu else FedAvg(),
        local=LocalSGD(recipe.epochs, recipe.batch_size, recipe.rate),
        cohort=workload.cohorts.shape[1],
        seed=recipe.seed,
        parameters=workload.start,
    )
    _refuse_other_cohorts(federation, workload)
    laps.start()
    for _ in range(workload.rounds):
        federation.round()
        laps.lap()
    return federation.parameters


def device_of(workload: Workload, number: int) -> Device:
    x, y = workload.rows_of(number)
    index = VectorIndex(x.shape[1], "l2sq")
    index.add(x, labels=y)
    return Device(number, index)


def model_of(recipe: Recipe) -> Model:
    inputs, *hidden, outputs = recipe.widths
    if recipe.loss == "squared":
        return LinearRegression(inputs)
    return MLP(inputs, tuple(hidden), outputs) if hidden else SoftmaxRegression(inputs, outputs)


def _refuse_other_cohorts(federation: Federation, workload: Workload) -> None:
    """Raise unless the federation will draw the cohorts that everybody trains."""
    size = workload.cohorts.shape[1]
    for number, cohort in enumerate(workload.cohorts, start=1):
        drawn = choose_cohort(federation.devices, size, workload.recipe.seed, number)
        if [device.id for device in drawn] != cohort.tolist():
            raise RuntimeError(f"round {number} would train another cohort than the workload's")


if __name__ == "__main__":
    main(train, "fedlab-workbench", "numba", "usearch")
