# mypy: ignore-errors
# What numba compiles is typed by numba.
"""The exact scan's loops, compiled: choosing rows by float32 scores, measuring them in float64.

Distances are summed in sixteen lanes of fixed order, in LLVM's own vector type, so that their bits
depend on nothing but the numbers: not on the machine's vectors, on threads, or on how work was cut.

Rows come as their bytes with a `kind` (0 f32, 1 f16, 2 bf16, 3 i8), metrics as their place in
`fedlab.scan.METRICS`. A query's nearest rows stand in a heap, the farthest on top, in the order of
(distance, key); heaps start out full of (inf, 2**64 - 1).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["choose", "finish", "measure_pairs", "rank"]

# No reordering and no fused multiplication.
_COMPILED = {"nogil": True, "cache": True}
#: Scores that are looked at together: most often none of them is near.
_CHUNK = 64
_LANES, _WIDTH = 16, 4
_ALL = np.float32(np.inf)


# -- distances -------------------------------------------------------------------------------------


def _summing(term):
    """Return an intrinsic that sums `term` of a float32 row and a float64 query, both (d,).

    It leaves out what lies beyond the last multiple of 16.
    """

    @intrinsic
    def total(_, row, query):
        def codegen(context, builder, signature, args):
            row, query = (
                context.make_array(kind)(context, builder, given)
                for kind, given in zip(signature.args, args, strict=True)
            )
            wide, narrow = (ir.VectorType(t, _WIDTH) for t in (ir.DoubleType(), ir.FloatType()))

            def load(array, place, kind, size):
                address = builder.bitcast(builder.gep(array.data, [place]), kind.as_pointer())
                return builder.load(address, align=size)

            length = builder.extract_value(row.shape, 0)
            lanes = ir.Constant(length.type, _LANES)
            zero = ir.Constant(wide, [0.0] * _WIDTH)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(_LANES // _WIDTH)]
            with cgutils.for_range(builder, builder.udiv(length, lanes)) as loop:
                start = builder.mul(loop.index, lanes)
                for part, part_sum in enumerate(sums):
                    place = builder.add(start, ir.Constant(length.type, _WIDTH * part))
                    a = builder.fpext(load(row, place, narrow, 4), wide)
                    more = term(builder, a, load(query, place, wide, 8))
                    builder.store(builder.fadd(builder.load(part_sum), more), part_sum)
            a, b, c, d = (builder.load(part_sum) for part_sum in sums)
            four = builder.fadd(builder.fadd(a, b), builder.fadd(c, d))
            a, b, c, d = (
                builder.extract_element(four, ir.Constant(ir.IntType(32), lane))
                for lane in range(_WIDTH)
            )
            return builder.fadd(builder.fadd(a, b), builder.fadd(c, d))

        return types.float64(row, query), codegen

    return total


def _square_apart(builder, a, b):
    apart = builder.fsub(a, b)
    return builder.fmul(apart, apart)


_products = _summing(lambda builder, a, b: builder.fmul(a, b))
_squares = _summing(lambda builder, a, b: builder.fmul(a, a))
_squares_apart = _summing(_square_apart)


@njit(**_COMPILED)
def _square(row, query):
    total = _squares(row, query)
    for place in range(len(row) - len(row) % _LANES, len(row)):
        number = np.float64(row[place])
        total += number * number
    return total


@njit(**_COMPILED)
def _distance(row, query, length, metric):
    """Return the distance of a float32 row to a float64 query of known length."""
    rest = len(row) - len(row) % _LANES
    if metric == 2:
        total = _squares_apart(row, query)
        for place in range(rest, len(row)):
            apart = np.float64(row[place]) - query[place]
            total += apart * apart
        return total
    total = _products(row, query)
    for place in range(rest, len(row)):
        total += np.float64(row[place]) * query[place]
    if metric == 1:
        return 1.0 - total
    return max(1.0 - total / (np.sqrt(_square(row, query)) * length), 0.0)


@njit(**_COMPILED)
def _length(query, wide):
    """Copy a float32 query to a float64 one, and return its length."""
    wide[:] = query
    return np.sqrt(_square(query, wide))


@njit(**_COMPILED)
def _decode(codes, kind, scales, row, out):
    """Write a row's numbers to `out`, (d,) float32: the same bits as `fedlab.storage.decode`."""
    given = codes[row]
    if kind == 0:
        out[:] = given.view(np.float32)
    elif kind == 3:
        scale = scales[row]
        numbers = given.view(np.int8)
        for place in range(len(out)):
            out[place] = np.float32(numbers[place]) * scale
    elif kind == 2:
        bits, wide = given.view(np.uint16), out.view(np.uint32)
        for place in range(len(out)):
            wide[place] = np.uint32(bits[place]) << np.uint32(16)
    else:
        half, bits = given.view(np.int16), out.view(np.int32)
        for place in range(len(out)):
            bits[place] = (np.int32(half[place]) << np.int32(13)) & np.int32(~0x70001FFF)
        for place in range(len(out)):
            out[place] *= np.float32(2.0**112)


