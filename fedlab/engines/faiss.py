"""Faiss behind an index: flat, inverted lists, HNSW, and product quantisation.

Faiss keeps float32 rows (or codes) of its own. Under cosine it is given rows of length one.

Source: Douze et al., "The Faiss library", arXiv:2401.08281; Jégou, Douze and Schmid, "Product
quantization for nearest neighbor search", IEEE TPAMI 33(1), 2011.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlab.checks import whole_number
from fedlab.engines.base import imported
from fedlab.entries import Entries
from fedlab.randomness import Purpose, generator
from fedlab.storage import Table

__all__ = ["FaissFlat", "FaissHNSW", "FaissIVF", "FaissIVFPQ", "FaissPQ"]

Float = NDArray[np.float32]

#: Numbers decoded at once.
_MANY = 1 << 20
#: Centroids of a byte of a product code.
_CENTROIDS = 256
#: Faiss learns a centroid from no more rows than this.
_ROWS_A_CENTROID = 256


def _faiss() -> Any:
    return imported("faiss", "faiss")


class _Faiss:
    """What the engines share; a subclass says which Faiss index it is."""

    name: ClassVar[str]
    saved: ClassVar[bool] = True
    searching: ClassVar[tuple[str, ...]] = ()
    #: Rows that the engine must learn from, at least and at most.
    least: int = 0
    most: int = 0
    rescored: int = 2

    def suits(self, dimensions: int, metric: str) -> None:
        """Raise ValueError if the engine is not for such rows."""

    def proposer(self, dimensions: int, metric: str, dtype: str) -> FaissProposer:
        """Return a proposer without rows."""
        return FaissProposer(self, dimensions, metric)

    def library(self) -> str:
        """Return Faiss's version."""
        return f"Faiss {_faiss().__version__}" if find_spec("faiss") else "no Faiss"

    def empty(self, dimensions: int, metric: int) -> Any:
        """Return an empty Faiss index; `metric` is Faiss's."""
        raise NotImplementedError

    def prepare(self, index: Any) -> None:
        """Set what a search looks at."""


@dataclass(frozen=True)
class FaissFlat(_Faiss):
    """All rows, compared one by one: exact but for rounding.

    Examples
    --------
    >>> FaissFlat().name
    'faiss-flat'
    """

    name: ClassVar[str] = "faiss-flat"
    saved: ClassVar[bool] = False  # a second copy of the rows, which is made faster than read

    def empty(self, dimensions: int, metric: int) -> Any:
        return _faiss().IndexFlat(dimensions, metric)


@dataclass(frozen=True)
class FaissHNSW(_Faiss):
    """Faiss's own graph, over a float32 copy of the rows.

    Parameters
    ----------
    connectivity, expansion_add, expansion_search : int
        As `HNSW` has them.
    """

    name: ClassVar[str] = "faiss-hnsw"
    searching: ClassVar[tuple[str, ...]] = ("expansion_search",)

    connectivity: int = 16
    expansion_add: int = 128
    expansion_search: int = 64

    def __post_init__(self) -> None:
        whole_number(self.connectivity, "connectivity", 2, 512)
        whole_number(self.expansion_add, "expansion_add", 1, 65_536)
        whole_number(self.expansion_search, "expansion_search", 1, 65_536)

    def empty(self, dimensions: int, metric: int) -> Any:
        index = _faiss().IndexHNSWFlat(dimensions, self.connectivity, metric)
        index.hnsw.efConstruction = self.expansion_add
        return index

    def prepare(self, index: Any) -> None:
        index.hnsw.efSearch = self.expansion_search


@dataclass(frozen=True)
class FaissIVF(_Faiss):
    """Inverted lists: rows by their nearest centroid, of which a search looks at a few.

    Parameters
    ----------
    lists : int
        Centroids, learned from at least as many rows.
    probes : int
        Lists that a query looks at; all of them make it exact but for rounding.
    seed : int
        Draws the rows that centroids are learned from.
    """

    name: ClassVar[str] = "faiss-ivf"
    searching: ClassVar[tuple[str, ...]] = ("probes",)

    lists: int = 256
    probes: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        _check_lists(self.lists, self.probes, self.seed)

    @property
    def least(self) -> int:  # type: ignore[override]
        return self.lists

    @property
    def most(self) -> int:  # type: ignore[override]
        return _ROWS_A_CENTROID * self.lists

    def empty(self, dimensions: int, metric: int) -> Any:
        faiss = _faiss()
        coarse = faiss.IndexFlat(dimensions, metric)
        return _owning(faiss.IndexIVFFlat(coarse, dimensions, self.lists, metric), coarse)

    def prepare(self, index: Any) -> None:
        index.nprobe = self.probes


