"""What a run's result depended on, as its process noted it, and what of that is different now.

Rerun triggers for code, parameters, input and software environment are those of Snakemake (Mölder
et al., "Sustainable data analysis with Snakemake", F1000Research 2021); here they are observed, not
declared.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

from fedlab.study.forked import code_digest


@dataclass(frozen=True)
class Trace:
    """What a run depended on besides its own source and parameters.

    Attributes
    ----------
    modules : mapping of str to (path, digest)
        Code that it imported and that is of no installed package; comments don't count.
    files : mapping of path to digest
        What it read, and had not written itself.
    distributions : mapping of str to str
        Versions of the installed packages that it imported.
    python : str
    unseen : list of str
        Why more than this may matter: what it started, or read, out of sight.
    """

    modules: Mapping[str, list[str]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    distributions: Mapping[str, str] = field(default_factory=dict)
    python: str = ""
    unseen: list[str] = field(default_factory=list)


class Now:
    """How things stand: digests of files, each read once for as long as it stays as it is."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, bool], tuple[tuple[int, ...], str]] = {}

    def trace(self, told: Mapping[str, Any], inputs: Iterable[str] = ()) -> Trace:
        """Return what a process told, with the digests of what it read.

        Parameters
        ----------
        told : mapping
        inputs : iterable of str
            Files that somebody declares as all that was read out of sight.
        """
        files, unseen = dict[str, str](), list(told["unseen"])
        noted = {name: part for name, part in told.items() if name != "imported"}
        for path, held in told["files"].items():
            files[path] = self.digest(path)
            if list(self._kept[path, False][0] if files[path] else ()) != list(held):
                unseen.append(f"{os.path.basename(path)} changed while it ran")
        if declared := {os.path.realpath(path): self.digest(path) for path in inputs}:
            files, unseen = files | declared, []
        return Trace(**{**noted, "files": files, "unseen": unseen})

    def digest(self, path: str, code: bool = False) -> str:
        """Return a digest of a file's bytes, or of its code; empty if it can't be read."""
        try:
            held = os.stat(path)
            # The time of change is nobody's to set.
            stands = held.st_size, held.st_mtime_ns, held.st_ctime_ns, held.st_ino
            if (path, code) not in self._kept or self._kept[path, code][0] != stands:
                with open(path, "rb") as file:
                    bare = hashlib.file_digest(file, "sha256").hexdigest() if not code else ""
                    made = bare or code_digest(file.read())
                self._kept[path, code] = stands, made
        except OSError:
            return ""
        return self._kept[path, code][1]

    def changed(self, trace: Trace) -> list[str]:
        """Return what is not as it was when a run noted it: each as a reader would call it."""
        found = [
            n for n, (path, held) in trace.modules.items() if self.digest(path, code=True) != held
        ]
        found += [path for path, held in trace.files.items() if self.digest(path) != held]
        for name, held in {"Python": trace.python, **trace.distributions}.items():
            if (now := python_version() if name == "Python" else _version(name)) != held:
                found.append(f"{name} {held} -> {now or 'not installed'}")
        return found


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
