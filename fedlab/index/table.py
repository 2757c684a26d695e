"""The table that is the truth of an index: encoded rows, with keys, labels, metadata.

A table holds one contiguous array of encoded rows, with a key and perhaps a label for each.
Everything else (a search graph, an order of the keys) is derived from it. Training, `get` and the
exact scan read its rows *decoded*: what compression lost is lost for all of them alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F32, U64, Bool, Places
from fedlab.core.validation import read_only
from fedlab.index.encoding import DTYPES, Columns, decode


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

    columns: Columns
    _room: _Room | None = field(default=None, repr=False)
    dimensions: int | None = field(default=None, kw_only=True)

    @property
    def rows(self) -> int:
        return len(self.columns["codes"])

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())

    @property
    def squares(self) -> F32:
        """(n,) squared length of each decoded row."""
        return self.columns["squares"]  # type: ignore[return-value]

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
        yield from self.columns.items()
        yield from self._room.buffers.items() if self._room else ()

    def decoded(self, rows: slice | NDArray[np.integer] = slice(None)) -> F32:
        """Return rows as float32, (n, d); under f32 a slice is a view."""
        scales = self.columns.get("scales")
        part = None if scales is None else scales[rows]
        codes = self.columns["codes"][rows]
        return decode(codes, part, self.dimensions)  # type: ignore[arg-type]

    def slice(self, start: int, stop: int) -> RowTable:
        """Return rows `start` ... `stop` - 1 as a table over the same memory."""
        columns = {name: column[start:stop] for name, column in self.columns.items()}
        return RowTable(columns, dimensions=self.dimensions)

    def appended(self, block: Columns) -> RowTable:
        """Return the table with rows added at the end."""
        total = self.rows + len(block["codes"])
        types = {name: self._common_type(name, added) for name, added in block.items()}
        room = self._room
        if room is None or not self._fits(room, types, total):
            room = self._more_room(block, types, total)
        for name, added in block.items():
            room.buffers[name][self.rows : total] = added
        room.used = total
        columns = {name: buffer[:total] for name, buffer in room.buffers.items()}
        return RowTable(columns, room, dimensions=self.dimensions)

    def _common_type(self, name: str, added: NDArray[np.generic]) -> np.dtype[np.generic]:
        return np.result_type(self.columns[name].dtype, added.dtype) if self.rows else added.dtype

    def _fits(self, room: _Room, types: dict[str, np.dtype[np.generic]], total: int) -> bool:
        # Another table that grew out of this one may have taken the space: then `used` is more.
        return (
            room.used == self.rows
            and len(room.buffers["codes"]) >= total
            and {name: buffer.dtype for name, buffer in room.buffers.items()} == types
        )

    def _more_room(
        self, block: Columns, types: dict[str, np.dtype[np.generic]], total: int
    ) -> _Room:
        # The first block fits exactly; later ones leave room for as much again.
        size = 2 * total if self.rows else total
        buffers = {}
        for name, added in block.items():
            # Zeros: memory that was freed may still hold rows that were erased.
            buffers[name] = np.zeros((size, *added.shape[1:]), types[name])
            if self.rows:
                buffers[name][: self.rows] = self.columns[name]
        return _Room(buffers, self.rows)

    def kept(self, mask: Bool) -> RowTable:
        """Return the rows where `mask` is true, in fresh arrays."""
        columns = {name: column[mask] for name, column in self.columns.items()}
        return RowTable(columns, dimensions=self.dimensions)

    def tightened(self) -> RowTable:
        """Return the table with texts no wider than the longest: a width tells of a row that went.

        Columns that need no narrowing are shared.
        """
        columns = {name: _narrow(column) for name, column in self.columns.items()}
        return replace(self, columns=columns, _room=None)

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


def _narrow(column: NDArray[np.generic]) -> NDArray[np.generic]:
    if column.dtype.kind != "U":
        return column
    longest = int(np.char.str_len(column).max(initial=1))  # type: ignore[arg-type]
    return column.astype(f"<U{max(longest, 1)}", copy=False)
