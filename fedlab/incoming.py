"""What comes with new rows, checked against the rows that stand: keys and labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.checks import KEY_LIMIT, as_keys, as_labels
from fedlab.storage import Columns, Table

__all__ = ["keys_for", "labels_for", "some"]


def keys_for(rows: int, keys: ArrayLike | None, table: Table, next_key: int) -> NDArray[np.uint64]:
    """Return keys for new rows: those given, or the next free ones.

    Parameters
    ----------
    rows : int
        How many are to come.
    keys : (rows,) whole numbers, optional
    table : Table
        The rows that stand.
    next_key : int
        Above every key that was ever given.

    Raises
    ------
    ValueError, TypeError
        If a key is none, stands twice or is taken.
    """
    if keys is None:
        if next_key + rows > KEY_LIMIT:
            raise ValueError("no keys are free above the largest one; give keys of your own")
        return np.arange(next_key, next_key + rows, dtype=np.uint64)
    new = as_keys(keys)
    if len(new) != rows:
        raise ValueError(f"{len(new)} keys were given for {rows} rows; one a row is needed")
    distinct, counts = np.unique(new, return_counts=True)
    if len(distinct) < len(new):
        raise ValueError(f"keys: {some(distinct[counts > 1])} stand twice in what was given")
    if not rows or distinct[0] >= next_key:
        return new  # all lie above every key so far: no need to look
    taken = new[table.rows_of(new) >= 0]
    if len(taken):
        raise ValueError(
            f"keys: {some(taken)} are in the index already; remove them first, or give others"
        )
    return new


def labels_for(rows: int, labels: ArrayLike | None, table: Table) -> Columns:
    """Return new rows' labels as a column, or none: as the rows that stand have it.

    Raises
    ------
    ValueError, TypeError
        If only some rows would have labels, or labels of another kind.
    """
    known = table.columns.get("labels") if table.rows else None
    if labels is None:
        if known is not None:
            raise ValueError("the rows of this index have labels; give one for each new row")
        return {}
    if known is None and table.rows:
        raise ValueError("the rows of this index have no labels; leave them out here too")
    column = as_labels(labels, rows)
    if known is not None and (known.dtype.kind == "U") != (column.dtype.kind == "U"):
        raise ValueError(f"labels of type {column.dtype} were given; this index has {known.dtype}")
    return {"labels": column}


def some(keys: NDArray[np.uint64]) -> str:
    """Return the first few keys as text.

    Examples
    --------
    >>> some(np.arange(7, dtype=np.uint64))
    '0, 1, 2, 3, 4 and 2 more'
    """
    shown = ", ".join(str(key) for key in keys[:5].tolist())
    return shown + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
