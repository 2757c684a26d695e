"""Engines behind an index: build, speed at a recall, memory, file, and what a flipped byte does.

Rows and queries come from one mixture of 500 Gaussians, compared by cosine. Each measurement is a
process of its own on one thread, and contestants take turns. An engine is built once a process, and
its search settings are swept: what counts is the fastest one that reaches the recall, nothing is
interpolated. Recall is against the exact answer over float32 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contest import versions
from benchmarks.flips import ENDS, FILES, flipped
from benchmarks.summary import Spread
from fedlab.core.randomness import Purpose, generator
from fedlab.files.atomic import write_bytes
from fedlab.index.engines import (
    HNSW,
    Annoy,
    Engine,
    FaissFlat,
    FaissHNSW,
    FaissIVF,
    FaissIVFPQ,
    FaissPQ,
    settings_of,
)
from fedlab.index.vectorindex import DType, VectorIndex
from fedlab.metrics.retrieval import recall

Float = NDArray[np.float32]

RECALLS = (0.95, 0.99)
_GAUSSIANS = 500
_FLIPPED_ROWS = 3_000
_ROOT = Path(__file__).resolve().parents[1]
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Contestant:
    """An engine over rows of a type, and the settings of a search that are tried.

    Attributes
    ----------
    name : str
    dtype : str
        Of the rows.
    engine : Engine or None
        None for the scan.
    sweep : dict of name to values
        All combinations are tried.
    """

    name: str
    dtype: DType
    engine: Engine | None
    sweep: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def settings(self) -> list[dict[str, int]]:
        return [
            dict(zip(self.sweep, values, strict=True)) for values in product(*self.sweep.values())
        ]

    @property
    def needs(self) -> str:
        """The package that it takes."""
        name = self.engine.name if self.engine else "graph"
        return {"graph": "usearch", "annoy": "annoy"}.get(name, "faiss")


def contestants(rows: int, dimensions: int) -> list[Contestant]:
    """Return all of them, with 16 links a node and about 4 sqrt(n) lists."""
    widths = {"expansion_search": (16, 32, 64, 128, 256, 512)}
    deep = {"rescored": (2, 5, 10, 20, 50, 100)}
    lists = max(1, 2 ** round(np.log2(4 * np.sqrt(rows))))
    probes = tuple(n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n <= lists)
    code = next(
        size for size in (dimensions // 8, dimensions // 4, 1) if size and not dimensions % size
    )
    dtypes: tuple[DType, ...] = ("f32", "f16", "bf16", "i8", "b1")
    ivf, ivfpq = FaissIVF(lists=lists, probes=1), FaissIVFPQ(lists=lists, probes=1, code_bytes=code)
    return [
        *(Contestant(f"scan, {dtype}", dtype, None) for dtype in dtypes),
        *(Contestant(f"graph, {dtype}", dtype, HNSW(dtype=dtype), widths) for dtype in dtypes[:-1]),
        Contestant("graph, b1", "b1", HNSW(dtype="b1", expansion_search=16), deep),
        Contestant("graph in i8, f32", "f32", HNSW(dtype="i8"), widths),
        # As many candidates are held as are asked for, so that one setting is enough.
        Contestant("graph in b1, f32", "f32", HNSW(dtype="b1", expansion_search=16), deep),
        Contestant("graph in b1, i8", "i8", HNSW(dtype="b1", expansion_search=16), deep),
        Contestant("faiss-flat, f32", "f32", FaissFlat()),
        Contestant("faiss-ivf, f32", "f32", ivf, {"probes": probes}),
        Contestant("faiss-hnsw, f32", "f32", FaissHNSW(), widths),
        Contestant("faiss-pq, f32", "f32", FaissPQ(code_bytes=code), deep),
        Contestant("faiss-ivf-pq, f32", "f32", ivfpq, {"probes": probes[2:], **deep}),
        Contestant("faiss-ivf-pq, i8", "i8", ivfpq, {"probes": probes[2:], **deep}),
        Contestant(
            "annoy, f32",
            "f32",
            Annoy(trees=50),
            {"search_nodes": (500, 1000, 2000, 5000, 10_000, 20_000)},
        ),
    ]


def mixture(count: int, dimensions: int, part: int) -> Float:
    """Return rows of the mixture: unit Gaussians about centres drawn from another."""
    centres = generator(0, Purpose.SYNTHETIC).normal(size=(_GAUSSIANS, dimensions))
    draw = generator(0, Purpose.SYNTHETIC, part=part)
    rows = np.empty((count, dimensions), np.float32)
    for start in range(0, count, 10_000):  # so that float64 numbers don't stand beside all rows
        stop = min(start + 10_000, count)
        chosen = centres[draw.integers(_GAUSSIANS, size=stop - start)]
        rows[start:stop] = chosen + draw.normal(size=chosen.shape)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print two tables, and write all numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks engines", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="rows (100000)")
    parser.add_argument("--dimensions", type=int, default=384, help="numbers a row (384)")
    parser.add_argument("--queries", type=int, default=1000, help="queries in a batch (1000)")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each contestant (3)")
    parser.add_argument("--flips", type=int, default=60, help="flipped bytes a file (60)")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="whose name holds a word of these"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("reports/benchmarks/engines.json"), help="results, whole"
    )
    given = parser.parse_args(arguments)
    for name, least in (("rows", 1000), ("dimensions", 8), ("queries", 1), ("repeats", 1)):
        if getattr(given, name) < least:
            raise ValueError(f"--{name} takes a whole number from {least}")
    known = contestants(given.rows, given.dimensions)
    able = [one for one in known if find_spec(one.needs)]
    chosen = [one for one in able if not given.only or any(word in one.name for word in given.only)]
    if not chosen:
        raise ValueError(
            f"no name holds {' or '.join(given.only)}; there are "
            f"{'; '.join(one.name for one in able)}"
        )
    report: dict[str, Any] = {
        "sizes": {name: getattr(given, name) for name in ("rows", "dimensions", "queries")},
        "versions": versions("usearch", "faiss-cpu", "annoy", "numpy", "fedlab-workbench"),
        "runs": [],
        "flips": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder), given.rows, given.dimensions, given.queries)
        for repeat in range(given.repeats):
            for one in chosen:
                _say(f"{repeat + 1} of {given.repeats}: {one.name}")
                report["runs"].append(_child("--measure", folder, one.name))
                _write(given.json, report)  # what was measured outlives an interrupt
        for whose in _flipping([one.name for one in chosen]) if given.flips else ():
            _say(f"flipped bytes: {whose}")
            report["flips"][whose] = _child("--flip", folder, whose, str(given.flips))
    report["summary"] = [asdict(row) for row in summarised(report["runs"])]
    _write(given.json, report)
    print(_table(report["runs"]))
    if report["flips"]:
        print("\n" + _flip_table(report["flips"]))
    for missing in sorted({one.needs for one in known} - {one.needs for one in able}):
        print(f"not measured: {missing}, which is not installed")
    print(f"all numbers: {given.json}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps(report, indent=1).encode())


# -- one process ------------------------------------------------------------------------------


def _prepare(folder: Path, rows: int, dimensions: int, queries: int) -> None:
    x, probes = mixture(rows, dimensions, part=1), mixture(queries, dimensions, part=2)
    index = VectorIndex(dimensions, "cosine", "f32")
    index.add(x)
    truth = index.search(probes, 10, exact=True).keys
    for name, array in (("rows", x), ("queries", probes), ("truth", truth)):
        np.save(folder / f"{name}.npy", array)


def _child(*words: str) -> Any:
    environment = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1")}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.engines", *words],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-800:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure(folder: Path, name: str) -> dict[str, Any]:
    """Build a contestant and try its settings; run in a process of its own."""
    rows, queries, truth = (np.load(folder / f"{n}.npy") for n in ("rows", "queries", "truth"))
    (one,) = [c for c in contestants(*rows.shape) if c.name == name]
    index = VectorIndex(rows.shape[1], "cosine", one.dtype, one.engine or HNSW())
    index.add(rows)
    building = 0.0
    if one.engine:
        began = time.perf_counter()
        index.build_graph()
        building = time.perf_counter() - began
    del rows
    tried = []
    for settings in one.settings():
        if one.engine:
            index.tune(**settings)
        exact = one.engine is None
        index.search(queries[:20], 10, exact=exact)
        began = time.perf_counter()
        hits = index.search(queries, 10, exact=exact)
        seconds = time.perf_counter() - began
        tried.append(
            {
                "settings": settings,
                "recall": recall(hits.keys, truth),
                "queries_a_second": len(queries) / seconds,
            }
        )
    index.save(folder / "saved.index")
    return {
        "name": name,
        "engine": settings_of(one.engine) if one.engine else None,
        "dtype": one.dtype,
        "build_seconds": building,
        "bytes_a_vector": index.nbytes / len(index),
        "file_bytes": (folder / "saved.index").stat().st_size,
        "tried": tried,
    }


# -- what it comes to -------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One contestant over all repeats.

    Attributes
    ----------
    name : str
    build : Spread
        Seconds.
    speeds : dict of recall to (settings, Spread) or None
        The fastest settings that reach it, and queries a second; None if none does.
    best_recall, bytes_a_vector, file_bytes : float
    """

    name: str
    build: Spread
    speeds: dict[float, tuple[dict[str, int], Spread] | None]
    best_recall: float
    bytes_a_vector: float
    file_bytes: float


