"""The monitor: the kernel stays free, nothing is lost, and a run goes on to the same bits."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from fedlab import Device, Federation, Profile, SoftmaxRegression, VectorIndex
from fedlab.federation.checkpoint import CheckpointError
from fedlab.fleet import Deadline
from fedlab.updates import ClipNorm, PrivateMean
from fedlab.workbench.notebook import cells
from fedlab.workbench.notebook import monitor as module
from fedlab.workbench.notebook.monitor import Monitor, monitor

ROUNDS = 12


def made(seed: int = 0, profiles: Any = (None,) * 6, **settings: Any) -> Federation:
    draw, devices = np.random.default_rng(3), []
    for number, profile in enumerate(profiles):
        index = VectorIndex(3)
        index.add(draw.normal(size=(20, 3)), labels=draw.integers(0, 3, 20))
        devices.append(Device(f"ward {number}", index, profile or Profile()))
    settings = {"cohort": 3, "engine": "plain", **settings}
    return Federation(devices, SoftmaxRegression(3, 3), seed=seed, **settings)


class Gate:
    """Lets as many rounds pass as are asked for; and fails in one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.fails_in, self.waiting = threading.Semaphore(0), -1, 0
        before = Federation.round

        def round(federation: Federation) -> Any:
            self.waiting += 1
            self.open.acquire()
            self.waiting -= 1
            if federation.round_number + 1 == self.fails_in:
                raise ZeroDivisionError("a <b>device</b> fell over")
            return before(federation)

        monkeypatch.setattr(Federation, "round", round)

    def pass_(self, rounds: int) -> None:
        self.open.release(rounds)


