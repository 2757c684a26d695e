"""How good recommendations are, where of each user one item is held out: its rank, among which.

A rank counts from 1; of equal scores the held-out item stands last, so that a constant finds
nothing. The mean of `hits` is HR@k, that of `gains` nDCG@k.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, I64, Bool
from fedlab.core.validation import whole_number


def full_ranks(scores: F64, item: I64, free: Bool) -> I64:
    """Return the rank of each user's item among all that are free, (u,).

    Parameters
    ----------
    scores : (u, items) array
    item : (u,) ints
        The one that was held out.
    free : (u, items) mask
        What may be recommended: what the user had before is not, the item that was held out is.

    Raises
    ------
    ValueError, TypeError
        If shapes don't fit, an item is none of the scores' or is not free, or a score of what is
        free is NaN.

    Examples
    --------
    >>> full_ranks(np.array([[3.0, 2.0, 1.0, 2.0]]), np.array([1]), np.array([[0, 1, 1, 1]]) > 0)
    array([2])
    """
    _check(scores, item, free)
    own = np.take_along_axis(scores, item[:, None], axis=1)
    return np.asarray(((scores >= own) & free).sum(axis=1))  # its own is among them


def sampled_ranks(scores: F64, item: I64, free: Bool, count: int = 99, seed: int = 0) -> I64:
    """Return ranks among the item and `count` others alone, drawn without replacement, (u,).

    See `full_ranks` for the arguments. `sampled_hits` tells what to expect of it.
    """
    _check(scores, item, free)
    whole_number(count, "count", 1)
    few = np.zeros(free.shape, np.bool_)
    for user, wanted in enumerate(item.tolist()):
        others = np.setdiff1d(np.flatnonzero(free[user]), wanted, assume_unique=True)
        if count > len(others):
            raise ValueError(
                f"user {user} has {len(others)} free items beside the held-out one, and a sample "
                f"of {count} is to be drawn of them; give count={len(others)}, say"
            )
        draw = generator(seed, Purpose.CANDIDATES, device=user)
        few[user, [wanted, *draw.choice(others, count, replace=False)]] = True
    return full_ranks(scores, item, few)


def leave_one_out(
    scores: F64, item: I64, free: Bool, k: int = 10, count: int = 99, seed: int = 0
) -> dict[str, F64]:
    """Return each user's hit (HR@k) and gain (nDCG@k), among all items and among a sample, (u,).

    Parameters
    ----------
    scores, item, free
        See `full_ranks`.
    k : int
    count, seed : int
        Others in the sample, and how they are drawn (see `sampled_ranks`).

    Examples
    --------
    >>> scores, free = np.array([[3.0, 2.0, 1.0]]), np.array([[True, True, True]])
    >>> leave_one_out(scores, np.array([1]), free, k=1, count=1, seed=1)["HR, of all"]
    array([0.])
    """
    ranks = {f"{count + 1}": sampled_ranks(scores, item, free, count, seed)}
    ranks["all"] = full_ranks(scores, item, free)
    told = {f"HR, of {of}": hits(ranks[of], k) for of in ranks}
    return told | {f"nDCG, of {of}": gains(ranks[of], k) for of in ranks}


def _check(scores: F64, item: I64, free: Bool) -> None:
    """Refuse what gives ranks that say nothing: no comparison with NaN holds, so it would be 1."""
    if free.shape != scores.shape or item.shape != scores.shape[:1]:
        raise ValueError(f"{scores.shape} scores, {item.shape} items, {free.shape} free don't fit")
    for user, wanted in enumerate(item.tolist()):
        whole_number(wanted, f"the item of user {user}", 0, scores.shape[1] - 1)
        if not free[user, wanted]:
            raise ValueError(f"item {wanted} of user {user}, held out, isn't free: mark it in free")
    if lost := np.isnan(scores[free]).sum():
        raise ValueError(f"{lost} scores are NaN; the training may have failed: see its history")


def sampled_hits(ranks: ArrayLike, candidates: ArrayLike, count: int = 99, k: int = 10) -> F64:
    """Return the chance that an item of some full rank is among the first k of a sample.

    Parameters
    ----------
    ranks : (u,) ints
        Among all that are free.
    candidates : int or (u,) ints
        How many are free, besides the item.
    count, k : int

    Source: Krichene and Rendle, "On sampled metrics for item recommendation", KDD 2020, section 4;
    drawn without replacement the law is hypergeometric.

    Examples
    --------
    >>> sampled_hits([1, 50, 168, 500], 1600).round(2)
    array([1. , 1. , 0.4, 0. ])
    """
    from scipy.stats import hypergeom

    above = np.asarray(ranks) - 1
    return np.asarray(hypergeom.cdf(k - 1, np.asarray(candidates), above, count))


def hits(ranks: I64, k: int = 10) -> F64:
    """Return 1 where the item is among the first k, else 0, (u,)."""
    return np.asarray(ranks <= whole_number(k, "k", 1), np.float64)


def gains(ranks: I64, k: int = 10) -> F64:
    """Return 1 / log2(1 + rank) where the item is among the first k, else 0, (u,): its nDCG@k."""
    return np.where(ranks <= whole_number(k, "k", 1), 1 / np.log2(1.0 + ranks), 0.0)


def firsts(scores: F64, free: Bool, k: int = 10) -> I64:
    """Return the k items of the highest scores, among those that are free, (u, k)."""
    return np.argsort(np.where(free, -scores, np.inf), axis=1, kind="stable")[:, :k]


def catalogue_use(lists: I64, counts: I64) -> dict[str, float]:
    """Return ``coverage``, the share of items in any list, and the lists' ``popularity``.

    The latter is how often listed items were chosen before, by how often items were on average: 1
    is no bias towards the popular ones.

    Parameters
    ----------
    lists : (u, k) ints
    counts : (items,) ints
        How often each item was chosen.

    Examples
    --------
    >>> catalogue_use(np.array([[0, 1], [0, 2]]), np.array([6, 3, 3, 0]))
    {'coverage': 0.75, 'popularity': 1.5}
    """
    popularity = counts[lists].mean() / counts.mean()
    return {"coverage": len(np.unique(lists)) / len(counts), "popularity": float(popularity)}
