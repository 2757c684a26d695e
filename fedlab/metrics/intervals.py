"""Estimates with their intervals: over seeds, Student's; over rows, see `fedlab.metrics.auc`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.validation import proportion


@dataclass(frozen=True)
class Interval:
    """An estimate, and the bounds of an interval around it.

    Examples
    --------
    >>> print(Interval(0.52, 0.41, 0.6))
    0.52 (0.41 to 0.60)
    >>> f"{Interval(0.52, 0.41, 0.6):.3f}"
    '0.520 (0.410 to 0.600)'
    """

    estimate: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        estimate, *ends = (format(v, spec or ".2f") for v in (self.estimate, self.low, self.high))
        return f"{estimate} ({' to '.join(ends)})"

    def __str__(self) -> str:
        return format(self, "")


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean of independent values, and Student's t interval for it.

    Parameters
    ----------
    values : (n,) array
        One for each seed, say; the paired differences of two ways, to compare them.
    level : float
        The interval's coverage.

    Raises
    ------
    ValueError
        With fewer than two values, or a level that is none.

    Examples
    --------
    >>> print(mean_interval([1.0, 2.0, 3.0]))
    2.00 (-0.48 to 4.48)
    """
    from scipy import stats

    proportion(level=level)
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or len(sample) < 2:
        raise ValueError(f"{sample.size} values were given; an interval needs two or more")
    half = stats.t.ppf((1 + level) / 2, len(sample) - 1) * stats.sem(sample)
    mean = float(sample.mean())
    return Interval(mean, mean - float(half), mean + float(half))
