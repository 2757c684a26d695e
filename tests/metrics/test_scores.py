"""Measures of scores against scikit-learn and by hand, and what they leave undefined."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics

from fedlab.metrics.scores import OF_CLASSES, named_metrics, score


def shares(draw: np.random.Generator, rows: int, classes: int) -> np.ndarray:
    return draw.dirichlet(np.ones(classes), rows)


def test_of_two_classes_they_are_scikit_learn_s_of_the_second() -> None:
    draw = np.random.default_rng(0)
    y, scores = draw.integers(0, 2, 40), shares(draw, 40, 2)
    picked = scores.argmax(axis=1)
    expected = {
        "auc": metrics.roc_auc_score(y, scores[:, 1]),
        "average precision": metrics.average_precision_score(y, scores[:, 1]),
        "balanced accuracy": metrics.balanced_accuracy_score(y, picked),
        "f1": metrics.f1_score(y, picked),
        "mcc": metrics.matthews_corrcoef(y, picked),
    }
    assert {name: score(name, y, scores)[0] for name in OF_CLASSES} == pytest.approx(expected)


def test_of_more_classes_areas_are_means_against_the_rest() -> None:
    draw = np.random.default_rng(1)
    y, scores = draw.integers(0, 4, 80), shares(draw, 80, 4)
    expected = metrics.roc_auc_score(y, scores, multi_class="ovr", average="macro")
    assert score("auc", y, scores)[0] == pytest.approx(expected)
    some = y < 3  # a class that a device doesn't have takes no part
    each = [metrics.roc_auc_score(y[some] == c, scores[some, c]) for c in range(3)]
    assert score("auc", y[some], scores[some])[0] == pytest.approx(np.mean(each))
    recalls = [(scores[y == c].argmax(axis=1) == c).mean() for c in range(3)]
    balanced = score("balanced accuracy", y[some], scores[some])[0]
    assert balanced == pytest.approx(np.mean(recalls))


def test_numbers_have_measures_of_their_own() -> None:
    y, scores = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 3.0])
    assert score("mae", y, scores) == (0.5, "")
    assert score("r2", y, scores)[0] == pytest.approx(metrics.r2_score(y, scores))
    with pytest.raises(ValueError, match="'auc' is no measure of numbers; there are mae, r2"):
        score("auc", y, scores)
    with pytest.raises(ValueError, match="'r2' is no measure of classes; there are auc"):
        score("r2", np.array([0, 1]), np.eye(2))


def test_what_is_undefined_is_nan_with_its_reason_and_without_a_warning() -> None:
    one, both = np.zeros(3, int), np.array([0, 1, 0])
    even = np.full((3, 2), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in (*OF_CLASSES, metrics.roc_auc_score):
            value, why = score(name, one, even)
            assert np.isnan(value), name
            assert why == "all rows are of class 0"
        value, why = score("auc", both, np.full((3, 2), np.nan))
        assert (np.isnan(value), why) == (True, "scores hold NaN or inf")
        value, why = score("r2", np.array([1.0]), np.array([1.0]))
        assert (np.isnan(value), why) == (True, "it is not defined on its rows")
        assert score("f1", both, np.array([[1.0, 0.0]] * 3)) == (0.0, "")
    assert score(metrics.brier_score_loss, both, even) == (0.25, "")


def test_names_are_known_and_stand_once() -> None:
    assert list(named_metrics("AUC")) == ["auc"]
    assert list(named_metrics(metrics.roc_auc_score)) == ["roc_auc_score"]
    assert named_metrics({"area": "AUC", "f": max}) == {"area": "auc", "f": max}
    with pytest.raises(ValueError, match=r"no metric is called 'acu' \(did you mean 'auc'\?\)"):
        named_metrics(["acu"])
    with pytest.raises(ValueError, match="two metrics have one name"):
        named_metrics([lambda y, s: 0.0, lambda y, s: 1.0])
