"""Runs notebooks in kernels, several at a time, and kills what runs too long.

nbclient runs each notebook in a thread of its own; the notebook's code is in the kernel's process.
Whatever ends a run early, a limit, Ctrl-C or the death of this process, does one thing: it kills
the kernel's process group, and nbclient finds the kernel dead. POSIX only.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from fedlab.study.forks import Servers
from fedlab.study.records import Failure
from fedlab.workbench.batch import notebooks
from fedlab.workbench.batch.jupyter import WarmKernelManager
from fedlab.workbench.batch.records import Record

_LIMITED = "the limit for one notebook; --limit SECONDS allows more"
_TICK_SECONDS = 0.5
_KERNEL_START_SECONDS = 120
_STDERR_BYTES = 2000

# What goes wrong is in the outcome; nbclient's own words would come amidst the progress.
_SILENT = logging.Logger("nbclient", logging.CRITICAL + 1)


@dataclass(frozen=True)
class Task:
    """One notebook to run, and the parameters to set in it."""

    notebook: Path
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    `node` is the notebook with the outputs of what ran, `cells` has the number and the seconds of
    each code cell that ended, `told` is what the run depended on (`fedlab.study.trace`), if it went
    well.
    """

    task: Task
    node: NotebookNode
    seconds: float
    cells: list[dict[str, Any]]
    failure: Failure | None
    told: dict[str, Any] | None = None


class Progress(Protocol):
    """Is told how the run goes."""

    def reused(self, record: Record) -> None:
        """`record` was there already."""

    def stale(self, record: Record, parts: Sequence[str]) -> None:
        """`record` completed, but with other inputs: those of `parts` have changed since."""

    def started(self, task: Task) -> None:
        """`task` is given to a kernel."""

    def cell(self, task: Task, number: int, label: str) -> None:
        """`task` is at its code cell `number`."""

    def tick(self) -> None:
        """Time went by."""

    def finished(self, record: Record) -> None:
        """A notebook ended, well or not."""


class Leash:
    """Runs a command when it is let go, or when this process is gone, however it ended.

    A shell waits for the end of a pipe that only this process holds.

    Parameters
    ----------
    command : str
        For a shell.
    subject : str
        What the command calls ``$0``.
    """

    def __init__(self, command: str, subject: str) -> None:
        self._shell = subprocess.Popen(
            ["sh", "-c", f"read -r _; {command}", subject],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # where nobody is left, `kill` complains
            start_new_session=True,
        )

    def let_go(self) -> None:
        """Run the command, and return when that is done."""
        self._shell.communicate()


