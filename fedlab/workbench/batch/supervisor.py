"""Runs notebooks in kernels, several at a time, and kills what runs too long.

nbclient runs each notebook in a thread of its own; the notebook's code is in the kernel's process.
Whatever ends a run early, a limit, Ctrl-C or the death of this process, does one thing: it kills
the kernel's process group, and nbclient finds the kernel dead. POSIX only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from fedlab.workbench.batch import notebooks
from fedlab.workbench.batch.jupyter import OwnKernelSpecs
from fedlab.workbench.batch.records import Failure, Record

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
    each code cell that ended.
    """

    task: Task
    node: NotebookNode
    seconds: float
    cells: list[dict[str, Any]]
    failure: Failure | None


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


class _Run:
    """One notebook and its kernel.

    Parameters
    ----------
    task : Task
        What to run.
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
        environment: Mapping[str, str],
        limit: float,
        events: queue.SimpleQueue[Any],
    ) -> None:
        self._task, self._environment, self._events = task, environment, events
        self._limit = limit
        self._node = notebooks.load(task.notebook)
        if task.parameters:
            notebooks.inject(self._node, task.parameters)
        labels = notebooks.labels(self._node)
        self._places = {i: (number, labels[i]) for number, i in enumerate(labels, 1)}
        self._at: tuple[int | None, str] = (None, "")
        self._cell_began = 0.0
        self._cells: list[dict[str, Any]] = []
        self._leash: Leash | None = None
        self._killed: str | None = None

    def execute(self) -> None:
        """Run the notebook, and put its outcome into the queue, whatever happens."""
        began = time.monotonic()
        self._events.put(self._task)
        failure = None
        why = f"stopped after {self._limit:g} s, {_LIMITED}"
        # By a thread of its own: whoever takes the outcomes may be busy with a large one.
        timer = threading.Timer(min(self._limit, threading.TIMEOUT_MAX), self.kill, [why])
        timer.start()
        with tempfile.TemporaryFile() as stderr:
            try:
                asyncio.run(self._execute(stderr))
            except Exception as error:  # it belongs in the record, and the other notebooks go on
                failure = Failure(*self._reason(error, stderr), *self._at)
        timer.cancel()
        seconds = round(time.monotonic() - began, 3)
        self._events.put(Outcome(self._task, self._node, seconds, self._cells, failure))

    def kill(self, why: str) -> None:
        """Kill the kernel with whatever it started, now or as soon as it starts."""
        self._killed = self._killed or why
        if self._leash is not None:
            self._leash.let_go()

    async def _execute(self, stderr: IO[bytes]) -> None:
        runtime = Path(self._environment["JUPYTER_RUNTIME_DIR"])
        manager = AsyncKernelManager(
            kernel_spec_manager=OwnKernelSpecs(),
            connection_file=str(runtime / f"{self._task.notebook.stem}.json"),
            log=_SILENT,
        )
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
            await manager.start_kernel(
                # In the notebook's own folder, as in JupyterLab: a file of one's own is beside it.
                cwd=str(self._task.notebook.parent),
                env=dict(self._environment),
                extra_arguments=["--log-level=ERROR"],
                stdout=stderr,
                stderr=stderr,
            )
            group = str(manager.provisioner.pid)  # type: ignore[union-attr]
            self._leash = Leash('kill -s KILL -- "-$0"', group)
            if self._killed is not None:
                self._leash.let_go()
            await client.async_start_new_kernel_client()
            await client.async_execute()
        except DeadKernelError:
            status = await manager.provisioner.poll()  # type: ignore[union-attr]
            raise DeadKernelError(
                f"the kernel ended with {status} while it ran this cell: out of memory (-9), or a "
                "crash in native code"
            ) from None
        finally:
            if manager.has_kernel:
                await manager.shutdown_kernel(now=self._killed is not None)
            if client.kc is not None:
                client.kc.stop_channels()
            if self._leash is not None:
                self._leash.let_go()

    def _reason(self, error: Exception, stderr: IO[bytes]) -> tuple[str, str]:
        """Name and message of what went wrong."""
        if self._killed is not None:
            return "TimeoutError", self._killed
        if isinstance(error, CellExecutionError):
            return error.ename, error.evalue
        return type(error).__name__, f"{error}\n{_last_words(stderr)}".strip()

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


def _last_words(stderr: IO[bytes]) -> str:
    """The end of what a kernel wrote past its notebook: a crash in native code tells where."""
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _STDERR_BYTES))
    return stderr.read().decode(errors="replace").strip()


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
    runs = [_Run(task, env, limit, events) for task in tasks]
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
