"""Searches within one budget: spent exactly, judged by devices, and honest about what they know."""

from __future__ import annotations

import itertools
import math
from typing import Any
from unittest.mock import Mock

import numpy as np
import optuna
import pandas as pd
import pytest

from fedlab import Federation, LocalSGD, SoftmaxRegression, spread
from fedlab.data import dirichlet, load_digits
from fedlab.federation.checkpoint import CheckpointError
from fedlab.study import Range, Tuned, Validators, tuned
from fedlab.study.judging import CLOSE, finalists, guessed, resampled, share
from fedlab.study.trials import brackets

WAYS = ("grid", "random", "tpe", "halving", "hyperband", "fedex")
RATES = [0.001, 0.01, 0.1, 1.0, 10.0]
SPACE = {"learning_rate": RATES, "epochs": [1, 3]}


@pytest.fixture(scope="module")
def devices() -> Any:
    digits = load_digits()
    parts = dirichlet(digits.y, devices=12, alpha=0.5, seed=0)
    return [device.hold_out(0.3, seed=0) for device in spread(digits, parts)]


@pytest.fixture(scope="module")
def make(devices: Any) -> Any:
    return maker(devices)


def maker(devices: Any, made: list[Any] | None = None, **settings: Any) -> Any:
    def make(learning_rate: float, epochs: int = 1, algorithm: Any = "fedavg") -> Federation:
        if learning_rate < 0:
            raise ValueError(f"{learning_rate} is below 0")
        local = LocalSGD(learning_rate=learning_rate, epochs=epochs, batch_size=8)
        about = {"algorithm": algorithm, "local": local, "cohort": 4, "evaluate_every": 50}
        model = SoftmaxRegression(64, 10)
        federation = Federation(devices, model, **{**about, "seed": 1, **settings})
        if made is not None:
            made.append(federation)
        return federation

    return make


# -- the budget ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rounds", [60, 67])
def test_every_way_spends_exactly_the_rounds_it_was_given(devices, way, rounds):
    made: list[Federation] = []
    found = tuned(
        maker(devices, made), SPACE, rounds=rounds, way=way, each=None if way == "grid" else 6
    )
    assert sum(one.round_number for one in made) == rounds == found.trials.rounds.sum()
    counted = [
        sum(one.history.series(name).sum() for name in ("bytes_up", "bytes_down")) for one in made
    ]
    assert found.trials.bytes.sum() == sum(counted)
    assert found.federation.parameters.shape == (650,)
    assert found.trials.loc[found.finalists.index[0], "ended"] == "best"
    if way == "fedex":  # the value is that of a run which mixed points
        assert found.trials[[*SPACE]].isna().all(axis=None)
    else:
        row = found.trials.loc[found.finalists.index[0]]
        assert dict(found.point) == {name: row[name] for name in SPACE}


def test_judging_costs_bytes_and_no_round_begins_when_they_are_spent(devices):
    made: list[Federation] = []
    limit = 40 * 4 * (650 * 4 * 2 + 24)  # forty rounds, if nobody was judged
    found = tuned(
        maker(devices, made),
        SPACE,
        rounds=600,
        each=6,
        bytes=limit,
        way="random",
        judges=Validators(5),
    )
    table = found.trials
    finalists = table.index.isin(found.finalists.index)
    expected = 5 * (2600 + 16) * (table.value.notna().astype(int) + finalists)
    assert table.bytes_judging.equals(expected)
    once = 4 * (650 * 4 * 2 + 24)
    # The last round, its trial's judges, and those of the finalists go beyond.
    assert limit <= (table.bytes + expected).sum() < limit + once + 6 * 5 * (2600 + 16)
    assert found.trials.rounds.sum() == sum(one.round_number for one in made) < 60
    assert (table.ended == "stopped").sum() >= 1


@pytest.mark.parametrize("way", ["random", "halving", "hyperband", "tpe"])
def test_bytes_may_end_a_search_anywhere(devices, way):
    """Also within a bracket, when trials were dropped that had come as far as all others."""
    once, ended, refused = 4 * (650 * 4 * 2 + 24), 0, []
    for times in (0.1, 1, 2, 3, 5, 8, 13, 21, 34):
        give = {"rounds": 60, "each": 6, "bytes": times * once, "way": way}
        try:
            found = tuned(maker(devices), SPACE, judges=Validators(3), **give)
        except ValueError as error:
            refused.append(str(error))
            continue
        ended += 1
        assert found.federation.round_number >= 1
        assert found.trials.ended[found.finalists.index[0]] == "best"
        assert not found.trials.ended[found.finalists.index].str.contains("dropped").any()
    assert ended > 3
    assert all("bytes were spent first" in said for said in refused)


