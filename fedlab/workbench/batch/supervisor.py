"""Keeps worker processes alive, gives them notebooks, and kills what runs too long.

A limit on a cell is papermill's; a limit on a whole notebook, and a notebook that takes its process
down, need somebody outside the process. POSIX only: it kills process groups.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fedlab.workbench.batch.records import Failure

__all__ = ["LIMIT_SECONDS", "Outcome", "Supervisor", "Task", "Watcher"]

#: How long one notebook may take unless something else is said.
LIMIT_SECONDS = 900.0
_TICK_SECONDS = 0.5
_STDERR_BYTES = 2000


@dataclass(frozen=True)
class Task:
    """One notebook to run: from `notebook` into `output`, in `folder`."""

    notebook: Path
    output: Path
    folder: Path
    parameters: Mapping[str, Any]

    def line(self) -> str:
        """Return the task as the worker reads it."""
        content = {
            "notebook": str(self.notebook),
            "output": str(self.output),
            "folder": str(self.folder),
            "parameters": dict(self.parameters),
        }
        return json.dumps(content) + "\n"


@dataclass(frozen=True)
class Outcome:
    """How a task ended; `cells` has the number and the seconds of each code cell that ended."""

    task: Task
    seconds: float
    cells: list[dict[str, Any]]
    failure: Failure | None


class Watcher(Protocol):
    """Is told how the run goes."""

    def started(self, task: Task) -> None:
        """`task` went to a worker."""

    def cell(self, task: Task, number: int, label: str) -> None:
        """`task` is at its code cell `number`."""

    def tick(self) -> None:
        """Time went by."""


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[str]
    stderr: Any
    kernel: int | None = None
    task: Task | None = None
    began: float = 0.0
    cell: tuple[int | None, str] = (None, "")
    cells: list[dict[str, Any]] = field(default_factory=list)

    def give(self, task: Task) -> None:
        self.task, self.began, self.cell, self.cells = task, time.monotonic(), (None, ""), []
        assert self.process.stdin is not None
        # A worker that died before it got its task is seen by its reader's end, as any other.
        with suppress(BrokenPipeError):
            self.process.stdin.write(task.line())
            self.process.stdin.flush()

    def outcome(self, failure: Failure | None) -> Outcome:
        assert self.task is not None
        task, self.task, self.kernel = self.task, None, None
        return Outcome(task, round(time.monotonic() - self.began, 3), self.cells, failure)

    def kill(self) -> None:
        """Kill the worker and its kernel, each with whatever it started."""
        for group in (self.process.pid, self.kernel):
            if group is not None:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.stderr.close()

    def last_words(self) -> str:
        self.stderr.seek(0, os.SEEK_END)
        self.stderr.seek(max(0, self.stderr.tell() - _STDERR_BYTES))
        return str(self.stderr.read().decode(errors="replace")).strip()


class Supervisor:
    """Runs tasks on `jobs` warm workers.

    Parameters
    ----------
    jobs : int
        How many notebooks run at the same time.
    environment : mapping
        The workers' environment variables.
    limit : float
        Seconds that one notebook may take.
    """

    def __init__(self, jobs: int, environment: Mapping[str, str], limit: float) -> None:
        if os.name != "posix":
            raise OSError("batch runs need Linux or macOS; elsewhere use papermill, or WSL")
        self._jobs, self._environment, self._limit = jobs, dict(environment), limit
        self._events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._workers: list[_Worker] = []

    def run(self, tasks: Sequence[Task], watcher: Watcher) -> Generator[Outcome, None, None]:
        """Run `tasks`, and yield each one's outcome when it ends.

        However it is left, by its end, an error or Ctrl-C, no process stays behind.
        """
        waiting = deque(tasks)
        try:
            while waiting or self._busy():
                self._fill(waiting, watcher)
                watcher.tick()
                yield from self._overdue()
                try:
                    worker, event = self._events.get(timeout=_TICK_SECONDS)
                except queue.Empty:
                    continue
                yield from self._handle(worker, event, watcher)
        finally:
            for worker in list(self._workers):
                self._drop(worker)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.task is not None]

    def _fill(self, waiting: deque[Task], watcher: Watcher) -> None:
        while waiting and len(self._busy()) < self._jobs:
            idle = [worker for worker in self._workers if worker.task is None]
            task = waiting.popleft()
            (idle[0] if idle else self._start()).give(task)
            watcher.started(task)

    def _start(self) -> _Worker:
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with its worker
        process = subprocess.Popen(
            [sys.executable, "-m", "fedlab.workbench.batch.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            env=self._environment,
            start_new_session=True,
        )
        worker = _Worker(process, stderr)
        self._workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        with worker.process.stdout as lines:
            for line in lines:
                self._events.put((worker, json.loads(line)))
        self._events.put((worker, None))

    def _drop(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.remove(worker)

    def _overdue(self) -> Iterator[Outcome]:
        for worker in self._busy():
            if time.monotonic() - worker.began > self._limit:
                message = f"stopped after {self._limit:g} s, the limit for one notebook"
                number, label = worker.cell
                self._drop(worker)
                yield worker.outcome(Failure("TimeoutError", message, number, label))

    def _handle(
        self, worker: _Worker, event: dict[str, Any] | None, watcher: Watcher
    ) -> Iterator[Outcome]:
        if worker not in self._workers:
            return
        if event is None:
            yield from self._died(worker)
            return
        match event["event"]:
            case "kernel":
                worker.kernel = event["process"]
            case "cell" if worker.task is not None:
                number, label = worker.cell = (event["number"], event["label"])
                watcher.cell(worker.task, number, label)
            case "cell done":
                worker.cells.append({"number": event["number"], "seconds": event["seconds"]})
            case "done":
                failure = event["failure"]
                yield worker.outcome(Failure(**failure) if failure else None)

    def _died(self, worker: _Worker) -> Iterator[Outcome]:
        words = worker.last_words()
        worker.process.wait()
        message = f"the process that ran the notebook ended with {worker.process.returncode}"
        number, label = worker.cell
        self._drop(worker)
        if worker.task is not None:
            detail = f"{message}:\n{words}" if words else message
            yield worker.outcome(Failure("WorkerDied", detail, number, label))
