"""W5: rounds of convolutional networks, against a torch loop written by hand.

The networks are the CNN of McMahan et al. 2017 (1,663,370 parameters) and a LeNet (61,706), on rows
of MNIST's shape, 10 a step. The loop by hand sees the same batches, on one thread; in two processes
each takes half of the devices. Contestants take turns, so that a busy machine slows all of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab import Device, LocalSGD, VectorIndex
from fedlab.models import TorchModel
from fedlab.training import train_cohort

LOCAL = LocalSGD(epochs=1, batch_size=10, learning_rate=0.05)

Rows = list[tuple[NDArray[np.float32], NDArray[np.int64]]]


def network(name: str) -> Any:
    from torch import nn

    first, second, hidden, padding = (32, 64, (512,), 2) if name == "cnn" else (6, 16, (120, 84), 0)
    layers: list[Any] = [nn.Conv2d(1, first, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(first, second, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
    width = second * (49 if padding else 25)
    layers.append(nn.Flatten())
    for wide in hidden:
        layers += [nn.Linear(width, wide), nn.ReLU()]
        width = wide
    return nn.Sequential(*layers, nn.Linear(width, 10))


def by_hand(
    name: str, rows: Rows, numbers: Sequence[int], parts: dict[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return where some devices end, each as a flat vector: (k, p)."""
    import torch

    torch.set_num_threads(1)
    module, loss, ends = network(name), torch.nn.CrossEntropyLoss(), []
    for number in numbers:
        module.load_state_dict({key: torch.from_numpy(part) for key, part in parts.items()})
        x, y = map(torch.from_numpy, rows[number])
        x = x.reshape(-1, 1, 28, 28)
        optimiser = torch.optim.SGD(module.parameters(), LOCAL.learning_rate)
        for some in LOCAL.batches(len(x), 0, 1, number):
            optimiser.zero_grad()
            loss(module(x[some]), y[some]).backward()
            optimiser.step()
        ends.append(torch.cat([p.detach().ravel() for p in module.parameters()]).numpy())
    return np.array(ends)


_held: Rows = []


def _hold(rows: Rows) -> None:
    _held.extend(rows)


def _half(
    name: str, parts: dict[str, NDArray[np.float32]], numbers: Sequence[int]
) -> NDArray[np.float32]:
    return by_hand(name, _held, numbers, parts)


def measure(name: str, devices: int, each: int, repeats: int) -> pd.DataFrame:
    """Return a frame, a row a contestant: milliseconds of a round, and times faster than by hand.

    ``apart`` is how far its parameters lie from those of the loop by hand, at most.
    """
    import torch

    draw = np.random.default_rng(0)
    patterns = draw.random((10, 784)) < 0.2
    rows: Rows = []
    for _ in range(devices):
        y = draw.integers(10, size=each)
        x = (
            0.3 * patterns[y]
            + 0.2 * draw.random((each, 784))
            + 0.5 * (draw.random((each, 784)) < 0.1)
        )
        rows.append((x.astype(np.float32), y))
    population = []
    for number, (x, y) in enumerate(rows):
        index = VectorIndex(784, "l2sq")
        index.add(x, labels=y)
        population.append(Device(number, index))
    model = TorchModel(network(name), torch.nn.CrossEntropyLoss(), (1, 28, 28))
    start = model.initial(0)
    parts, everybody = model.layout.views(start), range(devices)

    def ours(threads: int) -> NDArray[np.float32]:
        return (
            start
            + train_cohort(
                population, model, start, LOCAL, seed=0, round=1, threads=threads
            ).changes
        )

    def apart(pool: ProcessPoolExecutor) -> NDArray[np.float32]:
        halves = (everybody[::2], everybody[1::2])
        done = list(pool.map(partial(_half, name, parts), halves))
        ends = np.empty((devices, len(start)), np.float32)
        ends[::2], ends[1::2] = done
        return ends

    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, _hold, (rows,)) as pool:
        contestants: dict[str, Callable[[], NDArray[np.float32]]] = {
            "by hand": lambda: by_hand(name, rows, everybody, parts),
            "fedlab, 1 worker": lambda: ours(1),
            "by hand, 2 processes": lambda: apart(pool),
            "fedlab, 2 workers": lambda: ours(2),
        }
        ends = {who: train() for who, train in contestants.items()}  # and warm up
        seconds: dict[str, list[float]] = {who: [] for who in contestants}
        for _ in range(repeats):
            for who, train in contestants.items():
                began = time.perf_counter()
                train()
                seconds[who].append(time.perf_counter() - began)
    hand = np.array(seconds["by hand"])
    return pd.DataFrame(
        {
            "contestant": who,
            "ms": 1000 * median(taken),
            "times as fast as by hand": median(hand / taken),
            "apart": float(np.abs(ends[who] - ends["by hand"]).max()),
        }
        for who, taken in seconds.items()
    )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cnn", description=__doc__)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--rows", type=int, default=200, help="of a device (200)")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args(arguments)
    for name in ("lenet", "cnn"):
        print(f"\nW5, {name}: {given.devices} devices of {given.rows} rows")
        print(measure(name, given.devices, given.rows, given.repeats).to_string(index=False))
    return 0