def test_halvings_rungs_are_those_of_the_papers_table():
    """Hyperband's table 1 at R = 81 and eta = 3, and the counts in the code of Kuo et al."""
    first = brackets("hyperband", 10_000, 81)[:5]
    assert [[n for n, _ in bracket] for bracket in first] == [
        [81, 27, 9, 3, 1],
        [34, 11, 3, 1],
        [15, 5, 1],
        [8, 2],
        [5],
    ]
    assert [[r for _, r in bracket] for bracket in first] == [
        [1, 3, 9, 27, 81],
        [3, 9, 27, 81],
        [9, 27, 81],
        [27, 81],
        [81],
    ]


@pytest.mark.parametrize("way", ["halving", "hyperband"])
@pytest.mark.parametrize(
    ("rounds", "each", "eta"), [(100, 9, 3), (64, 16, 2), (31, 30, 4), (9, 9, 3)]
)
def test_brackets_fit_the_budget_and_leave_no_room_for_another(way, rounds, each, eta):
    plan = brackets(way, rounds, each, eta)

    def cost(bracket: Any) -> int:
        steps = np.diff([0, *(reached for _, reached in bracket)])
        return int(sum(n * step for (n, _), step in zip(bracket, steps, strict=True)))

    left = rounds - sum(map(cost, plan))
    assert left >= 0
    assert way == "halving" or left < each
    assert all(bracket[-1][1] == each for bracket in plan)


def test_rungs_are_those_of_optunas_pruner():
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    trial, rungs = study.ask(), []
    for number in range(1, 82):
        trial.report(number / 100, number)
        assert not trial.should_prune()
        done = study.trials[0].system_attrs.get(f"completed_rung_{len(rungs)}")
        rungs += [number] if done is not None else []
    [bracket] = brackets("halving", 400, 81, 3)
    assert [reached for _, reached in bracket] == rungs == [1, 3, 9, 27, 81]


def test_the_best_third_goes_on_where_it_stood(devices, monkeypatch):
    """A known sequence of values, by point and rung: who goes on, and that none trains twice."""
    rates = [round(0.1 + 0.01 * n, 2) for n in range(9)]
    by_rung = {
        1: [0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.4, 0.5, 0.6],
        3: [0.0, 0.2, 0.0, 0.9, 0.0, 0.8, 0.0, 0.0, 0.0],
        9: [0.0, 0.0, 0.0, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0],
    }
    trained: list[tuple[float, int]] = []

    def asked(self: Any, federation: Federation, seed: int, **at: int) -> Any:
        rate = federation.local.learning_rate
        trained.append((rate, federation.round_number))
        value = by_rung[federation.round_number][rates.index(rate)]
        return np.full(3, value), np.ones(3)

    monkeypatch.setattr(Validators, "asked", asked)
    found = tuned(maker(devices), {"learning_rate": rates}, rounds=21, each=9, way="halving")
    assert found.point == {"learning_rate": 0.13}
    by_rate = found.trials.set_index("learning_rate")
    assert by_rate.rounds.to_dict() == {
        rate: {0.11: 3, 0.13: 9, 0.15: 3}.get(rate, 1) for rate in rates
    }
    assert by_rate.ended[0.11] == "dropped after round 3"
    assert sorted(trained)[:3] == [(0.1, 1), (0.11, 1), (0.11, 3)]
    # It is the state of a run that was never paused.
    plain = maker(devices)(0.13)
    plain.run(9)
    assert found.federation.parameters.tobytes() == plain.parameters.tobytes()


# -- what results depend on ------------------------------------------------------------------------


def same(one: Tuned, other: Tuned) -> None:
    pd.testing.assert_frame_equal(one.trials, other.trials)
    pd.testing.assert_frame_equal(one.finalists, other.finalists)
    assert one.federation.parameters.tobytes() == other.federation.parameters.tobytes()
    assert one.point == other.point


