"""Ranks of held-out items: by hand, against other implementations, and the law of samples."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from fedlab import VectorIndex
from fedlab.metrics import judge
from fedlab.metrics.ranking import (
    catalogue_use,
    firsts,
    full_ranks,
    gains,
    hits,
    leave_one_out,
    sampled_hits,
    sampled_ranks,
)

DRAW = np.random.default_rng(0)
SCORES = DRAW.normal(size=(40, 60))
ITEM = DRAW.integers(0, 60, 40)
FREE = DRAW.random((40, 60)) < 0.7
FREE[np.arange(40), ITEM] = True


def test_ranks_by_hand():
    scores = np.array([[5.0, 4, 3, 2, 1], [5, 4, 3, 2, 1]])
    free = np.array([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]) > 0
    ranks = full_ranks(scores, np.array([2, 4]), free)
    assert ranks.tolist() == [2, 5]  # of the first user, item 0 is not free
    assert hits(ranks, 4).tolist() == [1, 0]
    np.testing.assert_allclose(gains(ranks, 4), [1 / np.log2(3), 0])


@pytest.mark.parametrize("ranks", [full_ranks, lambda *given: sampled_ranks(*given, count=5)])
def test_what_gives_no_rank_is_refused(ranks):
    """NaN is not above, below or equal to anything, so it would be found first."""
    scores, item, free = np.zeros((3, 20)), np.array([3, 4, 5]), np.ones((3, 20), bool)
    with pytest.raises(ValueError, match="60 scores are NaN; "):
        ranks(np.full((3, 20), np.nan), item, free)
    for place in (4, 19):  # its own score, or any other's, whether it is drawn or not
        lost = scores.copy()
        lost[1, place] = np.nan
        with pytest.raises(ValueError, match="1 scores are NaN; "):
            ranks(lost, item, free)
    seen = free.copy()
    seen[1, 19] = False
    assert ranks(lost, item, seen).tolist() == ranks(scores, item, seen).tolist()
    for outside in (-1, 20):
        with pytest.raises(ValueError, match=f"item of user 2 is {outside}.*at most 19"):
            ranks(scores, np.array([3, 4, outside]), free)
    with pytest.raises(TypeError, match="item of user 0"):
        ranks(scores, item.astype(float), free)
    with pytest.raises(ValueError, match="item 19 of user 1, held out, isn't free"):
        ranks(scores, np.array([3, 19, 5]), seen)
    for wrong in ((scores[:2], item, free), (scores, item[:2], free), (scores, item, free[:, 1:])):
        with pytest.raises(ValueError, match="don't fit"):
            ranks(*wrong)


@pytest.mark.parametrize("k", [0, -1])
def test_nobody_is_among_the_first_none(k):
    ranks = np.array([1, 2])
    for measure in (hits, gains):
        with pytest.raises(ValueError, match=f"k is {k}"):
            measure(ranks, k)


def test_a_constant_finds_nothing():
    assert full_ranks(np.zeros((1, 5)), np.array([0]), np.ones((1, 5)) > 0).tolist() == [5]


def test_they_agree_with_other_implementations():
    ranks, lists = full_ranks(SCORES, ITEM, FREE), firsts(SCORES, FREE)
    judged = judge(lists, [{one} for one in ITEM.tolist()])
    np.testing.assert_allclose(hits(ranks), judged.success())
    np.testing.assert_allclose(gains(ranks), judged.ndcg())
    for user, wanted in enumerate(ITEM):
        truth = (np.flatnonzero(FREE[user]) == wanted)[None]
        theirs = ndcg_score(truth, SCORES[user, FREE[user]][None], k=10)
        assert gains(ranks)[user] == pytest.approx(theirs)


def test_samples_follow_the_law():
    """The mean over many samples is what the hypergeometric law says of the full ranks."""
    ranks = full_ranks(SCORES, ITEM, FREE)
    told = sampled_hits(ranks, FREE.sum(axis=1) - 1, 15, 5)
    found = [hits(sampled_ranks(SCORES, ITEM, FREE, 15, seed), 5) for seed in range(300)]
    error = np.sqrt(told * (1 - told) / 300)
    assert (np.abs(np.mean(found, axis=0) - told) <= 4 * error + 1e-9).all()
    assert told.mean() > hits(ranks, 5).mean() + 0.15  # a sample flatters


def test_the_law_by_counting():
    """Rank 4 of 8: 3 of 7 others lie above; samples of 3 in which fewer than 2 of them are."""
    samples = [sum(one < 3 for one in sample) < 2 for sample in combinations(range(7), 3)]
    assert sampled_hits(4, 7, count=3, k=2) == pytest.approx(np.mean(samples))


def test_a_sample_of_all_is_the_full_ranking():
    everything = np.ones((40, 60), bool)
    sampled = sampled_ranks(SCORES, ITEM, everything, 59, seed=5)
    assert (sampled == full_ranks(SCORES, ITEM, everything)).all()
    with pytest.raises(ValueError, match=r"user 0 has 59 free items .*; give count=59"):
        sampled_ranks(SCORES, ITEM, everything, 60)


def test_use_of_the_catalogue_by_hand():
    told = catalogue_use(np.array([[0, 1], [0, 2]]), np.array([6, 3, 3, 0]))
    assert told == {"coverage": 0.75, "popularity": 1.5}


def test_an_index_of_items_gives_the_same_lists():
    """A user's vector asks the items' index, and what was seen is filtered out."""
    items = DRAW.normal(size=(60, 9)).astype(np.float32)
    users = DRAW.normal(size=(40, 9)).astype(np.float32)
    index = VectorIndex(9, "inner")
    index.add(items, keys=np.arange(60))
    lists = firsts(users @ items.T, FREE)
    for user in range(40):
        found = index.search(users[user], 10, where=FREE[user])
        assert found.keys.ravel().tolist() == lists[user].tolist()


def test_leaving_one_out_gives_all_measures_of_each_user():
    draw = np.random.default_rng(3)
    scores, item = draw.normal(size=(7, 400)), draw.integers(0, 400, 7)
    free = draw.random((7, 400)) < 0.9
    free[np.arange(7), item] = True
    found = leave_one_out(scores, item, free, k=20, count=199, seed=4)
    full, few = full_ranks(scores, item, free), sampled_ranks(scores, item, free, 199, seed=4)
    assert found["HR, of all"].tolist() == (full <= 20).tolist()
    assert found["HR, of 200"].tolist() == (few <= 20).tolist()
    np.testing.assert_array_equal(found["nDCG, of 200"], gains(few, 20))
    assert [*found] == ["HR, of 200", "HR, of all", "nDCG, of 200", "nDCG, of all"]
