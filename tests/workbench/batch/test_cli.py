"""The command line: one notebook, a report, a page, a list, and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

import fedlab.data
from fedlab.workbench.batch import cli, notebooks, runner
from fedlab.workbench.batch.records import Record
from fedlab.workbench.report import pages
from tests.workbench.building import Memory, notebook, settings, write

ANSWER = "from fedlab.workbench.notebook import cells\ncells.answer(f'alpha is {alpha}')"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two notebooks, one of which fails; and no data to pull."""
    see = notebook("# See\n\nWhat is alpha?", ANSWER, parameters="alpha: float = 0.3")
    write(see, tmp_path / "notebooks" / "04_see_non_iid.ipynb")
    write(notebook("# Fail\n\nDoes it?", "1 / 0"), tmp_path / "notebooks" / "05_fail.ipynb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr(fedlab.data, "sources", dict)
    return tmp_path


def run(*words: str) -> int:
    places = ["--notebooks", "notebooks"]
    if words[0] in ("report", "run"):
        places += ["--reports", "reports"]
    return cli.main([*words, *places])


def test_report_and_its_second_call(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report") == cli.FAILED
    first = capsys.readouterr()
    assert "failed: 05_fail" in first.err
    assert "FAILED in cell 1 of 1" in first.out
    assert {path.name for path in (clone / "reports").glob("*.html")} == {
        "index.html",
        "04_see_non_iid.html",
        "05_fail.html",
    }
    assert "ZeroDivisionError" in (clone / "reports" / "index.html").read_text()
    write(notebook("# Mended\n\nDoes it?", "1"), clone / "notebooks" / "05_fail.ipynb")
    assert run("report") == cli.FINE
    assert "04_see_non_iid unchanged" in capsys.readouterr().out
    assert "ZeroDivisionError" not in (clone / "reports" / "index.html").read_text()


def test_a_notebook_that_cannot_be_read_costs_itself_alone(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = clone / "notebooks" / "05_fail.ipynb"
    torn.write_text('{"cells": [')
    assert run("report") == cli.FAILED
    said = capsys.readouterr()
    assert "FAILED after 0.0 s: ValueError: notebooks/05_fail.ipynb is no notebook" in said.out
    assert "failed: 05_fail" in said.err
    index = (clone / "reports" / "index.html").read_text()
    assert "alpha is 0.3" in index
    assert "1 failed" in index
    for page in (index, (clone / "reports" / "05_fail.html").read_text()):
        assert "05_fail.ipynb is no notebook that can be read" in page
    assert run("list") == cli.FAILED
    assert "05_fail: notebooks/05_fail.ipynb is no notebook" in capsys.readouterr().out
    write(notebook("# Mended\n\nDoes it?", "1"), torn)
    assert run("report") == cli.FINE
    assert "04_see_non_iid unchanged" in capsys.readouterr().out


def test_run_sets_parameters(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "4", "-p", "alpha", "1e-1", "-o", "mine") == cli.FINE
    record = Record.read(clone / "mine" / "04_see_non_iid.json")
    assert record is not None
    assert record.answer == "alpha is 0.1"
    assert record.command.endswith("04_see_non_iid.ipynb -p alpha 0.1")
    assert (clone / "mine" / "04_see_non_iid.html").is_file()
    assert not list(clone.glob("reports/*.html"))
    assert "mine/04_see_non_iid.html" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["-1e-3", "-.5", "-5e+2", "1"])
def test_a_value_may_begin_with_a_dash(value: str, clone: Path) -> None:
    for words in (
        ("-p", "alpha", value),
        ("--parameter", f"alpha={value}"),
        (f"-p=alpha={value}",),
    ):
        given = cli._parser().parse_args(cli._joined(["run", "04", *words, "-o", "mine"]))
        assert (given.parameter, given.output) == ([("alpha", value)], Path("mine"))


@pytest.mark.parametrize("words", [("-p",), ("-p", "alpha"), ("-p", "=3", "4")])
def test_a_parameter_without_a_value_is_told(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "04", *words])
    assert "-p NAME VALUE" in capsys.readouterr().err


SOME = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
NO_NOTEBOOKS = {
    "a list": (b"[]", "no `nbformat`"),
    "an empty object": (b"{}", "no `nbformat`"),
    "an empty file": (b"", "no notebook"),
    "no cells": (json.dumps({**SOME, "cells": None}).encode(), "no notebook"),
    "a text for a cell": (json.dumps({**SOME, "cells": ["1"]}).encode(), "no notebook"),
    "another encoding": (
        json.dumps({**SOME, "x": "ä"}, ensure_ascii=False).encode("latin-1"),
        "'utf-8'",
    ),
    "no JSON": (b"# %%\n1 + 1", "no notebook"),
}


@pytest.mark.parametrize(("content", "said"), NO_NOTEBOOKS.values(), ids=NO_NOTEBOOKS)
@pytest.mark.parametrize("command", ["run", "html"])
def test_what_is_no_notebook_is_refused_in_a_sentence(
    command: str, content: bytes, said: str, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = clone / "notebooks" / "06_none.ipynb"
    path.write_bytes(content)
    status = cli.main([command, str(path)]) if command == "html" else run(command, "06")
    told = capsys.readouterr().err
    assert (status, len(told.splitlines())) == (cli.WRONG, 1)
    assert said in told
    assert "06_none.ipynb" in told
    assert not (clone / "reports").exists()

    assert run("list") == cli.FAILED
    listed = capsys.readouterr().out
    assert "04_see_non_iid: What is alpha?" in listed
    assert said in listed


def test_a_folder_is_no_notebook(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clone / "notebooks" / "06_folder.ipynb").mkdir()
    assert run("run", "06") == cli.WRONG
    assert run("list") == cli.FAILED
    told = capsys.readouterr()
    assert "06_folder.ipynb" in told.err
    assert "06_folder.ipynb" in told.out


def as_tools_leave_them(folder: Path) -> list[Path]:
    """Notebooks of other tools: no kernel named, a byte order mark, an older format."""
    code = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "# Ä\n\nWhy?"},
        {**code, "metadata": {"tags": ["parameters"]}, "source": "alpha: float = 0.3"},
        {**code, "source": ["assert alpha ==\\\n", " -0.001"]},
    ]
    plain = json.dumps({**SOME, "cells": cells}, ensure_ascii=False).encode()
    old = {"cell_type": "code", "language": "python", "outputs": [], "metadata": {}}
    sheet = [{**old, "metadata": c["metadata"], "input": c["source"]} for c in cells[1:]]
    third = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}}
    written = {
        "06_plain.ipynb": plain,
        "07_bom.ipynb": b"\xef\xbb\xbf" + plain,
        "08_third.ipynb": json.dumps({**third, "worksheets": [{"cells": sheet}]}).encode(),
    }
    for name, content in written.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in written]


