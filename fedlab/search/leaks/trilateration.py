"""Trilateration: from distances to points that one has chosen oneself, back to the vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlab.scan import METRICS

__all__ = ["Prior", "needed", "trilaterate"]

Double = NDArray[np.float64]


@dataclass(frozen=True)
class Prior:
    """What an attacker expects of a row before seeing anything: mean and covariance.

    Examples
    --------
    >>> Prior.of(np.array([[1.0, 0.0], [3.0, 0.0]])).mean
    array([2., 0.])
    """

    mean: Double
    covariance: Double

    @classmethod
    def of(cls, vectors: Double) -> Prior:
        """Return mean and covariance of vectors like those that are attacked."""
        return cls(vectors.mean(axis=0), np.cov(vectors.T))

    def given(self, estimates: Double, error: Double) -> Double:
        """Return the posterior mean of rows that were estimated with Gaussian errors.

        Parameters
        ----------
        estimates : (n, d) float64 array
        error : (d, d) float64 array
            Covariance of the errors; with none, the estimates come back.
        """
        floor = 1e-9 * np.trace(self.covariance) / len(self.mean) * np.eye(len(self.mean))
        weight = np.linalg.solve(self.covariance + error + floor, self.covariance + floor)
        return np.asarray(self.mean + (estimates - self.mean) @ weight)


def needed(metric: str, dimensions: int, secret_scale: bool = False) -> int:
    """Return from how many distances on a row is determined.

    Examples
    --------
    >>> needed("l2sq", 384), needed("cosine", 384)
    (385, 384)
    """
    return dimensions + (metric == "l2sq") + secret_scale


def trilaterate(
    queries: Double,
    distances: Double,
    metric: str = "l2sq",
    *,
    secret_scale: bool = False,
    prior: Prior | None = None,
) -> Double:
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
        What is known of such rows; decides where the distances are noisy. The noise is estimated
        from what the fit leaves over, so that more distances than `needed` must be given.

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
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; choose one of {', '.join(METRICS)}")
    least = needed(metric, queries.shape[1], secret_scale)
    if len(queries) < least:
        raise ValueError(
            f"{len(queries)} distances were given; under {metric} at least {least} determine a row "
            f"of {queries.shape[1]} numbers"
        )
    if metric == "l2sq":
        return _from_squares(queries, distances, secret_scale, prior)
    points = queries
    if metric == "cosine":
        points = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    rows = _solved(points, 1 - distances, 0, prior)
    if metric == "cosine":
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    return rows


def _from_squares(
    queries: Double, distances: Double, secret_scale: bool, prior: Prior | None
) -> Double:
    squares, ones = np.square(queries).sum(axis=1), np.ones((len(queries), 1))
    if secret_scale:
        terms = np.hstack([-2 * queries, ones, squares[:, None]])
        # One scale holds for all rows, so that their estimates of it can be averaged.
        scale = float(np.linalg.lstsq(terms, distances, rcond=None)[0][-1].mean())
        distances = distances / (scale if abs(scale) > 1e-300 else 1.0)
    terms = np.hstack([-2 * queries, ones])
    return _solved(terms, distances - squares[:, None], 1, prior)


def _solved(terms: Double, values: Double, beside: int, prior: Prior | None) -> Double:
    """Solve terms @ [row, beside] = values in least squares, for each column of values."""
    found, _, rank, _ = np.linalg.lstsq(terms, values, rcond=None)
    rows = np.asarray(found[: len(found) - beside].T)
    spare = len(terms) - rank
    if prior is None or not spare:
        return rows
    variance = float(np.median(np.square(values - terms @ found).sum(axis=0)) / spare)
    spread = np.linalg.pinv(terms.T @ terms)[: rows.shape[1], : rows.shape[1]]
    return prior.given(rows, variance * spread)
