"""What is known of a run: one small JSON file, written last, whole or not at all.

papermill's own metadata says `completed` for cells that never ran, so a run counts only when its
record stands, belongs to the same inputs, and its executed notebook has the digest that it names.
"""

from __future__ import annotations

import ast
import glob
import hashlib
import json
import os
import platform
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from fedlab.files import atomic
from fedlab.workbench.batch.notebooks import ROOT, Notebook, load

FORMAT = 1
_HASHED = ("*.py", "*.mplstyle")
# Texts' vectors, kept under a digest of what they were made of and by: results, no inputs.
_KEPT = "vectors"
# What a notebook may read without its whole name standing in a cell.
_BESIDE = ("*.csv*", "*.tsv*", "*.parquet", "*.xlsx", "*.np[yz]", "*.py")


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
    all of them. `recorded` is what the notebook gave to `fedlab.workbench.notebook.cells.record`;
    `inputs` has a digest for each part of what the result depends on, `made` are files that the run
    itself left behind. `lacks` is the extra for want of which the notebook did nothing.
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
    inputs: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    lacks: str = ""
    format: int = field(default=FORMAT)

    def write(self, path: Path) -> None:
        """Write the record to `path`, whole or not at all."""
        atomic.write_bytes(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """Read the record at `path`; None if there is none, or none of this format."""
        try:
            content = dict(json.loads(path.read_bytes()))
            error = content.pop("error", None)
            record = cls(**content, error=Failure(**error) if error else None)
        except (FileNotFoundError, ValueError, TypeError):  # another program's file is no mistake
            return None
        return record if record.format == FORMAT else None


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = {"fedlab": "fedlab-workbench", "numpy": "numpy", "usearch": "usearch"}
    found = {name: version(package) for name, package in packages.items()}
    return {"python": platform.python_version(), **found}


def inputs(
    notebook: Notebook,
    parameters: Mapping[str, Any],
    data: Mapping[str, str],
    made: Collection[str] = (),
) -> dict[str, Any]:
    """Return everything that a run's result depends on, part by part.

    Cell sources and tags (not outputs: opening a notebook in JupyterLab changes nothing),
    parameters, files that the notebook may read, `fedlab`'s own sources, data, versions.

    Parameters
    ----------
    notebook : Notebook
    parameters : mapping
        All of them, with the defaults.
    data : mapping
        The `contents` of the data folder.
    made : collection of str
        Files that an earlier run of it left behind.
    """
    cells = load(notebook.path).cells
    read = files(notebook, parameters)
    return {
        "cells": [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in cells],
        "parameters": dict(parameters),
        "files": {path: held for path, held in read.items() if path not in made},
        "fedlab's sources": _sources(),
        "data": {path: held for path, held in data.items() if Path(path).parts[0] != _KEPT},
        "versions": {**versions(), **_dependencies()},
    }


def digest(part: object) -> str:
    """Digest a value that JSON can write."""
    return sha256(json.dumps(part, sort_keys=True).encode())


def files(notebook: Notebook, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Digest the files that a notebook may read, links followed.

    These are tables and modules beside it, and files and folders that a text in its cells or a
    parameter names; an f-string or a pattern names all that fit it.
    """
    folder = notebook.path.resolve().parent
    sources = [cell.source for cell in load(notebook.path).cells if cell.cell_type == "code"]
    texts = {text for source in (*sources, repr(dict(parameters))) for text in _literals(source)}
    found: dict[str, str] = {}
    for pattern in sorted({*_BESIDE, *filter(re.compile(r"\w").search, texts)}):
        for path in (folder / name for name in glob.glob(pattern, root_dir=folder, recursive=True)):
            if path.is_file():
                found[str(path)] = _content(path)
            # "../.." and "/tmp" are said in passing; a parameter means what it says.
            elif (pattern in parameters.values() or not os.path.isabs(pattern)) and (
                not folder.is_relative_to(os.path.abspath(path))
            ):
                found |= {str(path / inside): held for inside, held in contents(path).items()}
    return found


def contents(folder: Path) -> dict[str, str]:
    """Digest each file in a folder by its content, links followed, what is hidden left out."""
    return {str(path.relative_to(folder)): _content(path) for path in sorted(_walk(folder))}


def _walk(folder: Path, seen: frozenset[str] = frozenset()) -> Iterator[Path]:
    real = os.path.realpath(folder)
    # A link may lead back up.
    if folder.is_dir() and os.access(folder, os.R_OK) and real not in seen:
        for path in folder.iterdir():
            if not path.name.startswith("."):
                yield from [path] if path.is_file() else _walk(path, seen | {real})


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:  # the run can't read it either
        return f"unreadable: {error.strerror}"


def _literals(source: str) -> Iterator[str]:
    """Yield a cell's texts, with a star for what an f-string fills in."""
    with suppress(SyntaxError):  # IPython's own commands
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Constant(value=str() as text):
                    yield text
                case ast.JoinedStr(values=parts):
                    yield "".join(
                        str(p.value) if isinstance(p, ast.Constant) else "*" for p in parts
                    )


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
    # Without the tests' tools: another of those changes no result.
    declared = [need for need in requires("fedlab-workbench") or [] if "== 'test'" not in need]
    found = {}
    for name in {re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in declared}:
        with suppress(PackageNotFoundError):  # an extra that nobody installed
            found[name] = version(name)
    return found
