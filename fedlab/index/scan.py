"""The exact scan: rows against queries by matrix products, and an answer in one defined order.

Float32 products differ in their last bits between one large product and several small ones, and
between numbers of threads. So they only select: rows that can be among the k nearest, given how far
a float32 score may lie from the true one, are candidates, and candidates are measured again in
float64, row by row. The answer is the same however the work was cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.jit import announced
from fedlab.core.threads import one_blas_thread, share
from fedlab.core.typing import F32, F64, I64, U64
from fedlab.core.validation import read_only
from fedlab.index.table import RowTable

METRICS = ("cosine", "inner", "l2sq")

_PRODUCTS = 1 << 20  # scores held at once (4 MB): fits a cache, and amortises a call
_DECODED = 1 << 20  # numbers decoded at once
_CANDIDATES = 256  # held for each query, besides twice as many as are asked for
_QUERIES = 256
#: So many queries are multiplied as rows are read; a BLAS multiplies more of them.
_FEW = 8


@dataclass(frozen=True)
class Queries:
    """Queries made ready for scans: once, for any number of tables.

    Attributes
    ----------
    queries : (q, d) float32 array
        Finite; under cosine none of length zero.
    metric : {"cosine", "inner", "l2sq"}
    scaled : (q, d) float32 array
        What rows are multiplied with.
    wide : (q, d) float64 array
        What rows are measured against.
    lengths : (q,) float64 array
    """

    metric: str
    scaled: F32
    wide: F64
    lengths: F64

    @classmethod
    def of(cls, queries: F32, metric: str) -> Queries:
        wide, lengths = np.empty(queries.shape), np.empty(len(queries))
        _kernels().widen(_given(queries), wide, lengths)
        return cls(metric, _scaled(queries, lengths, metric), wide, lengths)

    def __len__(self) -> int:
        return len(self.wide)

    def __getitem__(self, part: slice | I64) -> Queries:
        if isinstance(part, slice) and part.start == 0 and part.stop >= len(self):
            return self
        return Queries(self.metric, self.scaled[part], self.wide[part], self.lengths[part])

    @cached_property
    def asking(self) -> tuple[Any, ...]:
        """What kernels measure with."""
        return _given(self.wide), _given(self.lengths), METRICS.index(self.metric)


@dataclass(frozen=True)
class Nearest:
    """The k nearest rows of each query, by distance and then by key.

    Attributes
    ----------
    distances : (q, k) float64 array
        As the order is by them: under inner product -p (see `as_distances`). inf where there are
        fewer than k.
    keys : (q, k) uint64 array
        2**64 - 1 where there are fewer than k.
    rows : (q, k) int64 array
        -1 where there are fewer than k.
    """

    distances: F64
    keys: U64
    rows: I64

    @classmethod
    def empty(cls, queries: int, k: int) -> Nearest:
        """Return room for the kernels to fill."""
        shape = queries, k
        return cls(np.empty(shape), np.empty(shape, np.uint64), np.empty(shape, np.int64))

    @property
    def heaps(self) -> tuple[F64, U64, I64]:
        """What kernels fill."""
        return self.distances, self.keys, self.rows

    def __getitem__(self, part: slice) -> Nearest:
        return Nearest(self.distances[part], self.keys[part], self.rows[part])


def measure(rows: F32, queries: F32, metric: str) -> F64:
    """Return the distance of each row to the query beside it, in float64.

    Parameters
    ----------
    rows, queries : (n, d) float32 arrays
        Paired row by row.
    metric : {"cosine", "inner", "l2sq"}
        1 - cos, 1 - inner product, or the sum of squared differences.

    Examples
    --------
    >>> measure(np.float32([[3.0, 4.0]]), np.float32([[3.0, 4.0]]), "inner")
    array([-24.])
    """
    return as_distances(ordering(rows, queries, metric), metric)


def ordering(rows: F32, queries: F32, metric: str) -> F64:
    """Return what rows are ordered by: the distances of `measure`, but under inner product -p."""
    distances = np.empty(len(rows))
    _kernels().measure_pairs(_given(rows), Queries.of(queries, metric).asking, distances)
    return distances


def as_distances(ordering: F64, metric: str) -> F64:
    """Return distances as answers show them, of what rows are ordered by.

    Under inner product that is 1 - p, which is the same for all products far below 1.
    """
    return 1.0 + ordering if metric == "inner" else ordering


def errors(queries: Queries, longest: float) -> F32:
    """Return how far a float32 score can lie from the true one, for each query, (q,).

    Scores are -cos, -x q, or x x - 2 x q; `longest` is the length of the longest row.
    """
    found, (_, lengths, metric) = np.empty(len(queries), np.float32), queries.asking
    _kernels().write_errors(longest, lengths, queries.wide.shape[1], metric, found)
    return found


def ranked(
    table: RowTable, queries: F32, who: I64, row: I64, k: int, metric: str
) -> tuple[I64, F64]:
    """Measure candidates again and keep the k nearest of each query.

    Parameters
    ----------
    table : RowTable
        The rows.
    queries : (q, d) float32 array
    who, row : (c,) int arrays
        Candidate `row[i]` was found for query `who[i]`; no pair stands twice.
    k : int
        Places in the answer.
    metric : str

    Returns
    -------
    rows : (q, k) int64 array
        Ordered by distance, then by key; -1 where there are fewer than k.
    distances : (q, k) float64 array
        As `ordering` has them; inf where there are fewer than k.
    """
    found = Nearest.empty(len(queries), k)
    pairs = _given(np.asarray(who, np.int64)), _given(np.asarray(row, np.int64))
    _kernels().rank(table.stored, Queries.of(queries, metric).asking, *pairs, found.heaps)
    return found.rows, found.distances


def nearest(
    table: RowTable, queries: F32, k: int, metric: str, threads: int = 1
) -> tuple[I64, F64]:
    """Return the k rows nearest to each query, exactly; see `ranked` for the form of the answer.

    Parameters
    ----------
    table : RowTable
        The rows, n of d numbers.
    queries : (q, d) float32 array
    k : int
        At most n.
    metric : str
    """
    found = scan(table, Queries.of(queries, metric), k, threads)
    return found.rows, found.distances


def scan(table: RowTable, queries: Queries, k: int, threads: int = 1) -> Nearest:
    """Return the k rows nearest to each query, exactly, where queries come ready.

    Threads share the queries. BLAS has one thread meanwhile: it would fight with its like.
    """
    if table.mapped:
        return _scan_blocks(_blocks(table, range(table.rows)), queries, k, threads)
    found = Nearest.empty(len(queries), k)
    if not k:
        return found
    most = max(1, min(_QUERIES, _PRODUCTS // k))
    few = max(_FEW, min(most, -(-len(queries) // threads)))
    parts = [slice(start, start + few) for start in range(0, len(queries), few)]

    def scan_part(part: slice) -> None:
        _scan_few(table, queries[part], found[part])

    if len(queries) <= _FEW:
        share(parts, scan_part, 1)
    else:
        _kernels()  # compiled once, before threads ask for them
        with one_blas_thread():
            share(parts, scan_part, threads)
    return found


def _scan_few(table: RowTable, queries: Queries, found: Nearest) -> int:
    """Fill `found` with the nearest rows, and return how many rows were measured in float64."""
    choose, count, k = _kernels().choose, len(queries), found.rows.shape[1]
    room = count, min(table.rows, 2 * k + _CANDIDATES)
    held = (
        *(np.empty((count, k), np.float32), np.empty(room, np.int64)),
        *(np.empty(room, np.float32), np.empty(count, np.int64)),
    )
    measuring = held, table.stored, queries.asking, found.heaps
    scaled, products = _given(queries.scaled), np.empty((count, 0), np.float32)
    step = max(k, min(_PRODUCTS // count, _DECODED // queries.wide.shape[1]))
    measured = 0
    for start in range(0, table.rows, step):
        stop = min(start + step, table.rows)
        if count > _FEW:
            products = queries.scaled @ table.decoded(slice(start, stop)).T
        measured += choose(products, scaled, start, stop, *measuring)
    return measured


def _given(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array as all kernels take what they only read: else each kind is compiled anew."""
    return read_only(np.ascontiguousarray(array))