@dataclass(frozen=True)
class FaissPQ(_Faiss):
    """Product quantisation: a row is a few bytes, each the nearest of 256 centroids of its part.

    Parameters
    ----------
    code_bytes : int
        Bytes of a code; the dimensions must divide by it.
    rescored : int
        How many rows are measured again for each neighbour that is wanted: codes are coarse.
    seed : int
        Draws the rows that centroids are learned from.
    """

    name: ClassVar[str] = "faiss-pq"
    searching: ClassVar[tuple[str, ...]] = ("rescored",)
    least = _CENTROIDS
    most = _CENTROIDS * _ROWS_A_CENTROID

    code_bytes: int = 32
    rescored: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _check_code(self.code_bytes, self.rescored, self.seed)

    def suits(self, dimensions: int, metric: str) -> None:
        _check_division(dimensions, self.code_bytes)

    def empty(self, dimensions: int, metric: int) -> Any:
        return _faiss().IndexPQ(dimensions, self.code_bytes, 8, metric)


@dataclass(frozen=True)
class FaissIVFPQ(_Faiss):
    """Product codes of what a row differs by from its list's centroid.

    Parameters
    ----------
    lists, probes : int
        As `FaissIVF` has them.
    code_bytes, rescored, seed : int
        As `FaissPQ` has them.
    """

    name: ClassVar[str] = "faiss-ivf-pq"
    searching: ClassVar[tuple[str, ...]] = ("probes", "rescored")

    lists: int = 256
    probes: int = 8
    code_bytes: int = 32
    rescored: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _check_lists(self.lists, self.probes, self.seed)
        _check_code(self.code_bytes, self.rescored, self.seed)

    @property
    def least(self) -> int:  # type: ignore[override]
        return max(self.lists, _CENTROIDS)

    @property
    def most(self) -> int:  # type: ignore[override]
        return _ROWS_A_CENTROID * self.least

    def suits(self, dimensions: int, metric: str) -> None:
        _check_division(dimensions, self.code_bytes)

    def empty(self, dimensions: int, metric: int) -> Any:
        faiss = _faiss()
        coarse = faiss.IndexFlat(dimensions, metric)
        index = faiss.IndexIVFPQ(coarse, dimensions, self.lists, self.code_bytes, 8, metric)
        return _owning(index, coarse)

    def prepare(self, index: Any) -> None:
        index.nprobe = self.probes


