"""From data to devices: one shared store of rows, and a view into it for each device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import U64, Bool
from fedlab.core.validation import require
from fedlab.data import (
    ColumnSums,
    Dataset,
    Drift,
    Partition,
    Preparation,
    Table,
    by_column,
    read_table,
)
from fedlab.device.device import Device, held_out_rows
from fedlab.device.profile import Profile
from fedlab.device.splits import audit_groups
from fedlab.index.vectorindex import DType, Metric, VectorIndex

if TYPE_CHECKING:
    import pandas as pd

    from fedlab.data.tables.targets import Kind

    Readable = str | Path | pd.DataFrame

Profiles = Mapping[int | str, Profile]


def spread(
    data: Dataset,
    partition: Partition,
    *,
    metric: Metric = "cosine",
    dtype: DType = "f32",
    profiles: Profiles | None = None,
) -> list[Device]:
    """Spread rows over devices; a row's key is its own, or else its place in the data set.

    Parameters
    ----------
    data : Dataset
    partition : Partition
        Which rows go where.
    metric, dtype : str
        Of the devices' indexes (see `VectorIndex`).
    profiles : mapping of device name to Profile, optional
        The hardware of devices that differ from the default.

    Returns
    -------
    list of Device
        In the partition's order, named as there. Their indexes are views into one store.

    Examples
    --------
    >>> from fedlab.data import iid, load_digits
    >>> digits = load_digits()
    >>> devices = spread(digits, iid(len(digits), devices=10, seed=0))
    >>> devices[0]
    Device(0: 180 rows of 64)
    """
    require(partition, "partition (such as iid(len(data), devices=10))", "check", "rows")
    partition.check(len(data))
    order = np.concatenate(partition.rows)
    store = VectorIndex(data.x.shape[1], metric, dtype)
    about = None if data.metadata is None else data.metadata.iloc[order]
    store.add(data.x[order], keys=order, labels=data.y[order], metadata=about)
    keys = None if data.keys is None else data.keys[order]
    return _views(store, partition, profiles or {}, keys)


@dataclass(frozen=True, eq=False)
class Drifting:
    """Devices whose rows move from one to another as rounds go by; `Federation` takes them as such.

    Parameters
    ----------
    data : Dataset
    drift : Drift
        Who holds which rows in which round.
    metric, dtype, profiles
        See `spread`.

    Examples
    --------
    >>> from fedlab.data import Drift, by_classes, iid, load_digits
    >>> digits = load_digits()
    >>> apart = by_classes(digits.y, devices=10, k=2, seed=0)
    >>> drift = Drift(iid(len(digits), 10, seed=0), apart, digits.y, first=1, last=20, seed=0)
    >>> devices = Drifting(digits, drift)
    >>> [len(devices.at(round)[0].class_counts()) for round in (1, 20)]
    [10, 2]
    """

    data: Dataset
    drift: Drift
    metric: Metric = "cosine"
    dtype: DType = "f32"
    profiles: Profiles | None = None
    _last: dict[float, list[Device]] = field(default_factory=dict, repr=False)

    def at(self, round: int) -> list[Device]:
        """Return the devices of a round. Those of the last share that was asked for are kept."""
        share = self.drift.share(round)
        if share not in self._last:
            devices = spread(
                self.data,
                self.drift.mixed(share),
                metric=self.metric,
                dtype=self.dtype,
                profiles=self.profiles,
            )
            self._last.clear()
            self._last[share] = devices
        return self._last[share]


def standardised(data: Dataset, partition: Partition) -> Dataset:
    """Return the data with each feature scaled to mean 0 and variance 1, from federated sums.

    Each device forms the sums of its own rows; their merge is all that leaves it.

    Raises
    ------
    ValueError
        If the partition splits other data.

    Examples
    --------
    >>> from fedlab.data import iid, load_diabetes
    >>> diabetes = load_diabetes()
    >>> scaled = standardised(diabetes, iid(len(diabetes), devices=10, seed=0))
    >>> bool(np.allclose(scaled.x.std(axis=0), 1, atol=1e-5))
    True
    """
    import pandas as pd

    partition.check(len(data))
    frame = pd.DataFrame(data.x, columns=list(data.features))
    sums = [ColumnSums.of(frame.iloc[rows], data.features, ()) for rows in partition.rows]
    x, _ = Preparation.from_sums(ColumnSums.merge(sums)).apply(frame)
    return replace(data, x=x)


def _views(
    store: VectorIndex, partition: Partition, profiles: Profiles, keys: U64 | None = None
) -> list[Device]:
    """Return a device for each part of a store's rows, in which other keys may stand for theirs."""
    if unknown := [name for name in profiles if name not in partition.names]:
        raise ValueError(
            f"profiles name {unknown}, which are no devices; there are {list(partition.names)[:20]}"
        )
    devices, end = [], 0
    for name, size in zip(partition.names, partition.sizes, strict=True):
        index, start, end = store.view(end, end + size), end, end + size
        if keys is not None:  # two hospitals may number their patients alike; one store may not
            columns = {**index.columns, "keys": keys[start:end]}
            kind = index.dimensions, index.metric, index.dtype, index.engine
            index = VectorIndex.over(columns, *kind)
        devices.append(Device(name, index, profiles.get(name)))
    return devices


