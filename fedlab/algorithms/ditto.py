"""Ditto: a model for each device, pulled towards the one that all learn together."""

from __future__ import annotations

from dataclasses import dataclass

from fedlab.algorithms.base import State, Stateless
from fedlab.core.typing import Array, Places
from fedlab.core.validation import not_negative, whole_or_none
from fedlab.device.states import DeviceStates
from fedlab.training.work import Phase, Work


@dataclass(frozen=True)
class Ditto(Stateless):
    """Devices train the server's model as FedAvg does, and one of their own, v_k, which stays.

    v_k minimises ``F_k(v) + lam / 2 |v - x|^2``, with x the model that the device was sent; it
    starts where it ended the last time, and at x the first time.

    Parameters
    ----------
    lam : float
        Strength of the pull: 0 learns alone.
    epochs : int, optional
        Passes for v_k in a round, if not as many as for the server's model.

    Source: Li et al., "Ditto: fair and robust federated learning through personalization", ICML
    2021, algorithm 1.

    Examples
    --------
    >>> Ditto(lam=0.5)
    Ditto(lam=0.5, epochs=None)
    """

    lam: float = 0.1
    epochs: int | None = None

    def __post_init__(self) -> None:
        not_negative(lam=self.lam)
        whole_or_none(self.epochs, "epochs", 1)

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        return Phase(parameters), self._own(parameters, places, kept)

    def _own(self, parameters: Array, places: Places, kept: DeviceStates) -> Phase:
        return Phase(
            kept.rows("own", places, parameters),
            own=True,
            mu=self.lam,
            anchor=parameters,
            epochs=self.epochs,
            send=None,
            keep="own",
        )

    def serve(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        """Return one more pass of v_k under the pull: a device's first, if it never took part."""
        return self._own(parameters, places, kept)
