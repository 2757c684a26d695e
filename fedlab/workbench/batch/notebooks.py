"""The numbered notebooks: where they are, what each asks, which parameters it takes."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlab.study.parameters import Parameter, ParameterError, parse
from fedlab.study.records import sha256

if TYPE_CHECKING:
    from nbformat import NotebookNode

#: How long one notebook may take unless something else is said.
LIMIT_SECONDS = 3600.0

#: The clone that this package was imported from.
ROOT = Path(__file__).resolve().parents[3]
#: The tag of the cell in which papermill sets values.
INJECTED = "injected-parameters"
_NUMBERED = re.compile(r"\d\d_\w+\.ipynb")


@dataclass(frozen=True)
class Notebook:
    """What a notebook says of itself before it is run; or, in `broken`, why it can't be read."""

    path: Path
    title: str
    question: str
    parameters: tuple[Parameter, ...]
    broken: str = ""

    @property
    def name(self) -> str:
        """The file's name without its ending: `04_see_non_iid`."""
        return self.path.stem

    @property
    def shown_path(self) -> str:
        """The path as a reader in the clone would type it; only the name if it lies elsewhere."""
        path = self.path.resolve()
        return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name

    def source(self) -> str:
        """Return the digest of its cells as they are now."""
        return digest(load(self.path))

    @classmethod
    def read(cls, path: Path) -> Notebook:
        """Read the notebook at `path`.

        Raises
        ------
        ParameterError
            When two cells are tagged `parameters`, or the one cell can't be read; when values were
            set in it for a run, as papermill does: they would win over those that are recorded.
        """
        node = load(path)
        declared = [cell for cell in node.cells if has_tag(cell, "parameters")]
        if any(has_tag(cell, INJECTED) for cell in node.cells):
            raise ParameterError(
                f"{path} is an executed notebook with values of its own, in a cell tagged "
                f"`{INJECTED}`: run its source, or remove that cell"
            )
        if len(declared) > 1:
            raise ParameterError(
                f"{path.stem}: {len(declared)} cells are tagged `parameters`, not 1"
            )
        title, question = headline(node)
        try:
            parameters = parse(declared[0].source) if declared else ()
        except ParameterError as error:
            raise ParameterError(f"{path.stem}: {error}") from None
        return cls(path, title or path.stem, question, parameters)


def load(path: Path) -> NotebookNode:
    """Read the file of a notebook, brought to the current format.

    Raises
    ------
    ValueError
        When it is no notebook; the message says what is wrong with it.
    """
    import nbformat
    from nbformat.validator import normalize

    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
        read = json.loads(text)
        if not isinstance(read, dict) or "nbformat" not in read:
            raise ValueError("it is JSON, but has no `nbformat`")
        node: NotebookNode = nbformat.convert(nbformat.reader.reads(text), 4)  # type: ignore[no-untyped-call]
        with warnings.catch_warnings(action="ignore"):  # older tools left cells without ids
            _, node = normalize(node)
        # Outputs aside: a run drops them, and a page shows what of them it can.
        checked = [cell | {"outputs": []} if "outputs" in cell else cell for cell in node.cells]
        nbformat.validate(node | {"cells": checked}, relax_add_props=True)
    except Exception as error:  # what nbformat makes of a file that is none has no common class
        reason = getattr(error, "message", "") or str(error)
        wrong = next(iter(reason.splitlines()), "") or type(error).__name__
        raise ValueError(f"{path} is no notebook that can be read: {wrong}") from error
    return node


def digest(node: NotebookNode) -> str:
    """Return a digest of cells and tags: without outputs, which opening a notebook may change."""
    told = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in node.cells]
    return sha256(json.dumps(told, sort_keys=True).encode())


def dump(node: NotebookNode) -> bytes:
    """Return the file of a notebook."""
    import nbformat

    return str(nbformat.writes(node)).encode()  # type: ignore[no-untyped-call]


def has_tag(cell: NotebookNode, tag: str) -> bool:
    """Whether a cell carries a tag."""
    return tag in cell.metadata.get("tags", [])


