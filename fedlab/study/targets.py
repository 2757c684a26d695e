"""What a study runs, over and over: a function; notebooks are the workbench's.

A run is a process of its own, forked from one that has imported what it imports. So it keeps no
state from the run before, may hold the interpreter's lock for as long as it likes, and may crash.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedlab.study.forked import code_digest
from fedlab.study.forks import Stopped, servers_of
from fedlab.study.parameters import Parameter, parameters_of
from fedlab.study.records import LOG, Failure
from fedlab.study.results import RUN_FOLDER

_LIBRARIES = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA")
_FAILURE = "failure.json"
_LOG_BYTES = 2000


@dataclass(frozen=True)
class Share:
    """What a run may take.

    Parameters
    ----------
    threads : int
        Of each numeric library.
    limit : float
        Seconds until it is killed.
    owner : str
        By whose name this process keeps servers that fork (see `fedlab.study.forks.servers_of`).
    cache : Path
        A folder of what could be made again.
    """

    threads: int
    limit: float
    owner: str
    cache: Path


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment variables by which libraries know how many threads they may have."""
    names = ("FEDLAB_THREADS", *(f"{library}_NUM_THREADS" for library in _LIBRARIES))
    return dict.fromkeys(names, str(threads))


@dataclass(frozen=True)
class Ended:
    """How a run ended: seconds, what went wrong, what it depended on, numbers that it gave."""

    seconds: float
    failure: Failure | None
    told: dict[str, Any] | None
    recorded: Mapping[str, Any]


class Runnable(Protocol):
    """What a study runs. It is sent to other processes, so it can be pickled."""

    @property
    def name(self) -> str:
        """What it is called in records: the same target has the same name."""

    @property
    def parameters(self) -> Sequence[Parameter]:
        """What can be set."""

    @property
    def unread(self) -> Sequence[str]:
        """Parameters that have no effect, since nothing reads them."""

    def source(self) -> str:
        """Return a digest of its own code as it is now."""

    def command(self, values: Mapping[str, Any]) -> str:
        """Return the line that runs it once, by itself."""

    def perform(self, values: Mapping[str, Any], folder: Path, share: Share) -> Ended:
        """Run it in a process of its own; what it leaves goes into `folder`."""


@dataclass(frozen=True)
class FunctionTarget:
    """A function of a module, called by name in a fresh process.

    Parameters
    ----------
    path : str
        ``"module:function"``.
    parameters : tuple of Parameter
    digest : str
        Of its code.
    """

    path: str
    parameters: tuple[Parameter, ...]
    digest: str
    unread: tuple[str, ...] = ()

    @classmethod
    def of(cls, function: Callable[..., Any]) -> FunctionTarget:
        """Return the target that calls `function`.

        Raises
        ------
        ValueError
            If another process could not import it, or its parameters have no types.
        """
        module, name = function.__module__, function.__qualname__
        if module == "__main__" or "<" in name:
            raise ValueError(
                f"{name} is defined in {module}, where no other process finds it: put it into a "
                "file of its own beside this (in a notebook: %%writefile my_study.py), and import "
                "it from there"
            )
        digest = code_digest(inspect.getsource(function).encode())
        return cls(f"{module}:{name}", parameters_of(function), digest)

    @property
    def name(self) -> str:
        """The function's name with its module."""
        return self.path

    def source(self) -> str:
        """Return the digest of its code; that of the module is in each run's trace."""
        return self.digest

    def command(self, values: Mapping[str, Any]) -> str:
        """Return the line of Python that calls it."""
        module, _, name = self.path.partition(":")
        given = ", ".join(f"{key}={value!r}" for key, value in values.items())
        return f"from {module} import {name}; {name}({given})"

    def perform(self, values: Mapping[str, Any], folder: Path, share: Share) -> Ended:
        """Call it in a process of its own."""
        began, module = time.monotonic(), self.path.partition(":")[0]
        places = os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))
        environment = (
            os.environ
            | thread_variables(share.threads)
            | {"MPLBACKEND": "agg", "PYTHONPATH": places, RUN_FOLDER: str(folder)}
        )
        trace = folder / "told.json"
        with servers_of(share.owner).using(
            (self.path, share), [module, "fedlab.study.calling"], environment, share.cache
        ) as server:
            forked = server.fork(
                call="fedlab.study.calling:call",
                arguments=[self.path, json.dumps(values), str(folder)],
                cwd=os.getcwd(),
                env=environment,
                log=str(folder / LOG),
                trace=str(trace),
                caches=[str(share.cache), str(folder)],
            )
            try:
                status = forked.wait(share.limit)
            finally:
                forked.kill()
        if forked.stopped:
            raise Stopped
        seconds = round(time.monotonic() - began, 3)
        if status == 0:
            told = json.loads(trace.read_bytes())
            trace.unlink()
            servers_of(share.owner).warmed((self.path, share), told["imported"])
            return Ended(seconds, None, told, {})
        return Ended(seconds, _failure(folder, status, share.limit), None, {})


def _failure(folder: Path, status: int | None, limit: float) -> Failure:
    if status is None:
        return Failure("TimeoutError", f"stopped after {limit:g} s, the limit for one run")
    with suppress(OSError, ValueError):
        return Failure(**json.loads((folder / _FAILURE).read_bytes()))
    why = "out of memory (-9), or a crash in native code" if status < 0 else "it left by itself"
    return Failure("RuntimeError", f"its process ended with {status}: {why}\n{last_words(folder)}")


def last_words(folder: Path) -> str:
    """Return the end of what a run printed: a crash in native code tells where."""
    with suppress(OSError), (folder / LOG).open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
        return log.read().decode(errors="replace").strip()
    return ""
