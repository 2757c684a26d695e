"""A notebook as what a study runs over and over."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from fedlab.files import atomic
from fedlab.study.records import NOTEBOOK
from fedlab.study.results import RUN_FOLDER
from fedlab.study.scrub import scrub, without_paths
from fedlab.study.targets import Ended, Share
from fedlab.workbench.batch import notebooks
from fedlab.workbench.batch.commands import workbench_line
from fedlab.workbench.batch.notebooks import Notebook, dump, has_tag, load
from fedlab.workbench.batch.supervisor import NotebookRun

_MARKUP = ("text/html", "text/markdown", "text/latex")


@dataclass(frozen=True)
class NotebookTarget(Notebook):
    """A notebook with a cell of parameters, run in a kernel of its own (see `notebook_target`)."""

    @cached_property
    def unread(self) -> tuple[str, ...]:
        """Parameters whose names stand in no other cell; none, where a cell can't be read."""
        cells = load(self.path).cells
        code = [c.source for c in cells if c.cell_type == "code" and not has_tag(c, "parameters")]
        if any(line.lstrip().startswith(("%", "!")) for cell in code for line in cell.split("\n")):
            return ()
        read = {
            node.id
            for node in ast.walk(ast.parse("\n".join(code)))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
        return tuple(one.name for one in self.parameters if one.name not in read)

    def command(self, values: Mapping[str, Any]) -> str:
        """Return the line that runs it once."""
        defaults = {one.name: one.default for one in self.parameters}
        changed = {name: value for name, value in values.items() if value != defaults.get(name)}
        return workbench_line(self.shown_path, changed)

    def perform(self, values: Mapping[str, Any], folder: Path, share: Share) -> Ended:
        """Run it in a kernel of its own, and leave the executed notebook in `folder`."""
        ended = NotebookRun(self.path, values, share, {RUN_FOLDER: str(folder)}).execute()
        atomic.write_bytes(folder / NOTEBOOK, dump(_scrubbed(ended.node)))
        return ended


def notebook_target(notebook: str | os.PathLike[str]) -> NotebookTarget:
    """Return what a `fedlab.study.Study` takes to run a notebook.

    Parameters
    ----------
    notebook : str or path-like
        Its path, its number ("04"), or its name.

    Raises
    ------
    FileNotFoundError, fedlab.study.parameters.ParameterError
        If there is none, or its parameters can't be read.

    Examples
    --------
    >>> notebook_target("04").name
    '04_see_non_iid'
    """
    found = notebooks.find(os.fspath(notebook), notebooks.ROOT / "notebooks")
    # Whoever runs it may be in another folder.
    return NotebookTarget(**vars(found) | {"path": found.path.absolute()})


def _scrubbed(node: NotebookNode) -> NotebookNode:
    """Take this machine's folders out of what the cells printed; pictures stay as they are."""
    for cell in node.cells:
        for output in cell.get("outputs", []):
            for holder, name in _texts(output):
                # In markup a slash is much else: there only folders that are known are taken out.
                clean = scrub if name in _MARKUP else without_paths
                given = holder[name]
                holder[name] = [*map(clean, given)] if isinstance(given, list) else clean(given)
    return node


def _texts(output: Any) -> list[tuple[Any, str]]:
    found = [(output, name) for name in ("text", "evalue", "traceback") if name in output]
    data = output.get("data", {})
    return found + [(data, kind) for kind in data if kind.startswith("text/")]
