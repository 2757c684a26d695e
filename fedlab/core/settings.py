"""Settings in words that are the same in each process, so that two runs can be told apart."""

from __future__ import annotations

import copyreg
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any

import numpy as np

_PLAIN = (str, bytes, int, float, complex, type(None), type(...))


def described(thing: Any, name: str = "this") -> str:
    """Return what a setting is, with all it is made of, in words that are the same in each process.

    Dataclasses are told by their fields, other objects by what pickle would keep of them, functions
    by their code and what it closes over, arrays by a digest. An object with a ``__described__()``
    is told by what that returns.

    Parameters
    ----------
    thing : object
    name : str
        What it is called in an error.

    Raises
    ------
    TypeError
        If there is no telling it from another one of its class.

    Examples
    --------
    >>> described(0.5), described([np.float64(0.5), int])
    ('0.5', '[0.5, builtins.int]')
    """
    try:
        return _told(thing)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"{name} of class {type(thing).__name__} can't be told from another one ({error}), so "
            "that its run can't be saved: make it a dataclass of numbers, text and arrays, or give "
            "it a __getstate__ that returns such"
        ) from error


def _told(thing: Any) -> str:
    if isinstance(thing, np.generic):
        return _told(thing.item())
    if isinstance(thing, _PLAIN):
        return repr(thing)
    if isinstance(thing, list | tuple):
        return "[" + ", ".join(map(_told, thing)) + "]"
    if isinstance(thing, set | frozenset):
        return "{" + ", ".join(sorted(map(_told, thing))) + "}"
    if isinstance(thing, Mapping):
        pairs = sorted(f"{_told(key)}: {_told(value)}" for key, value in thing.items())
        return "{" + ", ".join(pairs) + "}" if len(pairs) < 10 else _digest(pairs)
    if isinstance(thing, np.ndarray):
        objects = thing.dtype.hasobject
        content = _told(thing.tolist()).encode() if objects else thing.tobytes()
        return _digest([thing.dtype.str, str(thing.shape), hashlib.sha256(content).hexdigest()])
    if isinstance(thing, type | BuiltinFunctionType | np.ufunc):
        return f"{getattr(thing, '__module__', 'numpy')}.{thing.__name__}"
    if isinstance(thing, CodeType):
        return _told(_coded(thing))
    if isinstance(thing, FunctionType):
        closed = [cell.cell_contents for cell in thing.__closure__ or ()]
        code = _told([thing.__code__, closed, thing.__defaults__, thing.__kwdefaults__])
        return f"{thing.__module__}.{thing.__qualname__} {_digest([code])}"
    if hasattr(type(thing), "__described__"):
        return f"{type(thing).__qualname__}({_told(thing.__described__())})"
    if is_dataclass(thing):
        # What it set besides its fields may be what it remembers.
        names = {part.name: None for part in fields(thing)} | _lasting(
            thing, getattr(thing, "__dict__", {})
        )
        told = [f"{name}={_told(getattr(thing, name))}" for name in names]
        return f"{type(thing).__qualname__}({', '.join(told)})"
    return _told_as_pickled(thing)


def _told_as_pickled(thing: Any) -> str:
    kind = type(thing)
    known = copyreg.dispatch_table.get(kind)
    pickled = known(thing) if known else thing.__reduce_ex__(4)
    if isinstance(pickled, str):
        return f"{kind.__module__}.{pickled}"
    function, given, *rest = pickled
    # State, and the items of what is a list or dict of its own kind.
    state, *items = rest or [None]
    if isinstance(state, dict):
        state = _lasting(thing, state)
    held = [state, *(list(part) for part in items if part is not None)]
    if function is copyreg.__newobj__ and given == (kind,):  # type: ignore[attr-defined]
        words = [_told(part) for part in held if part is not None]
        return f"{kind.__qualname__}({', '.join(words)})"
    return f"{kind.__qualname__}({_told([function, list(given), *held])})"


def _lasting(thing: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Return an object's attributes without what is derived when it is first asked for."""
    kind = type(thing)
    derived = [name for name in state if isinstance(getattr(kind, name, None), cached_property)]
    return {name: value for name, value in state.items() if name not in derived}


def _coded(code: CodeType) -> list[Any]:
    constants = [_coded(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    return [code.co_code, constants, code.co_names]


def _digest(lines: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()
