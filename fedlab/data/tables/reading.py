"""Data of one's own: a pandas frame, a CSV or Parquet file, or vectors in ``.npy``, with labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.validation import plain_array
from fedlab.data.loading.loaders import parquet_reader
from fedlab.data.loading.registry import Origin
from fedlab.data.tables.targets import (
    Kind,
    as_text,
    device_names,
    refuse_mixed,
    rows_text,
    target_of,
)
from fedlab.data.tables.values import Dataset, Table

if TYPE_CHECKING:
    import pandas as pd

_MOST_CATEGORIES = 100


def read_table(
    data: str | Path | pd.DataFrame,
    *,
    label: str,
    device: str | None = None,
    numeric: Sequence[str] | None = None,
    categorical: Sequence[str] | None = None,
    target: Kind | None = None,
) -> Table:
    """Read a table of one's own: a pandas frame, or a ``.csv``, ``.csv.gz`` or ``.parquet`` file.

    Parameters
    ----------
    data : DataFrame or path
        A frame is copied, so that the table stays as it was read. In a CSV, what pandas reads as
        missing is missing: empty fields, ``NA``, ``NaN``, ``null``, ``None`` and the like.
    label : str
        The column to predict.
    device : str, optional
        The column that tells which device a row belongs to.
    numeric, categorical : sequence of str, optional
        Features. A list that is given stands as it is (``()``: none of that kind); one that is left
        out is made of the remaining columns: numbers are numeric; text, booleans and categories are
        categorical.
    target : {"class", "number"}, optional
        What the label is; left out, text, booleans and categories are classes, and so are whole
        numbers of at most 20 different values.

    Returns
    -------
    Table
        Missing features stay missing. Categorical features become text.

    Raises
    ------
    ValueError
        If a column does not exist (the message names those that do) or is used twice; there are no
        rows or no features; a label or a device is missing; the label is constant; a column mixes
        types, holds infinity, or is of a type that can't be used; or a text column that was not
        named has more than 100 different values (an identifier, most likely).
    FileNotFoundError, ImportError
        If there is no such file, or no pyarrow to read Parquet.

    Examples
    --------
    >>> import pandas as pd
    >>> visits = pd.DataFrame({
    ...     "age": [61, 48, None], "smokes": ["yes", "no", "no"],
    ...     "ward": ["north", "south", "south"], "ill": [1, 0, 1],
    ... })
    >>> table = read_table(visits, label="ill", device="ward")
    >>> table.numeric, table.categorical, table.classes
    (('age',), ('smokes',), (0, 1))
    """
    import pandas as pd

    frame, name, digest = _read(data)
    columns = _columns_of(frame, name)
    frame = frame.set_axis(columns, axis=1).reset_index(drop=True).infer_objects()
    special = [label] if device is None else [label, device]
    given = [*special, *(numeric or ()), *(categorical or ())]
    _refuse_unknown(given, columns)
    _refuse_twice(given, "a column is named for two uses")
    numbers, texts = _by_kind(frame.drop(columns=given), numeric is None, categorical is None)
    numeric = numbers if numeric is None else numeric
    categorical = texts if categorical is None else categorical
    if not numeric and not categorical:
        raise ValueError(f"there are no features: of {columns}, {special} are label and device")
    parts: dict[str, pd.Series[Any]] = {c: _numeric(frame[c], c) for c in numeric}
    parts |= {c: _categorical(frame[c], c) for c in categorical}
    if device is not None:
        parts[device] = device_names(frame[device], device)
    parts[label] = frame[label]
    goal = target_of(frame[label], label, target)
    kept = pd.DataFrame(parts)
    return Table(
        frame=kept,
        label=label,
        device=device,
        numeric=tuple(numeric),
        categorical=tuple(categorical),
        target=goal,
        origin=Origin(name, "", digest or _frame_sha256(kept), len(kept), "", ""),
    )


def read_vectors(
    vectors: str | Path | ArrayLike,
    labels: str | Path | ArrayLike,
    device: str | Path | ArrayLike | None = None,
    *,
    target: Kind | None = None,
) -> Dataset:
    """Read vectors of one's own, with labels: arrays, or paths of ``.npy`` files.

    Parameters
    ----------
    vectors : path or array_like of numbers, shape (n, d)
        Kept as float32.
    labels : path or array_like, shape (n,)
        Classes or numbers.
    device : path or array_like, shape (n,), optional
        The device that each row belongs to.
    target : {"class", "number"}, optional
        As for `read_table`.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        If shapes don't fit together, a value is missing or not finite, labels are constant or of
        mixed types, or a file is not ``.npy`` or holds Python objects (which are never unpickled).
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> data = read_vectors([[0.0, 1.0], [1.0, 0.0]], ["cat", "dog"], device=[7, 8])
    >>> data.classes, data.y.tolist(), data.device.tolist()
    (('cat', 'dog'), [0, 1], [7, 8])
    """
    import pandas as pd

    x = plain_array(_array(vectors), "vectors")
    if x.ndim != 2 or x.size == 0 or x.dtype.kind not in "fiu":
        raise ValueError(
            f"vectors have shape {x.shape} and type {x.dtype}; they take numbers of shape (n, d), "
            "a row each"
        )
    columns = {"labels": pd.Series(_array(labels)).reset_index(drop=True)}
    if device is not None:
        columns["device"] = pd.Series(_array(device)).reset_index(drop=True)
    for name, column in columns.items():
        if len(column) != len(x):
            raise ValueError(f"there are {len(x)} vectors but {len(column)} {name}; give one each")
    goal = target_of(columns["labels"], "labels", target)
    names = device_names(columns["device"], "device").to_numpy() if device is not None else None
    path = vectors if isinstance(vectors, str | Path) else None
    name = Path(path).name if path is not None else "an array"
    digest = (
        _file_sha256(Path(path)) if path is not None else hashlib.sha256(x.tobytes()).hexdigest()
    )
    return Dataset(
        x=x,
        y=goal.y,
        classes=goal.classes,
        features=tuple(f"dimension {i}" for i in range(x.shape[1])),
        origin=Origin(name, "", digest, len(x), "", ""),
        device=names,
    )


def _read(data: str | Path | pd.DataFrame) -> tuple[pd.DataFrame, str, str]:
    """Return the frame, its name, and its file's sha256 (empty where there is no file)."""
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        return data, "a pandas frame", ""
    path = Path(data)
    kind = "".join(path.suffixes[-2:]).lower() if path.suffix == ".gz" else path.suffix.lower()
    if kind not in (".csv", ".csv.gz", ".parquet"):
        raise ValueError(
            f"{path.name!r} has the suffix {kind!r}; it takes .csv, .csv.gz or .parquet, or a "
            "pandas frame (pandas reads many other formats)"
        )
    digest = _file_sha256(path)
    if kind == ".parquet":
        return parquet_reader().read_table(path).to_pandas(), path.name, digest
    return pd.read_csv(path), path.name, digest


