"""The table of recommenders: notebook 17's own ways and judge, and what the command prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import recommend
from fedlab.metrics import mean_interval

SMALL = {"users": 60, "strangers": 10, "cohort": 20, "rounds": 2, "passes": 1, "size": 3}
GIVEN = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def space() -> dict[str, Any]:
    return recommend.defined(**SMALL)


def test_the_notebooks_cells_take_the_parameters_and_train_nothing(space: dict[str, Any]) -> None:
    assert {name: space[name] for name in SMALL} == SMALL
    assert len(space["devices"]) == 60
    assert "federations" not in space
    assert {"item-kNN", "implicit ALS", "central MF"} < space["baselines"].keys()
    assert {"federated MF", "PFedRec", "FedRAP", "two towers"} < space["ways"].keys()


def test_popularity_by_hand(space: dict[str, Any]) -> None:
    had, wanted = space["had"], space["wanted"]
    counts, found = had[:50].sum(axis=0), []
    for user in range(50):
        others = set(np.flatnonzero(~had[user])) - {wanted[user]}
        found.append(sum(counts[film] >= counts[wanted[user]] for film in others) < 10)
    told = recommend.measured(space, "popularity", seed=0)
    assert told["HR, of all"] == pytest.approx(np.mean(found))
    assert told["kB"] == 0


def test_what_a_device_sends_is_counted_and_the_answer_spared_if_asked(
    space: dict[str, Any],
) -> None:
    spared = []

    def learn(*given: Any, spare: bool, **more: Any) -> Any:
        spared.append(spare)
        return space["learn"](*given, spare=spare, **more)

    told = recommend.measured(space | {"learn": learn}, "federated MF", 0)
    recommend.measured(space | {"learn": learn}, "federated MF", 0, spare=True)
    assert spared == [False, True]
    films = 4 * space["items"] * (SMALL["size"] + 1) / 1e3
    assert films <= told["kB"] < films + 0.2


def test_the_command_tells_means_and_intervals(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "some" / "recommend.csv"
    methods = ["--only", "popularity", "lean towers", "--seeds", "2", "--begin", "3"]
    assert recommend.main([*GIVEN, *methods, "--out", str(out)]) == 0
    rows = pd.read_csv(out)
    assert rows.seed.tolist() == [3, 3, 4, 4]
    said = capsys.readouterr().out
    for _, part in rows.groupby("method"):
        assert f"{mean_interval(part['HR, of 100']):.3f}" in said


def test_methods_that_there_are_not_are_refused(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "none.csv")]
    with pytest.raises(ValueError, match="no method is called 'BPR'; there are popularity, "):
        recommend.main([*GIVEN, "--only", "BPR", *out])
    with pytest.raises(ValueError, match="'popularity'; there are federated MF, "):
        recommend.main([*GIVEN, "--as-authors", "--only", "popularity", *out])
