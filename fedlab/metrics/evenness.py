"""How evenly a model serves devices: one number of each device, and what is told of them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import F64
from fedlab.core.validation import known

if TYPE_CHECKING:
    import pandas as pd

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Fairness:
    """What is told of a measure over devices, by `fairness`.

    Attributes
    ----------
    mean : float
        Over devices, or over what they weigh.
    worst : float
        The mean of the worst tenth of the devices; below ten devices, of the worst one.
    worst_devices : tuple
        Who they are, the worst one first.
    gini : float
        Half the mean difference of two devices, over the mean: 0 is even. NaN if a value is
        negative, or all are zero.
    entropy : float
        Of the devices' shares of the sum, over its largest, log n: 1 is even. NaN as above.
    variance : float
        Over devices: 0 is even.
    """

    mean: float
    worst: float
    worst_devices: tuple[Any, ...]
    gini: float
    entropy: float
    variance: float


def fairness(
    values: ArrayLike | pd.Series[Any],
    devices: Sequence[Any] | None = None,
    *,
    weights: ArrayLike | None = None,
    better: Better = "higher",
) -> Fairness:
    """Return how even a measure is over devices, and who has the worst of it.

    Parameters
    ----------
    values : (n,) array, or Series indexed by device
        An accuracy or a loss of each device, say: a column of ``Federation.validate()``.
    devices : sequence, optional
        Their names; by default the Series' index, or 0, 1, ...
    weights : (n,) array, optional
        Of the devices in the mean, such as their rows. In all else each device counts alike.
    better : {"higher", "lower"}
        Whether an accuracy or a loss is measured.

    Raises
    ------
    ValueError
        If there is no value, one is not finite, or there is not one name or weight a value.

    Source: mean, worst tenth, variance and entropy as in Li et al., "Fair resource allocation in
    federated learning", ICLR 2020, section 4 and appendix; Gini, "Variabilità e mutabilità", 1912.

    Examples
    --------
    >>> told = fairness([0.9, 0.8, 0.4], ["A", "B", "C"])
    >>> round(told.mean, 2), told.worst, told.worst_devices, round(told.gini, 3)
    (0.7, 0.4, ('C',), 0.159)
    """
    measured = np.asarray(values, np.float64)
    given: Any = values
    own = given.index if hasattr(given, "iloc") else range(measured.size)
    names = list(own if devices is None else devices)
    if measured.ndim != 1 or not len(measured) == len(names) > 0:
        raise ValueError(
            f"values of shape {measured.shape} and {len(names)} devices were given; one value for "
            "each device is needed"
        )
    if odd := [name for name, value in zip(names, measured, strict=True) if not np.isfinite(value)]:
        raise ValueError(f"devices {odd[:5]} have NaN or inf; leave them out, and say so")
    up = known(better, ("higher", "lower"), "way to be better") == "higher"
    order = np.argsort(measured if up else -measured, kind="stable")[: max(1, len(names) // 10)]
    shares = measured / measured.sum() if measured.min() >= 0 < measured.sum() else None
    return Fairness(
        mean=float(np.average(measured, weights=None if weights is None else np.asarray(weights))),
        worst=float(measured[order].mean()),
        worst_devices=tuple(names[place] for place in order),
        gini=np.nan if shares is None else gini(shares),
        entropy=np.nan if shares is None else _evenness(shares),
        variance=float(measured.var()),
    )


def gini(values: F64) -> float:
    """Return the Gini coefficient of (n,) values that are not negative and not all zero."""
    n = len(values)
    ranks = 2 * np.arange(1, n + 1) - n - 1  # sorted, the double sum over pairs is one
    return float(ranks @ np.sort(values) / (n * values.sum()))


def _evenness(shares: F64) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum() / np.log(len(shares))) if len(shares) > 1 else 1.0
