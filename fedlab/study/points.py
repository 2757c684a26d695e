"""Which values a study gives to parameters: a grid, a list, or draws from ranges."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.validation import whole_number

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included; whole ones if both ends are.

    Parameters
    ----------
    low, high : int or float
    log : bool
        Whether each factor counts alike instead of each difference; ends are above 0 then.

    Raises
    ------
    ValueError
        If the ends are no finite numbers, or `low` is not below `high`.

    Examples
    --------
    >>> Range(0.01, 1, log=True)
    Range(low=0.01, high=1, log=True)
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        ends = (self.low, self.high)
        if not all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
            raise ValueError(f"a range goes from {self.low!r} to {self.high!r}: give two numbers")
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"a range goes from {self.low} to {self.high}: low must be below high"
                f"{' and above 0 on a logarithmic scale' if self.log else ''}"
            )

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, random: np.random.Generator) -> float:
        """Return one of its numbers; each of the whole ones is as likely as its share of length."""
        # A whole number stands for what lies nearest to it.
        half = 0.5 if self.whole else 0.0
        low, high = self.low - half, self.high + half
        if self.log:
            drawn = math.exp(random.uniform(math.log(low), math.log(high)))
        else:
            drawn = random.uniform(low, high)
        return min(max(round(drawn), self.low), self.high) if self.whole else drawn


Space = Mapping[str, Range | Sequence[Any]]


def grid(**values: Iterable[Any]) -> list[Point]:
    """Return all combinations, the last name fastest.

    Examples
    --------
    >>> grid(alpha=[0.1, 1.0], rounds=[5])
    [{'alpha': 0.1, 'rounds': 5}, {'alpha': 1.0, 'rounds': 5}]
    """
    lists = {name: _values(name, given) for name, given in values.items()}
    return [dict(zip(lists, each, strict=True)) for each in itertools.product(*lists.values())]


def drawn(space: Space, count: int, seed: int = 0) -> list[Point]:
    """Return points drawn from ranges and lists; a longer call begins with what a shorter gives.

    Parameters
    ----------
    space : mapping of name to Range or list
    count : int
    seed : int

    Examples
    --------
    >>> points = drawn({"lr": Range(0.01, 1, log=True), "epochs": [1, 5]}, count=2)
    >>> [sorted(point) for point in points]
    [['epochs', 'lr'], ['epochs', 'lr']]
    """
    points = list[Point]()
    for number in range(whole_number(count, "count", 1)):
        point = dict[str, Any]()
        for name, given in space.items():
            random = generator(seed, Purpose.STUDY, device=name, part=number)
            if isinstance(given, Range):
                point[name] = given.draw(random)
            else:
                options = _values(name, given)
                point[name] = options[random.integers(len(options))]
        points.append(point)
    return points


def _values(name: str, given: Any) -> list[Any]:
    such = [given.low, given.high] if isinstance(given, Range) else [given]
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ValueError(f"{name} is {given!r}; give a list of values, such as {such}")
    if not (values := list(given)):
        raise ValueError(f"{name} has no values; give at least one")
    return values