@cache
def _kernels() -> Any:
    """Return the compiled loops, all of them ready."""
    # numba takes a while to import, so who doesn't search doesn't pay for it.
    from fedlab.index import kernels

    one, none = np.ones((1, 1), np.float32), np.empty(0, np.int64)
    table = RowTable({"codes": one, "squares": one[0], "keys": np.zeros(1, np.uint64)})
    wide, found = np.ones((1, 1)), Nearest.empty(1, 1)
    asking = _given(wide), _given(wide[0]), 1
    held = one.copy(), np.empty((1, 1), np.int64), one.copy(), np.zeros(1, np.int64)
    with announced("the loops of searches", "5 to 10"):
        kernels.widen(_given(one), wide, np.ones(1))
        kernels.measure_pairs(_given(one), asking, np.ones(1))
        kernels.write_errors(1.0, _given(wide[0]), 1, 1, one[0].copy())
        kernels.rank(table.stored, asking, _given(none), _given(none), found.heaps)
        kernels.choose(one @ one.T, _given(one), 0, 1, held, table.stored, asking, found.heaps)
    return kernels


def _scaled(queries: F32, lengths: F64, metric: str) -> F32:
    factors = {"cosine": -1.0 / np.maximum(lengths, 1e-30), "inner": -1.0, "l2sq": -2.0}
    scaled: F32 = queries * np.asarray(factors[metric], np.float32).reshape(-1, 1)
    return scaled


