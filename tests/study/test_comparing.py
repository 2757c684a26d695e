"""What a study's runs say: on equal terms, with what was left out and what can't be told named."""

from __future__ import annotations

import itertools
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedlab.federation.history import History
from fedlab.metrics import compared, mean_interval
from fedlab.study import load_runs
from fedlab.study.comparing import best, candidates, compare, effects, finals, pareto

ORDER = ["run", "status", "error"]


def frame_of(runs, failed=()):
    """A study's frame, as `load_runs` gives it.

    Each run is (parameters, values of the whole run, (metric, values by round), ...).
    """
    about, measured = [], []
    for number, (parameters, whole, *series) in enumerate(runs):
        bad = number in failed
        mine = [(pd.NA, "run", name, value) for name, value in whole.items()]
        mine += [
            (r, "server", name, value)
            for name, values in series
            for r, value in enumerate(values, start=1)
        ]
        mine = [(pd.NA, "run", "failed", 1.0)] if bad else mine
        told = {"run": f"r{number:04}", "status": "failed" if bad else "done"}
        told |= {"error": "ValueError: no" if bad else None} | parameters
        about += [told] * len(mine)
        measured += mine
    kinds = {"round": "Int64", "who": "string", "metric": "string", "value": "float64"}
    left = pd.DataFrame(about).astype({"run": "category", "status": "category"})
    return pd.concat([left, pd.DataFrame(measured, columns=[*kinds]).astype(kinds)], axis=1)


def table_of(value, failed=(), **lists):
    """The table of a grid whose accuracy is a function of its parameters."""
    points = [dict(zip(lists, each, strict=True)) for each in itertools.product(*lists.values())]
    return finals(frame_of([(p, {"accuracy": value(**p)}) for p in points], failed))


# -- a row a run -----------------------------------------------------------------------------------


def test_a_metric_is_its_last_value_and_what_rounds_spend_is_summed():
    series = [("accuracy", [0.9, 0.5]), ("bytes_up", [3, 4]), ("bytes_down", [10, 10])]
    series += [("seconds", [1.5, 2.5]), ("joules_estimate", [7, 7]), ("late", [1, 0])]
    runs = [({"alpha": 0.1, "seed": 0}, {"note": 5.0}, *series), ({"alpha": 1.0, "seed": 0}, {})]
    table = finals(frame_of(runs, failed=[1]))
    assert list(table)[:5] == [*ORDER, "alpha", "seed"]
    done, failed = table.to_dict("records")
    told = {"accuracy": 0.5, "bytes_up": 7, "bytes_down": 20, "bytes": 27, "seconds": 4}
    told |= {"joules_estimate": 14, "late": 1, "note": 5}
    assert {name: done[name] for name in list(table)[5:]} == told
    assert (failed["status"], failed["error"], failed["alpha"]) == ("failed", "ValueError: no", 1)
    assert np.isnan(failed["accuracy"])
    assert table.alpha.dtype == float
    assert table.seed.dtype == int


def test_a_run_that_kept_several_histories_has_a_row_for_each():
    frame = frame_of(
        [({"seed": 0}, {"rows": 9.0}, ("accuracy", [0.1, 0.5])), ({"seed": 1}, {})], [1]
    )
    frame = pd.concat(
        [
            frame.assign(way=np.where(frame.who == "server", "a", None)),
            frame[frame.who == "server"].assign(way="b", value=0.9),
        ]
    )
    table = finals(frame)
    assert table[["seed", "way", "accuracy", "rows"]].fillna(-1).to_numpy().tolist() == [
        [0, "a", 0.5, 9.0],
        [0, "b", 0.9, 9.0],
        [1, "None", -1, -1],
    ]
    assert table.attrs["parameters"] == ["seed", "way"]


def test_rounds_need_no_order_and_devices_are_no_metrics_of_the_run():
    frame = frame_of([({"seed": 0}, {}, ("accuracy", [0.1, 0.2, 0.3]))])
    device = frame.assign(who="ward 3", metric="loss")
    shuffled = pd.concat([frame, device]).sample(frac=1, random_state=3)
    assert finals(shuffled).accuracy.tolist() == [0.3]
    assert "loss" not in finals(shuffled)


