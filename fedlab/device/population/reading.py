"""Opening a population: its columns, mapped, and the devices that read from them."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedlab.core.typing import F32, F64, I64
from fedlab.core.validation import read_only, whole_number
from fedlab.device.device import Device
from fedlab.device.profile import PROFILE, Profile, refuse_odd_profile
from fedlab.device.profiles import profiles_of
from fedlab.device.rows import Rows
from fedlab.index.certificate import Holder
from fedlab.index.encoding import DTYPES, Columns, codes_in, decode
from fedlab.index.ingest import as_lengths, as_vectors
from fedlab.index.vectorindex import DType, Metric, VectorIndex

DESCRIPTION = "population.json"
KIND = "fedlab population"
VERSION = 1
BUFFER = 1 << 20


class PopulationError(ValueError):
    """A folder does not hold a whole population."""


class Population(Holder, Sequence["StoredDevice"]):
    """The devices of a folder that `write_population` made, each made when it is asked for.

    A `Federation` takes it like a list of devices, and leaves out those without rows. Two questions
    for the same place give two devices with the same rows: what is done to the index of one of them
    stays with it, and never reaches the store.

    The files must stay as they are while a population is in use (a mapped file that is cut short
    ends the process); to remove or to move the folder is no harm. What was read of them counts as
    the process's memory, but the system takes that back when it needs room.

    Parameters
    ----------
    folder : path-like

    Attributes
    ----------
    folder : Path
    dimensions : int
        Numbers in a vector.
    metric, dtype : str
        Of the devices' indexes (see `VectorIndex`).
    rows : (n,) int64 array
        Rows of each device.
    ids : range, or (n,) array of int64 or text
        Ids of the devices, distinct.
    order : (n,) int64 array, or None
        Places of the devices by rising id; None where they stand so.
    profiles : dict of str to (n,) float64 array
        The devices' profiles by column (see `Profile`), without those where all have the default.

    Raises
    ------
    PopulationError
        If files are missing or torn, of other types or sizes than they announce, or of a later
        version.
    FileNotFoundError
        If there is no such folder.

    Examples
    --------
    >>> import tempfile
    >>> from fedlab.device.population import write_population
    >>> folder = Path(tempfile.mkdtemp()) / "wards"
    >>> devices = [("ward 1", np.eye(2), [0, 1]), ("ward 2", [[3.0, 4.0]], [1])]
    >>> write_population(folder, devices, dimensions=2)
    >>> population = Population(folder)
    >>> population
    Population(2 devices, 3 rows of 2 in f32, cosine)
    >>> population.rows, population[1].id, population[1].training()
    (array([2, 1]), 'ward 2', (array([[3., 4.]], dtype=float32), array([1])))
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        template, devices, rows, columns = _described(self.folder)
        self.dimensions = template.dimensions
        self.metric: Metric = template.metric
        self.dtype: DType = template.dtype

        def column(name: str, shape: tuple[int, ...], *types: str) -> NDArray[Any]:
            return _mapped(self.folder / f"{name}.npy", shape, types)

        def profile(name: str) -> F64 | None:
            if name not in columns:
                return None
            values = column(name, (devices,), "<f8")
            refuse_odd_profile(name, values, PopulationError)
            return values

        width = codes_in(self.dimensions, self.dtype)
        codes = column("codes", (rows, width), DTYPES[self.dtype].str)
        self._columns: Columns = {"codes": codes}
        if self.dtype in ("i8", "b1"):
            self._columns["scales"] = column("scales", (rows,), "<f4")
        self._labels = column("labels", (rows,), "<i8", "<f8", "text")
        self._offsets = column("offsets", (devices + 1,), "<i8")
        self.rows: I64 = read_only(_rows_between(self._offsets, rows))
        self.ids: range | NDArray[Any] = range(devices)
        if "ids" in columns:
            self.ids = column("ids", (devices,), "<i8", "text")
        self.order: I64 | None = None
        if "order" in columns:
            self.order = column("order", (devices,), "<i8")
            if not np.array_equal(np.sort(self.order), np.arange(devices)):
                raise PopulationError(f"order.npy in {self.folder.name} names no order of devices")
        read = {name: profile(name) for name in PROFILE}
        self.profiles = {name: column for name, column in read.items() if column is not None}

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: SupportsIndex) -> StoredDevice: ...

    @overload
    def __getitem__(self, place: slice) -> list[StoredDevice]: ...

    def __getitem__(self, place: SupportsIndex | slice) -> StoredDevice | list[StoredDevice]:
        if isinstance(place, slice):
            return [StoredDevice(self, one) for one in range(*place.indices(len(self)))]
        asked, count = operator.index(place), len(self)
        if not -count <= asked < count:
            raise IndexError(f"place {asked} was asked for; the population has {count:,} devices")
        return StoredDevice(self, asked % count)

    def __repr__(self) -> str:
        return (
            f"Population({len(self):,} devices, {len(self._labels):,} rows of {self.dimensions} "
            f"in {self.dtype}, {self.metric})"
        )

    def __reduce__(self) -> tuple[type[Population], tuple[Path]]:
        # Another process maps the files itself; to send it their content would be a copy of all.
        return Population, (self.folder,)

    def buffers(self) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Yield the arrays that it maps from the store and its devices read, by name."""
        yield from (self._columns | {"labels": self._labels}).items()

    @cached_property
    def digest(self) -> str:
        """Of all names, rows and labels, as hex digits: it reads the whole store, once."""
        digest = hashlib.blake2b(f"{self!r}".encode(), digest_size=16)
        names = [] if isinstance(self.ids, range) else [self.ids]
        for column in (*self._columns.values(), self._labels, self._offsets, *names):
            digest.update(f"{column.dtype.str} {column.shape}".encode())
            digest.update(np.ascontiguousarray(column).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    # -- one device's part -------------------------------------------------------------------

    def _id_at(self, place: int) -> int | str:
        name: int | str = place if isinstance(self.ids, range) else self.ids.item(place)
        return name

    def _place_of_rows(self, place: int) -> slice:
        return slice(self._offsets.item(place), self._offsets.item(place + 1))

    def _vectors_at(self, rows: slice) -> F32:
        scales = self._columns.get("scales")
        part = None if scales is None else scales[rows]
        codes = self._columns["codes"][rows]
        return decode(codes, part, self.dimensions)  # type: ignore[arg-type]

    def _index_at(self, place: int) -> VectorIndex:
        rows = self._place_of_rows(place)
        columns = {name: column[rows] for name, column in self._columns.items()}
        columns["keys"] = np.arange(rows.start, rows.stop, dtype=np.uint64)
        columns["labels"] = self._labels[rows]
        what = f"device {self._id_at(place)!r} of {self.folder.name}"
        vectors = as_vectors(self._vectors_at(rows), self.dimensions, what)
        columns["squares"] = as_lengths(vectors, self.metric, what)
        next_key = len(self._labels)
        return VectorIndex.over(
            columns, self.dimensions, self.metric, self.dtype, next_key=next_key
        )


class StoredDevice(Device):
    """A device of a `Population`, which reads its rows from the store.

    Its index is made when it is first asked for, over the mapped rows, with their places in the
    store as keys. From then on the device answers from its index, so that it learns from what is
    added there and forgets what is removed; the store is never written to, and
    `population[place]` gives a device with the stored rows again.
    """

    # Device's own __init__ is not called: it takes an index and a profile, which are made here
    # when somebody asks for them. A round makes a thousand devices, and asks for neither.
    def __init__(self, population: Population, place: int) -> None:
        self.id = population._id_at(place)
        self._population = population
        self._place = place
        self._held_out = _NONE
        self._places = None
        self._known = None

    @cached_property
    def index(self) -> VectorIndex:  # type: ignore[override] # it can be assigned
        """The device's rows, a view into the store; copied before anything is added."""
        return self._population._index_at(self._place)

    @cached_property
    def profile(self) -> Profile:  # type: ignore[override] # it can be assigned
        """The device's hardware."""
        columns = self._population.profiles
        mine = {name: [column.item(self._place)] for name, column in columns.items()}
        return profiles_of(mine)[0] if mine else Profile()

    @property
    def _stored(self) -> slice | None:
        """Where its rows lie in the store; None once it has an index."""
        if "index" in self.__dict__:
            return None
        return self._population._place_of_rows(self._place)

    def __repr__(self) -> str:
        count = self.rows + self.validation_rows
        return f"StoredDevice({self.id!r}: {count:,} rows of {self._population.dimensions})"

    @property
    def labels(self) -> NDArray[Any]:
        """(n,) labels of all its rows, read-only."""
        stored = self._stored
        return super().labels if stored is None else self._population._labels[stored]

    @property
    def rows(self) -> int:
        """Rows to train on."""
        stored = self._stored
        return super().rows if stored is None else stored.stop - stored.start

    def training_rows(self) -> Rows:
        """Return the rows to train on: mapped where they are stored as f32, else decoded."""
        stored = self._stored
        if stored is None:
            return super().training_rows()
        vectors = self._population._vectors_at(stored)
        vectors.flags.writeable = False
        return Rows(vectors, self._population._labels[stored])


