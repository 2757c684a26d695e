"""What devices keep from round to round: control variates, personal parameters, what a codec owes.

It costs what the devices that took part keep, and a round costs what its cohort writes: a store is
a value, and the next one shares all that was not written. So whoever holds an earlier store (a
round that is skipped, an interrupt, a checkpoint) finds what it had.

With a folder, rows lie in files there, one for all that a part of a cohort wrote in a round. A file
is named by its content: it is written once, a round that is done again after a kill finds it, and
it is removed when no store of this process, and no checkpoint that it wrote, speaks of it any more.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import Array, Places
from fedlab.files.atomic import replacing

#: A node has 2**5 children; numbers of devices are cut into digits of five bits.
_BITS, _CHILDREN = 5, 32
Node = tuple[Any, ...]
_EMPTY: Node = (None,) * _CHILDREN


class _File:
    """Rows in a file that is there for as long as somebody speaks of it; one object a file."""

    _known: ClassVar[weakref.WeakValueDictionary[Path, _File]] = weakref.WeakValueDictionary()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = np.load(path, mmap_mode="r", allow_pickle=False)
        self._removal: Any = None
        self.pin(False)

    def pin(self, pinned: bool) -> None:
        """Say whether the file outlives this object, as a checkpoint wants it."""
        if pinned and self._removal is not None:
            self._removal.detach()
            self._removal = None
        elif not pinned and self._removal is None:
            self._removal = weakref.finalize(self, self.path.unlink, missing_ok=True)
            self._removal.atexit = False

    @classmethod
    def at(cls, path: Path) -> _File:
        """Return the file at a path."""
        path = path.absolute()
        if path not in cls._known:
            cls._known[path] = made = cls(path)
            return made
        return cls._known[path]

    def __reduce__(self) -> tuple[Any, ...]:
        return _File.shared, (self.path,)

    @classmethod
    def shared(cls, path: Path) -> _File:
        """Return a file that a copy speaks of: the process that wrote it removes it."""
        mine = path in cls._known
        file = cls.at(path)
        if not mine:
            file.pin(True)
        return file

    @classmethod
    def written(cls, folder: Path, rows: Array) -> _File:
        """Write rows, unless they are there."""
        path = folder / f"{_digest(rows)}.npy"
        if not path.exists():
            with replacing(path) as file:
                np.save(file, rows, allow_pickle=False)
        return cls.at(path)

    def refuse_altered(self) -> None:
        """Raise a ValueError unless the content is that of the name."""
        if _digest(self.rows) != self.path.stem:
            raise ValueError(f"{self.path.name} was altered")


def _digest(rows: Array) -> str:
    # Byte by byte where they lie: rows in files may be larger than memory.
    digest = hashlib.blake2b(np.ascontiguousarray(rows).data.cast("B"), digest_size=16)
    digest.update(f"{rows.dtype.str} {rows.shape}".encode())
    return digest.hexdigest()


class _InFile:
    """One row of a file."""

    __slots__ = ("file", "row")

    def __init__(self, file: _File, row: int) -> None:
        self.file, self.row = file, row


class DeviceStates:
    """Rows of numbers by name and by a device's place; a value that is never written to.

    Parameters
    ----------
    folder : path-like, optional
        Where rows are kept, in files; it must exist. By default they are kept in memory.

    Examples
    --------
    >>> before = DeviceStates()
    >>> after = before.put("control", np.array([7]), np.ones((1, 2)))
    >>> after.rows("control", np.array([3, 7]), np.zeros(2))
    array([[0., 0.],
           [1., 1.]])
    >>> before.rows("control", np.array([7]), np.zeros(2))
    array([[0., 0.]])
    """

    __slots__ = ("_folder", "_trees")

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._trees: Mapping[str, tuple[int, Node]] = {}

    @property
    def names(self) -> list[str]:
        """What is kept by any device."""
        return list(self._trees)

    def rows(self, name: str, places: Places, otherwise: Array) -> Array:
        """Return what the devices at some places keep, (m, n): a copy.

        Parameters
        ----------
        name : str
        places : (m,) int array
        otherwise : (n,) array
            What a device has that has kept nothing so far; its type is the result's.
        """
        made = np.empty((len(places), len(otherwise)), otherwise.dtype)
        levels, root = self._trees.get(name, (1, _EMPTY))
        for row, place in enumerate(places.tolist()):
            kept = _found(root, levels, place)
            made[row] = otherwise if kept is None else _read(kept)
        return made

    def put(self, name: str, places: Places, rows: Array) -> DeviceStates:
        """Return a store in which devices keep other rows, (m, n), which are copied."""
        if not len(places):
            return self
        if self._folder is not None:
            file = _File.written(self._folder, rows)
            news: dict[int, Any] = {p: _InFile(file, row) for row, p in enumerate(places.tolist())}
        else:
            # Each row is memory of its own: one that stays would hold on to all that came with it.
            news = {place: row.copy() for place, row in zip(places.tolist(), rows, strict=True)}
        return self._with(name, news)

    def column(self, name: str) -> tuple[Places, Array]:
        """Return the places of all devices that keep something, rising, and what they keep."""
        places, kept = self._kept(name)
        return places, np.array([_read(row) for row in kept])

    def _kept(self, name: str) -> tuple[Places, list[Any]]:
        levels, root = self._trees[name]
        kept = list(_all(root, levels, 0))
        return np.array([place for place, _ in kept], np.intp), [row for _, row in kept]

    # -- files -------------------------------------------------------------------------------

    def pin(self, before: DeviceStates | None = None) -> None:
        """Let the files of this store outlive it, and no longer those of one before."""
        if self._folder is None:
            return
        mine = self._files()
        for file in set() if before is None else before._files() - mine:
            file.pin(False)
        for file in mine:
            file.pin(True)

    def _files(self) -> set[_File]:
        return {row.file for name in self.names for row in self._kept(name)[1]}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all of it as arrays, for a file; of rows in files, where they lie."""
        made: dict[str, NDArray[Any]] = {}
        for name in self.names:
            places, kept = self._kept(name)
            if self._folder is None:
                made[f"{name} rows"] = np.array(kept)
            else:
                made[f"{name} files"] = np.array([row.file.path.name for row in kept], np.str_)
                made[f"{name} rows"] = np.array([row.row for row in kept], np.int64)
            made[f"{name} places"] = places.astype(np.int64)
        return made

    @classmethod
    def of(
        cls, arrays: Mapping[str, NDArray[Any]], folder: str | os.PathLike[str] | None = None
    ) -> DeviceStates:
        """Return the store whose `arrays` these are; files are read whole, and compared."""
        states, files = cls(folder), dict[str, _File]()
        for whole in arrays:
            if not whole.endswith(" rows"):
                continue
            name, rows = whole.removesuffix(" rows"), arrays[whole]
            places = arrays[f"{name} places"].astype(np.intp)
            if len(places) != len(rows) or (places < 0).any():
                raise ValueError(f"{len(rows)} rows of {name} at {len(places)} places")
            if (f"{name} files" in arrays) != (folder is not None):
                raise ValueError(f"{name} is kept elsewhere; give the same keep_in as before")
            if states._folder is None:
                states = states.put(name, places, rows)
                continue
            news: dict[int, Any] = {}
            for place, path, row in zip(
                places.tolist(), arrays[f"{name} files"].tolist(), rows.tolist(), strict=True
            ):
                if Path(path).name != path:
                    raise ValueError(f"{path!r} is no name of a file")
                if path not in files:
                    files[path] = _File.at(states._folder / path)
                    files[path].pin(True)
                    files[path].refuse_altered()
                if not 0 <= row < len(files[path].rows):
                    raise ValueError(f"row {row} of {len(files[path].rows)} in {path}")
                news[place] = _InFile(files[path], row)
            states = states._with(name, news)
        return states

    def _with(self, name: str, news: Mapping[int, Any]) -> DeviceStates:
        levels, root = self._trees.get(name, (1, _EMPTY))
        while max(news) >= _CHILDREN**levels:
            levels, root = levels + 1, (root, *_EMPTY[1:])
        after = DeviceStates(self._folder)
        after._trees = {**self._trees, name: (levels, _put(root, levels, news))}
        return after


