"""Packages that an extra brings, imported where they are used."""

from __future__ import annotations

import os
import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

_OURS = "fedlab-workbench"


def missing(extra: str) -> list[str]:
    """Return what an extra brings that is not installed, by name.

    Raises
    ------
    ValueError
        If there is no such extra.

    Examples
    --------
    >>> missing("llms")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: there is no extra 'llms'; there are ...
    """
    if extra == "flower":  # it has an environment of its own
        return [] if (flower() / "flower-superlink").exists() else ["flwr"]
    extras = metadata(_OURS).get_all("Provides-Extra") or []
    if extra not in extras:
        raise ValueError(f"there is no extra {extra!r}; there are {', '.join(sorted(extras))}")
    asked = [need for need in requires(_OURS) or [] if re.search(f"extra == .{extra}.$", need)]
    return [name for need in asked if not _installed(name := re.split(r"[^\w.-]", need)[0])]


def flower() -> Path:
    """Return where Flower's commands are: that of ``make flower``, or of FEDLAB_FLOWER."""
    place = os.environ.get("FEDLAB_FLOWER") or Path(__file__).resolve().parents[2] / ".venv-flower"
    return Path(place) / "bin"


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


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
