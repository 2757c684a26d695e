"""The campaign of tuning: what it remembers is what would have been trained, and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import tuning
from fedlab.data import load_digits
from fedlab.study import Validators, tuned

SPACE = {"learning_rate": [0.1, 1.0], "epochs": [1], "batch_size": [16], "server_rate": [0.3, 1.0]}


@pytest.fixture(autouse=True)
def small(monkeypatch: Any) -> None:
    monkeypatch.setattr(tuning, "load_mnist5k", load_digits)
    monkeypatch.setattr(tuning, "SPACE", SPACE)
    by = [("2 devices", Validators(2, weights="uniform"))]
    monkeypatch.setattr(tuning, "noises", lambda devices: by)


def test_remembered_rounds_are_those_that_would_have_been_done() -> None:
    first = tuning.World(0, devices=12, alpha=0.5, each=3, cohort=4)
    about: Any = {"rounds": 14, "each": 3, "way": "hyperband", "judges": Validators(3)}
    one = tuned(first.make, SPACE, **about)
    first.bank.clear()
    other = tuned(first.make, SPACE, **about)
    pd.testing.assert_frame_equal(one.trials, other.trials)
    assert one.federation.parameters.tobytes() == other.federation.parameters.tobytes()
    assert min(first.regret(dict(zip(SPACE, key, strict=True))) for key in first.truth) == 0


def test_the_command_tells_regrets(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "tuning.csv"
    numbers = {"seeds": 2, "rounds": 12, "each": 3, "devices": 12, "cohort": 4, "alpha": 0.5}
    given = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    assert tuning.main([*given, "--out", str(out)]) == 0
    rows = pd.read_csv(out)
    assert len(rows) == 2 * (len(tuning.WAYS) + 3)
    assert (rows.regret[rows.way != "fedex, its model"] >= 0).all()
    said = capsys.readouterr().out
    assert "2 devices" in said
    assert "Beside random search" in said
