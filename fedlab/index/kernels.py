"""The exact scan's loops, compiled: choosing rows by float32 scores, measuring them in float64.

Distances are summed in sixteen lanes of fixed order, in LLVM's own vector type, so that their bits
depend on nothing but the numbers: not on the machine's vectors, on threads, or on how work was cut.

Rows come as a `fedlab.index.table.RowTable` holds them: a kind (0 f32, 1 f16, 2 bf16, 3 i8, 4 b1),
the codes as float32, uint16, int8 or uint8 (the other arrays are empty), scales, keys and squared
lengths. Metrics come as their place in `METRICS`. A query's nearest rows stand in a
heap, the farthest on top, in the order of (distance, key); heaps start full of (inf, 2**64 - 1).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fedlab.core.jit import INNER, compiled

# No reordering and no fused multiplication, but where it is said.
#: Scores that are looked at together: most often none of them is near.
_CHUNK = 64
_LANES, _WIDTH = 16, 4
_ALL = np.float32(np.inf)
_NO_KEY = np.uint64(2**64 - 1)


# -- distances -------------------------------------------------------------------------------------


def _summing(*terms):
    """Return an intrinsic that sums terms of a float32 row and a float64 query, both (d,).

    It leaves out what lies beyond the last multiple of 16. A product of two float32 numbers is
    exact in float64, so terms may be fused with their sums.
    """

    @intrinsic
    def totals(_, row, query):
        def codegen(context, builder, signature, args):
            row, query = (
                context.make_array(kind)(context, builder, given)
                for kind, given in zip(signature.args, args, strict=True)
            )
            wide, narrow = (ir.VectorType(t, _WIDTH) for t in (ir.DoubleType(), ir.FloatType()))
            parts = range(_LANES // _WIDTH)

            def load(array, place, kind, size):
                address = builder.bitcast(builder.gep(array.data, [place]), kind.as_pointer())
                return builder.load(address, align=size)

            length = builder.extract_value(row.shape, 0)
            lanes = ir.Constant(length.type, _LANES)
            zero = ir.Constant(wide, [0.0] * _WIDTH)
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in parts] for _ in terms]
            with cgutils.for_range(builder, builder.udiv(length, lanes)) as loop:
                start = builder.mul(loop.index, lanes)
                for part in parts:
                    place = builder.add(start, ir.Constant(length.type, _WIDTH * part))
                    a = builder.fpext(load(row, place, narrow, 4), wide)
                    b = load(query, place, wide, 8)
                    for term, total in zip(terms, sums, strict=True):
                        more = builder.fadd(
                            builder.load(total[part]), term(builder, a, b), flags=["contract"]
                        )
                        builder.store(more, total[part])
            return context.make_tuple(
                *(builder, signature.return_type, [across(builder, total) for total in sums])
            )

        return types.UniTuple(types.float64, len(terms))(row, query), codegen

    def across(builder, total):
        a, b, c, d = (builder.load(part) for part in total)
        four = builder.fadd(builder.fadd(a, b), builder.fadd(c, d))
        a, b, c, d = (
            builder.extract_element(four, ir.Constant(ir.IntType(32), lane))
            for lane in range(_WIDTH)
        )
        return builder.fadd(builder.fadd(a, b), builder.fadd(c, d))

    return totals


def _product(builder, a, b):
    return builder.fmul(a, b, flags=["contract"])


def _own_square(builder, a, b):
    return builder.fmul(a, a, flags=["contract"])


def _square_apart(builder, a, b):
    apart = builder.fsub(a, b)
    return builder.fmul(apart, apart)  # no exact product, so it must not be fused


_products = _summing(_product)
_products_and_squares = _summing(_product, _own_square)
_squares_apart = _summing(_square_apart)


@njit(**INNER)
def _product_and_square(row, query):
    product, square = _products_and_squares(row, query)
    for place in range(len(row) - len(row) % _LANES, len(row)):
        number = np.float64(row[place])
        product += number * query[place]
        square += number * number
    return product, square


@njit(**INNER)
def _distance(row, query, length, metric):
    """Return the distance of a float32 row to a float64 query of known length.

    Under inner product it is -p: 1 - p would make all products equal that are far below 1.
    """
    rest = len(row) - len(row) % _LANES
    if metric == 2:
        (total,) = _squares_apart(row, query)
        for place in range(rest, len(row)):
            apart = np.float64(row[place]) - query[place]
            total += apart * apart
        return total
    if metric == 1:
        (total,) = _products(row, query)
        for place in range(rest, len(row)):
            total += np.float64(row[place]) * query[place]
        return -total
    product, square = _product_and_square(row, query)
    return max(1.0 - product / (np.sqrt(square) * length), 0.0)


@compiled()
def widen(queries, wide, lengths):
    """Write (q, d) float32 queries as float64 ones, and their lengths."""
    for asked in range(len(queries)):
        for place in range(queries.shape[1]):
            wide[asked, place] = queries[asked, place]
        _, square = _product_and_square(queries[asked], wide[asked])
        lengths[asked] = np.sqrt(square)


@njit(**INNER)
def _room(dimensions):
    """Return room for a row that is decoded, and its bits."""
    bits = np.empty(dimensions, np.int32)
    return bits.view(np.float32), bits


@njit(**INNER)
def _decode(stored, row, room):
    """Decode a row of kind 1, 2, 3 or 4: to the same bits as `fedlab.index.encoding.decode`."""
    kind, _, halves, small, signs, scales = stored[:6]
    numbers, bits = room
    if kind == 4:
        for place in range(len(numbers)):
            sign = (signs[row, place >> 3] >> np.uint8(7 - (place & 7))) & np.uint8(1)
            numbers[place] = scales[row] if sign else -scales[row]
    elif kind == 3:
        for place in range(len(numbers)):
            numbers[place] = np.float32(small[row, place]) * scales[row]
    elif kind == 2:
        for place in range(len(numbers)):
            bits[place] = np.int32(halves[row, place]) << np.int32(16)
    else:
        for place in range(len(numbers)):
            half = np.int32(np.int16(halves[row, place]))
            bits[place] = (half << np.int32(13)) & np.int32(~0x70001FFF)
        for place in range(len(numbers)):
            numbers[place] *= np.float32(2.0**112)


@njit(**INNER)
def _stored_distance(stored, row, room, query, length, metric):
    if stored[0] == 0:
        return _distance(stored[1][row], query, length, metric)
    _decode(stored, row, room)
    return _distance(room[0], query, length, metric)


@compiled()
def measure_pairs(rows, asking, distances):
    """Write the distance of each row to the query beside it."""
    queries, lengths, metric = asking
    for place in range(len(rows)):
        distances[place] = _distance(rows[place], queries[place], lengths[place], metric)


# -- heaps -----------------------------------------------------------------------------------------


# Entries are triples, in rising order: distance, and then two numbers that decide ties.


@njit(**INNER)
def after(distance, one, two, other, other_one, other_two):
    if distance != other:
        return distance > other
    return one > other_one or (one == other_one and two > other_two)


@njit(**INNER)
def sift(distance, one, two, distances, ones, twos, size):
    """Put an entry in the place of the heap's top, and let it sink among the first `size`."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        beside = child + 1
        if beside < size and after(
            *(distances[beside], ones[beside], twos[beside]),
            *(distances[child], ones[child], twos[child]),
        ):
            child = beside
        if not after(distances[child], ones[child], twos[child], distance, one, two):
            break
        distances[place], ones[place], twos[place] = distances[child], ones[child], twos[child]
        place = child
    distances[place], ones[place], twos[place] = distance, one, two


