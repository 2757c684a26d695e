"""Aggregators: from rows to one vector a block, a part of the cohort at a time, or all at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from fedlab.core.typing import F64, Array
from fedlab.updates.sent import Updates


class Aggregator(Protocol):
    """From an (m, n) block to (n,), with parts of it folded in one after another.

    What it holds in between is its own: a mean keeps (n,), a median all rows.
    """

    #: What must hold of the updates (see `fedlab.updates.stages`).
    needs: ClassVar[frozenset[str]]

    def begin(self, size: int) -> Any:
        """Return what is held before anything has come."""

    def add(self, held: Any, block: Array, weights: F64) -> Any:
        """Return what is held after more rows, (m, n), with their weights, (m,)."""

    def done(self, held: Any, share: float) -> F64:
        """Return the aggregate, (n,); `share` is what the weights of all rows sum to."""


class Joint:
    """From a whole cohort to one vector a block, where devices are judged by all that they sent.

    One that compares with rows of the server's own has a ``root``, the `Device` that holds them.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"rows"})
    #: "uniform" where all devices count alike, None where it takes weights.
    weights: ClassVar[str | None] = "uniform"
    #: Fewest devices of a cohort.
    least: int = 1

    def init(self, size: int) -> Any:
        """Return the state before the first round, for `size` parameters."""
        return {}

    def combine(
        self, state: Any, sent: Updates, own: Mapping[str, F64]
    ) -> tuple[dict[str, F64], Any]:
        """Return each block's aggregate, (n,) float64, and the next state.

        `own` is what the root's rows taught, by block; it is empty where there is no root.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Mean:
    """The weighted mean: sum_k w_k v_k / sum_k w_k, in float64 and in the cohort's order.

    So its bits depend neither on threads nor on the parts in which rows come.

    Examples
    --------
    >>> held = Mean().add(Mean().begin(2), np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([3.0, 1.0]))
    >>> Mean().done(held, share=4.0)
    array([0.75, 0.25])
    """

    needs: ClassVar[frozenset[str]] = frozenset({"linear"})

    def begin(self, size: int) -> F64:
        return np.zeros(size)

    def add(self, held: F64, block: Array, weights: F64) -> F64:
        from fedlab.updates import kernels

        if block.shape != (len(weights), len(held)):
            raise ValueError(
                f"a block of shape {block.shape} came, with {len(weights)} weights, to a sum of "
                f"{len(held)} numbers"
            )
        kernels.add_weighted(block, np.asarray(weights, np.float64), held)
        return held

    def done(self, held: F64, share: float) -> F64:
        return held if share == 1.0 else np.asarray(held / share)
