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
from fedlab.metrics.intervals import Interval

__all__ = ["Ranking", "bootstrap_interval"]


class Ranking:
    """How well scores rank ill above well, fold by fold, for any weights of the patients.

    The area under the ROC curve is the share of pairs (one of each class) that are ranked rightly,
    ties counting half (Hanley and McNeil, Radiology 143, 1982). Keeping the pairs makes a bootstrap
    cheap: patients drawn more than once weigh more.

    Parameters
    ----------
    patients : int
        How many there are in all.

    Examples
    --------
    >>> ranking = Ranking(patients=4)
    >>> ranking.add_fold(np.arange(4), np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.8]))
    >>> float(ranking.auc(np.ones((1, 4)))[0])
    0.75
    """

    def __init__(self, patients: int) -> None:
        self.patients = patients
        #: Folds in which a class was missing: no curve, and so no area.
        self.skipped = 0
        self._folds: list[tuple[Places, Places, F64]] = []

    @property
    def folds(self) -> int:
        """Folds that count."""
        return len(self._folds)

    def add_fold(self, patients: Places, ill: ArrayLike, scores: ArrayLike) -> None:
        """Add the scores of the patients that a fold tests.

        Parameters
        ----------
        patients : (n,) places 0 ... patients - 1
        ill : (n,) 0 or 1
        scores : (n,) numbers, higher for ill
        """
        is_ill, score = np.asarray(ill, np.bool_), np.asarray(scores, np.float64)
        if is_ill.all() or not is_ill.any():
            self.skipped += 1
            return
        apart = score[is_ill][:, None] - score[~is_ill][None, :]
        right = (apart > 0) + 0.5 * (apart == 0)
        self._folds.append((patients[is_ill], patients[~is_ill], right))

    def auc(self, weights: F64) -> F64:
        """Return the mean area over the folds, for each of b weightings, (b, patients) -> (b,).

        A fold whose weights leave a class empty does not count; NaN if none counts.
        """
        total, counted = np.zeros(len(weights)), np.zeros(len(weights))
        for ill, well, right in self._folds:
            up, down = weights[:, ill], weights[:, well]
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
    """Return the AUC of a ranking, or the paired difference of two, by bootstrap over patients.

    Parameters
    ----------
    rankings : one or two Rankings of the same patients
        Of two, the first minus the second.
    seed : int
    draws : int
        Bootstrap samples of the patients; those in which no fold has both classes are left out.
    level : float
        The percentile interval's coverage.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, section 13.3.
    """
    patients = rankings[0].patients
    draw = generator(seed, Purpose.RESAMPLING, device="bootstrap")
    drawn = draw.multinomial(patients, np.full(patients, 1 / patients), size=draws)
    weights = np.concatenate([np.ones((1, patients)), drawn])
    values = rankings[0].auc(weights)
    if len(rankings) == 2:
        values = values - rankings[1].auc(weights)
    bounds = np.nanquantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values[0]), float(bounds[0]), float(bounds[1]))
