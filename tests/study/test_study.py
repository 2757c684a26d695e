"""Studies: what is run, what is kept, what is found again, and what nothing can spoil."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fedlab
from fedlab.files import atomic
from fedlab.study import Range, Study, drawn, grid, load_runs, record, timings
from fedlab.study.parameters import ParameterError
from fedlab.study.records import RunRecord, attempts, latest
from tests.study import work
from tests.workbench.building import gone

ROOT = Path(__file__).resolve().parents[2]


def statuses(study: Study) -> dict[str, int]:
    return study.status().status.value_counts().to_dict()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("ran")
    study = Study(work.curve, folder, grid(alpha=[0.1, 1.0], rounds=[2]), seeds=range(3))
    study.run(workers=2)
    return study


# Points


def test_a_grid_has_every_combination_once() -> None:
    points = grid(a=[1, 2], b=["", "y"][1:], c=(0.5,))
    assert points == [{"a": 1, "b": "y", "c": 0.5}, {"a": 2, "b": "y", "c": 0.5}]
    for bad in ("text", {"a": 1}, 3, []):
        with pytest.raises(ValueError, match=r"give a list of values|give at least one"):
            grid(a=bad)  # type: ignore[arg-type]


def test_draws_lie_in_their_ranges_and_begin_alike() -> None:
    space = {"lr": Range(0.001, 1.0, log=True), "n": Range(1, 3), "k": ["a", "b"]}
    points = drawn(space, 2000, seed=3)
    assert drawn(space, 10, seed=3) == points[:10] != drawn(space, 10, seed=4)
    rates = np.array([point["lr"] for point in points])
    # Each factor of ten is as likely as any other.
    assert np.histogram(np.log10(rates), bins=3, range=(-3, 0))[0] == pytest.approx(667, rel=0.1)
    counts = pd.Series([point["n"] for point in points]).value_counts()
    assert set(counts.index) == {1, 2, 3}
    assert counts.to_numpy() == pytest.approx(667, rel=0.1)
    assert {point["k"] for point in points} == {"a", "b"}


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (0, 1, True), (float("nan"), 1), ("1", 2)])
def test_a_range_without_a_length_is_refused(ends: Any) -> None:
    with pytest.raises(ValueError, match="a range goes from"):
        Range(*ends)


# What is refused before anything runs


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([{"alhpa": 1.0}], "did you mean alpha"),
        ([{"alpha": 1.0}, {"alpha": "much"}], "'much'"),
        ([{"rounds": 0}], "greater than or equal to 1"),
        ([{"rounds": 1.5}], "1.5"),
    ],
)
def test_points_that_do_not_fit_are_refused(tmp_path: Path, points: Any, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        Study(work.curve, tmp_path / "study", points)
    assert not (tmp_path / "study").exists()


def test_targets_that_cannot_be_run_elsewhere_are_refused(tmp_path: Path) -> None:
    def inside(alpha: float = 1.0) -> None: ...

    with pytest.raises(ValueError, match="%%writefile"):
        Study(inside, tmp_path)
    with pytest.raises(ValueError, match="alpha"):
        Study(work.nothing_typed, tmp_path)
    with pytest.raises(ValueError, match="no parameter seed"):
        Study(work.keeps_state, tmp_path, seeds=[1])
    with pytest.raises(ValueError, match="no runs"):
        Study(work.curve, tmp_path, [])


def test_a_folder_belongs_to_one_target(ran: Study) -> None:
    with pytest.raises(ValueError, match=r"work:curve, not of .*work:keeps_state"):
        Study(work.keeps_state, ran.folder).run()


# What is found


def test_one_frame_has_parameters_and_measurements(ran: Study) -> None:
    frame = ran.frame()
    assert list(frame)[:3] == ["run", "status", "error"]
    assert list(frame)[-4:] == ["round", "who", "metric", "value"]
    assert frame.run.nunique() == 6
    # Two rounds of three measures, and `last`; texts are in the record.
    assert len(frame) == 6 * (2 * 3 + 1)
    one = frame[(frame.alpha == 0.1) & (frame.seed == 2) & (frame.metric == "accuracy")]
    random = np.random.default_rng(2)
    expected = [0.1 * number + random.normal() for number in (1, 2)]
    assert one.value.tolist() == expected
    assert one["round"].tolist() == [1, 2]
    assert set(frame[frame["round"].isna()].who) == {"run"}
    found = latest(ran.folder)[one.run.iloc[0]]
    assert found.recorded == {"last": expected[-1], "word": "fine", "nothing": None}
    pd.testing.assert_frame_equal(
        fedlab.load_runs(ran.folder)[list(frame)], fedlab.load_runs(ran.folder)
    )


def test_a_record_tells_how_to_do_it_again(ran: Study) -> None:
    one = next(iter(latest(ran.folder).values()))
    done = subprocess.run(
        [sys.executable, "-c", one.command], cwd=ROOT, check=True, capture_output=True
    )
    assert not done.stderr
    assert set(one.environment) == {"python", "platform", "threads", "distributions"}
    assert one.environment["distributions"]["numpy"] == np.__version__
    told = timings(ran.folder)
    assert (told.seconds > 0).all()
    assert set(told.attempt) == {1}


def test_outside_of_a_study_nothing_is_kept(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert record(a=np.float32(0.5)) == {"a": 0.5}
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="a record takes numbers"):
        record(a=[1])


def test_only_what_is_missing_runs(ran: Study, tmp_path: Path) -> None:
    shutil.copytree(ran.folder, tmp_path / "copy")
    more = Study(
        work.curve, tmp_path / "copy", grid(alpha=[0.1, 1.0, 5.0], rounds=[2]), seeds=[0, 1]
    )
    assert statuses(more) == {"done": 4, "missing": 2}
    heard: list[RunRecord] = []

    def tell(counts: Mapping[str, int], record: RunRecord | None) -> None:
        assert sum(counts.values()) == 6
        heard.extend([record] if record else [])

    assert set(more.run(tell=tell).status) == {"done"}
    assert [one.parameters["alpha"] for one in heard] == [5.0, 5.0]
    assert more.frame().run.nunique() == 6  # what the plan no longer has is left aside


def test_results_that_were_changed_count_no_more(ran: Study, tmp_path: Path) -> None:
    shutil.copytree(ran.folder, tmp_path / "copy")
    study = Study(work.curve, tmp_path / "copy", grid(alpha=[0.1, 1.0], rounds=[2]), seeds=range(3))
    path = next(iter((study.folder / "runs").glob("*/results.parquet")))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert statuses(study) == {"done": 5, "stale": 1}
    assert "not as it left them" in set(study.frame().error.dropna()).pop()
    study.run()
    assert statuses(study) == {"done": 6}
    assert len(list(attempts(study.folder))) == 7  # the other folder is still there


# What goes wrong


def test_troubles_are_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    kinds = ["raises", "killed", "leaves", "holds", "none"]
    study = Study(work.trouble, tmp_path, grid(kind=kinds))
    began = time.monotonic()
    table = study.run(workers=2, limit=3).set_index("kind")
    assert time.monotonic() - began < 60
    assert table.status.to_dict() == dict.fromkeys(kinds[:-1], "failed") | {"none": "done"}
    assert table.why["raises"] == "ValueError: <script>alert(1)</script>"
    assert "ended with -9" in table.why["killed"]
    assert "ended with 3" in table.why["leaves"]
    assert "stopped after 3 s" in table.why["holds"]
    frame = study.frame().set_index("kind")
    assert frame.metric.to_dict() == dict.fromkeys(kinds[:-1], "failed") | {"none": "fine"}
    assert set(frame.status[frame.metric == "failed"]) == {"failed"}
    study.run(workers=2, limit=3)  # a failed run is tried again, in a folder of its own
    assert sum(one.parameters["kind"] == "raises" for one in attempts(tmp_path)) == 2


def test_a_run_knows_nothing_of_those_before(tmp_path: Path) -> None:
    study = Study(work.keeps_state, tmp_path, grid(number=range(6)))
    study.run(workers=1)
    assert study.frame().value.tolist() == [1.0] * 6


def test_what_cannot_be_seen_is_never_done_unless_declared(tmp_path: Path) -> None:
    study = Study(work.trouble, tmp_path, grid(kind=["starts", "none"]))
    table = study.run().set_index("kind")
    assert table.status.to_dict() == {"starts": "unverified", "none": "done"}
    assert table.why["starts"] == "it started a process"
    declared = Study(work.trouble, tmp_path, grid(kind=["starts", "none"]), inputs=[])
    assert statuses(declared) == {"done": 2}


def test_a_declared_input_is_that_of_the_folder_where_it_was_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    table = tmp_path / "a.csv"
    table.write_text("1\n")
    monkeypatch.chdir(tmp_path)
    study = Study(work.trouble, tmp_path / "study", [{"kind": "starts"}], inputs=["a.csv"])
    monkeypatch.chdir(tmp_path / "elsewhere")  # as a worker of a cluster may be
    assert set(study.run().status) == {"done"}
    table.write_text("2\n")
    assert study.status().why.tolist() == [str(table)]


def test_what_a_run_has_written_itself_is_no_input(tmp_path: Path) -> None:
    study = Study(work.rewrites, tmp_path / "study", [{"place": str(tmp_path / "own")}])
    assert study.run().status.tolist() == ["done"]
    (tmp_path / "own").unlink()
    assert study.status().status.tolist() == ["done"]


def test_a_study_within_a_run_depends_on_what_its_own_runs_read(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("x\n1\n")
    place = str(tmp_path / "inner")
    study = Study(work.sweeps, tmp_path / "study", [{"table": str(table), "place": place}])
    assert study.run().status.tolist() == ["done"]
    table.write_text("x\n2\n")
    status = study.status()
    assert status.status.tolist() == ["stale"]
    assert status.why.tolist() == [str(table)]


def test_declared_inputs_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Study(work.trouble, tmp_path / "study", inputs=[tmp_path / "nowhere"])


def test_the_next_sweep_begins_warm(ran: Study) -> None:
    (memory,) = (ran.folder / ".cache").glob("imports-*.json")
    assert "numpy" in json.loads(memory.read_bytes())
    assert Study(work.curve, ran.folder, [{"alpha": 9.0}]).run().status.tolist() == ["done"]


def test_one_byte_of_an_input_makes_exactly_its_runs_stale(tmp_path: Path) -> None:
    tables = [tmp_path / f"{name}.csv" for name in "ab"]
    for table in tables:
        table.write_text("x\n1\n2\n")
    study = Study(work.reads, tmp_path / "study", grid(table=[*map(str, tables)], number=[0, 1]))
    assert set(study.run().status) == {"done"}
    held = tables[0].stat()
    tables[0].write_text("x\n1\n3\n")  # as long as before
    os.utime(tables[0], ns=(held.st_atime_ns, held.st_mtime_ns))  # and seemingly as old
    table = study.status()
    assert table.status.tolist() == ["stale", "stale", "done", "done"]
    assert table.why.iloc[0] == str(tables[0])
    study.run()
    sums = study.frame().query("metric == 'sum'").value.tolist()
    assert sums == [4 + 6, 5 + 6, 3 + 6, 4 + 6]


def test_code_counts_and_comments_do_not(tmp_path: Path) -> None:
    """In a process of its own, since modules are imported once."""
    (tmp_path / "helper.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "other.py").write_text("x = 1\n")
    (tmp_path / "mine.py").write_text(
        "import helper\n\ndef go(x: int = 1):\n    return {'y': helper.double(x)}\n"
    )
    script = textwrap.dedent("""
        import json, mine
        from fedlab.study import Study, grid
        study = Study(mine.go, "study", grid(x=[1, 2]))
        before = study.status()
        study.run()
        print(json.dumps([before.status.tolist(), before.why.tolist(),
                          study.frame().value.tolist()]))
    """)

    def go() -> Any:
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert go() == [["missing"] * 2, [""] * 2, [2.0, 4.0]]
    with (tmp_path / "helper.py").open("a") as file:
        file.write("# a comment\n\n\n")
    (tmp_path / "other.py").write_text("x = 2\n")
    assert go() == [["done"] * 2, [""] * 2, [2.0, 4.0]]
    (tmp_path / "helper.py").write_text("def double(x):\n    return 2 * x + 1\n")
    assert go() == [["stale"] * 2, ["helper"] * 2, [3.0, 5.0]]
    (tmp_path / "mine.py").write_text(
        "import helper\n\ndef go(x: int = 1):\n    return {'y': helper.double(x) + 1}\n"
    )
    assert go() == [["stale"] * 2, ["its own code; mine"] * 2, [4.0, 6.0]]


def test_a_full_disk_is_told_and_costs_only_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, full = atomic.write_bytes, [True]

    def fails(path: Any, content: bytes, mode: int = 0o666) -> None:
        if full[0] and Path(path).name == "record.json" and b'"alpha": 2.0' in content:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content, mode)

    monkeypatch.setattr(atomic, "write_bytes", fails)
    study = Study(work.curve, tmp_path, grid(alpha=[1.0, 2.0, 3.0]))
    table = study.run().set_index("alpha")
    assert table.status.to_dict() == {1.0: "done", 2.0: "failed", 3.0: "done"}
    assert "No space left" in table.why[2.0]
    assert not list((tmp_path / "runs").glob(".*"))
    full[0] = False
    assert set(study.run().status) == {"done"}


# Kills and locks

SWEEP = """
import sys
from fedlab.study import Study, grid
from tests.study import work
study = Study(work.{function}, sys.argv[1], grid({points}))
study.run(workers=2, tell=lambda counts, record: print(counts["done"], flush=True))
"""


def start(folder: Path, function: str, points: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SWEEP.format(function=function, points=points), str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def at_work(folder: Path, mark: Path) -> tuple[subprocess.Popen[str], int]:
    """Start a sweep whose one run takes ten minutes; return it, and the number of its run."""
    points = f"kind=['none'], seconds=[600.0], place=[{str(mark)!r}]"
    sweep = start(folder, "trouble", points)
    wait_until(lambda: mark.exists() and mark.read_text().endswith("\n"))
    return sweep, int(mark.read_text())


def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    points = "alpha=[0.5 * n for n in range(12)], rounds=[2]"
    for number in (2, 5):
        sweep = start(tmp_path / "killed", "curve", points)
        assert sweep.stdout is not None
        for line in sweep.stdout:
            if int(line) >= number:
                break
        sweep.kill()
        sweep.wait()
    kept = {one.folder: one for one in attempts(tmp_path / "killed")}
    assert 2 <= len(kept) < 12
    made = grid(alpha=[0.5 * n for n in range(12)], rounds=[2])
    killed = Study(work.curve, tmp_path / "killed", made)
    began = time.monotonic()
    assert set(killed.run().status) == {"done"}  # the lock went with its holder
    assert time.monotonic() - began < 60
    whole = Study(work.curve, tmp_path / "whole", made)
    whole.run(workers=1)
    pd.testing.assert_frame_equal(killed.frame(), whole.frame())
    after = {one.folder: one for one in attempts(tmp_path / "killed")}
    assert {name: after[name] for name in kept} == kept
    assert len(after) == 12


def test_a_killed_sweep_takes_its_runs_along_and_holds_no_lock(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    sweep, number = at_work(tmp_path / "study", mark)
    mine = Study(work.trouble, tmp_path / "study", [{"place": str(mark)}])
    with pytest.raises(BlockingIOError, match="another process"):
        mine.run()
    sweep.kill()
    sweep.wait()
    assert gone(number)
    began = time.monotonic()
    assert set(mine.run().status) == {"done"}
    assert time.monotonic() - began < 30


def test_an_interrupt_leaves_nothing_half_done(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    sweep, number = at_work(tmp_path / "study", mark)
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(30) != 0
    assert gone(number)
    assert not list((tmp_path / "study/runs").iterdir())


def test_relative_paths_are_found_by_many_at_once(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        Path(f"{number}.csv").write_text(f"x\n{number}\n")
    study = Study(work.reads, "study", grid(table=[f"{number}.csv" for number in range(8)]))
    study.run(workers=8)
    assert study.frame().value.tolist() == [float(number + 4) for number in range(8)]


def test_other_executors_give_the_same_frame(ran: Study, tmp_path: Path) -> None:
    study = Study(work.curve, tmp_path, grid(alpha=[0.1, 1.0], rounds=[2]), seeds=range(3))
    with ProcessPoolExecutor(2) as pool:
        study.run(executor=pool, workers=2)
    pd.testing.assert_frame_equal(study.frame(), ran.frame())


def test_a_run_that_two_workers_do_at_once_is_done_once(tmp_path: Path) -> None:
    class Twice(ThreadPoolExecutor):
        """Takes a worker for dead that is not."""

        def submit(self, *asked: Any) -> Any:  # type: ignore[override]
            both = [super(Twice, self).submit(*asked) for _ in range(2)]
            wait(both)
            assert both[0].result() == both[1].result()
            return both[1]

    study = Study(work.trouble, tmp_path, grid(seconds=[0.2, 0.3]))
    with Twice(2) as pool:
        assert set(study.run(executor=pool).status) == {"done"}
    assert [one.attempt for one in attempts(tmp_path)] == [1, 1]


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="no folder"):
        load_runs(tmp_path / "nowhere")
