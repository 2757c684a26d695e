"""Where a run stands: one value, which a round replaces by the next one."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    selection : tree
        What the rule of selection remembers.
    chosen : dict of str to (k,) arrays
        Whom it considered in the last round, by column, and why it chose whom.
    clock : float
        Simulated seconds since the run began.
    traffic : (float, float)
        Bytes that a device received and sent in the last round with updates; at first, the model's.
    flight : dict
        Devices on their way under `FedBuff` or `FedAsync`, and the models that they train on; or
        the models of nodes (see `fedlab.federation.nodes.Nodes`).
    sent : dict of arrays, optional
        Where the server's model travels coded: ``model``, which devices decoded, (p,), and
        ``bytes``, of the differences so far, added up.
    private : dict
        Under differential privacy, how often something was released, and the clip by now; and the
        steps that each device has taken on its rows, by place, (n,).
    """

    round: int
    parameters: Array
    algorithm: Any
    server: Any
    stages: tuple[Any, ...]
    kept: DeviceStates
    has_trained: bool
    history: History
    selection: Any = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)
    clock: float = 0.0
    traffic: tuple[float, float] = (0.0, 0.0)
    flight: dict[str, Any] = field(default_factory=dict)
    sent: dict[str, Array] | None = None
    private: dict[str, Any] = field(default_factory=dict)

    @property
    def served(self) -> Array:
        """(p,) parameters from which devices start."""
        return self.parameters if self.sent is None else self.sent["model"]