@pytest.mark.parametrize("way", ["tpe", "hyperband", "fedex"])
def test_results_do_not_depend_on_threads_and_follow_from_the_seed(devices, way):
    space = {"learning_rate": Range(0.001, 1.0, log=True), "epochs": [1, 3]}
    about = {"rounds": 30, "each": 5, "way": way, "judges": Validators(4), "seed": 3}
    one, two = (tuned(maker(devices, threads=n), space, **about) for n in (1, 2))
    same(one, two)
    other = tuned(maker(devices), space, **{**about, "seed": 4})
    tables = "probabilities" if way == "fedex" else "trials"
    drew = [getattr(found, tables).learning_rate for found in (one, other)]
    assert not drew[0].equals(drew[1])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("way", WAYS)
def test_a_search_that_was_killed_goes_on(devices, way, tmp_path):
    about = {"rounds": 40, "each": None if way == "grid" else 9, "way": way, "seed": 2}
    about["judges"] = Validators(5, weights="uniform")
    if way == "halving":
        about["judges"] = Validators(5, weights="uniform", epsilon=20.0, simulated=True)
    whole = tuned(maker(devices), SPACE, **about)
    left, rounds = itertools.count(), []

    class Counted(Federation):
        def round(self) -> Any:
            if next(left) == 23:
                raise Killed
            rounds.append(1)
            return super().round()

    def counted(**point: Any) -> Federation:
        federation = maker(devices)(**point)
        federation.__class__ = Counted
        return federation

    with pytest.raises(Killed):
        tuned(counted, SPACE, **about, folder=tmp_path)
    first = len(rounds)
    again = tuned(counted, SPACE, **about, folder=tmp_path)
    same(whole, again)
    if way != "fedex":  # one trial, which is saved at its end
        assert first == 23
        assert len(rounds) < first + 40 - 23 + 9
    assert len(list(tmp_path.iterdir())) >= len(whole.trials)
    with pytest.raises(CheckpointError, match="of another run"):
        tuned(maker(devices, seed=7), SPACE, **about, folder=tmp_path)


def test_points_of_a_list_are_not_tried_twice_while_there_are_others(make):
    found = tuned(make, SPACE, rounds=20, each=2, way="random")
    assert len(found.trials.drop_duplicates(["learning_rate", "epochs"])) == 10


def test_tpe_is_told_what_the_judges_tell(make):
    found = tuned(make, SPACE, rounds=40, each=4, way="tpe", judges=Validators(6), seed=5)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=5))
    choices = {n: optuna.distributions.CategoricalDistribution(v) for n, v in SPACE.items()}
    for row in found.trials.itertuples():
        trial = study.ask(choices)
        assert trial.params == {"learning_rate": row.learning_rate, "epochs": row.epochs}
        study.tell(trial, -row.value)


# -- trials that fail ------------------------------------------------------------------------------


def test_a_point_that_fails_is_in_the_table_and_not_the_end(devices):
    rates = [-1.0, 0.1, 3e38]
    found = tuned(maker(devices), {"learning_rate": rates}, rounds=12, way="grid")
    refused, good, lost = found.trials.itertuples()
    assert refused.ended == "failed: ValueError: -1.0 is below 0"
    assert (refused.rounds, good.rounds, lost.rounds) == (0, 8, 4)
    assert good.ended == "best"
    assert lost.ended.startswith("failed: no update came; ")
    assert "NaN or inf" in lost.ended
    assert math.isnan(lost.value)
    for way in ("tpe", "hyperband"):
        found = tuned(maker(devices), {"learning_rate": rates}, rounds=30, each=3, way=way)
        assert found.point == {"learning_rate": 0.1}
        assert found.trials.rounds.sum() == 30


def test_what_make_does_wrong_ends_the_search_at_once(devices):
    one, trained = maker(devices)(0.1), maker(devices)(0.1)
    trained.run(1)
    for given, times, kind, said in [
        (one, 2, ValueError, "a used federation; it must make a new one each time"),
        (trained, 1, ValueError, "a used federation; it must make a new one each time"),
        (None, 1, TypeError, "what make returned is None; give a Federation"),
    ]:
        make = Mock(return_value=given)
        with pytest.raises(kind, match=said):
            tuned(make, {"learning_rate": RATES}, rounds=30, each=3)
        assert make.call_count == times
    assert one.round_number == 0


