"""Comparing ways of learning: the same folds for all, paired differences, intervals.

A finding is a difference between two ways on the same patients, folds and seeds, with an interval;
two intervals side by side say much less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.randomness import Purpose, generator
from fedlab.history import History

__all__ = [
    "Interval",
    "Ranking",
    "bootstrap_interval",
    "effort_to",
    "mean_interval",
    "stratified_folds",
]

Double = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate, and the bounds of an interval around it.

    Examples
    --------
    >>> print(Interval(0.52, 0.41, 0.6))
    0.52 (0.41 to 0.60)
    """

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.2f} ({self.low:.2f} to {self.high:.2f})"


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean of independent values, and Student's t interval for it.

    Parameters
    ----------
    values : (n,) array
        One for each seed, say; the paired differences of two ways, to compare them.
    level : float
        The interval's coverage.

    Raises
    ------
    ValueError
        With fewer than two values.

    Examples
    --------
    >>> print(mean_interval([1.0, 2.0, 3.0]))
    2.00 (-0.48 to 4.48)
    """
    from scipy import stats

    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or len(sample) < 2:
        raise ValueError(f"{sample.size} values were given; an interval needs two or more")
    half = stats.t.ppf((1 + level) / 2, len(sample) - 1) * stats.sem(sample)
    mean = float(sample.mean())
    return Interval(mean, mean - float(half), mean + float(half))


def effort_to(history: History, metric: str, target: float) -> dict[str, float]:
    """Return what it took until a measure first was at least at a target; NaN where it never was.

    Parameters
    ----------
    history : History
    metric : str
        A measure of the server's that should grow, such as ``test_accuracy``.
    target : float

    Returns
    -------
    dict
        ``rounds``; ``bytes`` sent and received; ``seconds``, simulated on the devices' hardware.

    Examples
    --------
    >>> history = History()
    >>> for round, accuracy in enumerate([0.2, 0.7, 0.6, 0.9], start=1):
    ...     history.record(round, "server", accuracy=accuracy, bytes_up=5, bytes_down=5, seconds=1)
    >>> effort_to(history, "accuracy", 0.65)
    {'rounds': 2.0, 'bytes': 20.0, 'seconds': 2.0}
    """
    values = history.series(metric)
    there = np.flatnonzero(values >= target)
    if not len(there):
        return {"rounds": np.nan, "bytes": np.nan, "seconds": np.nan}
    until = values.index[: there[0] + 1]
    sums = {name: history.series(name)[until].sum() for name in ("bytes_up", "bytes_down")}
    return {
        "rounds": float(len(until)),
        "bytes": float(sums["bytes_up"] + sums["bytes_down"]),
        "seconds": float(history.series("seconds")[until].sum()),
    }


def stratified_folds(
    strata: ArrayLike, folds: int, repeats: int, seed: int
) -> Iterator[NDArray[np.bool_]]:
    """Yield the test rows of each fold as a mask, fold by fold, repeat by repeat.

    Parameters
    ----------
    strata : (n,) array
        Rows of one stratum (a hospital's ill patients, say) are spread evenly over the folds.
    folds, repeats : int
        In each repeat every row is tested once.
    seed : int

    Examples
    --------
    >>> masks = list(stratified_folds(["ill", "well"] * 5, folds=5, repeats=2, seed=0))
    >>> len(masks), int(masks[0].sum())
    (10, 2)
    """
    _, of_row = np.unique(np.asarray(strata), return_inverse=True)
    for repeat in range(repeats):
        draw = generator(seed, Purpose.RESAMPLING, part=repeat)
        order = draw.permutation(len(of_row))
        order = order[np.argsort(of_row[order], kind="stable")]
        fold_of = np.empty(len(of_row), np.int64)
        # Dealt like cards, stratum after stratum: sizes of folds differ by at most one, in each
        # stratum and in all.
        fold_of[order] = np.arange(len(of_row)) % folds
        for fold in range(folds):
            yield fold_of == fold


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
        self._folds: list[tuple[NDArray[np.intp], NDArray[np.intp], Double]] = []

    @property
    def folds(self) -> int:
        """Folds that count."""
        return len(self._folds)

    def add_fold(self, patients: NDArray[np.intp], ill: ArrayLike, scores: ArrayLike) -> None:
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

    def auc(self, weights: Double) -> Double:
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