@njit(**_COMPILED)
def measure_pairs(rows, queries, metric, distances):
    """Write the distance of each row to the query beside it."""
    wide = np.empty(rows.shape[1], np.float64)
    for place in range(len(rows)):
        length = _length(queries[place], wide)
        distances[place] = _distance(rows[place], wide, length, metric)


# -- heaps -----------------------------------------------------------------------------------------


@njit(**_COMPILED)
def _after(distance, key, other, other_key):
    return distance > other or (distance == other and key > other_key)


@njit(**_COMPILED)
def _sift(distance, key, row, distances, keys, rows, size):
    """Put an entry in the place of the heap's top, and let it sink among the first `size`."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        other = child + 1
        if other < size and _after(distances[other], keys[other], distances[child], keys[child]):
            child = other
        if not _after(distances[child], keys[child], distance, key):
            break
        distances[place], keys[place], rows[place] = distances[child], keys[child], rows[child]
        place = child
    distances[place], keys[place], rows[place] = distance, key, row


@njit(**_COMPILED)
def _sort(distances, keys, rows):
    for last in range(len(rows) - 1, 0, -1):
        distance, key, row = distances[last], keys[last], rows[last]
        distances[last], keys[last], rows[last] = distances[0], keys[0], rows[0]
        _sift(distance, key, row, distances, keys, rows, last)


@njit(**_COMPILED)
def _sink(score, scores):
    """Replace the largest of a heap of scores."""
    place, size = 0, len(scores)
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and scores[child + 1] > scores[child]:
            child += 1
        if scores[child] <= score:
            break
        scores[place] = scores[child]
        place = child
    scores[place] = score


# -- candidates ------------------------------------------------------------------------------------


@njit(**_COMPILED)
def rank(codes, kind, scales, known, metric, queries, who, row, distances, keys, rows):
    """Measure candidate `row[i]` for query `who[i]`; leave each query's nearest in order."""
    query, decoded = np.empty(queries.shape[1]), np.empty(queries.shape[1], np.float32)
    asked, length = -1, 0.0
    for place in range(len(row)):
        if who[place] != asked:
            asked = who[place]
            length = _length(queries[asked], query)
        _decode(codes, kind, scales, row[place], decoded)
        distance, key = _distance(decoded, query, length, metric), known[row[place]]
        if _after(distances[asked, 0], keys[asked, 0], distance, key):
            _sift(
                *(distance, key, row[place]),
                *(distances[asked], keys[asked], rows[asked], rows.shape[1]),
            )
    for asked in range(len(queries)):
        _sort(distances[asked], keys[asked], rows[asked])


