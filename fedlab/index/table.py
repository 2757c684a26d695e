"""The table that is the truth of an index: encoded rows, with keys, labels, metadata.

A table holds one contiguous array of encoded rows, with a key and perhaps a label for each.
Everything else (a search graph, an order of the keys) is derived from it. Training, `get` and the
exact scan read its rows *decoded*: what compression lost is lost for all of them alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F32, U64, Bool, Places
from fedlab.core.validation import read_only
from fedlab.files.blocks import FileArray
from fedlab.index.encoding import DTYPES, Columns, decode
from fedlab.index.texts import TextColumn, alone, as_texts, flat, folded


@dataclass(eq=False)
class _Room:
    """Buffers with space at the end, filled up to `used` rows."""

    buffers: Columns
    used: int


@dataclass(frozen=True, eq=False)
class RowTable:
    """Columns of equal length: a value, like a tuple. What changes it returns another table.

    A column is a slice of a buffer that may have room to spare, so that many small additions cost
    what one large one does. Rows that stand are never written again: who holds a column (a view,
    a graph, a search that is under way) may rely on it. A table over somebody else's arrays has no
    room, so it copies them before it grows. `dimensions` is what `decode` needs of b1.
    """

    columns: dict[str, Any]
    _room: _Room | None = field(default=None, repr=False)
    dimensions: int | None = field(default=None, kw_only=True)

    @property
    def rows(self) -> int:
        return len(self.columns["codes"])

    @property
    def mapped(self) -> bool:
        """Whether the codes stay in a file: what asks for some of them reads them there."""
        return isinstance(self.columns["codes"], FileArray)

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())

    @property
    def squares(self) -> F32:
        """(n,) squared length of each decoded row."""
        squares: F32 = self.columns["squares"]
        return squares

    @cached_property
    def stored(self) -> tuple[Any, ...]:
        """What compiled loops read: see `fedlab.index.kernels`."""
        codes, none = self.columns["codes"], np.empty(0, np.float32)
        typed = codes.view(np.uint16) if codes.dtype == np.float16 else codes
        kinds = np.float32, np.uint16, np.int8, np.uint8
        return (
            list(DTYPES.values()).index(codes.dtype),
            *(
                read_only(typed if typed.dtype == kind else np.empty((0, 0), kind))
                for kind in kinds
            ),
            *(read_only(self.columns.get(name, none)) for name in ("scales", "keys", "squares")),
        )

    def buffers(self) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Yield each column's memory by name: the column, and the buffer that has room to spare."""
        for columns in (self.columns, folded(self._room.buffers) if self._room else {}):
            for name, column in columns.items():
                if not isinstance(column, FileArray):
                    yield from ((name, part) for part in flat({name: column}).values())

    def decoded(self, rows: slice | NDArray[np.integer] = slice(None)) -> F32:
        """Return rows as float32, (n, d); under f32 a slice is a view."""
        scales = self.columns.get("scales")
        part = None if scales is None else scales[rows]
        codes = self.columns["codes"][rows]
        return decode(codes, part, self.dimensions)

    def slice(self, start: int, stop: int) -> RowTable:
        """Return rows `start` ... `stop` - 1 as a table over the same memory, once it is read."""
        columns = {name: column[start:stop] for name, column in self.columns.items()}
        return RowTable(columns, dimensions=self.dimensions)

    def appended(self, block: Mapping[str, Any]) -> RowTable:
        """Return the table with rows added at the end."""
        standing, block = self.columns if self.rows else {}, as_texts(block)
        known, added = _continued(standing, block)
        room, total = self._room, self.rows + len(block["codes"])
        if room is None or not self._fits(room, known, added):
            texts = {n: c.merged() for n, c in standing.items() if isinstance(c, TextColumn)}
            known, added = _continued(standing | texts, block)
            room = self._more_room(known, added)
        for name, part in added.items():
            room.buffers[name][len(known[name]) : len(known[name]) + len(part)] = part
        room.used = total
        arrays = {n: b[: len(known[n]) + len(added[n])] for n, b in room.buffers.items()}
        return RowTable(folded(arrays), room, dimensions=self.dimensions)

    def _fits(self, room: _Room, known: Columns, added: Columns) -> bool:
        # Another table that grew out of this one may have taken the space: then `used` is more.
        return room.used == self.rows and all(
            len(room.buffers[name]) >= len(known[name]) + len(part)
            and room.buffers[name].dtype == np.result_type(known[name], part)
            for name, part in added.items()
        )

    def _more_room(self, known: Columns, added: Columns) -> _Room:
        # The first block fits exactly; later ones leave room for as much again.
        times, buffers = 2 if self.rows else 1, {}
        for name, part in added.items():
            size, stands = times * (len(known[name]) + len(part)), known[name]
            # Zeros: memory that was freed may still hold rows that were erased.
            buffers[name] = np.zeros((size, *part.shape[1:]), np.result_type(stands, part))
            buffers[name][: len(stands)] = stands
        return _Room(buffers, self.rows)

    def kept(self, mask: Bool) -> RowTable:
        """Return the rows where `mask` is true, in fresh arrays."""
        columns = {name: column[mask] for name, column in self.columns.items()}
        return RowTable(alone(columns), dimensions=self.dimensions)

    @cached_property
    def _order(self) -> Places:
        return np.argsort(self.columns["keys"], kind="stable")

    def rows_of(self, keys: U64) -> Places:
        """Return the row in which each key stands, -1 where none does."""
        known = self.columns["keys"]
        if not len(known):
            return np.full(len(keys), -1, np.intp)
        place = np.searchsorted(known, keys, sorter=self._order)
        rows = self._order[np.minimum(place, len(known) - 1)]
        return np.where(known[rows] == keys, rows, -1)


def _continued(standing: dict[str, Any], block: dict[str, Any]) -> tuple[Columns, Columns]:
    """Return arrays that stand, and those that continue them, by the same names."""
    following = {
        name: column.after(standing[name])
        if isinstance(column, TextColumn) and standing
        else column
        for name, column in block.items()
    }
    known, added = flat(standing), flat(following)
    return {name: known.get(name, part[:0]) for name, part in added.items()}, added
