"""Tuning: Optuna's points, in generations, whatever runs beside them; and runs ended early."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from fedlab.federation.history import Report
from fedlab.study import Range, Tuning, watched
from fedlab.study.records import latest
from fedlab.study.watching import Pruning
from tests.study import work

SPACE = {"lr": Range(0.01, 10.0, log=True), "width": Range(1, 8), "kind": ["a", "b"]}
MEDIAN = ("Median", {"n_startup_trials": 4})


def tuning(folder: Path, **changed: Any) -> Tuning:
    given: dict[str, Any] = {"trials": 10, "generation": 4, "metric": "accuracy"}
    return Tuning(work.tuned, folder, SPACE, **{**given, "pruner": MEDIAN, **changed})


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Tuning:
    study = tuning(tmp_path_factory.mktemp("tuned"), seeds=range(2))
    study.run(workers=1)
    return study


def test_points_do_not_depend_on_workers_and_are_found_again(ran: Tuning, tmp_path: Path) -> None:
    other = tuning(tmp_path, seeds=range(2))
    assert set(other.run(workers=3).status) == {"done"}
    pd.testing.assert_frame_equal(other.frame(), ran.frame())
    heard = []
    again = tuning(tmp_path, seeds=range(2))
    again.run(tell=lambda counts, record: heard.append(record))
    assert not any(heard)
    assert [one.id for one in again.runs] == [one.id for one in ran.runs]
    assert len(ran.runs) == 20


def test_a_killed_generation_goes_on(ran: Tuning, tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def tell(counts: Any, record: Any) -> None:
        if counts["done"] == 5:
            raise Enough

    with pytest.raises(Enough):
        tuning(tmp_path, seeds=range(2)).run(tell=tell)
    assert len(tuning(tmp_path, seeds=range(2)).runs) < 20
    rest = tuning(tmp_path, seeds=range(2))
    rest.run()
    pd.testing.assert_frame_equal(rest.frame(), ran.frame())


def test_the_points_are_those_that_optuna_asks_for(ran: Tuning) -> None:
    """Optuna by itself, told the same values in the same order."""
    values = ran.frame().query("metric == 'accuracy'").groupby("run", observed=True).value.last()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    space = {
        "lr": optuna.distributions.FloatDistribution(0.01, 10.0, log=True),
        "width": optuna.distributions.IntDistribution(1, 8),
        "kind": optuna.distributions.CategoricalDistribution(["a", "b"]),
    }
    runs = iter(ran.runs)
    for size in (4, 4, 2):
        trials = [study.ask(space) for _ in range(size)]
        for trial in trials:
            pair = [next(runs), next(runs)]
            assert all(trial.params.items() <= one.parameters.items() for one in pair)
            study.tell(trial, sum(values[one.id] for one in pair) / 2)


def test_pruned_runs_end_where_the_pruner_says(ran: Tuning) -> None:
    """By hand: a median pruner compares the best so far with the median of the runs before."""
    frame = ran.frame().query("metric == 'accuracy'")
    curves = {
        run: dict(zip(part["round"].astype(int), part.value, strict=True))
        for run, part in frame.groupby("run", observed=True)
    }
    kept = latest(ran.folder)
    generations = [ran.runs[:8], ran.runs[8:16], ran.runs[16:]]
    before: dict[int, list[dict[int, float]]] = {0: [], 1: []}
    pruned = 0
    for generation in generations:
        for place, one in enumerate(generation):
            curve, expected = curves[one.id], None
            for number in range(1, max(curve) + 1):
                others = [each[number] for each in before[place % 2] if number in each]
                best = max(curve[each] for each in range(1, number + 1))
                if len(before[place % 2]) >= 4 and best < pd.Series(others).median():
                    expected = number
                    break
            assert kept[one.id].recorded.get("pruned") == expected
            assert max(curve) == (expected or 8)
            pruned += expected is not None
        for place, one in enumerate(generation):
            before[place % 2].append(curves[one.id])
    assert pruned > 0
    why = ran.status().why
    assert why.str.contains("pruned after round").sum() == pruned


def test_failed_runs_are_told_as_such(tmp_path: Path) -> None:
    space = {"kind": ["raises", "none"], "seconds": Range(0.0, 0.01)}
    study = Tuning(work.trouble, tmp_path, space, trials=8, generation=4, metric="fine")
    table = study.run()
    assert set(table.status) == {"failed", "done"}
    assert (table.status[table.kind == "raises"] == "failed").all()
    assert (table.status[table.kind == "none"] == "done").all()


def test_outside_of_a_study_all_rounds_pass() -> None:
    def rounds() -> Iterator[Report]:
        yield from (Report(number, {"accuracy": -number}) for number in range(5))

    assert [report.round for report in watched(rounds())] == [0, 1, 2, 3, 4]


def test_a_pruning_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = Pruning("Median", {"n_startup_trials": 1}, "accuracy", "maximize", ({1: 0.5, 2: 0.1},))
    assert Pruning.read(tmp_path) is None
    made.write(tmp_path)
    assert Pruning.read(tmp_path) == made


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sampler": "tpe"}, "no sampler 'tpe'; it has .*TPE"),
        ({"pruner": "Medium"}, "no pruner 'Medium'"),
        ({"pruner": ("Median", {"startup": 1})}, "startup"),
        ({"better": "up"}, "way to be better"),
        ({"trials": 0}, "trials"),
    ],
)
def test_what_optuna_does_not_have_is_refused(tmp_path: Path, changed: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tuning(tmp_path / "study", **changed)
    assert not (tmp_path / "study").exists()
