"""Writing a population: columns that grow in a folder that is moved when it is whole."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from fedlab.core.randomness import address_of
from fedlab.core.typing import I64
from fedlab.core.validation import plain_array, whole_number
from fedlab.device.device import Device
from fedlab.device.population.reading import (
    BUFFER,
    DESCRIPTION,
    KIND,
    VERSION,
)
from fedlab.device.profile import PROFILE, Profile, column_of, is_default, refuse_odd_profile
from fedlab.files.atomic import making_folder, write_bytes
from fedlab.index.encoding import Columns, decode, encode
from fedlab.index.ingest import as_labels, as_lengths, as_vectors
from fedlab.index.vectorindex import DType, Metric, VectorIndex

#: Letters of a label or an id, at most: in a file each takes the room of the longest.
_LETTERS = 256


def write_population(
    folder: str | os.PathLike[str],
    devices: Iterable[tuple[Any, ...] | Device] | None = None,
    *,
    dimensions: int,
    metric: Metric = "cosine",
    dtype: DType = "f32",
    blocks: Iterable[tuple[ArrayLike, ArrayLike, ArrayLike]] | None = None,
    ids: Iterable[int | str] | None = None,
    profiles: Mapping[str, ArrayLike] | None = None,
) -> None:
    """Write devices one after another to a folder that `Population` opens.

    Memory holds what is given at a time, some bytes a device, and labels that are text. The folder
    is written aside and moved: it is there whole, or not at all. What a killed writer left beside
    it is removed by the next one for the same folder.

    Parameters
    ----------
    folder : path-like
        Must not exist yet; the folder that it stands in must.
    devices : iterable of (x, y), of (id, x, y), or of Device
        Rows x, (n, d), and their labels y, (n,), of each device: what `VectorIndex.add` takes.
        Labels of all devices are of one type: whole numbers, numbers, or text. No rows are allowed;
        such a device takes part in nothing. A `Device` brings its profile along; which of its rows
        are held out is not kept.
    dimensions : int
        Numbers in a vector, d.
    metric, dtype : str
        Of the devices' indexes (see `VectorIndex`).
    blocks : iterable of (sizes, x, y)
        Instead of `devices`, many at once, and much faster where they are small: how many rows each
        of m devices has, (m,), and the rows and labels of all of them, one after another.
    ids : iterable of int or of str, optional
        A distinct id of each device, where `devices` give none. By default its place, 0 ... n - 1.
    profiles : mapping of column name to (n,) array, optional
        The fields of `Profile`: ``bandwidth``, ``compute`` and so on; a column that is not given
        has the default.

    Raises
    ------
    ValueError, TypeError
        If anything is refused; nothing is left behind.
    FileExistsError
        If `folder` exists: remove it first, if it isn't needed any more.

    Examples
    --------
    >>> import tempfile
    >>> from fedlab.device.population import Population
    >>> folder = Path(tempfile.mkdtemp()) / "phones"
    >>> block = [2, 0, 1], np.eye(3), [0, 1, 1]
    >>> write_population(folder, blocks=[block, block], dimensions=3, dtype="f16")
    >>> Population(folder).rows
    array([2, 0, 1, 2, 0, 1])
    """
    if (devices is None) == (blocks is None):
        raise TypeError("give the devices one by one, or blocks of many: one of the two")
    template = VectorIndex(dimensions, metric, dtype)
    with making_folder(folder) as aside, closing(_Writer(aside, template)) as writer:
        for device in devices or ():
            writer.add(device)
        for block in blocks or ():
            writer.add_block(*block)
        if ids is not None:
            writer.name_all(list(ids))
        for name, values in (profiles or writer.profiles()).items():
            writer.add_profile(name, values)
        writer.finish()


class _Column:
    """An ``.npy`` file that grows; its header is written again when its length is known."""

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...] = ()) -> None:
        self.path, self.dtype, self.shape = path, dtype, shape
        self.rows, self._texts = 0, list[NDArray[Any]]()
        self._file = open(path, "xb", buffering=BUFFER)  # noqa: SIM115 - see `close`
        self._write_header()

    def _write_header(self) -> None:
        # NumPy leaves room for the largest length, so that the header's own stays the same.
        shape = (self.rows, *self.shape)
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(self._file, header)

    def append(self, part: NDArray[Any]) -> None:
        self.rows += len(part)
        if self.dtype.kind == "U":  # each takes the room of the longest, which may come last
            self._texts.append(part)
        else:
            self._write(part)

    def _write(self, part: NDArray[Any]) -> None:
        whole = np.ascontiguousarray(part, self.dtype)
        self._file.write(whole.reshape(-1).view(np.uint8).data)

    def seal(self) -> None:
        """Write the length, and see to it that all is on the disk."""
        self._file.seek(0)
        self.dtype = max([self.dtype, *(part.dtype for part in self._texts)])
        self._write_header()
        for part in self._texts:
            self._write(part)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        self._file.close()


class _Writer:
    """The columns of a population that is being written."""

    def __init__(self, folder: Path, template: VectorIndex) -> None:
        self._folder, self._template = folder, template
        self._devices = 0
        self._columns: dict[str, _Column] = {}
        self._addresses = array("Q")
        self._ids: list[NDArray[Any]] = []
        self._profiles: list[Profile] = []
        self._append_to("offsets", np.zeros(1, np.int64))
        self._append_all(encode(np.empty((0, template.dimensions), np.float32), template.dtype))

    def _append_to(self, name: str, part: NDArray[Any]) -> None:
        if name not in self._columns:
            path = self._folder / f"{name}.npy"
            self._columns[name] = _Column(path, part.dtype, part.shape[1:])
        self._columns[name].append(part)

    def _append_all(self, block: Columns) -> None:
        for name, part in block.items():
            self._append_to(name, part)

    def close(self) -> None:
        for column in self._columns.values():
            column.close()

    # -- rows --------------------------------------------------------------------------------

    def add(self, device: tuple[Any, ...] | Device) -> None:
        """Add one device: (x, y), (id, x, y), or a `Device` with all its rows and its profile."""
        if isinstance(device, Device):
            if device.profile.online:
                raise ValueError(f"device {device.id!r} has intervals, which no population stores")
            self._profiles.append(device.profile)
            device = device.id, device.index.vectors, device.labels
        if not isinstance(device, tuple | list) or len(device) not in (2, 3):
            raise TypeError(
                f"device {self._devices} was given as {type(device).__name__}; a Device, (x, y) "
                "or (id, x, y) is needed"
            )
        *names, x, y = device
        if self._devices and bool(names) != bool(self._addresses):
            raise TypeError(f"device {self._devices}: give an id with all devices, or with none")
        if names:
            self._add_ids(names)
        self._add_rows(x, y, names)

    def _add_rows(self, x: Any, y: Any, names: Sequence[Any] = ()) -> None:
        try:
            block = self._encoded(x, y)
        except (TypeError, ValueError) as error:
            name = f" ({names[0]!r})" if names else ""
            raise type(error)(f"device {self._devices}{name}: {error}") from None
        self._add_encoded(block, np.array([len(block["codes"])]))

    def add_block(self, sizes: ArrayLike, x: Any, y: Any) -> None:
        """Add many devices."""
        counts = plain_array(sizes, "sizes")
        if counts.ndim != 1 or (counts.size and counts.dtype.kind not in "iu"):
            raise TypeError(
                f"sizes of type {counts.dtype} and shape {counts.shape} were given; whole numbers "
                "in one dimension are needed"
            )
        counts = counts.astype(np.int64)
        try:
            block = self._encoded(x, y)
        except (TypeError, ValueError):
            self._blame(counts, np.asanyarray(x), np.asanyarray(y))
            raise
        if counts.min(initial=0) < 0 or counts.sum() != len(block["codes"]):
            raise ValueError(
                f"sizes from {counts.min(initial=0)} on that add up to {counts.sum()} were given "
                f"for {len(block['codes'])} rows; none may be negative, and they must add up"
            )
        self._add_encoded(block, counts)

    def _blame(self, counts: I64, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Add the devices of a block that was refused one by one, so that an error names it."""
        if x.ndim != 2 or not len(x) == len(y) == counts.sum() or counts.min(initial=0) < 0:
            return
        for stop, count in zip(np.cumsum(counts), counts, strict=True):
            self._add_rows(x[stop - count : stop], y[stop - count : stop])

    def _encoded(self, x: Any, y: Any) -> Columns:
        """Return clean columns of rows and labels; refuse what `VectorIndex.add` would."""
        rows = as_vectors(x, self._template.dimensions, "vectors")
        labels = as_labels(y, len(rows))
        block = encode(rows, self._template.dtype)
        stored = decode(**block, dimensions=rows.shape[1])  # type: ignore[arg-type]
        as_lengths(stored, self._template.metric, "vectors")
        if not len(rows):
            return block  # of no labels, NumPy can't tell the type
        _refuse_long(labels)
        known = self._columns.get("labels")
        if known is not None and known.dtype.kind != labels.dtype.kind:
            raise TypeError(
                f"labels of type {labels.dtype} were given; those before have {known.dtype}: give "
                "whole numbers, numbers or text throughout"
            )
        return {**block, "labels": labels}

    def _add_encoded(self, block: Columns, counts: I64) -> None:
        self._append_to("offsets", self._columns["codes"].rows + np.cumsum(counts))
        self._append_all(block)
        self._devices += len(counts)

    # -- ids and profiles ----------------------------------------------------------------------

    def name_all(self, ids: list[int | str]) -> None:
        """Name all devices, in their order."""
        if self._addresses:
            raise TypeError("ids were given, and one with each device; give one of the two")
        if len(ids) != self._devices:
            raise ValueError(f"{len(ids)} ids were given for {self._devices} devices")
        if ids:
            self._add_ids(ids)

    def _add_ids(self, ids: Sequence[Any]) -> None:
        text = isinstance(ids[0], str)
        known = self._columns.get("ids")
        same = known is None or (known.dtype.kind == "U") == text
        if not same or any(isinstance(name, str) != text for name in ids):
            raise TypeError("ids of both kinds, whole numbers and text, were given; choose one")
        if text:
            names = np.array(ids, np.str_)
        else:
            names = np.array([whole_number(n, "an id", 0, 2**63 - 1) for n in ids], np.int64)
        _refuse_long(names)
        self._append_to("ids", names)
        self._ids.append(names)
        self._addresses.extend(map(address_of, names.tolist()))

    def _refuse_same_ids(self) -> None:
        # A device's draws stand at its id's address: that must differ, even where ids do.
        addresses = np.array(self._addresses, np.uint64)
        order = np.argsort(addresses, kind="stable")
        same = np.flatnonzero(np.diff(addresses[order]) == 0)
        if len(same):
            first, second = order[same[0]], order[same[0] + 1]
            raise ValueError(
                f"the devices {first} and {second} have the same id, or ids of the same address; "
                "each needs one of its own"
            )

    def _add_order(self) -> None:
        """Add the places of devices by rising id, unless they stand so."""
        if self._ids:
            ids = np.concatenate(self._ids)
            order = np.argsort(ids, kind="stable")
            if (order[1:] < order[:-1]).any():
                self._append_to("order", order.astype(np.int64))

    def profiles(self) -> dict[str, ArrayLike]:
        """Return the profiles of devices that brought one, by column."""
        if not self._profiles:
            return {}
        if len(self._profiles) < self._devices:
            raise TypeError("some devices were given as Device, others not; choose one of the two")
        return {name: column_of(self._profiles, name) for name in PROFILE}

    def add_profile(self, name: str, values: ArrayLike) -> None:
        """Add a column of profiles, unless all of it is the default."""
        if name not in PROFILE:
            raise ValueError(f"a profile has no {name!r}; choose among {', '.join(PROFILE)}")
        column = plain_array(values, name).astype(np.float64)
        if column.shape != (self._devices,):
            raise ValueError(
                f"{name} of shape {column.shape} was given; ({self._devices},), one number a "
                "device, is needed"
            )
        refuse_odd_profile(name, column)
        if not is_default(name, column):
            self._append_to(name, column)

    def finish(self) -> None:
        """Bring all columns to the disk, and write what they are."""
        self._refuse_same_ids()
        self._add_order()
        if "labels" not in self._columns:
            self._append_to("labels", np.empty(0, np.int64))
        for column in self._columns.values():
            column.seal()
        described = {
            "kind": KIND,
            "version": VERSION,
            "dimensions": self._template.dimensions,
            "metric": self._template.metric,
            "dtype": self._template.dtype,
            "devices": self._devices,
            "rows": self._columns["codes"].rows,
            "columns": [name for name in ("ids", "order", *PROFILE) if name in self._columns],
        }
        write_bytes(self._folder / DESCRIPTION, json.dumps(described, indent=1).encode())


def _refuse_long(text: NDArray[Any]) -> None:
    longest = text.dtype.itemsize // 4 if text.dtype.kind == "U" else 0
    longest = max(map(len, text.tolist())) if text.dtype.kind == "T" else longest
    if longest > _LETTERS:
        raise ValueError(
            f"text of {longest} letters was given; labels and ids have at most {_LETTERS}"
        )
