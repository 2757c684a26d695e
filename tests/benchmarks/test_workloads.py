"""Workloads are what the published table was measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss

from benchmarks.workload import Workload, parameter_count
from benchmarks.workloads import WORKLOADS, digits, images, minibatches, prox, regression


def test_w1_is_fedprox_on_synthetic() -> None:
    workload = prox(rounds=3)
    recipe = workload.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.rate, recipe.mu) == (20, 10, 0.01, 1.0)
    assert recipe.widths == (60, 10)
    assert workload.devices == 30
    assert workload.cohorts.shape == (3, 10)
    assert not workload.start.any()
    # At least nine tenths of 50 rows each; a total and a largest device near the table's.
    assert workload.sizes.min() >= 45
    assert len(workload.x) == pytest.approx(20_101, rel=0.02)
    assert workload.sizes.max() == pytest.approx(4_645, rel=0.05)


def test_w2_is_a_thousand_small_devices() -> None:
    workload = digits(rounds=2)
    recipe = workload.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.rate, recipe.mu) == (1, 32, 0.1, 0.0)
    assert recipe.widths == (64, 128, 10)
    assert workload.x.shape == (60_000, 64)
    assert workload.devices == 1_000
    assert workload.sizes.min() >= 2
    assert workload.cohorts.shape == (2, 100)
    # Grey levels 0 ... 1 under noise of .1.
    assert workload.x.min() == pytest.approx(-0.4, abs=0.15)
    assert workload.x.max() == pytest.approx(1.4, abs=0.15)
    # Dirichlet(.3): few classes make up most of a device.
    largest = [np.bincount(workload.rows_of(k)[1]).max() / workload.sizes[k] for k in range(1_000)]
    assert np.mean(largest) > 0.4


@pytest.mark.parametrize("batches", [False, True])
def test_w3_is_linear_regression_with_everybody(batches: bool) -> None:
    workload = regression(rounds=2, batches=batches)
    recipe = workload.recipe
    expected = (5, 32, 0.01) if batches else (1, None, 0.1)
    assert (recipe.epochs, recipe.batch_size, recipe.rate) == expected
    assert workload.x.shape == (100_000, 10)
    assert set(workload.sizes) == {2_000}
    assert workload.cohorts.tolist() == [list(range(50))] * 2


def test_w4_is_the_2nn_on_two_shards_each() -> None:
    workload = images(rounds=2)
    recipe = workload.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.rate) == (1, 10, 0.05)
    assert len(workload.start) == parameter_count(recipe.widths) == 199_210
    assert workload.x.shape == (60_000, 784)
    assert 0 <= workload.x.min() <= workload.x.max() <= 1
    assert set(workload.sizes) == {600}
    assert workload.cohorts.shape == (2, 10)
    for device in range(100):
        counts = np.bincount(workload.rows_of(device)[1], minlength=10)
        assert sorted(counts[counts > 0]) in ([300, 300], [600])


@pytest.mark.parametrize("make", [prox, digits, regression, images])
def test_what_everybody_gets_is_float32_and_drawn_from_the_seed(make) -> None:
    workload, again = make(2), make(3)
    assert workload.x.dtype == workload.start.dtype == np.float32
    assert workload.y.dtype == (np.float32 if workload.recipe.loss == "squared" else np.int64)
    assert np.array_equal(workload.x, again.x)
    assert np.array_equal(workload.start, again.start)
    assert np.array_equal(workload.cohorts, again.cohorts[:2])
    assert all(len(set(cohort)) == len(cohort) for cohort in workload.cohorts.tolist())


def test_rows_of_a_device_are_in_no_order() -> None:
    # pfl-research trains on batches in the order of the rows.
    x, y = images(1, devices=5, cohort=1).rows_of(0)
    assert len(x) == 600
    assert np.count_nonzero(np.diff(y)) > 100


def test_a_workload_survives_its_file(tmp_path: Path) -> None:
    workload = digits(2, devices=10, cohort=3)
    workload.write(tmp_path / "w.npz")
    back = Workload.read(tmp_path / "w.npz")
    assert back.recipe == workload.recipe
    for name in ("x", "y", "offsets", "start", "cohorts"):
        kept, read = getattr(workload, name), getattr(back, name)
        assert kept.dtype == read.dtype
        assert np.array_equal(kept, read)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    minibatches(1).write(tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz") as arrays:
        forged = {**arrays, "x": np.array([{}], dtype=object)}
    np.savez(tmp_path / "w.npz", **forged)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Workload.read(tmp_path / "w.npz")


def test_pooled_loss_is_that_of_scikit_learn() -> None:
    workload = digits(1, devices=10, cohort=3)
    layers = [
        part.astype(np.float64) for layer in workload.layers(workload.start) for part in layer
    ]
    hidden = np.maximum(workload.x @ layers[0] + layers[1], 0)
    powers = np.exp(hidden @ layers[2] + layers[3])
    shares = powers / powers.sum(axis=1, keepdims=True)
    expected = log_loss(workload.y, shares, labels=range(10))
    assert workload.pooled_loss(workload.start) == pytest.approx(expected, rel=1e-9)


def test_pooled_loss_of_regression_is_half_the_mean_square() -> None:
    workload = regression(1, devices=2, rows_each=5_000)  # more rows than are taken at once
    expected = np.square(workload.y.astype(np.float64)).mean() / 2  # the start is 0
    assert workload.pooled_loss(workload.start) == pytest.approx(expected)


def test_all_published_workloads_are_there() -> None:
    assert list(WORKLOADS) == ["W1", "W2", "W3", "W3b", "W4"]
    assert [make(1).recipe.name for make in WORKLOADS.values()] == list(WORKLOADS)
