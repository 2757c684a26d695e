"""What an algorithm is: local work, what devices report of it, and what the server learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fedlab.core.typing import F64, Array, Places
from fedlab.device.states import DeviceStates
from fedlab.models.base import Layout
from fedlab.training.local import LocalSGD
from fedlab.training.work import Phase, Work
from fedlab.updates.sent import Updates

State = Any
#: What devices send, and what they keep.
Reported = tuple[Updates, DeviceStates]


class Algorithm(Protocol):
    """A frozen dataclass of hyper-parameters with these five methods.

    A class attribute ``weights = "uniform"`` says that it weighs all devices alike, whatever rows
    they have; ``reads = ("places", "loss")`` that the server needs these numbers of each single
    device, which `learn` then finds among the means, (m,); and ``"parameters"`` that it needs the
    server's model. An algorithm that personalises has a
    sixth method, ``serve(state, parameters, places, kept)``: the work by which devices make the
    model that they predict with. How the server moves along what was learned is no matter of an
    algorithm: see `fedlab.updates.optimisers`.
    """

    def check(self, local: LocalSGD) -> None:
        """Raise a ValueError where the algorithm would be wrong under such local training."""

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        """Return the server's state before the first round, such as a checkpoint holds.

        Arrays, numbers, text, None, and lists and dicts of them; keys are text or whole numbers.

        Parameters
        ----------
        parameters : (p,) array
            The model's start.
        devices : int
            How many there are.
        layout : Layout
            Names and shapes within the parameters.
        """

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        """Describe what the devices at `places` do this round."""

    def report(self, state: State, sent: Updates, kept: DeviceStates) -> Reported:
        """Return what devices make of their local work: what they send, and what they keep.

        It computes on the devices' side, a row at a time: no device's row depends on another's.
        """

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        """Return the change that the server steps along, (p,), and the next state; not in place.

        Parameters
        ----------
        state : tree
        means : mapping of str to arrays
            The aggregate of each block, (n,), and the weighted mean of each stat that `report`
            added, ().
        devices : int
            How many updates entered them.
        """


class Stateless:
    """An algorithm that remembers nothing, lets devices train plainly, and takes the average."""

    def check(self, local: LocalSGD) -> None:
        """Any local training will do."""

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        return {}

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        return Phase(parameters)

    def report(self, state: State, sent: Updates, kept: DeviceStates) -> Reported:
        return sent, kept

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        return means["change"], state
