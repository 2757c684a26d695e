"""Who answers a search, the scan or the engine, and what is asked of the engine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedlab.core.typing import F32, F64, I64, Bool
from fedlab.index.answers import Hits
from fedlab.index.engines import Engine, Proposer
from fedlab.index.ingest import KEY_LIMIT
from fedlab.index.scan import as_distances, nearest, nearest_chosen, ranked
from fedlab.index.table import RowTable

#: Up to so many stored numbers (10,000 rows of 400) a scan takes about a millisecond a query.
SCAN_LIMIT = 4_000_000
#: After so many queries the time to build a graph of all rows has been earned back.
BUILD_PAYS_AFTER = 30_000


def graph_pays(rows: int, dimensions: int, batch: int, missing: int) -> bool:
    """Say whether a search that leaves the choice to the index is answered by the graph.

    The graph answers if more than `SCAN_LIMIT` numbers (rows x dimensions) would be scanned, and
    this very batch earns back what it must take in first: `BUILD_PAYS_AFTER` queries for all rows,
    and in proportion for some. In all other cases the exact scan answers: no query waits for a
    build that costs more than the scan. Sizes decide, never a timing.

    Parameters
    ----------
    rows, dimensions : int
        What a scan would read.
    batch : int
        Queries.
    missing : int
        Rows that the graph has not taken in yet: all, where none stands or it must be built anew.

    Examples
    --------
    >>> graph_pays(rows=5_000, dimensions=384, batch=1, missing=0)
    False
    >>> graph_pays(rows=100_000, dimensions=384, batch=1, missing=3)
    True
    >>> graph_pays(rows=100_000, dimensions=384, batch=1, missing=100_000)
    False
    """
    return rows * dimensions > SCAN_LIMIT and batch * rows >= BUILD_PAYS_AFTER * missing


#: Rows that a walk measures for each of many candidates (9 to 25 of 96 numbers, connectivity 16).
_MEASURED = 20
#: More candidates than this, and than are wanted anyway, are never fetched.
_FETCHED = 1 << 12


def to_fetch(wanted: int, rows: int, passing: int, breadth: int) -> int:
    """Return how many candidates to ask an engine for, so that enough of the first half pass.

    A walk holds `breadth` candidates, or as many as it is asked for, and its recall hangs on how
    many of them could be answers. Where a filter has nothing to do with the vectors, one in
    rows / passing could; so that many times more are asked for. Of the later half of many a walk
    misses some, so only answers in the first half are trusted (see `Hits.rescued`).

    Parameters
    ----------
    wanted : int
        Candidates that are to be measured, without a filter.
    rows, passing : int
        Rows in all, and those that pass.
    breadth : int
        See `fedlab.index.engines.base.Engine`.

    Examples
    --------
    >>> to_fetch(wanted=20, rows=100_000, passing=10_000, breadth=64)
    640
    """
    fetched = math.ceil(max(1.5 * wanted, breadth) * rows / max(passing, 1))
    return min(max(wanted, min(fetched, _FETCHED)), rows)


def filtered_graph_pays(
    fetched: int, passing: int, dimensions: int, batch: int, missing: int
) -> bool:
    """Say whether a filtered search that leaves the choice to the index is the graph's.

    As in `graph_pays`, with the rows that pass in place of all rows. Besides, a walk that must
    fetch many candidates (`to_fetch`) measures many rows: they must be fewer than the scan's.

    Examples
    --------
    >>> filtered_graph_pays(fetched=128, passing=500_000, dimensions=384, batch=1, missing=0)
    True
    >>> filtered_graph_pays(fetched=3_200, passing=20_000, dimensions=384, batch=1, missing=0)
    False
    """
    walked = _MEASURED * fetched
    return walked < passing and graph_pays(passing, dimensions, batch, missing)


#: Candidates held at once.
_MANY = 1 << 20


@dataclass(frozen=True, eq=False)
class Lookup:
    """A search of one index: who should answer it, and what scan and engine answer.

    Attributes
    ----------
    table : RowTable
    engine : Engine
    metric : str
    queries : (q, d) float32 array
    k : int
        Places in the answer.
    chosen : (c,) int array, optional
        Only these rows may be found, in ascending order; by default all.
    threads : int
        Who share the queries.
    """

    table: RowTable
    engine: Engine
    metric: str
    queries: F32
    k: int
    chosen: I64 | None = None
    threads: int = 1

    @property
    def held(self) -> int:
        """Rows that may be found."""
        return self.table.rows if self.chosen is None else len(self.chosen)

    @property
    def empty(self) -> bool:
        """Whether nothing is asked, or nothing can be found."""
        return not self.held or not len(self.queries)

    def graph_pays(self, graph: Proposer | None) -> bool:
        """Say whether the engine should answer: its graph stands, or pays (see above)."""
        if self.table.mapped:
            return False
        missing = self.table.rows
        if graph is not None and not graph.worn:
            missing = graph.missing(self.table)
        sizes = self.held, self.queries.shape[1], len(self.queries), missing
        if self.chosen is None:
            return graph_pays(*sizes)
        times = graph.oversampling if graph else 2
        return filtered_graph_pays(self._to_fetch(times * self.k), *sizes)

    def scanned(self) -> Hits:
        """Return what the scan answers."""
        if self.empty:
            return self.unanswered("scan")
        return self._hits("scan", *self._scan(self.queries, min(self.k, self.held)))

    def walked(self, graph: Proposer) -> Hits:
        """Return what the engine answers; where it finds too few, the scan does.

        Parameters
        ----------
        graph : Proposer
            What the engine built over the table's rows.
        """
        if self.empty:
            return self.unanswered(self.engine.name)
        k, queries = min(self.k, self.held), self.queries
        rows, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
        # More candidates than k: what compression put out of order is put right by measuring.
        wanted = graph.oversampling * k
        wanted = min(wanted, self.table.rows) if self.chosen is None else self._to_fetch(wanted)
        few = max(1, _MANY // wanted)
        rescued = [np.empty(0, np.int64)]
        for start in range(0, len(queries), few):
            part = slice(start, start + few)
            rows[part], distances[part], lacking = self._measured(graph, queries[part], k, wanted)
            short = start + np.flatnonzero(lacking)
            if len(short):
                rows[short], distances[short] = self._scan(queries[short], k)
                rescued.append(short)
        return self._hits(self.engine.name, rows, distances, np.concatenate(rescued))

    def unanswered(self, engine: str) -> Hits:
        """Return an answer without a neighbour."""
        asked = len(self.queries)
        return self._hits(engine, np.full((asked, 0), -1), np.empty((asked, 0)))

    def _to_fetch(self, wanted: int) -> int:
        return to_fetch(wanted, self.table.rows, self.held, self.engine.breadth)

    def _scan(self, queries: F32, k: int) -> tuple[I64, F64]:
        if self.chosen is None:
            return nearest(self.table, queries, k, self.metric, self.threads)
        return nearest_chosen(self.table, self.chosen, queries, k, self.metric, self.threads)

    def _measured(
        self, graph: Proposer, queries: F32, k: int, wanted: int
    ) -> tuple[I64, F64, Bool]:
        """Return the nearest candidates, and for which queries too few are known."""
        near = self._checked(graph.candidates(queries, wanted, self.threads), len(queries))
        stands = near >= 0
        passed, first = stands, near.shape[1]
        if self.chosen is not None:
            passes = np.zeros(self.table.rows, np.bool_)
            passes[self.chosen] = True
            passed = stands & passes[near]
            passed &= passed.cumsum(axis=1) <= graph.oversampling * k
            # Of the later ones a walk misses some.
            first = (first + 1) // 2
        who = np.repeat(np.arange(len(near)), passed.sum(axis=1))
        rows, distances = ranked(self.table, queries, who, near[passed], k, self.metric)
        keys = self.table.columns["keys"][rows]
        if ((keys[:, 1:] == keys[:, :-1]) & (rows[:, 1:] >= 0)).any():
            raise ValueError(f"engine {self.engine.name!r} proposes a row twice for one query")
        # Among rows that are gone a walk may not get to those behind them. Otherwise an engine may
        # look at no more than k rows if it likes: that is its recall.
        needed = wanted if graph.removed else k
        lacking = (stands.sum(axis=1) < needed) | (passed[:, :first].sum(axis=1) < k)
        return rows, distances, lacking

    def _checked(self, near: I64, asked: int) -> I64:
        """Return what an engine proposes, or say what is no row: loops read them unchecked."""
        rows = self.table.rows
        if near.ndim != 2 or len(near) != asked or near.dtype.kind != "i":
            raise ValueError(
                f"engine {self.engine.name!r} proposes {near.dtype} of shape {near.shape}; row "
                f"numbers are needed, ({asked}, n)"
            )
        if near.size and not -1 <= near.min() <= near.max() < rows:
            raise ValueError(
                f"engine {self.engine.name!r} proposes rows {near.min()} ... {near.max()}; there "
                f"are {rows}, and -1 stands for none"
            )
        return near

    def _hits(self, engine: str, rows: I64, distances: F64, rescued: I64 | None = None) -> Hits:
        keys = np.full((len(rows), self.k), KEY_LIMIT, np.uint64)
        far = np.full((len(rows), self.k), np.inf)
        filled, width = rows >= 0, rows.shape[1]
        keys[:, :width][filled] = self.table.columns["keys"][rows[filled]]
        far[:, :width] = distances
        rescued = np.empty(0, np.int64) if rescued is None else rescued
        return Hits(keys, as_distances(far, self.metric), filled.sum(axis=1), engine, rescued, far)
