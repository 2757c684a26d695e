"""Recommenders that see who chose what: yardsticks for those that learn from devices.

Both are made from some users' choices, and score items for others, who may be strangers.
"""

from __future__ import annotations

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, Array, Bool
from fedlab.core.validation import whole_number


def item_neighbours(liked: Bool, had: Bool, k: int = 50) -> F64:
    """Return scores by likeness to what users had, (v, items).

    Two items are alike by the cosine of who chose them. An item's score is the sum of its
    likenesses to what a user had, as far as these are among its k nearest.

    Parameters
    ----------
    liked : (u, items) mask
        What users chose by whom likeness is measured.
    had : (v, items) mask
        What users had for whom items are scored.
    k : int

    Source: Deshpande and Karypis, "Item-based top-N recommendation algorithms", ACM TOIS 2004.

    Examples
    --------
    >>> liked = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]]) > 0
    >>> item_neighbours(liked, np.array([[True, False, False]]), k=1).round(6)
    array([[0., 1., 0.]])
    """
    whole_number(k, "k", 1, liked.shape[1])
    table = liked.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(table, axis=0), 1)
    alike = table.T @ table / np.outer(lengths, lengths)
    np.fill_diagonal(alike, 0)
    alike[alike < np.sort(alike, axis=0)[-k]] = 0
    return np.asarray(had @ alike)


def implicit_als(
    liked: Bool, had: Bool, size: int, seed: int, turns: int = 10, alpha: float = 0.3, l2: float = 3
) -> F64:
    """Return scores by implicit alternating least squares, (v, items).

    With users' vectors x and items' y it lowers, in closed form for all users and for all items in
    turn, ::

        sum over chosen (1 - x y)^2 + alpha * sum over all (x y)^2 + l2 (sum |x|^2 + sum |y|^2),

    and in the end fits vectors of those for whom items are scored.

    Parameters
    ----------
    liked, had : masks
        See `item_neighbours`.
    size : int
        Numbers of a vector.
    seed : int
        Of the items' first vectors.
    turns : int
    alpha : float
        Weight of what was not chosen.
    l2 : float

    Source: Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM
    2008, in the form of Rendle et al., "Revisiting the performance of iALS on item recommendation
    benchmarks", RecSys 2022.

    Examples
    --------
    >>> liked = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]]) > 0
    >>> [first, second, third] = implicit_als(liked, liked[:1], size=2, seed=0, l2=0.1)[0]
    >>> bool(first > 0.7 and second > 0.7 and third < 0.2)
    True
    """
    items = generator(seed, Purpose.INITIAL).normal(0, 0.1, (liked.shape[1], size))
    for _ in range(turns):
        users = least_squares(liked, items, alpha, l2)
        items = least_squares(liked.T, users, alpha, l2)
    return np.asarray(least_squares(had, items, alpha, l2) @ items.T)


def least_squares(table: Bool, others: Array, alpha: float, l2: float) -> F64:
    """Return the vector of each row of a table that is best, given those of its columns.

    They solve (sum over chosen y y' + alpha * sum over all y y' + l2) x = sum over chosen y.
    """
    ground = alpha * others.T @ others + l2 * np.eye(others.shape[1])
    some = [others[row] for row in table]
    return np.array([np.linalg.solve(ground + y.T @ y, y.sum(axis=0)) for y in some])
