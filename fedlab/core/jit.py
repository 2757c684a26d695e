"""Say so, once, when numba begins to compile rather than finds its work on disk."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["announced"]


@contextmanager
def announced(what: str, seconds: str) -> Iterator[None]:
    """Within this context, compiling is announced on standard error, once in a process."""
    from numba.core import event

    with event.install_listener("numba:compile", _listener(what, seconds)):
        yield


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
