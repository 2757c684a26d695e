"""Folds, areas and intervals against scikit-learn, SciPy and known coverage."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from fedlab.metrics.auc import Ranking, bootstrap_interval
from fedlab.metrics.folds import stratified_folds
from fedlab.metrics.intervals import Interval, mean_interval


def test_every_row_is_tested_once_a_repeat_and_strata_are_even():
    strata = np.array(["a"] * 23 + ["b"] * 8 + ["c"] * 51)
    masks = list(stratified_folds(strata, folds=5, repeats=3, seed=1))
    assert len(masks) == 15
    for repeat in range(3):
        part = np.array(masks[5 * repeat : 5 * repeat + 5])
        assert (part.sum(axis=0) == 1).all()
        for stratum in "abc":
            sizes = part[:, strata == stratum].sum(axis=1)
            assert sizes.max() - sizes.min() <= 1
        assert np.ptp(part.sum(axis=1)) <= 1
    assert not np.array_equal(masks[0], masks[5])


def test_an_interval_has_as_many_digits_as_asked_for():
    interval = Interval(0.51234, -0.4, 0.6)
    assert f"{interval:.3f}" == "0.512 (-0.400 to 0.600)"
    assert f"{interval}" == str(interval) == "0.51 (-0.40 to 0.60)"
    assert f"{interval:.0%}" == "51% (-40% to 60%)"


def scored(draw, count=60):
    positive = draw.integers(0, 2, count)
    return positive, np.round(positive * 0.7 + draw.normal(size=count), 1)


def test_area_is_that_of_scikit_learn_for_any_weights():
    draw = np.random.default_rng(2)
    positive, scores = scored(draw)
    ranking = Ranking(60)
    ranking.add_fold(np.arange(60), positive, scores)
    weights = draw.integers(0, 4, size=(20, 60)).astype(float)
    expected = [roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(ranking.auc(weights), expected, atol=1e-12)


def test_area_is_the_mean_over_folds_that_have_both_classes():
    draw = np.random.default_rng(3)
    positive, scores = scored(draw)
    positive[:20] = 1
    ranking, areas = Ranking(60), []
    for fold in np.split(np.arange(60), 3):
        ranking.add_fold(fold, positive[fold], scores[fold])
        if 0 < positive[fold].mean() < 1:
            areas.append(roc_auc_score(positive[fold], scores[fold]))
    assert (ranking.folds, ranking.skipped) == (2, 1)
    assert ranking.auc(np.ones((1, 60)))[0] == pytest.approx(np.mean(areas))


def test_no_fold_with_both_classes_is_no_area():
    ranking = Ranking(4)
    ranking.add_fold(np.arange(4), [1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4])
    assert np.isnan(ranking.auc(np.ones((1, 4)))).all()


def test_the_bootstrap_agrees_with_scipy_s_on_a_paired_difference():
    draw = np.random.default_rng(4)
    positive, scores = scored(draw, 80)
    other = scores + draw.normal(size=80)
    rankings = []
    for values in (scores, other):
        ranking = Ranking(80)
        ranking.add_fold(np.arange(80), positive, values)
        rankings.append(ranking)
    ours = bootstrap_interval(rankings, seed=0, draws=4000)

    def difference(positive, a, b):
        return roc_auc_score(positive, a) - roc_auc_score(positive, b)

    theirs = stats.bootstrap(
        (positive, scores, other),
        difference,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert ours.estimate == pytest.approx(difference(positive, scores, other))
    assert ours.low == pytest.approx(theirs.low, abs=0.015)
    assert ours.high == pytest.approx(theirs.high, abs=0.015)


def test_a_way_compared_with_itself_differs_by_nothing():
    positive, scores = scored(np.random.default_rng(5))
    ranking = Ranking(60)
    ranking.add_fold(np.arange(60), positive, scores)
    interval = bootstrap_interval([ranking, ranking], seed=0, draws=50)
    assert (interval.low, interval.estimate, interval.high) == (0, 0, 0)


def test_the_t_interval_is_scipy_s_and_covers_as_often_as_it_says():
    draw = np.random.default_rng(6)
    sample = draw.normal(size=7)
    interval = mean_interval(sample)
    low, high = stats.t.interval(0.95, 6, sample.mean(), stats.sem(sample))
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))
    covered = sum(
        one.low <= 0 <= one.high for one in map(mean_interval, draw.normal(size=(2000, 4)))
    )
    assert covered / 2000 == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 2000))
    with pytest.raises(ValueError, match="two or more"):
        mean_interval([1.0])


@pytest.mark.parametrize("level", [95, 1.0, 0.0, -0.5, float("nan")])
def test_a_level_in_percent_is_refused(level):
    ranking = Ranking(4)
    ranking.add_fold(np.arange(4), [0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4])
    for interval in (
        lambda: mean_interval([1.0, 2.0], level),
        lambda: bootstrap_interval([ranking], 0, level=level),
    ):
        with pytest.raises(ValueError, match=r"level is .*between 0 and 1, as in level=0\.95"):
            interval()


@pytest.mark.filterwarnings("error")
def test_an_area_that_is_not_there_is_nan_without_a_warning_of_numpy_s():
    ranking = Ranking(4)
    with pytest.raises(ValueError, match="1 of 4 scores are NaN"):
        ranking.add_fold(np.arange(4), [0, 1, 0, 1], [0.1, np.nan, 0.3, 0.4])
    ranking.add_fold(np.arange(4), [1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4])
    assert str(bootstrap_interval([ranking], 0)) == "nan (nan to nan)"
