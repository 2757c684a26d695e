"""Names whose modules are not the same in all trees."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

Parts = Iterator[tuple[str, Any]]


def found(name: str, *modules: str) -> Any:
    """Return what the first of some modules that has it calls `name`.

    Raises
    ------
    ImportError
        If none of them has it; what was wrong with each is said.
    """
    wrong = []
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            wrong.append(str(error))
    raise ImportError(f"no {name}: {'; '.join(wrong)}")


def framed(thing: Any) -> Any:
    """Return a frame of a history or ledger, whose method had another name before."""
    return thing.to_frame() if hasattr(thing, "to_frame") else thing.frame()
