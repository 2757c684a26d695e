"""A notebook that takes an extra: where it is missing, it says so, and nothing fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from fedlab.core.extras import missing
from fedlab.workbench.batch import notebooks, runner
from fedlab.workbench.report import outputs, pages
from tests.workbench.building import Memory, notebook, settings, write

NODE = notebook(
    "# Take an extra\n\nIs it there?",
    "from fedlab.workbench.notebook import cells\ncells.begin(extra='text')",
    "print('ran')",
    "cells.answer('It is.')",
)


@pytest.fixture
def hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Let kernels and this process find, or not find, what the extra brings."""
    described = tmp_path / "site" / "fedlab_workbench-0.dist-info" / "METADATA"
    described.parent.mkdir(parents=True)
    named = "Metadata-Version: 2.1\nName: fedlab-workbench\nVersion: 0\nProvides-Extra: text\n"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def hide(it: bool) -> None:
        needs = "Requires-Dist: nowhere-at-all>=2; extra == 'text'\n" if it else ""
        described.write_text(named + "Requires-Dist: numpy; extra == 'text'\n" + needs)

    return hide


def test_without_it_the_page_names_it_and_with_it_the_notebook_runs(
    tmp_path: Path, hidden: Callable[[bool], None]
) -> None:
    write(NODE, tmp_path / "notebooks" / "01_take.ipynb")
    [found] = notebooks.numbered(tmp_path / "notebooks")
    runs, memory = [runner.Run.of(found)], Memory()

    def execute() -> Any:
        [record] = runner.execute(runs, settings(tmp_path), memory)
        return record, nbformat.read(tmp_path / "out" / "01_take.ipynb", as_version=4)

    hidden(True)
    assert missing("text") == ["nowhere-at-all"]
    record, node = execute()
    assert (record.status, record.lacks) == ("completed", "text")
    assert "nowhere-at-all can't be found" in record.answer
    assert [len(cell.get("outputs", [])) for cell in node.cells if cell.cell_type == "code"] == [
        1,
        0,
        0,
    ]
    assert pages.write_report([record], tmp_path / "out", tmp_path / "notebooks", tmp_path) == ()
    for page in ("01_take.html", "index.html"):
        assert "make report EXTRAS=text" in (tmp_path / page).read_text()
    assert execute()[0] == record
    assert memory.taken == ["01_take"]

    hidden(False)
    record, node = execute()
    assert (record.lacks, record.answer) == ("", "It is.")
    assert outputs.lacking(node) == ""


def test_an_extra_that_comes_while_the_kernel_runs_is_found(
    tmp_path: Path, hidden: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    from fedlab.workbench.notebook import cells

    shell = InteractiveShell()  # type: ignore[no-untyped-call]
    shown: list[Any] = []
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr(cells, "_display", lambda data, metadata: shown.append(data))
    hidden(True)
    cells.begin(extra="text")
    assert len(shown) == 1
    shell.run_cell("ran = 1")
    assert "ran" not in shell.user_ns
    hidden(False)
    shell.run_cell("ran = 2")
    assert shell.user_ns["ran"] == 2


def test_an_extra_that_is_none_is_refused() -> None:
    from fedlab.workbench.notebook import cells

    with pytest.raises(ValueError, match="no extra 'llms'"):
        cells.begin(extra="llms")
