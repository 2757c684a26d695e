"""Finding the map that leads back from protected vectors to plain ones.

With known pairs it is a regression; without any, two clouds of points are laid upon each other.
"""

from __future__ import annotations

import numpy as np

from fedlab.core.typing import F32, F64, I64
from fedlab.leaks.trilateration import Prior

Affine = tuple[F64, F64]

#: Sizes of error that are tried, relative to the rows' own.
_ERRORS = (0.0, 0.1, 1.0, 10.0, 1e4)
_FOLDS = 4
_LAID = 1_500  # at most so many protected rows, and half of all, are laid upon the candidates
_TRIED, _STEPS = 6, 15  # steps from each start, and from the best of them
_SURE = 0.9  # share of rows paired off that no wrong map comes near


def orthogonal_map(a: F64, b: F64) -> F64:
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

    Source: Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika
    1966.

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


def way_back(a: F64, b: F64, prior: Prior, turned: bool, draw: np.random.Generator) -> Affine:
    """Return the map from `a` to `b` that predicts held-out pairs best.

    Least squares, by the orthogonal map or by scaling alone, gives estimates. They are weighed
    against what such rows look like, by how wrong they are: no known pair tells anything of what is
    orthogonal to all of them, and for the rest four folds decide.

    Parameters
    ----------
    a, b : (m, d) float64 arrays
        Known pairs, m of at least 2.
    prior : Prior
        What is known of rows b.
    turned : bool
        Whether `a` may be turned against `b`, or only scaled.
    draw : Generator
        Deals the pairs to folds.

    Returns
    -------
    matrix, offset
        a @ matrix + offset is close to b.
    """
    folds = draw.permutation(len(a)) % min(_FOLDS, len(a))
    missed: F64 = np.zeros(1 + len(_ERRORS))
    every = None if turned else [prior.weights(error) for error in _errors(prior)]
    for fold in range(folds.max() + 1):
        out = folds == fold
        estimate, ways = _ways(a[~out], b[~out], prior, every)
        rows = a[out] @ estimate
        missed += [np.square(rows @ by + offset - b[out]).sum() for by, offset in ways]
    estimate, ways = _ways(a, b, prior, every)
    by, offset = ways[int(missed.argmin())]
    return estimate @ by, offset


def _errors(prior: Prior) -> list[float]:
    return [error * float(np.diag(prior.covariance).mean()) for error in _ERRORS]


def _ways(a: F64, b: F64, prior: Prior, every: list[F64] | None) -> tuple[F64, list[Affine]]:
    """Return a map to estimates, and what can be made of them: nothing, or weighing with errors.

    With the weights of `every` error given, the map only scales.
    """
    dimensions = a.shape[1]
    least = np.eye(dimensions) * _ratio(a * b, a)
    if every is None:
        least = orthogonal_map(a, b)
        told = np.linalg.qr(b.T)[0] if len(b) < dimensions else np.eye(dimensions)
        every = [prior.weights(error, told) for error in _errors(prior)]
    # Least squares shrinks what is noisy; an estimate to be weighed must not be shrunk already.
    shrunk = _ratio((a @ least) * b, b) or 1.0
    ways: list[Affine] = [(np.eye(dimensions), np.zeros(dimensions))]
    ways += [(by / shrunk, prior.mean - prior.seen_mean @ by) for by in every]
    return least, ways


def _ratio(products: F64, rows: F64) -> float:
    power = float(np.square(rows).sum())
    return float(products.sum()) / power if power else 0.0


def nearest_of(rows: F64, candidates: F64) -> tuple[I64, F64]:
    """Return which candidate is nearest to each row, and the squared distance to it.

    Examples
    --------
    >>> nearest_of(np.array([[0.9, 0.1]]), np.eye(2))
    (array([0]), array([0.02]))
    """
    place = _closeness(rows, candidates).argmax(axis=1)
    return place, np.square(rows - candidates[place]).sum(axis=1)


def _closeness(rows: F64, candidates: F64) -> F32:
    few = candidates.astype(np.float32)
    scores: F32 = rows.astype(np.float32) @ few.T
    scores -= np.square(few).sum(axis=1) / 2
    return scores


def lay_upon(rows: F64, candidates: F64) -> F64:
    """Return a map that lays protected rows upon candidates, without one known pair.

    Starts are rotations that match the principal axes of the two clouds, all axes or the first few,
    each pointing the way in which the distributions along it agree. From each start, rows and
    candidates that are each other's nearest are taken as pairs, which give a better map, and so on
    (iterative closest points). The start with most pairs is followed to the end.

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

    Source: Besl and McKay, "A method for registration of 3-D shapes", IEEE TPAMI 1992; Grave,
    Joulin and Berthet, "Unsupervised alignment of embeddings with Wasserstein Procrustes", AISTATS
    2019.
    """
    some = rows[: laid_of(len(rows))]
    best, most = np.zeros((rows.shape[1], rows.shape[1])), -1
    for start in _starts(rows, candidates):
        found, pairs = _refined(some, candidates, start, _TRIED)
        if pairs > most:
            best, most = found, pairs
        if most > _SURE * len(some):
            break
    return _refined(some, candidates, best, _STEPS)[0]


def laid_of(count: int) -> int:
    """Return how many of so many rows are laid upon candidates; the others can judge the map.

    Examples
    --------
    >>> laid_of(500), laid_of(5_000)
    (250, 1500)
    """
    return min(_LAID, (count + 1) // 2)


def _starts(rows: F64, candidates: F64) -> list[F64]:
    size = np.sqrt(np.square(candidates).mean() / max(float(np.square(rows).mean()), 1e-300))
    axes, others = _axes(rows), _axes(candidates)
    along, beside = rows @ axes * size, candidates @ others
    # Minor axes have close eigenvalues and come in another order: fewer of them can be a better
    # start than all.
    dimensions = rows.shape[1]
    kept = [dimensions, *(few for few in (16, 8, 32) if few < dimensions)]
    signs = (_signs_of_quantiles(along, beside), _signs_of_third_moments(along, beside))
    return [
        size * axes[:, :few] @ (sign[:few, None] * others.T[:few]) for few in kept for sign in signs
    ]


def _signs_of_quantiles(along: F64, beside: F64) -> F64:
    """Which way each axis points, by the nearer distribution (Wasserstein distance)."""
    shares = np.linspace(0.005, 0.995, 200)
    mine = np.quantile(along, shares, axis=0)
    same, flipped = (np.quantile(sign * beside, shares, axis=0) for sign in (1, -1))
    nearer = np.abs(mine - same).sum(axis=0) <= np.abs(mine - flipped).sum(axis=0)
    return np.where(nearer, 1.0, -1.0)


def _signs_of_third_moments(along: F64, beside: F64) -> F64:
    """Which way each axis points, by moments that noise, if it is symmetrical, leaves alone."""
    return np.asarray(np.sign((along**3).mean(axis=0) * (beside**3).mean(axis=0)))


def _axes(rows: F64) -> F64:
    return np.asarray(np.linalg.eigh(rows.T @ rows)[1][:, ::-1])


def _refined(rows: F64, candidates: F64, start: F64, steps: int) -> tuple[F64, int]:
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