def inject(node: NotebookNode, values: Mapping[str, Any]) -> None:
    """Put a cell that sets `values` behind the `parameters` cell, as papermill does.

    papermill itself would write a tuple as a text.
    """
    from nbformat.v4 import new_code_cell

    place = next(i for i, cell in enumerate(node.cells) if has_tag(cell, "parameters"))
    lines = ["# Parameters", *(f"{name} = {value!r}" for name, value in values.items())]
    made = new_code_cell("\n".join(lines), metadata={"tags": [INJECTED]})  # type: ignore[no-untyped-call]
    if "id" not in node.cells[place]:  # before nbformat 4.5 a cell has none
        del made["id"]
    node.cells.insert(place + 1, made)


def imports(node: NotebookNode) -> list[str]:
    """Return what a notebook's kernel is going to import: its own modules, and Jupyter's.

    What lies beside it is left out, since that is its own to import.
    """
    found = {"ipykernel.kernelapp", "ipykernel.ipkernel", "matplotlib_inline.backend_inline"}
    for cell in node.cells:
        with suppress(SyntaxError):  # IPython's own commands
            for line in ast.walk(ast.parse(cell.source if cell.cell_type == "code" else "")):
                if isinstance(line, ast.Import):
                    found |= {name.name for name in line.names}
                elif isinstance(line, ast.ImportFrom) and line.module and not line.level:
                    found |= {line.module, *(f"{line.module}.{name.name}" for name in line.names)}
    return sorted(found)


def headline(node: NotebookNode) -> tuple[str, str]:
    """Title and question: the first heading, and the paragraph that follows it."""
    for cell in node.cells:
        if cell.cell_type != "markdown":
            continue
        before, heading, after = cell.source.partition("# ")
        if not heading or before.strip():
            return "", ""
        title, _, rest = after.partition("\n")
        paragraphs = [part.strip() for part in re.split(r"\n\s*\n", rest) if part.strip()]
        return title.strip(), " ".join(paragraphs[0].split()) if paragraphs else ""
    return "", ""


def labels(node: NotebookNode) -> dict[int, str]:
    """For each code cell of its own that has something to run, its position and what it is about.

    That is the heading which it is the first code cell under, otherwise its own first line.
    """
    found: dict[int, str] = {}
    heading = ""
    for index, cell in enumerate(node.cells):
        if cell.cell_type == "markdown":
            titles = re.findall(r"^#{1,6}\s+(.+)$", cell.source, flags=re.MULTILINE)
            heading = titles[-1].strip() if titles else heading
        elif cell.source.strip() and cell.cell_type == "code" and not has_tag(cell, INJECTED):
            found[index] = heading or cell.source.strip().splitlines()[0]
            heading = ""
    return found


def numbered(folder: Path) -> list[Notebook]:
    """Return the numbered notebooks in `folder`, in order; one that can't be read is `broken`.

    Raises
    ------
    FileNotFoundError
        When there is none.
    """
    paths = sorted(path for path in folder.glob("*.ipynb") if _NUMBERED.fullmatch(path.name))
    if not paths:
        raise FileNotFoundError(f"there is no numbered notebook (NN_name.ipynb) in {folder}")
    return [*map(_read_or_broken, paths)]


def _read_or_broken(path: Path) -> Notebook:
    try:
        return Notebook.read(path)
    except (ValueError, OSError) as error:
        return Notebook(path, path.stem, "", (), broken=str(error))


def find(text: str, folder: Path) -> Notebook:
    """Find a notebook by its number (`04`), its name (`see_non_iid`) or its path.

    Raises
    ------
    FileNotFoundError
        When there is none, or more than one; the message lists those that exist.
    """
    path = Path(text)
    if path.suffix == ".ipynb" and path.is_file():
        return Notebook.read(path)
    wanted = f"{int(text):02d}" if text.isdigit() else path.stem
    paths = sorted(folder.glob("*.ipynb"))
    matches = [p for p in paths if wanted in (p.stem, p.stem[:2], p.stem[3:])]
    if len(matches) != 1:
        known = ", ".join(p.stem for p in paths) or f"none in {folder}"
        several = f" names {len(matches)} notebooks" if matches else " names no notebook"
        raise FileNotFoundError(f"{text!r}{several}; there are: {known}")
    return Notebook.read(matches[0])
