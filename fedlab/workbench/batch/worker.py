"""The process that runs notebooks for the supervisor, one after another, warm between them.

Started as ``python -m fedlab.workbench.batch.worker``: tasks come as JSON lines on standard input,
events go out as JSON lines on what was standard output. When the input ends, because the supervisor
closed it or died, the kernel is killed and the process ends.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import papermill
from nbclient.exceptions import DeadKernelError

from fedlab.workbench.batch import notebooks
from fedlab.workbench.batch.jupyter import OwnKernelManager

_KERNEL_START_SECONDS = 120


class _Run:
    """One notebook's run: turns nbclient's hooks into events."""

    def __init__(self, task: dict[str, Any], send: Any) -> None:
        self._task, self._send = task, send
        self._labels = notebooks.labels(notebooks.load(Path(task["notebook"])))
        self._number = {index: number for number, index in enumerate(self._labels, start=1)}
        self._injected = 0
        self._began = 0.0
        self._now: int | None = None

    def execute(self) -> dict[str, Any] | None:
        """Run the notebook; return what went wrong, or None."""
        try:
            papermill.execute_notebook(
                self._task["notebook"],
                self._task["output"],
                self._task["parameters"],
                kernel_name="python3",
                cwd=self._task["folder"],
                progress_bar=False,
                start_timeout=_KERNEL_START_SECONDS,
                kernel_manager_class=OwnKernelManager,
                on_cell_start=self._start,
                on_cell_executed=self._executed,
            )
        except papermill.PapermillExecutionError as error:
            return self._failure(error.ename, error.evalue)
        except DeadKernelError:
            return self._failure(
                "DeadKernelError",
                "the kernel died while it ran this cell: out of memory, or a crash in native code",
            )
        except Exception as error:  # whatever it is, it belongs in the record, and the others go on
            return self._failure(type(error).__name__, str(error))
        return None

    def _failure(self, name: str, message: str) -> dict[str, Any]:
        label = self._labels.get(self._now, "") if self._now is not None else ""
        cell = self._number.get(self._now) if self._now is not None else None
        return {"name": name, "message": message, "cell": cell, "label": label}

    def _start(self, cell: Any, cell_index: int) -> None:
        if "injected-parameters" in cell.metadata.get("tags", []):
            self._injected = 1
            return
        index = cell_index - self._injected
        if index in self._number:
            self._now, self._began = index, time.monotonic()
            self._send("cell", number=self._number[index], label=self._labels[index])

    def _executed(self, cell: Any, cell_index: int, execute_reply: Any) -> None:
        if cell_index - self._injected == self._now:
            seconds = time.monotonic() - self._began
            self._send("cell done", number=self._number[self._now], seconds=round(seconds, 3))


class _Worker:
    def __init__(self, events: TextIO) -> None:
        self._events = events
        self._kernel: int | None = None
        self._tasks: queue.Queue[dict[str, Any]] = queue.Queue()
        OwnKernelManager.on_start = staticmethod(self._kernel_started)  # type: ignore[method-assign]
        threading.Thread(target=self._listen, daemon=True).start()

    def work(self) -> None:
        """Run what comes in, forever; `_listen` ends the process."""
        self._send("ready")
        while True:
            task = self._tasks.get()
            failure = _Run(task, self._send).execute()
            self._kernel = None
            self._send("done", failure=failure)

    def _listen(self) -> None:
        for line in sys.stdin:
            self._tasks.put(json.loads(line))
        if self._kernel is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._kernel, signal.SIGKILL)
        os._exit(0)

    def _kernel_started(self, process: int | None) -> None:
        self._kernel = process
        self._send("kernel", process=process)

    def _send(self, event: str, **details: Any) -> None:
        self._events.write(json.dumps({"event": event, **details}) + "\n")
        self._events.flush()


def main() -> None:
    """Take over standard output for events; whatever else prints goes to standard error."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.getLogger("papermill").setLevel(logging.ERROR)
    Path(os.environ["JUPYTER_RUNTIME_DIR"]).mkdir(parents=True, exist_ok=True)
    _Worker(events).work()


if __name__ == "__main__":
    main()
