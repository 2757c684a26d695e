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
Metric = Callable[[NDArray[Any], NDArray[Any]], float]

OF_CLASSES = ("auc", "average precision", "balanced accuracy", "f1", "mcc")
OF_NUMBERS = ("mae", "r2")


def named_metrics(
    metrics: str | Metric | Iterable[str | Metric] | Mapping[str, str | Metric],
) -> dict[str, str | Metric]:
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
    if isinstance(metrics, Mapping):
        pairs = list(metrics.items())
    else:
        one = isinstance(metrics, str) or callable(metrics)
        given: Any = [metrics] if one else metrics
        pairs = [(str(getattr(metric, "__name__", metric)), metric) for metric in given]
    every = (*OF_CLASSES, *OF_NUMBERS)
    names = [(n, known(m, every, "metric") if isinstance(m, str) else m) for n, m in pairs]
    named = {m if isinstance(m, str) and n.lower() == m else n: m for n, m in names}
    if len(named) < len(pairs):
        raise ValueError("two metrics have one name; give a mapping of names to functions")
    return named


def score(metric: str | Metric, y: NDArray[Any], scores: NDArray[Any]) -> tuple[float, str]:
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
    if metric in (OF_NUMBERS if scores.ndim == 2 else OF_CLASSES):
        kinds = ("classes", OF_CLASSES) if scores.ndim == 2 else ("numbers", OF_NUMBERS)
        raise ValueError(f"{metric!r} is no measure of {kinds[0]}; there are {', '.join(kinds[1])}")
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

    if name in OF_NUMBERS:
        return float((metrics.r2_score if name == "r2" else metrics.mean_absolute_error)(y, scores))
    picked, there = scores.argmax(axis=1), np.unique(y)
    two = scores.shape[1] == 2
    if name in ("auc", "average precision"):
        of = metrics.roc_auc_score if name == "auc" else metrics.average_precision_score
        return float(np.mean([of(y == c, scores[:, c]) for c in ([1] if two else there)]))
    if name == "mcc":
        return float(metrics.matthews_corrcoef(y, picked))
    if name == "f1":
        average = "binary" if two else "macro"
        return float(metrics.f1_score(y, picked, average=average, zero_division=0))
    return float(metrics.recall_score(y, picked, labels=there, average="macro"))
