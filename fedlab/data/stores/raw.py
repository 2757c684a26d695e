"""Formats that are rows of one type behind a header: NumPy's, IDX, those of TEXMEX, USearch's.

- ``.npy`` and ``.npz``: NumPy Enhancement Proposal 1. Python objects are never unpickled.
- IDX, gzip or not: MNIST's (LeCun, Cortes and Burges, "The MNIST database"): two zeros, the type,
  the number of dimensions, and each dimension in four bytes, the most significant first.
- ``.fvecs``, ``.bvecs``, ``.ivecs``: those of TEXMEX's corpora (Jégou, Douze and Schmid, "Product
  quantization for nearest neighbor search", PAMI 2011): before each row, its dimensions.
- ``.usearch``: see `read_usearch`.

What a header announces is compared with the size of the file before anything is read.
"""

from __future__ import annotations

import gzip
import math
import struct
import weakref
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import U64
from fedlab.data.stores.source import WIDEST, Store

_IDX = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
SAFE = (
    ": to read it could run anything. Where you trust it, load it by what wrote it, as by "
    "torch.load(path, weights_only=True), and numpy.save('vectors.npy', numpy.asarray(vectors))"
)
_VECS = {".fvecs": "<f4", ".bvecs": "u1", ".ivecs": "<i4"}


class FileRows:
    """Rows that begin where a file stands, one after another; they are sliced like an array.

    Parameters
    ----------
    file : binary file
    dtype, shape
        Of the rows, (n, d) or (n,).
    size : int or None
        Where they must end; None if that isn't known, as in a packed file.
    before : list
        What stands before each row, as a field of NumPy's.

    Raises
    ------
    ValueError
        If that can't be.
    """

    def __init__(
        self, file: IO[bytes], dtype: Any, shape: Any, size: int | None, before: Any = ()
    ) -> None:
        weakref.finalize(self, file.close)
        self.dtype, self.shape = np.dtype(dtype).newbyteorder("="), tuple(shape)
        wide = max(shape[1:], default=1) > WIDEST
        if wide or self.dtype.kind not in "biufUM" or len(shape) not in (1, 2):
            said = f"{dtype} of shape {shape} is not (n,) or (n, d) numbers, d up to {WIDEST}"
            raise ValueError(f"{said}; Python objects are never unpickled: save them as numbers")
        self._file, self._start, self._open = file, file.tell(), size is None
        self._row = np.dtype([*before, ("numbers", dtype, shape[1:])])
        if size is not None and self._start + shape[0] * self._row.itemsize != size:
            raise ValueError(f"{dtype} of shape {shape} don't make its {size} bytes: it is torn")

    def __getitem__(self, some: slice) -> NDArray[Any]:
        start, stop, _ = some.indices(self.shape[0])
        self._file.seek(self._start + start * self._row.itemsize)
        content = self._file.read(length := (stop - start) * self._row.itemsize)
        if len(content) < length or (self._open and stop == self.shape[0] and self._file.read(1)):
            raise ValueError("it has fewer or more bytes than its header announces: it is torn")
        rows = np.frombuffer(content, self._row)
        if len(self._row.descr) > 1 and (odd := rows["width"] != self.shape[1]).any():
            row, width = start + odd.argmax(), rows["width"][odd][0]
            raise ValueError(f"row {row} has {width} numbers, the first row {self.shape[1]}")
        return np.ascontiguousarray(rows["numbers"], self.dtype)


def _npy(file: IO[bytes], size: int) -> Any:
    header = "read_array_header_{}_{}".format(*np.lib.format.read_magic(file))
    shape, fortran, dtype = getattr(np.lib.format, header)(file)
    rows = FileRows(file, dtype, shape, size)
    # Column by column it is held whole.
    return np.frombuffer(file.read(), dtype).reshape(shape, order="F") if fortran else rows


def read_npy(path: Path, name: str) -> Store:
    """Find the array of a ``.npy`` file."""
    return Store(name, {"values": _npy(path.open("rb"), path.stat().st_size)})


def read_npz(path: Path, name: str) -> Store:
    """Find the arrays of a ``.npz`` file."""
    archive, columns = zipfile.ZipFile(path), {}
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            raise ValueError(f"it holds {info.filename!r}, like a model of torch's{SAFE}")
        columns[info.filename[:-4]] = _npy(archive.open(info), info.file_size)
    return Store(name, columns)


def read_idx(path: Path, name: str) -> Store:
    """Find the images or labels of an IDX file, gzip or not; an image is one row."""
    packed = path.suffix.lower() == ".gz"
    file: Any = gzip.GzipFile(path) if packed else path.open("rb")
    zeros, kind, sides = struct.unpack(">HBB", file.read(4))
    if zeros or kind not in _IDX:
        raise ValueError(f"it is of type {kind}; {list(_IDX)} are those of IDX")
    rows, *image = struct.unpack(f">{sides}I", file.read(4 * sides))
    shape = (rows, math.prod(image)) if image else (rows,)
    size = None if packed else path.stat().st_size
    return Store(name, {"values": FileRows(file, _IDX[kind], shape, size)})


