"""Search across devices against one central scan, and the index's graph against raw USearch.

A search across devices does all of its work: it proves every answer and notes every message. The
central scan is NumPy over one array of all rows, at its best: how it selects and how large its
blocks are is tried beforehand, for each batch. Contestants have the same number of threads and take
turns; ratios are taken within each turn. Last, several threads ask one index at once, against as
many processes with an index each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import usearch
from threadpoolctl import threadpool_limits
from usearch.index import Index

from fedlab.core.randomness import Purpose, generator
from fedlab.device.device import Device
from fedlab.files.atomic import write_bytes
from fedlab.index.engines import HNSW
from fedlab.index.vectorindex import VectorIndex
from fedlab.search import FederatedSearch

Float = Any
BATCHES = (1, 32, 1000)
_CLUSTERS = 500
_QUERIES = 256
#: Turns of a batch: about so many queries in all, and never fewer than asked for.
_TRIED = 60
#: Queries that each thread or process asks of a graph in a turn; of a scan a tenth.
_LOAD = 400


@dataclass(frozen=True)
class Contest:
    """Seconds of each contestant, turn by turn."""

    what: str
    batch: int
    seconds: Mapping[str, tuple[float, ...]]

    def ratio(self, name: str, to: str) -> tuple[float, float, float]:
        """Return the quartiles of a contestant's seconds over another's, within each turn."""
        ratios = np.divide(self.seconds[name], self.seconds[to])
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        return float(low), float(middle), float(high)


def run(what: str, batch: int, contestants: Mapping[str, Callable[[], Any]], turns: int) -> Contest:
    """Let contestants take turns, after one turn that doesn't count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(turns + 1):
        for name, contestant in contestants.items():
            began = time.perf_counter()
            contestant()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return Contest(what, batch, {name: tuple(taken) for name, taken in seconds.items()})


def mixture(rows: int, dimensions: int, part: int) -> Float:
    """Return rows of a mixture of 500 Gaussians, (rows, dimensions) float32."""
    centres = generator(0, Purpose.SYNTHETIC).normal(size=(_CLUSTERS, dimensions))
    draw = generator(0, Purpose.SYNTHETIC, part=part)
    chosen = centres[draw.integers(_CLUSTERS, size=rows)].astype(np.float32)
    chosen += draw.normal(size=chosen.shape).astype(np.float32)
    return chosen


# -- the central scan ------------------------------------------------------------------------------


def central(
    rows: Float, inverse: Float, queries: Float, k: int, select: str, block: int
) -> tuple[Any, Float]:
    """Return the rows of the k least cosine distances and the scores, by products and selection.

    Parameters
    ----------
    rows, inverse : (n, d) and (n,) float32 arrays
        All rows, and one over their lengths.
    queries : (q, d) float32 array
    k : int
    select : {"partition", "threshold"}
        Whether each block is partitioned, or only what beats the k-th so far is looked at.
    block : int
        Rows multiplied at once; at least k.
    """
    found = [
        _central_few(rows, inverse, queries[start : start + _QUERIES], k, select, block)
        for start in range(0, len(queries), _QUERIES)
    ]
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))  # type: ignore[return-value]


def _central_few(
    rows: Float, inverse: Float, queries: Float, k: int, select: str, block: int
) -> tuple[Any, Float]:
    probes = -queries
    best: Any = None
    for start in range(0, len(rows), block):
        scores = probes @ rows[start : start + block].T
        scores *= inverse[start : start + block]
        if best is None or (select == "partition" and scores.shape[1] > k):
            near = np.argpartition(scores, k - 1, axis=1)[:, :k]
            more = near + start, np.take_along_axis(scores, near, axis=1)
        else:
            more = _beating(scores, start, best[1].max(axis=1))
        best = more if best is None else _least(best, more, k)
    order = np.argsort(best[1], axis=1)
    return tuple(np.take_along_axis(part, order, axis=1) for part in best)  # type: ignore[return-value]


def _beating(scores: Float, start: int, limit: Float) -> tuple[Any, Float]:
    flat = np.flatnonzero(scores < limit[:, None])
    who, place = np.divmod(flat, scores.shape[1])
    counts = np.bincount(who, minlength=len(scores))
    at = np.arange(len(who)) - (np.cumsum(counts) - counts)[who]
    shape = len(scores), int(counts.max(initial=0))
    near, least = np.zeros(shape, np.int64), np.full(shape, np.float32(np.inf))
    near[who, at], least[who, at] = place + start, scores.ravel()[flat]
    return near, least