def summarised(runs: Sequence[dict[str, Any]]) -> list[Row]:
    """Return medians over repeats, with their range."""
    rows = []
    for name in dict.fromkeys(run["name"] for run in runs):
        own = [run for run in runs if run["name"] == name]
        tried = list(zip(*(run["tried"] for run in own), strict=True))
        rows.append(
            Row(
                name,
                Spread.range([run["build_seconds"] for run in own]),
                {recall: _fastest(tried, recall) for recall in RECALLS},
                max(min(one["recall"] for one in same) for same in tried),
                own[0]["bytes_a_vector"],
                own[0]["file_bytes"],
            )
        )
    return rows


def _fastest(
    tried: Sequence[Sequence[dict[str, Any]]], recall: float
) -> tuple[dict[str, int], Spread] | None:
    able = [
        (same[0]["settings"], Spread.range([one["queries_a_second"] for one in same]))
        for same in tried
        if min(one["recall"] for one in same) >= recall
    ]
    return max(able, key=lambda found: found[1].middle, default=None)


def _table(runs: Sequence[dict[str, Any]]) -> str:
    head = ["engine, rows in", "build s", *(f"queries/s at {r}" for r in RECALLS)]
    cells = [[*head, "best recall", "bytes/vector", "file MB"]]
    for row in summarised(runs):
        speeds = [
            f"{found[1]} {','.join(map(str, found[0].values()))}".strip() if found else "never"
            for found in row.speeds.values()
        ]
        numbers = [
            f"{row.best_recall:.3f}",
            f"{row.bytes_a_vector:.0f}",
            f"{row.file_bytes / 1e6:.1f}",
        ]
        cells.append([row.name, str(row.build) if row.build.high else "", *speeds, *numbers])
    return _columns(cells)


