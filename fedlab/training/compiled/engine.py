"""The compiled door to local training: a cohort's devices dealt out to threads.

numba compiles the loops when they are first used, which takes some seconds, and keeps them on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from fedlab.core.jit import announced
from fedlab.core.randomness import Purpose
from fedlab.core.threads import Part, by_cost, share
from fedlab.core.typing import F64, I64, U64, Array
from fedlab.device.dispatch import Dispatch
from fedlab.device.rows import Rows
from fedlab.training.compiled.stack import Stack
from fedlab.training.local import LocalSGD
from fedlab.training.work import Phase

#: Rows that pass through a network together, at most.
_ROOM = 64
#: What a row costs at least, and a multiplication with a parameter, forth and back (seconds).
_ROW, _PRODUCT = 1e-8, 1e-10


@dataclass(frozen=True)
class Addresses:
    """Where the rows of m devices lie: addresses, and what keeps the memory from being freed."""

    x: U64
    y: U64
    chosen: U64
    held: I64
    counts: I64
    keep: Sequence[Rows]

    @classmethod
    def of(cls, rows: Sequence[Rows]) -> Addresses:
        begin = np.array([part.memory for part in rows], np.uint64).reshape(-1, 3)
        x, y, chosen = np.ascontiguousarray(begin.T)
        held = np.array([len(part.x) for part in rows], np.int64)
        counts = np.array([part.count for part in rows], np.int64)
        return cls(x, y, chosen, held, counts, rows)


def train(
    where: Addresses,
    stack: Stack,
    phase: Phase,
    local: LocalSGD,
    order: Dispatch,
    names: U64,
    seed: int,
    threads: int,
    largest: int | None = None,
) -> tuple[Array, Array, F64, I64]:
    """Return each device's change, gradient (if asked for), mean loss and steps.

    Steps are -1 where labels don't fit the network (the change is not set then), -2 where the
    change holds NaN or inf. `largest` is the most rows of a device in all of the cohort, of which
    these devices are a part: blocks of rows are cut by it.
    """
    assert phase.start is not None
    count, numbers, size = len(order), phase.start.dtype, phase.start.shape[-1]
    start = _stacked(phase.start, size, numbers)
    anchors, offsets = (_stacked(a, size, numbers) for a in (phase.anchor, phase.offset))
    largest = largest or int(where.counts.max(initial=1))
    plan, room = _plan(stack, min(largest, local.batch_size or largest))
    changes = np.empty((count, size), numbers)
    gradients = np.empty((count if phase.gradient else 0, size), numbers)
    losses, steps = np.zeros(count), np.zeros(count, np.int64)
    settings = [local.weight_decay, phase.mu, local.momentum, local.clip or 0.0]
    costs = (_ROW + _PRODUCT * size) * (where.counts * order.epochs).astype(np.float64)

    def some(which: Part) -> None:
        _kernels().train_devices(
            *(which, where.x, where.y, where.chosen, where.held, where.counts),
            *(names, order.rounds.astype(np.uint64), order.rates.astype(numbers)),
            *(np.asarray(order.epochs, np.int64), order.begun),
            *(plan, room, stack.squared, numbers.type(stack.l2)),
            *(local.batch_size or 0, np.array(settings, numbers), start),
            *(anchors, offsets),
            np.zeros(0, numbers) if phase.trained is None else phase.trained.astype(numbers),
            np.array([seed, Purpose.BATCHES], np.uint64),
            *(changes, losses, steps),
        )
        if phase.gradient:
            _kernels().gradient_devices(
                *(which, where.x, where.y, where.chosen, where.held, where.counts),
                *(plan, room, stack.squared, numbers.type(stack.l2), start, gradients),
            )

    _deal(some, costs, threads)
    return changes, gradients, losses, steps


def evaluate(where: Addresses, stack: Stack, parameters: Array, threads: int) -> tuple[F64, I64]:
    """Return each device's summed loss, and how often its largest score is right.

    Parameters are one model's, (p,), or one for each device, (m, p).
    """
    size = parameters.shape[-1]
    plan, room = _plan(stack, int(where.counts.max(initial=1)))
    start = _stacked(parameters, size, parameters.dtype)
    losses, hits = np.zeros(len(where.counts)), np.zeros(len(where.counts), np.int64)

    def some(which: Part) -> None:
        _kernels().evaluate_devices(
            *(which, where.x, where.y, where.chosen, where.held, where.counts),
            *(plan, room, stack.squared, start, losses, hits),
        )

    costs = (_ROW + _PRODUCT * size / 3) * where.counts.astype(np.float64)
    _deal(some, costs, threads)
    return losses, hits


def _stacked(array: Array | None, size: int, numbers: np.dtype[Any]) -> Array:
    """Return (1 or m, p), or (0, p) for None: of one memory order, since each is compiled anew."""
    if array is None:
        return np.zeros((0, size), numbers)
    return np.require(np.atleast_2d(array), numbers, ["C", "W"])


def _plan(stack: Stack, batch: int) -> tuple[I64, int]:
    """Return the network as the loops read it (see `kernels`), and the rows of a block."""
    from fedlab.training.compiled.tiles import LANES, ROWS

    room = min(_ROOM, _up(batch, ROWS))
    layers, first, out = [], 0, 0
    received = _up(stack.widths[0], ROWS)
    for inputs, outputs in zip(stack.widths, stack.widths[1:], strict=False):
        length = 1 if stack.squared else _up(outputs, LANES)
        layers.append((inputs, outputs, length, received, first, out))
        first, out, received = first + (inputs + 1) * length, out + room * length, length
    return np.array(layers, np.int64), room


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


# -- threads ---------------------------------------------------------------------------------------


def _deal(some: Callable[[Part], None], costs: F64, threads: int) -> None:
    """Do devices in as many threads as pay; each writes to rows of its own."""
    with announced("the training loops", "10 to 20"):
        share(by_cost(costs, threads), some, threads)


# -- the first use ---------------------------------------------------------------------------------


def prepare() -> None:
    """Compile what training and evaluation need, unless it is on disk.

    The first round does so by itself; a program that starts many others does it once, before.
    """
    rows = Rows(np.zeros((2, 1), np.float32), np.zeros(2, np.int64))
    where, stack, start = Addresses.of([rows]), Stack((1, 2)), np.zeros(4, np.float32)
    order, names = Dispatch.alike(1, 1, 0.1, 1), np.ones(1, np.uint64)
    train(where, stack, Phase(start), LocalSGD(), order, names, 0, threads=1)
    evaluate(where, stack, start, threads=1)


@cache
def _kernels() -> Any:
    from fedlab.training.compiled import kernels

    return kernels
