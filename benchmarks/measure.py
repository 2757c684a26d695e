"""One process a contestant and repeat; contestants take turns, so that drift hits all alike."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.field import FLOOR, Contestant
from benchmarks.peers import Peer
from benchmarks.workload import Workload

_ROOT = Path(__file__).resolve().parents[1]
_BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Run:
    """What one process did.

    Attributes
    ----------
    seconds : tuple of float
        Of each round, the first included.
    startup : float
        Seconds from starting the process to the end of its first round, reading the workload left
        out.
    peak_mb : float
    loss : float
        The mean loss of its last parameters over all devices' rows.
    versions : dict
    """

    seconds: tuple[float, ...]
    startup: float
    peak_mb: float
    loss: float
    versions: dict[str, str]


@dataclass
class Measured:
    """All runs on one workload, and who failed, with the last that it said."""

    runs: dict[str, list[Run]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def present(
    contestants: Sequence[Contestant], peers: Mapping[str, Peer]
) -> tuple[list[Contestant], list[Peer]]:
    """Return who can take part, and which environments are not there."""
    absent = {c.peer for c in contestants if c.peer and not peers[c.peer].installed}
    able = [contestant for contestant in contestants if contestant.peer not in absent]
    return able, [peer for name, peer in peers.items() if name in absent]


def measure(
    workload: Workload,
    contestants: Sequence[Contestant],
    peers: Mapping[str, Peer],
    *,
    repeats: int,
    timeout: float,
    say: Callable[[str], None],
) -> Measured:
    """Run every contestant `repeats` times. Who fails once is not asked again."""
    measured = Measured()
    able = [c for c in contestants if not c.only or workload.recipe.name in c.only]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "workload.npz"
        workload.write(path)
        for repeat in range(repeats):
            for contestant in able:
                if contestant.name in measured.failed:
                    continue
                say(f"{workload.recipe.name}, {repeat + 1} of {repeats}: {contestant.name}")
                python = peers[contestant.peer].python if contestant.peer else sys.executable
                try:
                    run = _run(contestant, str(python), path, workload, repeat, timeout)
                except RuntimeError as error:
                    say(f"{contestant.name} failed: {error}")
                    measured.failed[contestant.name] = str(error)
                    measured.runs.pop(contestant.name, None)
                    continue
                measured.runs.setdefault(contestant.name, []).append(run)
    return measured


def _run(
    contestant: Contestant,
    python: str,
    path: Path,
    workload: Workload,
    seed: int,
    timeout: float,
) -> Run:
    returned = path.with_name("parameters.npz")
    returned.unlink(missing_ok=True)
    command = [python, "-m", f"benchmarks.contestants.{contestant.module}"]
    command += ["--workload", str(path), "--parameters", str(returned), "--seed", str(seed)]
    result = json.loads(_output(command, _environment(contestant), timeout))
    if len(result["seconds"]) != workload.rounds:
        raise RuntimeError(f"{len(result['seconds'])} of {workload.rounds} rounds were run")
    with np.load(returned, allow_pickle=False) as arrays:
        parameters = arrays["parameters"]
    if parameters.shape != workload.start.shape:
        raise RuntimeError(f"parameters of shape {parameters.shape} came back")
    return Run(
        tuple(result["seconds"]),
        result["startup"],
        result["peak_mb"],
        float("nan") if contestant.name == FLOOR else workload.pooled_loss(parameters),
        result["versions"],
    )


def _environment(contestant: Contestant) -> dict[str, str]:
    dropped = {"PYTHONHOME", "PYTHONSTARTUP", *_BLAS_THREADS}
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    if contestant.one_thread:
        environment |= dict.fromkeys(_BLAS_THREADS, "1")
    return {**environment, "PYTHONPATH": str(_ROOT)}


def _output(command: list[str], environment: dict[str, str], timeout: float) -> str:
    """Return the last line on standard output; on failure raise the last lines of errors."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command, "--began", repr(time.time())],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            cwd=_ROOT,
            env=environment,
            start_new_session=True,  # so that a framework's own processes end with it
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"it was stopped after {timeout:g} seconds") from None
        finally:
            _end(process)
        out.seek(0)
        errors.seek(0)
        said = (errors if code else out).read().decode(errors="replace").strip().splitlines()
    if code or not said:
        last = "\n".join(said[-8:]) or "nothing"
        raise RuntimeError(f"it ended with status {code} and said\n{last}")
    return said[-1]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started."""
    if os.name == "nt":  # pragma: no cover
        process.kill()
    else:
        with suppress(ProcessLookupError):  # nobody is left
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
