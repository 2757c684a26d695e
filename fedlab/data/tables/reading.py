"""Data of one's own: a pandas frame, a CSV or Parquet file, or vectors in many formats."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.validation import plain_array
from fedlab.data.loading.loaders import parquet_reader
from fedlab.data.loading.registry import Origin
from fedlab.data.stores.opening import open_vectors, values_in
from fedlab.data.stores.source import VectorSource
from fedlab.data.tables.columns import Notes, column_of, numbers_of, refuse_twice, text_of
from fedlab.data.tables.separated import read_separated
from fedlab.data.tables.targets import Kind, device_names, names_of, target_of
from fedlab.data.tables.uses import by_kind, kept_as_metadata, keys_of
from fedlab.data.tables.values import Dataset, Table

if TYPE_CHECKING:
    import pandas as pd

_SUFFIX = re.compile(r"\.(csv|csv\.gz|parquet)$", re.IGNORECASE)


def read_table(
    data: str
    | Path
    | pd.DataFrame
    | Mapping[Any, str | Path | pd.DataFrame]
    | Sequence[str | Path],
    *,
    label: str,
    device: str | None = None,
    key: str | None = None,
    group: str | None = None,
    metadata: Sequence[str] = (),
    numeric: Sequence[str] | None = None,
    categorical: Sequence[str] | None = None,
    target: Kind | None = None,
    sep: str = ",",
    encoding: str = "utf-8",
) -> Table:
    """Read a table of one's own: a pandas frame, or a ``.csv``, ``.csv.gz`` or ``.parquet`` file.

    Parameters
    ----------
    data : DataFrame, path, list of paths, or mapping of device name to path or DataFrame
        A frame is copied, so that the table stays as it was read. In a CSV, what pandas reads as
        missing is missing: empty fields, ``NA``, ``NaN``, ``null``, ``None`` and the like; a column
        with leading zeros is text. Several files are one a device (``{"north": "n.csv"}``), named
        by the mapping or, in a list, by themselves; unless `device` is a column that they have.
    label : str
        The column to predict.
    device : str, optional
        The column that tells which device a row belongs to. Spaces around a name, and how its
        letters are composed, make no other device.
    key : str, optional
        The column of the rows' keys: whole numbers, distinct on each device. Without one, a row's
        key is its place in the table, counted from 0: of a frame after ``dropna``, that is not what
        its index says.
    group : str, optional
        The column of what several rows have in common, such as their patient. It is no feature, is
        kept among the metadata, and never stands on both sides of a split.
    metadata : sequence of str, optional
        Columns that are kept as they are, for filters (``"age > 60"``). They are features all the
        same, if they can be and features are not named.
    numeric, categorical : sequence of str, optional
        Features. A list that is given stands as it is (``()``: none of that kind); one that is left
        out is made of the remaining columns: numbers are numeric; text, booleans and categories are
        categorical.
    target : {"class", "number"}, optional
        What the label is; left out, text, booleans and categories are classes, and so are whole
        numbers of at most 20 different values.
    sep, encoding : str
        Of CSV files.

    Returns
    -------
    Table
        Missing features stay missing. Categorical features become text.

    Raises
    ------
    ValueError
        If a column does not exist (the message names those that do) or is used twice; there are no
        rows or no features; a label, device, key or group is missing; a key stands twice; the label
        is constant; a column mixes types, holds infinity, or is of a type that can't be used; or a
        text column that was not named has more than 100 different values (an identifier, most
        likely). All that is wrong is told at once, by the lines of a CSV or by a frame's index.
    FileNotFoundError, ImportError
        If there is no such file, or no pyarrow to read Parquet.

    Warns
    -----
    UserWarning
        Of what is odd: a column that looks like an identifier, has no name, or is text but for the
        most part numbers; a header that stands twice; a device without rows; names that are one.

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

    notes = Notes()
    frame, name, device = _gathered(data, device, (key, group), sep, encoding, notes)
    special = [one for one in (label, device, key, group) if one is not None]
    if group is not None and group not in metadata:
        metadata = [*metadata, group]
    given = [*special, *(numeric or ()), *(categorical or ())]
    with notes.taken():
        refuse_twice(given, "a column is named for two uses")
    for one in dict.fromkeys([*given, *metadata]):
        with notes.taken():
            column_of(frame, one)
    kinds = {"numeric"} if numeric is None else set()
    kinds |= {"categorical"} if categorical is None else set()
    rest = frame.drop(columns=given, errors="ignore")
    numbers, texts = by_kind(rest, kinds, special, set(metadata), notes)
    numeric = numbers if numeric is None else numeric
    categorical = texts if categorical is None else categorical
    if not (numeric or categorical or notes.problems):
        columns = list(frame.columns)
        raise ValueError(f"there are no features: of {columns}, {special} are label and device")
    made: dict[tuple[str, str | None], Any] = {}
    as_given = frame[device] if device is not None and device in frame else 0
    jobs: list[tuple[str, str | None, Callable[[Any, Any], Any]]] = [
        *(("x", one, numbers_of) for one in numeric),
        *(("x", one, text_of) for one in categorical),
        *(("about", one, kept_as_metadata) for one in metadata if one != group),
        ("about", group, lambda values, one: names_of(values, one, "group column").to_numpy()),
        ("x", device, device_names),
        ("key", key, lambda values, one: keys_of(values, one, made.get(("x", device), as_given))),
        ("y", label, lambda values, one: target_of(values, one, target)),
    ]
    for use, column, make in jobs:
        if column in frame:
            with notes.taken():
                made[use, column] = make(frame[column], column)
    if device in frame and isinstance(frame[device].dtype, pd.CategoricalDtype):
        notes.of_empty(sorted(set(frame[device].cat.categories) - set(frame[device]), key=str))
    notes.settle(name)
    parts = {one: np.asarray(part) for (use, one), part in made.items() if use == "x"}
    table = pd.DataFrame({**parts, label: frame[label].to_numpy()})
    path = Path(data) if isinstance(data, str | Path) else None
    digest = frame_sha256(table) if path is None else _file_sha256(path)
    return Table(
        frame=table,
        label=label,
        device=device,
        numeric=tuple(numeric),
        categorical=tuple(categorical),
        target=made["y", label],
        origin=Origin(name, "", digest, len(table), "", ""),
        keys=made.get(("key", key)),
        metadata=pd.DataFrame({one: made["about", one] for one in metadata}) if metadata else None,
        group=group,
    )