def _array(values: str | Path | ArrayLike) -> Any:
    if not isinstance(values, str | Path):
        return values
    path = Path(values)
    if path.suffix.lower() != ".npy":
        raise ValueError(f"{path.name!r} is not a .npy file; save the array with numpy.save")
    try:
        # Mapping refuses Python objects, and a file that is shorter than its header says.
        return np.array(np.lib.format.open_memmap(path, mode="r"))
    except ValueError as error:
        raise ValueError(
            f"{path.name!r} can't be read as plain .npy ({error}). If it holds Python objects, "
            "save it as numbers or as text: numpy.save(path, array.astype(str))"
        ) from error


def _file_sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _frame_sha256(frame: pd.DataFrame) -> str:
    from pandas.util import hash_pandas_object

    digest = hashlib.sha256("\0".join(frame.columns).encode())
    digest.update(hash_pandas_object(frame, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def _columns_of(frame: pd.DataFrame, name: str) -> list[str]:
    if frame.empty:
        raise ValueError(
            f"{name} has {len(frame)} rows and {frame.shape[1]} columns; both it needs"
        )
    columns = [str(column) for column in frame.columns]
    _refuse_twice(columns, f"{name} has columns of the same name")
    return columns


def _refuse_unknown(named: Iterable[str], columns: list[str]) -> None:
    for name in named:
        if name not in columns:
            close = get_close_matches(name, columns, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"there is no column {name!r}; there are {columns}.{hint}")


def _refuse_twice(names: list[str], why: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{why}: {', '.join(twice)}")


def _by_kind(rest: pd.DataFrame, numeric: bool, categorical: bool) -> tuple[list[str], list[str]]:
    """Sort the columns that were not named into numeric and categorical, as far as is asked."""
    from pandas.api import types

    numbers: list[str] = []
    texts: list[str] = []
    for name in rest.columns if numeric or categorical else ():
        column = rest[name]
        is_bool = types.is_bool_dtype(column)
        if types.is_numeric_dtype(column) and not is_bool:
            numbers.append(name)
        elif is_bool or isinstance(column.dtype, _text_types()):
            refuse_mixed(column, name)
            texts.append(name)
        else:
            raise ValueError(
                f"column {name!r} has type {column.dtype}, neither number nor text; convert it, or "
                "leave it out by naming the features in numeric= and categorical="
            )
        if categorical and name in texts and column.nunique() > _MOST_CATEGORIES:
            raise ValueError(
                f"column {name!r} has {column.nunique()} different values in {len(column)} rows: "
                "an identifier or free text, it seems. Name the features in categorical= (with "
                "this one, if it is meant to be one)"
            )
    return numbers, texts


def _text_types() -> tuple[type, ...]:
    import pandas as pd

    return (pd.StringDtype, pd.CategoricalDtype, np.dtypes.ObjectDType)


def _numeric(column: pd.Series[Any], name: str) -> pd.Series[Any]:
    import pandas as pd
    from pandas.api import types

    refuse_mixed(column, name)
    if not types.is_numeric_dtype(column):
        wrong = column[column.notna()]
        shown = ", ".join(repr(value) for value in wrong.unique()[:3])
        raise ValueError(f"column {name!r} is to be numeric but holds {column.dtype}: {shown}")
    numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    infinite = np.flatnonzero(np.isinf(numbers))
    if infinite.size:
        raise ValueError(f"column {name!r} is infinite in {rows_text(infinite)}")
    return pd.Series(numbers)


def _categorical(column: pd.Series[Any], name: str) -> pd.Series[Any]:
    refuse_mixed(column, name)
    return column.astype(object).map(as_text, na_action="ignore")
