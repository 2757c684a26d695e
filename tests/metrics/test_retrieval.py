"""Measures of rankings against scikit-learn and closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from fedlab import Device
from fedlab.search import FederatedSearch, federated_recall, judge, judge_labels
from tests.helpers import filled


@st.composite
def graded(draw: st.DrawFn) -> tuple[list[int], dict[int, int], int]:
    n = draw(st.integers(2, 12))
    order = draw(st.permutations(range(n)))
    grades = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(any))
    return order, {key: grade for key, grade in enumerate(grades) if grade}, draw(
        st.integers(1, n)
    )  # fmt: skip


@given(graded())
def test_ndcg_is_scikit_learns(case: tuple[list[int], dict[int, int], int]) -> None:
    order, grades, k = case
    n = len(order)
    scores = np.zeros(n)
    scores[order] = np.arange(n, 0, -1)
    truth = [[grades.get(key, 0) for key in range(n)]]
    judged = judge([order], [grades])
    assert judged.ndcg(k)[0] == pytest.approx(ndcg_score(truth, [scores], k=k))
    assert judged.ndcg()[0] == pytest.approx(ndcg_score(truth, [scores]))


@given(graded())
def test_binary_ndcg_is_scikit_learns(case: tuple[list[int], dict[int, int], int]) -> None:
    order, grades, k = case
    n = len(order)
    scores = np.zeros(n)
    scores[order] = np.arange(n, 0, -1)
    truth = [[float(key in grades) for key in range(n)]]
    assert judge([order], [set(grades)]).ndcg(k)[0] == pytest.approx(
        ndcg_score(truth, [scores], k=k)
    )
    labels = np.array([key in grades for key in order])
    by_label = judge_labels([labels], [True], [len(grades)])
    assert by_label.ndcg(k) == pytest.approx(judge([order], [set(grades)]).ndcg(k))


def test_closed_forms() -> None:
    judged = judge([[9, 4, 8, 2], [1, 2, 3, 4], [5, 6, 7, 8]], [{4, 2, 77}, {1}, {0}])
    np.testing.assert_allclose(judged.recall(), [2 / 3, 1, 0])
    np.testing.assert_allclose(judged.recall(3), [1 / 3, 1, 0])
    np.testing.assert_allclose(judged.success(1), [0, 1, 0])
    np.testing.assert_allclose(judged.reciprocal_rank(), [1 / 2, 1, 0])
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    np.testing.assert_allclose(judged.ndcg()[0], (1 / np.log2(3) + 1 / np.log2(5)) / ideal)
    assert judged.summary()["MRR"] == pytest.approx(0.5)
    assert set(judged.summary(2)) == {"recall@2", "MRR", "nDCG@2", "success@2"}


def test_a_place_that_is_empty_is_a_miss_whatever_stands_there() -> None:
    missing = 2**64 - 1
    hits = np.array([[3, missing], [missing, missing]], np.uint64)
    judged = judge(hits, [{3}, {0, missing}], found=[[True, False], [False, False]])
    assert judged.recall().tolist() == [1, 0]
    assert judged.reciprocal_rank().tolist() == [1, 0]
    labels = judge_labels([["a", "a"]], ["a"], [2], found=[[True, False]])
    assert labels.recall().tolist() == [0.5]


def test_a_hit_that_stands_twice_counts_once() -> None:
    judged = judge([[3, 3, 3], [5, 3, 3]], [{3, 4}, {3: 2.0, 5: 1.0}])
    assert judged.recall().tolist() == [0.5, 1]
    assert judged.grades.tolist() == [[1, 0, 0], [1, 2, 0]]
    assert judged.ndcg().max() <= 1


def test_keys_beyond_63_bits_are_told_apart() -> None:
    hits = np.array([[2**63 + 1, 2**63]], np.uint64)
    assert judge(hits, [{2**63}]).reciprocal_rank().tolist() == [0.5]


@pytest.mark.parametrize(
    ("hits", "truth", "message"),
    [
        ([[1]], [set()], "query 0 has nothing relevant"),
        ([[1]], [{1}, {2}], "1 rankings but 2 truths"),
        ([1, 2], [{1}], r"shape \(2,\)"),
        ([[1]], [{1: 0.0}], "grade 0.0; grades are above 0"),
        ([[1]], [{1: float("nan")}], "grades are above 0 and finite"),
    ],
)
def test_what_can_not_be_judged_is_refused(hits: object, truth: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge(hits, truth)  # type: ignore[arg-type]


def test_labels_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="1 relevant rows but 2 hits"):
        judge_labels([["a", "a"]], ["a"], [1])
    with pytest.raises(ValueError, match="1 queries have nothing relevant, the first is 0"):
        judge_labels([["a"]], ["b"], [0])
    with pytest.raises(ValueError, match="one of each a query"):
        judge_labels([["a"]], ["a", "b"], [1, 1])
    with pytest.raises(ValueError, match=r"found has shape \(1, 2\)"):
        judge_labels([["a"]], ["a"], [1], found=[[True, True]])
    with pytest.raises(ValueError, match="k is 3"):
        judge([[1]], [{1}]).recall(3)


def test_recall_counts_device_and_key() -> None:
    devices = [Device(place, filled(np.eye(3, dtype=np.float32) + place)) for place in range(2)]
    truth = FederatedSearch(devices).search(np.eye(3), 4)
    assert federated_recall(truth, truth) == 1.0
    other = replace(truth, devices=1 - truth.devices)
    mine, theirs = (
        [set(zip(*both, strict=True)) for both in zip(
            hits.devices.tolist(), hits.keys.tolist(), strict=True)]
        for hits in (truth, other)
    )  # fmt: skip
    same = sum(len(a & b) for a, b in zip(mine, theirs, strict=True))
    assert federated_recall(other, truth) == same / 12
    empty = FederatedSearch([Device(0, filled(np.empty((0, 3), np.float32)))])
    assert federated_recall(*[empty.search(np.eye(3), 4)] * 2) == 1.0
