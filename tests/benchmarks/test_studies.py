"""A smaller share of the kills of studies; and that the campaign would notice what goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.studies import (
    _MARK,
    KINDS,
    Sweep,
    by_hand,
    change_one_byte,
    kill_often,
    quarters,
    watch,
)
from fedlab.study import load_runs

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
    pytest.mark.slow,
]


def test_a_study_that_is_killed_gives_the_frame_of_one_that_is_not(tmp_path: Path) -> None:
    how = {"runs": 20, "workers": 2}
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    whole = Sweep(inputs, tmp_path / "whole", how).start()
    memory = quarters(watch(whole), 20)
    assert memory.sweep_mb.iloc[-1] > 50
    assert memory.zombies.max() <= 2
    killed = Sweep(inputs, tmp_path / "killed", how)
    came = kill_often(killed, KINDS)
    assert load_runs(whole.folder).equals(load_runs(killed.folder))
    assert (came.left, came.changed, came.half) == (0, 0, 0)
    assert {kind: len(seconds) for kind, seconds in came.seconds.items()} == dict.fromkeys(KINDS, 1)
    assert 2 <= came.failed <= 3  # the run that was killed, and those of the server
    assert came.calls >= 3  # the first, the one after the kill, and one for what had failed
    assert change_one_byte(killed, np.random.default_rng(0)) == (2, 2, 2)


class Bad(Sweep):
    """Runs nothing; leaves a process, changes a record, and leaves half a run."""

    left_behind: subprocess.Popen[bytes] | None = None

    def start(self) -> Sweep:
        environment = os.environ | {_MARK: str(self.folder)}
        if self.left_behind is None:
            self.left_behind = subprocess.Popen(["sleep", "60"], env=environment)
        else:
            (self.folder / "runs/half").mkdir(exist_ok=True)
            (self.folder / "runs/1-1/record.json").write_bytes(b"{}")
        words = [sys.executable, "-c", PRETENDS]
        self.process = subprocess.Popen(words, cwd=self.folder, env=environment)
        return self


PRETENDS = """
import os, time
for number in range(10):
    os.makedirs(f"runs/{number}-1", exist_ok=True)
    if not os.path.exists(f"runs/{number}-1/record.json"):
        with open(f"runs/{number}-1/record.json", "w") as file:
            file.write("[]")
    time.sleep(0.1)
"""


def test_the_control_what_is_left_and_what_is_changed_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.studies._GONE", 0.1)
    (tmp_path / "study").mkdir()
    bad = Bad(tmp_path, tmp_path / "study", {"runs": 10, "workers": 2})
    try:
        came = kill_often(bad, [KINDS[0]], seed=3)
    finally:
        assert bad.left_behind is not None
        bad.left_behind.kill()
        bad.left_behind.wait()
    assert came.left >= 2  # after the kill, and after the end
    assert (came.changed, came.half) == (1, 1)


def test_the_command_times_reading(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["studies", "load", "--load", "20"]) == 0
    assert "20 runs of 50 rounds and 8 metrics" in capsys.readouterr().out
    by_hand(tmp_path, 12)
    frame = load_runs(tmp_path)
    assert len(frame) == 12 * 50 * 8
    assert frame.run.nunique() == 12
    assert main(["studies", "everything"]) == 2
