"""Items that a user did not choose, drawn on the device: a recommender ranks them below."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlab.core.validation import whole_number
from fedlab.device.device import Device
from fedlab.device.rows import Rows
from fedlab.training.choice import Given


@dataclass(frozen=True)
class Negatives:
    """A rule of ``rows=``: with a device's items, labelled 1, some that it lacks, labelled 0.

    They are drawn anew in each round, at the device's address, with replacement: the server knows
    nothing of them.

    Parameters
    ----------
    items : int
        How many there are; a row is the number of one.
    each : int
        So many for each training row.
    spare_held_out : bool
        Whether items that are held out are never drawn. No device knows what its user will choose
        next; but papers spare them, which tells a model where the answer is not.

    Examples
    --------
    >>> from fedlab.index.vectorindex import VectorIndex
    >>> from fedlab.models import MatrixFactorisation
    >>> from fedlab.training.choice import Chosen
    >>> index = VectorIndex(1, "l2sq")
    >>> _ = index.add([[0.0], [1.0]], labels=[1, 1])
    >>> device = Device("ann", index)
    >>> given = MatrixFactorisation(items=3), None, {"seed": 0, "round": 1, "part": 0}
    >>> x, y = Chosen(device, Negatives(items=3, each=2), *given).training()
    >>> x.ravel(), y
    (array([0., 1., 2., 2., 2., 2.], dtype=float32), array([1, 1, 0, 0, 0, 0]))
    """

    items: int
    each: int = 4
    spare_held_out: bool = False

    def __post_init__(self) -> None:
        whole_number(self.items, "items", 1)
        whole_number(self.each, "each", 1)

    def choose(self, device: Device, given: Given) -> Rows:
        x, y = device.training()
        known = device.index.vectors if self.spare_held_out else x
        free = np.ones(self.items, np.bool_)
        free[given.model.places(known)] = False  # type: ignore[attr-defined]
        others = np.flatnonzero(free).astype(np.float32)
        if not len(others):
            raise ValueError(f"it has all {self.items} items, so there is none to draw")
        drawn = others[given.draw.integers(len(others), size=self.each * len(x))]
        labels = np.concatenate([y, np.zeros(len(drawn), y.dtype)])
        return Rows(np.concatenate([x, drawn[:, None]]), labels)