def until(true: Any) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A front end, and no run of another test."""
    mpl.use("agg")
    monkeypatch.setattr(cells, "is_batch", lambda: False)
    monkeypatch.setattr(module, "_MONITORS", {})
    yield
    for left in module._MONITORS.values():
        left.stop()


def pressable(watched: Monitor) -> set[str]:
    return {b.description for b in watched.box.children[1].children if not b.disabled}


def press(watched: Monitor, name: str) -> None:
    [button] = [b for b in watched.box.children[1].children if b.description == name]
    assert not button.disabled
    button.click()


def line(watched: Monitor) -> str:
    return re.sub("<[^>]*>", "", watched.box.children[0].value).strip()


@pytest.fixture
def whole() -> Federation:
    """The run that nothing happened to."""
    federation = made()
    federation.run(ROUNDS)
    return federation


def same(one: Federation, other: Federation) -> bool:
    return (
        one.parameters.tobytes() == other.parameters.tobytes()
        and one.history.to_frame().equals(other.history.to_frame())
        and one.round_number == other.round_number
    )


def test_it_runs_behind_the_cells_to_the_bits_of_run(tmp_path, monkeypatch, whole):
    gate = Gate(monkeypatch)
    watched = monitor(made(), ROUNDS, tmp_path / "run")
    assert (watched.status, pressable(watched)) == ("runs", {"pause", "stop"})  # and we are here
    gate.pass_(ROUNDS)
    assert len(watched.finish().series("train_loss")) == ROUNDS
    until(lambda: "done" in line(watched))
    assert pressable(watched) == set()
    assert same(watched.federation, whole)
    assert re.search("done: round 12 of 12; train loss [.0-9]+; .* up; .* down", line(watched))
    until(lambda: "<img alt='round 12 of 12; train loss" in watched.box.children[2].value)
    watched.path.unlink()
    assert watched.finish() is watched.federation.history  # there is nothing left to do
    longer = monitor(watched.federation, ROUNDS + 2, tmp_path / "run")
    gate.pass_(2)
    assert len(longer.finish().series("train_loss")) == ROUNDS + 2
    assert "src='data:image/png;base64," in watched.box.children[2].value


def test_pause_continue_and_stop(tmp_path, monkeypatch, whole):
    gate = Gate(monkeypatch)
    watched = monitor(made(), ROUNDS, tmp_path)
    until(lambda: gate.waiting)
    press(watched, "pause")
    assert line(watched).startswith("paused after this round")
    assert pressable(watched) == {"continue", "stop"}
    gate.pass_(1)
    until(lambda: line(watched).startswith("paused: round 1 of 12"))
    assert pressable(watched) == {"continue", "stop"}
    gate.pass_(4)
    press(watched, "continue")
    until(lambda: watched.federation.round_number == 5 and gate.waiting)
    press(watched, "stop")
    gate.pass_(1)
    until(lambda: line(watched).startswith("stopped: round 6 of 12"))
    assert pressable(watched) == {"continue"}
    assert not watched.running
    saved = made()
    saved.load(watched.path)
    assert saved.round_number == 6
    press(watched, "continue")
    gate.pass_(ROUNDS)
    watched.finish()
    assert same(watched.federation, whole)


def test_a_stop_that_is_taken_back_loses_nothing(tmp_path, monkeypatch, whole):
    gate = Gate(monkeypatch)
    watched = monitor(made(), ROUNDS, tmp_path)
    for _ in range(ROUNDS):
        watched.stop()
        gate.pass_(1)
        watched.proceed()
    watched.finish()
    assert same(watched.federation, whole)


def test_a_cell_that_is_run_again_finds_the_run(tmp_path, monkeypatch, whole):
    gate = Gate(monkeypatch)
    federation = made()
    first = monitor(federation, 6, tmp_path)
    gate.pass_(2)
    until(lambda: federation.round_number == 2)
    before = threading.active_count()
    again, anew = monitor(federation, 6, tmp_path), monitor(made(), ROUNDS, tmp_path)
    assert first is again is anew
    assert threading.active_count() == before
    gate.pass_(ROUNDS)
    anew.finish()
    assert same(anew.federation, whole)  # as long as the last one asked for
    with pytest.raises(CheckpointError, match="another run: its seed is 0, this one's 1"):
        monitor(made(seed=1), ROUNDS, tmp_path)


def test_two_runs_at_once(tmp_path, whole):
    other = made(seed=1)
    other.run(ROUNDS)
    both = [monitor(made(seed), ROUNDS, tmp_path / str(seed)) for seed in (0, 1)]
    for watched in both:
        watched.finish()
    assert same(both[0].federation, whole)
    assert same(both[1].federation, other)


def test_a_new_kernel_goes_on_from_the_folder(tmp_path, monkeypatch, whole):
    gate = Gate(monkeypatch)
    watched = monitor(made(), ROUNDS, tmp_path)
    gate.pass_(5)
    until(lambda: watched.federation.round_number == 5 and gate.waiting)
    press(watched, "pause")
    gate.pass_(1)
    until(lambda: "paused: round 6" in line(watched))
    module._MONITORS.clear()  # as a new process would
    old = tmp_path / "old"
    old.mkdir()
    (old / "run.checkpoint").write_bytes(watched.path.read_bytes())
    restarted = monitor(made(), ROUNDS, old)
    assert line(restarted).startswith("stopped: round 6 of 12")
    assert "<img" in restarted.box.children[2].value
    assert restarted.federation.round_number == 6
    gate.pass_(2 * ROUNDS)
    press(restarted, "continue")
    restarted.finish()
    assert same(restarted.federation, whole)
    watched.finish()


def test_a_process_that_is_killed_goes_on(tmp_path, whole):
    script = (
        "import os, sys\n"
        "from tests.workbench.notebook.test_monitor import *\n"
        "cells.is_batch = lambda: False\n"
        "before = Federation.save\n"
        "def save(self, path):\n"
        "    before(self, path)\n"
        "    if self.round_number == 7: os._exit(9)\n"
        "Federation.save, module._SAVING = save, 0\n"
        "monitor(made(), 12, sys.argv[1]).finish()\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=Path.cwd())
    assert killed.returncode == 9
    restarted = monitor(made(), ROUNDS, tmp_path)
    assert line(restarted).startswith("stopped: round 7 of 12")
    restarted.finish()
    assert same(restarted.federation, whole)


def test_errors_of_the_thread_are_shown_and_kept(tmp_path, monkeypatch, whole):
    gate = Gate(monkeypatch)
    gate.fails_in = 4
    gate.pass_(4)
    watched = monitor(made(), ROUNDS, tmp_path)
    until(lambda: watched.status == "failed")
    until(lambda: "failed: round 3 of 12" in line(watched))
    shown = watched.box.children[0].value
    assert "ZeroDivisionError: a &lt;b&gt;device&lt;/b&gt; fell over" in shown
    assert pressable(watched) == {"continue"}
    module._MONITORS.clear()
    restarted = monitor(made(), ROUNDS, tmp_path)
    assert "fell over" in line(restarted)
    gate.pass_(1)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a <b>device</b> fell over"):
        restarted.finish()
    gate.fails_in = -1
    gate.pass_(ROUNDS)
    restarted.finish()
    assert "fell over" not in line(restarted)
    assert not (tmp_path / "error.txt").exists()
    assert same(restarted.federation, whole)


def test_a_kernel_that_ends_is_no_failure(tmp_path):
    script = (
        "import atexit, os, sys\n"
        "from tests.workbench.notebook.test_monitor import *\n"
        "def clear():\n"  # as IPython does, which registers it before anything is imported
        "    del globals()['before']\n"
        "    until(lambda: watched.failure)\n"
        "    print(watched.failure)\n"
        "atexit._clear()\n"
        "atexit.register(clear)\n"
        "atexit.register(module._ENDS.set)\n"
        "cells.is_batch = lambda: False\n"
        "before = Federation.round\n"
        "Federation.round = lambda self: before(self)\n"
        "watched = monitor(made(), 10**6, sys.argv[1])\n"
        "until(lambda: watched.federation.round_number)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=Path.cwd(), capture_output=True
    )
    assert b"NameError: name 'before' is not defined" in ended.stdout
    assert not (tmp_path / "error.txt").exists()
    assert monitor(made(), ROUNDS, tmp_path).federation.round_number > 0


def test_a_folder_that_another_kernel_runs_is_left_alone(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    here = monitor(made(), ROUNDS, tmp_path)
    until(lambda: gate.waiting)
    for stops in (here.pause, here.stop):
        module._MONITORS.clear()
        with pytest.raises(BlockingIOError, match=r"another kernel has /.*; press stop there"):
            monitor(made(), ROUNDS, tmp_path)
        stops()
    gate.pass_(1)
    until(lambda: not here.running)
    there = monitor(made(), ROUNDS, tmp_path)
    assert there.federation.round_number == 1
    gate.pass_(ROUNDS)
    there.finish()
    here.finish()  # takes what the other one has done, and does no round again
    assert gate.open.acquire(blocking=False)  # of 13 that were let pass, 12 were done
    assert same(here.federation, there.federation)


def test_a_picture_that_fails_ends_no_run(tmp_path, monkeypatch, whole):
    def wrong(*_: object) -> None:
        raise ValueError("no <ink>")

    monkeypatch.setattr(module, "run_figure", wrong)
    watched = monitor(made(), ROUNDS, tmp_path)
    watched.finish()
    until(lambda: "no &lt;ink&gt;" in watched.box.children[2].value)
    assert same(watched.federation, whole)


def test_quick_rounds_are_not_all_drawn(tmp_path, monkeypatch):
    drawn: list[int] = []
    before = module.run_figure

    def counted(federation: Federation, rounds: int) -> Any:
        drawn.append(federation.round_number)
        return before(federation, rounds)

    monkeypatch.setattr(module, "run_figure", counted)
    monitor(made(), 400, tmp_path).finish()
    until(lambda: drawn[-1] == 400)
    assert drawn[0] <= 1
    assert len(drawn) < 40


def test_it_draws_who_took_part_and_who_was_left_out():
    profiles = [Profile(bandwidth=1e6 if number % 2 else 1.0) for number in range(6)]
    federation = made(profiles=profiles, cohort=6, schedule=Deadline(1.0))
    with pytest.warns(UserWarning, match="9 remarks"):
        federation.run(3)
    figure, alt = module.run_figure(federation, 3)
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[-1].lines}
    assert lines["took part"] == [[round, place] for round in (1, 2, 3) for place in (1, 3, 5)]
    assert lines["left out"] == [[round, place] for round in (1, 2, 3) for place in (0, 2, 4)]
    assert [text.get_text() for text in figure.axes[-1].get_yticklabels()][3] == "ward 3"
    assert alt.startswith("round 3 of 3; train loss")


def test_of_many_devices_it_draws_those_to_whom_most_happened():
    federation = made(profiles=[None] * 200, cohort=3)
    federation.run(60)
    figure, _ = module.run_figure(federation, 60)
    [took, _] = figure.axes[-1].lines
    assert figure.axes[-1].get_ylabel() == "60 of 200 devices"
    assert {round for round, _ in took.get_xydata()} <= set(range(21, 61))


def test_a_budget_is_shown_and_ends_the_run(tmp_path):
    settings = {
        "cohort": None,
        "weights": "uniform",
        "updates": [ClipNorm(1.0)],
        "aggregator": PrivateMean(1.0, 20.0, 1e-5, epsilon=2.0, simulated=True),
    }
    watched = monitor(made(**settings), 500, tmp_path)
    watched.finish()
    assert watched.status == "ended: its privacy budget is spent"
    until(lambda: re.search("epsilon simulated 1.9.* of 2", line(watched)))


def test_a_batch_run_runs_to_the_end_and_leaves_a_figure(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(cells, "is_batch", lambda: True)
    shown: list[Any] = []
    monkeypatch.setattr(cells, "show", lambda figure, alt: shown.append((figure, alt)))
    threads = threading.active_count()
    monitor(made(), 5, tmp_path)
    watched = monitor(made(), ROUNDS, tmp_path)  # goes on
    assert threading.active_count() == threads
    assert same(watched.federation, whole)
    assert [alt.split(";")[0] for _, alt in shown] == ["round 5 of 5", "round 12 of 12"]


def test_what_it_can_not_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="rounds"):
        monitor(made(), 0, tmp_path)
