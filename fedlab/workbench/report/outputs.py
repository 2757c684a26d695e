"""What a notebook said to its report: roles in the metadata of its outputs.

`notebook.cells` writes them; they survive papermill, JupyterLab and a round through git.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from nbformat import NotebookNode

from fedlab.study.results import scalars

#: The key in an output's metadata.
KEY = "fedlab"
_BANNER = "papermill-error-cell-tag"
FIGURE, ANSWER, PROVENANCE, CONTENTS = ("figure", "answer", "provenance", "contents")
RECORD = "record"


def answer(node: NotebookNode) -> str:
    """Return the notebook's answer, as Markdown; the last one if it gave several."""
    texts = [output.data.get("text/markdown", "") for output in _with_role(node, ANSWER)]
    return str(texts[-1]) if texts else ""


def lacking(node: NotebookNode) -> str:
    """Return the extra for want of which a notebook did nothing; empty if it ran."""
    found = [str(one.metadata[KEY].get("lacks", "")) for one in _with_role(node, ANSWER)]
    return found[-1] if found else ""


def provenance(node: NotebookNode) -> list[str]:
    """Return what the notebook said of its data, each thing once."""
    texts = [output.data.get("text/plain", "") for output in _with_role(node, PROVENANCE)]
    return list(dict.fromkeys(line for text in texts for line in text.splitlines() if line))


def recorded(node: NotebookNode) -> dict[str, Any]:
    """Return the values that the notebook recorded, or its answer names; of one name, the last."""
    found: dict[str, Any] = {}
    for role in (ANSWER, RECORD):
        for output in _with_role(node, role):
            found |= scalars(output.metadata[KEY].get("values", {}))
    return found


def is_record(output: NotebookNode) -> bool:
    """Whether an output is what `recorded` reads: a page shows all of these at one place."""
    return _marks(output).get("role") == RECORD


def main_figure(node: NotebookNode) -> NotebookNode | None:
    """Return the output that shows the main figure: the one so marked, else the first."""
    figures = list(_with_role(node, FIGURE))
    marked = [figure for figure in figures if figure.metadata[KEY].get("main")]
    return marked[-1] if marked else figures[0] if figures else None


def alternative_text(output: NotebookNode) -> str:
    """Return what a figure shows, in words; empty if nobody said."""
    return str(_marks(output).get("alt", ""))


def without_banners(node: NotebookNode) -> NotebookNode:
    """A copy without the cells that papermill puts into the notebook of a failed run."""
    copy: NotebookNode = deepcopy(node)
    copy.cells = [cell for cell in copy.cells if _BANNER not in cell.metadata.get("tags", [])]
    return copy


def _with_role(node: NotebookNode, role: str) -> Iterator[NotebookNode]:
    for cell in node.cells:
        for output in cell.get("outputs", []):
            if _marks(output).get("role") == role:
                yield output


def _marks(output: NotebookNode) -> dict[str, Any]:
    marks = output.get("metadata", {}).get(KEY, {})
    return marks if isinstance(marks, dict) else {}
