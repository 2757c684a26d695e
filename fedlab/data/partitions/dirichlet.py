"""How many rows of each class a device gets under Dirichlet skew: the counts alone.

Shares are drawn apart from the shuffling of rows (at another address), so that a try that fails
costs no shuffling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, I64, Bool
from fedlab.core.validation import whole_number

SHARES, SHUFFLES = 0, 1  # parts of the address (seed, PARTITION)
_LEAST_ALPHA, _MOST_ALPHA = 1e-6, 1e6  # beyond, float64 gammas under- or overflow
_TRIES_OF_A_HINT = 30


@dataclass(frozen=True, eq=False)
class LabelSkew:
    """The rule of NIID-Bench for classes of `sizes` rows; see `fedlab.data.dirichlet`.

    Skew of quantity is that of a single class; `kind` says so where people read.

    Examples
    --------
    >>> counts, tries = LabelSkew(np.array([60, 40]), 4, 0.5, seed=0, min_rows=5).counts(1000)
    >>> counts.sum(axis=1), bool(counts.sum(axis=0).min() >= 5)
    (array([60, 40]), True)
    """

    sizes: I64
    devices: int
    alpha: float
    seed: int
    min_rows: int
    kind: str = "label"

    def __post_init__(self) -> None:
        if not _LEAST_ALPHA <= self.alpha <= _MOST_ALPHA:  # refuses NaN, too
            raise ValueError(
                f"alpha is {self.alpha}; it takes {_LEAST_ALPHA:g} ... {_MOST_ALPHA:g} "
                "(the field uses .05 ... 100)"
            )

    def __str__(self) -> str:
        how = f"Dirichlet({self.alpha:g}) {self.kind} skew"
        return f"{how} over {self.devices} devices, seed {self.seed}"

    def counts(self, tries: int) -> tuple[I64, int]:
        """Return rows of each class on each device, shape (classes, devices), and tries it took.

        Raises
        ------
        ValueError
            If no try gives every device its rows; the message tells what does.
        """
        whole_number(tries, "tries", 1)
        for used, counts in enumerate(self._tries(tries), 1):
            if self._enough(counts):
                return counts, used
        ways = " or ".join([*self._ways_out(min(tries, _TRIES_OF_A_HINT)), "a smaller min_rows"])
        raise ValueError(
            f"in {tries} tries, no {self} gave each of them {self.min_rows} of the "
            f"{self.sizes.sum()} rows; this does: {ways}"
        )

    def _tries(self, tries: int) -> Iterator[I64]:
        draw = generator(self.seed, Purpose.PARTITION, part=SHARES)
        return (self._one_try(draw) for _ in range(tries))

    def _enough(self, counts: I64) -> bool:
        return bool(counts.sum(axis=0).min() >= self.min_rows)

    def _one_try(self, draw: np.random.Generator) -> I64:
        counts = np.zeros((len(self.sizes), self.devices), dtype=np.int64)
        filled = np.zeros(self.devices, dtype=np.int64)
        fair = self.sizes.sum() / self.devices
        for label, size in enumerate(self.sizes):
            share = self._share(filled < fair, draw)
            cuts = (np.cumsum(share) * size).astype(np.int64)[:-1]
            counts[label] = np.diff(cuts, prepend=0, append=size)
            filled += counts[label]
        return counts

    def _share(self, room: Bool, draw: np.random.Generator) -> F64:
        # Some device has room, and a share falls on it with probability 1 / devices at least.
        alphas = np.full(self.devices, self.alpha)
        while True:
            share: F64 = draw.dirichlet(alphas)
            share[~room] = 0.0
            if share.sum() > 0:
                share /= share.sum()
                return share

    def _ways_out(self, tries: int) -> Iterator[str]:
        """Yield a larger alpha and a smaller number of devices, each after it was seen to do."""
        alphas = (float(f"{self.alpha * 1.5**step:.2g}") for step in range(1, 30))
        for alpha in (alpha for alpha in alphas if self.alpha < alpha <= _MOST_ALPHA):
            if any(map(self._enough, replace(self, alpha=alpha)._tries(tries))):
                yield f"alpha={alpha:g}"
                break
        numbers = {int(self.devices * 0.7**step) for step in range(1, 30)} - {0, self.devices}
        for devices in sorted(numbers, reverse=True):
            if any(map(self._enough, replace(self, devices=devices)._tries(tries))):
                yield f"devices={devices}"
                break
