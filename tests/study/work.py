"""What the studies of the tests run: each in a process of its own, found by its name."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from fedlab.federation.history import History, Report
from fedlab.files import atomic
from fedlab.study import Study, watched

STATE: list[int] = []


def curve(alpha: float = 1.0, rounds: Annotated[int, Field(ge=1)] = 3, seed: int = 0) -> Any:
    """Numbers that depend on all parameters, and on nothing else."""
    random = np.random.default_rng(seed)
    history = History()
    for number in range(1, rounds + 1):
        value = float(alpha * number + random.normal())
        history.record(number, "server", accuracy=value, bytes_up=100.0 * number)
        history.record(number, "ward", rows=float(seed))
    return history, {"last": history.last("accuracy"), "word": "fine", "nothing": float("nan")}


def trouble(kind: str = "none", seconds: float = 0.0, place: str = "") -> dict[str, float]:
    """Whatever can go wrong, by name."""
    if place:
        with open(place, "a") as file:
            file.write(f"{os.getpid()}\n")
    if kind == "raises":
        raise ValueError("<script>alert(1)</script>")
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "leaves":
        sys.exit(3)
    if kind == "holds":  # the interpreter's lock, since a function of a PyDLL doesn't let it go
        ctypes.PyDLL(None).usleep(int(1e6 * seconds) or 600_000_000)
        return {"fine": 1.0}
    if kind == "starts":
        subprocess.run(["true"], check=True)
    time.sleep(seconds)
    return {"fine": 1.0}


def keeps_state(number: int = 0) -> dict[str, int]:
    """What a run finds of the runs before it."""
    STATE.append(number)
    os.environ["LEFT_BEHIND"] = "yes"
    os.chdir("/")
    return {"found": len(STATE)}


def reads(table: str = "", number: int = 0) -> dict[str, float]:
    """Read a file twice over: by pandas, and plainly."""
    return {"sum": float(pd.read_csv(table).x.sum() + len(Path(table).read_bytes()) + number)}


def rewrites(place: str = "") -> dict[str, float]:
    """Write a file as fedlab does, read it, and write it anew."""
    for number in (1, 2):
        atomic.write_bytes(place, bytes(number))
        found = len(Path(place).read_bytes())
    return {"found": found}


def sweeps(table: str = "", place: str = "") -> dict[str, float]:
    """Run a study of its own."""
    study = Study(reads, place, [{"table": table}])
    study.run(workers=1)
    return {"sum": study.frame().value.sum()}


def tuned(lr: float = 1.0, width: int = 3, kind: str = "a", seed: int = 0) -> History:
    """Best at a learning rate of 1, narrow, and of kind b."""
    random, history = np.random.default_rng(seed), History()

    def rounds() -> Any:
        nonlocal history
        for number in range(1, 9):
            best = np.exp(-(np.log(lr) ** 2)) - 0.01 * width + 0.05 * (kind == "b")
            value = float((1 - np.exp(-number / 3)) * best + random.normal() * 1e-3)
            report = Report(number, {"accuracy": value})
            history = history.and_then(report)
            yield report

    for _ in watched(rounds()):
        pass
    return history


def nothing_typed(alpha=1.0):  # type: ignore[no-untyped-def]
    return {"alpha": alpha}
