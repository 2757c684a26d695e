"""The graph behind an index: USearch's HNSW over rows that stand elsewhere.

A graph proposes candidates; it never answers. Its entries are numbered in the order in which they
came, so that no key of a user's ever reaches USearch, and a table says in which row each entry
stands now. It borrows the rows' memory where they are stored in the graph's own type.

In i8 USearch normalises the rows, and of bits it counts those that differ: both see directions
alone. Under squared distance and inner product, where lengths count, a graph over such rows keeps a
bf16 copy of the decoded rows.

USearch ranks by 1 - p, in float32, under inner product: products far below 1e-4 drown in it, and
rows that short are found badly by a graph (the scan finds them).

Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
hierarchical navigable small world graphs", IEEE TPAMI 42(4), 2020.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F32, I64
from fedlab.core.validation import whole_number
from fedlab.index.encoding import DTYPES, LARGEST, codes_in, encode
from fedlab.index.engines.entries import Entries
from fedlab.index.table import RowTable

_USEARCH_METRIC = {"cosine": "cos", "inner": "ip", "l2sq": "l2sq"}
_DIRECTIONS_ALONE = ("i8", "b1")


@dataclass(frozen=True)
class HNSW:
    """The engine of an index by default: USearch's graph.

    Parameters
    ----------
    connectivity : int
        Links of a node.
    expansion_add, expansion_search : int
        Candidates held while building and while searching.
    dtype : {"f32", "f16", "bf16", "i8", "b1"}, optional
        The type that the graph sees rows in; by default the one that they are stored in. In a
        smaller one it is built and walked faster, and since what it proposes is measured again
        from the stored rows, little recall is lost; but then it holds a copy of the rows of its
        own. i8 and b1 compare directions alone, and are for cosine.
    rescored : int, optional
        How many rows are measured for each neighbour that is wanted; by default 2, and 10 where the
        graph is in b1, which is coarse. Measured on 20,000 rows of a mixture of 500 Gaussians: a b1
        graph over f32 rows had recall@10 .94 with 5 and .98 with 10 at 128 dimensions, 1.00 with
        either at 384; at 2 it was .72 and .77.

    Examples
    --------
    >>> HNSW(dtype="i8")
    HNSW(connectivity=16, expansion_add=128, expansion_search=64, dtype='i8', rescored=None)
    """

    name: ClassVar[str] = "graph"
    searching: ClassVar[tuple[str, ...]] = ("expansion_search", "rescored")

    connectivity: int = 16
    expansion_add: int = 128
    expansion_search: int = 64
    dtype: str | None = None
    rescored: int | None = None

    def __post_init__(self) -> None:
        whole_number(self.connectivity, "connectivity", 2, 512)
        whole_number(self.expansion_add, "expansion_add", 1, 65_536)
        whole_number(self.expansion_search, "expansion_search", 1, 65_536)
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(
                f"the graph's dtype is {self.dtype!r}; choose one of {', '.join(DTYPES)}, or None "
                "for the type of the rows"
            )
        if self.rescored is not None:
            whole_number(self.rescored, "rescored", 1, 10_000)

    @property
    def breadth(self) -> int:
        """Candidates that a search holds beside each other, however few it is asked for."""
        return self.expansion_search

    def suits(self, dimensions: int, metric: str) -> None:
        """Raise ValueError if the engine is not for such rows."""
        if self.dtype in _DIRECTIONS_ALONE and metric != "cosine":
            raise ValueError(
                f"a graph in {self.dtype} compares directions alone, and under {metric!r} lengths "
                "count: choose HNSW(dtype='bf16'), or the metric 'cosine'"
            )

    def proposer(self, dimensions: int, metric: str, dtype: str) -> Graph:
        """Return a graph without rows, for a table that stores its rows in `dtype`."""
        return Graph(dimensions, metric, dtype, self)

    def library(self) -> str:
        """Return USearch's version: only that one reads the graphs it has saved."""
        return f"USearch {library_version()}"


