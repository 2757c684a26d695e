"""What a search answers: the nearest rows of each query, or all rows within a radius."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fedlab.core.typing import F64, I64, U64, Bool

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Neighbourhoods:
    """The rows within a radius of q queries: of each query as many as there are.

    Neighbours of query i stand at places ``offsets[i]`` ... ``offsets[i + 1] - 1`` of the flat
    arrays, nearest first; ties stand in the order of their keys.

    Attributes
    ----------
    offsets : (q + 1,) int64 array
    keys : (m,) uint64 array
    distances : (m,) float64 array
        As in `fedlab.Hits`.
    totals : (q,) int64 array
        How many rows lie within the radius of each query, kept or not.

    Examples
    --------
    >>> near = Neighbourhoods(
    ...     offsets=np.array([0, 2, 2]),
    ...     keys=np.array([7, 4], np.uint64),
    ...     distances=np.array([0.1, 0.2]),
    ...     totals=np.array([5, 0]),
    ... )
    >>> [keys.tolist() for keys, _ in near]
    [[7, 4], []]
    >>> near.cut
    array([ True, False])
    """

    offsets: I64
    keys: U64
    distances: F64
    totals: I64

    def __len__(self) -> int:
        return len(self.totals)

    def __getitem__(self, query: int) -> tuple[U64, F64]:
        """Return keys and distances of one query's neighbours."""
        start, stop = self.offsets[:-1][query], self.offsets[1:][query]
        return self.keys[start:stop], self.distances[start:stop]

    def __iter__(self) -> Iterator[tuple[U64, F64]]:
        return (self[query] for query in range(len(self)))

    @property
    def counts(self) -> I64:
        """(q,) neighbours of each query that are here."""
        return np.diff(self.offsets)

    @property
    def cut(self) -> Bool:
        """(q,) mask of the queries of which a limit kept only the nearest."""
        return self.counts < self.totals

    def to_frame(self) -> pd.DataFrame:
        """Return a tidy frame: query, key, distance; a row a neighbour."""
        import pandas as pd

        query = np.repeat(np.arange(len(self)), self.counts)
        return pd.DataFrame({"query": query, "key": self.keys, "distance": self.distances})


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
        below 1): "graph", "faiss-ivf" and so on, see `fedlab.index.engines`.
    rescued : (r,) int64 array
        The queries that the engine found too few rows for, since many had been removed or did not
        pass a filter; these the scan answered after all.
    ordering : (q, k) float64 array, optional
        What the order is by: the distances, but under inner product -p, since 1 - p is the same for
        all products far below 1.
    """

    keys: U64
    distances: F64
    counts: I64
    engine: str
    rescued: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    ordering: F64 | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def found(self) -> Bool:
        """(q, k) mask of the places that are filled."""
        return np.arange(self.keys.shape[1])[None, :] < self.counts[:, None]
