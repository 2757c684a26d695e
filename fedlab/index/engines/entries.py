"""Which rows an engine was given, and where each stands now.

An engine knows rows by the order in which they came, so that no key of a user's ever reaches it.
Rows that were removed since keep their entries: most engines can't take one back out. Equal rows
may share an entry.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import I64, U64, Bool
from fedlab.index.table import RowTable

#: What holds a larger share of removed entries is built anew.
_REMOVED_LIMIT = 0.2


class Entries:
    """Entries of an engine, and the row of a table in which each stands.

    Examples
    --------
    >>> entries = Entries()
    >>> entries.enter(np.array([0, 1, 1, 2]), keys=np.arange(4, dtype=np.uint64))
    >>> entries.rows_at(np.array([[2, 1, 0]]))
    array([[3, 1, 2]])
    >>> entries.without(np.array([True, False, True, True])).rows_at(np.array([[2, 1, -1]]))
    array([[ 2,  1, -1]])
    """

    _rows: I64
    _sizes: I64
    _starts: I64
    _row_of: I64
    _alike: bool
    #: Entries whose rows are gone: they are still in memory, and are never returned.
    removed: int

    def __init__(self) -> None:
        self.begin(0)

    def _settle(self, rows: I64, sizes: I64, **beside: Any) -> None:
        """Take rows in the order of their entries, of one entry in the order of their keys.

        What searches read is derived here, so that they needn't add anything up; all of it changes
        at once, so that an interrupt finds the old or the new.
        """
        starts, held = np.cumsum(sizes) - sizes, sizes > 0
        row_of = np.full(len(sizes), -1)
        row_of[held] = rows[starts[held]]
        removed = len(held) - int(held.sum())
        alike = len(rows) > len(held) - removed
        derived = {"_starts": starts, "_row_of": row_of, "removed": removed, "_alike": alike}
        vars(self).update(_rows=rows, _sizes=sizes, **derived, **beside)

    @property
    def entries(self) -> int:
        """Entries that were ever made, removed ones included."""
        return len(self._sizes)

    def missing(self, table: RowTable) -> int:
        """Return how many rows of the table it has not taken in."""
        return table.rows - len(self._rows)

    @property
    def borrowed(self) -> tuple[NDArray[np.generic], ...]:
        """Arrays of tables that it reads in their place, and so keeps alive: none, if it copies."""
        return ()

    @property
    def too_many_removed(self) -> bool:
        """Whether so many entries' rows are gone that it is better built anew."""
        return self.removed > _REMOVED_LIMIT * self.entries

    def without(self, kept: Bool) -> Self:
        """Return what stands for a table that keeps only the rows where `kept` is true."""
        other, stay = copy.copy(self), kept[self._rows]
        entry = np.repeat(np.arange(self.entries), self._sizes)
        rows = (np.cumsum(kept) - 1)[self._rows[stay]]
        other._settle(rows, np.bincount(entry[stay], minlength=self.entries))
        return other

    def enter(self, entries: I64, keys: U64, **beside: Any) -> None:
        """Take in the rows that follow those it has, each with its entry; `keys` are all rows'."""
        known = np.repeat(np.arange(self.entries), self._sizes)
        rows = np.concatenate([self._rows, np.arange(len(self._rows), len(keys))])
        of = np.concatenate([known, entries])
        order = np.lexsort((keys[rows], of))
        self._settle(rows[order], np.bincount(of, minlength=self.entries), **beside)

    def begin(self, rows: int) -> None:
        """Begin anew: every row is an entry."""
        self._settle(np.arange(rows), np.ones(rows, np.int64))

    def rows_at(self, places: I64) -> I64:
        """Return the rows of entries, -1 where there is none (place -1) or where all are gone.

        Entries of several rows take up as many places, and push others out at the end.
        """
        rows: I64 = np.where(places >= 0, self._row_of[places], -1)
        if not self._alike:
            return rows
        sizes = np.where(places >= 0, self._sizes[places], 0)
        count, width = places.shape
        ends = np.cumsum(sizes, axis=1)
        apart = np.arange(count)[:, None] * (len(self._rows) * width + 1)
        wanted = np.broadcast_to(np.arange(width), (count, width))
        which = np.searchsorted((ends + apart).ravel(), (wanted + apart).ravel(), side="right")
        filled = wanted.ravel() < np.repeat(ends[:, -1], width)
        entry, first = places.ravel()[which[filled]], (ends - sizes).ravel()[which[filled]]
        rows = np.full(count * width, -1)
        rows[filled] = self._rows[self._starts[entry] + wanted.ravel()[filled] - first]
        return rows.reshape(count, width)
