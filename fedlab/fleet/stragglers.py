"""Devices that are too slow to do all their work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import I64
from fedlab.core.validation import share_of_one


@dataclass(frozen=True)
class Stragglers:
    """In each round a share of the cohort does part of its epochs, or is dropped.

    Parameters
    ----------
    share : float
        Part of the cohort that straggles, 0 ... 1 (rounded to whole devices).
    drop : bool
        Whether the server drops stragglers, as FedAvg does in FedProx's experiments; otherwise
        they return what 1 ... E epochs gave, drawn uniformly.

    Source: Li et al., "Federated optimization in heterogeneous networks", MLSys 2020, section 5.2.
    """

    share: float
    drop: bool = False

    def __post_init__(self) -> None:
        share_of_one(share=self.share)

    def epochs(self, devices: int, full: int, seed: int, round: int) -> I64:
        """Return how many epochs each device of a cohort does; 0 for one that is dropped.

        Examples
        --------
        >>> done = Stragglers(share=0.9).epochs(10, full=20, seed=0, round=1)
        >>> len(done), bool((done >= 1).all() and (done <= 20).all())
        (10, True)
        """
        draw = generator(seed, Purpose.STRAGGLERS, round=round)
        slow = draw.permutation(devices)[: int(np.rint(self.share * devices))]
        partial = draw.integers(1, full + 1, size=devices)
        done = np.full(devices, full, np.int64)
        done[slow] = 0 if self.drop else partial[slow]
        return done
