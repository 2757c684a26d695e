"""The command: `python -m benchmarks install`, `rounds`, or one of the other campaigns."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import (
    bits,
    campaign,
    cnn,
    codecs,
    deploy,
    engines,
    filtered,
    kills,
    mapped,
    readers,
    recommend,
    scale,
    seals,
    search,
    secure,
    studies,
    tuning,
)
from benchmarks.field import CONTESTANTS
from benchmarks.measure import Measured, measure, present
from benchmarks.peers import install, peers
from benchmarks.summary import Row, over_floor, rows, table
from benchmarks.workloads import TOLERANCES, WORKLOADS, spread_of_sizes
from fedlab.files.atomic import write_bytes

#: Commands with options of their own: what each does, and its `main`.
OTHERS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "scale": ("time rounds of ever larger populations", scale.main),
    "cnn": ("time rounds of convolutional networks (W5)", cnn.main),
    "codecs": ("time codecs of updates against training them (W6)", codecs.main),
    "search": ("search across devices, against one central scan", search.main),
    "engines": ("compare the engines behind an index", engines.main),
    "filtered": ("search under filters", filtered.main),
    "secure": ("sum updates under masks, by devices and parameters", secure.main),
    "readers": ("read vectors in many formats, against the plain libraries", readers.main),
    "seal": ("time saving and opening, sealed and not", seals.main),
    "mapped": ("scan rows in their file, against memory", mapped.main),
    "corrupt": ("open corrupted indexes", campaign.main),
    "kill": ("kill saves, and open what they leave", kills.main),
    "deploy": ("break nodes of a real network, one way after another", deploy.main),
    "studies": ("kill studies, and time them", studies.main),
    "tuning": ("tune under noise of evaluation, by all ways", tuning.main),
    "recommend": ("find what is watched next, by nine ways", recommend.main),
    "bits": ("compare results with another revision's, bit for bit", bits.main),
}

WARMUP = 2  # rounds that compile, fill caches, or measure: no steady ones


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if words and words[0] in OTHERS:
            return OTHERS[words[0]][1](words[1:])
        given = _parser().parse_args(words)
        if given.command == "install":
            install(given.names)
            return 0
        return _rounds(given)
    except (RuntimeError, ValueError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    installing = commands.add_parser("install", help="make the other frameworks' environments")
    installing.add_argument("names", nargs="*", help=f"of {', '.join(peers())}; all by default")
    rounds = commands.add_parser("rounds", help="time rounds, and print ratios")
    rounds.add_argument("workloads", nargs="*", help=f"of {', '.join(WORKLOADS)}; all by default")
    rounds.add_argument("--rounds", type=int, default=8, help="steady rounds of a run (8)")
    rounds.add_argument("--repeats", type=int, default=3, help="runs of each contestant (3)")
    rounds.add_argument("--only", nargs="+", metavar="NAME", help="these contestants alone")
    rounds.add_argument("--timeout", type=float, default=900, help="seconds of a run (900)")
    rounds.add_argument(
        "--json", type=Path, default=Path("reports/benchmarks/rounds.json"), help="results, whole"
    )
    for name, (what, _) in OTHERS.items():
        commands.add_parser(name, help=what, add_help=False)
    return parser


def _rounds(given: argparse.Namespace) -> int:
    names = _known(given.workloads, list(WORKLOADS), "workload")
    chosen = set(_known(given.only, [c.name for c in CONTESTANTS], "contestant"))
    if min(given.rounds, given.repeats) < 1:
        raise ValueError("--rounds and --repeats take whole numbers from 1")
    environments = peers()
    able, absent = present([c for c in CONTESTANTS if c.name in chosen], environments)
    report: dict[str, Any] = {"machine": _machine(), "began": time.time(), "workloads": {}}
    complete = True
    for name in names:
        workload = WORKLOADS[name](WARMUP + given.rounds)
        measured = measure(
            workload,
            able,
            environments,
            repeats=given.repeats,
            timeout=given.timeout,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        summary = rows(measured, warmup=WARMUP, tolerance=TOLERANCES[name])
        print(f"\n{name}: {spread_of_sizes(workload)}")
        _print(summary, measured)
        complete &= not measured.failed and all(row.agrees for row in summary)
        report["workloads"][name] = {
            "recipe": asdict(workload.recipe),
            "tolerance": TOLERANCES[name],
            "rows": [asdict(row) for row in summary],
            "failed": measured.failed,
            "runs": {who: [asdict(run) for run in runs] for who, runs in measured.runs.items()},
        }
        _write(given.json, report)  # what was measured outlives an interrupt
    print(f"\n{_described(report)}")
    for peer in absent:
        print(f"not measured: {peer.what}; install it with: {peer.command}")
    print(f"all numbers: {given.json}")
    return 0 if complete else 1


def _print(summary: Sequence[Row], measured: Measured) -> None:
    print(table(summary))
    if floor := over_floor(measured, WARMUP):
        print(f"fedlab takes {floor} times the floor of its matrix products on all cores")
    for name, reason in measured.failed.items():
        print(f"{name} FAILED: {reason}")


def _known(given: Sequence[str] | None, allowed: list[str], kind: str) -> list[str]:
    if unknown := [name for name in given or [] if name not in allowed]:
        raise ValueError(f"no {kind} is called {unknown[0]!r}; there are {', '.join(allowed)}")
    return list(given or allowed)


def _machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu(),
        "cores": cores,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _cpu() -> str:
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _described(report: dict[str, Any]) -> str:
    """Return who was measured, in which versions, on what."""
    machine = report["machine"]
    lines = [f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}"]
    versions = {
        who: runs[0]["versions"]
        for workload in report["workloads"].values()
        for who, runs in workload["runs"].items()
    }
    for who, packages in versions.items():
        lines.append(f"{who}: {', '.join(f'{name} {v}' for name, v in packages.items())}")
    return "\n".join(lines)


def _write(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_without_nan(report), indent=1, allow_nan=False)
    write_bytes(path, text.encode())


def _without_nan(value: Any) -> Any:
    """Return the value with None for NaN (the floor has no loss), which JSON can't say."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    sys.exit(main())