def read_vectors(
    vectors: str | Path | ArrayLike | VectorSource,
    labels: str | Path | ArrayLike | None = None,
    device: str | Path | ArrayLike | None = None,
    *,
    target: Kind | None = None,
) -> Dataset:
    """Read vectors of one's own, with labels: arrays, files, or what `open_vectors` opened.

    Parameters
    ----------
    vectors : path, source, or array_like of numbers, shape (n, d)
        Kept as float32, as they are: pixels of IDX files are 0 ... 255. Of a file with several
        arrays or columns, and of a database, open the source with `open_vectors`, which names them;
        its keys, labels and metadata come along.
    labels : path or array_like, shape (n,), optional
        Classes or numbers; needed unless the source has them.
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
        If shapes don't fit together, a value is missing or not finite, a key stands twice, labels
        are constant or of mixed types, or a file is not whole, of an unknown format, or holds
        Python objects (which are never unpickled).
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> data = read_vectors([[0.0, 1.0], [1.0, 0.0]], ["cat", "dog"], device=[7, 8])
    >>> data.classes, data.y.tolist(), data.device.tolist()
    (('cat', 'dog'), [0, 1], [7, 8])
    """
    import pandas as pd

    path = vectors if isinstance(vectors, str | Path) else None
    source = open_vectors(path) if path is not None else vectors
    keys = about = None
    if isinstance(source, VectorSource):
        if not len(source):
            raise ValueError(f"{source.store.name} has no rows to read")
        own, rows, given, abouts, _ = zip(*source.batches(), strict=True)
        vectors = np.concatenate(rows)
        about = pd.concat(abouts, ignore_index=True) if source.metadata else None
        keys = keys_of(pd.Series(np.concatenate(own)), source.key, 0) if source.key else None
        labels = np.concatenate(given) if source.labels and labels is None else labels
    if labels is None:
        raise ValueError("labels are needed: give them, or name their column in open_vectors")
    x = plain_array(vectors, "vectors")
    if x.ndim != 2 or x.size == 0 or x.dtype.kind not in "fiu":
        raise ValueError(
            f"vectors have shape {x.shape} and type {x.dtype}; they take numbers of shape (n, d), "
            "a row each"
        )
    columns = {"labels": pd.Series(values_in(labels)).reset_index(drop=True)}
    if device is not None:
        columns["device"] = pd.Series(values_in(device)).reset_index(drop=True)
    for name, column in columns.items():
        if len(column) != len(x):
            raise ValueError(f"there are {len(x)} vectors but {len(column)} {name}; give one each")
    goal = target_of(columns["labels"], "labels", target)
    names = device_names(columns["device"], "device").to_numpy() if device is not None else None
    name = source.store.name.strip("'") if isinstance(source, VectorSource) else "an array"
    digest = _file_sha256(Path(path)) if path else hashlib.sha256(x.tobytes()).hexdigest()
    return Dataset(
        x=x,
        y=goal.y,
        classes=goal.classes,
        features=tuple(f"dimension {i}" for i in range(x.shape[1])),
        origin=Origin(name, "", digest, len(x), "", ""),
        device=names,
        keys=keys,
        metadata=about,
    )


