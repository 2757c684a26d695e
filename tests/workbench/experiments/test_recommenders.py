"""The yardsticks of recommendation, against loops and the objective that they are to lower."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from fedlab.workbench.experiments import implicit_als, item_neighbours
from fedlab.workbench.experiments.recommenders import least_squares

DRAW = np.random.default_rng(0)
CHOSEN = DRAW.random((14, 8)) < np.linspace(0.8, 0.2, 8)
HAD = np.concatenate([CHOSEN[:5], DRAW.random((3, 8)) < 0.4])
ALPHA, L2 = 0.3, 0.7


@pytest.mark.parametrize("k", [1, 3, 8])
def test_neighbours_by_loops(k: int) -> None:
    users, items = CHOSEN.shape
    counts = [sum(int(CHOSEN[u, i]) for u in range(users)) for i in range(items)]
    expected = np.zeros(HAD.shape)
    for item in range(items):
        alike = {}
        for other in range(items):
            both = sum(int(CHOSEN[u, item] and CHOSEN[u, other]) for u in range(users))
            alike[other] = both / np.sqrt(counts[item] * counts[other])
        alike[item] = 0.0
        least = sorted(alike.values(), reverse=True)[k - 1]
        for user, line in enumerate(HAD):
            near = [o for o in range(items) if line[o] and alike[o] >= least - 1e-12]
            expected[user, item] = sum(alike[o] for o in near)
    np.testing.assert_allclose(item_neighbours(CHOSEN, HAD, k), expected, atol=1e-12)


def test_an_item_that_nobody_chose_is_like_none() -> None:
    chosen = CHOSEN.copy()
    chosen[:, 2] = False
    scores = item_neighbours(chosen, np.eye(8) > 0, k=8)
    assert np.isfinite(scores).all()
    assert not scores[2].any()
    assert not scores[:, 2].any()


def test_more_neighbours_than_items_are_refused() -> None:
    with pytest.raises(ValueError, match="k is 9"):
        item_neighbours(CHOSEN, HAD, 9)


def loss(users: np.ndarray, items: np.ndarray, table: np.ndarray = CHOSEN) -> float:
    """Return what is to be lowered, pair by pair."""
    total = L2 * (np.square(users).sum() + np.square(items).sum())
    for x, line in zip(users, table, strict=True):
        for y, chose in zip(items, line, strict=True):
            total += ALPHA * (x @ y) ** 2 + ((1 - x @ y) ** 2 if chose else 0.0)
    return float(total)


def test_fitted_vectors_have_the_least_loss() -> None:
    items = DRAW.normal(size=(8, 3))
    found = least_squares(CHOSEN, items, ALPHA, L2)
    for x, line in zip(found, CHOSEN, strict=True):
        least = minimize(lambda p, line=line: loss(p[None], items, line[None]), np.zeros(3))
        np.testing.assert_allclose(x, least.x, atol=1e-5)


def test_each_turn_lowers_the_loss() -> None:
    items, losses = DRAW.normal(size=(8, 3)), []
    for _ in range(4):
        users = least_squares(CHOSEN, items, ALPHA, L2)
        losses.append(loss(users, items))
        items = least_squares(CHOSEN.T, users, ALPHA, L2)
        losses.append(loss(users, items))
    assert (np.diff(losses) < 0).all()


def test_scores_are_those_of_a_stationary_point() -> None:
    """After many turns no small move of the scores' own factors lowers the loss."""
    about = {"size": 2, "seed": 3, "alpha": ALPHA, "l2": L2}
    scores = implicit_als(CHOSEN, CHOSEN, turns=300, **about)
    left, values, right = np.linalg.svd(scores)
    # A product of rank 2 has the least |x|^2 + |y|^2 where both share its singular values.
    users, items = left[:, :2] * np.sqrt(values[:2]), right[:2].T * np.sqrt(values[:2])
    np.testing.assert_allclose(least_squares(CHOSEN, items, ALPHA, L2), users, atol=1e-6)
    np.testing.assert_allclose(least_squares(CHOSEN.T, users, ALPHA, L2), items, atol=1e-6)
    again, other = (implicit_als(CHOSEN, HAD, **about | {"seed": s}, turns=1) for s in (3, 4))
    assert again.shape == HAD.shape
    assert np.abs(again - other).max() > 1e-3


def test_users_alike_have_equal_scores_whether_they_took_part_or_not() -> None:
    scores = implicit_als(CHOSEN, HAD, size=2, seed=0)
    again = implicit_als(CHOSEN, HAD[::-1], size=2, seed=0)
    np.testing.assert_allclose(scores, again[::-1], atol=1e-12)
