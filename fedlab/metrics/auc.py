"""The area under the ROC curve, fold by fold, with paired intervals over the rows.

A finding is a difference between two ways on the same rows, folds and seeds, with an interval;
two intervals side by side say much less.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, Places
from fedlab.core.validation import proportion
from fedlab.metrics.intervals import Interval


class Ranking:
    """How well scores rank positives above negatives, fold by fold, for any weights of the rows.

    The area under the ROC curve is the share of pairs (one of each class) that are ranked rightly,
    ties counting half (Hanley and McNeil, Radiology 143, 1982). Keeping the pairs makes a bootstrap
    cheap: rows drawn more than once weigh more.

    Parameters
    ----------
    rows : int
        How many there are in all.

    Examples
    --------
    >>> ranking = Ranking(rows=4)
    >>> ranking.add_fold(np.arange(4), np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.8]))
    >>> float(ranking.auc(np.ones((1, 4)))[0])
    0.75
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        #: Folds in which a class was missing: no curve, and so no area.
        self.skipped = 0
        self._folds: list[tuple[Places, Places, F64]] = []

    @property
    def folds(self) -> int:
        """Folds that count."""
        return len(self._folds)

    def add_fold(self, rows: Places, positive: ArrayLike, scores: ArrayLike) -> None:
        """Add the scores of the rows that a fold tests.

        Parameters
        ----------
        rows : (n,) places below the number of all rows
        positive : (n,) 0 or 1
        scores : (n,) numbers, higher for positives

        Raises
        ------
        ValueError
            If a score is NaN.
        """
        is_positive, score = np.asarray(positive, np.bool_), np.asarray(scores, np.float64)
        if np.isnan(score).any():
            raise ValueError(f"{np.isnan(score).sum()} of {score.size} scores are NaN")
        if is_positive.all() or not is_positive.any():
            self.skipped += 1
            return
        apart = score[is_positive][:, None] - score[~is_positive][None, :]
        right = (apart > 0) + 0.5 * (apart == 0)
        self._folds.append((rows[is_positive], rows[~is_positive], right))

    def auc(self, weights: F64) -> F64:
        """Return the mean area over the folds, for each of b weightings, (b, rows) -> (b,).

        A fold whose weights leave a class empty does not count; NaN if none counts.
        """
        total, counted = np.zeros(len(weights)), np.zeros(len(weights))
        for positives, negatives, right in self._folds:
            up, down = weights[:, positives], weights[:, negatives]
            pairs = up.sum(axis=1) * down.sum(axis=1)
            ranked = np.einsum("bi,ij,bj->b", up, right, down, optimize=True)
            total += np.divide(ranked, pairs, out=np.zeros(len(weights)), where=pairs > 0)
            counted += pairs > 0
        mean = np.full(len(weights), np.nan)
        np.divide(total, counted, out=mean, where=counted > 0)
        return mean


def bootstrap_interval(
    rankings: Sequence[Ranking], seed: int, draws: int = 2000, level: float = 0.95
) -> Interval:
    """Return the AUC of a ranking, or the paired difference of two, by bootstrap over rows.

    Parameters
    ----------
    rankings : one or two Rankings of the same rows
        Of two, the first minus the second.
    seed : int
    draws : int
        Bootstrap samples of the rows; those in which no fold has both classes are left out, and
        where none is left the bounds are NaN.
    level : float
        The percentile interval's coverage.

    Raises
    ------
    ValueError
        If a level is none.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, section 13.3.
    """
    proportion(level=level)
    rows = rankings[0].rows
    draw = generator(seed, Purpose.RESAMPLING, device="bootstrap")
    drawn = draw.multinomial(rows, np.full(rows, 1 / rows), size=draws)
    weights = np.concatenate([np.ones((1, rows)), drawn])
    values = rankings[0].auc(weights)
    if len(rankings) == 2:
        values = values - rankings[1].auc(weights)
    if np.isnan(values[1:]).all():
        return Interval(float(values[0]), np.nan, np.nan)
    bounds = np.nanquantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values[0]), float(bounds[0]), float(bounds[1]))
