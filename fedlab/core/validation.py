"""What arguments must be, told in words: the checks that every room makes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def require(thing: object, what: str, *members: str) -> None:
    """Refuse what is not an object with these members."""
    if isinstance(thing, type):
        raise TypeError(
            f"{what} is the class {thing.__name__}; give an object: {thing.__name__}(...)"
        )
    missing = [name for name in members if not hasattr(thing, name)]
    if missing:
        raise TypeError(
            f"{what} of type {type(thing).__name__} was given, which has no {', '.join(missing)}; "
            f"needed are {', '.join(members)}"
        )


def whole_number(value: Any, name: str, least: int, most: int | None = None) -> int:
    """Return `value` as an int within bounds, or say what is allowed.

    Examples
    --------
    >>> whole_number(np.int64(3), "k", 1)
    3
    """
    upper = "" if most is None else f" and at most {most}"
    allowed = f"a whole number of at least {least}{upper}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); it must be {allowed}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{name} is {value}; it must be {allowed}")
    return int(value)


def positive(**values: float) -> None:
    """Raise a ValueError, by name, for what is no positive number."""
    for name, value in values.items():
        if not 0 < value < np.inf:
            raise ValueError(f"{name} is {value}; it must be a positive number")


def not_negative(**values: float) -> None:
    """Raise a ValueError, by name, for what is neither zero nor a positive number."""
    for name, value in values.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} is {value}; it must be zero or positive")


def below_one(**values: float) -> None:
    """Raise a ValueError, by name, for what does not lie in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 0 and below 1")


def share(**values: float) -> None:
    """Raise a ValueError, by name, for what does not lie between 0 and 1; percents don't."""
    for name, value in values.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}; it must lie between 0 and 1, as in {name}=0.95")


def known(name: str, names: Iterable[str], what: str) -> str:
    """Return a name as it is known, in small letters, or say which there are.

    Examples
    --------
    >>> known("FedProx", ["fedavg", "fedprox"], "algorithm")
    'fedprox'
    """
    there = list(names)
    if name.lower() not in there:
        close = difflib.get_close_matches(name.lower(), there, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"no {what} is called {name!r}{hint}; there are {', '.join(there)}")
    return name.lower()


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that can't be written through; the array itself is left as it was.

    Examples
    --------
    >>> read_only(np.zeros(2)).flags.writeable
    False
    """
    view = array.view()
    view.flags.writeable = False
    return view
