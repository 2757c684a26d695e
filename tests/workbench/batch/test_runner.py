"""Batch runs: what is recorded, what is reused, and what a bad notebook can't do to the others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest

from fedlab.study import running, trace
from fedlab.study.forks import Stopped, servers_of
from fedlab.study.parameters import ParameterError
from fedlab.study.targets import Share
from fedlab.workbench import read_records
from fedlab.workbench.batch import notebooks, runner
from fedlab.workbench.batch.notebooks import Notebook
from fedlab.workbench.batch.records import Record
from fedlab.workbench.batch.supervisor import NotebookRun
from fedlab.workbench.report import pages
from tests.workbench.building import (
    LEAVE_A_CHILD,
    Memory,
    gone,
    notebook,
    numbers,
    settings,
    write,
)
from tests.workbench.conftest import Batch


def run_of(path: Path, **values: object) -> runner.Run:
    return runner.Run.of(Notebook.read(path), values)


def run_one(path: Path, folder: Path, **values: object) -> tuple[Record, Memory]:
    memory = Memory()
    (record,) = runner.execute([run_of(path, **values)], settings(folder), memory)
    return record, memory


def standing(run: runner.Run, given: runner.Settings) -> Record | None:
    """The record of a run whose inputs and results are as they were; else None."""
    old, changed = runner._compared(run, given.folder)
    return None if changed or not runner._is_whole(old, given.folder) else old


# What is recorded


def test_a_record_tells_the_run(batch: Batch) -> None:
    record = batch.records["01_say"]
    assert record.status == "completed"
    assert record.title == "Say it all"
    assert record.question == "Does a page show *everything*, with $\\alpha$?"
    assert record.answer == "Yes: **5 rounds**, $\\alpha = 0.3$."
    assert record.parameters == {"rounds": 5, "alpha": 0.3, "note": "<b>&"}
    assert record.error is None
    assert set(record.versions) == {"python", "fedlab", "numpy", "usearch"}
    assert [cell["number"] for cell in record.cells] == list(range(1, 11))
    assert 0 < sum(cell["seconds"] for cell in record.cells) <= record.seconds


def test_a_failure_is_recorded_with_its_cell_and_the_others_go_on(batch: Batch) -> None:
    error = batch.records["02_fail"].error
    assert error is not None
    assert (error.name, error.cell, error.label) == ("ParameterError", 2, "Why")
    assert "<script>" in error.message
    assert batch.records["00_index"].status == batch.records["01_say"].status == "completed"
    assert len(batch.records["02_fail"].cells) == 2


def test_what_ran_before_a_failure_is_kept(batch: Batch) -> None:
    node = nbformat.read(batch.executed / "02_fail.ipynb", as_version=4)
    assert node.cells[1].outputs[0].text == "before\n"
    assert not any("papermill-error" in str(cell.metadata) for cell in node.cells)
    assert len(node.cells) == 5


def test_progress_names_each_cell_once(batch: Batch) -> None:
    told = [(number, label) for name, number, label in batch.memory.cells if name == "01_say"]
    assert [number for number, _ in told] == list(range(1, 11))
    assert dict(told)[3] == "Formulas"
    assert dict(told)[4] == "More"
    assert dict(told)[5].startswith("pd.DataFrame")


def test_nothing_but_results_is_left(batch: Batch) -> None:
    assert {path.suffix for path in batch.executed.iterdir()} == {".ipynb", ".json"}
    assert not list((batch.folder / "cache").glob("*/runtime"))
    executed = (batch.executed / "01_say.ipynb").read_text()
    assert "output_path" not in executed


# Parameters


def test_values_reach_the_notebook_with_their_types(batch: Batch) -> None:
    record = batch.records["03_types"]
    assert record.answer == "[7, False, [0.001, 2.0], '1e-3', 0.5]"
    given = {"a": 7, "b": False, "c": [0.001, 2.0], "d": "1e-3", "e": 0.5, "f": [0, 1]}
    assert record.set_parameters == given


def test_an_unknown_parameter_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = write(
        notebook("# A\n\nB?", "1", parameters="alpha: float = 1.0"), tmp_path / "01_a.ipynb"
    )
    with pytest.raises(ParameterError, match="did you mean alpha"):
        run_of(path, alhpa=2)
    assert list(tmp_path.iterdir()) == [path]


# Reuse


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a notebook that leaves a mark each time it is run, after its first run."""
    folder = tmp_path_factory.mktemp("ran")
    source = f"with open({str(folder / 'mark')!r}, 'a') as file: file.write('|')"
    made = notebook("# Count\n\nHow often?", source, parameters="x: int = 1")
    write(made, folder / "01_count.ipynb")
    run_one(folder / "01_count.ipynb", folder)
    return folder


