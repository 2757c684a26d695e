"""Splits of rows over devices, each audited as it is made: no row twice, none lost.

Which rows a device has decides what federated learning can do, and silent overlaps are among the
commonest faults of published splits; so no `Partition` exists that has not been audited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import I64
from fedlab.core.validation import whole_number
from fedlab.data.tables.columns import rows_text
from fedlab.data.tables.targets import device_names, names_of

if TYPE_CHECKING:
    import pandas as pd


class PartitionError(ValueError):
    """A split overlaps, loses rows, or names rows that don't exist."""


@dataclass(frozen=True, eq=False)
class Partition:
    """Which rows belong to which device. Every row of ``range(total)`` is in exactly one device.

    Attributes
    ----------
    rows : tuple of ndarray of int64
        The rows of each device; a device may have none. Read-only.
    names : tuple of int or str
        What each device is called; all different.
    total : int
        Rows that are split.
    how : str
        How it was made, for people to read.

    Raises
    ------
    PartitionError
        If the split is not one; see `audit`.

    Examples
    --------
    >>> split = Partition((np.array([0, 2]), np.array([1])), ("ward 1", "ward 2"), 3, "by hand")
    >>> split.sizes
    (2, 1)
    >>> Partition((np.array([0, 2]), np.array([2])), ("ward 1", "ward 2"), 3, "by hand")
    Traceback (most recent call last):
    fedlab.data.partitions.partition.PartitionError: 1 row (2) held twice, by 'ward 1', 'ward 2'
    """

    rows: tuple[I64, ...]
    names: tuple[int | str, ...]
    total: int
    how: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(_as_rows(rows) for rows in self.rows))
        object.__setattr__(self, "names", tuple(self.names))
        audit(self)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each device."""
        return tuple(len(rows) for rows in self.rows)

    @property
    def device_of(self) -> I64:
        """The place, among the devices, of the one that holds each row; shape (total,)."""
        places = np.empty(self.total, dtype=np.int64)
        places[np.concatenate(self.rows)] = np.repeat(np.arange(len(self)), self.sizes)
        return places

    def check(self, rows: int) -> None:
        """Raise a ValueError unless it splits so many rows: else it is of other data."""
        if self.total != rows:
            raise ValueError(f"the partition splits {self.total} rows; the data have {rows}")

    def __len__(self) -> int:
        return len(self.rows)


def audit(partition: Partition) -> None:
    """Raise unless every row is in exactly one device and every device has a name of its own.

    A `Partition` runs this when it is made; run it again on one from elsewhere.

    Raises
    ------
    PartitionError
        Names some of the rows that are out of range, in two places, or lost.

    Examples
    --------
    >>> audit(iid(100, devices=7, seed=0))
    """
    if len(partition.names) != len(partition.rows):
        raise PartitionError(
            f"there are {len(partition.names)} names for {len(partition.rows)} devices"
        )
    if len(set(partition.names)) != len(partition.names):
        twice = [str(name) for name, times in Counter(partition.names).items() if times > 1]
        raise PartitionError(f"devices share a name: {', '.join(twice[:5])}")
    if partition.total <= 0 or not partition.rows:
        raise PartitionError(f"{partition.total} rows over {len(partition.rows)} devices: no split")
    every = np.concatenate(partition.rows)
    outside = np.unique(every[(every < 0) | (every >= partition.total)])
    if outside.size:
        raise PartitionError(f"{rows_text(outside)} outside 0 ... {partition.total - 1}")
    times = np.bincount(every, minlength=partition.total)
    twice_rows = np.flatnonzero(times > 1)
    if twice_rows.size:
        holders = [
            repr(name)
            for name, rows in zip(partition.names, partition.rows, strict=True)
            if np.isin(twice_rows, rows).any()
        ]
        raise PartitionError(f"{rows_text(twice_rows)} held twice, by {', '.join(holders[:5])}")
    lost = np.flatnonzero(times == 0)
    if lost.size:
        raise PartitionError(f"{rows_text(lost)} in no device")


def iid(total: int, devices: int, seed: int) -> Partition:
    """Split rows at random into parts whose sizes differ by at most one.

    Parameters
    ----------
    total : int
        Rows, at least `devices`.
    devices : int
        At least 1.
    seed : int
        The experiment's seed.

    Raises
    ------
    ValueError
        If there are fewer rows than devices.

    Examples
    --------
    >>> iid(10, devices=3, seed=0).sizes
    (4, 3, 3)
    """
    check_devices(total, devices, min_rows=1)
    order = generator(seed, Purpose.PARTITION).permutation(total)
    rows = tuple(np.sort(part) for part in np.array_split(order, devices))
    return Partition(rows, tuple(range(devices)), total, f"IID over {devices} devices, seed {seed}")


def by_column(values: ArrayLike) -> Partition:
    """Give each different value (a hospital, a user, a ward) a device of its own.

    Parameters
    ----------
    values : array_like, shape (n,)
        A value a row, whole numbers or text; none missing.

    Returns
    -------
    Partition
        Devices sorted (numbers by size, text alphabetically), each named by its value.

    Raises
    ------
    ValueError
        If a value is missing, or types are mixed.

    Examples
    --------
    >>> split = by_column(["south", "north", "south"])
    >>> split.names, [rows.tolist() for rows in split.rows]
    (('north', 'south'), [[1], [0, 2]])
    """
    codes, names = codes_of(values, device_names)
    return split_by(codes, names, "by column")


def label_table(partition: Partition, labels: ArrayLike) -> pd.DataFrame:
    """Count each device's rows of each class.

    Returns
    -------
    DataFrame of int
        A row for each device (index ``device``), a column for each class (``label``).

    Raises
    ------
    ValueError
        If there is not one label a row, or one is missing.

    Examples
    --------
    >>> split = by_column(["south", "north", "south"])
    >>> label_table(split, ["ill", "well", "well"]).loc["south"].to_dict()
    {'ill': 1, 'well': 1}
    """
    import pandas as pd

    codes, classes = codes_of(labels)
    if len(codes) != partition.total:
        raise ValueError(f"there are {len(codes)} labels for {partition.total} rows")
    counts = np.array([np.bincount(codes[rows], minlength=len(classes)) for rows in partition.rows])
    return pd.DataFrame(
        counts,
        index=pd.Index(partition.names, name="device"),
        columns=pd.Index(classes, name="label"),
    )


def _as_rows(rows: NDArray[Any]) -> I64:
    array = np.asarray(rows)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise PartitionError(
            f"rows of a device have shape {array.shape} and type {array.dtype}; they take integers "
            "of shape (rows,)"
        )
    array = array.astype(np.int64)
    array.flags.writeable = False
    return array


def split_by(device_of: I64, names: Sequence[int | str], how: str) -> Partition:
    """Return the partition in which row r belongs to the device at place ``device_of[r]``."""
    ends = np.cumsum(np.bincount(device_of, minlength=len(names)))[:-1]
    order = np.argsort(device_of, kind="stable")
    return Partition(tuple(np.split(order, ends)), tuple(names), len(device_of), how)


def check_devices(total: int, devices: int, min_rows: int) -> None:
    whole_number(min_rows, "min_rows", 0)
    most = total // max(min_rows, 1)
    if not 1 <= devices <= most:
        raise ValueError(
            f"devices is {devices}; {total} rows, with at least {min_rows} a device, allow "
            f"1 ... {most}"
        )


def codes_of(
    values: ArrayLike, named: Callable[..., pd.Series[Any]] = names_of
) -> tuple[I64, list[int | str]]:
    """Return each value's position among the different ones, and those, sorted."""
    import pandas as pd

    column = pd.Series(values)
    keys = named(column.reset_index(drop=True), str(column.name or "given")).to_numpy()
    names, codes = np.unique(
        keys if keys.dtype.kind == "i" else keys.astype(str), return_inverse=True
    )
    return codes.astype(np.int64), names.tolist()
