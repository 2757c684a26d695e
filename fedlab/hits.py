"""What a search answers, and the rule that says who answers it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BUILD_PAYS_AFTER",
    "SCAN_LIMIT",
    "Hits",
    "filtered_graph_pays",
    "graph_pays",
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
        See `fedlab.engines.base.Engine`.

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


@dataclass(frozen=True)
class Hits:
    """The neighbours of q queries, nearest first; ties stand in the order of their keys.

    Attributes
    ----------
    keys : (q, k) uint64 array
        2**64 - 1 where a query has fewer than k neighbours.
    distances : (q, k) float64 array
        1 - cos, 1 - inner product, or the squared Euclidean distance; inf where there is none.
    counts : (q,) int64 array
        Neighbours of each query: only the first ``counts[i]`` places of row i are filled.
    engine : str
        Who answered: "scan", which is exact, or the index's engine by its name (whose recall may be
        below 1): "graph", "faiss-ivf" and so on, see `fedlab.engines`.
    rescued : (r,) int64 array
        The queries that the engine found too few rows for, since many had been removed or did not
        pass a filter; these the scan answered after all.
    """

    keys: NDArray[np.uint64]
    distances: NDArray[np.float64]
    counts: NDArray[np.int64]
    engine: str
    rescued: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def found(self) -> NDArray[np.bool_]:
        """(q, k) mask of the places that are filled."""
        return np.arange(self.keys.shape[1])[None, :] < self.counts[:, None]
