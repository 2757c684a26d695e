"""What comes in: vectors, keys and labels, checked before anything changes.

Each function returns a clean array or raises an error that names what was given, what is allowed
and what to do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.typing import F32, F64, U64
from fedlab.core.validation import plain_array
from fedlab.index.encoding import Columns
from fedlab.index.table import RowTable
from fedlab.index.texts import WIDEST

#: Keys lie below this: USearch stores 2**64 - 1 and never finds it again.
KEY_LIMIT = 2**64 - 1

#: Whole numbers up to here are floats too.
EXACT = 2**53
_KINDS = {"i": "whole numbers", "f": "floats", "b": "truth values", "M": "dates"}

# Squared lengths must stay within float32, in which graphs and scans add them up.
_LONGEST = 1e18
_SHORTEST = 1e-18


def as_vectors(values: Any, dimensions: int, what: str) -> F32:
    """Return finite float32 rows, (n, dimensions), C-contiguous; one vector counts as one row.

    Examples
    --------
    >>> as_vectors([1, 2, 3], 3, "query").shape
    (1, 3)
    """
    if hasattr(values, "toarray"):
        raise TypeError(
            f"{what}: a sparse {type(values).__name__} was given; rows are dense: project them to "
            "fewer dimensions (fedlab.data.Projection.fitted or .random, whose .loss says what is "
            "lost), or call .toarray() if they are few"
        )
    array = plain_array(values, what)
    if array.dtype.kind not in "fiu":
        raise TypeError(
            f"{what}: values of type {array.dtype} were given; numbers are needed: "
            f"{_way_to_vectors(array)}"
        )
    if array.ndim == 1 and array.size:
        array = array[None, :]
    if array.ndim == 1:
        array = array.reshape(0, dimensions)
    if array.ndim != 2 or array.shape[1] != dimensions:
        raise ValueError(
            f"{what}: an array of shape {array.shape} was given; (rows, {dimensions}) is needed, "
            f"or ({dimensions},) for a single one"
        )
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise ValueError(
            f"{what}: {len(bad)} of {len(rows)} rows hold NaN, inf or numbers beyond float32 "
            f"(the first is row {bad[0]}); fill in or leave out what is missing"
        )
    return rows


def as_lengths(rows: F32, metric: str, what: str, keys: Any = None) -> F32:
    """Return the squared length of each row; refuse those for which the metric is not defined.

    The error tells the row by its key, where there is one for each, or else by its place.
    """

    def refuse(row: np.intp, must: str) -> None:
        keyed = keys is not None and np.size(keys) == len(rows)
        named = f"the row of key {np.ravel(keys)[row]}" if keyed else f"row {row}"
        raise ValueError(f"{what}: {named} has length {np.sqrt(squares[row]):.3g}{must}")

    # einsum widens in small buffers; squaring first would hold a float64 copy of all rows.
    squares: F64 = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    if len(squares) and squares.max() > _LONGEST**2:
        refuse(squares.argmax(), f"; at most {_LONGEST:.0e} is allowed: scale the vectors")
    if metric == "cosine" and len(squares) and squares.min() < _SHORTEST**2:
        must = f" as it is stored; cosine needs a direction (at least {_SHORTEST:.0e})"
        refuse(squares.argmin(), f"{must}: leave the row out, or use the metric 'l2sq' or 'inner'")
    return squares.astype(np.float32)


def as_keys(values: Any, what: str = "keys") -> U64:
    """Return keys as a one-dimensional uint64 array.

    Examples
    --------
    >>> as_keys([3, 5])
    array([3, 5], dtype=uint64)
    """
    array = np.atleast_1d(as_column(values, what))
    if array.shape == (0,):
        return np.empty(0, np.uint64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(
            f"{what}: an array of type {array.dtype} and shape {array.shape} was given; whole "
            "numbers in one dimension are needed, 0 ... 2**64 - 2 (names can be kept as labels)"
        )
    if array.dtype.kind == "i" and array.min() < 0:
        raise ValueError(f"{what}: {array.min()} was given; keys lie in 0 ... 2**64 - 2")
    keys = array.astype(np.uint64)
    if keys.max() == KEY_LIMIT:
        raise ValueError(f"{what}: 2**64 - 1 was given; keys lie in 0 ... 2**64 - 2")
    return keys


def as_labels(values: ArrayLike, rows: int) -> NDArray[np.generic]:
    """Return one label a row: int64 for whole numbers and truth values, float64, or text.

    Examples
    --------
    >>> as_labels([True, False], rows=2)
    array([1, 0])
    """
    array = as_column(values, "labels")
    if array.shape != (rows,):
        raise ValueError(
            f"labels of shape {array.shape} were given for {rows} rows; one a row is needed"
        )
    if array.dtype.kind == "u" and array.max(initial=0) >= 2**63:
        raise ValueError(f"labels: {array.max()} was given; whole numbers lie below 2**63")
    if array.dtype.kind in "biu":
        return array.astype(np.int64)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            numbers: F64 = array.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError(
                f"labels: {int((~np.isfinite(numbers)).sum())} of {rows} are NaN or inf; leave out "
                "rows whose label is unknown"
            )
        return numbers
    if array.dtype.kind in "UT":
        return array
    raise TypeError(f"labels of type {array.dtype} were given; numbers or text are needed")


def as_column(values: Any, what: str) -> NDArray[Any]:
    """Return values, one a row, as an array that keeps each as it was given.

    NumPy finds one type for all that a list holds: text for numbers beside text, floats for whole
    numbers some of which lie above 2**63. The first is refused, the second undone.

    Examples
    --------
    >>> as_column([1, 2**63], "keys")
    array([                  1, 9223372036854775808], dtype=uint64)
    >>> as_column(["a", 1], "labels")
    Traceback (most recent call last):
    TypeError: labels: 1 was given among text; a column is of one type
    """
    # Before an array is made of it, in which one long text takes its width in every row.
    texts = values if isinstance(values, list | tuple) or _holds_objects(values) else ()
    longest = max((len(value) for value in texts if isinstance(value, str)), default=0)
    array = plain_array(np.array(values, object) if longest > WIDEST else values, what)
    kind = array.dtype.kind
    # Of an array or a Series, NumPy's own type is what was given.
    if array.ndim != 1 or not (kind in "OT" or (kind in "fU" and not hasattr(values, "dtype"))):
        return array
    each = list(values)
    text = [isinstance(value, str) for value in each]
    if any("\0" in value for value, one in zip(each, text, strict=True) if one):
        raise ValueError(f"{what}: a text with a NUL was given; leave that character out")
    if kind == "U" and not all(text):
        odd = each[text.index(False)]
        raise TypeError(f"{what}: {odd!r} was given among text; a column is of one type")
    if kind in "OT":
        if not each or not all(text):
            return array.astype(np.object_)
        long = max(map(len, each)) > WIDEST
        try:
            return np.array(each, np.dtypes.StringDType() if long else np.str_)
        except UnicodeEncodeError as error:
            raise ValueError(f"{what}: a long text with half a character ({error})") from error
    whole = [value for value in each if isinstance(value, int | np.integer)]
    if kind == "U" or not whole:
        return array
    least, largest = min(whole), max(whole)
    if len(whole) == len(each) and (least >= 0 or largest < 2**63):
        return np.array(each, np.uint64 if least >= 0 else np.int64)
    if len(whole) == len(each) or not -EXACT <= least <= largest <= EXACT:
        raise TypeError(
            f"{what}: whole numbers from {least} to {largest} were given, which no one type holds "
            "exactly beside the others; give text"
        )
    return array


def _holds_objects(values: Any) -> bool:
    return getattr(values, "ndim", 0) == 1 and str(values.dtype) in ("object", "str", "string")


def refuse_other_kind(what: str, known: NDArray[Any], new: NDArray[Any]) -> None:
    """Refuse values of another kind than those that stand, or that would change them."""
    pair = known.dtype.kind, new.dtype.kind.replace("T", "U")
    if pair[0] == pair[1]:
        return
    if set(pair) != {"i", "f"}:
        raise ValueError(
            f"{what} was given as {_KINDS.get(pair[1], 'text')}; in this index it holds "
            f"{_KINDS.get(pair[0], 'text')}"
        )
    whole = known if pair[0] == "i" else new
    if len(whole) and (whole.max() > EXACT or whole.min() < -EXACT):
        raise ValueError(
            f"{what} holds whole numbers beyond 2**53, which floats would round; keep it to whole "
            "numbers, or to text"
        )


def _way_to_vectors(array: NDArray[Any]) -> str:
    """Say how what is no number becomes a vector."""
    kind = array.dtype.kind
    if kind in "US" or (kind == "O" and all(isinstance(value, str) for value in array.flat)):
        return "fedlab.data.embed makes vectors of texts, fedlab.data.Preparation of categories"
    ways = {
        "b": "truth values become numbers by .astype(float)",
        "c": "complex numbers become two columns, .real and .imag",
        "M": "points in time become numbers, such as days since a date",
        "m": "spans of time become numbers, such as .astype('timedelta64[s]').astype(float)",
        "V": "columns of a record become columns of numbers",
    }
    return ways.get(
        kind,
        "fedlab.data.read_table and Preparation make vectors of a table of mixed columns, "
        "fedlab.data.embed of texts; other objects take an encoder of your own",
    )


def keys_for(rows: int, keys: ArrayLike | None, table: RowTable, next_key: int) -> U64:
    """Return keys for new rows: those given, or the next free ones.

    Parameters
    ----------
    rows : int
        How many are to come.
    keys : (rows,) whole numbers, optional
    table : RowTable
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


def labels_for(rows: int, labels: ArrayLike | None, table: RowTable) -> Columns:
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
    if known is not None:
        refuse_other_kind("labels: a column", known, column)
        # One whole float would make floats, which are no classes, of all that stand.
        if (known.dtype.kind, column.dtype.kind) == ("i", "f") and np.all(
            (column == np.rint(column)) & (np.abs(column) <= EXACT)
        ):
            column = column.astype(np.int64)
    return {"labels": column}


def some(keys: U64) -> str:
    """Return the first few keys as text.

    Examples
    --------
    >>> some(np.arange(7, dtype=np.uint64))
    '0, 1, 2, 3, 4 and 2 more'
    """
    shown = ", ".join(str(key) for key in keys[:5].tolist())
    return shown + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
