"""Groups that stay whole: against scikit-learn, and against every other choice of groups."""

import itertools
import warnings

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from fedlab.metrics import held_out_groups, refuse_broken, stratified_folds
from fedlab.metrics.folds import _counts, _dealt


def patients(seed, count=60, most=12, strata=3):
    """Groups of unequal sizes whose rows are for the most part of one stratum."""
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), draw.integers(1, most, count))
    own = draw.integers(0, strata, count)[groups]
    return groups, np.where(draw.random(len(groups)) < 0.7, own, draw.integers(0, strata, len(own)))


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_strata_are_as_even_as_scikit_learn_makes_them(folds):
    # Its rule, but for ties: those it decides by the last bit of a sum.
    def uneven(fold_of, strata):
        shares = [np.bincount(fold_of[strata == one], minlength=folds) for one in range(3)]
        return np.mean([(counts / counts.sum()).std() for counts in shares])

    ours, theirs = [], []
    for seed in range(20):
        groups, strata = patients(seed)
        ours.append(uneven(_dealt(_counts(strata, groups), folds, np.arange(60))[groups], strata))
        fold_of = np.empty(len(groups), int)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            splits = StratifiedGroupKFold(folds).split(strata, strata, groups)
            for fold, (_, test) in enumerate(splits):
                fold_of[test] = fold
        theirs.append(uneven(fold_of, strata))
    assert np.median(np.abs(np.subtract(ours, theirs))) < 1e-9
    assert np.mean(ours) < 1.05 * np.mean(theirs) + 1e-9


def test_folds_keep_groups_whole_and_test_each_row_once_a_repeat():
    groups, strata = patients(0)
    names = np.char.add("patient ", groups.astype(str))
    masks = np.array(list(stratified_folds(strata, 5, 3, seed=1, groups=names)))
    for mask in masks:
        refuse_broken(names, mask)
        shares = [mask[strata == stratum].mean() for stratum in range(3)]
        assert np.ptp(shares) < 0.1
    for repeat in range(3):
        assert (masks[5 * repeat : 5 * repeat + 5].sum(axis=0) == 1).all()
    assert not np.array_equal(masks[0], masks[5])
    again = np.array(list(stratified_folds(strata, 5, 3, seed=1, groups=names)))
    np.testing.assert_array_equal(masks, again)
    other = np.array(list(stratified_folds(strata, 5, 3, seed=2, groups=names)))
    assert not np.array_equal(masks, other)


def test_folds_of_one_stratum_are_of_even_size():
    groups, _ = patients(3)
    masks = stratified_folds(np.zeros(len(groups)), 5, 1, seed=0, groups=groups)
    sizes = [mask.sum() for mask in masks]
    assert max(sizes) - min(sizes) <= 1  # there are groups of one row to fill up with


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_no_single_group_would_bring_the_held_out_rows_nearer_to_the_share(seed, share):
    groups, strata = patients(seed, count=25)
    held = held_out_groups(strata, groups, share, np.random.default_rng(seed))
    refuse_broken(groups, held)

    def off(mask):
        shares = [mask[strata == stratum].mean() for stratum in range(3)]
        return np.mean((np.array(shares) - share) ** 2) + (mask.mean() - share) ** 2

    for group in range(25):
        assert off(held ^ (groups == group)) >= off(held) - 1e-9
    assert abs(held.mean() - share) < 0.05


def test_the_share_is_near_the_best_that_any_groups_could_give():
    ranks = []
    for seed in range(20):
        draw = np.random.default_rng(seed)
        sizes = draw.integers(5, 30, 10)
        groups = np.repeat(np.arange(10), sizes)
        held = held_out_groups(np.zeros(len(groups)), groups, 0.3, np.random.default_rng(seed))
        masks = np.array(list(itertools.product([0, 1], repeat=10)))
        every = np.abs(masks @ sizes / sizes.sum() - 0.3)
        ranks.append((every < abs(held.mean() - 0.3) - 1e-12).mean())
    assert np.median(ranks) < 0.1


def test_which_groups_are_held_out_is_drawn_and_all_may_be():
    groups, strata = patients(5, count=30)
    times = np.zeros(30)
    for seed in range(200):
        held = held_out_groups(strata, groups, 0.3, np.random.default_rng(seed))
        times[np.unique(groups[held])] += 1
    assert times.min() > 20
    assert times.max() < 130


def test_a_class_that_one_group_has_alone_stays_to_be_trained_on():
    groups, strata = np.repeat(np.arange(10), 4), np.repeat([0, 1, 1, 0, 1, 0, 1, 0, 1, 2], 4)
    for seed in range(20):
        held = held_out_groups(strata, groups, 0.5, np.random.default_rng(seed))
        assert not held[groups == 9].any()
        assert {0, 1} <= set(strata[~held])


def test_one_group_alone_is_not_held_out():
    assert not held_out_groups([0, 1, 0], [7, 7, 7], 0.5, np.random.default_rng(0)).any()
    assert held_out_groups([], np.empty(0, int), 0.5, np.random.default_rng(0)).shape == (0,)


def test_a_broken_group_is_refused_by_name():
    groups = ["ann", "ann", "bo", "cy", "cy"]
    refuse_broken(groups, [True, True, False, False, False])
    with pytest.raises(ValueError, match=r"ward 3 breaks 2 of 3 groups: rows of 'ann', 'cy'"):
        refuse_broken(groups, [True, False, False, False, True], "ward 3")


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([1, 2], r"shape \(2,\) were given for 3 rows"),
        ([1, None, 2], "missing"),
        (["a", "", "b"], "missing"),
        ([1.0, np.nan, 2.0], "whole numbers or text"),
        (np.ma.array([1, 2, 3], mask=[0, 1, 0]), "masked"),
    ],
)
def test_groups_that_are_none_are_refused(groups, said):
    with pytest.raises(ValueError, match=said):
        refuse_broken(groups, [True, False, False])


def test_more_folds_than_groups_are_refused():
    with pytest.raises(ValueError, match="3 groups can't be dealt to 5 folds"):
        next(stratified_folds([0] * 6, 5, 1, seed=0, groups=[1, 1, 2, 2, 3, 3]))
