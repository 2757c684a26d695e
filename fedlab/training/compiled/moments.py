"""Linear regression in full-batch steps, for all devices at once and without looking at rows.

A device's loss is a quadratic of its moments: with z = (x, 1), A = mean z z', b = mean y z and
c = mean y^2, it is (w' A w - 2 b' w + c) / 2, and its gradient A w - b. The moments are formed once
for a device's rows; a step of the whole cohort is then one small product of matrices, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedlab.core.typing import F64, I64, Array
from fedlab.device.dispatch import Dispatch
from fedlab.device.rows import Rows
from fedlab.training.compiled.stack import Stack
from fedlab.training.local import LocalSGD
from fedlab.training.work import Phase

#: Forming A takes as long as so many steps over the rows take, for each input: few are worth it.
_INPUTS = 32


def pays(stack: Stack, local: LocalSGD, most: int) -> bool:
    """Return whether moments are the way, by shapes alone; `most` rows are on a device."""
    full = local.batch_size is None or local.batch_size >= most
    return stack.squared and full and stack.widths[0] <= _INPUTS


def train(
    rows: Sequence[Rows], stack: Stack, phase: Phase, local: LocalSGD, order: Dispatch
) -> tuple[Array, Array, F64, I64]:
    """Return each device's change, gradient (if asked for), mean loss and steps.

    Steps are -2 where the change holds NaN or inf.
    """
    assert phase.start is not None
    devices, numbers, epochs = len(rows), phase.start.dtype, order.epochs
    rates = order.rates[:, None]
    size = stack.widths[0] + 1
    moments = np.array([part.moments for part in rows]).reshape(devices, size + 1, size + 1)
    a, b, c = moments[:, :-1, :-1], moments[:, :-1, -1], moments[:, -1, -1]
    decayed = np.append(np.full(size - 1, stack.l2), 0.0) if stack.l2 else np.zeros(1)
    start, losses = np.empty((devices, size)), np.zeros(devices)
    start[:] = phase.start
    anchor = start if phase.anchor is None else np.asarray(phase.anchor, np.float64)
    w, velocity = start, np.zeros(1)
    first = _gradient(a, b, w) + decayed * w if phase.gradient else np.empty((0, size))
    # Settings that are zero are left out: on so few numbers, each operation is a call.
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(int(epochs.max(initial=0))):
            gradient = _gradient(a, b, w)
            active = epochs > step
            half = (w * (gradient - b)).sum(axis=1) + c
            if stack.l2:
                half += (decayed * w * w).sum(axis=1)
                gradient += decayed * w
            losses += np.where(active, half / 2, 0)
            velocity = _corrected(gradient, w, anchor, phase, local) + local.momentum * velocity
            w = np.where(active[:, None], w - rates * velocity, w)
        change = (w - start).astype(numbers)
    steps = np.where(np.isfinite(change).all(axis=1), epochs, -2)
    return change, first.astype(numbers), losses / epochs, steps


def _gradient(a: F64, b: F64, w: F64) -> F64:
    return np.asarray((a @ w[:, :, None])[:, :, 0] - b)


def _corrected(gradient: F64, w: F64, anchor: F64, phase: Phase, local: LocalSGD) -> F64:
    if local.clip is not None:
        lengths = np.linalg.norm(gradient, axis=1, keepdims=True)
        gradient = gradient * np.minimum(1, local.clip / np.maximum(lengths, local.clip))
    if local.weight_decay or phase.mu:
        gradient = gradient + local.weight_decay * w + phase.mu * (w - anchor)
    if phase.offset is not None:
        gradient = gradient + phase.offset
    return gradient if phase.trained is None else gradient * phase.trained
