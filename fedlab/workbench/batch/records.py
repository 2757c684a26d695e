"""What is known of a run: one small JSON file, written last, whole or not at all.

papermill's own metadata says `completed` for cells that never ran, so a run counts only when its
record stands, belongs to the same inputs, and its executed notebook has the digest that it names.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from fedlab.files import atomic
from fedlab.workbench.batch.notebooks import ROOT, Notebook, load

FORMAT = 1
_HASHED = ("*.py", "*.mplstyle")


@dataclass(frozen=True)
class Failure:
    """Why a run didn't end well: the error, and the code cell (from 1) that it happened in."""

    name: str
    message: str
    cell: int | None = None
    label: str = ""


@dataclass(frozen=True)
class Record:
    """One run of one notebook.

    `status` is `completed` or `failed`; `seconds` is wall time, `cells` the number and the
    seconds of each code cell that ended; `set_parameters` are those that were given, `parameters`
    all of them.
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
    digest: str
    executed_digest: str
    versions: dict[str, str]
    command: str
    papermill: str
    answer: str = ""
    error: Failure | None = None
    format: int = field(default=FORMAT)

    def write(self, path: Path) -> None:
        """Write the record to `path`, whole or not at all."""
        atomic.write_bytes(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """Read the record at `path`; None if there is none, or none of this format."""
        try:
            content = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            return None
        error = content.pop("error", None)
        try:
            return cls(**content, error=Failure(**error) if error else None)
        except TypeError:
            return None


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = {"fedlab": "fedlab-workbench", "numpy": "numpy", "usearch": "usearch"}
    found = {name: version(package) for name, package in packages.items()}
    return {"python": platform.python_version(), **found}


def digest(notebook: Notebook, parameters: Mapping[str, Any], data: Path) -> str:
    """Digest everything that a run's result depends on.

    Cell sources and tags (not outputs: opening a notebook in JupyterLab changes nothing),
    parameters, `fedlab`'s own sources, the list of data sources, which data were there, versions.
    """
    node = load(notebook.path)
    inputs = {
        "cells": [[c.cell_type, c.source, c.metadata.get("tags", [])] for c in node.cells],
        "parameters": dict(parameters),
        "sources": _sources(),
        "data": _data(data),
        "versions": {**versions(), **_dependencies()},
    }
    return sha256(json.dumps(inputs, sort_keys=True).encode())


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


@cache
def _sources() -> dict[str, str]:
    package = ROOT / "fedlab"
    found = sorted(path for pattern in _HASHED for path in package.rglob(pattern))
    found.append(ROOT / "data" / "sources.toml")
    return {path.relative_to(ROOT).as_posix(): sha256(path.read_bytes()) for path in found}


@cache
def _dependencies() -> dict[str, str]:
    # What the core is declared to need, without the extras: a new test tool changes no result.
    declared = [need for need in requires("fedlab-workbench") or [] if "extra ==" not in need]
    names = [re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in declared]
    return {name: version(name) for name in names}


def _data(folder: Path) -> list[Any]:
    # Pulled files are checked against pinned hashes when loaded, so their sizes are enough here.
    inside = ((path.relative_to(folder), path) for path in folder.rglob("*") if path.is_file())
    return sorted(
        [name.as_posix(), path.stat().st_size]
        for name, path in inside
        if not any(part.startswith(".") for part in name.parts)
    )
