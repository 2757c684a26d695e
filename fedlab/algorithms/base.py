"""What an algorithm is: hyper-parameters, an initial state, local work, and the server's step."""

from __future__ import annotations

from typing import Any, Protocol

from fedlab.core.typing import Array, Places
from fedlab.training.work import Work
from fedlab.updates.returned import Returned

__all__ = ["Algorithm", "Stateless"]

State = Any


class Algorithm(Protocol):
    """A frozen dataclass of hyper-parameters with these three methods."""

    def init(self, parameters: Array, devices: int) -> State:
        """Return the state before the first round, such as a checkpoint holds.

        Arrays, numbers, text, None, and lists and dicts of them; keys are text or whole numbers.
        """

    def work(self, state: State, parameters: Array, places: Places) -> Work:
        """Describe what the devices at `places` do this round."""

    def step(self, state: State, parameters: Array, returned: Returned) -> tuple[Array, State]:
        """Return the server's next parameters, float64, and the next state; neither in place."""


class Stateless:
    """An algorithm that remembers nothing, lets devices train plainly, and averages."""

    def init(self, parameters: Array, devices: int) -> State:
        return {}

    def work(self, state: State, parameters: Array, places: Places) -> Work:
        return Work(parameters)

    def step(self, state: State, parameters: Array, returned: Returned) -> tuple[Array, State]:
        return parameters + returned.average, state
