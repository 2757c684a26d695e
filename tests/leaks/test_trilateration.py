"""Distances to chosen points give a row back, exactly; with noise, as well as theory allows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.leaks import Prior, trilaterate
from fedlab.leaks.trilateration import needed
from tests.helpers import METRICS, distances
from tests.leaks.clouds import skewed


def points(count, dimensions, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dimensions))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimensions", [3, 50, 384])
def test_as_many_distances_as_are_needed_give_rows_exactly(metric, dimensions):
    rows = 3 * skewed(20, dimensions)
    asked = points(needed(metric, dimensions), dimensions)
    told = distances(rows, asked, metric).astype(np.float64)
    found = trilaterate(asked, told, metric)
    truth = rows / np.linalg.norm(rows, axis=1, keepdims=True) if metric == "cosine" else rows
    np.testing.assert_allclose(found, truth, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_one_distance_less_is_refused(metric):
    few = needed(metric, 8) - 1
    with pytest.raises(ValueError, match=rf"{few} distances were given.*at least {few + 1}"):
        trilaterate(points(few, 8), np.zeros((few, 1)), metric)


@given(st.floats(0.01, 100), st.integers(0, 1000))
def test_an_unknown_scale_costs_one_distance_more(scale, seed):
    rows = skewed(6, 5, seed)
    asked = points(2 * needed("l2sq", 5, secret_scale=True), 5, seed)
    told = scale * distances(rows, asked, "l2sq").astype(np.float64)
    np.testing.assert_allclose(trilaterate(asked, told, secret_scale=True), rows, atol=1e-6)


def test_noise_on_distances_leaves_the_error_of_least_squares():
    # Cov(x) = variance (A'A)^-1 for terms A = -2 (q - mean q): a closed form, not this code.
    row, asked = skewed(1, 10), points(200, 10)
    draw = np.random.default_rng(1)
    told = distances(row, asked, "l2sq").astype(np.float64) + draw.normal(0, 0.1, (200, 4000))
    errors = trilaterate(asked, told) - row
    centred = -2 * (asked - asked.mean(axis=0))
    expected = 0.01 * np.linalg.inv(centred.T @ centred)
    np.testing.assert_allclose(np.cov(errors.T), expected, atol=0.1 * expected.max())


def test_what_is_known_of_rows_helps_where_distances_are_noisy_and_not_where_exact():
    kind = skewed(2000, 10)
    rows, prior, asked = skewed(200, 10, seed=1), Prior.of(kind), points(40, 10)
    true = distances(rows, asked, "l2sq").astype(np.float64)
    np.testing.assert_allclose(trilaterate(asked, true, prior=prior), rows, atol=1e-6)
    noisy = true + np.random.default_rng(2).normal(0, 2.0, true.shape)
    plain, weighed = trilaterate(asked, noisy), trilaterate(asked, noisy, prior=prior)
    guess = np.square(rows - kind.mean(axis=0)).sum()
    assert np.square(weighed - rows).sum() < min(guess, np.square(plain - rows).sum())


def test_points_in_a_plane_tell_nothing_of_what_is_beside_it_but_the_prior_does():
    rows, asked = skewed(200, 6, seed=1), points(30, 6)
    asked[:, 3:] = 0.0
    prior = Prior.of(skewed(2000, 6))
    found = trilaterate(asked, distances(rows, asked, "l2sq").astype(np.float64), prior=prior)
    np.testing.assert_allclose(found[:, :3], rows[:, :3], atol=1e-5)
    beside = np.abs(found[:, 3:] - rows[:, 3:]).mean()
    assert beside < np.abs(rows[:, 3:] - prior.mean[3:]).mean() + 1e-3


def test_a_posterior_is_that_of_two_gaussians():
    # x ~ N(m, S), z = x + e with e ~ N(0, E): the precision-weighted mean, another formula.
    draw = np.random.default_rng(0)
    kind = draw.normal(size=(500, 4)) @ draw.normal(size=(4, 4))
    error, seen = np.diag([0.1, 1.0, 2.0, 5.0]), draw.normal(size=(3, 4))
    mean, inverse = kind.mean(axis=0), np.linalg.inv(np.cov(kind.T))
    precise = np.linalg.inv(error)
    expected = np.linalg.solve(inverse + precise, (inverse @ mean)[:, None] + precise @ seen.T).T
    np.testing.assert_allclose(Prior.of(kind).given(seen, error), expected, atol=1e-6)
