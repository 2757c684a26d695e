"""Local training and evaluation of whole devices, compiled.

A batch is worked off in blocks of rows. Where one block holds it and nothing needs to see the whole
gradient, the errors carry the factor -rate and the gradient's products are added to the weights
themselves: the gradient never exists. Momentum, clipping, masks and larger batches form it first.
"""

from __future__ import annotations

import math

import numpy as np
from numba import carray, njit

from fedlab.core.jit import compiled
from fedlab.training.compiled import network, tiles
from fedlab.training.compiled import shuffle as shuffles
from fedlab.training.compiled.network import (
    COMPILED,
    INPUTS,
    LENGTH,
    OUTPUTS,
    RECEIVED,
    add_l2,
    backward,
    errors,
    forward,
    gather,
    pack,
    packed_size,
    regress,
    scale,
    scratch,
    squared_weights,
    unpack,
)
from fedlab.training.compiled.shuffle import draw_words, shuffle
from fedlab.training.compiled.tiles import pointer

_ENTRY = {**COMPILED, "no_cpython_wrapper": False, "sources": (network, shuffles, tiles)}


@njit(**COMPILED)
def _descend(plan, weights, gradient, rates, clip, momentum, anchor, offset, trained, velocity):
    """Step along the whole gradient: regularised, clipped, corrected, masked, with momentum."""
    rate, decay, l2, mu = rates
    if l2 > 0:
        add_l2(plan, weights, gradient, l2)
    shorter = weights.dtype.type(1)
    if clip > 0:
        squares = 0.0
        for i in range(len(gradient)):
            squares += float(gradient[i]) * float(gradient[i])
        if math.sqrt(squares) > clip:
            shorter = weights.dtype.type(clip / math.sqrt(squares))
    for i in range(len(weights)):
        w = weights[i]
        d = (shorter * gradient[i] + decay * w + mu * (w - anchor[i]) + offset[i]) * trained[i]
        velocity[i] = momentum * velocity[i] + d
        weights[i] = w - rate * velocity[i]


@njit(**COMPILED)
def _copy(source, target, count):
    for place in range(count):  # a slice's assignment would bring seconds of compilation along
        target[place] = source[place]


@njit(**COMPILED)
def _labels_fit(y, rows, count, classes):
    for place in range(count):
        label = y[rows[place]]
        if not (0 <= label < classes and label == math.floor(label)):
            return False
    return True


@njit(**COMPILED)
def _rows_of(device, x_at, y_at, chosen_at, held, counts, plan):
    """Return a device's vectors, its labels, and the numbers of its rows."""
    x = carray(pointer(x_at[device]), held[device] * plan[0, INPUTS], np.float32)
    y = carray(pointer(y_at[device]), held[device], np.float64)
    if chosen_at[device]:
        return x, y, carray(pointer(chosen_at[device]), counts[device], np.int64)
    return x, y, np.arange(counts[device])


@njit(**COMPILED)
def _pass_rows(
    plan, squared, weights, x, y, rows, start, count, room, rooms, target, factor, *pulled
):
    """Add the gradient on some rows, times `factor`, to `target`; return the sum of the losses.

    `target` is a gradient, or the weights, which `pulled` (see `backward`) then draws first.
    """
    if plan[0, LENGTH] == 1:
        return regress(x, y, rows, start, count, weights, target, factor)
    block, acts, spare, zeros = rooms
    losses = 0.0
    for first in range(start, start + count, room):
        here = min(room, start + count - first)
        gather(x, plan[0, INPUTS], rows, first, here, block, plan[0, RECEIVED])
        forward(plan, weights, block, here, acts)
        losses += errors(plan, squared, acts, y, rows, first, here)[0]
        scale(plan, acts, here, factor)
        backward(plan, weights, block, here, acts, target, spare, zeros, *pulled)
    return losses


