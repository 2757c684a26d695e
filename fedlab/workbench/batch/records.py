"""What is known of a run: one small JSON file, written last, whole or not at all.

papermill's own metadata says `completed` for cells that never ran, so a run counts only when its
record stands, belongs to the same inputs, and its executed notebook has the digest that it names.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fedlab.study.records import AnyRecord
from fedlab.study.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Record(AnyRecord):
    """One run of one notebook.

    `status` is `completed` or `failed`; `cells` has the number and the seconds of each code cell
    that ended; `set_parameters` are those that were given, `parameters` all of them. `recorded` is
    what the notebook gave to `fedlab.workbench.notebook.cells.record`; `source` is a digest of the
    notebook, `trace` what the run depended on besides, as far as it ran to its end. `lacks` is the
    extra for want of which the notebook did nothing; `checked` says what came of running it twice.
    """

    name: str
    notebook: str
    title: str
    question: str
    set_parameters: dict[str, Any]
    cells: list[dict[str, Any]]
    executed_digest: str
    versions: dict[str, str]
    papermill: str
    answer: str = ""
    trace: Trace | None = None
    lacks: str = ""
    checked: str = ""
    format: int = 2


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = {"fedlab": "fedlab-workbench", "numpy": "numpy", "usearch": "usearch"}
    found = {name: version(package) for name, package in packages.items()}
    return {"python": platform.python_version(), **found}
