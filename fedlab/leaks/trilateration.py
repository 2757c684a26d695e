"""Trilateration: from distances to points that one has chosen oneself, back to the vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlab.core.typing import F64
from fedlab.core.validation import one_of
from fedlab.index.scan import METRICS

_FLAT = 1e-12  # eigenvalues below this share of the largest determine nothing


@dataclass(frozen=True)
class Prior:
    """What an attacker knows of such rows, and of what a scheme does to them, before seeing any.

    Rows x and what is seen of them z are treated as jointly Gaussian.

    Attributes
    ----------
    mean, seen_mean : (d,) float64 arrays
        Of x and of z.
    covariance : (d, d) float64 array
        Of z with x, in this order.
    seen_covariance : (d, d) float64 array
        Of z.

    Examples
    --------
    >>> prior = Prior.of(np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 1.0], [2.0, -1.0]]))
    >>> prior.given(np.array([[4.0, 0.0]]), error=2 / 3).round(6)
    array([[3., 0.]])
    """

    mean: F64
    seen_mean: F64
    covariance: F64
    seen_covariance: F64

    @classmethod
    def of(cls, vectors: F64, seen: F64 | None = None, noise: float = 0.0) -> Prior:
        """Return what vectors like those that are attacked teach.

        Parameters
        ----------
        vectors : (n, d) float64 array
        seen : (n, d) float64 array, optional
            What a scheme makes of them without its secret; by default they themselves.
        noise : float
            Mean squared length of the noise that it adds.
        """
        seen = vectors if seen is None else seen
        x, z = vectors - vectors.mean(axis=0), seen - seen.mean(axis=0)
        both = np.stack([z.T @ x, z.T @ z]) / (len(x) - 1)
        # A trace of the identity, so that directions without any spread can be inverted.
        both += 1e-9 * np.trace(both[1]) / x.shape[1] * np.eye(x.shape[1])
        blurred = both[1] + noise / x.shape[1] * np.eye(x.shape[1])
        return cls(vectors.mean(axis=0), seen.mean(axis=0), both[0], blurred)

    def given(self, estimates: F64, error: F64 | float) -> F64:
        """Return the best guess at rows, given unbiased estimates of what is seen of them.

        Parameters
        ----------
        estimates : (n, d) float64 array
        error : (d, d) float64 array, or float
            Covariance of the estimates' errors, or their variance in all directions alike.
        """
        return np.asarray(self.mean + (estimates - self.seen_mean) @ self.weights(error))

    def weights(self, error: F64 | float, told: F64 | None = None) -> F64:
        """Return the matrix that takes an estimate's deviation from the mean to the row's.

        Parameters
        ----------
        error : (d, d) float64 array, or float
            As in `given`.
        told : (d, m) float64 array, optional
            Orthonormal directions of which the estimate tells something; by default all.
        """
        if not isinstance(error, np.ndarray):
            error = error * np.eye(len(self.mean))
        spread = self.seen_covariance + error
        if told is None:
            return np.asarray(np.linalg.solve(spread, self.covariance), np.float64)
        part = np.linalg.solve(told.T @ spread @ told, told.T @ self.covariance)
        return np.asarray(told @ part, np.float64)


def needed(metric: str, dimensions: int, secret_scale: bool = False) -> int:
    """Return from how many distances on a row is determined.

    Examples
    --------
    >>> needed("l2sq", 384), needed("cosine", 384)
    (385, 384)
    """
    return dimensions + (metric == "l2sq") + secret_scale


def trilaterate(
    queries: F64,
    distances: F64,
    metric: str = "l2sq",
    *,
    secret_scale: bool = False,
    prior: Prior | None = None,
) -> F64:
    """Return the rows that lie at given distances from given points.

    Every distance is linear in what is sought: for "l2sq", D - \\|q\\|² = \\|x\\|² - 2 q·x has the
    unknowns x and \\|x\\|², so that d + 1 distances determine a row, by linear least squares.

    Parameters
    ----------
    queries : (m, d) float64 array
        What was asked.
    distances : (m, n) float64 array
        To each of n rows, as `fedlab.Hits` has them.
    metric : {"cosine", "inner", "l2sq"}
        Under cosine the rows come back with length 1: more is not in the distances.
    secret_scale : bool
        Whether "l2sq" distances are s² times larger with one unknown s (see `ScaleAndPerturb`).
    prior : Prior, optional
        What is known of such rows; decides where the distances are noisy or leave something open.
        The noise is estimated from what the fit leaves over, so give more distances than `needed`.

    Returns
    -------
    (n, d) float64 array

    Raises
    ------
    ValueError
        If the distances are too few.

    Examples
    --------
    >>> points, row = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([0.6, 0.3])
    >>> trilaterate(points, np.square(points - row).sum(axis=1, keepdims=True)).round(9)
    array([[0.6, 0.3]])
    """
    one_of(metric, METRICS, "metric")
    least = needed(metric, queries.shape[1], secret_scale)
    if len(queries) < least:
        raise ValueError(
            f"{len(queries)} distances were given; under {metric} at least {least} determine a row "
            f"of {queries.shape[1]} numbers"
        )
    if metric == "l2sq":
        squares = np.square(queries).sum(axis=1)[:, None]
        true = distances / _scale(queries, distances, squares) if secret_scale else distances
        # The row's own squared length is the same in all equations: it goes with their mean.
        terms, values = -2 * queries, true - squares
        return _solved(terms - terms.mean(axis=0), values - values.mean(axis=0), 1, prior)
    if metric == "inner":
        return _solved(queries, 1 - distances, 0, prior)
    directions = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    rows = _solved(directions, 1 - distances, 0, prior)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300))


def _scale(queries: F64, distances: F64, squares: F64) -> float:
    """The factor before the query's squared length; all rows have the same, so it is averaged."""
    terms = np.hstack([-2 * queries, np.ones((len(queries), 1)), squares])
    scale = float(np.linalg.lstsq(terms, distances.mean(axis=1), rcond=None)[0][-1])
    return scale if abs(scale) > 1e-300 else 1.0


def _solved(terms: F64, values: F64, lost: int, prior: Prior | None) -> F64:
    """Solve terms @ row = values in least squares, for each column of values."""
    squares, axes = np.linalg.eigh(terms.T @ terms)
    told = squares > _FLAT * squares[-1]
    axes_told, squares_told = axes[:, told], squares[told]
    rows: F64 = np.zeros((values.shape[1], terms.shape[1]))
    for _ in range(2):  # the second time mends what squaring the terms has lost in digits
        missing = (terms.T @ (values - terms @ rows.T)).T
        rows = rows + (missing @ axes_told / squares_told) @ axes_told.T
    spare = len(terms) - lost - len(squares_told)
    if prior is None:
        return rows
    left_over = np.square(values - terms @ rows.T).sum(axis=0)
    variance = float(np.median(left_over)) / spare if spare > 0 else 0.0
    # Where the distances tell nothing, the error is as good as infinite.
    unknown = 1e9 * float(np.trace(prior.seen_covariance))
    spread = np.where(told, variance / np.maximum(squares, _FLAT * squares[-1]), unknown)
    return prior.given(rows, (axes * spread) @ axes.T)
