"""Finding the map that leads back from protected vectors to plain ones.

With known pairs it is a regression; without any, two clouds of points are laid upon each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_linear_map", "lay_upon", "nearest_of", "orthogonal_map"]

Double = NDArray[np.float64]
Places = NDArray[np.int64]

_RIDGES = (1e-6, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_FOLDS = 4
_LAID = 1_500  # protected rows that are laid upon the candidates
_STEPS = 15


def orthogonal_map(a: Double, b: Double) -> Double:
    """Return the scaled orthogonal matrix that takes rows `a` nearest to rows `b`.

    Parameters
    ----------
    a, b : (m, d) float64 arrays
        Paired row by row. With fewer than d independent pairs, the map is zero on what they do not
        determine.

    Returns
    -------
    (d, d) float64 array
        M with a @ M close to b, in least squares.

    References
    ----------
    Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 1966.

    Examples
    --------
    >>> turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    >>> orthogonal_map(np.eye(2), 3 * turn).round(9) + 0.0
    array([[ 0., -3.],
           [ 3.,  0.]])
    """
    left, values, right = np.linalg.svd(a.T @ b)
    rank = int((values > 1e-9 * values.max(initial=0.0)).sum())
    turn = left[:, :rank] @ right[:rank]
    power = float(np.square(a @ turn).sum())
    return np.asarray(turn * (values[:rank].sum() / power if power else 0.0))


def best_linear_map(a: Double, b: Double, draw: np.random.Generator) -> Double:
    """Return the linear map from `a` to `b` that predicts held-out pairs best.

    Candidates are ridge regressions that shrink towards a simple map instead of zero: towards the
    scaled orthogonal one (a secret rotation), or towards scaling alone (noise, rounding). Four
    folds decide which, and how strongly.

    Parameters
    ----------
    a, b : (m, d) float64 arrays
        Known pairs, m of at least 2.
    draw : Generator
        Deals the pairs to folds.
    """
    folds = draw.permutation(len(a)) % min(_FOLDS, len(a))
    errors = np.zeros((2, 1 + len(_RIDGES)))
    for fold in range(folds.max() + 1):
        out = folds == fold
        maps = _candidates(a[~out], b[~out])
        errors += [[np.square(a[out] @ each - b[out]).sum() for each in row] for row in maps]
    kind, ridge = np.unravel_index(errors.argmin(), errors.shape)
    return _candidates(a, b)[kind][ridge]


def _candidates(a: Double, b: Double) -> list[list[Double]]:
    power = float(np.square(a).sum())
    scaling = np.eye(a.shape[1]) * (float((a * b).sum()) / power if power else 0.0)
    values, vectors = np.linalg.eigh(a.T @ a)
    values = np.maximum(values, 0.0)
    rows = []
    for start in (orthogonal_map(a, b), scaling):
        missing = vectors.T @ (a.T @ (b - a @ start))
        steps = [values + ridge * (values.mean() or 1.0) for ridge in _RIDGES]
        rows.append([start, *(start + vectors @ (missing / step[:, None]) for step in steps)])
    return rows


def nearest_of(rows: Double, candidates: Double) -> tuple[Places, Double]:
    """Return which candidate is nearest to each row, and the squared distance to it.

    Examples
    --------
    >>> nearest_of(np.array([[0.9, 0.1]]), np.eye(2))
    (array([0]), array([0.02]))
    """
    place = _closeness(rows, candidates).argmax(axis=1)
    return place, np.square(rows - candidates[place]).sum(axis=1)


def _closeness(rows: Double, candidates: Double) -> NDArray[np.float32]:
    few = candidates.astype(np.float32)
    scores: NDArray[np.float32] = rows.astype(np.float32) @ few.T
    scores -= np.square(few).sum(axis=1) / 2
    return scores


def lay_upon(rows: Double, candidates: Double) -> Double:
    """Return a map that lays protected rows upon candidates, without one known pair.

    Starts are scaling alone (nothing was turned) and rotations that match the principal axes of the
    two clouds, each axis pointing the way in which the distributions along it agree. From each
    start, rows and candidates that are each other's nearest are taken as pairs, which give a better
    map, and so on (iterative closest points). The start with most pairs is followed to the end.

    Parameters
    ----------
    rows : (n, d) float64 array
        Protected rows.
    candidates : (m, d) float64 array
        Plain ones, among them most of the rows' originals; at best in about the same mixture.

    Returns
    -------
    (d, d) float64 array
        rows @ map lies close to candidates, if the attack works.

    References
    ----------
    Besl and McKay, "A method for registration of 3-D shapes", IEEE TPAMI 1992; Grave, Joulin and
    Berthet, "Unsupervised alignment of embeddings with Wasserstein Procrustes", AISTATS 2019.
    """
    some = rows[:_LAID]
    tried = [_refined(some, candidates, start, 3) for start in _starts(rows, candidates)]
    best, _ = max(tried, key=lambda result: result[1])
    return _refined(some, candidates, best, _STEPS)[0]


def _starts(rows: Double, candidates: Double) -> list[Double]:
    size = np.sqrt(np.square(candidates).mean() / max(float(np.square(rows).mean()), 1e-300))
    axes, others = _axes(rows), _axes(candidates)
    along, beside = rows @ axes * size, candidates @ others
    shares = np.linspace(0.005, 0.995, 200)
    mine = np.quantile(along, shares, axis=0)
    same, flipped = (np.quantile(sign * beside, shares, axis=0) for sign in (1, -1))
    agrees = np.abs(mine - same).sum(axis=0) <= np.abs(mine - flipped).sum(axis=0)
    turned = np.where(agrees, 1.0, -1.0)[:, None] * others.T
    # Minor axes have close eigenvalues and come in another order: fewer of them can be a better
    # start than all.
    dimensions = rows.shape[1]
    kept = [few for few in (8, 16, 32) if few < dimensions] + [dimensions]
    return [size * np.eye(dimensions), *(size * axes[:, :few] @ turned[:few] for few in kept)]


def _axes(rows: Double) -> Double:
    return np.asarray(np.linalg.eigh(rows.T @ rows)[1][:, ::-1])


def _refined(
    rows: Double, candidates: Double, start: Double, steps: int
) -> tuple[Double, int]:
    """Return the map after some steps of closest points, and how many pairs it rests on."""
    found, pairs = start, 0
    for _ in range(steps):
        closeness = _closeness(rows @ found, candidates)
        theirs, ours = closeness.argmax(axis=1), closeness.argmax(axis=0)
        mutual = np.flatnonzero(ours[theirs] == np.arange(len(rows)))
        better = orthogonal_map(rows[mutual], candidates[theirs[mutual]])
        settled = np.allclose(better, found, rtol=0, atol=1e-9 * np.abs(better).max())
        found, pairs = better, len(mutual)
        if settled:
            break
    return found, pairs
