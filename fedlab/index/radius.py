"""The exact scan of some of a table's rows, and of all that lie within a radius.

Rows that were chosen are gathered a block at a time, so that memory stays bounded however many they
are. As in the scan of all rows, float32 products only select, with their error as margin; what is
told apart is measured in float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedlab.core.typing import F32, F64, I64
from fedlab.core.validation import number
from fedlab.index.scan import Queries, _blocks, as_distances, errors, ordering
from fedlab.index.table import RowTable

Found = tuple[I64, I64, F64]

#: Neighbours in an answer, before it must be narrowed (1 GB).
ANSWER = 1 << 26

_DECODED = 1 << 20  # numbers measured at once
_QUERIES = 256
_HELD = 1 << 21  # neighbours held before those beyond the limit go (50 MB)


class RadiusTooWide(ValueError):
    """More rows lie within a radius than one answer may hold."""


def as_radius(radius: float, metric: str) -> float:
    """Return a radius as a float, or say why it is none.

    Examples
    --------
    >>> as_radius(2, "l2sq")
    2.0
    """
    radius = number(radius, "radius")
    if np.isnan(radius) or (radius < 0 and metric != "inner"):
        raise ValueError(f"radius is {radius}; under {metric} no distance is below 0")
    return radius


def within(
    table: RowTable, chosen: I64, queries: F32, radius: float, limit: int | None, metric: str
) -> tuple[I64, I64, I64, F64]:
    """Return the chosen rows whose distance in float64 is at most `radius`.

    Parameters
    ----------
    table, chosen, queries, metric
        As for `nearest_chosen`.
    radius : float
    limit : int or None
        Only so many are kept for a query, the nearest.

    Returns
    -------
    totals : (q,) int64 array
        How many lie within the radius, kept or not.
    counts : (q,) int64 array
        How many are kept.
    rows, distances : (m,) arrays
        Of the first query, then of the second, ...; each in the order of distances (under inner
        product of products), then of keys.

    Raises
    ------
    RadiusTooWide
        If more than `ANSWER` rows would be kept.
    """
    totals = np.zeros(len(queries), np.int64)
    counts = np.zeros(len(queries), np.int64)
    answer: list[tuple[I64, F64]] = [(np.empty(0, np.int64), np.empty(0))]
    room = ANSWER
    for start in range(0, len(queries), _QUERIES):
        part = slice(start, start + _QUERIES)
        who, row, distance = _within_of_few(
            table, chosen, queries[part], radius, limit, metric, totals[part], room
        )
        counts[part] = np.bincount(who, minlength=len(counts[part]))
        answer.append((row, distance))
        room -= len(row)
    rows, distances = (np.concatenate(column) for column in zip(*answer, strict=True))
    return totals, counts, rows, as_distances(distances, metric)


def _within_of_few(
    table: RowTable,
    chosen: I64,
    queries: F32,
    radius: float,
    limit: int | None,
    metric: str,
    totals: I64,
    room: int,
) -> Found:
    """Return what is within the radius of a few queries, and add up how many are in `totals`."""
    found: list[Found] = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    held = 0
    for part, block in _blocks(table, chosen):
        for who, place, distance in _close(block, queries, radius, metric):
            totals += np.bincount(who, minlength=len(totals))
            found.append((who, part[place], distance))
            held += len(who)
            answer = int((totals if limit is None else np.minimum(totals, limit)).sum())
            if held > 2 * answer + _HELD:
                found = [_kept(table, found, limit, len(queries))]
                held = answer
            if answer > room:
                raise RadiusTooWide(
                    f"radius is {radius:.6g}; more than {ANSWER:,} neighbours lie within it: ask "
                    "with a smaller one, with fewer queries at a time, or with a limit"
                )
    return _kept(table, found, limit, len(queries))


def _close(block: RowTable, queries: F32, radius: float, metric: str) -> Iterator[Found]:
    """Yield (query, row of the block, distance) of all pairs within the radius."""
    ready = Queries.of(queries, metric)
    step = max(1, _DECODED // max(queries.shape))
    for start in range(0, block.rows, step):
        part = slice(start, start + step)
        rows, lengths = block.decoded(part), block.squares[part]
        scores = ready.scaled @ rows.T
        if metric == "cosine":
            scores /= np.sqrt(lengths)
        elif metric == "l2sq":
            scores += lengths
        most = _most(radius, ready, float(np.sqrt(lengths.max(), dtype=np.float64)))
        who, place = np.divmod(np.flatnonzero(scores <= most[:, None]), len(rows))
        distance = np.empty(len(who))
        few = max(1, _DECODED // queries.shape[1])
        for first in range(0, len(who), few):
            some = slice(first, first + few)
            distance[some] = ordering(rows[place[some]], queries[who[some]], metric)
        near = as_distances(distance, metric) <= radius
        yield who[near], start + place[near], distance[near]


def _most(radius: float, ready: Queries, longest: float) -> F32:
    """Return the largest float32 score that a row within the radius can have, for each query.

    Distances are 1 - cos, 1 - x q and q q + (x x - 2 x q): a number that a query gives, and a score
    (see `fedlab.index.scan.errors`).
    """
    beside = np.square(ready.lengths) if ready.metric == "l2sq" else 1.0
    # What is shown has been rounded, once.
    most = radius - beside + errors(ready, longest) + 2.0**-50 * (1 + abs(radius))
    with np.errstate(over="ignore"):
        return np.nextafter(most.astype(np.float32), np.float32(np.inf))


def _kept(table: RowTable, found: list[Found], limit: int | None, queries: int) -> Found:
    """Return pairs by query, distance and key; at most `limit` of a query."""
    who, row, distance = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((table.columns["keys"][row], distance, who))
    who, row, distance = who[order], row[order], distance[order]
    if limit is not None:
        first = np.searchsorted(who, np.arange(queries))
        kept = np.arange(len(who)) - first[who] < limit
        who, row, distance = who[kept], row[kept], distance[kept]
    return who, row, distance
