"""NumPy's contestants and fedlab train the same model; the floor counts the products they need."""

from __future__ import annotations

import time
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from benchmarks.contest import Laps
from benchmarks.contestants import batched, floor, loop, ours, sums
from benchmarks.workload import Recipe, Workload
from benchmarks.workloads import digits, images, prox, regression


def small(name: str) -> Workload:
    if name == "W1":
        return prox(4, devices=6, cohort=3)
    if name == "W2":
        return digits(4, devices=30, cohort=10)
    if name == "W4":
        return images(4, devices=10, cohort=5, rows_each=60)
    if name == "W3b":  # rows enough to come near its fixed point, where batch orders matter little
        return regression(4, devices=5, rows_each=1_000, batches=True)
    return regression(4, devices=5, rows_each=100)


def trained(module: ModuleType, workload: Workload, seed: int = 0) -> np.ndarray:
    laps = Laps(time.time())
    parameters = module.train(workload, seed, laps)
    assert len(laps.seconds) == workload.rounds
    assert laps.startup > 0
    return parameters


@pytest.mark.parametrize(
    ("name", "tolerance"), [("W1", 0.05), ("W2", 0.02), ("W3", 1e-5), ("W3b", 0.01), ("W4", 0.15)]
)
def test_all_reach_the_same_loss(name: str, tolerance: float) -> None:
    workload = small(name)
    losses = [workload.pooled_loss(trained(m, workload)) for m in (loop, batched, ours)]
    assert losses[0] < 0.9 * workload.pooled_loss(workload.start)
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=tolerance)


@pytest.mark.parametrize("name", ["W1", "W2", "W4"])
def test_where_no_order_is_drawn_all_reach_the_same_parameters(name: str) -> None:
    # Full batches of devices of unequal sizes, the proximal term included.
    workload = small(name)
    workload = replace(workload, recipe=replace(workload.recipe, batch_size=None, mu=0.5, epochs=3))
    plain, *others = (trained(module, workload) for module in (loop, batched, ours))
    assert np.abs(plain - workload.start).max() > 1e-3
    for parameters in others:
        assert parameters == pytest.approx(plain, abs=2e-5)


def test_sufficient_statistics_give_the_same_steps() -> None:
    workload = small("W3")
    assert trained(sums, workload) == pytest.approx(trained(loop, workload), abs=1e-5)


@pytest.mark.parametrize("name", ["W1", "W2", "W3b"])
def test_sufficient_statistics_refuse_what_they_can_not_do(name: str) -> None:
    with pytest.raises(ValueError, match="full-batch linear regression"):
        trained(sums, small(name))


@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
def test_the_loops_gradient_is_the_losses_derivative(loss: str) -> None:
    draw = np.random.default_rng(0)
    widths = (3, 5, 4) if loss == "cross-entropy" else (3, 5, 1)
    x = draw.normal(size=(7, 3))
    y = draw.integers(4, size=7) if loss == "cross-entropy" else draw.normal(size=7)
    recipe = Recipe("a test", widths, loss, 1, None, 0.1, 0.0, 0)
    point = draw.normal(size=3 * 5 + 5 + 5 * widths[-1] + widths[-1])
    workload = Workload(recipe, x, y, np.array([0, 7]), point, np.array([[0]]))
    gradient = np.empty_like(point)
    loop.backpropagate(workload.layers(point), workload.layers(gradient), x, y, loss)
    assert gradient == pytest.approx(approx_fprime(point, workload.pooled_loss, 1e-7), abs=1e-5)


def test_ours_refuses_cohorts_that_are_not_its_own() -> None:
    workload = small("W2")
    shifted = replace(workload, cohorts=(workload.cohorts + 1) % workload.devices)
    with pytest.raises(RuntimeError, match="another cohort"):
        trained(ours, shifted)


def test_the_floor_counts_the_published_operations() -> None:
    # performance.md: 5.3 GFLOP a round of W4, .24 of W2, without the first layer's input gradient.
    def operations(workload: Workload) -> float:
        return sum(
            count * sum(2 * len(a) * a.shape[1] * b.shape[1] for a, b, _ in products)
            for device in workload.cohorts[0]
            for rows, count in floor.batches(workload, device).items()
            for products in [floor.products(workload.recipe.widths, rows)]
        )

    assert operations(images(1)) == pytest.approx(5.3e9, rel=0.02)
    assert operations(digits(1)) == pytest.approx(0.24e9, rel=0.25)


def test_the_floor_counts_short_batches() -> None:
    workload = prox(1, devices=3, cohort=3)
    for device in range(3):
        steps = floor.batches(workload, device)
        assert sum(rows * count for rows, count in steps.items()) == 20 * workload.sizes[device]
        assert sum(steps.values()) == 20 * -(-workload.sizes[device] // 10)
