"""Maps back: exact where theory says so, zero where nothing is known."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group

from fedlab.leaks import Prior
from fedlab.leaks.alignment import lay_upon, nearest_of, orthogonal_map, way_back
from tests.leaks.clouds import independent, skewed


def turned(rows, seed=0):
    turn = ortho_group.rvs(rows.shape[1], random_state=seed)
    return rows @ turn, turn


@pytest.mark.parametrize("scale", [0.01, 1.0, 70.0])
def test_d_pairs_give_a_rotation_back_exactly(scale):
    rows = independent(60, 24)
    held, _ = turned(rows)
    found = scale * held @ orthogonal_map(scale * held[:24], rows[:24])
    np.testing.assert_allclose(found, rows, atol=1e-9)


def test_the_map_is_scipy_s_but_for_its_scale():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 30, 6))
    turn, size = orthogonal_procrustes(a, b)
    expected = turn * size / np.square(a).sum()
    np.testing.assert_allclose(orthogonal_map(a, b), expected, atol=1e-12)


def test_fewer_pairs_say_nothing_of_the_rest_of_space():
    rows = independent(40, 24)
    held, _ = turned(rows)
    known = orthogonal_map(held[:10], rows[:10])
    assert np.linalg.matrix_rank(known) == 10
    np.testing.assert_allclose(held[:10] @ known, rows[:10], atol=1e-9)


@pytest.mark.parametrize("is_turned", [True, False])
def test_the_way_back_is_found_among_noise(is_turned):
    rows, prior = skewed(500, 12), Prior.of(skewed(2000, 12, seed=1))
    held = turned(rows)[0] if is_turned else 5 * rows
    held = held + np.random.default_rng(2).normal(0, 0.1, rows.shape)
    draw = np.random.default_rng(3)
    matrix, offset = way_back(held[:200], rows[:200], prior, is_turned, draw)
    missed = np.square(held[200:] @ matrix + offset - rows[200:]).sum()
    assert missed < 0.6 * np.square(rows[200:] - prior.mean).sum()


def test_the_way_back_from_what_is_unrelated_is_the_mean():
    rows, prior = skewed(500, 12), Prior.of(skewed(2000, 12, seed=1))
    held, draw = independent(500, 12, seed=5), np.random.default_rng(3)
    matrix, offset = way_back(held[:200], rows[:200], prior, True, draw)
    np.testing.assert_allclose(
        held[200:] @ matrix + offset, np.tile(prior.mean, (300, 1)), atol=0.05
    )


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_two_clouds_are_laid_upon_each_other_without_a_pair(scale):
    candidates = skewed(800, 20)
    held, turn = turned(candidates[:400])
    found = lay_upon(scale * held, candidates)
    np.testing.assert_allclose(scale * found, turn.T, atol=1e-6)


def test_the_nearest_is_the_nearest_of_brute_force():
    rows, candidates = independent(50, 8), 3 * independent(90, 8, seed=1)
    place, squares = nearest_of(rows, candidates)
    truth = np.square(rows[:, None] - candidates[None]).sum(axis=2)
    np.testing.assert_array_equal(place, truth.argmin(axis=1))
    np.testing.assert_allclose(squares, truth.min(axis=1))