class NotebookRun:
    """One notebook and its kernel.

    Parameters
    ----------
    task : Task
        What to run.
    servers : Servers
        What forks the kernel.
    environment : mapping
        The kernel's environment variables.
    limit : float
        Seconds until it is killed.
    events : queue
        Gets `task` when it begins, then (task, number, label) for each cell, then the outcome.
    """

    def __init__(
        self,
        task: Task,
        servers: Servers,
        environment: Mapping[str, str],
        limit: float,
        events: queue.SimpleQueue[Any],
    ) -> None:
        self._task, self._environment, self._events = task, environment, events
        self._servers, self._limit = servers, limit
        self._node = notebooks.load(task.notebook)
        if task.parameters:
            notebooks.inject(self._node, task.parameters)
        labels = notebooks.labels(self._node)
        self._places = {i: (number, labels[i]) for number, i in enumerate(labels, 1)}
        self._at: tuple[int | None, str] = (None, "")
        self._cell_began = 0.0
        self._cells: list[dict[str, Any]] = []
        self._manager: WarmKernelManager | None = None
        self._killed: str | None = None

    def execute(self) -> Outcome:
        """Run the notebook; return its outcome, whatever happens, and put it into the queue."""
        began = time.monotonic()
        self._events.put(self._task)
        failure, told = None, None
        why = f"stopped after {self._limit:g} s, {_LIMITED}"
        # By a thread of its own: whoever takes the outcomes may be busy with a large one.
        timer = threading.Timer(min(self._limit, threading.TIMEOUT_MAX), self.kill, [why])
        timer.start()
        with tempfile.TemporaryDirectory(dir=self._environment["JUPYTER_RUNTIME_DIR"]) as scratch:
            try:
                told = asyncio.run(self._execute(Path(scratch)))
            except Exception as error:  # it belongs in the record, and the other notebooks go on
                failure = Failure(*self._reason(error, Path(scratch)), *self._at)
        timer.cancel()
        seconds = round(time.monotonic() - began, 3)
        outcome = Outcome(self._task, self._node, seconds, self._cells, failure, told)
        self._events.put(outcome)
        return outcome

    @property
    def stopped(self) -> bool:
        """Whether its server was closed, because nobody wants the outcome any more."""
        return bool(self._manager and self._manager.process and self._manager.process.stopped)

    def kill(self, why: str) -> None:
        """Kill the kernel with whatever it started, now or as soon as it starts."""
        self._killed = self._killed or why
        if self._manager is not None:
            self._manager.kill()

    async def _execute(self, scratch: Path) -> dict[str, Any]:
        named, notebook = notebooks.imports(self._node), self._task.notebook
        # What is imported knows its folder for caches from then on.
        purpose = notebook, *(self._environment[n] for n in ("FEDLAB_THREADS", "XDG_CACHE_HOME"))
        cache = Path(self._environment["XDG_CACHE_HOME"])
        with self._servers.using(purpose, named, self._environment, cache) as server:
            manager = WarmKernelManager.of(server, scratch)
            told = await self._in_kernel(manager, scratch)
        self._servers.warmed(purpose, told["imported"])
        return told

    async def _in_kernel(self, manager: WarmKernelManager, scratch: Path) -> dict[str, Any]:
        client = NotebookClient(
            self._node,
            km=manager,
            log=_SILENT,
            timeout=None,
            startup_timeout=_KERNEL_START_SECONDS,
            shell_timeout_interval=1,  # and then it looks whether the kernel lives
            record_timing=False,
            on_cell_start=self._cell_starts,
            on_cell_executed=self._cell_executed,
        )
        try:
            # In the notebook's own folder, as in JupyterLab: a file of one's own is beside it.
            folder = str(self._task.notebook.parent)
            await manager.start_kernel(cwd=folder, env=dict(self._environment))
            self._manager = manager
            if self._killed is not None:
                manager.kill()
            await client.async_start_new_kernel_client()
            await client.async_execute()
            await manager.shutdown_kernel()
            return dict(json.loads((scratch / "trace.json").read_text(encoding="utf-8")))
        except DeadKernelError:
            assert manager.process is not None
            raise DeadKernelError(
                f"the kernel ended with {manager.process.wait()} while it ran this cell: out of "
                "memory (-9), or a crash in native code"
            ) from None
        finally:
            if client.kc is not None:
                client.kc.stop_channels()
            manager.kill()

    def _reason(self, error: Exception, scratch: Path) -> tuple[str, str]:
        """Name and message of what went wrong."""
        if self._killed is not None:
            return "TimeoutError", self._killed
        if isinstance(error, CellExecutionError):
            return error.ename, error.evalue
        return type(error).__name__, f"{error}\n{_last_words(scratch)}".strip()

    def _cell_starts(self, cell: NotebookNode, cell_index: int) -> None:
        if cell_index in self._places:
            self._at, self._cell_began = self._places[cell_index], time.monotonic()
            self._events.put((self._task, *self._at))

    def _cell_executed(self, cell: NotebookNode, cell_index: int, execute_reply: Any) -> None:
        leaves = (part.get("source") for part in execute_reply["content"].get("payload", []))
        if "ask_exit" in leaves:  # to nbclient, a cell that calls `exit()` has gone well
            raise RuntimeError("the cell left by exit() or quit(), which ends a session, not a run")
        if cell_index in self._places:
            seconds = round(time.monotonic() - self._cell_began, 3)
            self._cells.append({"number": self._at[0], "seconds": seconds})


def _last_words(scratch: Path) -> str:
    """The end of what a kernel wrote past its notebook: a crash in native code tells where."""
    with suppress(OSError), (scratch / "log").open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _STDERR_BYTES))
        return log.read().decode(errors="replace").strip()
    return ""


def outcomes(
    tasks: Sequence[Task], jobs: int, env: Mapping[str, str], limit: float, progress: Progress
) -> Generator[Outcome, None, None]:
    """Run tasks in `jobs` threads, each with a kernel, and yield each one's outcome when it ends.

    However it is left, by its end, an error or Ctrl-C, no process stays behind.

    Parameters
    ----------
    tasks : sequence of Task
    jobs : int
        How many notebooks run at the same time.
    env : mapping
        The kernels' environment variables.
    limit : float
        Seconds that one notebook may take.
    progress : Progress
    """
    if os.name != "posix":
        raise OSError("batch runs need Linux or macOS; elsewhere use papermill, or WSL")
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    servers = Servers()
    runs = [NotebookRun(task, servers, env, limit, events) for task in tasks]
    pool = ThreadPoolExecutor(jobs)
    left = len(runs)
    try:
        for run in runs:
            pool.submit(run.execute)
        while left:
            progress.tick()
            try:
                event = events.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                continue
            match event:
                case Task():
                    progress.started(event)
                case Outcome():
                    left -= 1
                    yield event
                case _:
                    progress.cell(*event)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for run in runs:
            run.kill("stopped")
        pool.shutdown()
        servers.close()
