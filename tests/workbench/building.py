"""Small notebooks for tests, and a progress that remembers."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fedlab.workbench.batch.records import Record
from fedlab.workbench.batch.runner import Progress, Run, Settings

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def notebook(*cells: str | NotebookNode, parameters: str | None = None) -> NotebookNode:
    """A notebook: text that starts with `#` and a space, or with a bar, is Markdown, else code."""
    made = [_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    if parameters is not None:
        made.insert(1, new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    return new_notebook(cells=made, metadata=KERNEL)


def text(source: str) -> NotebookNode:
    return new_markdown_cell(source)


def write(node: NotebookNode, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(node, path)
    return path


def _cell(source: str) -> NotebookNode:
    markdown = source.startswith(("# ", "## ", "|"))
    return new_markdown_cell(source) if markdown else new_code_cell(source)


def settings(folder: Path, **changed: object) -> Settings:
    """Settings whose every folder lies in `folder`."""
    given = {"folder": folder / "out", "cache": folder / "cache"}
    return Settings(**{**given, **changed})  # type: ignore[arg-type]


@dataclass
class Memory(Progress):
    """Remembers what it was told."""

    begun: list[str] = field(default_factory=list)
    cells: list[tuple[str, int, str]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    ended: list[Record] = field(default_factory=list)

    def started(self, run: Run) -> None:
        self.begun.append(run.notebook.name)

    def cell(self, run: Run, number: int, label: str) -> None:
        self.cells.append((run.notebook.name, number, label))

    def tick(self) -> None:
        pass

    def reused(self, record: Record) -> None:
        self.taken.append(record.name)

    def finished(self, record: Record) -> None:
        self.ended.append(record)


def gone(process: int, within: float = 10.0) -> bool:
    """Whether a process ends; a zombie that nobody waits for has ended."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{process}/status")
        if status.exists() and "State:\tZ" in status.read_text():
            return True
        time.sleep(0.05)
    return False


def numbers(path: Path) -> Sequence[int]:
    """Process ids that a notebook wrote down."""
    return [int(word) for word in path.read_text().split()]


LEAVE_A_CHILD = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open({path!r}, "w") as file:
    print(os.getpid(), os.getppid(), child.pid, file=file)
"""
