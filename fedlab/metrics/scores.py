"""Measures of a model's scores that are no means over rows: area under a curve, F1, and the like.

By scikit-learn, but for what it leaves undefined: that is NaN here, and it is said why.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.validation import known

#: From labels, (n,), and scores: (n,) numbers, or of the second of two classes; else (n, classes).
ScoreFunction = Callable[[NDArray[Any], NDArray[Any]], float]

OF_CLASSES = ("auc", "average precision", "balanced accuracy", "f1", "mcc")
OF_NUMBERS = ("mae", "r2")


def named_metrics(
    metrics: str
    | ScoreFunction
    | Iterable[str | ScoreFunction]
    | Mapping[str, str | ScoreFunction],
) -> dict[str, str | ScoreFunction]:
    """Return metrics by name, known ones as their names; a function has its own.

    Raises
    ------
    ValueError
        If a name is not known, or stands twice.

    Examples
    --------
    >>> list(named_metrics(["AUC", "f1"]))
    ['auc', 'f1']
    """
    every = (*OF_CLASSES, *OF_NUMBERS)
    if isinstance(metrics, Mapping):
        pairs: list[tuple[str, Any]] = list(metrics.items())
    else:
        given: Any = [metrics] if isinstance(metrics, str) or callable(metrics) else metrics
        pairs = [(str(getattr(one, "__name__", one)).lower(), one) for one in given]
    named = {n: known(one, every, "metric") if isinstance(one, str) else one for n, one in pairs}
    if len(named) < len(pairs):
        raise ValueError("two metrics have one name; give a mapping of names to functions")
    return named


def score(metric: str | ScoreFunction, y: NDArray[Any], scores: NDArray[Any]) -> tuple[float, str]:
    """Return a metric of scores, and why it is NaN where it is.

    Of two classes, the second is the positive one; of more, "auc" and "average precision" are the
    mean over classes that are there, each against the rest, "f1" is the mean over classes, and
    "balanced accuracy" is the mean recall of classes that are there. Where all rows are of one
    class, none of them says anything.

    Parameters
    ----------
    metric : str or function
        Of `named_metrics`.
    y : (n,) labels
    scores : (n, classes) shares, or (n,) numbers

    Raises
    ------
    ValueError
        If the metric is of classes and the scores are not, or the other way round.

    Examples
    --------
    >>> shares = np.array([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.2, 0.8]])
    >>> score("auc", np.array([0, 0, 1, 1]), shares)
    (0.75, '')
    >>> score("auc", np.array([1, 1, 1, 1]), shares)
    (nan, 'all rows are of class 1')
    """
    what, fitting = ("classes", OF_CLASSES) if scores.ndim == 2 else ("numbers", OF_NUMBERS)
    if isinstance(metric, str) and metric not in fitting:
        raise ValueError(f"{metric!r} is no measure of {what}; there are {', '.join(fitting)}")
    if not np.isfinite(scores).all():
        return np.nan, "scores hold NaN or inf"
    one = scores.ndim == 2 and len(np.unique(y)) < 2
    why = f"all rows are of class {y[0]}" if one else "it is not defined on its rows"
    if one and isinstance(metric, str):
        return np.nan, why
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # what is undefined is said once, by its device
        if isinstance(metric, str):
            value = _by_name(metric, y, scores)
        else:
            value = float(metric(y, scores[:, 1] if scores.shape[1:] == (2,) else scores))
    return value, why if np.isnan(value) else ""


def _by_name(name: str, y: NDArray[Any], scores: NDArray[Any]) -> float:
    from sklearn import metrics

    picked, there = scores.argmax(axis=-1), np.unique(y)
    labels = [1] if scores.shape[1:] == (2,) else None  # of two classes, the second's

    def mean(of: Callable[..., Any]) -> Any:
        return np.mean([of(y == c, scores[:, c]) for c in labels or there])

    measures: dict[str, Callable[[], Any]] = {
        "auc": lambda: mean(metrics.roc_auc_score),
        "average precision": lambda: mean(metrics.average_precision_score),
        "balanced accuracy": lambda: metrics.recall_score(y, picked, labels=there, average="macro"),
        "f1": lambda: metrics.f1_score(y, picked, labels=labels, average="macro", zero_division=0),
        "mcc": lambda: metrics.matthews_corrcoef(y, picked),
        "mae": lambda: metrics.mean_absolute_error(y, scores),
        "r2": lambda: metrics.r2_score(y, scores),
    }
    return float(measures[name]())
