"""Progress: redrawn in place on a terminal, sparse lines in a log."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from fedlab.study.records import Failure
from fedlab.workbench.batch import console, notebooks, runner
from fedlab.workbench.batch.records import Record
from tests.workbench.building import notebook, write


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def runs(tmp_path: Path) -> list[runner.Run]:
    for name in ("01_a", "02_b"):
        write(notebook("# A\n\nB?", "1", "## Train\n", "2"), tmp_path / f"{name}.ipynb")
    return [runner.Run.of(found) for found in notebooks.numbered(tmp_path)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def record(run: runner.Run, error: Failure | None = None) -> Record:
    own, plain = run.commands()
    return Record(
        name=run.notebook.name,
        notebook=run.notebook.shown_path,
        title="",
        question="",
        status="failed" if error else "completed",
        parameters={},
        set_parameters={},
        started="",
        seconds=7.0,
        cells=[],
        source="",
        executed_digest="",
        versions={},
        command=own,
        papermill=plain,
        error=error,
    )


def go(runs: list[runner.Run], stream: io.StringIO, clock: list[float]) -> str:
    told = console.Console(runs, stream)
    told.started(runs[0])
    for number, label in ((1, "1"), (2, "Train")):
        told.cell(runs[0], number, label)
        for _ in range(14):
            clock[0] += 0.5
            told.tick()
    told.finished(record(runs[0]))
    told.started(runs[1])
    told.finished(record(runs[1], Failure("ValueError", "no\nmore", 2, "Train")))
    return stream.getvalue()


def test_a_log_has_few_lines(runs: list[runner.Run], clock: list[float]) -> None:
    assert go(runs, io.StringIO(), clock).splitlines() == [
        "[1/2] 01_a starts, 2 cells; next: 02_b",
        "[1/2] 01_a cell 1/2: 1, 5 s",
        "[1/2] 01_a cell 2/2: Train, 10 s",
        "[1/2] 01_a done in 7.0 s",
        "[2/2] 02_b starts, 2 cells; the last one",
        "[2/2] 02_b FAILED in cell 2 of 2 after 7.0 s: ValueError: no",
    ]


def test_a_terminal_is_redrawn_in_place(
    runs: list[runner.Run], clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    drawn = go(runs, Terminal(), clock).split("\r\x1b[K")
    assert "[1/2] 01_a cell 2/2: Train, 14 s; next: 02_b" in drawn
    assert all(len(part) < 60 for part in drawn if not part.endswith("\n"))
    kept = [part for part in drawn if part.endswith("\n")]
    assert kept[0] == "[1/2] 01_a done in 7.0 s\n"
    assert len(kept) == 2


def test_what_is_reused_is_said(runs: list[runner.Run]) -> None:
    stream = io.StringIO()
    told = console.Console(runs, stream)
    told.reused(record(runs[0]))
    told.started(runs[1])
    assert stream.getvalue().splitlines() == [
        "[1/2] 01_a unchanged, 7 s when it ran",
        "[2/2] 02_b starts, 2 cells; the last one",
    ]
