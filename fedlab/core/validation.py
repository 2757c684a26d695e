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


def plain_array(values: Any, what: str) -> NDArray[Any]:
    """Return values as an array in the machine's own byte order, or raise an error that says why.

    Refused is what has no value: NumPy would take the number that stands under a mask.

    Examples
    --------
    >>> plain_array(np.array([1, 2], ">i4"), "keys").dtype
    dtype('int32')
    >>> plain_array(np.ma.array([1, 999], mask=[False, True]), "keys")
    Traceback (most recent call last):
    ValueError: keys: a masked value was given; fill in or leave out what is missing
    """
    parts = (values, *values) if isinstance(values, list | tuple) else (values,)
    if any(isinstance(part, np.ma.MaskedArray) and np.ma.is_masked(part) for part in parts):
        raise ValueError(f"{what}: a masked value was given; fill in or leave out what is missing")
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{what}: no array can be made of what was given ({error})") from error
    return array.astype(array.dtype.newbyteorder("="), copy=False)


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