def test_notebooks_as_tools_leave_them_run(clone: Path) -> None:
    found = [notebooks.Notebook.read(p) for p in as_tools_leave_them(clone / "notebooks")]
    runs = [runner.Run.of(notebook, {"alpha": "-1e-3"}) for notebook in found]
    recorded = runner.execute(runs, settings(clone), Memory())
    assert [record.error for record in recorded] == [None] * 3
    assert pages.write_report(recorded, clone / "out", clone / "notebooks", clone) == ()


def test_html_makes_a_page_beside_the_notebook(clone: Path) -> None:
    path = clone / "notebooks" / "04_see_non_iid.ipynb"
    assert cli.main(["html", str(path)]) == cli.FINE
    assert "What is alpha?" in path.with_suffix(".html").read_text()


def test_list_tells_questions_and_parameters(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list") == cli.FINE
    assert capsys.readouterr().out.splitlines() == [
        "04_see_non_iid: What is alpha?",
        "    alpha: float = 0.3",
        "05_fail: Does it?",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "04", "-p", "alfa", "1"), "did you mean alpha?"),
        (("run", "04", "-p", "alpha", "fast"), "'fast' is not a number"),
        (("run", "05", "-p", "alpha", "1"), "takes no parameters"),
        (("run", "7"), "there are: 04_see_non_iid, 05_fail"),
        (("run", "04", "--limit", "0"), "above 0"),
        (("report", "--jobs", "0"), "at least 1"),
    ],
)
def test_a_wrong_line_is_refused_before_anything_runs(
    words: tuple[str, ...], said: str, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == cli.WRONG
    assert said in capsys.readouterr().err
    assert not (clone / "reports").exists()


def test_data_that_can_not_be_had_stop_nothing(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(name: str) -> None:
        raise fedlab.data.DataUnavailable(f"{name}: no\nnetwork")

    known = {
        "heart": SimpleNamespace(extra="", bundled=False),
        "digits": SimpleNamespace(extra="", bundled=True),
    }
    monkeypatch.setattr(fedlab.data, "sources", lambda: known)
    monkeypatch.setattr(fedlab.data, "pull", refuse)
    cli._pull()
    said = capsys.readouterr().err
    assert said == "data: heart can't be had, going on without: heart: no network\n"


@pytest.fixture
def greek(tmp_path: Path) -> list[str]:
    """The command that runs a notebook whose heading is Greek, and whose folder is, too."""
    told = notebook("# \u03b1\n\nB?", "## \u03b1 \u2192 \u03b2", "print('\u03b1')", "1")
    write(told, tmp_path / "\u03bd" / "04_greek.ipynb")
    command = [sys.executable, "-m", "fedlab.workbench", "run", "04"]
    return [
        *command,
        "--notebooks",
        str(tmp_path / "\u03bd"),
        "--reports",
        str(tmp_path / "\u03c1"),
    ]


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_terminal_that_knows_few_letters_ends_no_run(
    variables: dict[str, str], greek: list[str], tmp_path: Path
) -> None:
    environment = {**os.environ, **variables}
    ended = subprocess.run(greek, env=environment, capture_output=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"cell 1/2: \\u03b1 \\u2192" in ended.stdout or b"done in" in ended.stdout
    assert Record.read(tmp_path / "\u03c1" / "04_greek" / "04_greek.json") is not None


def test_a_reader_that_goes_away_ends_no_run(greek: list[str], tmp_path: Path) -> None:
    ended = subprocess.Popen(greek, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert ended.stdout is not None
    assert ended.stdout.readline().startswith(b"[1/1] 04_greek starts")
    ended.stdout.close()
    assert ended.stderr is not None
    assert (ended.stderr.read(), ended.wait(120)) == (b"", 0)
    assert Record.read(tmp_path / "\u03c1" / "04_greek" / "04_greek.json") is not None


def test_a_full_disk_under_the_log_ends_no_run(greek: list[str]) -> None:
    with open("/dev/full", "w") as full:
        assert subprocess.run(greek, stdout=full, stderr=full, timeout=120).returncode == 0


def test_html_leaves_out_a_record_of_another_run(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "4", "-o", "mine") == cli.FINE
    path = clone / "mine" / "04_see_non_iid.ipynb"
    assert cli.main(["html", str(path)]) == cli.FINE
    assert "This run:" in path.with_suffix(".html").read_text()
    path.write_text(path.read_text().replace("alpha is 0.3", "alpha is 0.4"))
    assert cli.main(["html", str(path)]) == cli.FINE
    assert "This run:" not in path.with_suffix(".html").read_text()
    assert "has changed since it was run" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    said = capsys.readouterr().out
    assert all(f"    {command} " in said for command in ("report", "run", "html", "list"))


def test_the_command_line_starts_without_pandas_or_matplotlib() -> None:
    script = (
        "import sys, fedlab.workbench.batch.cli as cli; cli._parser();"
        "sys.exit(', '.join({'pandas', 'matplotlib', 'papermill'} & set(sys.modules)) or None)"
    )
    asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert asked.stderr == ""


def test_a_folder_without_notebooks_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nbformat.write(notebook("# A\n\nB?"), tmp_path / "notes.ipynb")
    assert cli.main(["list", "--notebooks", str(tmp_path)]) == cli.WRONG
    assert "no numbered notebook" in capsys.readouterr().err
