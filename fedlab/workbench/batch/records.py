"""What is known of a run: one small JSON file, written last, whole or not at all.

papermill's own metadata says `completed` for cells that never ran, so a run counts only when its
record stands, belongs to the same inputs, and its executed notebook has the digest that it names.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedlab.files import atomic
from fedlab.study.records import Failure, sha256
from fedlab.study.trace import Trace
from fedlab.workbench.batch.notebooks import Notebook, load

FORMAT = 2


@dataclass(frozen=True)
class Record:
    """One run of one notebook.

    `status` is `completed` or `failed`; `seconds` is wall time, `cells` the number and the
    seconds of each code cell that ended; `set_parameters` are those that were given, `parameters`
    all of them. `recorded` is what the notebook gave to `fedlab.workbench.notebook.cells.record`;
    `source` is a digest of the notebook, `trace` what the run depended on besides, as far as it ran
    to its end. `lacks` is the extra for want of which the notebook did nothing; `checked` says
    what came of running it twice.
    """

    name: str
    notebook: str
    title: str
    question: str
    status: str
    parameters: dict[str, Any]
    set_parameters: dict[str, Any]
    started: str
    seconds: float
    cells: list[dict[str, Any]]
    executed_digest: str
    versions: dict[str, str]
    command: str
    papermill: str
    answer: str = ""
    error: Failure | None = None
    recorded: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    trace: Trace | None = None
    lacks: str = ""
    checked: str = ""
    format: int = field(default=FORMAT)

    def write(self, path: Path) -> None:
        """Write the record to `path`, whole or not at all."""
        atomic.write_bytes(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """Read the record at `path`; None if there is none, or none of this format."""
        try:
            content = dict(json.loads(path.read_bytes()))
            error, trace = content.pop("error", None), content.pop("trace", None)
            record = cls(
                **content,
                error=Failure(**error) if error else None,
                trace=Trace(**trace) if trace else None,
            )
        except (FileNotFoundError, ValueError, TypeError):  # another program's file is no mistake
            return None
        return record if record.format == FORMAT else None


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = {"fedlab": "fedlab-workbench", "numpy": "numpy", "usearch": "usearch"}
    found = {name: version(package) for name, package in packages.items()}
    return {"python": platform.python_version(), **found}


def source_digest(notebook: Notebook) -> str:
    """Digest a notebook's cells and tags: without outputs, which opening it may change."""
    cells = load(notebook.path).cells
    return digest([[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in cells])


def digest(part: object) -> str:
    """Digest a value that JSON can write."""
    return sha256(json.dumps(part, sort_keys=True).encode())
