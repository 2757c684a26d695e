"""The graph behind an index: USearch's HNSW over rows that stand elsewhere.

A graph proposes candidates; it never answers. Its entries are numbered in the order in which they
came, so that no key of a user's ever reaches USearch, and a table says in which row each entry
stands now. It borrows the rows' memory where they are stored in the graph's own type.

In i8 USearch normalises the rows, and of bits it counts those that differ: both see directions
alone. Under squared distance and inner product, where lengths count, a graph over such rows keeps a
bf16 copy of the decoded rows.

Equal rows are one entry: links among them would lead nowhere else. USearch ranks by 1 - p, in
float32, under inner product: where most rows are so short that products drown in it, a graph
proposes nothing, and the scan answers.

Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
hierarchical navigable small world graphs", IEEE TPAMI 42(4), 2020.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from threading import Lock
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedlab.core.progress import bar
from fedlab.core.typing import F32, I64, U64, Bool
from fedlab.core.validation import one_of, whole_number, whole_or_none
from fedlab.index.encoding import DTYPES, LARGEST, codes_in, rounded
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
        The type that the graph sees rows in; by default i8 under cosine where it pays (see
        `fedlab.index.engines.hnsw.seen_in`), and else the one that they are stored in. In a smaller
        one it is built and walked faster, and since what it proposes is measured again from the
        stored rows, little recall is lost; but then it holds a copy of the rows of its own. i8 and
        b1 compare directions alone, and are for cosine.
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
        one_of(self.dtype, (*DTYPES, None), "the graph's dtype")
        whole_or_none(self.rescored, "rescored", 1, 10_000)

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


def seen_in(dimensions: int, metric: str, dtype: str) -> str:
    """Return the type that a graph sees rows in by default.

    Measured in one run each, i8 over f32 rows under cosine: on GloVe words (50 dimensions) 1.2 to 2
    times the queries of a graph in f32 at the same recall (.995 where that has .993), built in .76
    of its time; on images (784) 2.4 to 3.4 times, in .38; on Gaussians (128) 1.9 to 2.5 times, in
    .51; on mixtures in 16 and 32 dimensions no more queries, and .0002 less recall.

    Examples
    --------
    >>> seen_in(384, "cosine", "f32"), seen_in(384, "inner", "f32"), seen_in(8, "cosine", "f32")
    ('i8', 'f32', 'f32')
    """
    halves = dtype in ("f32", "f16", "bf16")
    return "i8" if metric == "cosine" and halves and dimensions >= _I8_FROM else dtype


#: Numbers of a row from which i8 pays.
_I8_FROM = 48
#: Rows that are added between two signs of progress, and rows that are compared at once.
_ADDED, _COMPARED = 4096, 1 << 14
#: Squared length below which products of rows drown in float32's 1 - p.
_SHORT = 2.0**-10


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
        self._stored, self._settings = dtype, settings
        wanted = settings.dtype or seen_in(dimensions, metric, dtype)
        self._see_in("bf16" if wanted in _DIRECTIONS_ALONE and metric != "cosine" else wanted)
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
        # Of known rows' codes; None where rows must be told apart anew, as after `load`.
        self._hashes: U64 | None = np.empty(0, np.uint64)
        self._telling = Lock()
        self._short = self._touched = False

    def _see_in(self, dtype: str) -> None:
        self._dtype, self._borrows = dtype, dtype == self._stored

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
        return not self._touched and len(self._index) == self.entries

    @property
    def worn(self) -> bool:
        """Whether it should be built anew: too many rows are gone, or a build was broken off."""
        return self.too_many_removed or len(self._index) != self.entries

    def nbytes_beside(self, table: RowTable) -> int:
        """Return the bytes of the links, and of those rows that it doesn't share with `table`."""
        row = self._width * DTYPES[self._dtype].itemsize
        links = int(self._index.serialized_length) - self.entries * row
        codes = table.columns["codes"]
        held = sum(part.nbytes for part in self._borrowed if not np.may_share_memory(part, codes))
        return links + held + self._copied * row

    def missing(self, table: RowTable) -> int:
        """Return how many rows of the table it has not taken in."""
        with self._telling:
            if self._hashes is None:  # entries were numbered as their first rows came
                of, hashes = self._entries_of(table, 0)
                known = int(np.searchsorted(np.maximum.accumulate(of), self.entries))
                order = np.lexsort((_keys(table)[:known], of[:known]))
                sizes = np.bincount(of[:known], minlength=self.entries)
                told = {"_hashes": hashes[:known], "_short": self._drowns(table)}
                self._settle(order, sizes, **told)
        return super().missing(table)

    def _drowns(self, table: RowTable) -> bool:
        inner = self._metric == "inner" and table.rows > 0
        return inner and bool(np.median(table.squares) < _SHORT)

    def without(self, kept: Bool) -> Self:
        """Return what stands for a table that keeps only the rows where `kept` is true."""
        other = super().without(kept)
        assert self._hashes is not None, "rows that were loaded are told apart first: see `missing`"
        other._hashes, other._touched = self._hashes[kept[: len(self._hashes)]], True
        return other

    def _entries_of(self, table: RowTable, known: int) -> tuple[I64, U64]:
        """Return the entries of rows from `known` on, and the hashes of all rows.

        A row that equals an earlier one shares its entry; others get the next numbers.
        """
        stored = [table.columns[name] for name in ("codes", "scales") if name in table.columns]
        before = np.empty(0, np.uint64) if self._hashes is None else self._hashes
        hashes = np.concatenate([before, _hashed([column[known:] for column in stored])])
        _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
        leader = first[which][known:]
        own = np.arange(known, table.rows)
        same = np.flatnonzero(leader < own)
        for start in range(0, len(same), _COMPARED):
            part = same[start : start + _COMPARED]
            for column in stored:
                unlike = column[leader[part]] != column[own[part]]
                unlike = unlike.reshape(len(part), -1).any(axis=1)
                leader[part[unlike]] = own[part[unlike]]
        fresh = leader == own
        number = np.cumsum(fresh) - 1 + (self.entries if self._hashes is not None else 0)
        of = np.empty(table.rows, np.int64)
        of[self._rows] = np.repeat(np.arange(self.entries), self._sizes)
        of[known:] = number
        of[known:][~fresh] = of[leader[~fresh]]
        return of[known:], hashes

    def extend(self, table: RowTable, threads: int) -> None:
        """Enter the rows that the table has and the graph has not.

        One thread gives the same graph each time, and the same whether rows come at once or in
        parts; several are faster and give another graph each time.
        """
        missing = self.missing(table)
        if not missing:
            return
        known = table.rows - missing
        of, hashes = self._entries_of(table, known)
        number, first = np.unique(of, return_index=True)
        first, number = known + first[number >= self.entries], number[number >= self.entries]
        codes = self._codes(table, first)
        starts: Iterable[int] = range(0, len(first), _ADDED)
        if len(first) > _ADDED:
            said = f"building a graph of {len(first):,} rows"
            starts = bar(starts, -(-len(first) // _ADDED), said)
        for start in starts:
            part = slice(start, start + _ADDED)
            with _interruptible():
                self._index.add(
                    *(number[part].astype(np.uint64), codes[part]),
                    **{"copy": not self._borrows, "threads": threads, "dtype": self._dtype},
                )
        self.enter(of, _keys(table), _hashes=hashes, _short=self._drowns(table))

    def _codes(self, table: RowTable, rows: I64) -> NDArray[np.generic]:
        """Return rows as the graph sees them, and keep what it borrows."""
        if not self._borrows:
            self._copied += len(rows)
            return rounded(self._fitted(table.decoded(rows), rows=True), self._dtype)["codes"]
        codes: NDArray[np.generic] = table.columns["codes"]
        whole = len(rows) and rows[-1] - rows[0] + 1 == len(rows)
        codes = codes[rows[0] : rows[-1] + 1] if whole else codes[rows]
        self._borrowed.append(codes)
        return codes

    def candidates(self, queries: F32, count: int, threads: int) -> I64:
        """Return rows near each query, (q, `count` or more), -1 where an entry's row is gone."""
        asked = min(self._to_ask(count), self.entries)
        if self._short:
            return np.full((len(queries), asked), -1)
        codes = rounded(self._fitted(queries), self._dtype)["codes"]
        with _interruptible():
            found = self._index.search(codes, asked, threads=threads, dtype=self._dtype)
        if len(codes) == 1:  # USearch answers one query with another type, without padding
            places = np.full((1, asked), -1)
            places[0, : len(found.keys)] = np.ravel(found.keys)
        else:
            places = found.keys.astype(np.int64)
            places[np.arange(asked)[None, :] >= np.asarray(found.counts)[:, None]] = -1
        return self.rows_at(places)

    def _to_ask(self, count: int) -> int:
        # Entries whose row is gone take up places in the answer, and in the list that a walk holds.
        if not self.removed:
            return count
        held = self._settings.expansion_search * self.entries
        return max(2 * count, math.ceil(held / max(self.entries - self.removed, 1)))

    def _fitted(self, queries: F32, rows: bool = False) -> F32:
        """Return what ranks alike and can be encoded (f16 is narrow): of rows, directions alone."""
        if self._metric == "l2sq":
            return np.clip(queries, -LARGEST[self._dtype], LARGEST[self._dtype])
        if rows and self._metric == "inner":
            return queries
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
        if self._settings.dtype is None and self._index.dtype.name.lower() == self._stored:
            # Of a time when a graph saw rows as they are stored, unless it was told otherwise.
            self._see_in(self._stored)
            expected = expected[0], self._index.dtype
        # Loading takes dimensions and type from the bytes, and forgets the search settings.
        if (self._index.ndim, self._index.dtype) != expected:
            raise ValueError(f"a graph of {self._index.ndim} dimensions in {self._index.dtype}")
        if self._index.connectivity != self._settings.connectivity:
            raise ValueError(f"a graph of connectivity {self._index.connectivity}")
        self._index.expansion_add = self._settings.expansion_add
        self.tune(self._settings)
        self.begin(len(self._index))
        self._copied, self._hashes = self.entries, None


def _keys(table: RowTable) -> U64:
    keys: U64 = table.columns["keys"]
    return keys


def _hashed(columns: Sequence[NDArray[np.generic]]) -> U64:
    """Return sums of each row's words times odd weights, modulo 2**64: equal for equal rows."""
    total = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        flat = np.ascontiguousarray(column).reshape(len(column), math.prod(column.shape[1:]))
        raw = flat.view(np.uint8)
        size = next(size for size in (8, 4, 2, 1) if raw.shape[1] % size == 0)
        words = raw.view(f"u{size}")
        places = np.arange(1, words.shape[1] + 1, dtype=np.uint64)
        weights = places * np.uint64(0x9E3779B97F4A7C15)
        weights = (weights ^ (weights >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        total = total * np.uint64(0x94D049BB133111EB)
        total += np.einsum("ij,j->i", words, weights | np.uint64(1), dtype=np.uint64)
    return total


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