@pytest.fixture
def folder(ran: Path, tmp_path: Path) -> Path:
    """A copy of `ran` to change."""
    return Path(shutil.copytree(ran, tmp_path / "copy"))


def edit_source(folder: Path, _: pytest.MonkeyPatch) -> None:
    node = nbformat.read(folder / "01_count.ipynb", as_version=4)
    node.cells[2].source += "  # a change"
    nbformat.write(node, folder / "01_count.ipynb")


def another_version(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_version", lambda name: "9")


def tear_the_executed(folder: Path, _: pytest.MonkeyPatch) -> None:
    executed = folder / "out" / "01_count.ipynb"
    executed.write_bytes(executed.read_bytes()[:-20])


def lose_the_executed(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / "out" / "01_count.ipynb").unlink()


def tear_the_record(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / "out" / "01_count.json").write_text("{")


def record_a_failure(folder: Path, _: pytest.MonkeyPatch) -> None:
    path = folder / "out" / "01_count.json"
    path.write_text(path.read_text().replace('"completed"', '"failed"'))


@pytest.mark.parametrize(
    "change",
    [
        edit_source,
        another_version,
        tear_the_executed,
        lose_the_executed,
        tear_the_record,
        record_a_failure,
    ],
)
def test_what_has_changed_is_not_reused(
    change: Callable[[Path, pytest.MonkeyPatch], None],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = run_of(folder / "01_count.ipynb")
    assert standing(run, settings(folder)) is not None
    change(folder, monkeypatch)
    assert standing(run, settings(folder)) is None


def test_another_value_is_another_run(folder: Path) -> None:
    assert standing(run_of(folder / "01_count.ipynb", x=1), settings(folder)) is not None
    assert standing(run_of(folder / "01_count.ipynb", x=2), settings(folder)) is None


def test_what_has_not_changed_is_reused(folder: Path, ran: Path) -> None:
    # Opened and saved in JupyterLab: outputs are no inputs.
    node = nbformat.read(folder / "01_count.ipynb", as_version=4)
    node.cells[2].outputs = [nbformat.v4.new_output("stream", text="seen")]
    nbformat.write(node, folder / "01_count.ipynb")
    record, memory = run_one(folder / "01_count.ipynb", folder)
    assert memory.taken == ["01_count"]
    assert record == Record.read(ran / "out" / "01_count.json")


def test_fresh_runs_again(folder: Path, ran: Path) -> None:
    before = len((ran / "mark").read_text())
    memory = Memory()
    runner.execute([run_of(folder / "01_count.ipynb")], settings(folder, fresh=True), memory)
    assert len((ran / "mark").read_text()) == before + 1
    assert memory.taken == []


# What a bad notebook can't do


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """A hanging notebook, two dying ones, one that floods, and a good one after each."""
    folder = tmp_path_factory.mktemp("hostile")
    hang = LEAVE_A_CHILD.format(path=str(folder / "hang"))
    good = notebook("# Good\n\nStill?", "print(1)")
    bad = {
        "01_hang": notebook("# Hang\n\nHow long?", "1", hang + "import time; time.sleep(600)"),
        "03_exit": notebook("# Exit\n\nGone?", "1", "## Leaving", "import os; os._exit(3)"),
        "05_crash": notebook("# Crash\n\nWhere?", "import ctypes; ctypes.string_at(0)"),
        "09_leave": notebook("# Leave\n\nDone?", "exit()", "1"),
        "11_quit": notebook("# Quit\n\nDone?", "import sys; sys.exit(0)"),
        "07_flood": notebook("# Flood\n\nHow much?", "while True: display(1)"),
    }
    for name, node in bad.items():
        write(node, folder / f"{name}.ipynb")
    for name in ("02_good", "04_good", "06_good", "08_good", "10_good", "12_good"):
        write(good, folder / f"{name}.ipynb")
    runs = [runner.Run.of(found) for found in notebooks.numbered(folder)]
    return folder, runner.execute(runs, settings(folder, limit=12.0), Memory())


def test_the_others_go_on(hostile: tuple[Path, list[Record]]) -> None:
    statuses = [record.status for record in hostile[1]]
    assert statuses == ["failed", "completed"] * 6


def test_a_hanging_notebook_is_stopped_with_all_it_started(
    hostile: tuple[Path, list[Record]],
) -> None:
    folder, recorded = hostile
    error = recorded[0].error
    assert error is not None
    assert (error.name, error.cell) == ("TimeoutError", 2)
    assert "12 s" in error.message
    assert "--limit" in error.message
    assert 12 <= recorded[0].seconds < 20
    kernel, _, child = numbers(folder / "hang")
    assert gone(kernel)
    assert gone(child)


def test_what_ran_before_the_limit_is_kept(hostile: tuple[Path, list[Record]]) -> None:
    node = nbformat.read(hostile[0] / "out" / "01_hang.ipynb", as_version=4)
    assert node.cells[1].outputs[0].data["text/plain"] == "1"


def test_a_dead_kernel_is_recorded(hostile: tuple[Path, list[Record]]) -> None:
    error = hostile[1][2].error
    assert error is not None
    assert (error.name, error.cell, error.label) == ("DeadKernelError", 2, "Leaving")


def test_a_crash_in_native_code_is_recorded(hostile: tuple[Path, list[Record]]) -> None:
    error = hostile[1][4].error
    assert error is not None
    assert (error.name, error.cell) == ("DeadKernelError", 1)
    assert f"ended with {-signal.SIGSEGV}" in error.message


def test_a_notebook_that_floods_its_output_is_stopped(hostile: tuple[Path, list[Record]]) -> None:
    error = hostile[1][6].error
    assert error is not None
    assert (error.name, error.cell) == ("TimeoutError", 1)
    assert hostile[1][6].seconds < 20


def test_a_cell_that_leaves_has_not_completed(hostile: tuple[Path, list[Record]]) -> None:
    left, quit = hostile[1][8].error, hostile[1][10].error
    assert left is not None
    assert "exit()" in left.message
    assert quit is not None
    assert (quit.name, quit.cell) == ("SystemExit", 1)


def written(path: Path) -> Sequence[int]:
    """The three process ids of `LEAVE_A_CHILD`, as soon as they are there."""
    deadline = time.monotonic() + 60
    while not (path.exists() and len(numbers(path)) == 3):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return numbers(path)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_command(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "processes"
    source = LEAVE_A_CHILD.format(path=str(path)) + "import time; time.sleep(600)"
    write(notebook("# Hang\n\nHow long?", source), tmp_path / "nb" / "01_hang.ipynb")
    command = [sys.executable, "-m", "fedlab.workbench", "run", "01", "--notebooks", "nb"]
    process = subprocess.Popen(
        [*command, "--reports", "reports"], cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    try:
        written(path)
        process.send_signal(number)
        process.wait(20)
        assert all(gone(process) for process in numbers(path))
        assert not list((tmp_path / "reports").glob("*/*.json"))
    finally:
        process.kill()
        process.wait()


def test_what_nobody_wants_any_more_has_no_outcome(tmp_path: Path) -> None:
    path = write(notebook("# A\n\nB?", "1"), tmp_path / "01_a.ipynb")
    share = Share(1, 60.0, str(tmp_path), tmp_path)
    servers_of(share.owner).close()
    # In a thread, as runs are: in this one, a test of pages may have left its event loop running.
    with ThreadPoolExecutor(1) as pool, pytest.raises(Stopped):
        pool.submit(NotebookRun(path, {}, share, {}).execute).result()


def test_a_run_has_the_time_to_write_down_what_it_depended_on(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("x = 1\n")
    slow = (
        "import ast, time\nimport beside\ndump = ast.dump\n"
        "ast.dump = lambda tree: (time.sleep(4), dump(tree))[1]"
    )
    path = write(notebook("# Slow\n\nWhat?", slow), tmp_path / "01_slow.ipynb")
    record, _ = run_one(path, tmp_path)
    assert record.error is None
    assert record.seconds > 4


# Kernels and threads


def test_the_kernel_is_this_environment_s_own(tmp_path: Path, foreign_home: Path) -> None:
    before = sorted(foreign_home.rglob("*"))
    path = write(
        notebook(
            "# Kernel\n\nWhose?",
            "import sys\nfrom matplotlib import pyplot\n"
            "from fedlab.workbench.notebook import cells\n"
            "cells.begin()\npyplot.subplots()\ncells.answer(sys.executable)",
        ),
        tmp_path / "01_kernel.ipynb",
    )
    record, _ = run_one(path, tmp_path)
    assert record.error is None
    assert record.answer == sys.executable
    assert sorted(foreign_home.rglob("*")) == before


def test_variables_of_the_user_s_change_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "from matplotlib import rcParams\nfrom fedlab.workbench.notebook import cells\n"
        "cells.record(size=rcParams['figure.figsize'][0], width=rcParams['lines.linewidth'])"
    )
    path = write(notebook("# Style\n\nWhose?", source), tmp_path / "nb" / "01_style.ipynb")
    before, _ = run_one(path, tmp_path / "a")
    (tmp_path / "matplotlibrc").write_text("figure.figsize: 1, 1\nlines.linewidth: 9\n")
    monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path / "matplotlibrc"))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    after, _ = run_one(path, tmp_path / "b")
    assert after.recorded == before.recorded


def test_cores_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "cores", lambda: 6)
    source = (
        "import json, os\nfrom fedlab.workbench.notebook import cells\n"
        "cells.answer(json.dumps([os.environ['OMP_NUM_THREADS'],"
        " os.environ['OPENBLAS_NUM_THREADS']]))"
    )
    for name in ("01_a", "02_b"):
        write(notebook("# A\n\nB?", source), tmp_path / f"{name}.ipynb")
    runs = [runner.Run.of(found) for found in notebooks.numbered(tmp_path)]
    recorded = runner.execute(runs, settings(tmp_path, jobs=2), Memory())
    assert [json.loads(record.answer) for record in recorded] == [["3", "3"]] * 2


def test_plain_papermill_runs_the_same_notebook(folder: Path) -> None:
    _, line = run_of(folder / "01_count.ipynb", x=3).commands()
    line = line.replace("papermill", f"'{sys.executable}' -m papermill", 1)
    subprocess.run(line, shell=True, cwd=folder, check=True, capture_output=True)
    node = nbformat.read(folder / "out.ipynb", as_version=4)
    assert "x = 3" in node.cells[2].source


def test_two_runs_of_one_notebook_need_two_folders(folder: Path) -> None:
    runs = [run_of(folder / "01_count.ipynb", x=x) for x in (1, 2)]
    with pytest.raises(ValueError, match="folder of its own"):
        runner.execute(runs, settings(folder), Memory())


def test_a_run_leaves_another_s_files_alone_and_its_own_go_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, temporary = tmp_path / "processes", tmp_path / "temporary"
    temporary.mkdir()
    source = LEAVE_A_CHILD.format(path=str(path)) + "import time; time.sleep(600)"
    write(notebook("# Hang\n\nHow long?", source), tmp_path / "nb" / "01_hang.ipynb")
    quick = write(notebook("# Quick\n\nHow long?", "1"), tmp_path / "02_quick.ipynb")
    command = [sys.executable, "-m", "fedlab.workbench", "run", "01", "--notebooks", "nb"]
    process = subprocess.Popen(
        [*command, "--reports", "."],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    try:
        written(path)
        [held] = temporary.glob("fedlab-*")
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        place = settings(tmp_path, cache=tmp_path / ".cache")
        [record] = runner.execute([run_of(quick)], place, Memory())
        assert record.error is None
        assert [*temporary.glob("fedlab-*")] == [held]
        assert (held / "kernel.json").exists()
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while held.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()


def test_a_limit_holds_while_an_outcome_is_being_kept(tmp_path: Path) -> None:
    path = tmp_path / "processes"
    source = LEAVE_A_CHILD.format(path=str(path)) + "import time; time.sleep(600)"
    made = {"01_flood": "1", "02_hang": source}
    runs = [
        run_of(write(notebook("# A\n\nB?", code), tmp_path / f"{name}.ipynb"))
        for name, code in made.items()
    ]

    class Busy(Memory):
        """From the first end on, as with hundreds of megabytes of output."""

        def finished(self, record: Record) -> None:
            if record.name == "01_flood":
                kernel, _, child = written(path)
                assert gone(kernel, within=30)
                assert gone(child)
            super().finished(record)

    memory = Busy()
    runner.execute(runs, settings(tmp_path, jobs=2, limit=8.0), memory)
    first, second = memory.ended
    assert first.error is None
    assert second.error is not None
    assert (second.error.name, second.error.cell) == ("TimeoutError", 1)


# What a run depends on


READS = """
import pandas as pd
from pathlib import Path
import helper
import own.part
from fedlab.core import typing
pd.read_csv("patients.csv").to_csv("made.csv")
pd.read_csv("made.csv")
for path in Path("scans").glob("*.bin"):
    path.read_bytes()
[open(path).read() for path in (f"ward_{name}.txt", *tables, "{other}")]
try:
    open("missing.txt")
except FileNotFoundError:
    pass
"""
READ = (
    "notebooks/patients.csv",
    "notebooks/ward_A.txt",
    "linked/a.bin",
    "absolute.txt",
    "given.tsv",
    "notebooks/missing.txt",
)
CODE = {
    "notebooks/helper.py": "a = 1",
    "notebooks/own/__init__.py": "",
    "notebooks/own/part.py": "b = 1",
    "notebooks/own/unused.py": "c = 1",
}


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, runner.Run]:
    """A notebook that has read files beside it, in a folder that is linked, and a parameter's."""
    folder = tmp_path_factory.mktemp("read")
    made = notebook(
        "# Read\n\nWhat?",
        READS.replace("{other}", str(folder / "absolute.txt")),
        parameters="name: str = 'A'\ntables: list[str] = ['../given.tsv']",
    )
    write(made, folder / "notebooks" / "01_read.ipynb")
    (folder / "linked").mkdir()
    (folder / "notebooks" / "scans").symlink_to(folder / "linked")
    (folder / "notebooks" / "own").mkdir()
    for name in (*READ[:-1], "notebooks/notes.txt"):
        (folder / name).write_text("1,2\n3,4\n")
    for name, code in CODE.items():
        (folder / name).write_text(code)
    run = run_of(folder / "notebooks" / "01_read.ipynb")
    (record,) = runner.execute([run], settings(folder), Memory())
    assert record.error is None
    assert record.trace is not None
    assert record.trace.unseen == []
    return folder, run


def changed(folder: Path, run: runner.Run) -> list[str]:
    return runner._compared(run, settings(folder).folder)[1]


def test_nothing_has_changed_after_a_run(read: tuple[Path, runner.Run]) -> None:
    assert changed(*read) == []


@pytest.mark.parametrize("name", READ)
def test_one_byte_of_a_file_that_it_has_read_is_a_change(
    name: str, read: tuple[Path, runner.Run]
) -> None:
    path = read[0] / name
    before, held = path.read_bytes() if path.exists() else None, os.stat(read[0])
    path.write_bytes((before or b"1")[:-1] + b"9")
    os.utime(path, ns=(held.st_atime_ns, held.st_mtime_ns))
    assert changed(*read) == [str(path)]
    path.unlink() if before is None else path.write_bytes(before)
    assert changed(*read) == []


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("notebooks/helper.py", "a = 2", ["helper"]),
        ("notebooks/helper.py", "# why\na  =  1", []),
        ("notebooks/own/part.py", "b = 2", ["own.part"]),
        ("notebooks/own/unused.py", "c = 2", []),
        ("notebooks/notes.txt", "2", []),
    ],
)
def test_code_that_it_has_imported_is_an_input_without_its_comments(
    name: str, code: str, says: list[str], read: tuple[Path, runner.Run]
) -> None:
    path = read[0] / name
    before = path.read_text()
    path.write_text(code)
    assert changed(*read) == says
    path.write_text(before)


