"""Which rows an engine was given, and where each stands now.

An engine knows rows by the order in which they came, so that no key of a user's ever reaches it.
Rows that were removed since keep their entries: most engines can't take one back out.
"""

from __future__ import annotations

import copy
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import I64, Bool

#: What holds a larger share of removed entries is built anew.
_REMOVED_LIMIT = 0.2


class Entries:
    """Entries of an engine, and the row of a table in which each stands.

    Examples
    --------
    >>> entries = Entries()
    >>> entries._enter(np.arange(3))
    >>> entries.without(np.array([True, False, True]))._rows_at(np.array([[2, 1, -1]]))
    array([[ 1, -1, -1]])
    """

    def __init__(self) -> None:
        self._row_of: I64 = np.empty(0, np.int64)

    @property
    def entries(self) -> int:
        """Rows that were ever entered, removed ones included."""
        return len(self._row_of)

    @property
    def removed(self) -> int:
        """Entries whose row is gone: they are still in memory, and are never returned."""
        return int((self._row_of < 0).sum())

    @property
    def borrowed(self) -> tuple[NDArray[np.generic], ...]:
        """Arrays of tables that it reads in their place, and so keeps alive: none, if it copies."""
        return ()

    @property
    def _too_many_removed(self) -> bool:
        return self.removed > _REMOVED_LIMIT * self.entries

    def without(self, kept: Bool) -> Self:
        """Return what stands for a table that keeps only the rows where `kept` is true."""
        moved = np.where(kept, np.cumsum(kept) - 1, -1)
        other = copy.copy(self)
        other._row_of = np.where(self._row_of >= 0, moved[self._row_of], -1)
        return other

    def _enter(self, rows: NDArray[np.integer]) -> None:
        self._row_of = np.concatenate([self._row_of, rows])

    def _rows_at(self, places: I64) -> I64:
        """Return the rows of entries, -1 where there is none (place -1) or where it is gone."""
        rows: I64 = np.where(places >= 0, self._row_of[places], -1)
        return rows
