"""Labels: whether they are classes or numbers, and what each class is called.

The rule, where nothing is said: text, booleans and categories are classes. Numbers are classes if
all are whole and there are at most 20 different ones, else they are numbers. ``kind="class"`` or
``kind="number"`` says it outright.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Number
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F64, Places

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["class", "number"]
_MOST_NUMBERED_CLASSES = 20


@dataclass(frozen=True, eq=False)
class Target:
    """Labels as an array: positions in `classes` (int64), or, without classes, float64 numbers."""

    y: NDArray[Any]
    classes: tuple[int | str, ...] | None

    @property
    def kind(self) -> Kind:
        """``"class"`` or ``"number"``."""
        return "number" if self.classes is None else "class"


def target_of(values: pd.Series[Any], name: str, kind: Kind | None = None) -> Target:
    """Turn a column of labels into a `Target`.

    Parameters
    ----------
    values : Series
        Labels, one a row.
    name : str
        What to call the column in an error.
    kind : {"class", "number"}, optional
        Says what the labels are; by the module's rule where it is left out.

    Raises
    ------
    ValueError
        If a label is missing, all are the same, they mix types, or `kind` can't be right.

    Examples
    --------
    >>> import pandas as pd
    >>> target = target_of(pd.Series(["ill", "well", "ill"]), "state")
    >>> target.classes, target.y.tolist()
    (('ill', 'well'), [0, 1, 0])
    >>> target_of(pd.Series([20.5, 31.0, 27.25]), "price").kind
    'number'
    """
    from pandas.api import types

    if kind not in (None, "class", "number"):
        raise ValueError(f"target is {kind!r}; it takes 'class', 'number', or None to infer it")
    values = values.infer_objects()
    missing = np.flatnonzero(values.isna())
    if missing.size:
        raise ValueError(
            f"label {name!r} is missing in {rows_text(missing)}; drop those rows or fill them in"
        )
    refuse_mixed(values, name)
    if values.nunique() < 2:
        raise ValueError(
            f"label {name!r} is {values.iloc[0]!r} in all {len(values)} rows; there is nothing to "
            "learn from a constant"
        )
    numbers = types.is_numeric_dtype(values) and not types.is_bool_dtype(values)
    if not numbers and kind == "number":
        raise ValueError(f"label {name!r} has type {values.dtype}, not numbers; use target='class'")
    if not numbers:
        return _classes(values.astype(object).map(as_text))
    return _from_numbers(values.to_numpy(dtype=np.float64), name, kind)


def _from_numbers(y: F64, name: str, kind: Kind | None) -> Target:
    infinite = np.flatnonzero(~np.isfinite(y))
    if infinite.size:
        raise ValueError(f"label {name!r} is infinite in {rows_text(infinite)}")
    whole = bool((y == np.rint(y)).all())
    few = np.unique(y).size <= _MOST_NUMBERED_CLASSES
    if kind == "class" and not whole:
        part = np.flatnonzero(y != np.rint(y))
        raise ValueError(
            f"label {name!r} is to be a class but is not whole in {rows_text(part)}; "
            "use target='number', or name the classes by text"
        )
    if kind == "class" or (kind is None and whole and few):
        codes, positions = np.unique(y, return_inverse=True)
        return Target(positions.astype(np.int64), tuple(int(code) for code in codes))
    return Target(y, None)


def _classes(values: pd.Series[Any]) -> Target:
    names, y = np.unique(values.to_numpy(dtype=str), return_inverse=True)
    return Target(y.astype(np.int64), tuple(str(name) for name in names))


def device_names(values: pd.Series[Any], name: str) -> pd.Series[Any]:
    """Return the name of each row's device: an integer where all are whole numbers, else text.

    Raises
    ------
    ValueError
        If a row has none, or types are mixed.

    Examples
    --------
    >>> import pandas as pd
    >>> device_names(pd.Series([2.0, 1.0]), "ward").tolist()
    [2, 1]
    """
    from pandas.api import types

    values = values.infer_objects()
    missing = np.flatnonzero(values.isna())
    if missing.size:
        raise ValueError(
            f"device column {name!r} is missing in {rows_text(missing)}; every row must belong to "
            "a device: drop those rows or name their device"
        )
    refuse_mixed(values, name)
    numbers = types.is_numeric_dtype(values) and not types.is_bool_dtype(values)
    if numbers and bool((values == values.round()).all()):
        return values.astype("int64")
    return values.astype(object).map(as_text)


def refuse_mixed(values: pd.Series[Any], name: str) -> None:
    """Raise ValueError unless a column of objects holds text only, or booleans, or numbers.

    The message shows a value of each type.
    """
    from pandas.api import types

    if not types.is_object_dtype(values):
        return
    first: dict[str, object] = {}
    for value in values.dropna():
        first.setdefault(_family(value), value)
    shown = ", ".join(f"{family} ({value!r})" for family, value in first.items())
    if len(first) > 1:
        raise ValueError(f"column {name!r} mixes types: {shown}; make them all one type")
    if not first.keys() <= {"text", "boolean", "number"}:
        raise ValueError(f"column {name!r} holds {shown}; it takes text, booleans or numbers")


def _family(value: object) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool | np.bool_):
        return "boolean"
    return "number" if isinstance(value, Number) else type(value).__name__


def as_text(value: object) -> str:
    """Return a category's name; a whole float reads as its integer (pandas makes 1 of it 1.0).

    Examples
    --------
    >>> as_text(2.0), as_text("2"), as_text(True)
    ('2', '2', 'True')
    """
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def rows_text(rows: Places) -> str:
    """Return ``"3 rows (0, 7, 9)"``: how many and the first few, counted from 0.

    Examples
    --------
    >>> rows_text(np.arange(100))
    '100 rows (0, 1, 2, 3, 4, ...)'
    """
    more = ", ..." if rows.size > 5 else ""
    noun = "row" if rows.size == 1 else "rows"
    return f"{rows.size} {noun} ({', '.join(str(row) for row in rows[:5])}{more})"