@compiled(**_ENTRY)
def train_devices(
    which,
    x_at,
    y_at,
    chosen_at,
    held,
    counts,
    addresses,
    rounds,
    step_sizes,
    epochs,
    begun,
    plan,
    room,
    squared,
    l2,
    batch,
    steps_of,
    start,
    anchors,
    offsets,
    trained,
    address,
    changes,
    losses,
    steps,
):
    """Train the devices `which` one after another, and write what changed into their rows.

    Parameters
    ----------
    which : (q,) places in the cohort
    x_at, y_at, chosen_at : (m,) uint64
        Where a device's float32 rows, float64 labels and intp row numbers lie (0: all rows).
    held, counts : (m,) int64
        Rows there, and rows to train on.
    addresses, rounds : (m,) uint64
    step_sizes : (m,) array, in the parameters' type
    epochs, begun : (m,) int64
    plan, room, squared, l2 : the network, the rows of a block, whether its loss is squared
    batch : int
        Rows of a step; 0 takes all.
    steps_of : (4,) array
        Weight decay, mu, momentum, clip (0: none), in the parameters' type.
    start, anchors, offsets : (1 or m, p) arrays; (0, p) where there is none
    trained : (p,) or (0,) mask
    address : (2,) uint64
        Seed, purpose.
    changes : (m, p) array, written to
    losses, steps : (m,) arrays, written to; steps are -1 where labels don't fit the network, -2
        where the change holds NaN or inf
    """
    size, numbers = packed_size(plan), start.dtype
    home, weights = np.zeros(size, numbers), np.zeros(size, numbers)
    pack(plan, start[0], home)
    anchor, offset = np.zeros(size, numbers), np.zeros(size, numbers)
    decay, mu, momentum, clip = steps_of
    rates, kept = np.zeros(4, numbers), np.zeros(3, numbers)
    toward = np.zeros(size, numbers)
    formed = momentum > 0 or clip > 0 or len(trained) > 0
    mask, velocity = np.ones(1, numbers), np.zeros(1, numbers)
    rooms = scratch(plan, room, start)
    nothing = np.zeros(3, numbers)
    classes = plan[-1, OUTPUTS]
    single = plan[0, LENGTH] == 1
    # A step of linear regression is over before the general way has been called.
    brief = single and not formed and l2 == 0
    most = 0
    for device in which:
        most = max(most, counts[device])
    words, order = np.empty(most + 3, np.uint64), np.empty(most, np.int64)
    if len(trained):
        mask = np.zeros(size, numbers)
        pack(plan, trained, mask)
    for device in which:
        count, rate = counts[device], step_sizes[device]
        x, y, rows = _rows_of(device, x_at, y_at, chosen_at, held, counts, plan)
        if not squared and not _labels_fit(y, rows, count, classes):
            steps[device] = -1
            continue
        rates[0], rates[1], rates[2], rates[3] = rate, decay, l2, mu
        # A step along all but the loss is w <- kept w + toward (for weights, and for biases).
        kept[0] = decay > 0 or l2 > 0 or mu > 0 or len(offsets) > 0
        kept[1], kept[2] = 1 - rate * (decay + l2 + mu), 1 - rate * (decay + mu)
        begin = start[device if len(start) > 1 else 0]
        if len(start) > 1:
            pack(plan, begin, home)
        _copy(home, weights, size)
        if len(anchors):
            pack(plan, anchors[device if len(anchors) > 1 else 0], anchor)
        elif mu > 0:
            _copy(home, anchor, size)
        if len(offsets):
            pack(plan, offsets[device if len(offsets) > 1 else 0], offset)
        if kept[0]:
            for i in range(size):
                toward[i] = rate * (mu * anchor[i] - offset[i])
        per_step = count if batch == 0 or batch > count else batch
        whole = formed or single or per_step > room
        if whole and len(velocity) < size:
            velocity = np.zeros(size, numbers)
            if not len(trained):
                mask = np.ones(size, numbers)
        velocity[:] = 0
        gradient = np.zeros(size if whole else 0, numbers)
        done, total = 0, 0.0
        _copy(rows, order, count)
        for epoch in range(epochs[device]):
            if per_step < count:
                _copy(rows, order, count)
                draw_words(
                    *(words, count, address[0], address[1], rounds[device]),
                    *(addresses[device], np.uint64(begun[device] + epoch)),
                )
                shuffle(order, count, words)
            for first in range(0, count, per_step):
                taken = min(per_step, count - first)
                loss = 0.0
                if l2 > 0:
                    loss = taken * float(l2) / 2 * squared_weights(plan, weights)
                target, pulled = weights, kept
                factor = numbers.type(-rate / taken)
                if whole:
                    gradient[:] = 0
                    target, pulled = gradient, nothing
                    factor = numbers.type(1.0 / taken)
                if brief:
                    loss += regress(x, y, order, first, taken, weights, gradient, factor)
                    for i in range(size):
                        w = weights[i]
                        d = gradient[i] + decay * w + mu * (w - anchor[i]) + offset[i]
                        weights[i] = w - rate * d
                    total += loss / taken
                    done += 1
                    continue
                # One place where this is called: its machine code stands once.
                loss += _pass_rows(
                    *(plan, squared, weights, x, y, order, first, taken, room, rooms),
                    *(target, factor, pulled, toward),
                )
                if whole:
                    _descend(
                        *(plan, weights, gradient, rates, clip, momentum),
                        *(anchor, offset, mask, velocity),
                    )
                total += loss / taken
                done += 1
        finite = unpack(plan, weights, changes[device], begin)
        losses[device] = total / done
        steps[device] = done if finite else -2


