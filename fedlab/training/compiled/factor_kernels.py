"""Local training of factor models: see `fedlab.models.factors`, whose steps these are."""

from __future__ import annotations

import math

import numpy as np

from fedlab.core.jit import compiled
from fedlab.training.compiled import shuffle as shuffles
from fedlab.training.compiled import tiles
from fedlab.training.compiled.network import COMPILED
from fedlab.training.compiled.shuffle import draw_words, shuffle

_ENTRY = {**COMPILED, "no_cpython_wrapper": False, "sources": (shuffles, tiles)}


@compiled(**_ENTRY)
def train_devices(
    which, x, y, ends, rates, addresses, passes, shape, ways, weights, start, seed, changes, told
):
    """Train the devices `which` one after another, and write what changed into their rows.

    Parameters
    ----------
    which : (q,) places in the cohort
    x, y : (n,) int64 items, and labels in the parameters' type; of all devices
    ends : (m + 1,) int64
        Where the rows of each begin, and end.
    rates : (m,) step sizes
    addresses : (2, m) uint64
        Rounds, and words for the devices' names.
    passes : (2, m) int64
        Epochs, and those that were done before.
    shape : (2,) int64
        Items, and rows of a step (0: all).
    ways : (4 or 5,) bool
        Whether users have views of their own; whether the loss is squared; which arrays train.
    weights : (4,) array
        l2, lam, mu, centre.
    start : (1 or m, p) array
    seed : (2,) uint64
        Seed, purpose.
    changes : (m, p) array, written to
    told : (2, m) float64 array, written to
        Mean losses, and steps: -2 where the change holds NaN or inf.
    """
    numbers, (items, batch), (additive, squared) = start.dtype.type, shape, ways[:2]
    l2, lam, mu, centre = weights
    tables = 2 if additive else 1
    width = start.shape[1] // (tables * items + 1)
    bias, most = width - 1, 0
    for device in which:
        most = max(most, ends[device + 1] - ends[device])
    words, order = np.empty(most + 3, np.uint64), np.empty(most, np.int64)
    # A step's rows as they were before it: an item may stand in several.
    whole, shared = np.empty((most, width), start.dtype), np.empty((most, width), start.dtype)
    errors, slope = np.empty(most, start.dtype), np.empty(width, start.dtype)
    for device in which:
        first, rate, change = ends[device], rates[device], changes[device]
        begin, count = start[device if len(start) > 1 else 0], ends[device + 1] - first
        change[:] = begin
        table = change[: tables * items * width].reshape(tables * items, width)
        user = change[tables * items * width :]
        per_step = count if batch == 0 or batch > count else batch
        done, total = 0, 0.0
        for epoch in range(passes[0, device]):
            for place in range(count):
                order[place] = first + place
            if per_step < count:
                part = np.uint64(passes[1, device] + epoch)
                draw_words(
                    words, count, seed[0], seed[1], addresses[0, device], addresses[1, device], part
                )
                shuffle(order, count, words)
            for begun in range(0, count, per_step):
                taken, loss = min(per_step, count - begun), 0.0
                each = numbers(1) / numbers(taken)
                slope[:] = 0
                for row in range(taken):
                    place = order[begun + row]
                    item, label = x[place], y[place]
                    score = centre + user[bias]
                    for k in range(width):
                        q = shared[row, k] = table[item, k]
                        if additive:
                            q += table[items + item, k]
                            apart = q - 2 * shared[row, k]
                            loss += (mu * abs(shared[row, k]) - lam * apart * apart) / width
                        whole[row, k] = q
                        score += q * (user[k] if k < bias else numbers(1))
                        loss += l2 / 2 * (q * q + user[k] * user[k])
                    if squared:
                        error = score - label
                        loss += error * error / 2
                    else:
                        error = 1 / (1 + math.exp(-max(score, numbers(-80)))) - label
                        loss += math.log1p(math.exp(-abs(score))) + max(score, 0) - label * score
                    errors[row] = error * each
                for row in range(taken):
                    item = x[order[begun + row]]
                    for k in range(width):
                        q, p = whole[row, k], user[k] if k < bias else numbers(1)
                        pull, c = errors[row] * p + l2 * each * q, shared[row, k]
                        slope[k] += (
                            errors[row] * (q if k < bias else numbers(1)) + l2 * each * user[k]
                        )
                        if additive:
                            away = 2 * lam * each / width * (q - 2 * c)
                            table[items + item, k] -= rate * (pull - away) * ways[3]
                            pull += away + mu * each / width * np.sign(c)
                        table[item, k] -= rate * pull * ways[2]
                for k in range(width):
                    user[k] -= rate * slope[k] * ways[len(ways) - 1]
                total, done = total + loss / taken, done + 1
        probe = numbers(0)  # not math.isfinite, which these loops' arithmetic takes for true
        for place in range(len(change)):
            change[place] -= begin[place]
            probe += change[place] * numbers(0)
        told[0, device], told[1, device] = total / done, done if probe == 0 else -2
