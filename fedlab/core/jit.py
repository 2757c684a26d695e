"""What numba compiles: kept on disk where it can be, and not when out of date; said when it begins.

Where nothing can be written (a read-only installation without a home folder, a full disk), each
process compiles anew, in memory; ``NUMBA_CACHE_DIR`` names a folder that can be written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

#: Of functions that compiled ones alone call: they need no way in from Python, nor a place on disk.
INNER = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def compiled(sources: Iterable[ModuleType] = (), **options: Any) -> Callable[[Any], Any]:
    """Return a decorator for functions that Python calls: compiled when used, and kept on disk.

    Parameters
    ----------
    sources : iterable of modules
        Where functions stand that are compiled into it, besides its own: numba knows the age of
        that one alone.
    **options
        What `numba.njit` takes, but for ``cache``.
    """
    stamps = [_stamp(module) for module in sources]

    def decorate(function: Any) -> Any:
        from numba import njit

        dispatcher = njit(**{"nogil": True, "no_cfunc_wrapper": True, **options})(function)
        try:
            dispatcher._cache = _kept()(function, stamps)
        except RuntimeError as error:
            if "no locator" not in str(error):
                raise
            _say_unkept("no folder of its own that can be written")
        return dispatcher

    return decorate


@contextmanager
def announced(what: str, seconds: str) -> Iterator[None]:
    """Within this context, compiling is announced on standard error, once in a process."""
    from numba.core import event

    with event.install_listener("numba:compile", _listener(what, seconds)):
        yield


def _stamp(module: ModuleType) -> tuple[int, int]:
    known = Path(str(module.__file__)).stat()
    return known.st_mtime_ns, known.st_size


@cache
def _kept() -> Any:
    caching: Any = import_module("numba.core.caching")

    class Kept(caching.FunctionCache):  # type: ignore[misc]
        def __init__(self, function: Any, stamps: list[tuple[int, int]]) -> None:
            super().__init__(function)
            own, path = self._impl.locator.get_source_stamp(), self._impl.filename_base
            self._cache_file = caching.IndexDataCacheFile(self.cache_path, path, (own, stamps))

        @contextmanager
        def _guard_against_spurious_io_errors(self) -> Iterator[None]:
            try:
                yield
            except OSError as error:
                _say_unkept(str(error))

    return Kept


@cache
def _say_unkept(why: str) -> None:
    print(
        f"fedlab: what numba compiles can't be kept ({why}): each process compiles anew, unless "
        "NUMBA_CACHE_DIR names a folder that can be written",
        file=sys.stderr,
        flush=True,
    )


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
