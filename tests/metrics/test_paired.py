"""What seeds can tell: against SciPy, Cohen's tables, and known error rates by simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fedlab.metrics import compared, seeds_needed
from fedlab.metrics.paired import UNDECIDED


def test_intervals_are_student_s_at_bonferroni_s_level():
    draw = np.random.default_rng(0)
    values = pd.DataFrame(draw.normal(size=(8, 4)), columns=list("abcd"))
    told = compared(values, against="b", level=0.9)
    assert list(told.index) == ["a", "c", "d"]
    for name in "acd":
        apart = values[name] - values["b"]
        found = stats.ttest_rel(values[name], values["b"]).confidence_interval(1 - 0.1 / 3)
        assert told.difference[name] == pytest.approx(apart.mean())
        assert told.low[name] == pytest.approx(found.low)
        assert told.high[name] == pytest.approx(found.high)


def test_verdicts_follow_the_intervals_and_which_way_is_up():
    base = np.array([0.5, 0.6, 0.4, 0.5])
    noise = np.array([0.01, -0.01, 0.02, -0.02])
    ways = {
        "base": base,
        "up": base + 0.2 + noise,
        "down": base - 0.2 - noise,
        "same": base + noise,
    }
    told = compared(ways, "base")
    assert told.verdict.to_dict() == {"up": "better", "down": "worse", "same": UNDECIDED}
    turned = compared(ways, "base", better="lower")
    assert turned.verdict.to_dict() == {"up": "worse", "down": "better", "same": UNDECIDED}


def test_two_seeds_name_no_winner_on_a_difference_that_one_pair_would_make():
    # One comparison at .95 would say better; of six, none may be picked out.
    ways = {"base": [0.0, 0.0, 0.0]} | {f"w{n}": [1.0, 1.2, 0.6] for n in range(6)}
    assert set(compared({k: ways[k] for k in ("base", "w0")}, "base").verdict) == {"better"}
    assert set(compared(ways, "base").verdict) == {UNDECIDED}
    alone = compared({k: ways[k] for k in ("base", "w0")}, "base", family=6)
    np.testing.assert_allclose(alone.low, compared(ways, "base").low[:1])


def test_seeds_that_change_nothing_tell_nothing():
    told = compared({"a": [0.1, 0.2, 0.3], "b": [0.2, 0.3, 0.4], "c": [0.1, 0.2, 0.3]}, "a")
    assert set(told.verdict) == {UNDECIDED}
    assert told[["low", "high", "seeds needed"]].isna().all(axis=None)


@pytest.mark.parametrize(("contestants", "seeds"), [(2, 4), (6, 5), (6, 12)])
def test_no_verdict_is_wrong_in_more_than_one_of_twenty_comparisons(contestants, seeds):
    # All are alike; they share the baseline, so that their differences go together.
    runs, wrong = 800, 0
    draw = np.random.default_rng(contestants + seeds)
    values = draw.normal(size=(runs, seeds, contestants)) + draw.normal(size=(runs, seeds, 1))
    for each in values:
        told = compared(pd.DataFrame(each), against=0, worth=1e9)
        wrong += (told.verdict != UNDECIDED).any()
    spread = np.sqrt(0.05 * 0.95 / runs)
    assert wrong / runs < 0.05 + 3 * spread
    assert wrong / runs > 0.015  # and the correction is no wider than it need be


@pytest.mark.parametrize(
    ("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10), (1.5, 6), (1e6, 2)]
)
def test_seeds_needed_are_those_of_cohen_s_tables(effect, seeds):
    # Matched pairs, both sides, alpha .05, power .80, as G*Power 3.1 gives them.
    assert seeds_needed(effect) == seeds_needed(-effect) == seeds


def test_with_the_seeds_needed_a_difference_is_found_four_times_of_five():
    needed = int(seeds_needed(0.9, level=1 - 0.05 / 4))
    draw = np.random.default_rng(5)
    found = []
    for _ in range(800):
        base = draw.normal(size=needed)
        ways = {"base": base, "way": base + draw.normal(0.9, 1.0, needed)}
        found.append(compared(ways, "base", family=4, worth=1e9).verdict["way"] == "better")
    assert np.mean(found) == pytest.approx(0.8, abs=0.05)


def test_the_hint_is_at_the_spread_seen_and_the_difference_that_matters():
    apart = np.array([0.1, 0.3, -0.1, 0.2])
    ways = {"base": np.zeros(4), "way": apart}
    told = compared(ways, "base")["seeds needed"]["way"]
    assert told == seeds_needed(apart.mean() / apart.std(ddof=1))
    told = compared(ways, "base", worth=0.05)["seeds needed"]["way"]
    assert told == seeds_needed(0.05 / apart.std(ddof=1))
    assert seeds_needed(1e-4) == np.inf


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        ({"a": [1.0, 2.0]}, "1 contestants with 2 seeds"),
        ({"b": [1.0, 2.0], "c": [1.0, 2.0]}, "no contestant is called 'a'"),
        ({"a": [1.0, np.nan], "b": [1.0, 2.0]}, "1 values are missing"),
        ({"a": [1.0], "b": [2.0]}, "2 contestants with 1 seeds"),
    ],
)
def test_what_can_t_be_compared_is_refused(ways, said):
    with pytest.raises(ValueError, match=said):
        compared(ways, "a")
    with pytest.raises(ValueError, match="family is 1"):
        compared({"a": [1, 2], "b": [1, 3], "c": [2, 2]}, "a", family=1)
    with pytest.raises(ValueError, match="level"):
        compared({"a": [1, 2], "b": [1, 3]}, "a", level=95)