@njit(**INNER)
def sort(distances, ones, twos):
    for last in range(len(twos) - 1, 0, -1):
        distance, one, two = distances[last], ones[last], twos[last]
        distances[last], ones[last], twos[last] = distances[0], ones[0], twos[0]
        sift(distance, one, two, distances, ones, twos, last)


@njit(**INNER)
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


@njit(**INNER)
def _empty(found):
    distances, keys, rows = found
    distances[:], keys[:], rows[:] = np.inf, _NO_KEY, -1


@compiled()
def rank(stored, asking, who, row, found):
    """Measure candidate `row[i]` for query `who[i]`; leave each query's nearest in order."""
    queries, lengths, metric = asking
    distances, keys, rows = found
    _empty(found)
    known, room = stored[6], _room(queries.shape[1])
    for place in range(len(row)):
        asked, here = who[place], row[place]
        distance = _stored_distance(stored, here, room, queries[asked], lengths[asked], metric)
        if after(
            *(distances[asked, 0], keys[asked, 0], rows[asked, 0], distance, known[here], here)
        ):
            sift(
                *(distance, known[here], here),
                *(distances[asked], keys[asked], rows[asked], rows.shape[1]),
            )
    for asked in range(len(queries)):
        sort(distances[asked], keys[asked], rows[asked])