def read_vecs(path: Path, name: str) -> Store:
    """Find the vectors of an ``.fvecs``, ``.bvecs`` or ``.ivecs`` file."""
    file, dtype, size = path.open("rb"), np.dtype(_VECS[path.suffix.lower()]), path.stat().st_size
    (width,) = struct.unpack("<i", file.read(4))
    file.seek(0)
    shape = size // (4 + width * dtype.itemsize), width
    return Store(name, {"values": FileRows(file, dtype, shape, size, [("width", "<i4")])})


# -- USearch --------------------------------------------------------------------------------------

# f64, f32, f16, i8, u8; and bf16 and bits, which NumPy hasn't, as what holds them.
_KINDS = {10: "<f8", 11: "<f4", 12: "<f2", 23: "i1", 17: "u1", 4: "<u2", 1: "u1"}
_METRICS = {ord("c"): "cosine", ord("i"): "inner", ord("e"): "l2sq"}


class _Standing:
    """Rows of USearch's matrix that were not removed, decoded where NumPy lacks the type."""

    def __init__(self, rows: FileRows, places: NDArray[np.intp], kind: int, width: int) -> None:
        self._rows, self._places, self._kind, self.shape = rows, places, kind, (len(places), width)
        self.dtype = np.dtype(np.float32) if kind == 4 else rows.dtype

    def __getitem__(self, some: slice) -> Any:
        those = self._places[some]
        block = self._rows[those[0] : those[-1] + 1][those - those[0]]
        if self._kind == 1:
            return np.unpackbits(block, axis=1, count=self.shape[1])
        return (block.astype(np.uint32) << 16).view(np.float32) if self._kind == 4 else block


def read_usearch(path: Path, name: str) -> Store:
    """Find the vectors and keys of an index that USearch saved, without USearch.

    Its own parser ends the process on bad files. Layout (USearch 2, ``index_dense.hpp`` and
    ``index.hpp``), little-endian::

        8 bytes  rows    of the matrix, and the bytes of each
        ...      matrix  of vectors, as they are stored
        64       head    "usearch", version, kinds (metric, numbers, keys, slots), counts
        40       graph   rows, connectivity, that of the base, highest level, entry
        2 a row  levels
        ...      nodes   of each row: its key, its level, room for its neighbours

    A row that was removed stands there still, under a key that is none; it is left out. Numbers are
    as USearch stores them: whole ones up to 127 in i8; bits are 0 and 1.
    """
    file, size = path.open("rb"), path.stat().st_size
    rows, length = struct.unpack("<II", file.read(8))
    file.seek(min(8 + rows * length, size))
    head = file.read(104).ljust(104)
    magic, version, metric, *kinds, dimensions = struct.unpack_from("<7sH4x4B16xQ", head)
    nodes, connectivity, base = struct.unpack_from("<QQQ", head, 64)
    dtype = np.dtype(_KINDS.get(kinds[0], "V1"))
    width = -(-dimensions // 8) if kinds[0] == 1 else dimensions
    if (magic, version, *kinds[1:]) != (b"usearch", 2, 14, 15) or kinds[0] not in _KINDS:
        raise ValueError("it holds no vectors as USearch 2 saves them; save the index anew")
    if nodes != rows or length != width * dtype.itemsize or max(connectivity, base) > WIDEST:
        raise ValueError(f"it has {nodes} nodes of {dimensions} numbers, {rows} rows of {length}")
    keys = _node_keys(file, size, rows, connectivity, base)
    file.seek(8)
    matrix = FileRows(file, dtype, (rows, width), 8 + rows * length)
    places = np.flatnonzero(keys != 2**64 - 1)
    columns = {"vectors": _Standing(matrix, places, kinds[0], dimensions), "key": keys[places]}
    return Store(name, columns, _METRICS.get(metric), "key")


def _node_keys(file: IO[bytes], size: int, rows: int, connectivity: int, base: int) -> U64:
    levels = np.frombuffer(file.read(2 * rows), "<i2").astype(np.int64)
    sizes = 14 + 4 * base + levels * (4 + 4 * connectivity)
    if len(levels) < rows or levels.min(initial=0) < 0 or file.tell() + sizes.sum() != size:
        raise ValueError(f"its graph doesn't fill its {size} bytes: it is torn; restore it")
    places = file.tell() + np.cumsum(sizes) - sizes
    nodes = np.memmap(file, np.uint8, "r")
    bits = (nodes[places + one].astype(np.uint64) << np.uint64(8 * one) for one in range(8))
    return sum(bits, np.zeros(rows, np.uint64))
