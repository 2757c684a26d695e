"""Names, imports and files that prose cites exist: in docstrings, README.md, docs, notebooks.

Code in README.md and docs runs, and the commands there are ones that the command lines take.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pkgutil import resolve_name

import pytest

from fedlab.workbench.batch.cli import _joined, _parser
from tests.apart import OF_FLOWER

ROOT = Path(__file__).resolve().parents[1]
#: Backticked, once or twice: `fedlab.x.Y`, also with a call behind it.
CITED = re.compile(r"`(fedlab(?:\.\w+)+)(?:\(\S*?\))?`")
#: Commands are cited too: ``python -m fedlab.workbench run``.
RUN = re.compile(r"-m (fedlab(?:\.\w+)+)")
FILE = re.compile(r"\b(?:fedlab|tests|notebooks|benchmarks|docs)/[\w/]+\.(?:py|ipynb|md|png)\b")
#: A block of code, or of commands, with the text before it, which says where it stands.
BLOCK = re.compile(r"(.*?)^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
IMPORTED = re.compile(r"from (fedlab[\w.]*) import (\((?:[^)]*)\)|[\w, ]+)")

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """Yield a page's blocks of a language ("" is that of commands), with their first lines."""
    line = 1
    for before, said, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        line += before.count("\n") + 1
        if said == language:
            yield line, block
        line += block.count("\n")


def texts() -> list[Path]:
    found = [*ROOT.glob("fedlab/**/*.py"), *PAGES]
    found += [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("benchmarks/**/*.py")]
    found += [ROOT / "data" / "README.md", ROOT / "pyproject.toml", ROOT / "Makefile"]
    return sorted(path for path in found if "checkpoint.ipynb" not in path.name)


@cache
def exists(name: str) -> bool:
    try:
        resolve_name(name)
    except (AttributeError, ImportError):
        return _is_annotated(name) or _is_of_flower(name)
    return True


def _is_of_flower(name: str) -> bool:
    """Whether a module, or a name in one, can be imported in Flower's environment alone."""
    *room, module = name.split(".")[:3]
    file, rest = "/".join([*room, f"{module}.py"]), name.split(".")[3:]
    return file in OF_FLOWER and all(f"def {part}(" in (ROOT / file).read_text() for part in rest)


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


def with_blocks(language: str) -> list[Path]:
    return [page for page in PAGES if any(blocks(page, language))]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.filterwarnings("ignore:.* remarks were made in this run")
@pytest.mark.parametrize("page", with_blocks("python"), ids=named)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks of a page, one after another, in an empty folder."""
    if "from torch import" in page.read_text(encoding="utf-8"):
        pytest.importorskip("torch", reason="torch is not installed (the extra torch)")
    if "from fedlab.privacy.accounting import" in page.read_text(encoding="utf-8"):
        reason = "dp-accounting is not installed (the extra privacy)"
        pytest.importorskip("dp_accounting", reason=reason)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for line, block in blocks(page, "python"):
        code = compile("\n" * (line - 1) + block, str(page), "exec", dont_inherit=True)
        exec(code, names)


@pytest.mark.parametrize("page", with_blocks(""), ids=named)
def test_the_commands_of_a_page_are_taken(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for _, block in blocks(page, ""):
        for line in block.splitlines():
            command, *given = shlex.split(line, comments=True) or [""]
            if command == "make" and given:
                assert given[0] in targets, line
            elif given[:2] == ["-m", "fedlab.workbench"] and len(given) > 2:
                _parser().parse_args(_joined(given[2:]))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_links_of_a_page_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_algorithm_has_its_line() -> None:
    from fedlab import algorithms

    page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 and all(row) for row in rows)
    others = {"Algorithm", "Memory", "Stateless", "TextMemory", "WithServer", "by_name"}
    assert sorted(row[0].strip("`") for row in rows) == sorted(
        {*algorithms.__all__} - others | {*algorithms._WITH_SERVER}
    )