def test_values_of_the_whole_run_go_before_those_of_rounds_and_never_over_parameters():
    runs = [({"rounds": 7, "clip": None}, {"accuracy": 0.8, "rounds": 3.0}, ("accuracy", [0.5]))]
    table = finals(frame_of([*runs, ({"rounds": 7, "clip": 1.0}, {"accuracy": 0.1})]))
    assert table.accuracy.iloc[0] == 0.8
    assert (table["rounds"].iloc[0], table.rounds_measured.iloc[0]) == (7, 3)
    assert table["clip"].tolist() == ["None", 1.0]


def test_it_agrees_with_a_history():
    history = History()
    for round, accuracy in enumerate([0.2, 0.7, 0.6], start=1):
        history.record(round, "server", accuracy=accuracy, bytes_up=5, bytes_down=8)
        history.record(round, 4, accuracy=0.0, bytes_up=100)
    told = history.to_frame()
    about = {"run": "r", "status": "done", "error": None, "seed": 0}
    frame = pd.concat([pd.DataFrame([about] * len(told)), told], axis=1)
    row = finals(frame).iloc[0]
    assert row.accuracy == history.last("accuracy")
    assert row.bytes_up == history.series("bytes_up").sum() == 15


def test_a_thousand_runs_take_well_under_a_second():
    one = pd.DataFrame(
        {
            "round": np.repeat(np.arange(1, 51), 8),
            "who": "server",
            "metric": np.tile([f"m{n}" for n in range(6)] + ["bytes_up", "bytes_down"], 50),
            "value": 1.0,
        }
    )
    frame = pd.concat([one] * 1000, ignore_index=True).astype({"who": "string", "metric": "string"})
    frame.insert(0, "run", np.repeat([f"r{n}" for n in range(1000)], len(one)))
    for at, (name, value) in enumerate({"status": "done", "error": None, "seed": 1}.items(), 1):
        frame.insert(at, name, value)
    frame = frame.astype({"run": "category", "status": "category"})
    began = time.perf_counter()
    table = finals(frame)
    took = time.perf_counter() - began
    assert table.bytes_up.tolist() == [50.0] * 1000
    assert took < 2  # some .3 s on an idle core


# -- contestants -----------------------------------------------------------------------------------

GAIN = {"fedavg": 0.0, "scaffold": 0.05}


def noisy(way, seed, alpha=1.0):
    draw = np.random.default_rng([seed, int(10 * alpha), len(way)])
    return 0.7 + GAIN[way] + 0.1 * alpha + 0.02 * np.sin(seed) + draw.normal(0, 0.004)


def test_contestants_are_compared_as_the_measures_room_compares_them():
    table = table_of(noisy, way=list(GAIN), seed=range(5))
    told = compare(table, "way", "accuracy")
    columns = {way: [noisy(way, seed) for seed in range(5)] for way in GAIN}
    pd.testing.assert_frame_equal(
        told.loc[["scaffold"], ["difference", "low", "high", "verdict", "seeds needed"]],
        compared(columns, "fedavg").rename_axis("way"),
    )
    assert told["mean"].to_dict() == pytest.approx({w: np.mean(v) for w, v in columns.items()})
    assert told.verdict.to_dict() == {"fedavg": "the reference", "scaffold": "better"}
    assert told.seeds.tolist() == told.trials.tolist() == [5, 5]
    turned = compare(table, "way", "accuracy", "scaffold", better="lower")
    assert turned.loc["fedavg", "verdict"] == "better"


def test_other_parameters_are_held_equal_and_do_not_count_as_seeds():
    alphas = [0.1, 0.5, 1.0]
    table = table_of(noisy, way=list(GAIN), alpha=alphas, seed=range(4))
    told = compare(table, "way", "accuracy")
    means = {w: [np.mean([noisy(w, s, a) for a in alphas]) for s in range(4)] for w in GAIN}
    expected = mean_interval(np.subtract(means["scaffold"], means["fedavg"]))
    assert told.loc["scaffold", ["difference", "low", "high"]].tolist() == pytest.approx(
        [expected.estimate, expected.low, expected.high]
    )
    assert told.seeds.tolist() == [4, 4]
    each = compare(table, "way", "accuracy", pair=["seed", "alpha"])
    assert each.seeds.tolist() == [12, 12]


