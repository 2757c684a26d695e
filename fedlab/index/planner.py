"""Who answers a search, the scan or the engine, and what is asked of the engine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedlab.core.typing import F32, F64, I64, Bool
from fedlab.index.engines import Proposer
from fedlab.index.scan import nearest, nearest_chosen, ranked
from fedlab.index.table import RowTable

__all__ = [
    "BUILD_PAYS_AFTER",
    "SCAN_LIMIT",
    "Walk",
    "filtered_graph_pays",
    "graph_pays",
    "scanned",
    "to_fetch",
]

#: Up to so many stored numbers (10,000 rows of 400) a scan takes about a millisecond a query.
SCAN_LIMIT = 4_000_000
#: After so many queries the time to build a graph has been earned back.
BUILD_PAYS_AFTER = 30_000


def graph_pays(rows: int, dimensions: int, batch: int, built: bool) -> bool:
    """Say whether a search that leaves the choice to the index is answered by the graph.

    The graph answers if the index holds more than `SCAN_LIMIT` numbers (rows x dimensions), and
    either stands already or is earned back by this very batch (`BUILD_PAYS_AFTER` queries). In all
    other cases the exact scan answers. Sizes decide, never a timing.

    Examples
    --------
    >>> graph_pays(rows=5_000, dimensions=384, batch=1, built=True)
    False
    >>> graph_pays(rows=100_000, dimensions=384, batch=1, built=True)
    True
    """
    return rows * dimensions > SCAN_LIMIT and (built or batch >= BUILD_PAYS_AFTER)


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
    fetched: int, passing: int, dimensions: int, batch: int, built: bool
) -> bool:
    """Say whether a filtered search that leaves the choice to the index is the graph's.

    As in `graph_pays`, with the rows that pass in place of all rows. Besides, a walk that must
    fetch many candidates (`to_fetch`) measures many rows: they must be fewer than the scan's.

    Examples
    --------
    >>> filtered_graph_pays(fetched=128, passing=500_000, dimensions=384, batch=1, built=True)
    True
    >>> filtered_graph_pays(fetched=3_200, passing=20_000, dimensions=384, batch=1, built=True)
    False
    """
    walked = _MEASURED * fetched
    return walked < passing and graph_pays(passing, dimensions, batch, built)


#: Candidates held at once.
_MANY = 1 << 20


def scanned(
    table: RowTable, queries: F32, k: int, metric: str, chosen: I64 | None
) -> tuple[I64, F64]:
    """Return the k nearest of all rows, or of the chosen ones, exactly: see `fedlab.index.scan`."""
    if chosen is None:
        return nearest(table, queries, k, metric)
    return nearest_chosen(table, chosen, queries, k, metric)


@dataclass(frozen=True, eq=False)
class Walk:
    """A search by an engine.

    Attributes
    ----------
    graph : Proposer
        What the engine built over the table's rows.
    table : RowTable
    metric : str
    threads : int
    chosen : (c,) int array, optional
        Only these rows may be found.
    fetched : int, optional
        How many candidates are asked for then; see `fedlab.index.planner.to_fetch`.
    """

    graph: Proposer
    table: RowTable
    metric: str
    threads: int
    chosen: I64 | None = None
    fetched: int | None = None

    def nearest(self, queries: F32, k: int) -> tuple[I64, F64, I64]:
        """Return rows and distances, (q, k), and for which queries the scan had to answer."""
        rows, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
        # More candidates than k: what compression put out of order is put right by measuring.
        wanted = self.fetched or min(self.graph.oversampling * k, self.table.rows)
        few = max(1, _MANY // wanted)
        rescued = [np.empty(0, np.int64)]
        for start in range(0, len(queries), few):
            part = slice(start, start + few)
            rows[part], distances[part], lacking = self._measured(queries[part], k, wanted)
            short = start + np.flatnonzero(lacking)
            rows[short], distances[short] = scanned(
                self.table, queries[short], k, self.metric, self.chosen
            )
            rescued.append(short)
        return rows, distances, np.concatenate(rescued)

    def _measured(self, queries: F32, k: int, wanted: int) -> tuple[I64, F64, Bool]:
        """Return the nearest candidates, and for which queries too few are known."""
        near = self.graph.candidates(queries, wanted, self.threads)
        stands = near >= 0
        passed, first = stands, near.shape[1]
        if self.chosen is not None:
            passes = np.zeros(self.table.rows, np.bool_)
            passes[self.chosen] = True
            passed = stands & passes[near]
            passed &= passed.cumsum(axis=1) <= self.graph.oversampling * k
            # Of the later ones a walk misses some.
            first = (first + 1) // 2
        who, place = np.nonzero(passed)
        rows, distances = ranked(self.table, queries, who, near[who, place], k, self.metric)
        # Among rows that are gone a walk may not get to those behind them. Otherwise an engine may
        # look at no more than k rows if it likes: that is its recall.
        needed = wanted if self.graph.removed else k
        lacking = (stands.sum(axis=1) < needed) | (passed[:, :first].sum(axis=1) < k)
        return rows, distances, lacking
