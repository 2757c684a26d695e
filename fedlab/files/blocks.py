"""Arrays that stay in their file: read block by block, and checked each time a block is read.

Files are opened for each read and never mapped into memory: of a mapped file that somebody cuts
short, a read ends the process (SIGBUS), and what was checked may change before it is used. What is
read here is a copy, and that copy is what is checked. Nothing is kept in memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.threads import share, usable_threads
from fedlab.files.sealing import SealError, Unsealed

#: Bytes of a block: of a piece that a file has a digest of, and of a chunk of a seal.
BLOCK = 1 << 20
#: Threads that check blocks.
_THREADS = 4
#: Bytes of chosen rows that are read at once.
_AHEAD = 4 * BLOCK


class OpenFile:
    """A file that is read again later, as long as it is the one that was opened.

    Parameters
    ----------
    file : binary file
        Open.
    path : path-like
        Where it stands.
    error : type
        Raised where it doesn't any more.
    """

    def __init__(
        self, file: BinaryIO, path: str | os.PathLike[str], error: type[ValueError]
    ) -> None:
        self.path, self._error = os.path.realpath(path), error
        self._known = _identity(os.fstat(file.fileno()))

    def refused(self, why: str) -> ValueError:
        """Return the error that says why the file can't be relied upon."""
        name = os.path.basename(self.path)
        return self._error(f"{name} {why} since it was opened; open it again, or restore it")

    def read(self, start: int, size: int) -> bytes:
        """Return bytes of it, at most to its end."""
        try:
            if _identity(os.stat(self.path)) == self._known:
                with open(self.path, "rb", buffering=0) as file:  # held, it would cost a handle
                    file.seek(start)
                    content = file.read(size)
                if len(content) >= min(size, self._known[2] - start):
                    return content
        except OSError as error:
            raise self.refused(f"was removed, or can't be read ({error.strerror}),") from error
        raise self.refused("was replaced or has another size")


def _identity(known: os.stat_result) -> tuple[int, int, int]:
    return known.st_dev, known.st_ino, known.st_size


class FileArray:
    """An array whose rows stay in a file: indexed by rows, it returns copies of them.

    Parameters
    ----------
    dtype, shape
        Of the whole.
    """

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.dtype, self.shape = dtype, shape
        self.nbytes = math.prod(shape) * dtype.itemsize
        self._width = math.prod(shape[1:]) * dtype.itemsize

    def left_in(self, file: OpenFile, start: int, how: Any) -> None:
        """Be what stands in a file from `start` on.

        Parameters
        ----------
        file : OpenFile
        start : int
            Of a sealed file, within what it holds.
        how : Unsealed, or list of bytes
            Who read all of a sealed file before; of another, the digests of the array's blocks.
        """
        self._file, self._start, self._how = file, start, how

    @property
    def path(self) -> str:
        """Where its file stands."""
        return self._file.path

    def __len__(self) -> int:
        rows, *_ = self.shape
        return rows

    def __getitem__(self, rows: slice | ArrayLike) -> NDArray[Any]:
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return self._between(start, max(start, stop))
        places = np.asarray(rows)
        places = np.flatnonzero(places) if places.dtype == np.bool_ else places
        out = np.empty((len(places), *self.shape[1:]), self.dtype)
        order = np.argsort(places, kind="stable")

        def fill(group: NDArray[np.intp]) -> None:
            near = places[group]
            out[group] = self._between(near[0], near[-1] + 1)[near - near[0]]

        apart = np.flatnonzero(np.diff(places[order] * self._width // BLOCK)) + 1
        share(np.split(order, apart) if len(order) else (), fill, min(usable_threads(), _THREADS))
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)

    def _between(self, start: int, stop: int) -> NDArray[Any]:
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self._read_into(int(start) * self._width, out.reshape(-1).view(np.uint8).data)
        return out

    def pieces(self) -> Iterator[memoryview]:
        """Yield its bytes, 1 MiB at a time."""
        for start in range(0, self.nbytes, BLOCK):
            piece = memoryview(bytearray(min(BLOCK, self.nbytes - start)))
            self._read_into(start, piece)
            yield piece

    def _read_into(self, start: int, out: memoryview) -> None:
        if isinstance(self._how, Unsealed):  # its blocks are those of all that it holds
            start += self._start
        stop = start + len(out)

        def fill(number: int) -> None:
            block, begin = self._block(number), number * BLOCK
            first, last = max(start, begin), min(stop, begin + len(block))
            out[first - start : last - start] = block[first - begin : last - begin]

        share(range(start // BLOCK, -(-stop // BLOCK)), fill, min(usable_threads(), _THREADS))

    def _block(self, number: int) -> bytes:
        if isinstance(self._how, Unsealed):
            try:
                return self._how.again(number, self._file.read)
            except SealError as error:
                raise self._file.refused("was altered") from error
        begin = number * BLOCK
        content = self._file.read(self._start + begin, min(BLOCK, self.nbytes - begin))
        if sha256(content).digest() != self._how[number]:
            raise self._file.refused("was altered")
        return content


class ChosenRows:
    """Rows of several arrays in an order of their own, as one array that reads what is asked of it.

    Parameters
    ----------
    arrays : sequence of (n, ...) arrays
        In files or in memory, of one type and width.
    places : (m,) whole numbers
        Which rows, if all arrays stood end to end.

    Examples
    --------
    >>> rows = ChosenRows([np.zeros((2, 3)), np.ones((4, 3))], np.array([0, 5, 1]))
    >>> rows.shape, rows[:2][:, 0]
    ((3, 3), array([0., 1.]))
    """

    def __init__(
        self, arrays: Sequence[NDArray[Any] | FileArray], places: NDArray[np.integer]
    ) -> None:
        self._arrays, self._places = arrays, places
        self._starts = np.cumsum([0, *map(len, arrays)])
        self.dtype, self.shape = arrays[0].dtype, (len(places), *arrays[0].shape[1:])
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> NDArray[Any]:
        places = self._places[rows]
        out = np.empty((len(places), *self.shape[1:]), self.dtype)
        which = np.searchsorted(self._starts, places, side="right") - 1
        for number in np.unique(which):
            array, here = self._arrays[number], which == number
            near = places[here] - self._starts[number]
            first, past = near.min(), near.max() + 1
            dense = past - first < 2 * len(near)  # then blocks between are read once
            out[here] = array[first:past][near - first] if dense else array[near]
        return out

    def pieces(self) -> Iterator[memoryview]:
        """Yield its bytes, 1 MiB at a time."""
        width, left = math.prod(self.shape[1:]) * self.dtype.itemsize, b""
        step = max(1, _AHEAD // width)
        for start in range(0, len(self), step):
            content = memoryview(left + self[start : start + step].tobytes())
            whole = len(content) // BLOCK * BLOCK
            yield from (content[begin : begin + BLOCK] for begin in range(0, whole, BLOCK))
            left = bytes(content[whole:])
        if left:
            yield memoryview(left)
