"""When a run has come to a standstill."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedlab.core.validation import not_negative, one_of, whole_number


@dataclass(frozen=True)
class Convergence:
    """When to stop before the last round.

    Parameters
    ----------
    metric : {"validation_loss", "update_norm"}
        The loss on the devices' held-out rows, or the Euclidean length of the model's step.
    tolerance : float
        Loss: a new best must be lower than the best so far by more than this. Norm: a step longer
        than this still counts as moving.
    patience : int
        Stop after so many rounds in a row without a new best (or with no longer step).

    Examples
    --------
    >>> Convergence("update_norm", tolerance=0.1, patience=2).reached([0.5, 0.05, 0.01])
    True
    """

    metric: Literal["validation_loss", "update_norm"] = "validation_loss"
    tolerance: float = 1e-4
    patience: int = 5

    def __post_init__(self) -> None:
        one_of(self.metric, ("validation_loss", "update_norm"), "metric")
        not_negative(tolerance=self.tolerance)
        whole_number(self.patience, "patience", 1)

    def reached(self, values: Iterable[float]) -> bool:
        """Say whether a run with these values, oldest first, has come to a standstill."""
        return [False, *map(self.watch(), values)][-1]

    def watch(self) -> Callable[[float], bool]:
        """Return a function that takes each round's value and says whether the run stands still."""
        best, since = np.inf, 0

        def standing(value: float) -> bool:
            nonlocal best, since
            if self.metric == "update_norm":
                since = since + 1 if value <= self.tolerance else 0
            else:
                best, since = (value, 0) if value < best - self.tolerance else (best, since + 1)
            return since >= self.patience

        return standing
