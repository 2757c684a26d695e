"""Whether a round's time depends on the population: the same cohorts' size, ever more devices.

Each size is a `Population` on disk; each measurement is a process of its own, and sizes take turns.
Besides fedlab's process this reads and writes the disk: a million devices take 1.6 GB of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import peak_mb
from fedlab import Federation, LocalSGD, Population, SoftmaxRegression, write_population
from fedlab.core.randomness import Purpose, generator
from fedlab.files.atomic import write_bytes

SIZES = (1_000, 10_000, 100_000, 1_000_000)
COHORT, ROUNDS, WARMUP = 1_000, 20, 3
ROWS, INPUTS, CLASSES = 20, 16, 10
_BLOCK = 10_000
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Measured:
    """One process: seconds of each steady round, seconds to open, and the most memory it held."""

    devices: int
    seconds: tuple[float, ...]
    opening: float
    peak_mb: float


def write(folder: Path, devices: int) -> None:
    """Write a population: devices of 1 ... 39 rows, 20 on average, each with its own slant."""

    def blocks() -> Iterator[tuple[Any, Any, Any]]:
        centres = generator(0, Purpose.SYNTHETIC).normal(size=(CLASSES, INPUTS))
        for start in range(0, devices, _BLOCK):
            draw = generator(0, Purpose.SYNTHETIC, part=start + 1)
            sizes = draw.integers(1, 2 * ROWS, min(_BLOCK, devices - start))
            y = draw.integers(0, CLASSES, sizes.sum())
            slants = 0.3 * draw.normal(size=(len(sizes), INPUTS))
            x = centres[y] + np.repeat(slants, sizes, axis=0) + draw.normal(size=(len(y), INPUTS))
            yield sizes, x, y

    write_population(folder, blocks=blocks(), dimensions=INPUTS, metric="l2sq")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the sizes, print a table, and draw the curve."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="devices")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each size (3)")
    parser.add_argument("--folder", type=Path, help="where populations are kept between runs")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"))
    given = parser.parse_args(arguments)
    if min(given.sizes) < COHORT or given.repeats < 1:
        raise ValueError(f"--sizes take {COHORT} devices or more, --repeats 1 or more")
    with tempfile.TemporaryDirectory() as temporary:
        home = given.folder or Path(temporary)
        runs = []
        for size in given.sizes:
            if not (home / str(size)).exists():
                print(f"writing {size:,} devices", file=sys.stderr, flush=True)
                write(home / str(size), size)
        for _ in range(given.repeats):
            runs += [_measured(home / str(size)) for size in given.sizes]
    print(summary(runs))
    given.out.mkdir(parents=True, exist_ok=True)
    write_bytes(given.out / "scale.json", json.dumps([vars(run) for run in runs]).encode())
    _draw(runs, given.out / "scale.png")
    print(f"all numbers: {given.out / 'scale.json'}; the curve: {given.out / 'scale.png'}")
    return 0


def _measured(folder: Path) -> Measured:
    command = [sys.executable, "-m", "benchmarks.scale", "--measure", str(folder)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{folder.name} devices: {done.stderr.strip()[-800:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    return Measured(said["devices"], tuple(said["seconds"]), said["opening"], said["peak_mb"])


def _measure(folder: Path) -> dict[str, Any]:
    """Open a population and train some rounds; run in a process of its own."""
    began = time.perf_counter()
    population = Population(folder)
    federation = Federation(
        population,
        SoftmaxRegression(INPUTS, CLASSES),
        local=LocalSGD(epochs=1, batch_size=10, learning_rate=0.1),
        cohort=COHORT,
    )
    opening = time.perf_counter() - began
    federation.run(WARMUP + ROUNDS)
    seconds = list(federation.history.wall_seconds.values())[WARMUP:]
    return {
        "devices": len(population),
        "seconds": seconds,
        "opening": opening,
        "peak_mb": peak_mb(),
    }


def summary(runs: Sequence[Measured]) -> str:
    """Return the table: medians over all rounds of a size, ratios within each repeat."""
    sizes = sorted({run.devices for run in runs})
    medians = {size: [np.median(r.seconds) for r in runs if r.devices == size] for size in sizes}
    heads = ("devices", 12), ("ms a round", 24), ("times the smallest", 26), ("to open s", 11)
    lines = ["".join(f"{head:>{width}}" for head, width in (*heads, ("peak MB", 9)))]
    for size in sizes:
        mine = [run for run in runs if run.devices == size]
        rounds = 1e3 * np.concatenate([run.seconds for run in mine])
        low, middle, high = np.quantile(rounds, [0.25, 0.5, 0.75])
        ratios = np.divide(medians[size], medians[sizes[0]])
        ratio = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        opening = np.median([run.opening for run in mine])
        peak = max(run.peak_mb for run in mine)
        spread = f"{middle:.1f} ({low:.1f} to {high:.1f})"
        lines.append(f"{size:>12,}{spread:>24}{ratio:>26}{opening:>11.2f}{peak:>9.0f}")
    return "\n".join(lines)


def _draw(runs: Sequence[Measured], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for run in runs:
        time_axes.scatter(run.devices, 1e3 * np.median(run.seconds), color="#0072B2", alpha=0.7)
        memory_axes.scatter(run.devices, run.peak_mb, color="#D55E00", alpha=0.7)
    for axes, label in ((time_axes, f"ms a round of {COHORT:,} devices"), (memory_axes, "peak MB")):
        axes.set(xscale="log", xlabel="devices in all", ylabel=label)
        axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(_measure(Path(sys.argv[2]))))
    else:
        sys.exit(main())
