"""How long calls take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Name = TypeVar("Name")


def seconds_in_turn(
    calls: Mapping[Name, Callable[[], object]], times: int = 1
) -> dict[Name, list[float]]:
    """Return the wall time of each call, as often as it was made.

    One is made after another, `times` over, so that a slow spell of the machine meets all alike.
    """
    taken: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(times):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - began)
    return taken