@njit(**INNER)
def _measure(stored, asking, asked, held, count, most, room, found):
    """Measure the first `count` of a pool if their least score is at most `most`."""
    queries, lengths, metric = asking
    distances, keys, rows = found[0][asked], found[1][asked], found[2][asked]
    pool, least, known, measured = held[1][asked], held[2][asked], stored[6], 0
    query, length = queries[asked], lengths[asked]
    for place in range(count):
        if least[place] <= most:
            row = pool[place]
            distance = _stored_distance(stored, row, room, query, length, metric)
            measured += 1
            if after(distances[0], keys[0], rows[0], distance, known[row], row):
                sift(distance, known[row], row, distances, keys, rows, len(rows))
    return measured


@njit(**INNER)
def _thinned(pool, least, most):
    """Keep those of a pool whose least score is at most `most`, and return how many."""
    kept = 0
    for place in range(len(pool)):
        if least[place] <= most:
            pool[kept], least[kept] = pool[place], least[place]
            kept += 1
    return kept


@njit(**INNER)
def _norms(squares, metric):
    """Return what a row's products are multiplied with (cosine) or added to, and its longest."""
    norms, longest = np.empty(len(squares), np.float32), np.float32(0)
    for place in range(len(squares)):
        square = squares[place]
        longest = max(longest, square)
        norms[place] = np.float32(1) / np.sqrt(square) if metric == 0 else square
    return norms, np.sqrt(np.float64(longest))


@njit(**INNER)
def _error(longest, length, dimensions, metric):
    """Return how far the float32 score of a row can lie from the true one.

    A float32 inner product of d terms errs by at most gamma |x||q| with gamma = d u / (1 - d u) and
    u = 2**-24, in any order of summation (Higham, "Accuracy and Stability of Numerical Algorithms",
    2nd ed., eq. 3.5). A few roundings more come from norms, differences and these bounds
    themselves, and each product may vanish below the smallest normal number.
    """
    longest += 2.0**-63  # squares of shorter rows vanish in float32, or have lost digits
    terms = (dimensions + 16) * 2.0**-24
    gamma, vanished = terms / (1.0 - terms), (dimensions + 16) * 2.0**-125
    if metric == 0:
        scale = 2.0
    elif metric == 1:
        scale = longest * length
    else:
        scale = (longest + length) * (longest + length)
    return np.float32(gamma * scale + vanished)


@compiled()
def write_errors(longest, lengths, dimensions, metric, errors):
    """Write `_error` for queries of several lengths."""
    for place in range(len(lengths)):
        errors[place] = _error(longest, lengths[place], dimensions, metric)


# Terms may be summed in any order, and fused: `_error` holds for all.
@njit(**INNER, fastmath={"reassoc", "contract"})
def _multiply_row(row, scaled, place, products):
    for asked in range(len(scaled)):
        query, total = scaled[asked], np.float32(0)
        for number in range(len(row)):
            total += row[number] * query[number]
        products[asked, place] = total