def test_a_parameter_may_be_none_and_so_may_a_contestant():
    table = table_of(
        lambda clip, seed: 0.1 * (clip is None) + 0.001 * seed**2, clip=[None, 1.0], seed=range(3)
    )
    with pytest.warns(UserWarning, match="too few to tell by accuracy"):  # all alike: no spread
        told = compare(table, "clip", "accuracy", 1.0)
    assert told.loc["None", "difference"] == pytest.approx(0.1)
    held = table_of(
        lambda way, seed, **_: noisy(way, seed),
        way=list(GAIN),
        clip=[None, 1.0, 2.0],
        seed=range(4),
    )
    assert compare(held, "way", "accuracy").seeds.tolist() == [4, 4]
    assert len(candidates(held, ["accuracy"])) == 6
    assert effects(held, "accuracy").query("parameter == 'clip'").runs.tolist() == [8, 8, 8]


def test_incomplete_pairs_are_left_out_with_a_warning_that_says_so():
    table = table_of(noisy, failed=[6], way=list(GAIN), seed=range(5))
    with pytest.warns(UserWarning, match=r"1 of 5 \['seed'\] are left out, .*: 1$"):
        told = compare(table, "way", "accuracy")
    kept = [0, 2, 3, 4]
    assert told.loc["scaffold", "difference"] == pytest.approx(
        np.mean([noisy("scaffold", s) - noisy("fedavg", s) for s in kept])
    )
    assert told.seeds.tolist() == [4, 4]
    assert told.trials.tolist() == [5, 5]  # a failed run was tried, too


def test_a_run_that_is_done_without_a_number_has_no_counterpart_either():
    table = table_of(
        lambda way, seed: np.nan if way == "scaffold" and seed == 2 else noisy(way, seed),
        way=list(GAIN),
        seed=range(5),
    )
    with pytest.warns(UserWarning, match="are left out"):
        assert compare(table, "way", "accuracy").seeds.tolist() == [4, 4]


def test_the_combinations_that_are_left_out_are_named():
    table = table_of(noisy, failed=[1, 6], way=list(GAIN), alpha=[0.1, 1.0], seed=range(4))
    with pytest.warns(UserWarning, match=r"2 of 8 .* are left out, .*: \(1, 0.1\), \(2, 1.0\)$"):
        compare(table, "way", "accuracy")


def test_a_contestant_that_always_failed_is_not_passed_over():
    table = table_of(noisy, failed=[3, 4, 5], way=list(GAIN), seed=range(3))
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match=r"done are \{'fedavg': 3, 'scaffold': 0\} runs"),
    ):
        compare(table, "way", "accuracy")


def test_contestants_may_be_numbers():
    table = table_of(
        lambda alpha, seed: alpha + 0.01 * np.sin(seed * alpha), alpha=[10, 0.1], seed=range(4)
    )
    told = compare(table, "alpha", "accuracy", against=10)
    assert told.verdict.to_dict() == {10: "the reference", 0.1: "worse"}
    # By default the smallest, whatever the order of runs.
    assert compare(table[::-1], "alpha", "accuracy").index.tolist() == [0.1, 10]


def test_a_study_without_runs_gives_an_empty_table(tmp_path):
    assert finals(load_runs(tmp_path)).empty


def test_unequal_trials_are_warned_of():
    table = table_of(noisy, way=list(GAIN), alpha=[0.1, 1.0], seed=range(5))
    spent = table[(table.way == "scaffold") | (table.alpha == 1.0)]
    fair = table[table.alpha == 1.0]
    with pytest.warns(UserWarning, match=r"unequal numbers of runs: fedavg 5, scaffold 10"):
        told = compare(fair, "way", "accuracy", spent=spent)
    assert told.trials.to_dict() == {"fedavg": 5, "scaffold": 10}


def test_too_few_seeds_are_warned_of_with_the_number_needed():
    table = table_of(
        lambda way, seed: [[0.5, 0.6, 0.4], [0.55, 0.7, 0.39]][way == "b"][seed],
        way=["a", "b"],
        seed=range(3),
    )
    with pytest.warns(
        UserWarning, match=r"3 seeds are too few to tell by accuracy; needed: \d+ for b"
    ):
        told = compare(table, "way", "accuracy")
    assert told.loc["b", "verdict"] == "these seeds can't tell"
    assert told.loc["b", "seeds needed"] > 3


