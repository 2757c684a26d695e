"""A device whose rows are at a node: what a server, or another node, knows of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.deploy.messages import Id
from fedlab.device.device import Device
from fedlab.device.profile import Profile


class _IndexElsewhere:
    """An index's form, without a row."""

    def __init__(self, device: Id, dimensions: int, metric: Any) -> None:
        self.dimensions, self.metric, self._device = dimensions, metric, device

    def __getattr__(self, name: str) -> Any:
        # A copy that is being made has no attributes yet.
        where = f"the index of device {self.__dict__.get('_device')!r} is at its node"
        raise AttributeError(f"{where}, and gives no {name} here; ask for it there")


class Remote(Device):
    """A device elsewhere: its name, its numbers, and no row.

    Parameters
    ----------
    id : int or str
    rows, validation_rows : int
        As its node says.
    dimensions : int
    metric : str
    profile : Profile, optional
    contents : str
        What stands for its rows (see `Device.contents`).

    Examples
    --------
    >>> Remote("ward 3", rows=20, dimensions=8, metric="cosine")
    Remote('ward 3': 20 rows of 8 at its node)
    """

    # Device's own __init__ is not called: it takes an index.
    def __init__(
        self,
        id: Id,
        *,
        rows: int,
        dimensions: int,
        metric: Any,
        validation_rows: int = 0,
        profile: Profile | None = None,
        contents: str = "",
    ) -> None:
        self.id, self.profile, self._contents = id, profile or Profile(), contents
        self._rows, self._aside = rows, validation_rows
        self.index: Any = _IndexElsewhere(id, dimensions, metric)

    def __repr__(self) -> str:
        return f"Remote({self.id!r}: {self._rows} rows of {self.index.dimensions} at its node)"

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def validation_rows(self) -> int:
        return self._aside

    @property
    def contents(self) -> str:
        return self._contents

    @property
    def labels(self) -> NDArray[Any]:
        """No label: its node has looked at them."""
        return np.empty(0, np.int64)

    def hold_out(self, share: float, seed: int, groups: ArrayLike | str | None = None) -> Device:
        """Return it as it is: its node holds rows out."""
        return self

    def holding_out(self, keys: ArrayLike) -> Device:
        return self

    def _rows_of(self, part: int) -> Any:
        raise ValueError(f"the rows of device {self.id!r} are at its node; ask for them there")
