"""How good a ranking is: recall, reciprocal rank, nDCG, success, judged against what is relevant.

`recall` asks less: how much of an exact answer another search found.

A ranking may be shorter than was asked for; a place that is empty is a miss, and so is a hit that
stands a second time. Each measure is one number a query, so that two searches can be compared query
by query.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.typing import F64, I64, Bool
from fedlab.core.validation import whole_number


@dataclass(frozen=True, eq=False)
class Judged:
    """Rankings with a grade at each place; made by `judge` or `judge_labels`.

    Attributes
    ----------
    grades : (q, k) float64 array
        Of each hit; 0 where it is not relevant, stands there a second time, or is missing.
    best : (q, k) float64 array
        The highest grades that could be had, the highest first.
    relevant : (q,) int64 array
        How many relevant rows there are for each query, found or not.
    """

    grades: F64
    best: F64
    relevant: I64

    def recall(self, k: int | None = None) -> F64:
        """Return recall@k, (q,): relevant hits among the first k, by all that are relevant."""
        return np.asarray(self._good(k).sum(axis=1) / self.relevant)

    def success(self, k: int | None = None) -> F64:
        """Return success@k, (q,): 1 where any of the first k hits is relevant, else 0."""
        return np.asarray(self._good(k).any(axis=1), np.float64)

    def reciprocal_rank(self, k: int | None = None) -> F64:
        """Return 1 by the place of the first relevant hit, (q,); 0 where there is none.

        Its mean is the MRR (Voorhees, TREC-8 1999).
        """
        good = self._good(k)
        return np.where(good.any(axis=1), 1 / (1 + good.argmax(axis=1)), 0.0)

    def ndcg(self, k: int | None = None) -> F64:
        """Return nDCG@k, (q,): grades discounted by log2(1 + place), by the best there could be.

        Järvelin, Kekäläinen (ACM TOIS 2002), with the grades themselves as gains.
        """
        return _discounted(self._first(self.grades, k)) / _discounted(self._first(self.best, k))

    def summary(self, k: int | None = None) -> dict[str, float]:
        """Return the means over queries, by name: recall@k, MRR, nDCG@k, success@k."""
        cut = self.grades.shape[1] if k is None else k
        means = {
            f"recall@{cut}": self.recall(k),
            "MRR": self.reciprocal_rank(k),
            f"nDCG@{cut}": self.ndcg(k),
            f"success@{cut}": self.success(k),
        }
        return {name: float(values.mean()) for name, values in means.items()}

    def _good(self, k: int | None) -> Bool:
        return self._first(self.grades, k) > 0

    def _first(self, grades: F64, k: int | None) -> F64:
        return grades if k is None else grades[:, : whole_number(k, "k", 1, grades.shape[1])]


def judge(
    hits: ArrayLike,
    truth: Sequence[Collection[int] | Mapping[int, float]],
    found: ArrayLike | None = None,
) -> Judged:
    """Grade hits by what is known to be relevant to each query.

    Parameters
    ----------
    hits : (q, k) whole numbers
        What was found, nearest first: keys that name a row over all devices.
    truth : sequence of q collections, or of mappings
        For each query the relevant keys, or a grade above 0 for each.
    found : (q, k) truth values, optional
        Which places are filled (as in ``FederatedHits.found``); all, unless said.

    Raises
    ------
    ValueError
        If shapes don't fit together, a query has nothing relevant, or a grade is not above 0.

    Examples
    --------
    >>> judged = judge([[7, 3, 9], [1, 2, 0]], [{3, 5}, {8}], found=[[1, 1, 1], [1, 1, 0]])
    >>> judged.recall(), judged.reciprocal_rank(), judged.success(2)
    (array([0.5, 0. ]), array([0.5, 0. ]), array([1., 0.]))
    >>> judge([[4, 7]], [{7: 2.0, 4: 1.0}]).ndcg().round(3)  # (1/1 + 2/1.585) / (2/1 + 1/1.585)
    array([0.86])
    """
    table, filled = _places(hits, found)
    if len(truth) != len(table):
        raise ValueError(f"there are {len(table)} rankings but {len(truth)} truths; give one each")
    graded = [_graded(wanted, place) for place, wanted in enumerate(truth)]
    grades = np.zeros(table.shape)
    best = np.zeros(table.shape)
    k = table.shape[1]
    for row, wanted in enumerate(graded):
        top = sorted(wanted.values(), reverse=True)[:k]
        best[row, : len(top)] = top
        left = dict(wanted)
        for place in np.flatnonzero(filled[row]).tolist():
            grades[row, place] = left.pop(int(table[row, place]), 0.0)
    relevant = np.array([len(wanted) for wanted in graded], np.int64)
    return Judged(grades, best, relevant)


def judge_labels(
    labels: ArrayLike, wanted: ArrayLike, relevant: ArrayLike, found: ArrayLike | None = None
) -> Judged:
    """Grade hits 1 where their label is the query's: for data whose truth is a subject.

    Parameters
    ----------
    labels : (q, k) array
        Of the hits, nearest first; no row twice in one ranking. What stands where no hit was
        found is not looked at.
    wanted : (q,) array
        The queries' labels.
    relevant : (q,) whole numbers
        How many rows have the query's label, over all devices.
    found : (q, k) truth values, optional
        As in `judge`.

    Raises
    ------
    ValueError
        If shapes don't fit together, or a query has nothing relevant.

    Examples
    --------
    >>> judge_labels([["sport", "disk"], ["disk", "disk"]], ["sport", "disk"], [4, 2]).recall()
    array([0.25, 1.  ])
    """
    table, filled = _places(labels, found)
    names, counts = np.asarray(wanted), np.asarray(relevant)
    if names.shape != (len(table),) or counts.shape != (len(table),):
        raise ValueError(
            f"there are {len(table)} rankings, labels of shape {names.shape} and counts of shape "
            f"{counts.shape}; one of each a query is needed"
        )
    if (none := np.flatnonzero(counts < 1)).size:
        raise ValueError(
            f"{none.size} queries have nothing relevant, the first is {none[0]}; leave them out"
        )
    good = filled & (table == names[:, None])
    best = np.arange(table.shape[1]) < counts[:, None]
    if (good.sum(axis=1) > counts).any():
        row = int(np.flatnonzero(good.sum(axis=1) > counts)[0])
        raise ValueError(
            f"query {row} has {counts[row]} relevant rows but {int(good[row].sum())} hits with its "
            "label; relevant counts all rows of the label, found or not"
        )
    return Judged(good.astype(np.float64), best.astype(np.float64), counts.astype(np.int64))


def _places(hits: ArrayLike, found: ArrayLike | None) -> tuple[NDArray[np.generic], Bool]:
    table = np.asarray(hits)
    if table.ndim != 2 or not table.shape[1]:
        raise ValueError(f"hits have shape {table.shape}; (queries, k) is needed, k at least 1")
    filled = np.ones(table.shape, bool) if found is None else np.asarray(found, bool)
    if filled.shape != table.shape:
        raise ValueError(f"found has shape {filled.shape}; that of the hits is {table.shape}")
    return table, filled


def _graded(wanted: Collection[int] | Mapping[int, float], row: int) -> dict[int, float]:
    graded = dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted, 1.0)
    if not graded:
        raise ValueError(f"query {row} has nothing relevant; leave it out: no ranking can be good")
    lowest = min(graded.values())
    if not 0 < lowest <= max(graded.values()) < np.inf:
        raise ValueError(f"query {row} has the grade {lowest}; grades are above 0 and finite")
    return {int(key): float(grade) for key, grade in graded.items()}


def _discounted(grades: F64) -> F64:
    discounts: F64 = 1 / np.log2(np.arange(2, grades.shape[1] + 2))
    return np.asarray(grades @ discounts)


def recall(found: NDArray[np.integer], truth: NDArray[np.integer]) -> float:
    """Return the share of true neighbours that were found, over all queries.

    Parameters
    ----------
    found, truth : (q, k) key arrays
        Each without repetition within a row.

    Examples
    --------
    >>> recall(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [3, 9]]))
    0.75
    """
    hits = [len(np.intersect1d(f, t)) for f, t in zip(found, truth, strict=True)]
    return float(np.sum(hits) / truth.size)
