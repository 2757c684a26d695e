"""Columns as they come in, each value exactly as it was: truth values, whole numbers, floats, text.

Codes and names are no quantities: ``007`` is not ``7``, and a code of 18 digits never passes
through a float, which would merge it with its neighbours.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from difflib import get_close_matches
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F64, Places
from fedlab.core.validation import plain_array

if TYPE_CHECKING:
    import pandas as pd

#: Whole numbers up to here are floats too.
EXACT = 2**53
_WHOLE = r"0|-?[1-9]\d{0,38}"
_NUMBER = r"[+-]?(?:\d{1,38}(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?i:inf|infinity)"


@dataclass(frozen=True)
class Notes:
    """What is wrong with a table, and what is odd, all of it before any of it is told."""

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take down a ValueError, and go on after it."""
        try:
            yield
        except ValueError as error:
            self.problems.append(str(error))

    def of_empty(self, devices: Iterable[Any]) -> None:
        """Remark on devices without rows."""
        self.remarks.extend(f"{name!r} has no rows: no device is made of it" for name in devices)

    def settle(self, name: str) -> None:
        """Raise one ValueError of all problems; without any, warn of all remarks."""
        if len(self.problems) == 1:
            raise ValueError(self.problems[0])
        if self.problems:
            said = "\n- ".join(self.problems)
            raise ValueError(f"{len(self.problems)} problems in {name}:\n- {said}")
        if self.remarks:
            warnings.warn(f"{name}: " + "\n".join(self.remarks), stacklevel=4)


def plain_column(values: pd.Series[Any], name: str) -> pd.Series[Any]:
    """Return a column of truth values, whole numbers, floats or text; what is missing stays so.

    Decimals are numbers, bytes are text in UTF-8, categories are the text that they read as.

    Raises
    ------
    ValueError
        If it mixes types, or holds another; the message shows a value of each.

    Examples
    --------
    >>> import pandas as pd
    >>> plain_column(pd.Series([Decimal(900000000000207009), None]), "code").tolist()
    [900000000000207009, <NA>]
    """
    import pandas as pd

    dtype = values.dtype
    kind = "O" if isinstance(dtype, pd.ArrowDtype) else dtype.kind
    if kind == "f":
        return pd.Series(values.to_numpy(np.float64, na_value=np.nan), values.index)
    if kind in "biu":
        if values.isna().any():
            return values
        return pd.Series(plain_array(values.to_numpy(), name), values.index)
    objects = values.astype(object).where(values.notna(), None)
    if pd.api.types.infer_dtype(objects, skipna=True) == "string" and kind == "O":
        return objects
    present = objects.dropna().tolist()
    first = {_family(value): value for value in reversed(present)}
    shown = ", ".join(f"{family} ({value!r})" for family, value in reversed(first.items()))
    if len(first) > 1:
        raise ValueError(f"column {name!r} mixes types: {shown}; make them all one type")
    if not first.keys() <= {"text", "boolean", "number"}:
        raise ValueError(
            f"column {name!r} holds {shown}, of type {dtype}; it takes text, booleans or numbers"
        )
    if isinstance(dtype, pd.CategoricalDtype):
        return _mapped(as_text, objects)
    if "boolean" in first:
        return objects.astype(pd.BooleanDtype() if objects.isna().any() else np.bool_)
    if "number" in first:
        whole = all(map(_is_whole, present))
        return _of_whole(_mapped(int, objects)) if whole else objects.astype(np.float64)
    try:
        return _mapped(lambda text: text.decode() if isinstance(text, bytes) else text, objects)
    except UnicodeDecodeError as error:
        raise ValueError(f"column {name!r} holds bytes that are no UTF-8 ({error})") from error


def _mapped(do: Callable[[Any], Any], values: pd.Series[Any]) -> pd.Series[Any]:
    """Return objects, None where a value is missing; pandas would guess a type of them."""
    import pandas as pd

    missing = values.isna().tolist()
    done = [None if gone else do(v) for v, gone in zip(values.tolist(), missing, strict=True)]
    return pd.Series(done, values.index, dtype=object)


def _of_whole(objects: pd.Series[Any]) -> pd.Series[Any]:
    """Return ints as 64 bits where they fit, and as Python's where they don't."""
    import pandas as pd

    nullable: Any
    for nullable in (pd.Int64Dtype(), pd.UInt64Dtype()):
        try:
            column = pd.Series(pd.array(objects.tolist(), dtype=nullable), objects.index)
        except (OverflowError, TypeError, ValueError):
            continue
        return column if column.isna().any() else column.astype(nullable.numpy_dtype)
    return objects


def _is_whole(value: Any) -> bool:
    """Whether a number is exactly whole, by its type too: a float says less than its digits."""
    if isinstance(value, Decimal):
        return value.is_finite() and value == value.to_integral_value()
    return isinstance(value, Integral)


def _family(value: object) -> str:
    if isinstance(value, str | bytes):
        return "text"
    if isinstance(value, bool | np.bool_):
        return "boolean"
    return "number" if isinstance(value, Real | Decimal) else type(value).__name__


