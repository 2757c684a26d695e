"""What an engine is: settings, and what they build over the rows of an index.

An engine proposes candidates. The index measures each of them in float64 from its own rows, so
distances mean the same whoever proposed; an engine decides recall, speed and memory alone.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F32, I64, Bool
from fedlab.index.table import RowTable


class Proposer(Protocol):
    """A search structure over the rows of a table, known by the order in which they came."""

    @property
    def entries(self) -> int:
        """Rows that it holds, removed ones included."""

    @property
    def removed(self) -> int:
        """Entries whose row is gone."""

    @property
    def whole(self) -> bool:
        """Whether no row is gone and it holds what was entered: only then is it saved."""

    @property
    def worn(self) -> bool:
        """Whether it should be built anew."""

    @property
    def borrowed(self) -> tuple[NDArray[np.generic], ...]:
        """Arrays of tables that it reads in their place, and so keeps alive."""

    @property
    def oversampling(self) -> int:
        """How many candidates to ask for, for each neighbour that is wanted."""

    def tune(self, settings: Any) -> None:
        """Search with an engine's other settings, which build the same."""

    def missing(self, table: RowTable) -> int:
        """Return how many rows the table has and this has not: known without adding them up."""

    def extend(self, table: RowTable, threads: int) -> None:
        """Take in the rows that the table has and this has not."""

    def without(self, kept: Bool) -> Self:
        """Return what stands for a table that keeps only the rows where `kept` is true."""

    def candidates(self, queries: F32, count: int, threads: int) -> I64:
        """Return rows near each query, (q, `count` or more), none twice; -1 fills empty places."""

    def nbytes_beside(self, table: RowTable) -> int:
        """Return the bytes that it takes beside the table's."""

    def to_bytes(self) -> bytes | None:
        """Return what `load` takes, if it is `whole`; None if the library can't tell."""

    def load(self, content: memoryview) -> None:
        """Take what `to_bytes` returned. The bytes must have been authenticated before."""


class Engine(Protocol):
    """Settings of an engine: a frozen dataclass, whose fields go into an index's file."""

    @property
    def name(self) -> str:
        """By which answers and files call it."""

    @property
    def breadth(self) -> int:
        """Candidates that a search holds beside each other, however few it is asked for."""

    @property
    def searching(self) -> tuple[str, ...]:
        """Those settings that a search reads, and what is built doesn't depend on."""

    def suits(self, dimensions: int, metric: str) -> None:
        """Raise ValueError if the engine is not for such rows."""

    def proposer(self, dimensions: int, metric: str, dtype: str) -> Proposer:
        """Return a proposer without rows, for a table that stores its rows in `dtype`."""

    def library(self) -> str:
        """Return name and version of the library, whose bytes no other version should read."""
