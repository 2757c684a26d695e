"""Says how a batch run goes: in place on a terminal, as sparse log lines anywhere else."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from typing import TextIO

from fedlab.workbench.batch.notebooks import labels, load
from fedlab.workbench.batch.records import Record
from fedlab.workbench.batch.runner import Progress, Run
from fedlab.workbench.batch.terminal import say

# A terminal is drawn this often. In a log, no line comes sooner than this after another, or while
# the same cell runs.
_DRAW_SECONDS, _LOG_SECONDS, _SAME_CELL_SECONDS = 0.5, 5.0, 20.0


class Console(Progress):
    """Prints which notebook and cell run, since when, and what is next.

    Parameters
    ----------
    runs : sequence of Run
        What is going to run, in order.
    stream : text file
        Where to; a terminal gets one line that is redrawn, a file gets a line now and then
        besides those for the start and the end of a notebook.
    """

    def __init__(self, runs: Sequence[Run], stream: TextIO) -> None:
        self._stream, self._live = stream, stream.isatty()
        self._names = [run.notebook.name for run in runs]
        readable = [run.notebook for run in runs if not run.notebook.broken]
        self._cells = {notebook.name: len(labels(load(notebook.path))) for notebook in readable}
        self._next = [*self._cells]
        self._at: dict[str, tuple[float, int, str]] = {}
        self._said, self._moved = 0.0, False

    def reused(self, record: Record) -> None:
        """Say that nothing has changed since this run."""
        self._next.remove(record.name)
        self._line(f"{self._place(record.name)} unchanged, {record.seconds:.0f} s when it ran")

    def stale(self, record: Record, parts: Sequence[str]) -> None:
        """Say what has changed since a run, so that it no longer stands."""
        changed = ", ".join(parts)
        self._line(f"{self._place(record.name)} has changed since {record.started}: {changed}")

    def started(self, run: Run) -> None:
        """Say which notebook starts, and what comes after it."""
        name = run.notebook.name
        if name in self._next:  # `check` starts it twice
            self._next.remove(name)
        self._at[name] = (time.monotonic(), 0, "starting a kernel")
        if not self._live:
            self._line(f"{self._place(name)} starts, {self._cells[name]} cells{self._after()}")

    def cell(self, run: Run, number: int, label: str) -> None:
        """Take note of the cell that runs."""
        name = run.notebook.name
        self._at[name] = (self._at[name][0], number, label)
        self._moved = True

    def tick(self) -> None:
        """Draw the line anew, or write one if some time has gone by."""
        every = _LOG_SECONDS if self._moved else _SAME_CELL_SECONDS
        if not self._at or time.monotonic() - self._said < (_DRAW_SECONDS if self._live else every):
            return
        self._moved, said = False, [self._status(name) for name in self._at]
        if not self._live:
            for line in said:
                self._line(line)
            return
        width = shutil.get_terminal_size().columns - 1
        say(f"\r\x1b[K{(' | '.join(said) + self._after())[:width]}", self._stream)
        self._said = time.monotonic()

    def finished(self, record: Record) -> None:
        """Say how a notebook ended."""
        self._at.pop(record.name, None)
        place = self._place(record.name)
        if record.error is None:
            without = f"; it takes the extra {record.lacks}" if record.lacks else ""
            self._line(f"{place} done in {record.seconds:.1f} s{without}")
            return
        error = record.error
        message = (error.message.splitlines() or [""])[0]
        where = f" in cell {error.cell} of {self._cells[record.name]}" if error.cell else ""
        self._line(f"{place} FAILED{where} after {record.seconds:.1f} s: {error.name}: {message}")

    def _place(self, name: str) -> str:
        return f"[{self._names.index(name) + 1}/{len(self._names)}] {name}"

    def _after(self) -> str:
        return f"; next: {self._next[0]}" if self._next else "; the last one"

    def _status(self, name: str) -> str:
        began, number, label = self._at[name]
        where = f"cell {number}/{self._cells[name]}: {label}" if number else label
        return f"{self._place(name)} {where}, {time.monotonic() - began:.0f} s"

    def _line(self, text: str) -> None:
        say(f"\r\x1b[K{text}\n" if self._live else f"{text}\n", self._stream)
        self._said = time.monotonic()