def typed(texts: pd.Series[Any], *, name: bool) -> pd.Series[Any]:
    """Return fields of text as the whole numbers or the numbers that all of them are; else as text.

    Names (of devices, of rows) are numbers only where all are plain whole ones: ``1e5`` and
    ``100000`` are two.

    Examples
    --------
    >>> import pandas as pd
    >>> typed(pd.Series(["1e5", "7"]), name=True).tolist()
    ['1e5', '7']
    >>> typed(pd.Series(["900000000000207009", None]), name=False).tolist()
    [900000000000207009, <NA>]
    """
    present = [text.strip() for text in texts.dropna().unique()]
    for form in (_WHOLE, rf"(?:{_WHOLE})\.0"):
        if all(re.fullmatch(form, text) for text in present):
            return _of_whole(_mapped(lambda text: int(text.strip().removesuffix(".0")), texts))
    if not name and all(map(_says_number, present)):
        return texts.str.strip().astype(object).astype(np.float64)
    return texts.astype(object)


def text_of(values: pd.Series[Any], name: str) -> pd.Series[Any]:
    """Return a column as the text that it reads as, None where a value is missing."""
    column = plain_column(values, name)
    return column if is_text(column) else _mapped(as_text, column)


def is_text(column: pd.Series[Any]) -> bool:
    """Whether what `plain_column` returned holds text (or nothing at all)."""
    return column.dtype == object and not any(isinstance(v, int) for v in column.dropna()[:1])


def numbers_of(values: pd.Series[Any], name: str) -> F64:
    """Return a column as float64, (n,), NaN where a value is missing; text that says numbers, too.

    Raises
    ------
    ValueError
        If it holds anything else, or infinity: the message lists it, with its rows.
    """
    column = plain_column(values, name)
    if is_text(column):
        if len(odd := _odd(column)):
            raise ValueError(f"column {name!r} takes numbers, and holds {_listed(column, odd)}")
        column = column.astype(np.float64)
    numbers: F64 = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if len(infinite := values.index[np.isinf(numbers)]):
        raise ValueError(f"column {name!r} is infinite in {rows_text(infinite)}")
    return numbers


def half_numbers(column: pd.Series[Any]) -> str | None:
    """Say what else stands in a column of text that is numbers for the most part; None if it isn't.

    Examples
    --------
    >>> import pandas as pd
    >>> half_numbers(pd.Series(["0.3", "0.4", "<0.1"]))
    "numbers, and '<0.1' in 1 row (2)"
    """
    odd, rows = _odd(column), int(column.notna().sum())
    coded = column.str.contains(r"^\s*[+-]?0\d", na=False).any()
    if not len(odd) and rows and not coded:
        return "numbers alone, written as text"
    if not len(odd) or 2 * odd[~_commas(odd)].sum() > rows:
        return None
    return ("numbers, and " if odd.sum() < rows else "") + _listed(column, odd)


def _says_number(text: str) -> bool:
    return re.fullmatch(_NUMBER, text.strip()) is not None


def _odd(column: pd.Series[Any]) -> pd.Series[int]:
    """Return how often each text stands in a column that is no number."""
    counts = column.value_counts()
    return counts[[not _says_number(text) for text in counts.index]]


def _commas(odd: pd.Series[int]) -> NDArray[np.bool_]:
    return np.array([bool(re.fullmatch(r"\s*[+-]?\d+,\d+\s*", text)) for text in odd.index], bool)


def _listed(column: pd.Series[Any], odd: pd.Series[int]) -> str:
    """List odd texts with their rows, the most frequent first; decimal commas as what they are."""
    comma, rest = odd[_commas(odd)].index, odd[~_commas(odd)].index
    said = [f"{text!r} in {rows_text(column.index[column == text])}" for text in rest[:5]]
    if len(rest) > 5:
        said.append(f"{len(rest) - 5} other texts")
    if len(comma):
        said.append(
            f"numbers with decimal commas ({comma[0]!r}) in "
            f"{rows_text(column.index[column.isin(comma)])}: read the file by pandas (codes as "
            "text, by dtype=), put points by frame[name].str.replace(',', '.'), and give the frame"
        )
    return ", ".join(said)


def all_whole(column: pd.Series[Any]) -> bool:
    """Whether what `plain_column` returned holds whole numbers, floats or not."""
    kind = column.dtype.kind
    return kind in "iu" or (kind == "f" and not (np.rint(column).ne(column) & column.notna()).any())


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


def rows_text(rows: Places | pd.Index[Any]) -> str:
    """Return ``"3 rows (0, 7, 9)"``: how many and the first few, by place or as an index says.

    Examples
    --------
    >>> import pandas as pd
    >>> rows_text(np.arange(100)), rows_text(pd.Index([7], name="line"))
    ('100 rows (0, 1, 2, 3, 4, ...)', '1 row (line 7)')
    """
    names, shown = getattr(rows, "names", [None]), []
    for row in rows[:5]:
        parts = zip(names, row if isinstance(row, tuple) else (row,), strict=True)
        shown.append(" ".join(f"{name} {part}" if name else str(part) for name, part in parts))
    more = ", ..." if len(rows) > 5 else ""
    return f"{len(rows)} {'row' if len(rows) == 1 else 'rows'} ({', '.join(shown)}{more})"


def column_of(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Return a column, or raise a ValueError that names those that there are."""
    if name not in frame:
        there = list(map(str, frame))
        close = get_close_matches(name, there, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"there is no column {name!r}; there are {there}.{hint}")
    return frame[name]


def refuse_twice(names: list[str], why: str, what_to_do: str = "") -> None:
    """Raise a ValueError of names that stand twice."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{why}: {', '.join(twice)}{what_to_do}")