def _read(row: Any) -> Array:
    return row.file.rows[row.row] if isinstance(row, _InFile) else row  # type: ignore[no-any-return]


def _found(node: Any, levels: int, place: int) -> Any:
    if place >= _CHILDREN**levels:
        return None
    for level in range(levels - 1, -1, -1):
        if node is None:
            return None
        node = node[place >> _BITS * level & _CHILDREN - 1]
    return node


def _put(node: Node | None, levels: int, news: Mapping[int, Any]) -> Node:
    """Return a node with new rows in it; children that get none are shared."""
    children = list(node or _EMPTY)
    if levels == 1:
        for place, row in news.items():
            children[place & _CHILDREN - 1] = row
        return tuple(children)
    by_child: dict[int, dict[int, Any]] = {}
    for place, row in news.items():
        child = place >> _BITS * (levels - 1) & _CHILDREN - 1
        by_child.setdefault(child, {})[place] = row
    for child, those in by_child.items():
        children[child] = _put(children[child], levels - 1, those)
    return tuple(children)


def _all(node: Node | None, levels: int, first: int) -> Iterator[tuple[int, Any]]:
    for child, below in enumerate(node or ()):
        place = first + (child << _BITS * (levels - 1))
        if below is not None and levels == 1:
            yield place, below
        elif below is not None:
            yield from _all(below, levels - 1, place)
