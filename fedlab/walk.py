"""A search by an engine: its candidates measured, and the scan for queries that it fails."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlab.chosen import nearest_chosen
from fedlab.engines import Proposer
from fedlab.scan import nearest, ranked
from fedlab.storage import Table

__all__ = ["Walk", "scanned"]

Float = NDArray[np.float32]
Places = NDArray[np.int64]
Double = NDArray[np.float64]

#: Candidates held at once.
_MANY = 1 << 20


def scanned(
    table: Table, probes: Float, k: int, metric: str, chosen: NDArray[np.intp] | None
) -> tuple[Places, Double]:
    """Return the k nearest of all rows, or of the chosen ones, exactly: see `fedlab.scan`."""
    if chosen is None:
        return nearest(table, probes, k, metric)
    return nearest_chosen(table, chosen, probes, k, metric)


@dataclass(frozen=True, eq=False)
class Walk:
    """A search by an engine.

    Attributes
    ----------
    graph : Proposer
        What the engine built over the table's rows.
    table : Table
    metric : str
    threads : int
    chosen : (c,) int array, optional
        Only these rows may be found.
    fetched : int, optional
        How many candidates are asked for then; see `fedlab.hits.to_fetch`.
    """

    graph: Proposer
    table: Table
    metric: str
    threads: int
    chosen: NDArray[np.intp] | None = None
    fetched: int | None = None

    def nearest(self, probes: Float, k: int) -> tuple[Places, Double, Places]:
        """Return rows and distances, (q, k), and for which queries the scan had to answer."""
        rows, distances = np.empty((len(probes), k), np.int64), np.empty((len(probes), k))
        # More candidates than k: what compression put out of order is put right by measuring.
        wanted = self.fetched or min(self.graph.oversampling * k, self.table.rows)
        few = max(1, _MANY // wanted)
        rescued = [np.empty(0, np.int64)]
        for start in range(0, len(probes), few):
            part = slice(start, start + few)
            rows[part], distances[part], lacking = self._measured(probes[part], k, wanted)
            short = start + np.flatnonzero(lacking)
            rows[short], distances[short] = scanned(
                self.table, probes[short], k, self.metric, self.chosen
            )
            rescued.append(short)
        return rows, distances, np.concatenate(rescued)

    def _measured(
        self, probes: Float, k: int, wanted: int
    ) -> tuple[Places, Double, NDArray[np.bool_]]:
        """Return the nearest candidates, and for which queries too few are known."""
        near = self.graph.candidates(probes, wanted, self.threads)
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
        rows, distances = ranked(self.table, probes, who, near[who, place], k, self.metric)
        # Among rows that are gone a walk may not get to those behind them. Otherwise an engine may
        # look at no more than k rows if it likes: that is its recall.
        needed = wanted if self.graph.removed else k
        lacking = (stands.sum(axis=1) < needed) | (passed[:, :first].sum(axis=1) < k)
        return rows, distances, lacking
