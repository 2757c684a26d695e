"""What some devices are sent out to do: each with a round, a step size and epochs of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import F64, I64, Places


@dataclass(frozen=True, eq=False)
class Dispatch:
    """The m devices of a cohort, column by column, so that compiled loops take any mix of them.

    Attributes
    ----------
    rounds : (m,) int64 array
        The round that each was sent out in: its draws stand there.
    rates : (m,) float64 array
        Each one's step size.
    epochs : (m,) int64 array
        Passes over its rows.
    begun : (m,) int64 array
        Passes that it has done before in this round: orders of rows go on from there.
    """

    rounds: I64
    rates: F64
    epochs: I64
    begun: I64

    @classmethod
    def alike(cls, count: int, round: int, rate: float, epochs: ArrayLike) -> Dispatch:
        """Return a cohort whose devices were all sent out in one round.

        Examples
        --------
        >>> Dispatch.alike(2, round=3, rate=0.1, epochs=5).rounds
        array([3, 3])
        """
        return cls(
            np.full(count, round, np.int64),
            np.full(count, rate),
            np.full(count, epochs, np.int64),
            np.zeros(count, np.int64),
        )

    def __len__(self) -> int:
        return len(self.rounds)

    def checked(self, devices: int) -> Dispatch:
        """Return it, or say what sends out no such cohort: compiled loops take it as it is."""
        for name in ("rounds", "rates", "epochs", "begun"):
            column, least = getattr(self, name), 1 if name == "epochs" else 0
            kinds = "f" if name == "rates" else "iu"
            if column.shape != (devices,) or column.dtype.kind not in kinds:
                raise ValueError(
                    f"{name} of shape {column.shape} and type {column.dtype} were given for "
                    f"{devices} devices"
                )
            if devices and not least <= column.min() <= column.max() < np.inf:
                raise ValueError(f"{name} are {column.min()} ... {column.max()}; least is {least}")
        return self

    def some(self, places: Places | slice) -> Dispatch:
        """Return the part of some devices."""
        return Dispatch(
            self.rounds[places], self.rates[places], self.epochs[places], self.begun[places]
        )
