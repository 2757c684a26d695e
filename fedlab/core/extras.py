"""Packages that an extra brings, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def imported(module: str, extra: str, who: str) -> Any:
    """Return a module, or raise ImportError with the extra that brings it.

    Examples
    --------
    >>> imported("nowhere.at_all", "there", "this example")
    Traceback (most recent call last):
    ImportError: this example takes nowhere, which is not installed; it comes with the extra 'there\
': pip install -e '.[there]' in the clone (fedlab-workbench[there])
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{who} takes {module.partition('.')[0]}, which is not installed; it comes with the "
            f"extra {extra!r}: pip install -e '.[{extra}]' in the clone (fedlab-workbench[{extra}])"
        ) from error
