"""The table: tidy, repeatable, its recall that of brute force, its intervals Student's."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from fedlab.leaks import (
    Counts,
    KnownPairs,
    Linkage,
    Membership,
    Noise,
    ScaleAndPerturb,
    Shares,
    Undefended,
    leak_summary,
    leak_table,
    measure_leaks,
)
from fedlab.leaks.defences import QUERIES, ROWS
from fedlab.metrics.intervals import mean_interval
from tests.leaks.clouds import skewed

FEW = {"defences": [Undefended(), Noise(0.5), Counts(1.0)], "attacks": [Linkage(), Membership()]}


@pytest.fixture(scope="module")
def frame():
    return measure_leaks(skewed(600, 10), **FEW, seeds=(0, 1, 2))


def test_a_row_holds_one_measure(frame):
    assert frame.columns.tolist() == [
        *("protection", "setting", "kind", "attacker", "metric", "seed", "value", "chance")
    ]
    assert not frame.duplicated(["protection", "setting", "attacker", "metric", "seed"]).any()
    assert set(frame.metric[frame.protection == "counts"]) == {"membership"}
    assert frame.value.between(-1, 1).all()
    assert frame.chance.between(0, 1).all()


def test_a_seed_gives_the_same_bits_and_another_one_others(frame):
    again = measure_leaks(skewed(600, 10), **FEW, seeds=(2,))
    before = frame[frame.seed == 2].reset_index(drop=True)
    assert before.equals(again)
    noisy = frame[(frame.protection == "noise") & (frame.metric == "linkage")]
    assert noisy.value.nunique() > 1


def test_recall_is_that_of_brute_force():
    rows, queries = skewed(400, 10), skewed(30, 10, seed=1)
    frame = measure_leaks(rows, [Noise(0.5)], [], k=5, queries=queries, seeds=(4,))
    [value] = frame.value
    # The split is the meter's own; which rows are inside is read off a scene made alike.
    from fedlab.core.randomness import Purpose, generator

    order = generator(4, Purpose.ATTACK, part=0).permutation(400)
    inside = rows[order[:200]].astype(np.float32).astype(np.float64)
    inside /= np.linalg.norm(inside, axis=1, keepdims=True)
    held = Noise(0.5).protect(inside, 4, ROWS).held
    asked = Noise(0.5).protect(queries, 4, QUERIES).held
    true, found = (
        cdist(a, b).argsort(axis=1)[:, :5] for a, b in ((queries, inside), (asked, held))
    )
    expected = np.mean([len(set(t) & set(f)) / 5 for t, f in zip(true, found, strict=True)])
    assert value == pytest.approx(expected, abs=0.01)
    assert frame.chance.tolist() == [5 / 200]


def test_recall_falls_as_beta_grows_and_shares_keep_it():
    betas = (0.1, 0.5, 2.0, 8.0)
    defences = [*(ScaleAndPerturb(beta) for beta in betas), Shares()]
    *blurred, shared = measure_leaks(skewed(800, 20), defences, []).value
    assert all(np.diff(blurred) < 0)
    assert blurred[0] > 0.9 > 0.1 > blurred[-1]
    assert shared == 1.0


def test_lengths_do_not_matter():
    rows = skewed(300, 8)
    longer = rows * np.random.default_rng(0).uniform(0.1, 9, size=(300, 1))
    a, b = (measure_leaks(x, [Undefended()], [Linkage()]) for x in (rows, longer))
    np.testing.assert_allclose(a.value, b.value, atol=1e-6)


def test_the_summary_has_student_s_interval(frame):
    summary = leak_summary(frame)
    one = summary[(summary.protection == "noise") & (summary.metric == "linkage")].iloc[0]
    values = frame[(frame.protection == "noise") & (frame.metric == "linkage")].value
    expected = mean_interval(values)
    assert (one.value, one.low, one.high) == pytest.approx(
        (expected.estimate, expected.low, expected.high)
    )
    assert leak_summary(frame[frame.seed == 0]).low.isna().all()


def test_the_table_has_a_row_a_protection_and_the_chance_below(frame):
    table = leak_table(frame)
    assert table.index.tolist() == [
        ("none", ""),
        ("noise", "σ=0.5"),
        ("counts", "ε=1"),
        ("chance", ""),
    ]
    assert table.columns[0] == "recall@10"
    assert table.loc[("none", ""), "linkage (holder)"] == 1.0
    assert table.loc[("chance", ""), "membership (asker)"] == 0.5
    assert np.isnan(table.loc[("counts", "ε=1"), "recall@10"])


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.ones((10, 4)), "at least 20 rows"),
        (np.ones(30), "shape"),
        (np.zeros((30, 4)), "length zero"),
        (np.full((30, 4), np.nan), "NaN"),
    ],
)
def test_vectors_that_cannot_be_measured_are_refused(vectors, said):
    with pytest.raises(ValueError, match=said):
        measure_leaks(vectors)


def test_more_pairs_than_rows_are_refused():
    with pytest.raises(ValueError, match=r"KnownPairs: 64 .* of 45 .* at least 65 .*pairs="):
        measure_leaks(skewed(100, 4), [Undefended()], [KnownPairs((64,))])


@pytest.mark.parametrize("queries", [None, skewed(5, 4, seed=1)])
def test_pairs_that_leave_a_row_unseen_are_measured_and_more_are_not(queries):
    rows = 10 if queries is not None else 9
    measure_leaks(skewed(20, 4), [Undefended()], [KnownPairs((rows - 1,))], k=2, queries=queries)
    with pytest.raises(ValueError, match=f"of {rows} rows"):
        measure_leaks(skewed(20, 4), [Undefended()], [KnownPairs((rows,))], k=2, queries=queries)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"defences": ["plain"]}, TypeError, "a defence of type str was given"),
        ({"defences": "plain"}, TypeError, "defences is 'plain'; give a list"),
        (
            {"defences": [Undefended]},
            TypeError,
            r"the class Undefended; give an object: Undefended\(",
        ),
        ({"defences": Undefended()}, TypeError, r"defences is Undefended\(\); give a list"),
        ({"defences": []}, ValueError, "defences is empty; give one at least"),
        ({"attacks": [Linkage]}, TypeError, "the class Linkage"),
        ({"attacks": Linkage()}, TypeError, r"attacks is Linkage\(\); give a list"),
        ({"seeds": 3}, TypeError, r"seeds is 3; give a list, such as seeds=range\(3\)"),
        ({"seeds": []}, ValueError, "seeds is empty"),
    ],
)
def test_what_is_no_list_of_defences_attacks_or_seeds_is_named(given, error, said):
    with pytest.raises(error, match=said):
        measure_leaks(skewed(60, 4), **{**FEW, **given})
