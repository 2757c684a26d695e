"""What does it cost to leave rows in their file? Scans and reads, against an index in memory.

For each step: the median seconds of a few runs, taking turns, and their ratio to the index in
memory; the file stands in the system's cache. Then, in a process of its own each: by how much
memory grows at most while an index is opened and searched, and while one follows a file of these
rows, first as it is filled and then as a tenth of them have changed (from /proc, so on Linux).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.seals import uniform_index
from fedlab.data import open_vectors
from fedlab.device import follow
from fedlab.files.keys import Key
from fedlab.index.vectorindex import VectorIndex
from fedlab.workbench.experiments.timing import seconds_in_turn

WAYS = ("in memory", "mapped", "mapped, sealed")
FOLLOWED = "followed"


def opened(folder: Path, way: str) -> VectorIndex:
    """Return the index that `main` saved, in one of `WAYS`."""
    key = Key.from_file(folder / "key") if "sealed" in way else None
    path = folder / ("sealed" if "sealed" in way else "plain")
    return VectorIndex.open(path, key, mapped=way != "in memory")


def measured(folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Return the median seconds of each step, by way."""
    indexes = {way: opened(folder, way) for way in WAYS}
    rows = len(indexes[WAYS[0]])
    draw = np.random.default_rng(1)
    queries = draw.random((256, indexes[WAYS[0]].dimensions), np.float32)
    some, run = draw.integers(0, rows, 100), slice(rows // 2, rows // 2 + min(1000, rows // 2))
    found: dict[str, dict[str, float]] = {}
    for step in ("open", "1 query", "16 queries", "256 queries", "100 rows", "1,000 in a row"):

        def do(way: str, step: str = step) -> object:
            index, keys = indexes[way], indexes[way].keys
            if step == "open":
                return opened(folder, way)
            if "quer" in step:
                return index.search(queries[: int(step.split()[0])], 10, exact=True)
            return index.get(keys[some] if step == "100 rows" else keys[run])

        calls = {way: lambda way=way: do(way) for way in WAYS}  # type: ignore[misc]
        seconds_in_turn(calls)
        taken = seconds_in_turn(calls, repeats)
        found[step] = {way: float(np.median(taken[way])) for way in WAYS}
    return found


def growth(folder: Path, way: str) -> tuple[float, float]:
    """Return by how many MB a process of its own grows at most, and how long it takes."""
    arguments = ["-m", "benchmarks.mapped", "--grown", str(folder), way]
    said = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    grown, seconds = said.stdout.split()
    return float(grown), float(seconds)


def _grown(folder: Path, way: str) -> None:
    warm = uniform_index(1_000)
    warm.search(warm.vectors[:16], 10, exact=True)
    np.save(folder / "warm.npy", warm.vectors)
    follow(open_vectors(folder / "warm.npy"), folder / f"warm {way}")
    before, began = _peak(), time.perf_counter()
    if way == FOLLOWED:
        follow(open_vectors(folder / "rows.npy"), folder / "followed")
    else:
        index = opened(folder, way)
        index.search(np.ones((16, index.dimensions)), 10, exact=True)
    print((_peak() - before) / 1000, time.perf_counter() - began)


def _peak() -> int:
    """Return the kilobytes that this process took at most; `ru_maxrss` knows its parent's, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks mapped", description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000, help="of 384 float32 numbers (300000)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each step (5)")
    parser.add_argument("--grown", nargs=2, metavar=("FOLDER", "WAY"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.grown:
        _grown(Path(given.grown[0]), given.grown[1])
        return 0
    if min(given.rows, given.repeats) < 1:
        parser.error("--rows and --repeats take whole numbers from 1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index, key = uniform_index(given.rows), Key.generate()
        key.write(folder / "key")
        index.save(folder / "plain")
        index.save(folder / "sealed", key)
        np.save(folder / "rows.npy", index.vectors)
        del index
        size = (folder / "plain").stat().st_size / 1e6
        print(f"{given.rows:,} rows, {size:,.0f} MB; seconds, and times as many as in memory")
        for step, seconds in measured(folder, given.repeats).items():
            base = seconds[WAYS[0]]
            said = [f"{way} {seconds[way]:.4f} ({seconds[way] / base:.1f})" for way in WAYS]
            print(f"{step:<15}{'; '.join(said)}")
        said = [f"{way} {growth(folder, way)[0]:,.0f} MB" for way in WAYS]
        for what in ("filled", "changed"):
            grown, taken = growth(folder, FOLLOWED)
            said.append(f"{FOLLOWED}, {what} {grown:,.0f} MB in {taken:.1f} s")
            np.load(folder / "rows.npy", mmap_mode="r+")[::10] += 1
        print(f"{'memory grows by':<15} {'; '.join(said)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
