"""Settings in words that are the same in each process, so that two runs can be told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any

import numpy as np


def described(thing: Any) -> str:
    """Return what a setting is, in words that are the same in each process.

    Examples
    --------
    >>> described(0.5), described(described)
    ('0.5', 'fedlab.core.settings.described')
    """
    if thing is None or isinstance(thing, str | int | float | bool) or is_dataclass(thing):
        return repr(thing)
    if isinstance(thing, Mapping):
        return _digest(f"{key}: {value!r}" for key, value in thing.items())
    if isinstance(thing, np.ndarray):
        return _digest(
            [str(thing.dtype), str(thing.shape), hashlib.sha256(thing.tobytes()).hexdigest()]
        )
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


def _digest(lines: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()
