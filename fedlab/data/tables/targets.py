"""Labels: whether they are classes or numbers, and what each class is called.

The rule, where nothing is said: text, booleans and categories are classes. Numbers are classes if
all are whole and there are at most 20 different ones, or if some are whole numbers that no float
can hold (codes, that is); else they are numbers. ``kind="class"`` or ``kind="number"`` says it
outright.
"""

from __future__ import annotations

import unicodedata
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedlab.core.validation import one_of
from fedlab.data.tables.columns import EXACT, all_whole, is_text, plain_column, rows_text, text_of

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
        Labels, one a row. Errors name rows by its index.
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
    one_of(kind, (None, "class", "number"), "target")
    refuse_missing(values, f"label {name!r}")
    column = plain_column(values, name)
    classes, y = np.unique(column.to_numpy(), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"label {name!r} is {values.iloc[0]!r} in all {len(values)} rows; there is nothing to "
            "learn from a constant"
        )
    if is_text(column) or column.dtype.kind == "b":
        if kind == "number":
            raise ValueError(
                f"label {name!r} has type {values.dtype}, not numbers; use target='class'"
            )
        return Target(y.astype(np.int64), tuple(classes.tolist()))
    numbers = column.to_numpy(np.float64)
    if len(infinite := column.index[~np.isfinite(numbers)]):
        raise ValueError(f"label {name!r} is infinite in {rows_text(infinite)}")
    part = column.index[numbers != np.rint(numbers)]
    if kind == "class" and len(part):
        raise ValueError(
            f"label {name!r} is to be a class but is not whole in {rows_text(part)}; "
            "use target='number', or name the classes by text"
        )
    large = bool(np.abs(numbers).max() > EXACT)
    whole = column.dtype.kind != "f"
    few = len(classes) <= _MOST_NUMBERED_CLASSES or (large and whole)
    if kind == "class" or (kind is None and not len(part) and few):
        if large and not whole:
            _refuse_merged(column, f"label {name!r}")
        return Target(y.astype(np.int64), tuple(int(code) for code in classes))
    return Target(numbers, None)


def refuse_missing(values: pd.Series[Any], what: str) -> None:
    """Raise a ValueError that names the rows, by the index, in which a value is missing."""
    if len(missing := values.index[values.isna()]):
        raise ValueError(
            f"{what} is missing in {rows_text(missing)}; every row takes one: drop those rows or "
            "fill them in"
        )


def _refuse_merged(column: pd.Series[Any], what: str) -> None:
    rows = rows_text(column.index[column.abs() > EXACT])
    raise ValueError(
        f"{what} holds floats beyond 2**53 in {rows}, which can't tell whole numbers apart; read "
        "the column as text, or as whole numbers (dtype='Int64')"
    )


def names_of(values: pd.Series[Any], name: str, what: str = "column") -> pd.Series[Any]:
    """Return names as integers where all are whole numbers of 64 bits with a sign, else as text.

    Raises
    ------
    ValueError
        If a row has none, or types are mixed.
    """
    refuse_missing(values, f"{what} {name!r}")
    column = plain_column(values, name)
    if column.dtype.kind == "f" and all_whole(column) and column.abs().max() > EXACT:
        _refuse_merged(column, f"{what} {name!r}")
    if all_whole(column) and column.max() < 2**63:
        return column.astype(np.int64)
    return text_of(column, name)


def device_names(values: pd.Series[Any], name: str) -> pd.Series[Any]:
    """Return the name of each row's device: whole numbers from 0 on, or else text.

    Spaces around a name, and how its letters are composed (NFC or NFD), make no other device.

    Raises
    ------
    ValueError
        If a row has none, or types are mixed.

    Warns
    -----
    UserWarning
        If names that differ in this way alone became one.

    Examples
    --------
    >>> import pandas as pd
    >>> device_names(pd.Series([2.0, 1.0]), "ward").tolist()
    [2, 1]
    """
    import pandas as pd

    names = names_of(values, name, "device column")
    if names.dtype.kind == "i":  # below 0, a number addresses no draws; its text does
        return names if names.min() >= 0 else text_of(names, name)
    one = {text: unicodedata.normalize("NFC", text.strip()) for text in names.unique()}
    spelt = pd.Series(one, dtype=object)
    for text, ways in spelt[spelt.duplicated(keep=False)].groupby(spelt):
        said = " and ".join(map(ascii, ways.index))  # composed and decomposed letters look the same
        warnings.warn(f"device column {name!r}: {said} are one device, {text!r}", stacklevel=3)
    return names.map(one)