class Graph(Entries):
    """An HNSW graph over the rows of a table.

    Parameters
    ----------
    dimensions : int
        Numbers in a row.
    metric : {"cosine", "inner", "l2sq"}
        What is near.
    dtype : {"f32", "f16", "bf16", "i8", "b1"}
        How the table stores its rows.
    settings : HNSW
    """

    def __init__(self, dimensions: int, metric: str, dtype: str, settings: HNSW) -> None:
        super().__init__()
        # USearch's types don't say all that it has.
        usearch: Any = import_module("usearch.index")
        self._metric = metric
        wanted = settings.dtype or dtype
        self._dtype = "bf16" if wanted in _DIRECTIONS_ALONE and metric != "cosine" else wanted
        self._borrows = self._dtype == dtype
        self._settings = settings
        self._width = codes_in(dimensions, self._dtype)
        bits = self._dtype == "b1"
        # Entries are numbered by us, so USearch need not keep a table of keys.
        self._index = usearch.Index(
            ndim=8 * self._width if bits else dimensions,
            metric="hamming" if bits else _USEARCH_METRIC[metric],
            dtype=self._dtype,
            enable_key_lookups=False,
            connectivity=settings.connectivity,
            expansion_add=settings.expansion_add,
            expansion_search=settings.expansion_search,
        )
        # USearch holds bare pointers into these; they must live as long as the graph.
        self._borrowed: list[NDArray[np.generic]] = []
        self._copied = 0

    def tune(self, settings: HNSW) -> None:
        """Search with other settings, which build the same graph."""
        self._settings = settings
        self._index.expansion_search = settings.expansion_search

    @property
    def borrowed(self) -> tuple[NDArray[np.generic], ...]:
        """Codes of tables whose links it holds, and not the codes themselves."""
        return tuple(self._borrowed)

    @property
    def oversampling(self) -> int:
        """How many candidates to ask for, for each neighbour that is wanted."""
        return self._settings.rescored or (10 if self._dtype == "b1" else 2)

    @property
    def whole(self) -> bool:
        """Whether no row is gone and USearch holds what we entered."""
        return not self.removed and len(self._index) == self.entries

    @property
    def worn(self) -> bool:
        """Whether it should be built anew: too many rows are gone, or a build was broken off."""
        return self._too_many_removed or len(self._index) != self.entries

    def nbytes_beside(self, table: RowTable) -> int:
        """Return the bytes of the links, and of those rows that it doesn't share with `table`."""
        row = self._width * DTYPES[self._dtype].itemsize
        links = int(self._index.serialized_length) - self.entries * row
        codes = table.columns["codes"]
        held = sum(part.nbytes for part in self._borrowed if not np.may_share_memory(part, codes))
        return links + held + self._copied * row

    def extend(self, table: RowTable, threads: int) -> None:
        """Enter the rows that the table has and the graph has not.

        One thread gives the same graph each time, and the same whether rows come at once or in
        parts; several are faster and give another graph each time.
        """
        known = self.entries - self.removed
        new = np.arange(known, table.rows)
        if not len(new):
            return
        codes = table.columns["codes"][known:]
        if self._borrows:
            self._borrowed.append(codes)
        else:
            codes = encode(table.decoded(slice(known, None)), self._dtype)["codes"]
            self._copied += len(new)
        entries = np.arange(self.entries, self.entries + len(new), dtype=np.uint64)
        with _interruptible():
            self._index.add(
                entries, codes, copy=not self._borrows, threads=threads, dtype=self._dtype
            )
        self._enter(new)

    def candidates(self, queries: F32, count: int, threads: int) -> I64:
        """Return rows near each query, (q, `count` or more), -1 where an entry's row is gone."""
        asked = min(self._to_ask(count), self.entries)
        codes = encode(self._fitted(queries), self._dtype)["codes"]
        with _interruptible():
            found = self._index.search(codes, asked, threads=threads, dtype=self._dtype)
        rows = np.full((len(codes), asked), -1, np.int64)
        if len(codes) == 1:  # USearch answers one query with another type, without padding
            rows[0, : len(found.keys)] = self._row_of[np.asarray(found.keys, np.int64).ravel()]
            return rows
        valid = np.arange(asked)[None, :] < np.asarray(found.counts)[:, None]
        rows[valid] = self._row_of[found.keys[valid].astype(np.int64)]
        return rows

    def _to_ask(self, count: int) -> int:
        # Entries whose row is gone take up places in the answer, and in the list that a walk holds.
        if not self.removed:
            return count
        held = self._settings.expansion_search * self.entries
        return max(2 * count, math.ceil(held / max(self.entries - self.removed, 1)))

    def _fitted(self, queries: F32) -> F32:
        """Return queries that rank rows alike and can be encoded (f16 is narrow)."""
        if self._metric == "l2sq":
            return np.clip(queries, -LARGEST[self._dtype], LARGEST[self._dtype])
        sizes = np.abs(queries).max(axis=1, initial=0.0, keepdims=True)
        return np.asarray(queries / np.where(sizes > 0, sizes, np.float32(1)))

    def to_bytes(self) -> bytes:
        """Return USearch's own serialisation of a graph that is `whole`."""
        return bytes(self._index.save())

    def load(self, content: memoryview) -> None:
        """Take what `to_bytes` returned. The bytes must have been authenticated before.

        Raises
        ------
        ValueError
            If they hold a graph of another kind.
        """
        expected = self._index.ndim, self._index.dtype
        self._index.load(content)
        # Loading takes dimensions and type from the bytes, and forgets the search settings.
        if (self._index.ndim, self._index.dtype) != expected:
            raise ValueError(f"a graph of {self._index.ndim} dimensions in {self._index.dtype}")
        if self._index.connectivity != self._settings.connectivity:
            raise ValueError(f"a graph of connectivity {self._index.connectivity}")
        self._index.expansion_add = self._settings.expansion_add
        self.tune(self._settings)
        self._row_of = np.arange(len(self._index))
        self._copied = self.entries


def library_version() -> str:
    """Return USearch's version: bytes of a graph are for the one that wrote them only."""
    import usearch

    return str(usearch.__version__)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn USearch's word for Ctrl-C into Python's."""
    try:
        yield
    except RuntimeError as error:
        if "terminated" in str(error):
            raise KeyboardInterrupt from error
        raise
