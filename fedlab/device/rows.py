"""A device's rows where they lie, as training takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F32, F64, Places


class Rows:
    """Some of a device's rows, where they lie; as a value, it is never written to.

    Parameters
    ----------
    x : (n, d) float32 array
        All rows as they are stored, decoded; the index's own memory where that is float32.
    y : (n,) array
        Their labels.
    chosen : (r,) intp array, optional
        Which of them are meant; None for all. `count` says how many those are.
    """

    # A round asks a thousand devices for theirs: slots take a third of a frozen dataclass's time.
    __slots__ = ("_memory", "_moments", "chosen", "count", "x", "y")

    def __init__(self, x: F32, y: NDArray[Any], chosen: Places | None = None) -> None:
        # Compiled loops read these without looking at their shapes.
        if x.ndim != 2 or y.shape != (len(x),):
            raise ValueError(f"rows of shape {x.shape} with labels of shape {y.shape}")
        if chosen is not None and len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(x):
            raise ValueError(f"rows {chosen.min()} ... {chosen.max()} are meant, of {len(x)}")
        self.x, self.y, self.chosen = x, y, chosen
        self.count = len(x if chosen is None else chosen)
        self._memory: tuple[tuple[int, int, int], tuple[NDArray[Any], ...]] | None = None
        self._moments: F64 | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy has memory of its own: where this one's lies must not travel along.
        return Rows, (self.x, self.y, self.chosen)

    def __len__(self) -> int:
        return self.count

    @property
    def memory(self) -> tuple[int, int, int]:
        """Where x, the labels as float64, and `chosen` (0 without) begin: for compiled loops.

        An address is good for as long as these rows live.

        Raises
        ------
        TypeError
            If the labels are no numbers.
        """
        if self._memory is None:
            if self.y.dtype.kind not in "iuf":
                raise TypeError(f"labels of type {self.y.dtype}; numbers are needed")
            arrays: list[NDArray[Any]] = [
                np.ascontiguousarray(self.x, np.float32),
                np.ascontiguousarray(self.y, np.float64),
            ]
            if self.chosen is not None:
                arrays.append(np.ascontiguousarray(self.chosen, np.int64))
            x, y, *chosen = map(_address, arrays)
            self._memory = (x, y, chosen[0] if chosen else 0), tuple(arrays)
        return self._memory[0]

    @property
    def moments(self) -> F64:
        """(d + 2, d + 2) mean of z z' with z = (x, 1, y) over the chosen rows."""
        if self._moments is None:
            x, y = self.gathered()
            z = np.column_stack([x.astype(np.float64), np.ones(len(x)), y])
            self._moments = z.T @ z / len(z)
        return self._moments

    def gathered(self) -> tuple[F32, NDArray[Any]]:
        """Return the chosen rows, (r, d), and their labels, (r,): a copy, unless all are meant."""
        if self.chosen is None:
            return self.x, self.y
        return self.x[self.chosen], self.y[self.chosen]


def _address(array: NDArray[Any]) -> int:
    # A third of the time that `ctypes.data` takes.
    return int(array.__array_interface__["data"][0])
