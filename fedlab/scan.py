"""The exact scan: rows against queries by matrix products, and an answer in one defined order.

Float32 products differ in their last bits between one large product and several small ones, and
between numbers of threads. So they only select: rows that can be among the k nearest, given how far
a float32 score may lie from the true one, are candidates, and candidates are measured again in
float64, row by row. The answer is the same however the work was cut.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlab.storage import Table

__all__ = ["METRICS", "measure", "nearest", "ranked"]

Float = NDArray[np.float32]
Double = NDArray[np.float64]
Places = NDArray[np.int64]

METRICS = ("cosine", "inner", "l2sq")

_PRODUCTS = 1 << 20  # scores held at once (4 MB): fits a cache, and amortises a call
_DECODED = 1 << 20  # numbers decoded at once
_CANDIDATES = 1 << 21  # candidates held before they are measured (42 MB)
_QUERIES = 256


def measure(rows: Float, queries: Float, metric: str) -> Double:
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
    a, b = rows.astype(np.float64), queries.astype(np.float64)
    if metric == "l2sq":
        return np.asarray(np.square(a - b).sum(axis=1))
    products = (a * b).sum(axis=1)
    if metric == "inner":
        return np.asarray(1.0 - products)
    lengths = np.sqrt(np.square(a).sum(axis=1)) * np.sqrt(np.square(b).sum(axis=1))
    return np.asarray(np.maximum(1.0 - products / lengths, 0.0))


def ranked(
    table: Table, queries: Float, who: Places, row: Places, k: int, metric: str
) -> tuple[Places, Double]:
    """Measure candidates again and keep the k nearest of each query.

    Parameters
    ----------
    table : Table
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
        inf where there are fewer than k.
    """
    distance = np.empty(len(row), np.float64)
    step = max(1, _DECODED // queries.shape[1])
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        distance[part] = measure(table.decoded(row[part]), queries[who[part]], metric)
    order = np.lexsort((table.columns["keys"][row], distance, who))
    who, row, distance = who[order], row[order], distance[order]
    first = np.searchsorted(who, np.arange(len(queries)))
    place = np.arange(len(who)) - first[who]
    kept = place < k
    rows = np.full((len(queries), k), -1, np.int64)
    distances = np.full((len(queries), k), np.inf)
    rows[who[kept], place[kept]] = row[kept]
    distances[who[kept], place[kept]] = distance[kept]
    return rows, distances


def nearest(table: Table, queries: Float, k: int, metric: str) -> tuple[Places, Double]:
    """Return the k rows nearest to each query, exactly; see `ranked` for the form of the answer.

    Parameters
    ----------
    table : Table
        The rows, n of d numbers.
    queries : (q, d) float32 array
    k : int
        At most n.
    metric : str
    """
    few = max(1, min(_QUERIES, _PRODUCTS // k))
    answers = [
        _nearest_to_few(table, queries[start : start + few], k, metric)
        for start in range(0, len(queries), few)
    ]
    if not answers:
        return np.empty((0, k), np.int64), np.empty((0, k))
    return np.concatenate([a for a, _ in answers]), np.concatenate([b for _, b in answers])


def _nearest_to_few(table: Table, queries: Float, k: int, metric: str) -> tuple[Places, Double]:
    lengths = np.sqrt(np.square(queries, dtype=np.float64).sum(axis=1))
    probes = _probes(queries, lengths, metric)
    best = np.full((len(queries), k), np.float32(np.inf))  # the least that k rows can be bounded by
    found: list[tuple[Places, Places, Float]] = []
    step = max(k, min(_PRODUCTS // len(queries), _DECODED // queries.shape[1]))
    for start in range(0, table.rows, step):
        part = slice(start, start + step)
        squares = table.squares[part]
        scores = _scores(table.decoded(part), squares, probes, metric)
        error = _error(float(squares.max()), lengths, queries.shape[1], metric)
        if start == 0:
            best = np.partition(scores, k - 1, axis=1)[:, :k] + error[:, None]
        # On one axis, since NumPy's nonzero is ten times slower on two.
        flat = np.flatnonzero(scores <= (best.max(axis=1) + error)[:, None])
        who, place = np.divmod(flat, scores.shape[1])
        hits = scores.ravel()[flat]
        found.append((who, place + start, hits - error[who]))
        if start:
            best = _better(best, who, hits + error[who])
        if sum(len(who) for who, _, _ in found) > _CANDIDATES:
            found = [_winners(table, queries, found, best, metric)]
    who, row = _close(found, best)
    return ranked(table, queries, who, row, k, metric)


def _probes(queries: Float, lengths: Double, metric: str) -> Float:
    factors = {"cosine": -1.0 / np.maximum(lengths, 1e-30), "inner": -1.0, "l2sq": -2.0}
    scaled: Float = queries * np.asarray(factors[metric], np.float32).reshape(-1, 1)
    return scaled


def _scores(rows: Float, squares: Float, probes: Float, metric: str) -> Float:
    """Return distances less what all rows share for a query: 1, or the query's squared length."""
    scores: Float = probes @ rows.T
    if metric == "cosine":
        scores *= np.float32(1) / np.sqrt(squares)
    elif metric == "l2sq":
        scores += squares
    return scores


def _better(best: Float, who: Places, hits: Float) -> Float:
    """Return the k smallest scores of each query, known ones and hits together."""
    counts = np.bincount(who, minlength=len(best))
    padded = np.full((len(best), int(counts.max(initial=0))), np.float32(np.inf))
    # Hits are listed query by query, so a hit's place among its query's is its distance
    # from the query's first.
    padded[who, np.arange(len(who)) - (np.cumsum(counts) - counts)[who]] = hits
    k = best.shape[1]
    return np.partition(np.concatenate([best, padded], axis=1), k - 1, axis=1)[:, :k]


def _close(found: list[tuple[Places, Places, Float]], best: Float) -> tuple[Places, Places]:
    who, row, least = (np.concatenate(column) for column in zip(*found, strict=True))
    close = least <= best.max(axis=1)[who]
    return who[close], row[close]


def _winners(
    table: Table,
    queries: Float,
    found: list[tuple[Places, Places, Float]],
    best: Float,
    metric: str,
) -> tuple[Places, Places, Float]:
    """Return only the k nearest of the candidates found so far, so that memory stays bounded."""
    k = best.shape[1]
    rows, _ = ranked(table, queries, *_close(found, best), k, metric)
    return (
        np.repeat(np.arange(len(queries)), k),
        rows.ravel(),
        np.full(rows.size, -np.float32(np.inf)),
    )


def _error(square: float, lengths: Double, dimensions: int, metric: str) -> Float:
    """Return how far the float32 score of a row can lie from the true one, for each query.

    A float32 inner product of d terms errs by at most gamma |x||q| with gamma = d u / (1 - d u) and
    u = 2**-24, in any order of summation (Higham, "Accuracy and Stability of Numerical Algorithms",
    2nd ed., eq. 3.5). A few roundings more come from norms, differences and these bounds
    themselves, and each product may vanish below the smallest normal number.

    Parameters
    ----------
    square : float
        Squared length of the longest row.
    lengths : (q,) float64 array
        Lengths of the queries.
    """
    terms = (dimensions + 16) * 2.0**-24
    gamma = terms / (1.0 - terms)
    longest = np.sqrt(square)
    if metric == "cosine":
        scale = np.full(len(lengths), 2.0)
    elif metric == "inner":
        scale = 1.0 + longest * lengths
    else:
        scale = np.square(longest + lengths)
    vanished = (dimensions + 16) * 2.0**-125
    return (gamma * scale + vanished).astype(np.float32)
