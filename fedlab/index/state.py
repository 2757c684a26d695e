"""All that a write changes of an index, as one value: whoever has read it works on with that."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import U64, Places
from fedlab.index import ingest
from fedlab.index import metadata as about
from fedlab.index.encoding import Columns
from fedlab.index.engines import Proposer
from fedlab.index.ingest import as_keys
from fedlab.index.table import RowTable


class Upserted(NamedTuple):
    """What an upsert did, by keys in the order in which they were given.

    Attributes
    ----------
    added, replaced : (n,) uint64 arrays
        Those that were new, and those whose rows stood before.
    """

    added: U64
    replaced: U64


class State(NamedTuple):
    """Rows, the graph over them, the next free key, and how often rows were changed.

    A graph may still have to take in rows that came since; it never has rows that the table
    hasn't.
    """

    table: RowTable
    graph: Proposer | None = None
    next_key: int = 0
    edits: int = 0

    @property
    def ready(self) -> bool:
        """Whether a graph stands that has all rows."""
        graph = self.graph
        return graph is not None and not graph.worn and not graph.missing(self.table)

    def places(self, keys: ArrayLike) -> Places:
        """Return in which row each key stands, or raise KeyError."""
        wanted = as_keys(keys)
        rows = self.table.rows_of(wanted)
        if (rows < 0).any():
            raise KeyError(f"keys {ingest.some(wanted[rows < 0])} are not in the index")
        return rows

    def without(self, gone: Places) -> State:
        """Return the state without some rows: a graph still holds them, and never returns them."""
        kept, graph = np.ones(self.table.rows, np.bool_), self._told_apart()
        kept[gone] = False
        graph = graph and graph.without(kept)
        return State(self.table.kept(kept), graph, self.next_key, self.edits + 1)

    def put(
        self, block: Columns, beside: tuple[Any, ...], replacing: bool
    ) -> tuple[State, U64, Places]:
        """Return the state with rows added, their keys, and where those stood that it replaced.

        Parameters
        ----------
        block : dict of arrays
            The rows as they are stored, with their squared lengths.
        beside : tuple
            Keys, labels and metadata, as `VectorIndex.add` takes them.
        replacing : bool
            Whether keys may be in the table.

        Raises
        ------
        ValueError, TypeError
            If anything is refused: keys, labels or metadata.
        """
        (keys, labels, metadata), rows, table = beside, len(block["codes"]), self.table
        known = (table.slice(0, 0), 0) if replacing else (table, self.next_key)
        new = ingest.keys_for(rows, keys, *known)
        stood = table.rows_of(new) if replacing else np.full(rows, -1)
        if not rows:
            return self, new, stood
        block = block | {"keys": new} | ingest.labels_for(rows, labels, table)
        block |= about.added(table.columns if table.rows else None, metadata, rows)
        before = self.without(stood[stood >= 0]) if (stood >= 0).any() else self
        state = State(
            before.table.appended(block),
            before._told_apart(),
            max(self.next_key, int(new.max()) + 1),
            self.edits + 1,
        )
        return state, new, stood

    def _told_apart(self) -> Proposer | None:
        # A graph that was loaded tells its rows apart from the table that it came with.
        if self.graph is not None:
            self.graph.missing(self.table)
        return self.graph
