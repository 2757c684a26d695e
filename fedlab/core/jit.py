"""What numba compiles: said when it begins, and forgotten on disk when it is out of date."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any


@contextmanager
def announced(what: str, seconds: str) -> Iterator[None]:
    """Within this context, compiling is announced on standard error, once in a process."""
    from numba.core import event

    with event.install_listener("numba:compile", _listener(what, seconds)):
        yield


def forget_stale(entries: Iterable[Any], sources: Iterable[ModuleType]) -> None:
    """Remove what numba keeps on disk of some functions, if it is older than other sources.

    numba knows the age of the file in which a function stands, not of those that it calls into.

    Parameters
    ----------
    entries : iterable of compiled functions
    sources : iterable of modules
        Where functions stand that are compiled into them.
    """
    newest = max(Path(str(module.__file__)).stat().st_mtime_ns for module in sources)
    for entry in entries:
        function = entry.py_func
        name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}-*.nbi"
        for index in Path(entry.stats.cache_path).glob(name):
            if index.stat().st_mtime_ns < newest:
                index.unlink(missing_ok=True)


@cache
def _listener(what: str, seconds: str) -> Any:
    from numba.core import event

    class Announcement(event.Listener):
        said = False

        def on_start(self, event: Any) -> None:
            if not self.said:
                self.said = True
                print(
                    f"fedlab: compiling {what} for this machine, once ({seconds} s)",
                    file=sys.stderr,
                    flush=True,
                )

        def on_end(self, event: Any) -> None:
            """Nothing more is said."""

    return Announcement()