@compiled(**_ENTRY)
def gradient_devices(
    which, x_at, y_at, chosen_at, held, counts, plan, room, squared, l2, start, gradients
):
    """Write the gradient of each device's whole loss at its start (see `train_devices`)."""
    size, numbers = packed_size(plan), start.dtype
    weights, gradient = np.zeros(size, numbers), np.zeros(size, numbers)
    nothing, zero = np.zeros(3, numbers), np.zeros(start.shape[1], numbers)
    rooms = scratch(plan, room, start)
    for device in which:
        count = counts[device]
        x, y, rows = _rows_of(device, x_at, y_at, chosen_at, held, counts, plan)
        if not squared and not _labels_fit(y, rows, count, plan[-1, OUTPUTS]):
            continue
        pack(plan, start[device if len(start) > 1 else 0], weights)
        gradient[:] = 0
        _pass_rows(
            *(plan, squared, weights, x, y, rows, np.int64(0), count, room, rooms),
            *(gradient, numbers.type(1.0 / count), nothing, weights),
        )
        add_l2(plan, weights, gradient, l2)
        unpack(plan, gradient, gradients[device], zero)


@compiled(**_ENTRY)
def evaluate_devices(
    which, x_at, y_at, chosen_at, held, counts, plan, room, squared, start, losses, hits
):
    """Write each device's summed loss (squared: half the squared errors) and hits on its rows.

    See `train_devices` for the arguments; hits are -1 where labels don't fit.
    """
    size = packed_size(plan)
    weights = np.zeros(size, start.dtype)
    pack(plan, start[0], weights)
    block, acts, _, _ = scratch(plan, room, start)
    for device in which:
        if len(start) > 1:
            pack(plan, start[device], weights)
        count = counts[device]
        x, y, rows = _rows_of(device, x_at, y_at, chosen_at, held, counts, plan)
        if not squared and not _labels_fit(y, rows, count, plan[-1, OUTPUTS]):
            hits[device] = -1
            continue
        losses[device], hits[device] = 0.0, 0
        if plan[0, LENGTH] == 1:
            losses[device] = regress(
                *(x, y, rows, np.int64(0), count, weights, np.zeros_like(weights)),
                start.dtype.type(0),
            )
            continue
        for begun in range(0, count, room):
            here = min(room, count - begun)
            gather(x, plan[0, INPUTS], rows, begun, here, block, plan[0, RECEIVED])
            forward(plan, weights, block, here, acts)
            loss, right = errors(plan, squared, acts, y, rows, begun, here)
            losses[device] += loss
            hits[device] += right