@dataclass(frozen=True)
class TableDevices:
    """Devices made of a table, and what was learned to make them.

    Attributes
    ----------
    devices : list of Device
        One for each value of the device column.
    preparation : Preparation
        How their rows became vectors; applies to new rows too.
    classes : tuple or None
        What class numbers stand for; None where the label is a number.
    bytes_sent : int
        Bytes of the sums that the devices sent for it.
    """

    devices: list[Device]
    preparation: Preparation
    classes: tuple[int | str, ...] | None
    bytes_sent: int


def devices_from_table(
    table: Table | Readable | Mapping[Any, Readable] | Sequence[str | Path],
    *,
    label: str | None = None,
    device: str | None = None,
    key: str | None = None,
    group: str | None = None,
    metadata: Sequence[str] = (),
    numeric: Sequence[str] | None = None,
    categorical: Sequence[str] | None = None,
    target: Kind | None = None,
    sep: str = ",",
    encoding: str = "utf-8",
    held_out: float | Bool = 0.0,
    seed: int = 0,
    metric: Metric = "l2sq",
    dtype: DType = "f32",
    profiles: Profiles | None = None,
) -> TableDevices:
    """Turn a table, with a column for the label and one for the device, into devices.

    Missing values are imputed, numbers scaled and categories turned into columns, from sums that
    each device forms over its training rows (see `Preparation`): no row leaves its device.

    Parameters
    ----------
    table : Table, DataFrame, path, list of paths, or mapping of device name to path or DataFrame
        CSV or Parquet files; several are one a device (see `fedlab.data.read_table`).
    label, device : str
        Columns; needed unless `table` is a `Table`, which knows them. With one file a device,
        `device` may be left out.
    key : str, optional
        The column of the rows' keys: whole numbers, distinct on each device. Without it a row's key
        is its place in the table, from 0: not what a frame's index says, and another one after
        ``dropna``. Name it where a row is to be found again, above all to be erased.
    group : str, optional
        The column of the rows' groups, such as patients: one patient's rows are never both trained
        on and held out. It is no feature, and stands among the metadata.
    metadata : sequence of str, optional
        Columns that each device keeps beside its rows, for filters:
        ``device.most_similar(x, 5, where="age > 60")``.
    numeric, categorical : sequence of str, optional
        Features; by default all other columns, each by its kind.
    target : {"class", "number"}, optional
        What the label is. By default whole numbers with at most 20 different values are classes,
        which are numbered anew from 0 in their order; a count is none: say "number" there.
    sep, encoding : str
        Of CSV files.
    held_out : float or (n,) mask
        Rows set aside for validation: a share of each device's, or these; they may break no group.
    seed : int
        Draws the share.
    metric, dtype : str
        Of the devices' indexes.
    profiles : mapping of device name to Profile, optional

    Raises
    ------
    ValueError, FileNotFoundError, ImportError
        As `fedlab.data.read_table` does; and if rows of `held_out` break a group.

    Examples
    --------
    >>> import pandas as pd
    >>> patients = pd.DataFrame(
    ...     {
    ...         "patient": [17, 4, 12, 9, 21, 30],
    ...         "age": [61, 50, None, 44, 70, 39],
    ...         "ill": ["yes", "no", "yes", "no", "yes", "no"],
    ...         "ward": ["north", "north", "north", "south", "south", "south"],
    ...     }
    ... )
    >>> made = devices_from_table(
    ...     patients, label="ill", device="ward", key="patient", metadata=["age"]
    ... )
    >>> made.devices, made.classes
    ([Device('north': 3 rows of 2), Device('south': 3 rows of 2)], ('no', 'yes'))
    >>> south = made.devices[1].index
    >>> south.keys[south.passing("age > 60")]
    array([21], dtype=uint64)
    """
    import pandas as pd

    named: dict[str, Any] = {"label": label, "device": device, "key": key, "target": target}
    named |= {"group": group, "metadata": metadata, "numeric": numeric, "categorical": categorical}
    if isinstance(table, Table):
        if given := [name for name, one in named.items() if one]:
            raise TypeError(f"a Table knows its columns; give {', '.join(given)} to read_table")
    elif label is None or (device is None and isinstance(table, str | Path | pd.DataFrame)):
        raise TypeError("name the columns: devices_from_table(table, label=..., device=...)")
    else:
        table = read_table(table, **named, sep=sep, encoding=encoding)
    partition = by_column(table.devices)
    aside = _aside(table, partition, held_out, seed)
    sums = [
        ColumnSums.of(table.frame.iloc[rows[~aside[rows]]], table.numeric, table.categorical)
        for rows in partition.rows
    ]
    preparation = Preparation.from_sums(ColumnSums.merge(sums))
    order = np.concatenate(partition.rows)
    # Rows that are held out may have categories of their own: that is what holding out is for.
    vectors, _ = preparation.coded(table.frame.iloc[order])
    store = VectorIndex(vectors.shape[1], metric, dtype)
    about = None if table.metadata is None else table.metadata.iloc[order]
    store.add(vectors, keys=order, labels=table.y[order], metadata=about)
    keys = order.astype(np.uint64) if table.keys is None else table.keys[order]
    aside = aside[order]
    devices, start = [], 0
    for whole in _views(store, partition, profiles or {}, None if table.keys is None else keys):
        mine = slice(start, start + len(whole.index))
        devices.append(whole.holding_out(keys[mine][aside[mine]]))
        start = mine.stop
    if table.group is not None and aside.any():
        audit_groups(devices, table.group)
    return TableDevices(devices, preparation, table.classes, sum(part.nbytes for part in sums))


def _aside(table: Table, partition: Partition, held_out: float | NDArray[Any], seed: int) -> Bool:
    if isinstance(held_out, np.ndarray):
        if held_out.shape != (len(table),) or held_out.dtype != np.bool_:
            raise ValueError(
                f"held_out of shape {held_out.shape} and type {held_out.dtype} was given; "
                f"a share, or {len(table)} truth values, are needed"
            )
        return held_out
    groups = table.groups
    aside = np.zeros(len(table), np.bool_)
    for name, rows in zip(partition.names, partition.rows, strict=True):
        aside[rows] = held_out_rows(
            table.y[rows], held_out, seed, name, None if groups is None else groups[rows]
        )
    return aside
