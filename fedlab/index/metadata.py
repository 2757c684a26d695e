"""What is known of each row beside its label: columns of numbers, truth values, text, dates.

Metadata stand in an index's table as further columns, under names that begin with ``meta:``; so
they are cut, copied, removed, saved and sealed with the rows that they describe.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import U64
from fedlab.index.encoding import Columns
from fedlab.index.ingest import as_column, refuse_other_kind
from fedlab.index.texts import TextColumn

if TYPE_CHECKING:
    import pandas as pd

#: Names that filters know already.
RESERVED = ("key", "label")
#: What labels and metadata are kept as, beside text.
BESIDE = tuple(map(np.dtype, ("i8", "f8", "?", "M8[us]")))

_PREFIX = "meta:"
_COLUMNS = 256
_NAME = 64
_TIME = np.dtype("M8[us]")


def as_metadata(values: Any, rows: int) -> Columns:
    """Return columns of metadata by name, one value a row.

    Parameters
    ----------
    values : DataFrame, or mapping of str to (n,) arrays
        Whole numbers are kept as int64, floats as float64 (NaN says that a number is missing),
        truth values as bool, text as it is, dates without a time zone to the microsecond (NaT says
        that one is missing). At most 256 columns, with printable names of at most 64 characters.
    rows : int
        n.

    Raises
    ------
    ValueError, TypeError
        If anything else is given.

    Examples
    --------
    >>> as_metadata({"age": [31, 52], "ward": ["A", "B"]}, rows=2)["age"]
    array([31, 52])
    """
    columns = getattr(values, "columns", None)
    if columns is None and not isinstance(values, Mapping):
        raise TypeError(
            f"metadata of type {type(values).__name__} were given; a DataFrame is needed, or a "
            "mapping of names to columns: {'age': [31, 52]}"
        )
    names = list(values) if columns is None else list(columns)
    for name in names:
        _check_name(name)
    if len(names) > _COLUMNS:
        raise ValueError(f"metadata of {len(names)} columns were given; at most {_COLUMNS} may be")
    if len(set(names)) < len(names):
        raise ValueError("metadata: the same column name stands twice; rename one of the two")
    return {name: _as_column(values[name], name, rows) for name in names}


def _check_name(name: object) -> None:
    said = f"metadata: a column is named {name!r}"
    if not isinstance(name, str):
        raise TypeError(f"{said}; names are text")
    if not 0 < len(name) <= _NAME or not name.isprintable() or "`" in name:
        raise ValueError(f"{said}; 1 ... {_NAME} printable characters other than ` are needed")
    if name in RESERVED:
        raise ValueError(f"{said}; {' and '.join(RESERVED)} mean the rows' own: rename the column")


def _as_column(values: Any, name: str, rows: int) -> Any:
    array: Any
    if isinstance(values, np.ma.MaskedArray) and values.dtype.kind in "fM":
        values = values.filled(np.datetime64("NaT") if values.dtype.kind == "M" else np.nan)
    array = (
        as_column(values, f"metadata: {name!r}") if not isinstance(values, TextColumn) else values
    )
    if array.shape != (rows,):
        raise ValueError(
            f"metadata: {name!r} of shape {array.shape} was given for {rows} rows; one value a row "
            "is needed"
        )
    if array.dtype.kind == "O":
        array = _from_objects(array, name)
    if array.dtype.kind == "u" and array.max(initial=0) >= 2**63:
        raise ValueError(
            f"metadata: {name!r} holds {array.max()}; whole numbers lie below 2**63 (longer names "
            "can be kept as text)"
        )
    if array.dtype.kind in "iufb":
        return array.astype({"f": np.float64, "b": np.bool_}.get(array.dtype.kind, np.int64))
    if array.dtype.kind in "UT":
        return array
    if array.dtype.kind == "M":
        times = array.astype(_TIME)
        if not np.array_equal(times.astype(array.dtype), array, equal_nan=True):
            raise ValueError(
                f"metadata: {name!r} of type {array.dtype} holds dates that are no whole "
                "microseconds, or out of their range; round them, as with .dt.round('us')"
            )
        return times
    raise TypeError(
        f"metadata: {name!r} of type {array.dtype} was given; numbers, truth values, text or dates "
        "are needed"
    )


def _from_objects(array: NDArray[np.object_], name: str) -> NDArray[Any]:
    """Return what pandas and lists hold as objects as an array of one type."""
    if all(isinstance(value, datetime.date) for value in array):
        if any(getattr(value, "tzinfo", None) is not None for value in array):
            raise ValueError(
                f"metadata: {name!r} holds dates with a time zone; convert them to one and leave "
                "it out, as with .dt.tz_convert('UTC').dt.tz_localize(None)"
            )
        # By pandas' own type, where it has one: it knows nanoseconds.
        return np.array([getattr(value, "asm8", value) for value in array], dtype="M8")
    odd = next(
        (n for n, value in enumerate(array) if not isinstance(value, str | datetime.date)), 0
    )
    raise TypeError(
        f"metadata: {name!r} holds {array[odd]!r} in row {odd}, among values of other types; a "
        "column is of one type (say what is missing by NaN among floats, by '' in text)"
    )


def added(known: Columns | None, given: Any, rows: int) -> Columns:
    """Return the metadata of new rows as columns of a table, to fit those that stand.

    Parameters
    ----------
    known : dict of arrays, or None
        The columns of the index's table; None while it has no rows.
    given : DataFrame, mapping or None
        See `as_metadata`.
    rows : int
        How many are new.

    Raises
    ------
    ValueError, TypeError
        If columns are missing, unknown or of another type.
    """
    columns = {} if given is None else as_metadata(given, rows)
    if known is None:
        return _prefixed(columns)
    expected = metadata_in(known)
    missing = [name for name in expected if name not in columns]
    unknown = [name for name in columns if name not in expected]
    if missing or unknown:
        raise ValueError(
            f"metadata: the rows of this index have {_names(expected)}; given were "
            f"{_names(columns)}: all rows have the same columns"
        )
    for name, column in expected.items():
        refuse_other_kind(f"metadata: {name!r}", column, columns[name])
    return _prefixed({name: columns[name] for name in expected})


def metadata_in(columns: Columns) -> Columns:
    """Return the columns of a table that are metadata, by their own names."""
    return {n[len(_PREFIX) :]: c for n, c in columns.items() if str(n).startswith(_PREFIX)}


def checked(columns: Columns, rows: int) -> Columns:
    """Return the columns of a file that are metadata, named as in a table.

    Raises
    ------
    ValueError, TypeError
        If they are nothing that `as_metadata` would have let in.
    """
    found = metadata_in(columns)
    for name, column in found.items():
        if column.dtype.kind == "b" and column.view(np.uint8).max(initial=0) > 1:
            raise ValueError(f"truth values in {name!r} that are neither")
        if column.dtype.kind == "M" and column.dtype != _TIME:
            raise ValueError(f"dates of type {column.dtype} in {name!r}")
    for name, column in as_metadata(found, rows).items():
        if column.dtype != found[name].dtype:
            raise ValueError(f"{name!r} of type {found[name].dtype}")
    return _prefixed(found)


def frame_of(keys: U64, columns: Columns) -> pd.DataFrame:
    """Return metadata as a DataFrame of its own memory, a row a key."""
    import pandas as pd

    copies = {
        n: c.strings() if isinstance(c, TextColumn) else np.array(c) for n, c in columns.items()
    }
    return pd.DataFrame(copies, index=pd.Index(np.array(keys), name="key"))


def _prefixed(columns: Columns) -> Columns:
    return {_PREFIX + name: column for name, column in columns.items()}


def _names(columns: Columns) -> str:
    return ", ".join(map(repr, columns)) or "no metadata"
