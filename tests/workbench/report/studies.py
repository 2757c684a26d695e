"""Folders of studies as runs leave them, written by hand: no run takes any time."""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from nbformat import NotebookNode

from fedlab.study.records import NOTEBOOK, RESULTS, Failure, RunRecord, run_id

TARGET = "my_study:train"
ALPHAS, ALGORITHMS = (0.05, 0.1, 0.3, 1.0, 10.0), ("fedavg", "fedprox", "scaffold", "fednova")
TIDY = {"round": "Int64", "who": "string", "metric": "string", "value": "float64"}


def measured(alpha: float, seed: int, rounds: int) -> pd.DataFrame:
    """Made-up curves, each a little different."""
    rows = []
    for number in range(1, rounds + 1):
        accuracy = (0.6 + 0.05 * math.log10(alpha * 100)) * (1 - math.exp(-number / 2))
        accuracy += 0.01 * math.sin(7 * seed + number)
        rows.append((number, "server", "test_accuracy", accuracy))
        rows.append((number, "server", "bytes_up", 2e6 * (1 + alpha)))
        rows.append((number, "server", "bytes_down", 2e6))
    rows.append((None, "run", "final", accuracy))
    return pd.DataFrame(rows, columns=[*TIDY])


def write_run(
    folder: Path,
    parameters: dict[str, Any],
    frame: pd.DataFrame | None = None,
    error: Failure | None = None,
    notebook: NotebookNode | None = None,
    **changed: Any,
) -> str:
    """Write a run that is done, or one that failed; return its id."""
    name = run_id(TARGET, parameters)
    place = folder / "runs" / f"{name}-1"
    place.mkdir(parents=True)
    files = {}
    if frame is not None:
        content = io.BytesIO()
        frame.astype(TIDY).to_parquet(content, index=False, compression="zstd")
        files[RESULTS] = content.getvalue()
    if notebook is not None:
        files[NOTEBOOK] = nbformat.writes(notebook).encode()
    for file, written in files.items():
        (place / file).write_bytes(written)
    given: dict[str, Any] = {
        "target": TARGET,
        "started": "2026-11-29T16:00:00.000+00:00",
        "seconds": 3.25,
        "source": "s",
        "command": f"from my_study import train; train(**{parameters})",
        "environment": {
            "python": "3.12.3",
            "platform": "Linux-6.1-x86_64",
            "threads": 1,
            "distributions": {"numpy": "2.3.5", "pandas": "3.0.0"},
        },
    }
    RunRecord(
        id=name,
        attempt=1,
        status="failed" if error else "done",
        parameters=parameters,
        error=error,
        digests={file: hashlib.sha256(written).hexdigest() for file, written in files.items()},
        **given | changed,
    ).write(place)
    return name


def write_study(folder: Path, runs: int, rounds: int = 3) -> Path:
    """Write a study of so many runs; of each five times twenty, one failed."""
    for number in range(runs):
        alpha, way = ALPHAS[number % 5], ALGORITHMS[number // 5 % 4]
        seed = number // 20
        values = {"alpha": alpha, "algorithm": way, "rounds": rounds, "seed": seed}
        failed = number % 100 == 7
        write_run(
            folder,
            values,
            None if failed else measured(alpha, seed, rounds),
            Failure("FloatingPointError", "the loss is nan in round 2") if failed else None,
        )
    return folder