def test_judges_that_suit_no_trial_end_the_search_at_the_first(devices):
    made: list[Federation] = []
    given = {"rounds": 40, "each": 1, "way": "random"}
    with pytest.raises(ValueError, match=r"^13 validating devices are needed, and 12 hold"):
        tuned(maker(devices, made), SPACE, **given, judges=Validators(13))
    assert [one.round_number for one in made] == [0]
    for metric in ("auc", "rows"):  # how many rows there are is no measure of a model
        made.clear()
        said = rf"^there is no measure '{metric}'; there are \['loss', 'accuracy'\]$"
        with pytest.raises(ValueError, match=said):
            tuned(maker(devices, made), SPACE, **given, judges=Validators(metric=metric))
        assert [one.round_number for one in made] == [1]


def test_a_search_in_which_all_fail_says_why(devices):
    with pytest.raises(ValueError, match="no trial could be judged; the first: failed: ValueError"):
        tuned(maker(devices), {"learning_rate": [-1.0, -2.0]}, rounds=10, way="random")
    with pytest.raises(ValueError, match="13 validating devices are needed, and 12 hold rows out"):
        tuned(maker(devices), SPACE, rounds=10, way="grid", judges=Validators(13))
    with pytest.raises(ValueError, match="no measure 'auc'"):
        tuned(maker(devices), SPACE, rounds=10, way="grid", judges=Validators(metric="auc"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"way": "best"}, "way"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": 9, "way": "grid"}, "10 trials of 1 rounds take more than the 9 given"),
        ({"rounds": 9, "each": 10}, "1 trials of 10 rounds"),
        ({"bytes": 0}, "bytes"),
        ({"eta": 1}, "eta"),
        ({"space": {"rounds": [1, 2]}}, "rounds of the space name columns"),
        ({"space": {"learning_rate": Range(0.1, 1.0)}, "way": "grid"}, r"such as \[0\.1, 1\.0\]$"),
        ({"each": 0}, "each is 0"),
        ({"space": {"learning_rate": [0.1, 1.0]}, "way": "fedex"}, "FedEx tunes"),
        ({"way": "fedex", "epsilon": 1.0}, "FedEx tunes"),
        ({"epsilon": 1.0, "folder": "here"}, "give epsilon, or a folder"),
    ],
)
def test_what_can_not_be_done_is_refused_before_anything_is_made(given, said):
    def never(**point: Any) -> Any:
        raise AssertionError("made")

    given = {"rounds": 60, "space": SPACE} | given
    if (epsilon := given.pop("epsilon", None)) is not None:
        given["judges"] = Validators(weights="uniform", epsilon=epsilon)
    with pytest.raises(ValueError, match=said):
        tuned(never, given.pop("space"), **given)


def test_a_space_names_its_values(make):
    with pytest.raises(TypeError, match="space is an object of type list; give a Mapping"):
        tuned(make, [1, 2], rounds=9)  # type: ignore[arg-type]


# -- who judges ------------------------------------------------------------------------------------


def test_judges_are_devices_and_weighed_as_was_asked(make):
    federation = make(0.1)
    federation.run(3)
    told = federation.validate()
    for weights in ("rows", "uniform"):
        found = tuned(
            make, {"learning_rate": [0.1]}, rounds=3, way="grid", judges=Validators(weights=weights)
        )
        by = told["rows"] if weights == "rows" else None
        expected = np.average(told["accuracy"], weights=by)
        assert found.trials.value[0] == pytest.approx(expected)
        assert found.trials.who[0] == f"all devices, {weights}"
    lowest = tuned(make, SPACE, rounds=40, way="grid", judges=Validators(metric="loss"))
    assert lowest.trials.value.idxmin() == lowest.finalists.index[0]


def test_each_trial_has_judges_of_its_own_unless_all_have_the_same(make):
    federation = make(0.1)
    for same_for_all in (False, True):
        by = Validators(4, same=same_for_all)
        device = [0, 0] if same_for_all else [0, 1]
        drawn = [{d.id for d in by.drawn(federation, 0, round=3, device=n)} for n in device]
        assert (drawn[0] == drawn[1]) == same_for_all
    found = tuned(
        make,
        {"learning_rate": [0.1, 0.1000001]},
        rounds=6,
        way="grid",
        judges=Validators(3, same=True),
    )
    assert found.trials.value[0] == found.trials.value[1]


def test_judges_are_drawn_alike(make):
    federation, count = make(0.1), np.zeros(12)
    for number in range(600):
        for device in Validators(3).drawn(federation, 0, device=number):
            count[device.id] += 1
    assert abs(count - 150).max() < 5 * math.sqrt(600 * 0.25 * 0.75)


