"""What a cohort sent back."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from fedlab.core.typing import F64, I64, Array, Places
from fedlab.updates.mean import weighted_sum

__all__ = ["Returned"]


@dataclass(frozen=True)
class Returned:
    """What a cohort of m devices sent back, row by row in the cohort's order.

    Attributes
    ----------
    places : (m,) int array
        Which devices of the federation.
    changes : (m, p) array
        Parameters after local work minus those at its start.
    weights : (m,) float64 array
        How much each counts; they sum to one.
    steps, rows : (m,) int arrays
        Gradient steps taken, and rows trained on.
    rate : float
        The local learning rate of this round.
    blocks : dict of (m, p) arrays
        What else was asked for: ``gradient``.
    """

    places: Places
    changes: Array
    weights: F64
    steps: I64
    rows: I64
    rate: float
    blocks: dict[str, Array] = field(default_factory=dict)

    @cached_property
    def average(self) -> Array:
        """(p,) float64: the changes' average by the cohort's weights; formed once, on demand."""
        return self.mean(self.changes)

    def mean(self, vectors: Array, weights: F64 | None = None) -> Array:
        """Return sum_k w_k v_k; the weights are the cohort's unless others are given."""
        return weighted_sum(vectors, self.weights if weights is None else weights)