#: The columns that a scan reads.
_SCANNED = ("codes", "scales", "squares", "keys")


_GATHERED = 1 << 24  # numbers gathered at once (64 MB as f32)


def nearest_chosen(
    table: RowTable, chosen: I64, queries: F32, k: int, metric: str, threads: int = 1
) -> tuple[I64, F64]:
    """Return the k nearest of the chosen rows for each query, exactly.

    Parameters
    ----------
    table : RowTable
        n rows of d numbers.
    chosen : (c,) array
        Which of them, in ascending order.
    queries : (q, d) float32 array
    k : int
        At most c.
    metric : str

    Returns
    -------
    rows, distances : (q, k) arrays
        As `fedlab.index.scan.ranked` gives them.
    """
    found = _scan_blocks(_blocks(table, chosen), Queries.of(queries, metric), k, threads)
    return found.rows, found.distances


def _scan_blocks(
    blocks: Iterator[tuple[Any, RowTable]], queries: Queries, k: int, threads: int
) -> Nearest:
    """Return the k nearest rows of blocks that come one after another with their rows' numbers."""
    found = Nearest.empty(len(queries), 0)
    for part, block in blocks:
        near = scan(block, queries, min(k, block.rows), threads)
        near = replace(near, rows=np.asarray(part)[near.rows])
        pairs = zip(found.heaps, near.heaps, strict=True)
        columns = [np.concatenate(pair, axis=1) for pair in pairs]
        order = np.lexsort((columns[1], columns[0]))[:, :k]
        found = Nearest(*(np.take_along_axis(column, order, axis=1) for column in columns))
    return found


def _blocks(table: RowTable, chosen: Any) -> Iterator[tuple[Any, RowTable]]:
    """Yield the chosen rows' numbers, an array or a range, and those rows as a table, by blocks."""
    step = max(1, _GATHERED // (table.dimensions or 1))
    for start in range(0, len(chosen), step):
        part = chosen[start : start + step]
        first, last = int(part[0]), int(part[-1])
        if last - first + 1 == len(part):
            yield part, table.slice(first, last + 1)
        else:
            names = [name for name in _SCANNED if name in table.columns]
            columns = {name: table.columns[name][part] for name in names}
            yield part, replace(table, columns=columns, _room=None)