def test_noise_is_laplaces_of_the_width_that_epsilon_asks_for():
    by = Validators(4, weights="uniform", epsilon=8.0, simulated=True)
    part, values = share(8.0, selections=4, trials=1, kept=1), np.array([0.2, 0.4, 0.6, 0.8])
    assert part.epsilon == 2.0  # Kuo et al.: noise of scale M / (epsilon |S|)
    noise = np.array([by.noisy(values, part, 0, device=n) for n in range(4000)]) - 0.5
    assert abs(np.median(noise)) < 0.01
    assert np.abs(noise).mean() == pytest.approx(4 / (8.0 * 4), rel=0.06)  # E|x| is the scale
    secret = Validators(4, weights="uniform", epsilon=8.0)
    assert secret.noisy(values, part, 0) != secret.noisy(values, part, 0)


def test_one_device_moves_a_judgement_by_its_share_at_most():
    by = Validators(weights="uniform", epsilon=1.0, simulated=True)
    part, values = share(1.0, 1, 1, 1), np.linspace(0, 1, 5)
    for other in (0.0, 1.0, 7.0):  # whatever a device says
        changed = np.append(values[:-1], other)
        moved = by.noisy(values, part, 3) - by.noisy(changed, part, 3)
        assert abs(moved) <= 1 / 5 + 1e-9


@pytest.mark.parametrize("way", ["grid", "tpe", "halving", "hyperband"])
def test_epsilon_is_that_of_all_judgements_together(make, way, monkeypatch):
    spent = []
    noisy = Validators.noisy

    def noted(self: Any, values: Any, part: Any, seed: int, **at: int) -> float:
        spent.append(part.epsilon)
        return noisy(self, values, part, seed, **at)

    monkeypatch.setattr(Validators, "noisy", noted)
    by = Validators(6, weights="uniform", epsilon=3.0, simulated=True)
    found = tuned(make, SPACE, rounds=50, each=5 if way == "grid" else 4, eta=2, way=way, judges=by)
    assert found.epsilon == pytest.approx(3.0)
    assert found.trials.who[found.finalists.index[0]] == (
        "6 devices, uniform, epsilon 3 in all (simulated)"
    )
    if way in ("grid", "tpe"):
        assert len(spent) == len(found.trials)
        assert sum(spent) == pytest.approx(3.0)


def test_the_best_k_cost_2_k_and_no_value_is_told(make):
    """Qiao et al.: noise of 2 k sensitivity / epsilon on all tells which are the best k."""
    assert share(6.0, selections=3, trials=9, kept=3).epsilon == pytest.approx(2.0 / 6)
    assert share(6.0, selections=3, trials=3, kept=3).epsilon == pytest.approx(2.0 / 3)
    by = Validators(6, weights="uniform", epsilon=30.0, simulated=True)
    found = tuned(make, SPACE, rounds=22, each=9, way="halving", judges=by)
    went_far = found.trials.rounds >= 9
    assert found.trials.value.notna().equals(went_far)
    assert (found.trials.bytes_judging > 0).all()


def test_epsilon_takes_a_measure_with_bounds_and_devices_that_count_alike():
    for wrong in ({"metric": "loss", "weights": "uniform"}, {}):
        with pytest.raises(ValueError, match=r"epsilon=1\.0 takes metric='accuracy'"):
            Validators(5, epsilon=1.0, **wrong)
    with pytest.raises(ValueError, match="epsilon"):
        Validators(5, weights="uniform", epsilon=0.0)
    with pytest.raises(ValueError, match="devices"):
        Validators(0)


# -- how sure one can be ---------------------------------------------------------------------------


def test_resampled_means_spread_as_the_standard_error_says():
    values = np.random.default_rng(0).normal(0.5, 0.1, (200, 2))
    means = resampled(values, np.ones(200), seed=0)
    np.testing.assert_allclose(means.mean(axis=0), values.mean(axis=0), atol=0.001)
    np.testing.assert_allclose(means.std(axis=0), values.std(axis=0) / math.sqrt(200), rtol=0.08)
    assert np.isnan(resampled(values[:1], np.ones(1), seed=0)).all()


