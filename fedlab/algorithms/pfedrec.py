"""PFedRec: items that are shared, and tuned once more by each user before it uses them."""

from __future__ import annotations

from dataclasses import dataclass

from fedlab.algorithms.base import State
from fedlab.algorithms.shared_parts import FedPer
from fedlab.core.typing import Array, Places
from fedlab.core.validation import positive
from fedlab.device.states import DeviceStates
from fedlab.training.work import Phase, Work


@dataclass(frozen=True)
class PFedRec(FedPer):
    """A device keeps its score function, and predicts with items that it has tuned for itself.

    In a round it first trains what it keeps, then the items. By its paper's code both take turns
    with each batch, here with each pass.

    Parameters
    ----------
    keep : tuple of str
        Names, or patterns, of the user's arrays; by default the last layer.
    epochs : int
        Passes over each of the two.
    items : float
        Step size of the items, by that of the user.

    Source: Zhang et al., "Dual personalization on federated recommendation", IJCAI 2023, algorithm
    1.

    Examples
    --------
    >>> PFedRec(keep=("user*",), items=2.0)
    PFedRec(keep=('user*',), epochs=1, items=2.0)
    """

    epochs: int = 1
    items: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(items=self.items)

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        start, stays = self._filled(state, parameters, places, kept), state["stays"]
        return (
            Phase(
                start, trained=stays, epochs=self.epochs, send=None, keep="own part", stays=stays
            ),
            Phase(trained=~stays, epochs=self.epochs, rate=self.items, stays=stays),
        )

    def serve(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        """Return what a device does in a round: it predicts with where that ends."""
        return self.work(state, parameters, places, kept)
