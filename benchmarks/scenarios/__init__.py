"""What `benchmarks.bits` compares between two trees: small runs and searches, each from a seed.

A scenario yields parts: what its seed promises to the last bit. It runs with either tree's
`fedlab`, so names whose modules move are taken from where a tree has them (`moved.found`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from . import learning, searching
from .moved import Parts, found

__all__ = ["found", "scenarios"]


def scenarios(threads: Sequence[int]) -> dict[str, Callable[[], Parts]]:
    """Return all of them by name; what works on threads does so on each of these numbers."""
    made: dict[str, Callable[[], Parts]] = {}
    for name, train in learning.scenarios().items():
        for count in threads:
            made[f"{name} | auto, {_threads(count)}"] = partial(train, "auto", count)
        made[f"{name} | plain"] = partial(train, "plain", None)
    for name, search in searching.threaded().items():
        for count in threads:
            made[f"{name} | {_threads(count)}"] = partial(search, count)
    others: dict[str, Any] = searching.scenarios()
    return made | others


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"
