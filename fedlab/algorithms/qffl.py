"""q-FFL: devices on which the model does badly count more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from fedlab.algorithms.base import Reported, State, Stateless
from fedlab.core.typing import F64, Array, Places
from fedlab.core.validation import not_negative
from fedlab.device.states import DeviceStates
from fedlab.models.base import Model, measures_of
from fedlab.training.local import LocalSGD
from fedlab.training.work import Phase, Work
from fedlab.updates.sent import Updates


def loss_at_start(model: Model, start: Array, end: Array, x: Array, y: Array) -> dict[str, Any]:
    """Return a device's loss under the model that it was sent."""
    return {"loss_at_start": measures_of(model, start, x, y)["loss"]}


@dataclass(frozen=True)
class QFFL(Stateless):
    """The server minimises ``sum_k F_k^(q + 1) / (q + 1)``, so that losses become more even.

    With L = 1 / eta and g_k = L (x - y_k), device k sends F_k^q g_k and
    ``h_k = q F_k^(q - 1) |g_k|^2 + L F_k^q``, where F_k is its loss at the model that it was sent;
    the server steps by -sum_k F_k^q g_k / sum_k h_k. All devices are weighed alike.

    Parameters
    ----------
    q : float
        0 is the unweighted mean; the larger, the more the worst devices count.

    Notes
    -----
    eta is the step size of local training, as in the paper. Only sums reach the server.

    Source: Li et al., "Fair resource allocation in federated learning", ICLR 2020, algorithm 2
    (q-FedAvg).

    Examples
    --------
    >>> QFFL(q=1.0)
    QFFL(q=1.0)
    """

    q: float = 1.0

    weights: ClassVar[Literal["uniform"]] = "uniform"

    def __post_init__(self) -> None:
        not_negative(q=self.q)

    def check(self, local: LocalSGD) -> None:
        if local.momentum:
            raise ValueError(
                f"QFFL was given with LocalSGD(momentum={local.momentum}): its step size 1 / L is "
                "that of plain steps; leave momentum out"
            )

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        return Phase(parameters, observe=loss_at_start)

    def report(self, state: State, sent: Updates, kept: DeviceStates) -> Reported:
        change = sent.blocks["change"]
        # Losses of zero would give 0 / 0 for q < 1; the reference code shifts them likewise.
        loss, lipschitz = sent.stats["loss_at_start"] + 1e-10, 1 / sent.stats["rate"]
        scale = loss**self.q
        square = lipschitz**2 * np.square(change, dtype=np.float64).sum(axis=1)
        h = self.q * loss ** (self.q - 1) * square + lipschitz * scale
        blocks = {
            **sent.blocks,
            "change": ((scale * lipschitz)[:, None] * change).astype(change.dtype),
            "h": h[:, None],
        }
        return replace(sent, blocks=blocks), kept

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        return means["change"] / means["h"][0], state