def _gathered(
    data: Any,
    device: str | None,
    marked: tuple[str | None, ...],
    sep: str,
    encoding: str,
    notes: Notes,
) -> tuple[pd.DataFrame, str, str | None]:
    """Return one table, of one file or of several; what to call it; and the column of devices."""
    import pandas as pd

    several, mapping = not isinstance(data, str | Path | pd.DataFrame), isinstance(data, Mapping)
    files: dict[Any, Any] = dict(data) if mapping else {"": data}
    if several and not mapping:
        files = {_SUFFIX.sub("", Path(one).name): one for one in data}
        if len(files) < max(1, len(data)):
            raise ValueError(
                f"{len(data)} files of {len(files)} names were given; give a mapping of device "
                "names to files"
            )
    named = {one for one in (device, *marked) if one is not None}
    csvs = {name: Path(one) for name, one in files.items() if _kind_of(one).startswith("csv")}
    read, remarks = read_separated([*csvs.values()], named, sep, encoding) if csvs else ([], [])
    notes.remarks.extend(remarks)
    frames = dict(zip(csvs, read, strict=True))
    frames = {name: frames[name] if name in csvs else _read(one) for name, one in files.items()}
    shown = {name: _shown(one) for name, one in files.items()}
    (first, columns), *others = ((name, {*map(str, frame)}) for name, frame in frames.items())
    frame = frames[first]
    if not several:
        if frame.empty:
            rows, width = frame.shape
            raise ValueError(f"{shown[first]} has {rows} rows and {width} columns; both it needs")
        return frame, shown[first], device
    for other, theirs in others:
        if differ := sorted(columns ^ theirs):
            notes.problems.append(f"{shown[other]} and {shown[first]} differ in columns: {differ}")
    if mapping or device not in columns:
        device = device or "device"
        if device in columns:
            notes.problems.append(
                f"{shown[first]} has a column {device!r}, and files are one a device: name another "
                "device= for the column that is made of their names"
            )
    if notes.problems:
        notes.settle("these files")
    notes.of_empty(name for name, part in frames.items() if not len(part))
    whole = pd.concat({name if mapping else shown[name]: part for name, part in frames.items()})
    if device not in whole:
        whole[device] = np.repeat(np.array([*files], object), [*map(len, frames.values())])
    return whole, f"{len(files)} files", device


def _shown(data: str | Path | pd.DataFrame) -> str:
    return Path(data).name if isinstance(data, str | Path) else "a pandas frame"


def _kind_of(data: Any) -> str:
    """Return "csv", "csv.gz" or "parquet" for the path of such a file, "" for a frame."""
    if not isinstance(data, str | Path):
        return ""
    if (kind := _SUFFIX.search(Path(data).name)) is None:
        raise ValueError(
            f"{Path(data).name!r} has the suffix {Path(data).suffix!r}; it takes .csv, .csv.gz or "
            ".parquet, or a pandas frame (pandas reads many other formats)"
        )
    return kind[1].lower()


def _read(data: str | Path | pd.DataFrame) -> pd.DataFrame:
    frame = cast("pd.DataFrame", data)
    if isinstance(data, str | Path):
        # As floats, whole numbers that miss some would lose their last digits.
        frame = parquet_reader().read_table(data).to_pandas(integer_object_nulls=True)
    columns = [str(column) for column in frame.columns]
    refuse_twice(columns, f"{_shown(data)} has columns of the same name")
    return frame.set_axis(columns, axis=1)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def frame_sha256(frame: pd.DataFrame) -> str:
    """Return a digest of a table in memory: of its columns' names and its values."""
    from pandas.util import hash_pandas_object

    digest = hashlib.sha256("\0".join(frame.columns).encode())
    digest.update(hash_pandas_object(frame, index=False).to_numpy().tobytes())
    return digest.hexdigest()
