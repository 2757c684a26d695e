"""W6: what coding the updates of W4 costs, beside training them, and how small they become.

The changes of 100 devices (199,210 parameters each, 600 rows, one epoch of batches of 10) are
trained, then passed through each codec, in turns, so that a busy machine slows all of them.
Processor time, of all threads, depends less than time on what else the machine does. The error is
|C(v) - v|^2 / |v|^2, over all devices.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.contestants.ours import device_of, model_of
from benchmarks.workloads import images
from fedlab import LocalSGD
from fedlab.device.states import DeviceStates
from fedlab.training import train_cohort
from fedlab.updates import (
    EF21,
    QSGD,
    Cast,
    CountSketch,
    Drive,
    Eden,
    ErrorFeedback,
    LowRank,
    RandomK,
    Sign,
    TernGrad,
    TopK,
    Updates,
)
from fedlab.updates.codecs import Coding
from fedlab.updates.stages import At

CODECS: dict[str, Coding] = {
    "top-k, 1%": TopK(0.01),
    "top-k, 1%, error feedback": ErrorFeedback(TopK(0.01)),
    "top-k, 1%, EF21": EF21(TopK(0.01)),
    "random-k, 1%": RandomK(0.01),
    "QSGD, 7 levels": QSGD(7),
    "QSGD, 127 levels": QSGD(127),
    "TernGrad": TernGrad(),
    "scaled sign": Sign(),
    "sign": Sign(step=1e-3),
    "DRIVE": Drive(),
    "EDEN, 2 bits": Eden(2),
    "EDEN, 4 bits": Eden(4),
    "count sketch, 2% x 5": CountSketch(),
    "count sketch, 2% x 5, 1% read": CountSketch(keep=0.01),
    "low rank, 2": LowRank(2),
    "f16": Cast(),
    "bf16": Cast("bf16"),
    "i8": Cast("i8"),
}


def measure(devices: int, repeats: int) -> pd.DataFrame:
    """Return a frame, a row a codec: its times over those of training, bytes, and error."""
    workload = images(1, devices=max(devices, 10))
    recipe, model = workload.recipe, model_of(workload.recipe)
    population = [device_of(workload, number) for number in range(devices)]
    local = LocalSGD(recipe.epochs, recipe.batch_size, recipe.rate)
    ratios: dict[str, list[Any]] = {name: [] for name in CODECS}
    found: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):  # the first compiles
        began = _now()
        changes = train_cohort(population, model, workload.start, local, seed=0, round=1).changes
        trained = _now() - began
        sent = Updates(
            np.arange(devices),
            {"change": changes},
            np.ones(devices),
            {},
            layouts={"change": model.layout},
        )
        for name, codec in CODECS.items():
            began = _now()
            coded, _, _ = codec.apply({}, sent, DeviceStates(), At(0, 1))
            ratios[name].append((_now() - began) / trained)
            if not repeat:
                error = np.square(coded.blocks["change"] - changes).sum(dtype=np.float64)
                nbytes = coded.nbytes_of("change").sum() / changes.nbytes
                found[name] = [nbytes, error / np.square(changes).sum(dtype=np.float64)]
    return pd.DataFrame(
        {
            "codec": name,
            "of training": np.median(taken[1:], axis=0)[0],
            "least": np.min(taken[1:], axis=0)[0],
            "most": np.max(taken[1:], axis=0)[0],
            "of its processor time": np.median(taken[1:], axis=0)[1],
            "bits a number": 32 * found[name][0],
            "error": found[name][1],
        }
        for name, taken in ratios.items()
    )


def _now() -> Any:
    return np.array([time.perf_counter(), time.process_time()])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks codecs", description=__doc__)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(arguments)
    print(measure(given.devices, given.repeats).round(3).to_string(index=False))
    return 0
