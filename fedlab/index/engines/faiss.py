"""Faiss behind an index: flat, inverted lists, HNSW, and product quantisation.

Faiss keeps float32 rows (or codes) of its own. Under cosine it is given rows of length one.

Source: Douze et al., "The Faiss library", arXiv:2401.08281; Jégou, Douze and Schmid, "Product
quantization for nearest neighbor search", IEEE TPAMI 33(1), 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fedlab.core.validation import whole_number
from fedlab.index.engines.faiss_structure import CENTROIDS, FaissEngine, faiss


@dataclass(frozen=True)
class FaissFlat(FaissEngine):
    """All rows, compared one by one: exact but for rounding.

    Examples
    --------
    >>> FaissFlat().name
    'faiss-flat'
    """

    name: ClassVar[str] = "faiss-flat"
    saved: ClassVar[bool] = False  # a second copy of the rows, which is made faster than read

    def empty(self, dimensions: int, metric: int) -> Any:
        return faiss().IndexFlat(dimensions, metric)


@dataclass(frozen=True)
class FaissHNSW(FaissEngine):
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

    @property
    def breadth(self) -> int:  # type: ignore[override]
        return self.expansion_search

    def empty(self, dimensions: int, metric: int) -> Any:
        index = faiss().IndexHNSWFlat(dimensions, self.connectivity, metric)
        index.hnsw.efConstruction = self.expansion_add
        return index

    def prepare(self, index: Any) -> None:
        index.hnsw.efSearch = self.expansion_search


@dataclass(frozen=True)
class FaissIVF(FaissEngine):
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

    def empty(self, dimensions: int, metric: int) -> Any:
        library = faiss()
        coarse = library.IndexFlat(dimensions, metric)
        return _owning(library.IndexIVFFlat(coarse, dimensions, self.lists, metric), coarse)

    def prepare(self, index: Any) -> None:
        index.nprobe = self.probes


@dataclass(frozen=True)
class FaissPQ(FaissEngine):
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
    least = CENTROIDS

    code_bytes: int = 32
    rescored: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _check_code(self.code_bytes, self.rescored, self.seed)

    def suits(self, dimensions: int, metric: str) -> None:
        _check_division(dimensions, self.code_bytes)

    def empty(self, dimensions: int, metric: int) -> Any:
        return faiss().IndexPQ(dimensions, self.code_bytes, 8, metric)


@dataclass(frozen=True)
class FaissIVFPQ(FaissEngine):
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
        return max(self.lists, CENTROIDS)

    def suits(self, dimensions: int, metric: str) -> None:
        _check_division(dimensions, self.code_bytes)

    def empty(self, dimensions: int, metric: int) -> Any:
        library = faiss()
        coarse = library.IndexFlat(dimensions, metric)
        index = library.IndexIVFPQ(coarse, dimensions, self.lists, self.code_bytes, 8, metric)
        return _owning(index, coarse)

    def prepare(self, index: Any) -> None:
        index.nprobe = self.probes


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
