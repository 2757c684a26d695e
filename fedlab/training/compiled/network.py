"""Dense networks, compiled: linear and softmax regression, multilayer perceptrons.

A network is a stack of affine layers with ReLU between them. A layer's weights and bias are one
matrix of (inputs + 1) rows, cut into panels of 16 columns that stand one after another, so that
`tile` reads straight ahead; columns are filled up with zeros, which stay zero. `plan` describes a
layer by six numbers (the constants below). A single output would leave 15 of 16 lanes empty: such
a layer is stored as it is, and `regress` does its work.

Rows pass in blocks: `gather` them, `forward`, `errors`, `backward`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

from fedlab.core.jit import INNER
from fedlab.training.compiled.tiles import LANES, ROWS, as_float32, tile

# Of a layer: inputs, outputs, its output's and its input's row length, its start in the packed
# parameters, and the start of its output among the activations.
INPUTS, OUTPUTS, LENGTH, RECEIVED, FIRST, OUT = range(6)

# Sums may be taken in another order, as vectors need; NaN and inf stay what they are. What only
# compiled code calls needs neither a way in from Python nor a place on disk.
COMPILED = INNER | {"fastmath": {"reassoc", "contract", "nsz", "arcp"}}

_LOWEST = -87.0


def _power(x):
    raise NotImplementedError


@overload(_power)
def _power_of(x):
    """Return e^x for x <= 0: math.exp, or for float32 a polynomial that becomes vectors.

    x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor series to r^7 / 7!, whose remainder is
    below 1e-8; 2^n through the exponent's bits.
    """
    if x is not types.float32:
        return lambda x: math.exp(x)

    def polynomial(x):
        bounded = x if x > np.float32(_LOWEST) else np.float32(_LOWEST)
        n = np.floor(bounded * np.float32(1.44269504) + np.float32(0.5))
        # ln 2 in two parts, so that r keeps its digits. NaN goes through x.
        at = x if x != x else bounded
        r = (at - n * np.float32(0.693359375)) + n * np.float32(2.12194440e-4)
        p = np.float32(1 / 5040)
        p = p * r + np.float32(1 / 720)
        p = p * r + np.float32(1 / 120)
        p = p * r + np.float32(1 / 24)
        p = p * r + np.float32(1 / 6)
        p = p * r + np.float32(0.5)
        p = p * r + np.float32(1.0)
        p = p * r + np.float32(1.0)
        return p * as_float32((np.int32(n) + np.int32(127)) << np.int32(23))

    return polynomial


# -- between the flat vector and panels ----------------------------------------------------------


@njit(**COMPILED)
def pack(plan, flat, packed):
    packed[:] = 0
    start = 0
    for layer in range(len(plan)):
        inputs, outputs, length = plan[layer, INPUTS], plan[layer, OUTPUTS], plan[layer, LENGTH]
        to = min(LANES, length)
        for column in range(0, length, LANES):
            panel = packed[plan[layer, FIRST] + column * (inputs + 1) :]
            _copy_rows(flat[start + column :], outputs, panel, to, inputs + 1, outputs - column)
        start += (inputs + 1) * outputs


@njit(**COMPILED)
def _copy_rows(source, source_length, target, target_length, rows, wide):
    """Copy rows of at most LANES numbers between arrays of different row lengths."""
    if wide >= LANES:  # a fixed number of columns becomes vectors
        for row in range(rows):
            one, other = source[row * source_length :], target[row * target_length :]
            for lane in range(LANES):
                other[lane] = one[lane]
    else:
        for row in range(rows):
            for lane in range(wide):
                target[row * target_length + lane] = source[row * source_length + lane]


@njit(**COMPILED)
def unpack(plan, packed, flat, base):
    """Write panels to a flat vector, less `base`; return whether all of it is finite."""
    start, probe = 0, flat.dtype.type(0)
    for layer in range(len(plan)):
        inputs, outputs, length = plan[layer, INPUTS], plan[layer, OUTPUTS], plan[layer, LENGTH]
        for column in range(0, length, LANES):
            panel = packed[plan[layer, FIRST] + column * (inputs + 1) :]
            to, less = flat[start + column :], base[start + column :]
            wide = min(LANES, outputs - column)
            probe += _subtract_rows(panel, min(LANES, length), less, to, outputs, inputs + 1, wide)
        start += (inputs + 1) * outputs
    return probe == 0


@njit(**COMPILED)
def _subtract_rows(source, source_length, base, target, length, rows, wide):
    """Write source - base to target; return 0, or NaN if a difference is NaN or inf."""
    nothing = target.dtype.type(0)
    probe = nothing
    for row in range(rows):
        one, less = source[row * source_length :], base[row * length :]
        to = target[row * length :]
        if wide == LANES:  # a fixed number of columns becomes vectors
            for lane in range(LANES):
                to[lane] = one[lane] - less[lane]
                probe += (one[lane] - less[lane]) * nothing
        else:
            for lane in range(wide):
                to[lane] = one[lane] - less[lane]
                probe += (one[lane] - less[lane]) * nothing
    return probe


@njit(**COMPILED)
def packed_size(plan):
    size = plan[-1, FIRST] + (plan[-1, INPUTS] + 1) * plan[-1, LENGTH]
    # A layer's last tile may reach beyond its last row: it adds zeros there.
    return size if plan[0, LENGTH] == 1 else size + ROWS * LANES


@njit(**COMPILED)
def scratch(plan, room, like):
    """Return a block, activations, spare room for a transposed layer and a tile, and zeros."""
    last = len(plan) - 1
    numbers = like.dtype
    block = np.zeros(room * plan[0, RECEIVED] + LANES, numbers)
    acts = np.zeros(plan[last, OUT] + room * plan[last, LENGTH] + LANES, numbers)
    largest = 0
    for layer in range(1, len(plan)):
        largest = max(largest, plan[layer, RECEIVED] * plan[layer, OUTPUTS])
    spare = np.zeros(largest + ROWS * LANES, numbers)
    return block, acts, spare, np.zeros(LANES, numbers)


# -- forward -------------------------------------------------------------------------------------


@njit(**COMPILED)
def gather(x, width, rows, start, count, into, length):
    """Copy rows of a device into a block, each to a row of `length`."""
    for place in range(count):
        source = x[rows[start + place] * width :]
        target = into[place * length :]
        for column in range(width):
            target[column] = source[column]


@njit(**COMPILED)
def _rectify(numbers):
    for place in range(len(numbers)):
        numbers[place] = max(numbers[place], 0)


@njit(**COMPILED)
def forward(plan, weights, block, count, acts):
    """Compute what leaves each layer for the block's first `count` rows (in fours)."""
    source, at = block, 0
    for layer in range(len(plan)):
        inputs, length, received = plan[layer, INPUTS], plan[layer, LENGTH], plan[layer, RECEIVED]
        out = plan[layer, OUT]
        for panel in range(0, length, LANES):
            w = plan[layer, FIRST] + panel * (inputs + 1)
            bias = w + inputs * LANES
            for row in range(0, count, ROWS):
                tile(
                    *(source, at + row * received, received, 1),
                    *(weights, w, LANES, inputs),
                    *(weights, bias, 0, acts, out + row * length + panel, length),
                )
        if layer < len(plan) - 1:
            _rectify(acts[out : out + (count + ROWS - 1) // ROWS * ROWS * length])
        source, at = acts, out


@njit(**COMPILED)
def errors(plan, squared, acts, y, rows, start, count):
    last = len(plan) - 1
    out, length = plan[last, OUT], plan[last, LENGTH]
    if squared:
        return _squared(acts, out, length, y, rows, start, count)
    return _cross_entropy(acts, out, length, plan[last, OUTPUTS], y, rows, start, count)


@njit(**COMPILED)
def _cross_entropy(acts, out, length, classes, y, rows, start, count):
    """Replace scores by softmax - one-hot; return the sum of the losses, and the hits."""
    losses, hits = 0.0, 0
    for row in range(count):
        scores = acts[out + row * length : out + (row + 1) * length]
        label = int(y[rows[start + row]])
        highest = scores[0]
        for column in range(1, classes):
            highest = max(highest, scores[column])
        own = scores[label]
        hit = own == highest
        for column in range(label):  # of equal scores the first is the prediction
            hit &= scores[column] < highest
        hits += hit
        losses += highest - own
        for column in range(length):
            scores[column] -= highest
    product = 1.0  # of a few totals: one logarithm for all of them
    powers = acts[out : out + count * length]
    for place in range(len(powers)):
        powers[place] = _power(powers[place])
    for row in range(count):
        scores = acts[out + row * length : out + (row + 1) * length]
        scores[classes:] = 0
        total = scores.dtype.type(0)
        for column in range(length):
            total += scores[column]
        product *= total
        if product > 1e200:
            losses += math.log(product)
            product = 1.0
        inverse = scores.dtype.type(1) / total
        for column in range(length):
            scores[column] *= inverse
        scores[int(y[rows[start + row]])] -= 1
    return losses + math.log(product), hits


@njit(**COMPILED)
def _squared(acts, out, length, y, rows, start, count):
    """Replace scores by errors; return half the sum of their squares."""
    losses = 0.0
    for row in range(count):
        error = acts[out + row * length] - acts.dtype.type(y[rows[start + row]])
        acts[out + row * length] = error
        losses += float(error) * float(error) / 2
    return losses, 0


@njit(**COMPILED)
def scale(plan, acts, count, factor):
    """Multiply the errors of the last layer: what is derived from them is multiplied with them."""
    last = len(plan) - 1
    start = plan[last, OUT]
    errors = acts[start : start + count * plan[last, LENGTH]]
    for place in range(len(errors)):
        errors[place] *= factor


# -- backward ------------------------------------------------------------------------------------


@njit(**COMPILED)
def backward(plan, weights, block, count, acts, target, spare, zeros, kept, toward):
    """Add the errors' products to `target`, from the last layer to the first.

    `target` is a gradient, or the weights themselves; those are pulled first (see `_pull`).
    """
    for layer in range(len(plan) - 1, -1, -1):
        inputs, outputs = plan[layer, INPUTS], plan[layer, OUTPUTS]
        length, received = plan[layer, LENGTH], plan[layer, RECEIVED]
        first, out = plan[layer, FIRST], plan[layer, OUT]
        source, at = (acts, plan[layer - 1, OUT]) if layer > 0 else (block, 0)
        if layer > 0:
            _transpose(weights, first, inputs, outputs, spare)
        if kept[0]:
            _pull(target, first, length, inputs, kept, toward)
        for panel in range(0, length, LANES):
            g = first + panel * (inputs + 1)
            for k in range(0, inputs, ROWS):
                to = g + k * LANES
                tile(
                    *(source, at + k, 1, received),
                    *(acts, out + panel, length, count),
                    *(target, to, LANES, target, to, LANES),
                )
            bias = g + inputs * LANES
            for row in range(count):
                for lane in range(LANES):
                    target[bias + lane] += acts[out + row * length + panel + lane]
        if layer > 0:
            _through(acts, at, received, out, length, outputs, count, spare, zeros)


@njit(**COMPILED)
def _transpose(weights, first, inputs, outputs, spare):
    """Write a layer's weights, rows and columns exchanged, into panels in `spare`."""
    for column in range(outputs):
        panel = first + column // LANES * (inputs + 1) * LANES + column % LANES
        source = weights[panel:]
        for row in range(0, inputs, LANES):
            target = spare[(row * outputs) + column * LANES :]
            for lane in range(min(LANES, inputs - row)):
                target[lane] = source[(row + lane) * LANES]


@njit(**COMPILED)
def _through(acts, at, received, out, length, outputs, count, spare, zeros):
    """Replace a layer's inputs by their errors, zero where ReLU was."""
    end = (received // LANES) * outputs * LANES
    for panel in range(0, received, LANES):
        for row in range(0, count, ROWS):
            tile(
                *(acts, out + row * length, length, 1),
                *(spare, panel * outputs, LANES, outputs),
                *(zeros, 0, 0, spare, end, LANES),
            )
            for inner in range(ROWS):
                numbers = acts[at + (row + inner) * received + panel :]
                errors = spare[end + inner * LANES :]
                for lane in range(LANES):
                    error = errors[lane]  # read first: then a choice, else a branch
                    numbers[lane] = error if numbers[lane] > 0 else numbers.dtype.type(0)


@njit(**COMPILED)
def regress(x, y, rows, start, count, weights, gradient, factor):
    """Add the gradient of linear regression on some rows; return half the squared errors' sum.

    One output leaves a tile's lanes empty: here the vectors lie along the inputs, four rows a pass.
    """
    inputs, numbers = len(weights) - 1, weights.dtype
    losses, bias, whole = 0.0, weights[inputs], count // 4 * 4
    for place in range(start, start + whole, 4):
        a, b, c, d = rows[place], rows[place + 1], rows[place + 2], rows[place + 3]
        xa, xb, xc, xd = x[a * inputs :], x[b * inputs :], x[c * inputs :], x[d * inputs :]
        ea, eb = bias - numbers.type(y[a]), bias - numbers.type(y[b])
        ec, ed = bias - numbers.type(y[c]), bias - numbers.type(y[d])
        for k in range(inputs):
            w = weights[k]
            ea += w * xa[k]
            eb += w * xb[k]
            ec += w * xc[k]
            ed += w * xd[k]
        losses += float(ea * ea + eb * eb) + float(ec * ec + ed * ed)
        ea, eb, ec, ed = ea * factor, eb * factor, ec * factor, ed * factor
        for k in range(inputs):
            gradient[k] += (ea * xa[k] + eb * xb[k]) + (ec * xc[k] + ed * xd[k])
        gradient[inputs] += (ea + eb) + (ec + ed)
    for place in range(start + whole, start + count):
        row = x[rows[place] * inputs :]
        error = bias - numbers.type(y[rows[place]])
        for k in range(inputs):
            error += row[k] * weights[k]
        losses += float(error * error)
        error *= factor
        for k in range(inputs):
            gradient[k] += error * row[k]
        gradient[inputs] += error
    return losses / 2


# -- what is added to the loss -------------------------------------------------------------------


@njit(**COMPILED)
def _pull(weights, first, length, inputs, kept, toward):
    """Step along everything but the loss: w <- kept w + toward; a bias keeps another share."""
    wide = min(LANES, length)
    for panel in range(0, length, LANES):
        start = first + panel * (inputs + 1)
        bias, end = start + inputs * wide, start + (inputs + 1) * wide
        _pull_range(weights[start:bias], kept[1], toward[start:])
        _pull_range(weights[bias:end], kept[2], toward[bias:])


@njit(**COMPILED)
def _pull_range(weights, kept, toward):
    for i in range(len(weights)):
        weights[i] = kept * weights[i] + toward[i]


@njit(**COMPILED)
def add_l2(plan, weights, gradient, l2):
    for layer in range(len(plan)):
        inputs, wide = plan[layer, INPUTS], min(LANES, plan[layer, LENGTH])
        for panel in range(0, plan[layer, LENGTH], LANES):
            start = plan[layer, FIRST] + panel * (inputs + 1)
            part, w = gradient[start : start + inputs * wide], weights[start:]
            for i in range(len(part)):
                part[i] += l2 * w[i]


@njit(**COMPILED)
def squared_weights(plan, weights):
    total = 0.0
    for layer in range(len(plan)):
        inputs, wide = plan[layer, INPUTS], min(LANES, plan[layer, LENGTH])
        for panel in range(0, plan[layer, LENGTH], LANES):
            start = plan[layer, FIRST] + panel * (inputs + 1)
            part = weights[start : start + inputs * wide]
            for i in range(len(part)):
                total += float(part[i]) * float(part[i])
    return total
