"""A Faiss index over the rows of a table: what `fedlab.index.engines.faiss` describes, built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

from fedlab.core.extras import imported
from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F32, I64
from fedlab.index.engines.entries import Entries
from fedlab.index.table import RowTable

#: Of a byte of a product code.
CENTROIDS = 256
#: Faiss learns a centroid from no more rows than this.
_ROWS_A_CENTROID = 256
#: Numbers decoded at once.
_MANY = 1 << 20


def faiss() -> Any:
    """Return the library, or raise ImportError with the extra that brings it."""
    return imported("faiss", "faiss", "this engine")


class FaissEngine:
    """What Faiss's engines share; a subclass says which index it is.

    Attributes
    ----------
    name : str
    saved : bool
        Whether what is built goes into an index's file.
    least, most : int
        Rows that it learns from: it needs so many, and uses no more; 0 if it learns nothing.
    rescored : int
        Rows that are measured for each neighbour that is wanted.
    seed : int
        Draws the rows that it learns from.
    """

    name: ClassVar[str]
    saved: ClassVar[bool] = True
    searching: ClassVar[tuple[str, ...]] = ()
    least: int = 0
    rescored: int = 2
    breadth: int = 0
    seed: int = 0

    @property
    def most(self) -> int:
        return _ROWS_A_CENTROID * self.least

    def suits(self, dimensions: int, metric: str) -> None:
        """Raise ValueError if the engine is not for such rows."""

    def proposer(self, dimensions: int, metric: str, dtype: str) -> FaissProposer:
        """Return a proposer without rows."""
        return FaissProposer(self, dimensions, metric)

    def library(self) -> str:
        """Return Faiss's version."""
        return f"Faiss {faiss().__version__}" if find_spec("faiss") else "no Faiss"

    def empty(self, dimensions: int, metric: int) -> Any:
        """Return an empty Faiss index; `metric` is Faiss's."""
        raise NotImplementedError

    def prepare(self, index: Any) -> None:
        """Set what a search looks at."""


class FaissProposer(Entries):
    """A Faiss index over the rows of a table; see `Proposer`."""

    def __init__(self, engine: FaissEngine, dimensions: int, metric: str) -> None:
        super().__init__()
        self._engine, self._dimensions, self._metric = engine, dimensions, metric
        self._index = self._empty()
        self._learned_from = 0

    def _empty(self) -> Any:
        library = faiss()
        theirs = library.METRIC_L2 if self._metric == "l2sq" else library.METRIC_INNER_PRODUCT
        index = self._engine.empty(self._dimensions, theirs)
        self._engine.prepare(index)
        learners: list[Any] = [index, getattr(index, "pq", None)]
        for learner in learners:
            if hasattr(learner, "cp"):  # else it prints a warning below 39 rows a centroid
                learner.cp.min_points_per_centroid = 1
        return index

    def tune(self, settings: FaissEngine) -> None:
        """Search with other settings, which build the same index."""
        self._engine = settings
        settings.prepare(self._index)

    @property
    def oversampling(self) -> int:
        return self._engine.rescored

    @property
    def whole(self) -> bool:
        return not self.removed and self._index.ntotal == self.entries

    @property
    def worn(self) -> bool:
        return self.too_many_removed or self._index.ntotal != self.entries

    def extend(self, table: RowTable, threads: int) -> None:
        """Take in new rows; if they are more than it has learned from, learn anew from all."""
        known = table.rows - self.missing(table)
        if table.rows == known:
            return
        index, learned_from, anew = self._index, self._learned_from, False
        with _threads(threads):
            if self._engine.least and table.rows > 2 * learned_from:
                index, known, learned_from, anew = self._empty(), 0, table.rows, True
                index.train(self._sample(table))
            step = max(1, _MANY // self._dimensions)
            for start in range(known, table.rows, step):
                index.add(self._fitted(table.decoded(slice(start, min(start + step, table.rows)))))
        self._index, self._learned_from = index, learned_from
        if anew:
            self.begin(table.rows)
        else:
            new = np.arange(self.entries, self.entries + table.rows - known)
            self.enter(new, table.columns["keys"])

    def _sample(self, table: RowTable) -> F32:
        engine = self._engine
        if table.rows < engine.least:
            raise ValueError(
                f"{engine.name} learns {engine.least} centroids, and needs at least as many rows; "
                f"the index has {table.rows}: add rows, choose another engine, or ask the scan "
                "(exact=True)"
            )
        if table.rows <= engine.most:
            return self._fitted(table.decoded())
        draw = generator(engine.seed, Purpose.CODEBOOK)
        chosen = np.sort(draw.choice(table.rows, engine.most, replace=False))
        return self._fitted(table.decoded(chosen))

    def _fitted(self, rows: F32) -> F32:
        if self._metric != "cosine":
            return np.ascontiguousarray(rows)
        squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        return np.asarray(rows / np.sqrt(squares)[:, None], np.float32)

    def candidates(self, queries: F32, count: int, threads: int) -> I64:
        # Entries whose row is gone take up places in the answer.
        asked = min(count + min(count, self.removed), self.entries)
        with _threads(threads):
            _, places = self._index.search(self._fitted(queries), asked)
        return self.rows_at(places)

    def nbytes_beside(self, table: RowTable) -> int:
        """Return the bytes of codes, ids, centroids and links."""
        index, numbers = self._index, 4 * self._dimensions
        nbytes = index.ntotal * _code_size(index)
        if hasattr(index, "nlist"):
            nbytes += index.ntotal * 8 + index.nlist * numbers
        if hasattr(index, "pq"):
            nbytes += CENTROIDS * numbers
        if hasattr(index, "hnsw"):
            links = index.hnsw
            nbytes += 4 * (links.neighbors.size() + links.levels.size()) + 8 * links.offsets.size()
        return int(nbytes)

    def to_bytes(self) -> bytes | None:
        if not self._engine.saved:
            return None
        return bytes(faiss().serialize_index(self._index).tobytes())

    def load(self, content: memoryview) -> None:
        """Take what `to_bytes` returned. The bytes must have been authenticated before.

        Raises
        ------
        ValueError
            If they hold an index of another kind.
        """
        if not self._engine.saved:
            raise ValueError(f"a graph, which {self._engine.name} never saves")
        found, expected = faiss().deserialize_index(np.frombuffer(content, np.uint8)), self._index
        if (was := _kind(found)) != _kind(expected):
            raise ValueError(f"a Faiss index of another kind ({was})")
        self._engine.prepare(found)
        self._index, self._learned_from = found, found.ntotal
        self.begin(found.ntotal)


def _kind(index: Any) -> tuple[Any, ...]:
    """Return what an index's settings made of it, but for those of a search."""
    links = index.hnsw.nb_neighbors(1) if hasattr(index, "hnsw") else None
    lists = getattr(index, "nlist", None)
    return type(index).__name__, index.d, index.metric_type, _code_size(index), lists, links


def _code_size(index: Any) -> int:
    """Return the bytes that Faiss keeps of a row."""
    return int(index.storage.sa_code_size() if hasattr(index, "hnsw") else index.code_size)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let Faiss use so many threads when it is called by this one."""
    library = faiss()
    before = library.omp_get_max_threads()
    library.omp_set_num_threads(count)
    try:
        yield
    finally:
        library.omp_set_num_threads(before)
