"""What does sealing cost? Saving and opening, plain and sealed, against a plain write of the bytes.

For each size, without a graph and with one: the median seconds of a few runs, as MB/s and as the
ratio to writing the same number of bytes to a file and flushing it (for opening: to reading them).
Files stand in the folder for temporary ones; set TMPDIR to measure another disk.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fedlab.files.atomic import write_bytes
from fedlab.index.vectorindex import VectorIndex
from fedlab.workbench.experiments.files import sealing_steps
from fedlab.workbench.experiments.timing import seconds_in_turn

STEPS = ("plain write", "plain save", "sealed save", "plain read", "plain open", "sealed open")
_DIMENSIONS = 384


@dataclass(frozen=True)
class Measured:
    """One step at one size.

    Attributes
    ----------
    rows : int
    graph : bool
        Whether the index had one.
    step : str
        One of `STEPS`.
    megabytes : float
        Size of the plain file.
    seconds : float
        Median.
    ratio : float
        To the plain write, or the plain read.
    """

    rows: int
    graph: bool
    step: str
    megabytes: float
    seconds: float
    ratio: float

    @property
    def rate(self) -> float:
        """MB/s."""
        return self.megabytes / self.seconds


def measured(rows: int, graph: bool, folder: Path, repeats: int) -> list[Measured]:
    """Measure all steps on one index of float32 rows."""
    index, raw = uniform_index(rows, graph), folder / "raw"
    ours = sealing_steps(index, folder)
    ours["plain save"]()
    content = (folder / "plain").read_bytes()
    steps = {"plain write": lambda: _write(raw, content), "plain read": raw.read_bytes, **ours}
    taken = seconds_in_turn({name: steps[name] for name in STEPS}, repeats)
    medians = {name: float(np.median(values)) for name, values in taken.items()}
    return [
        Measured(
            *(rows, graph, name, len(content) / 1e6, seconds),
            seconds / medians["plain write" if "sa" in name or "wr" in name else "plain read"],
        )
        for name, seconds in medians.items()
    ]


def uniform_index(rows: int, graph: bool = False) -> VectorIndex:
    """Return an index of rows drawn from the unit cube, 384 numbers each."""
    index = VectorIndex(_DIMENSIONS, "l2sq")
    draw, step = np.random.default_rng(0), 10_000
    for start in range(0, rows, step):
        index.add(draw.random((min(step, rows - start), _DIMENSIONS), np.float32))
    if graph:
        index.build_graph(threads=os.cpu_count() or 1)
    return index


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write all numbers to a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks seal", description=__doc__)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="sizes, in rows"
    )
    parser.add_argument(
        "--graph-rows", type=int, default=10_000, help="up to so many, with a graph"
    )
    parser.add_argument("--repeats", type=int, default=7, help="runs of each step (7)")
    parser.add_argument(
        "--json", type=Path, default=Path("reports/benchmarks/seals.json"), help="results, whole"
    )
    given = parser.parse_args(arguments)
    if min(given.repeats, *given.rows) < 1:
        parser.error("--rows and --repeats take whole numbers from 1")
    found: list[Measured] = []
    print(f"{'rows':>9} {'MB':>6} graph {'step':<12} {'seconds':>9} {'MB/s':>6} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as name:
        for rows in given.rows:
            for graph in (False, True) if rows <= given.graph_rows else (False,):
                part = measured(rows, graph, Path(name), given.repeats)
                found += part
                for one in part:
                    print(_line(one))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    report = {"repeats": given.repeats, "steps": [{**asdict(m), "rate": m.rate} for m in found]}
    write_bytes(given.json, json.dumps(report, indent=1).encode())
    print(f"all numbers: {given.json}")
    return 0


def _line(one: Measured) -> str:
    return (
        f"{one.rows:>9,} {one.megabytes:>6,.1f} {'yes' if one.graph else 'no':<5} {one.step:<12} "
        f"{one.seconds:>9.4f} {one.rate:>6,.0f} {one.ratio:>6.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