def _least(best: tuple[Any, Float], more: tuple[Any, Float], k: int) -> tuple[Any, Float]:
    if not more[0].shape[1]:
        return best
    rows, scores = (np.concatenate(pair, axis=1) for pair in zip(best, more, strict=True))
    chosen = np.argpartition(scores, k - 1, axis=1)[:, :k]
    return tuple(np.take_along_axis(part, chosen, axis=1) for part in (rows, scores))  # type: ignore[return-value]


def _best_central(rows: Float, queries: Float, k: int) -> tuple[str, Callable[[], Any]]:
    """Return the fastest way for these queries, and its name."""
    inverse = (1 / np.linalg.norm(rows, axis=1)).astype(np.float32)
    ways = {
        f"{select}, blocks of {block:,}": (select, block)
        for select in ("threshold", "partition")
        for block in (2_048, 8_192, len(rows))
        if len(queries) * block <= 1 << 26
    }
    contestants = {
        name: lambda select=select, block=block: central(rows, inverse, queries, k, select, block)
        for name, (select, block) in ways.items()
    }
    contest = run("central", len(queries), contestants, 2)
    name = min(ways, key=lambda way: min(contest.seconds[way]))
    return name, contestants[name]


# -- contests --------------------------------------------------------------------------------------


def across_devices(given: argparse.Namespace, say: Callable[[str], None]) -> list[Contest]:
    """Measure search across devices against the central scan."""
    rows = mixture(given.devices * given.rows, given.dimensions, part=1)
    devices = []
    for place, part in enumerate(np.split(rows, given.devices)):
        index = VectorIndex(given.dimensions)
        index.add(part.copy())
        devices.append(Device(place, index))
    search = FederatedSearch(devices, threads=given.threads)
    contests = []
    with threadpool_limits(given.threads):
        for batch in given.batches:
            queries = mixture(batch, given.dimensions, part=2)
            way, scan = _best_central(rows, queries, given.k)
            hits = search.search(queries, given.k)
            _check(hits, scan(), given.rows)
            say(f"batch {batch}: central by {way}; {hits.ledger.rounds} rounds")
            contestants = {
                "across devices": lambda queries=queries: search.search(queries, given.k),
                "central NumPy": scan,
                "products alone": lambda queries=queries: [
                    queries[start : start + _QUERIES] @ rows.T
                    for start in range(0, len(queries), _QUERIES)
                ],
            }
            turns = max(given.repeats, _TRIED // batch)
            contests.append(run("devices", batch, contestants, turns))
    return contests


def _check(hits: Any, found: tuple[Any, Float], rows: int) -> None:
    """Refuse to measure what does not agree: places, or where those are close, distances."""
    if not hits.certified.all():
        raise RuntimeError("an answer has no certificate")
    same = hits.devices * rows + hits.keys.astype(np.int64) == found[0]
    # Central scores are -q x / |x|, so they grow with the query; only their order is compared.
    if same.mean() < 0.999:
        raise RuntimeError(f"only {same.mean():.1%} of the hits are the central scan's")


#: Settings of a graph, as USearch calls them too.
GRAPH = ("connectivity", "expansion_add", "expansion_search")


def over_usearch(given: argparse.Namespace, dtype: str) -> Contest:
    """Measure the index's graph against USearch alone, one thread, batches of 1,000."""
    rows = mixture(given.graph_rows, given.dimensions, part=3)
    queries = mixture(1000, given.dimensions, part=4)
    engine = HNSW(dtype=dtype)  # as USearch alone: by default rows may be seen in a smaller type
    index = VectorIndex(given.dimensions, dtype=dtype, engine=engine)  # type: ignore[arg-type]
    index.add(rows)
    index.build_graph(threads=given.threads)
    settings = {name: getattr(index.engine, name) for name in GRAPH}
    raw = Index(ndim=given.dimensions, metric="cos", dtype=dtype, **settings)
    raw.add(np.arange(len(rows), dtype=np.uint64), rows, threads=given.threads)
    contestants = {
        "VectorIndex": lambda: index.search(queries, given.k, exact=False, threads=1),
        "USearch": lambda: raw.search(queries, given.k, threads=1),
    }
    with threadpool_limits(1):
        return run(f"graph, {dtype}", 1000, contestants, given.repeats)


# -- threads, and processes ------------------------------------------------------------------------

_ASKED: dict[str, Any] = {}


def _load(rows: int, dimensions: int, exact: bool) -> None:
    """Make the index and the queries of a process, before its clock runs."""
    index = VectorIndex(dimensions)
    index.add(mixture(rows, dimensions, part=5))
    if not exact:
        index.build_graph()
    _ASKED.update(index=index, queries=mixture(256, dimensions, part=6), exact=exact)
    _ask((8, 10))


def _ask(load: tuple[int, int]) -> None:
    """Ask so many single queries, one after another."""
    (count, k), queries = load, _ASKED["queries"]
    for asked in range(count):
        _ASKED["index"].search(queries[asked % len(queries)], k, exact=_ASKED["exact"])


def at_once(given: argparse.Namespace, exact: bool, count: int) -> Contest:
    """Measure single queries by one thread, n threads of one process, n processes, and NumPy.

    Each worker asks `count` queries; NumPy is the scan of one thread, for as many queries.
    """
    own = given.graph_rows, given.dimensions, exact
    _load(*own)
    rows = mixture(given.graph_rows, given.dimensions, part=5)
    inverse = (1 / np.linalg.norm(rows, axis=1)).astype(np.float32)
    queries, loads = _ASKED["queries"], [(count, given.k)] * given.threads

    def scanned() -> None:
        with threadpool_limits(1):
            for asked in range(count):
                query = queries[asked % len(queries)]
                central(rows, inverse, query[None], given.k, "partition", len(rows))

    context = get_context("spawn")
    with (
        context.Pool(given.threads, _load, own) as processes,
        ThreadPoolExecutor(given.threads) as threads,
    ):
        processes.map(_ask, [(8, given.k)] * given.threads, chunksize=1)
        contestants = {
            f"{given.threads} threads": lambda: list(threads.map(_ask, loads)),
            f"{given.threads} processes": lambda: processes.map(_ask, loads, chunksize=1),
            "one thread": lambda: _ask(loads[0]),
            "NumPy scan": scanned,
        }
        what = "scan, load" if exact else "graph, load"
        return run(what, count, contestants, given.repeats)


# -- the command -----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write all numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks search", description=__doc__)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1000, help="of each device (1000)")
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--repeats", type=int, default=9, help="turns, at least (9)")
    parser.add_argument("--threads", type=int, default=_cores())
    parser.add_argument("--graph-rows", type=int, default=20_000, help="0 leaves the graph out")
    parser.add_argument("--dtypes", nargs="*", default=("f32", "f16", "bf16", "i8"))
    parser.add_argument("--json", type=Path, default=Path("reports/benchmarks/search.json"))
    given = parser.parse_args(arguments)
    if min(given.devices, given.rows, given.k, given.repeats, given.threads, *given.batches) < 1:
        raise ValueError("all numbers are whole ones from 1")
    if given.k > given.rows:
        raise ValueError(f"--k {given.k} is more than --rows {given.rows}")

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    contests = across_devices(given, say)
    if given.graph_rows:
        contests += [over_usearch(given, dtype) for dtype in given.dtypes]
        contests += [at_once(given, True, _LOAD // 10), at_once(given, False, _LOAD)]
    print(summary(contests))
    write_json(given, contests)
    print(f"{given.threads} threads, {_machine()}\nall numbers: {given.json}")
    return 0


def summary(contests: Sequence[Contest]) -> str:
    """Return the table: medians, and ratios to the second contestant with their quartiles."""
    heads = ("contest", -12), ("batch", 6), ("contestant", 16), ("ms a query", 12)
    lines = ["".join(f"{head:{'<' if w < 0 else '>'}{abs(w)}}" for head, w in heads)]
    lines[0] += f"{'ratio (quartiles)':>24}"
    for contest in contests:
        reference = list(contest.seconds)[1]
        for name, seconds in contest.seconds.items():
            low, middle, high = contest.ratio(name, reference)
            lines.append(
                f"{contest.what:<12}{contest.batch:>6}{name:>16}"
                f"{1e3 * np.median(seconds) / contest.batch:>12.3f}"
                f"{f'{middle:.2f} ({low:.2f} to {high:.2f})':>24}"
            )
    return "\n".join(lines)


def write_json(given: argparse.Namespace, contests: Sequence[Contest]) -> None:
    """Write settings, versions and every turn's seconds."""
    settings = {name: str(v) if isinstance(v, Path) else v for name, v in vars(given).items()}
    report = {
        "machine": _machine(),
        "versions": {"numpy": np.__version__, "usearch": usearch.__version__},
        "settings": settings,
        "contests": [vars(contest) for contest in contests],
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(given.json, json.dumps(report, indent=1).encode())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _machine() -> str:
    return f"{platform.machine()}, {_cores()} cores, {platform.system()}"


if __name__ == "__main__":
    sys.exit(main())
