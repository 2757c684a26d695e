"""Runs a notebook in a kernel of its own, and kills it when it runs too long.

nbclient runs the notebook in the thread that asks; the notebook's code is in the kernel's process.
Whatever ends a run early, a limit, Ctrl-C or the death of this process, does one thing: it kills
the kernel's process group, and nbclient finds the kernel dead. POSIX only.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from fedlab.study.forks import Stopped, servers_of
from fedlab.study.records import TRACE, Failure
from fedlab.study.targets import Ended, Share, last_words
from fedlab.workbench.batch import jupyter, notebooks
from fedlab.workbench.batch.jupyter import WarmKernelManager
from fedlab.workbench.report.outputs import recorded

_KERNEL_START_SECONDS = 120

# What goes wrong is in the outcome; nbclient's own words would come amidst the progress.
_SILENT = logging.Logger("nbclient", logging.CRITICAL + 1)


@dataclass(frozen=True)
class Outcome(Ended):
    """How a notebook ended.

    `source` is the digest of the cells that ran, `node` the notebook with their outputs; `cells`
    has the number and the seconds of each code cell that ended.
    """

    source: str
    node: NotebookNode
    cells: list[dict[str, Any]]


class NotebookRun:
    """One notebook and its kernel.

    Parameters
    ----------
    notebook : Path
        What to run.
    values : mapping
        The parameters to set in it.
    share : Share
        What it may take: until it is killed, for one.
    variables : mapping
        Further environment variables of the kernel.
    at_cell : function
        Called with number and label of each cell that begins.
    """

    def __init__(
        self,
        notebook: Path,
        values: Mapping[str, Any],
        share: Share,
        variables: Mapping[str, str],
        at_cell: Callable[[int, str], object] = lambda number, label: None,
    ) -> None:
        if os.name != "posix":
            raise OSError("batch runs need Linux or macOS; elsewhere use papermill, or WSL")
        self._notebook, self._share, self._variables = notebook.resolve(), share, variables
        self._at_cell = at_cell
        self._node = notebooks.load(notebook)
        self._source = notebooks.digest(self._node)
        if values:
            notebooks.inject(self._node, values)
        labels = notebooks.labels(self._node)
        self._places = {i: (number, labels[i]) for number, i in enumerate(labels, 1)}
        self._at: tuple[int | None, str] = (None, "")
        self._cell_began = 0.0
        self._cells: list[dict[str, Any]] = []
        self._manager: WarmKernelManager | None = None
        self._late, self._said = False, ""

    def execute(self) -> Outcome:
        """Run the notebook; return its outcome, whatever happens.

        Raises
        ------
        Stopped
            If its server was closed, because nobody wants the outcome any more.
        """
        began = time.monotonic()
        failure, told = None, None
        # By a thread of its own: whoever waits for the outcome may be busy with a large one.
        timer = threading.Timer(min(self._share.limit, threading.TIMEOUT_MAX), self._end)
        timer.start()
        try:
            told = asyncio.run(self._execute())
        except Stopped:
            raise
        except Exception as error:  # it belongs in the record, and the other notebooks go on
            failure = Failure(*self._reason(error), *self._at)
        finally:
            timer.cancel()
        if self._manager and self._manager.process and self._manager.process.stopped:
            raise Stopped
        seconds = round(time.monotonic() - began, 3)
        found = recorded(self._node)
        return Outcome(seconds, failure, told, found, self._source, self._node, self._cells)

    def _end(self) -> None:
        """Kill the kernel with whatever it started, now or as soon as it starts."""
        self._late = True
        if self._manager is not None:
            self._manager.kill()

    async def _execute(self) -> dict[str, Any]:
        share, servers = self._share, servers_of(self._share.owner)
        purpose, named = (self._notebook, share), notebooks.imports(self._node)
        environment = {**jupyter.environment(share), **self._variables}
        with (
            servers.using(purpose, named, environment, share.cache) as server,
            # If this process is killed, the server removes it.
            tempfile.TemporaryDirectory(prefix="fedlab-", ignore_cleanup_errors=True) as scratch,
        ):
            manager = WarmKernelManager.of(server, Path(scratch))
            told = await self._in_kernel(manager, environment)
        servers.warmed(purpose, told["imported"])
        return told

    async def _in_kernel(
        self, manager: WarmKernelManager, environment: Mapping[str, str]
    ) -> dict[str, Any]:
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
            await manager.start_kernel(cwd=str(self._notebook.parent), env=dict(environment))
            self._manager = manager
            if self._late:
                manager.kill()
            await client.async_start_new_kernel_client()
            await client.async_execute()
            await manager.shutdown_kernel()
            return dict(json.loads((manager.scratch / TRACE).read_bytes()))
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
            self._said = last_words(manager.scratch)

    def _reason(self, error: Exception) -> tuple[str, str]:
        """Name and message of what went wrong."""
        if self._late:
            limit = f"{self._share.limit:g} s, the limit for one notebook"
            return "TimeoutError", f"stopped after {limit}; --limit SECONDS allows more"
        if isinstance(error, CellExecutionError):
            return error.ename, error.evalue
        return type(error).__name__, f"{error}\n{self._said}".strip()

    def _cell_starts(self, cell: NotebookNode, cell_index: int) -> None:
        if cell_index in self._places:
            self._at, self._cell_began = self._places[cell_index], time.monotonic()
            self._at_cell(*self._places[cell_index])

    def _cell_executed(self, cell: NotebookNode, cell_index: int, execute_reply: Any) -> None:
        leaves = (part.get("source") for part in execute_reply["content"].get("payload", []))
        if "ask_exit" in leaves:  # to nbclient, a cell that calls `exit()` has gone well
            raise RuntimeError("the cell left by exit() or quit(), which ends a session, not a run")
        if cell_index in self._places:
            seconds = round(time.monotonic() - self._cell_began, 3)
            self._cells.append({"number": self._at[0], "seconds": seconds})
