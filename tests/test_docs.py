"""Names, imports and files that prose cites exist: in docstrings, README.md, docs, notebooks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pkgutil import resolve_name

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Backticked, once or twice: `fedlab.x.Y`, also with a call behind it.
CITED = re.compile(r"`(fedlab(?:\.\w+)+)(?:\(\S*?\))?`")
#: Commands are cited too: ``python -m fedlab.workbench run``.
RUN = re.compile(r"-m (fedlab(?:\.\w+)+)")
FILE = re.compile(r"\b(?:fedlab|tests|notebooks|benchmarks|docs)/[\w/]+\.(?:py|ipynb|md|png)\b")
IMPORTED = re.compile(r"from (fedlab[\w.]*) import (\((?:[^)]*)\)|[\w, ]+)")


def texts() -> list[Path]:
    found = [*ROOT.glob("fedlab/**/*.py"), *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    found += [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("benchmarks/**/*.py")]
    found += [ROOT / "data" / "README.md", ROOT / "pyproject.toml", ROOT / "Makefile"]
    return sorted(path for path in found if "checkpoint.ipynb" not in path.name)


@cache
def exists(name: str) -> bool:
    try:
        resolve_name(name)
    except (AttributeError, ImportError):
        return _is_annotated(name)
    return True


def _is_annotated(name: str) -> bool:
    """Whether a class has a field without a default, which is no attribute of the class."""
    owner, _, field = name.rpartition(".")
    try:
        return field in resolve_name(owner).__annotations__
    except (AttributeError, ImportError, ValueError):
        return False


def wrong(text: str) -> Iterator[str]:
    """Yield the names that a text cites or imports, and nothing has."""
    cited = {*CITED.findall(text), *RUN.findall(text)}
    for module, names in IMPORTED.findall(text):
        cited |= {f"{module}.{name}" for name in re.findall(r"\w+", _plain(names))}
    yield from sorted(name for name in cited if not exists(name))
    yield from sorted(file for file in set(FILE.findall(text)) if not (ROOT / file).is_file())


def _plain(names: str) -> str:
    """Return the imported names alone, without what they are called here."""
    return re.sub(r"\bas \w+|#.*|\\n|[\"\\]", " ", names)


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_cited_names_exist(path: Path) -> None:
    assert not list(wrong(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("`fedlab.VectorIndex.search` and ``fedlab.index.scan.scan(rows)``", []),
        ("see fedlab/nothing.py, README.md and tests/test_docs.py", ["fedlab/nothing.py"]),
        ("`fedlab.index.nothing`", ["fedlab.index.nothing"]),
        ("``fedlab.VectorIndex.find(x)``", ["fedlab.VectorIndex.find"]),
        ("python -m fedlab.workbench; python -m fedlab.nothing", ["fedlab.nothing"]),
        ("`fedlab.index.certificate.Certificate.erased`", []),
        ("from fedlab.index import VectorIndex as V, Nothing", ["fedlab.index.Nothing"]),
        (
            '"from fedlab import (\\n",\n "    Device,\\n",\n "    Devices\\n",\n ")',
            ["fedlab.Devices"],
        ),
    ],
)
def test_a_wrong_name_is_found(text: str, names: list[str]) -> None:
    assert list(wrong(text)) == names
