"""What a search answers, and the rule that says who answers it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BUILD_PAYS_AFTER", "SCAN_LIMIT", "Hits", "graph_pays"]

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
    """

    keys: NDArray[np.uint64]
    distances: NDArray[np.float64]
    counts: NDArray[np.int64]
    engine: str

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def found(self) -> NDArray[np.bool_]:
        """(q, k) mask of the places that are filled."""
        return np.arange(self.keys.shape[1])[None, :] < self.counts[:, None]
