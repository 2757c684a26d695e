"""Notebooks as what a study runs, studies as files, and the commands for both."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from fedlab.study import Study, grid
from fedlab.study.parameters import ParameterError
from fedlab.study.records import latest
from fedlab.workbench.batch import cli, runner
from fedlab.workbench.batch.studies import read_study
from fedlab.workbench.batch.target import notebook_target
from tests.workbench.building import Memory, notebook, settings, write

CURVE = """
from fedlab import History
from fedlab.workbench.notebook import cells
history = History()
for number in range(1, rounds + 1):
    history.record(number, "server", accuracy=alpha * number + seeds[0])
cells.keep(history, algorithm="fedavg")
cells.record(rows=seeds[0])
print(__file__ if "__file__" in globals() else "no file")
"""
SMALL = notebook(
    "# Count\n\nHow many?",
    CURVE,
    "import os\nif fail:\n    raise ValueError(os.path.expanduser('~'))",
    parameters="alpha: float = 0.5\nrounds: int = 2\nseeds: list[int] = [0]\n"
    "fail: bool = False\nunused: int = 1",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write(SMALL, folder / "20_count.ipynb")
    return folder


@pytest.fixture(scope="module")
def ran(place: Path) -> Study:
    target = notebook_target(place / "20_count.ipynb")
    study = Study(target, place / "study", grid(alpha=[0.5, 2.0], fail=[False, True]), seeds=[3, 4])
    study.run(workers=2)
    return study


def test_a_notebook_keeps_measurements_for_the_frame(ran: Study) -> None:
    frame = ran.frame()
    done = frame[(frame.status == "done") & (frame.metric == "accuracy")]
    assert set(done.algorithm) == {"fedavg"}
    assert done.value.tolist() == [3.5, 4.0, 4.5, 5.0, 5.0, 7.0, 6.0, 8.0]
    assert set(done.seeds) == {"[3]", "[4]"}
    assert frame[frame.metric == "rows"].value.tolist() == [3.0, 4.0, 3.0, 4.0]


def test_a_notebook_that_fails_in_its_last_cell_is_not_done(ran: Study) -> None:
    table = ran.status()
    assert (table.status == "failed").tolist() == table.fail.tolist()
    assert table.why[table.fail].str.contains(r"ValueError: .* \(cell 3\)").all()


def test_executed_notebooks_are_kept_without_paths(ran: Study) -> None:
    home = os.path.expanduser("~")
    for one in latest(ran.folder).values():
        folder = ran.folder / "runs" / one.folder
        assert {path.name for path in folder.iterdir()} <= {
            *("record.json", "trace.json", "results.parquet", "notebook.ipynb"),
        }
        node = nbformat.read(folder / "notebook.ipynb", as_version=4)
        if one.parameters["fail"]:
            error = node.cells[-1].outputs[-1]
            assert error.evalue == "~"
            assert f"'{home}'" not in json.dumps(error)


def test_changed_cells_make_runs_stale_and_outputs_do_not(place: Path, tmp_path: Path) -> None:
    path = write(SMALL, tmp_path / "20_count.ipynb")
    study = Study(notebook_target(path), tmp_path / "study")
    assert set(study.run().status) == {"done"}
    node = nbformat.read(path, as_version=4)
    node.cells[2].outputs = [nbformat.v4.new_output("stream", text="an output")]
    nbformat.write(node, path)
    assert set(study.status().status) == {"done"}
    node.cells[2].source += "\nprint('more')"
    nbformat.write(node, path)
    table = study.status()
    assert table.why.tolist() == ["its own code"]


def test_a_parameter_that_no_cell_reads_is_warned_of(place: Path, tmp_path: Path) -> None:
    target = notebook_target(place / "20_count.ipynb")
    assert target.unread == ("unused",)
    with pytest.warns(UserWarning, match="no cell reads unused"):
        Study(target, tmp_path, grid(unused=[1, 2]))
    assert notebook_target("04").unread == ()


# Files

GOOD: dict[str, Any] = {
    "notebook": "20_count.ipynb",
    "grid": {"alpha": [1, "1e-3"]},
    "seeds": [1, 2],
}


def file(place: Path, content: Any) -> Path:
    path = place / "study.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_file_says_what_python_would(place: Path) -> None:
    study, how = read_study(file(place, {**GOOD, "workers": 3, "folder": "here"}))
    assert how == {"workers": 3}
    assert study.folder == place / "here"
    alphas = [one.parameters["alpha"] for one in study.runs]
    assert alphas == [1.0, 1.0, 0.001, 0.001]
    assert [one.parameters["seeds"] for one in study.runs] == [[1], [2], [1], [2]]
    other, _ = read_study(file(place, GOOD))
    assert [one.id for one in other.runs] == [one.id for one in study.runs]
    assert other.folder == place / "reports/studies/study"


def test_other_ways_to_give_points(place: Path) -> None:
    space = {"alpha": {"low": "1e-3", "high": 1, "log": True}, "rounds": [1, 2]}
    base = {"notebook": "20_count.ipynb", "fixed": {"rounds": 7}}
    study, _ = read_study(file(place, {**base, "random": {"space": space, "count": 5}}))
    assert len(study.runs) == 5
    assert {one.parameters["rounds"] for one in study.runs} <= {1, 2}
    study, _ = read_study(file(place, {**base, "list": [{"alpha": 1}, {"rounds": 3}]}))
    assert [one.parameters["rounds"] for one in study.runs] == [7, 3]
    tune = {"space": {"alpha": {"low": 0.1, "high": 1}}, "trials": 3, "metric": "accuracy"}
    study, _ = read_study(file(place, {**base, "tune": tune}))
    assert [one.parameters["rounds"] for one in study.runs] == [7, 7, 7]
    function = {"function": "tests.study.work:curve", "grid": {"alpha": [1, 2]}}
    assert len(read_study(file(place, function))[0].runs) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", "is no YAML"),
        ("3", "holds no study"),
        ("notebook: 20_count.ipynb\ngrid: {alpha: [1], alpha: [2]}", "alpha stands twice.* line 2"),
        ({**GOOD, "seedz": [1]}, "'seedz'; allowed are: .*seeds"),
        ({**GOOD, "function": "a:b"}, "and not both"),
        ({"grid": {}}, "must name a notebook or a function"),
        ({**GOOD, "list": [{}]}, "give one of them"),
        ({**GOOD, "grid": {"alpha": 1}}, "alpha is 1; give a list"),
        ({**GOOD, "grid": [1]}, "give values by name"),
        ({**GOOD, "fixed": {"alpha": 2}}, "fixes alpha, and varies it as well"),
        ({**GOOD, "grid": {"alpa": [1]}}, "did you mean alpha"),
        ({**GOOD, "grid": {"alpha": ["much"]}}, "'much'"),
        ({"notebook": "20_count.ipynb", "list": {"alpha": 1}}, "give a list of points"),
        ({"notebook": "20_count.ipynb", "random": {"space": {}}}, "count is missing"),
        ({"notebook": "20_count.ipynb", "tune": {"trials": 1}}, "metric"),
        ({"function": "tests.study.work:nothing"}, "can't be imported"),
        ({"notebook": "!!python/object/apply:os.system ['touch here']"}, "names no notebook"),
        ("notebook: !!python/object/apply:os.system ['touch here']", "is no YAML"),
    ],
)
def test_files_that_do_not_fit_are_refused(place: Path, content: Any, said: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        read_study(file(place, content))
    assert not (place / "here").exists()


# Commands


def test_sweep_and_status(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**GOOD, "grid": {"fail": [False, True]}, "seeds": [1], "folder": "swept"}
    path = str(file(place, given))
    assert cli.main(["status", path]) == 0
    assert "2 missing" in capsys.readouterr().out
    assert cli.main(["sweep", path]) == 1
    said = capsys.readouterr().out
    assert "FAILED: ValueError" in said
    assert "(fail=True) failed: ValueError" in said
    assert "1 failed" in said
    assert "1 done" in said
    given["grid"] = {"fail": [False]}
    assert cli.main(["sweep", str(file(place, given)), "--workers", "1"]) == 0
    assert cli.main(["sweep", str(place / "nowhere.yaml")]) == 2


SAME = notebook("# Same\n\nEach time?", "print(sorted({'a', 'b'}), x)", parameters="x: int = 1")
OTHER = notebook(
    "# Other\n\nEach time?",
    "print(x)",
    "## Sets",
    "print(*{'some', 'words', 'in', 'a', 'set', 'of', 'eight', 'words more'})",
    "import os\nprint(os.getpid())",
    parameters="x: int = 1",
)
STYLED = notebook("# S\n\nHow?", "import pandas as pd\npd.DataFrame({'x': [1]}).style", "object()")
THREADS = notebook("# T\n\nHow many?", "import os\nos.environ['OMP_NUM_THREADS']")


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (SAME, "the same results twice, with 1 and "),
        (STYLED, "the same results twice, with 1 and "),
        (OTHER, "cell 3 gave something else the second time: Sets"),
        (THREADS, "cell 1 gave something else the second time"),
    ],
)
def test_check_names_the_first_cell_that_differs(tmp_path: Path, node: Any, said: str) -> None:
    path = write(node, tmp_path / "20_x.ipynb")
    record = runner.check(runner.Run.of(runner.Notebook.read(path)), settings(tmp_path), Memory())
    assert record.checked.startswith(said)
    kept = runner.completed(tmp_path / "out", "20_x")
    assert kept is not None
    assert kept.checked == record.checked


def test_cells_that_tell_wall_time_are_left_out(tmp_path: Path) -> None:
    node = notebook("# W\n\nWhen?", "import time\nprint(time.time())")
    node.cells[1].metadata["tags"] = ["wall-time"]
    path = write(node, tmp_path / "20_x.ipynb")
    record = runner.check(runner.Run.of(runner.Notebook.read(path)), settings(tmp_path), Memory())
    assert record.checked.startswith(runner.SAME)


def test_the_command_checks_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(SAME, tmp_path / "20_x.ipynb")
    given = ["check", str(path), "-o", str(tmp_path / "out"), "--reports", str(tmp_path)]
    assert cli.main([*given, "-p", "x", "3"]) == 0
    assert "20_x: the same results twice" in capsys.readouterr().out
    assert "the same results twice" in (tmp_path / "out/20_x.html").read_text()
    with pytest.raises(ParameterError):
        runner.Run.of(runner.Notebook.read(path), {"y": 1})
