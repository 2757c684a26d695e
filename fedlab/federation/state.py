"""Where a run stands: one value, which a round replaces by the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedlab.core.typing import Array
from fedlab.device.states import DeviceStates
from fedlab.federation.history import History


@dataclass(frozen=True, eq=False)
class RunState:
    """A run between two rounds. A checkpoint holds this, and nothing that a plan has.

    Attributes
    ----------
    round : int
        Rounds done.
    parameters : (p,) array
        Read-only.
    algorithm, server : tree
        What the algorithm and the server optimiser remember.
    stages : tuple of trees
        What each stage remembers.
    kept : DeviceStates
        What devices keep.
    has_trained : bool
        Whether any update has ever come.
    history : History
        Of the rounds done.
    sent : dict of arrays, optional
        Where the server's model travels coded: ``model``, which devices decoded, (p,), and
        ``bytes``, of the differences so far, added up.
    """

    round: int
    parameters: Array
    algorithm: Any
    server: Any
    stages: tuple[Any, ...]
    kept: DeviceStates
    has_trained: bool
    history: History
    sent: dict[str, Array] | None = None

    @property
    def served(self) -> Array:
        """(p,) parameters from which devices start."""
        return self.parameters if self.sent is None else self.sent["model"]