@njit(**INNER)
def _multiply(stored, scaled, first, products):
    """Write the products of a few queries with rows from `first` on: memory is read once."""
    room = _room(scaled.shape[1])
    for place in range(products.shape[1]):
        if stored[0] == 0:
            _multiply_row(stored[1][first + place], scaled, place, products)
        else:
            _decode(stored, first + place, room)
            _multiply_row(room[0], scaled, place, products)


@njit(**INNER)
def _score(products, norms, metric, scores):
    if metric == 0:
        for place in range(len(products)):
            scores[place] = products[place] * norms[place]
    elif metric == 1:
        for place in range(len(products)):
            scores[place] = products[place]
    else:
        for place in range(len(products)):
            scores[place] = products[place] + norms[place]


# Scores are finite, so the least of them does not depend on the order.
@njit(**INNER, fastmath={"nnan", "nsz", "reassoc"})
def _least(scores):
    least = np.float32(np.inf)
    for place in range(len(scores)):
        least = min(least, scores[place])
    return least


@compiled()
def choose(products, scaled, first, stop, held, stored, asking, found):
    """Find the nearest of all rows, block by block: of rows `first` to `stop` now.

    Rows that can be among the k nearest of a query go to its pool; after the last block those that
    still can are measured. A pool that is full of such rows is measured before, and is empty then.

    Parameters
    ----------
    products : (q, n) float32 array
        Products of the scaled queries with the block's rows; (q, 0) has them made here.
    scaled : (q, d) float32 array
        The scaled queries.
    held : tuple
        What blocks hand on. ``upper`` (q, k) float32, heaps of the k least bounds from above that
        were seen; ``pool`` and ``least`` (q, c), candidates and what their true scores are at
        least; ``counts`` (q,). The block with row 0 begins anew.
    stored, asking, found : tuples
        All rows; queries in float64, their lengths and the metric; distances, keys and rows of
        the nearest.

    Returns
    -------
    int
        How many rows were measured.
    """
    upper, pools, leasts, counts = held
    queries, lengths, metric = asking
    size, dimensions, last = stop - first, queries.shape[1], stop == len(stored[6])
    if not products.shape[1]:
        products = np.empty((len(queries), size), np.float32)
        _multiply(stored, scaled, first, products)
    chunks = (size + _CHUNK - 1) // _CHUNK
    scores, nearest = np.empty(size, np.float32), np.empty(chunks, np.float32)
    room, start = _room(dimensions), np.empty_like(upper[0])
    norms, longest = _norms(stored[7][first : first + size], metric)
    if first == 0:
        _empty(found)
        upper[:], counts[:] = np.inf, 0
    measured = 0
    for asked in range(len(products)):
        error = _error(longest, lengths[asked], dimensions, metric)
        best, count = upper[asked], counts[asked]
        pool, least = pools[asked], leasts[asked]
        _score(products[asked], norms, metric, scores)
        for chunk in range(chunks):
            nearest[chunk] = _least(scores[chunk * _CHUNK : (chunk + 1) * _CHUNK])
        limit = best[0] + error
        if limit == np.inf and len(best) <= chunks:
            # At least k rows are as near as the k-th of the chunks' nearest.
            start[:] = np.inf
            for chunk in range(chunks):
                if nearest[chunk] < start[0]:
                    _sink(nearest[chunk], start)
            limit = (start[0] + error) + error
        for chunk in range(chunks):
            if nearest[chunk] > limit:
                continue
            for place in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, size)):
                score = scores[place]
                if score > limit:
                    continue
                if count == len(pool):
                    count = _thinned(pool, least, best[0])
                    if 2 * count > len(pool):
                        measured += _measure(stored, asking, asked, held, count, _ALL, room, found)
                        count = 0
                pool[count], least[count] = first + place, score - error
                count += 1
                if score + error < best[0]:
                    _sink(score + error, best)
                    limit = min(limit, best[0] + error)
        counts[asked] = count
        if last:
            measured += _measure(stored, asking, asked, held, count, best[0], room, found)
            sort(found[0][asked], found[1][asked], found[2][asked])
    return measured