class FaissProposer(Entries):
    """A Faiss index over the rows of a table; see `Proposer`."""

    def __init__(self, engine: _Faiss, dimensions: int, metric: str) -> None:
        super().__init__()
        self._engine, self._dimensions, self._metric = engine, dimensions, metric
        self._index = self._empty()
        self._learned_from = 0

    def _empty(self) -> Any:
        faiss = _faiss()
        theirs = faiss.METRIC_L2 if self._metric == "l2sq" else faiss.METRIC_INNER_PRODUCT
        index = self._engine.empty(self._dimensions, theirs)
        self._engine.prepare(index)
        learners: list[Any] = [index, getattr(index, "pq", None)]
        for learner in learners:
            if hasattr(learner, "cp"):  # else it prints a warning below 39 rows a centroid
                learner.cp.min_points_per_centroid = 1
        return index

    def tune(self, settings: _Faiss) -> None:
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
        return self._too_many_removed or self._index.ntotal != self.entries

    def extend(self, table: Table, threads: int) -> None:
        """Take in new rows; if they are more than it has learned from, learn anew from all."""
        known = self.entries - self.removed
        if table.rows == known:
            return
        index, row_of, learned_from = self._index, self._row_of, self._learned_from
        with _threads(threads):
            if self._engine.least and table.rows > 2 * learned_from:
                index, known, row_of, learned_from = self._empty(), 0, row_of[:0], table.rows
                index.train(self._sample(table))
            step = max(1, _MANY // self._dimensions)
            for start in range(known, table.rows, step):
                index.add(self._fitted(table.decoded(slice(start, min(start + step, table.rows)))))
        self._index, self._learned_from = index, learned_from
        self._row_of = np.concatenate([row_of, np.arange(known, table.rows)])

    def _sample(self, table: Table) -> Float:
        engine: Any = self._engine
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

    def _fitted(self, rows: Float) -> Float:
        if self._metric != "cosine":
            return np.ascontiguousarray(rows)
        squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        return np.asarray(rows / np.sqrt(squares)[:, None], np.float32)

    def candidates(self, queries: Float, count: int, threads: int) -> NDArray[np.int64]:
        # Entries whose row is gone take up places in the answer.
        asked = min(count + min(count, self.removed), self.entries)
        with _threads(threads):
            _, places = self._index.search(self._fitted(queries), asked)
        return self._rows_at(places)

    def nbytes_beside(self, table: Table) -> int:
        """Return the bytes of codes, ids, centroids and links."""
        index, numbers = self._index, 4 * self._dimensions
        nbytes = index.ntotal * _code_size(index)
        if hasattr(index, "nlist"):
            nbytes += index.ntotal * 8 + index.nlist * numbers
        if hasattr(index, "pq"):
            nbytes += _CENTROIDS * numbers
        if hasattr(index, "hnsw"):
            links = index.hnsw
            nbytes += 4 * (links.neighbors.size() + links.levels.size()) + 8 * links.offsets.size()
        return int(nbytes)

    def to_bytes(self) -> bytes | None:
        if not self._engine.saved:
            return None
        return bytes(_faiss().serialize_index(self._index).tobytes())

    def load(self, content: memoryview) -> None:
        """Take what `to_bytes` returned. The bytes must have been authenticated before.

        Raises
        ------
        ValueError
            If they hold an index of another kind.
        """
        if not self._engine.saved:
            raise ValueError(f"a graph, which {self._engine.name} never saves")
        found, expected = _faiss().deserialize_index(np.frombuffer(content, np.uint8)), self._index
        if (was := _kind(found)) != _kind(expected):
            raise ValueError(f"a Faiss index of another kind ({was})")
        self._engine.prepare(found)
        self._index, self._learned_from = found, found.ntotal
        self._row_of = np.arange(found.ntotal)


def _kind(index: Any) -> tuple[Any, ...]:
    """Return what an index's settings made of it, but for those of a search."""
    links = index.hnsw.nb_neighbors(1) if hasattr(index, "hnsw") else None
    lists = getattr(index, "nlist", None)
    return type(index).__name__, index.d, index.metric_type, _code_size(index), lists, links


def _code_size(index: Any) -> int:
    """Return the bytes that Faiss keeps of a row."""
    return int(index.storage.sa_code_size() if hasattr(index, "hnsw") else index.code_size)


def _owning(index: Any, coarse: Any) -> Any:
    """Hand the coarse quantiser over to the index, which else holds a bare pointer to it."""
    coarse.this.disown()
    index.own_fields = True
    return index


def _check_lists(lists: int, probes: int, seed: int) -> None:
    whole_number(lists, "lists", 1, 1 << 20)
    whole_number(probes, "probes", 1, lists)
    whole_number(seed, "seed", 0, 2**64 - 1)


def _check_code(code: int, rescored: int, seed: int) -> None:
    whole_number(code, "code_bytes", 1, 65_536)
    whole_number(rescored, "rescored", 1, 10_000)
    whole_number(seed, "seed", 0, 2**64 - 1)


def _check_division(dimensions: int, code: int) -> None:
    if dimensions % code:
        fit = [size for size in range(1, dimensions + 1) if dimensions % size == 0]
        near = sorted(sorted(fit, key=lambda size: abs(size - code))[:3])
        raise ValueError(
            f"code_bytes is {code}, which {dimensions} dimensions don't divide by; take one that "
            f"they do, like {', '.join(map(str, near))}"
        )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let Faiss use so many threads when it is called by this one."""
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