def _columns(cells: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


# -- flipped bytes ----------------------------------------------------------------------------


def _flipping(names: Sequence[str]) -> list[str]:
    """Return whose files are altered: each engine's own once, and ours."""
    engines = dict.fromkeys(name.partition(",")[0] for name in names if "scan" not in name)
    own = [name for name in engines if " in " not in name]
    return [*own, *(["fedlab"] if own else [])]


def _flip(folder: Path, whose: str, trials: int) -> dict[str, int]:
    rows, queries = np.load(folder / "rows.npy", mmap_mode="r"), np.load(folder / "queries.npy")
    few = np.array(rows[:_FLIPPED_ROWS])
    name = "graph" if whose == "fedlab" else whose
    engine = next(c.engine for c in contestants(*few.shape) if c.name == f"{name}, f32")
    if engine is None:
        raise ValueError(f"{whose} saves nothing")
    return dict(flipped(FILES[whose.partition("-")[0]], engine, few, queries[:20], trials))


def _flip_table(flips: dict[str, dict[str, int]]) -> str:
    cells = [["whose file", *ENDS]]
    cells += [[whose, *(str(ends.get(end, 0)) for end in ENDS)] for whose, ends in flips.items()]
    return _columns(cells)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(_measure(Path(sys.argv[2]), sys.argv[3])))
    elif sys.argv[1:2] == ["--flip"]:
        print(json.dumps(_flip(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
    else:
        sys.exit(main())