def test_what_can_not_be_paired_is_refused_with_a_way_out():
    table = table_of(noisy, way=list(GAIN), seed=range(3))
    table["mu"] = np.where(table.way == "scaffold", 0.1, 0.0)
    table.attrs["parameters"] = [*table.attrs["parameters"], "mu"]
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(
            ValueError, match=r"at equal \['mu'\] they share 0 \['seed'\].*drop what one"
        ),
    ):
        compare(table, "way", "accuracy")
    assert compare(table.drop(columns="mu"), "way", "accuracy").seeds.tolist() == [3, 3]
    with pytest.raises(ValueError, match="several runs of equal"):
        compare(pd.concat([table, table]).drop(columns="mu"), "way", "accuracy")
    with pytest.raises(ValueError, match="choose one of run, status"):
        compare(table, "way", "f1")
    table.attrs.clear()
    with pytest.raises(ValueError, match=r"make it by finals\(\)"):
        compare(table, "way", "accuracy")


# -- the best, and those that nothing beats --------------------------------------------------------


def test_the_best_is_best_on_the_mean_and_says_among_how_many_it_was_chosen():
    values = {0.1: [0.5, 0.5, 0.99], 1.0: [0.7, 0.7, 0.7], 3.0: [0.6, 0.6, 0.6]}
    table = table_of(lambda lr, seed: values[lr][seed], lr=list(values), seed=range(3))
    found = best(table, "accuracy")
    assert (found.lr, found.seeds, found.candidates) == (1.0, 3, 3)
    assert found.accuracy == pytest.approx(0.7)
    assert "the best of 3 means of 3 seeds" in found.note
    assert best(table, "accuracy", "lower").lr == 3.0


def test_a_setting_that_failed_on_a_seed_is_no_candidate():
    values = {0.1: [0.9, 0.1], 1.0: [0.7, 0.7]}
    table = table_of(lambda lr, seed: values[lr][seed], failed=[1], lr=list(values), seed=range(2))
    with pytest.warns(UserWarning, match="1 of 2 settings are left out"):
        assert best(table, "accuracy").lr == 1.0
    gone = table.assign(status="failed")
    with pytest.warns(UserWarning, match="2 of 2"), pytest.raises(ValueError, match="no best one"):
        best(gone, "accuracy")


def test_without_seeds_or_with_nothing_else_there_are_candidates_too():
    assert candidates(table_of(lambda lr: lr, lr=[0.1, 0.2]), ["accuracy"]).seeds.tolist() == [1, 1]
    lone = candidates(table_of(lambda seed: float(seed), seed=[1, 2, 3]), ["accuracy"])
    assert lone.to_dict("records") == [{"accuracy": 2.0, "seeds": 3}]


@given(
    st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=25),
    st.tuples(*[st.sampled_from(["higher", "lower"])] * 3),
)
def test_the_front_is_that_of_brute_force(points, ways):
    table = pd.DataFrame(points, columns=["a", "b", "c"], dtype=float)
    table = table.assign(run=table.index, status="done", setting=table.index)
    table.attrs["parameters"] = ["setting"]

    def beats(p, q):
        gains = [x - y if w == "higher" else y - x for x, y, w in zip(p, q, ways, strict=True)]
        return min(gains) >= 0 and max(gains) > 0

    expected = [n for n, q in enumerate(points) if not any(beats(p, q) for p in points)]
    found = pareto(table, dict(zip("abc", ways, strict=True)))
    assert found.index.tolist() == expected


# -- effects ---------------------------------------------------------------------------------------


