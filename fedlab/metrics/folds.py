"""Folds that keep each stratum's share, the same for all that are compared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import Bool


def stratified_folds(strata: ArrayLike, folds: int, repeats: int, seed: int) -> Iterator[Bool]:
    """Yield the test rows of each fold as a mask, fold by fold, repeat by repeat.

    Parameters
    ----------
    strata : (n,) array
        Rows of one stratum (a device's positives, say) are spread evenly over the folds.
    folds, repeats : int
        In each repeat every row is tested once.
    seed : int

    Examples
    --------
    >>> masks = list(stratified_folds(["a", "b"] * 5, folds=5, repeats=2, seed=0))
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