@njit(**_COMPILED)
def _measure(
    codes, kind, scales, known, metric, query, pool, least, most, distances, keys, rows
):
    """Measure those of a query's pool whose least score is at most `most`; return how many."""
    wide, decoded = np.empty(len(query)), np.empty(len(query), np.float32)
    length, count = _length(query, wide), 0
    for place in range(len(pool)):
        if least[place] <= most:
            row = pool[place]
            _decode(codes, kind, scales, row, decoded)
            distance, key = _distance(decoded, wide, length, metric), known[row]
            count += 1
            if _after(distances[0], keys[0], distance, key):
                _sift(distance, key, row, distances, keys, rows, len(rows))
    return count


@njit(**_COMPILED)
def _thinned(pool, least, most):
    """Keep those of a pool whose least score is at most `most`, and return how many."""
    kept = 0
    for place in range(len(pool)):
        if least[place] <= most:
            pool[kept], least[kept] = pool[place], least[place]
            kept += 1
    return kept


@njit(**_COMPILED)
def _scores(products, norms, metric, start, stop, scores):
    if metric == 0:
        for place in range(start, stop):
            scores[place - start] = products[place] * norms[place]
    elif metric == 1:
        for place in range(start, stop):
            scores[place - start] = products[place]
    else:
        for place in range(start, stop):
            scores[place - start] = products[place] + norms[place]


@njit(**_COMPILED)
def _any_near(scores, count, limit):
    near = 0
    for place in range(count):
        near += scores[place] <= limit
    return near > 0


@njit(**_COMPILED)
def choose(
    products,
    norms,
    first,
    errors,
    upper,
    pool,
    least,
    counts,
    codes,
    kind,
    scales,
    known,
    metric,
    queries,
    distances,
    keys,
    rows,
):
    """Put rows that can be among the k nearest of each query into its pool; return how many left.

    Parameters
    ----------
    products : (q, n) float32 array
        Scores of n rows, still without what `norms` (n,) brings in; the first is row `first`.
    errors : (q,) float32 array
        How far a score may lie from the true one.
    upper : (q, k) float32 array
        Heaps of the k least bounds from above that were seen.
    pool, least, counts : (q, c), (q, c), (q,) arrays
        Candidates, and what their true scores are at least. A pool that is full of candidates
        that may still be among the nearest is measured, and is empty then.
    """
    scores, measured = np.empty(_CHUNK, np.float32), 0
    for asked in range(len(products)):
        error, best, count = errors[asked], upper[asked], counts[asked]
        limit = best[0] + error
        for start in range(0, products.shape[1], _CHUNK):
            stop = min(start + _CHUNK, products.shape[1])
            _scores(products[asked], norms, metric, start, stop, scores)
            if not _any_near(scores, stop - start, limit):
                continue
            for place in range(stop - start):
                score = scores[place]
                if score > limit:
                    continue
                if count == pool.shape[1]:
                    count = _thinned(pool[asked], least[asked], best[0])
                    if 2 * count > pool.shape[1]:
                        measured += _measure(
                            *(codes, kind, scales, known, metric, queries[asked]),
                            *(pool[asked, :count], least[asked, :count], _ALL),
                            *(distances[asked], keys[asked], rows[asked]),
                        )
                        count = 0
                pool[asked, count], least[asked, count] = first + start + place, score - error
                count += 1
                if score + error < best[0]:
                    _sink(score + error, best)
                    limit = best[0] + error
        counts[asked] = count
    return measured


@njit(**_COMPILED)
def finish(
    upper,
    pool,
    least,
    counts,
    codes,
    kind,
    scales,
    known,
    metric,
    queries,
    distances,
    keys,
    rows,
):
    """Measure what is left in the pools, and sort; return how many were measured."""
    measured = 0
    for asked in range(len(queries)):
        count = counts[asked]
        measured += _measure(
            *(codes, kind, scales, known, metric, queries[asked]),
            *(pool[asked, :count], least[asked, :count], upper[asked, 0]),
            *(distances[asked], keys[asked], rows[asked]),
        )
        _sort(distances[asked], keys[asked], rows[asked])
    return measured
