"""What the columns of a table are for: features of either kind, metadata, keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlab.core.typing import U64
from fedlab.data.tables.columns import (
    EXACT,
    Notes,
    all_whole,
    half_numbers,
    is_text,
    numbers_of,
    plain_column,
    rows_text,
    text_of,
)

if TYPE_CHECKING:
    import pandas as pd

_MOST_CATEGORIES = 100
#: An identifier, most likely: at least so many rows, and so large a share of values that differ.
_FEW_ROWS, _NEARLY_ALL = 20, 0.95
_NAMING = " by naming the features in numeric= and categorical="


def by_kind(
    rest: pd.DataFrame, kinds: set[str], special: list[str], kept: set[str], notes: Notes
) -> tuple[list[str], list[str]]:
    """Sort the columns that were not named into numeric and categorical, those kinds asked for.

    One that can't be a feature is a problem, unless it is kept as metadata; one that may not be
    meant as one is remarked on.
    """
    found: dict[str, list[str]] = {"numeric": [], "categorical": []}
    for name in map(str, rest):
        try:
            column = plain_column(rest[name], name)
        except ValueError as error:
            if name not in kept and kinds:
                notes.problems.append(f"{error}: convert it, or leave it out{_NAMING}")
            continue
        text = is_text(column)
        kind = "categorical" if text or column.dtype.kind == "b" else "numeric"
        if kind not in kinds:
            continue
        counted = kind == "categorical" or all_whole(column)
        different, rows = column.nunique() if counted else 0, len(column)
        mixed = half_numbers(column) if text else None
        alone = rows >= _FEW_ROWS and different >= _NEARLY_ALL * rows
        if text and name in kept and (mixed or alone or different > _MOST_CATEGORIES):
            continue
        header, said = re.sub(r"\.\d+$", "", name), f"column {name!r}"
        if re.fullmatch(r"Unnamed: \d+", name):
            notes.remarks.append(
                f"{said} has no name of its own (row numbers that were saved along, or separators "
                "at the ends of rows): it is left out; rename it, if it is meant"
            )
            continue
        if header != name and header in (*rest, *special):
            (notes.problems if header in special else notes.remarks).append(
                f"{said} repeats the header {header!r}, it seems (pandas numbers the second one): "
                f"drop or rename it, or leave it out{_NAMING}"
            )
        values = f"{said} has {different} different values in {rows} rows"
        if text and different > _MOST_CATEGORIES:
            notes.problems.append(
                f"{values}: {mixed or 'an identifier or free text, it seems'}. Make them all "
                "numbers, or name the features in categorical= (with this one, if it is meant)"
            )
        elif mixed:
            notes.remarks.append(
                f"{said} is taken for text: it holds {mixed}. Make them all numbers, or name it in "
                "categorical="
            )
        elif alone:
            notes.remarks.append(
                f"{values}: an identifier, it seems, by which rows are learned by heart. Leave it "
                f"out{_NAMING}, or make it the rows' key="
            )
        found[kind].append(name)
    return found["numeric"], found["categorical"]


def kept_as_metadata(values: pd.Series[Any], name: str) -> Any:
    """Return a column as an index keeps metadata: NaN and '' say that a value is missing."""
    import pandas as pd

    if pd.api.types.infer_dtype(values) in ("date", "datetime", "datetime64"):  # a zone is UTC's
        return pd.to_datetime(values, utc=True).dt.tz_localize(None).to_numpy()
    column = plain_column(values, name)
    if is_text(column) or (column.dtype.kind == "b" and column.isna().any()):
        return text_of(values, name).fillna("").to_numpy(dtype=str)
    if not column.isna().any():
        return column.to_numpy()
    if column.dtype.kind != "f" and column.abs().max() > EXACT:  # no float says which it is
        return text_of(values, name).fillna("").to_numpy(dtype=str)
    return numbers_of(column, name)


def keys_of(values: pd.Series[Any], name: str, devices: Any) -> U64:
    """Return the rows' keys, distinct on each device."""
    column, said = plain_column(values, name), f"key column {name!r}"
    if not all_whole(column):
        raise ValueError(
            f"{said} holds {values.dropna().iloc[:1].tolist()}; keys are whole numbers: number the "
            "rows, and keep names in metadata="
        )
    most = EXACT if column.dtype.kind == "f" else 2**64 - 2
    if len(bad := values.index[column.isna() | ~column.between(0, most).fillna(True)]):
        raise ValueError(f"{said} is missing or outside 0 ... 2**64 - 2 in {rows_text(bad)}")
    twice = column.to_frame("key").assign(device=devices).duplicated(keep=False)
    if twice.any():
        raise ValueError(
            f"{said} holds a key twice on one device, in {rows_text(values.index[twice])}"
        )
    return column.to_numpy(np.uint64)
