"""What a contestant's process does around its training: read, time, hand back.

Contestants run in environments of their own, so this module needs NumPy and Python alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from benchmarks.workload import Array, Workload

Train = Callable[[Workload, int, "Laps"], Array]


class Laps:
    """A stopwatch that stands between rounds.

    `began` is the wall-clock time at which the process was asked for. What reading the workload
    took is left out of the start-up time: it is the same for all.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        self._reading = 0.0
        self._last = time.perf_counter()
        self.seconds: list[float] = []
        self.startup = float("nan")

    def has_read(self, seconds: float) -> None:
        self._reading = seconds

    def start(self) -> None:
        """Everything is set up; the first round begins."""
        self._last = time.perf_counter()

    def lap(self) -> None:
        """A round has ended, its result computed (not only asked for)."""
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        if len(self.seconds) == 1:
            self.startup = time.time() - self._began - self._reading
        self._last = now


def main(train: Train, *packages: str) -> None:
    """Run a contestant: `train` gets a workload, a seed for its batch order, and the stopwatch.

    It returns the parameters after the last round. `packages` are those whose version counts.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--parameters", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--began", type=float, required=True)
    given = parser.parse_args()
    laps = Laps(given.began)
    before = time.perf_counter()
    workload = Workload.read(given.workload)
    laps.has_read(time.perf_counter() - before)
    parameters = train(workload, given.seed, laps)
    np.savez(given.parameters, parameters=np.asarray(parameters, np.float32))
    result = {
        "seconds": laps.seconds,
        "startup": laps.startup,
        "peak_mb": peak_mb(),
        "versions": versions(*packages, "numpy"),
    }
    print(json.dumps(result), flush=True)


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def peak_mb() -> float:
    """Return the most memory this process has held, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: its peak counts what the parent held when it started this process.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