def test_modules_of_fedlab_are_inputs_where_they_were_imported(
    read: tuple[Path, runner.Run],
) -> None:
    record = Record.read(read[0] / "out" / "01_read.json")
    assert record is not None
    assert record.trace is not None
    imported = record.trace.modules
    assert "fedlab.core.typing" in imported
    assert not [name for name in imported if name.startswith(("fedlab.workbench", "fedlab.study"))]


def test_another_version_of_a_package_that_it_has_imported_is_a_change(
    read: tuple[Path, runner.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = {"pandas": "9", "pytest": "9"}
    monkeypatch.setattr(trace, "_version", lambda name: now.get(name) or version(name))
    assert changed(*read) == [f"pandas {version('pandas')} -> 9"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import subprocess; subprocess.run(['true'])", "it started a process"),
        ("import os; os.waitpid(os.fork() or os._exit(0), 0)", "it forked"),
        ("import pyarrow.dataset", "pyarrow.dataset reads files in native code"),
        (
            "import socket\ntry: socket.create_connection(('192.0.2.1', 9), 0.01)\n"
            "except OSError: pass",
            "it opened a connection",
        ),
        ("open('a.txt').read(); open('a.txt', 'a').write('1')", "a.txt changed while it ran"),
    ],
)
def test_what_can_not_be_seen_is_never_taken_for_done(
    source: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("1")
    path = write(notebook("# Hide\n\nWhat?", source), tmp_path / "01_hide.ipynb")
    for _ in range(2):
        record, memory = run_one(path, tmp_path)
        assert record.error is None
        assert memory.taken == []
        assert record.trace is not None
        assert record.trace.unseen == [says]


def test_what_a_run_makes_itself_is_no_change(tmp_path: Path) -> None:
    source = "with open('made.csv', 'a') as file: file.write('1')\nopen('made.csv').read()"
    path = write(notebook("# Make\n\nWhat?", source), tmp_path / "01_make.ipynb")
    run_one(path, tmp_path)
    assert standing(run_of(path), settings(tmp_path)) is not None


def test_no_state_leaks_from_run_to_run(tmp_path: Path) -> None:
    source = """
import fedlab, os, random, sys
import numpy as np
left = (hasattr(fedlab, "left"), "left" in os.environ, np.random.random(), random.random())
fedlab.left, os.environ["left"] = True, "1"
np.random.seed(0); random.seed(0)
from fedlab.workbench.notebook import cells
cells.record(seen=any(left[:2]), first=left[2], second=left[3])
"""
    path = write(
        notebook("# Leak\n\nWhat?", source, parameters="n: int = 0"), tmp_path / "01_leak.ipynb"
    )
    found = [run_one(path, tmp_path / f"{n}", n=n)[0].recorded for n in range(2)]
    assert [one["seen"] for one in found] == [False, False]
    assert found[0]["first"] != found[1]["first"]
    assert found[0]["second"] != found[1]["second"]


def test_what_has_changed_is_said(folder: Path) -> None:
    edit_source(folder, pytest.MonkeyPatch())
    told: list[list[str]] = []
    memory = Memory()
    memory.stale = lambda record, parts: told.append(list(parts))  # type: ignore[method-assign]
    runner.execute([run_of(folder / "01_count.ipynb")], settings(folder), memory)
    assert told == [["cells"]]


def test_a_record_has_the_cells_that_ran(tmp_path: Path) -> None:
    before, after = (notebook("# A\n\nB?", code) for code in ("1", "2"))
    path = write(before, tmp_path / "01_a.ipynb")

    class Edits(Memory):
        def started(self, run: runner.Run) -> None:
            write(after, path)

    (record,) = runner.execute([run_of(path)], settings(tmp_path), Edits())
    assert record.source == Notebook.read(path).source()
    assert standing(run_of(path), settings(tmp_path)) is not None
    write(before, path)
    assert standing(run_of(path), settings(tmp_path)) is None


# A failed run beside one that completed


FAILS_AT_TWO = "from fedlab.workbench.notebook import cells\ncells.record(half=1 / (2 - x))"


def test_a_failed_run_leaves_a_completed_one_as_it_was(tmp_path: Path) -> None:
    made = notebook("# Half\n\nOf what?", FAILS_AT_TWO, parameters="x: float = 0.0")
    path = write(made, tmp_path / "01_half.ipynb")
    out = tmp_path / "out"
    good, _ = run_one(path, tmp_path)
    before = {name: (out / name).read_bytes() for name in ("01_half.json", "01_half.ipynb")}
    bad, _ = run_one(path, tmp_path, x=2.0)
    assert (good.recorded, bad.recorded) == ({"half": 0.5}, {})
    assert before == {name: (out / name).read_bytes() for name in before}
    assert Record.read(out / "01_half.failed.json") == bad
    wrong = pages.write_report([bad], out, tmp_path, tmp_path)
    assert wrong == ()
    index = (tmp_path / "index.html").read_text()
    assert 'href="01_half.failed.html"' in index
    assert "The last one that completed</a> is kept" in index
    assert "ZeroDivisionError" in (tmp_path / "01_half.failed.html").read_text()
    assert "ZeroDivisionError" not in (tmp_path / "01_half.html").read_text()

    again, _ = run_one(path, tmp_path, x=1.0)
    assert again.recorded == {"half": 1.0}
    assert not list(out.glob("*.failed.*"))
    pages.write_report([again], out, tmp_path, tmp_path)
    assert not list(tmp_path.glob("*.failed.html"))
    assert "is kept" not in (tmp_path / "index.html").read_text()


def test_records_make_a_frame(tmp_path: Path) -> None:
    source = FAILS_AT_TWO + "\ncells.record(x=-x, note='ok', bad=float('nan'), seen=True)"
    made = notebook("# Half\n\nOf what?", source, parameters="x: float = 0.0\ns: list[int] = [1]")
    path = write(made, tmp_path / "01_half.ipynb")
    for x in (0.0, 1.0, 2.0):
        place = replace(settings(tmp_path), folder=tmp_path / "out" / f"{x}")
        runner.execute([run_of(path, x=x)], place, Memory())
    (tmp_path / "out" / "other.json").write_text('{"format": 3}')
    frame = read_records(tmp_path / "out")
    assert frame.x.tolist() == [0.0, 1.0, 2.0]
    assert frame.s.tolist() == [(1,)] * 3
    assert frame.status.tolist() == ["completed", "completed", "failed"]
    assert frame.half.tolist()[:2] == [0.5, 1.0]
    assert frame["recorded x"].tolist()[:2] == [0.0, -1.0]
    assert frame.half.isna().tolist() == [False, False, True]
    assert frame.bad.isna().all()
    assert "ZeroDivisionError" in frame.error[2]
    with pytest.raises(NotADirectoryError):
        read_records(tmp_path / "nowhere")


# What is no source


def test_an_executed_notebook_with_values_is_not_run_again(tmp_path: Path) -> None:
    made = notebook("# A\n\nB?", "x", parameters="x: int = 1")
    path = write(made, tmp_path / "01_a.ipynb")
    run_one(path, tmp_path, x=2)
    with pytest.raises(ParameterError, match="run its source"):
        run_of(tmp_path / "out" / "01_a.ipynb")


def test_a_source_is_not_replaced_by_what_it_becomes(tmp_path: Path) -> None:
    path = write(notebook("# A\n\nB?", "1"), tmp_path / "out" / "01_a.ipynb")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="another folder"):
        run_one(path, tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("changed", "said"), [({"jobs": 0}, "jobs"), ({"limit": 0.0}, "limit")])
def test_settings_that_can_not_work_are_refused(
    changed: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        settings(tmp_path, **changed)
