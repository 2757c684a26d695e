"""Folds that keep each stratum's share, and groups that stay whole, for all that are compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import I64, Bool
from fedlab.core.validation import below_one, plain_array, whole_number


def stratified_folds(
    strata: ArrayLike, folds: int, repeats: int, seed: int, groups: ArrayLike | None = None
) -> Iterator[Bool]:
    """Yield the test rows of each fold as a mask, fold by fold, repeat by repeat.

    Parameters
    ----------
    strata : (n,) array
        Rows of one stratum (a device's positives, say) are spread evenly over the folds.
    folds, repeats : int
        In each repeat every row is tested once.
    seed : int
    groups : (n,) array, optional
        The group (a patient) that each row belongs to: a group's rows are tested together. By the
        rule of scikit-learn's ``StratifiedGroupKFold``, groups are then dealt one by one, those
        that are most of one stratum first, each to the fold where it keeps strata most even.

    Raises
    ------
    ValueError
        If there is not one group a row, or there are fewer groups than folds.

    Examples
    --------
    >>> masks = list(stratified_folds(["a", "b"] * 5, folds=5, repeats=2, seed=0))
    >>> len(masks), int(masks[0].sum())
    (10, 2)
    >>> patients = ["ann", "ann", "bo", "cy", "cy", "di"]
    >>> first, *_ = stratified_folds([0] * 6, 2, 1, seed=0, groups=patients)
    >>> int(first.sum()), refuse_broken(patients, first)
    (3, None)
    """
    _, of_row = np.unique(np.asarray(strata), return_inverse=True)
    whole_number(folds, "folds", 2)
    if groups is not None:
        names, of_group = np.unique(as_groups(groups, len(of_row)), return_inverse=True)
        if len(names) < folds:
            raise ValueError(f"{len(names)} groups can't be dealt to {folds} folds; ask for fewer")
        table = _counts(of_row, of_group)
    for repeat in range(repeats):
        draw = generator(seed, Purpose.RESAMPLING, part=repeat)
        if groups is None:
            order = draw.permutation(len(of_row))
            order = order[np.argsort(of_row[order], kind="stable")]
            fold_of = np.empty(len(of_row), np.int64)
            # Dealt like cards, stratum after stratum: sizes of folds differ by at most one, in each
            # stratum and in all.
            fold_of[order] = np.arange(len(of_row)) % folds
        else:
            fold_of = _dealt(table, folds, draw.permutation(len(table)))[of_group]
        for fold in range(folds):
            yield fold_of == fold


def held_out_groups(
    strata: ArrayLike, groups: ArrayLike, share: float, draw: np.random.Generator
) -> Bool:
    """Draw whole groups whose rows are near a share of each stratum, and of all; as a mask.

    Groups come in a drawn order, and each is taken, or given back, where that brings the rows
    nearer: until no single group could. Near is where the mean over strata of (share held - share)²
    plus the same of all rows is small. No stratum is held out as a whole.

    Parameters
    ----------
    strata, groups : (n,) array
        The stratum and the group of each row.
    share : float
        0 <= share < 1.
    draw : Generator
        Of an address (see `fedlab.core.randomness`).

    Raises
    ------
    ValueError
        If the share is none, or there is not one group a row.

    Examples
    --------
    >>> patients = np.repeat(np.arange(20), 3)
    >>> held = held_out_groups(patients % 2, patients, 0.2, np.random.default_rng(0))
    >>> np.unique(patients[held] % 2, return_counts=True)[1].tolist()
    [6, 6]
    """
    below_one(share=share)
    _, of_row = np.unique(np.asarray(strata), return_inverse=True)
    _, of_group = np.unique(as_groups(groups, len(of_row)), return_inverse=True)
    table = _counts(of_row, of_group)
    order, held = draw.permutation(len(table)), np.zeros(len(table), np.bool_)
    total, counts = table.sum(axis=0), np.zeros(table.shape[1])

    def off(counts: NDArray[Any]) -> float:
        return float(((counts / total - share) ** 2).mean() + (counts.sum() / rows - share) ** 2)

    rows, moved = max(len(of_row), 1), share > 0
    while moved:
        moved = False
        for group in order:
            other = counts - table[group] if held[group] else counts + table[group]
            if (other < total).all() and off(other) < off(counts) - 1e-12:  # so it comes to an end
                held[group], counts, moved = not held[group], other, True
    return held[of_group]


def refuse_broken(groups: ArrayLike, held_out: ArrayLike, who: str = "the split") -> None:
    """Raise a ValueError, with names, where rows of a group stand on both sides of a split.

    Parameters
    ----------
    groups : (n,) array
        The group of each row.
    held_out : (n,) mask
        Rows that are tested on; the others are trained on.
    who : str
        Whose split it is, for the message.

    Examples
    --------
    >>> refuse_broken(["ann", "ann", "bo"], [True, False, False])
    Traceback (most recent call last):
    ValueError: the split breaks 1 of 2 groups: rows of 'ann' are held out, and others are trained \
on; hold out whole groups, as with groups=
    """
    aside = np.asarray(held_out, np.bool_)
    of_row = as_groups(groups, len(aside))
    if len(broken := np.intersect1d(of_row[aside], of_row[~aside])):
        few = ", ".join(repr(name) for name in broken[:5].tolist())
        raise ValueError(
            f"{who} breaks {len(broken)} of {len(np.unique(of_row))} groups: rows of {few} are "
            "held out, and others are trained on; hold out whole groups, as with groups="
        )


def as_groups(groups: ArrayLike, rows: int) -> NDArray[Any]:
    """Return the group of each row as an array, or raise a ValueError that says what is wrong."""
    array = plain_array(groups, "groups")
    if array.shape != (rows,):
        raise ValueError(
            f"groups of shape {array.shape} were given for {rows} rows; name the group of each row"
        )
    if array.dtype.kind == "O":
        array = plain_array(array.tolist(), "groups")
    if array.dtype.kind not in "iuUM" or (array.dtype.kind == "U" and (array == "").any()):
        raise ValueError(
            f"groups of type {array.dtype} were given; whole numbers or text are needed, and none "
            "may be missing: a row without one is a group of its own, with a name of its own"
        )
    return array


def _counts(of_row: I64, of_group: I64) -> NDArray[np.float64]:
    """Return how many rows of each stratum each group has, (groups, strata)."""
    shape = of_group.max(initial=-1) + 1, of_row.max(initial=-1) + 1
    table = np.zeros(shape)
    np.add.at(table, (of_group, of_row), 1)
    return table


def _dealt(table: NDArray[np.float64], folds: int, order: I64) -> I64:
    """Return the fold of each group, (groups,): scikit-learn's rule, for groups in an order."""
    # One stratum has no spread; there the largest come first.
    apart = table.std(axis=1) if table.shape[1] > 1 else table[:, 0]
    order = order[np.argsort(-apart[order], kind="stable")]
    held, fold_of = np.zeros((folds, table.shape[1])), np.empty(len(table), np.int64)
    for group in order:
        # (fold that takes it, folds, strata): how uneven the strata would be over the folds.
        taken = held + np.eye(folds)[:, :, None] * table[group]
        uneven = (taken / table.sum(axis=0)).std(axis=1).mean(axis=1).round(9)
        fold = np.lexsort((held.sum(axis=1), uneven))[0]
        fold_of[group], held[fold] = fold, held[fold] + table[group]
    return fold_of