def test_intervals_hold_as_often_as_they_say():
    draw, held = np.random.default_rng(1), 0
    for number in range(200):
        values = draw.beta(6, 3, (40, 1))
        told = finalists([0], values.mean(axis=0), resampled(values, np.ones(40), number), 1)
        held += told.low[0] <= 6 / 9 <= told.high[0]
    assert 0.89 <= held / 200 <= 0.98


def test_noise_is_part_of_what_one_is_not_sure_of():
    wide, narrow = (
        guessed(np.array([0.5]), 100, np.array([epsilon]), seed=0) for epsilon in (0.1, 100.0)
    )
    assert narrow.std() == pytest.approx(math.sqrt(0.25 / 100), rel=0.05)
    assert wide.std() > 2.5 * narrow.std()
    high = guessed(np.array([0.98]), 20, np.array([5.0]), seed=0)
    assert high.max() == 1 < 0.98 + 1.96 * math.sqrt(0.98 * 0.02 / 20)  # of an accuracy, no more


def test_trials_that_can_not_be_told_apart_are_named():
    draw = np.random.default_rng(0)
    hard = draw.normal(0, 0.2, (60, 1))  # what devices have in common cancels
    values = 0.6 + hard + np.array([0.0, -0.001, -0.1]) + draw.normal(0, 0.02, (60, 3))
    told = finalists([7, 3, 5], values.mean(axis=0), resampled(values, np.ones(60), 0), 1)
    assert told["beside the best"].to_dict() == {7: "best", 3: CLOSE, 5: "worse"}
    assert told.chance.sum() == pytest.approx(1)
    assert told.chance[5] < 0.01
    assert told.high[7] - told.low[7] > 0.08  # devices differ more than these trials do
    down = finalists([7, 3, 5], values.mean(axis=0), resampled(values, np.ones(60), 0), -1)
    assert down["beside the best"][5] == "better"


def test_a_search_says_how_sure_it_is(make):
    found = tuned(make, {"learning_rate": [0.3, 0.301, 1e-5]}, rounds=30, way="grid")
    assert set(found.close) <= {0, 1}
    assert len(found.close) == 1
    assert found.finalists["beside the best"][2] == "worse"
    best = found.finalists.iloc[0]
    assert best.low <= best.value <= best.high
    assert f"{CLOSE}: {found.close[0]}" in str(found)
    assert f": accuracy {best.value:.3f} (95%: {best.low:.3f} to {best.high:.3f}); chan" in str(
        found
    )
    alone = tuned(make, {"learning_rate": [0.3, 1.0]}, rounds=4, way="grid", judges=Validators(1))
    assert alone.finalists[["low", "high", "chance"]].isna().all(axis=None)
    assert alone.finalists["beside the best"].tolist() == ["best", CLOSE]
    assert "(one device's); chance to be the best of 2: not known; too close to " in str(alone)
    assert "nan" not in str(alone)
    drawn_twice = tuned(make, {"learning_rate": [0.3]}, rounds=8, each=2, way="random")
    assert len(drawn_twice.finalists) == 1
    assert drawn_twice.finalists.chance.isna().all()
    assert "; chance to be the best of 1: not known; " in str(drawn_twice)


def test_fedex_shares_one_run_and_says_how_probable_it_found_each_point(make):
    found = tuned(make, SPACE, rounds=30, way="fedex", judges=Validators(6))
    told, theta = found.probabilities, found.federation.state.algorithm["theta"]
    assert told.probability.tolist() == theta.tolist()
    assert told.drop_duplicates(["learning_rate", "epochs"]).shape == (10, 3)
    assert found.point == told.loc[told.probability.idxmax(), ["learning_rate", "epochs"]].to_dict()
    assert found.federation.local.learning_rate == told.learning_rate[0]
    assert found.trials.rounds.tolist() == [30]


def test_the_value_of_a_run_that_mixed_points_stands_beside_none_of_them(make):
    found = tuned(make, SPACE, rounds=30, way="fedex", judges=Validators(metric="loss"))
    told = found.federation.validate()
    value = np.average(told["loss"], weights=told["rows"])  # of the run's model
    assert found.trials.value[0] == pytest.approx(value)
    assert found.trials[[*SPACE]].isna().all(axis=None)
    assert found.finalists.chance.isna().all()
    assert str(found).startswith(f"one run that mixed 10 configurations: loss {value:.3f} (95%: ")
    point = f"of the most probable, {dict(found.point)}, by itself nothing is known"
    assert str(found).endswith(f"); {point}")
