"""What arguments must be, told in words: the checks that every room makes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
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


def of_kind(value: object, kind: type, name: str) -> None:
    """Raise a TypeError unless a value is an object of a class."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {shown(value)}; give a {kind.__name__}")


def shown(value: object) -> str:
    """Return what was given, briefly: the class of what is large, and a value with its class.

    Examples
    --------
    >>> shown(0.5), shown(np.zeros((2, 3))), shown(int)
    ('0.5 (float)', 'an array of shape (2, 3)', 'the class int')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if value is None:
        return "None"
    short = isinstance(value, str | Real) and len(repr(value)) <= 40
    name = type(value).__name__
    return f"{value!r} ({name})" if short else f"an object of type {name}"


def parts_of(value: Any, parts: str, who: str) -> Any:
    """Return a tuple that somebody's function gave, or say which one is needed.

    Examples
    --------
    >>> parts_of((1, 2), "loss, gradient", "Mine.loss_and_gradient")
    (1, 2)
    """
    if not isinstance(value, tuple) or len(value) != parts.count(",") + 1:
        length = f" of {len(value)}" if isinstance(value, tuple) else ""
        raise TypeError(f"{who} returned {shown(value)}{length}; it must return ({parts})")
    return value


def distinct_names(values: Any, name: str, taken: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return names as a tuple, or say what is wrong with them; `taken` mean something else.

    Examples
    --------
    >>> distinct_names(["label", "age"], "columns")
    ('label', 'age')
    """
    if isinstance(values, str):
        raise TypeError(f"{name} is {values!r}; names go in a list: [{values!r}]")
    names = tuple(values)
    for one in names:
        if not isinstance(one, str) or not one:
            raise TypeError(f"{name} names {shown(one)}; names are text")
        if one in taken:
            raise ValueError(f"{name} names {one!r}, which stands for something else here")
    if len(set(names)) < len(names):
        raise ValueError(f"{name} is {list(names)}; name each once")
    return names


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


def whole_or_none(value: Any, name: str, least: int, most: int | None = None) -> int | None:
    """Return None as it is, and all else as `whole_number` does."""
    return None if value is None else whole_number(value, name, least, most)


def one_of(value: Any, choices: Iterable[Any], name: str) -> None:
    """Raise a ValueError unless a value is one of a few."""
    if value not in (allowed := list(choices)):
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(str, allowed))}")


def number(value: Any, name: str) -> float:
    """Return `value` as a float, or raise a TypeError where it is no number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {shown(value)}; it must be a number")
    return float(value)


def _must(values: Mapping[str, float], good: Callable[[float], bool], must: str) -> None:
    for name, value in values.items():
        if not good(number(value, name)):
            raise ValueError(f"{name} is {value}; it must {must.format(name=name)}")


def positive(**values: float) -> None:
    """Raise, by name, for what is no positive number."""
    _must(values, lambda value: 0 < value < np.inf, "be a positive number")


def not_negative(**values: float) -> None:
    """Raise, by name, for what is neither zero nor a positive number."""
    _must(values, lambda value: 0 <= value < np.inf, "be zero or positive")


def at_most_one(**values: float) -> None:
    """Raise, by name, for what does not lie in (0, 1]."""
    _must(values, lambda value: 0 < value <= 1, "be above 0 and at most 1")


def below_one(**values: float) -> None:
    """Raise, by name, for what does not lie in [0, 1)."""
    _must(values, lambda value: 0 <= value < 1, "be at least 0 and below 1")


def share_of_one(**values: float) -> None:
    """Raise, by name, for what does not lie in [0, 1]."""
    _must(values, lambda value: 0 <= value <= 1, "lie in 0 ... 1")


def proportion(**values: float) -> None:
    """Raise, by name, for what does not lie between 0 and 1, both left out; percents don't."""
    _must(values, lambda value: 0 < value < 1, "lie between 0 and 1, as in {name}=0.95")


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
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


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
