"""Annoy behind an index: a forest of random projection trees.

A forest that is built takes no more rows, so new ones build it anew. Annoy writes itself to files
only, never to bytes, so an index doesn't save it either.

Source: Bernhardsson, "Annoy: approximate nearest neighbors oh yeah", github.com/spotify/annoy.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

from fedlab.core.extras import imported
from fedlab.core.threads import share
from fedlab.core.typing import F32, I64
from fedlab.core.validation import whole_number
from fedlab.index.engines.entries import Entries
from fedlab.index.table import RowTable

_METRIC = {"cosine": "angular", "inner": "dot", "l2sq": "euclidean"}
_MANY = 1 << 20


@dataclass(frozen=True)
class Annoy:
    """A forest of random projection trees.

    Parameters
    ----------
    trees : int
        More find better, and take more memory.
    search_nodes : int
        Nodes that a search looks at; more find better and take longer.
    seed : int
        Draws the projections.

    Examples
    --------
    >>> Annoy(trees=10)
    Annoy(trees=10, search_nodes=2000, seed=0)
    """

    name: ClassVar[str] = "annoy"
    breadth: ClassVar[int] = 0
    searching: ClassVar[tuple[str, ...]] = ("search_nodes",)

    trees: int = 50
    search_nodes: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number(self.trees, "trees", 1, 100_000)
        whole_number(self.search_nodes, "search_nodes", 1, 2**31 - 1)
        whole_number(self.seed, "seed", 0, 2**31 - 1)

    def suits(self, dimensions: int, metric: str) -> None:
        """Raise ValueError if the engine is not for such rows: it is for all."""

    def proposer(self, dimensions: int, metric: str, dtype: str) -> Forest:
        """Return a forest without trees."""
        return Forest(self, dimensions, metric)

    def library(self) -> str:
        """Return Annoy's version."""
        return f"Annoy {version('annoy')}" if find_spec("annoy") else "no Annoy"


class Forest(Entries):
    """Trees over the rows of a table; see `Proposer`."""

    oversampling = 2

    def __init__(self, engine: Annoy, dimensions: int, metric: str) -> None:
        super().__init__()
        self._engine, self._dimensions, self._metric = engine, dimensions, metric
        self._forest = self._empty()

    def _empty(self) -> Any:
        annoy = imported("annoy", "annoy", "this engine")
        forest = annoy.AnnoyIndex(self._dimensions, _METRIC[self._metric])
        forest.set_seed(self._engine.seed)
        return forest

    def tune(self, settings: Annoy) -> None:
        """Search with other settings, which build the same forest."""
        self._engine = settings

    @property
    def whole(self) -> bool:
        return not self.removed and self._forest.get_n_items() == self.entries

    @property
    def worn(self) -> bool:
        return self.too_many_removed

    def extend(self, table: RowTable, threads: int) -> None:
        """Build all trees anew, if the table has rows that they have not."""
        if not self.missing(table):
            return
        forest = self._empty()
        step = max(1, _MANY // self._dimensions)
        for start in range(0, table.rows, step):
            block = table.decoded(slice(start, start + step))
            for place, row in enumerate(self._fitted(block), start):
                forest.add_item(place, row)
        forest.build(self._engine.trees, n_jobs=threads)
        self._forest = forest
        self.begin(table.rows)

    def _fitted(self, rows: F32) -> F32:
        # Annoy squares lengths in float32 and drops rows whose square vanishes.
        if self._metric != "cosine":
            return rows
        sizes = np.abs(rows).max(axis=1, keepdims=True)
        return np.asarray(rows / np.where(sizes > 0, sizes, np.float32(1)))

    def candidates(self, queries: F32, count: int, threads: int) -> I64:
        asked = min(count + min(count, self.removed), self.entries)
        places = np.full((len(queries), asked), -1, np.int64)

        def walk(query: int) -> None:
            found = self._forest.get_nns_by_vector(
                fitted[query], asked, search_k=self._engine.search_nodes
            )
            places[query, : len(found)] = found

        fitted = self._fitted(queries)
        share(range(len(queries)), walk, threads)
        return self.rows_at(places)

    def nbytes_beside(self, table: RowTable) -> int:
        """Return the least that so many trees take: Annoy doesn't tell what it took."""
        node = 12 + 4 * self._dimensions
        leaves = -(-self.entries // (self._dimensions + 2))
        # A tree of so many leaves has one split less; its root is stored twice.
        return node * (self.entries + self._engine.trees * 2 * leaves)

    def to_bytes(self) -> bytes | None:
        return None

    def load(self, content: memoryview) -> None:
        """Refuse: a forest is never saved."""
        raise ValueError("a graph, which annoy never saves")