def test_shares_on_a_full_grid_are_the_main_effects_of_functional_anova():
    """By the definition: variance of the means over all else, over the whole variance."""
    draw = np.random.default_rng(1)
    random = {key: draw.normal() for key in itertools.product("ab", range(3), range(4))}
    table = table_of(
        lambda way, depth, seed: depth**2 + 3 * (way == "a") * depth + random[way, depth, seed],
        way=["a", "b"],
        depth=[0, 1, 2],
        seed=range(4),
    )
    told = effects(table, "accuracy")
    cube = table.accuracy.to_numpy().reshape(2, 3, 4)
    for axis, name in enumerate(["way", "depth", "seed"]):
        others = tuple({0, 1, 2} - {axis})
        mine = told[told.parameter == name]
        np.testing.assert_allclose(mine["mean"], cube.mean(axis=others))
        np.testing.assert_allclose(mine.share, cube.mean(axis=others).var() / cube.var())
        assert mine.runs.tolist() == [24 // cube.shape[axis]] * cube.shape[axis]
    first = told.iloc[0]
    interval = mean_interval(cube[0].mean(axis=0))  # of four seeds
    assert (first.low, first.high) == pytest.approx((interval.low, interval.high))
    assert told[told.parameter == "seed"].low.isna().all()


@pytest.mark.filterwarnings("ignore:Argument ``normalize``")
def test_optunas_functional_anova_of_a_forest_agrees():
    optuna = pytest.importorskip("optuna", reason="optuna is not installed (the extra tuning)")

    def value(lr, depth, way):
        return 4 * np.log10(lr) + depth + 2 * (way == "b") + 0.5 * depth * (way == "b")

    lists = {"lr": [0.01, 0.1, 1.0, 10.0], "depth": [1, 2, 3, 4, 5], "way": ["a", "b"]}
    table = table_of(value, **lists)
    space = {n: optuna.distributions.CategoricalDistribution(v) for n, v in lists.items()}
    study = optuna.create_study()
    for row in table.to_dict("records"):
        study.add_trial(
            optuna.trial.create_trial(
                params={n: row[n] for n in lists}, distributions=space, value=row["accuracy"]
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    theirs = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    ours = effects(table, "accuracy").groupby("parameter").share.first()
    assert ours.to_dict() == pytest.approx(dict(theirs), abs=0.08)  # its trees see samples


def test_of_random_draws_shares_are_near_those_of_the_function():
    """For y = 3 u + v + noise with u, v uniform, variances are 9 / 12, 1 / 12 and 1 / 100."""
    draw = np.random.default_rng(0)
    u, v, noise = draw.random(2000), draw.random(2000), draw.normal(0, 0.1, 2000)
    table = pd.DataFrame(
        {"run": range(2000), "status": "done", "u": u, "v": v, "seed": range(2000)}
    )
    table["y"] = 3 * u + v + noise
    table.attrs["parameters"] = ["u", "v", "seed"]
    with pytest.warns(UserWarning, match="shares are approximate"):
        told = effects(table, "y")
    whole = 9 / 12 + 1 / 12 + 1 / 100
    # Quarters of a uniform hold 15 / 16 of its variance.
    expected = {"u": 9 / 12 / whole * 15 / 16, "v": 1 / 12 / whole * 15 / 16, "seed": 0.0}
    assert told.groupby("parameter").share.first().to_dict() == pytest.approx(expected, abs=0.02)
    assert told.groupby("parameter").size().to_dict() == {"u": 4, "v": 4, "seed": 4}
    means = told[told.parameter == "u"]["mean"].tolist()
    assert means == pytest.approx([3 * q + 0.5 for q in (0.125, 0.375, 0.625, 0.875)], abs=0.05)


def test_a_grid_with_holes_does_not_blame_a_value_for_the_company_it_keeps():
    """`way` does nothing; but b lacks its easy runs, so that its mean is lower."""
    table = table_of(
        lambda way, alpha, seed: alpha + 0.01 * seed, way=["a", "b"], alpha=[0.1, 1.0], seed=[0, 1]
    )
    holes = table[~((table.way == "b") & (table.alpha == 1.0) & (table.seed == 0))]
    with pytest.warns(
        UserWarning, match="7 runs are no full grid of way, alpha, seed, which has 8"
    ):
        told = effects(holes, "accuracy")
    shares = told.groupby("parameter").share.first()
    assert shares["way"] == pytest.approx(0, abs=1e-9)
    assert shares["alpha"] > 0.9


def test_nothing_varies_is_told():
    with pytest.raises(ValueError, match="no parameter varies"):
        effects(table_of(lambda seed: 1.0, seed=[0]), "accuracy")


def test_without_several_seeds_the_interval_is_over_runs():
    table = table_of(lambda way, alpha: alpha + (way == "a"), way=["a", "b"], alpha=[0.1, 0.5, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = effects(table, "accuracy")
    low, high = stats.t.interval(0.95, 2, loc=1 + 1.6 / 3, scale=stats.sem([0.1, 0.5, 1.0]))
    assert (told.low[0], told.high[0]) == pytest.approx((low, high))


def test_pruned_runs_are_left_out_and_that_is_said():
    runs = [
        (
            {"lr": lr, "seed": seed},
            {"pruned": 1.0} if lr == 0.5 and seed else {},
            ("accuracy", [lr]),
        )
        for lr in (0.1, 0.5, 0.9)
        for seed in (0, 1)
    ]
    table = finals(frame_of(runs))
    with pytest.warns(UserWarning, match="1 of 6 runs were pruned, and are left out"):
        told = best(table, "accuracy")
    assert told.lr == 0.9
    with pytest.warns(UserWarning, match="pruned"):
        assert len(candidates(table, ["accuracy"])) == 2