_NONE = np.empty(0, np.uint64)


def _described(folder: Path) -> tuple[VectorIndex, int, int, Sequence[str]]:
    """Return an empty index of its parameters, devices, rows and columns; or PopulationError."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; write_population makes one")
    path = folder / DESCRIPTION
    if not path.is_file():
        raise PopulationError(f"{folder.name} is no population: it has no {DESCRIPTION}")
    try:
        with open(path, "rb") as file:
            described = json.loads(file.read(BUFFER))
        kind, version = described["kind"], described["version"]
        if kind == KIND and version == VERSION:
            columns = described["columns"]
            if not set(columns) <= {"ids", "order", *PROFILE}:
                raise ValueError(f"columns {columns}")
            return (
                VectorIndex(described["dimensions"], described["metric"], described["dtype"]),
                whole_number(described["devices"], "devices", 0, 2**48),
                whole_number(described["rows"], "rows", 0, 2**48),
                columns,
            )
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise PopulationError(
            f"{path.name} in {folder.name} describes no population ({error!r}); write it anew"
        ) from error
    if kind != KIND:
        raise PopulationError(f"{path.name} in {folder.name} describes a {kind!r}, not a {KIND}")
    raise PopulationError(
        f"{folder.name} has version {version!r}; this library reads version {VERSION}: open it "
        "with the version that wrote it"
    )


def _mapped(path: Path, shape: tuple[int, ...], types: tuple[str, ...]) -> NDArray[Any]:
    """Map a column whose file holds exactly what is expected, or raise PopulationError."""
    if not path.is_file():
        raise PopulationError(f"{path.name} is missing in {path.parent.name}; write it anew")
    try:
        column = npy.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # NumPy hands an odd header to Python's parser: it raises many kinds
        raise PopulationError(
            f"{path.name} in {path.parent.name} is torn or no npy file ({error}); write it anew"
        ) from error
    dtype, by_rows = column.dtype, column.flags.c_contiguous
    text = dtype.kind == "U" and dtype.isnative and dtype.itemsize
    if ("text" if text else dtype.str) not in types or column.shape != shape or not by_rows:
        order = "" if by_rows else " by column"
        raise PopulationError(
            f"{path.name} in {path.parent.name} holds {dtype.str} of shape {column.shape}{order}; "
            f"{' or '.join(types)} of shape {shape} is needed: write it anew"
        )
    announced, size = column.offset + column.nbytes, path.stat().st_size
    if size != announced:
        raise PopulationError(
            f"{path.name} in {path.parent.name} is torn: its header announces {announced} bytes, "
            f"it has {size}; restore it from a copy, or write it anew"
        )
    return column.view(np.ndarray)  # parts of which are made in half the time


def _rows_between(offsets: I64, rows: int) -> I64:
    """Return the rows of each device, if offsets rise from 0 to the number of rows."""
    between = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] != rows or between.min(initial=0) < 0:
        raise PopulationError(
            f"offsets.npy must rise from 0 to {rows}, and doesn't: it begins with {offsets[0]}, "
            f"ends with {offsets[-1]}, and falls {int((between < 0).sum())} times; write it anew"
        )
    return between
