"""How far a run is: one bar, drawn by whoever knows where the reader sits.

The core asks for a bar and never for a notebook: `use` lets the workbench put a live widget or
plain log lines in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Bar(Protocol):
    """What draws progress: wraps an iterable and passes its items on."""

    def __call__(self, items: Iterable[T], total: int, label: str) -> Iterable[T]: ...


def _terminal_bar(items: Iterable[T], total: int, label: str) -> Iterable[T]:
    from tqdm import auto, std

    # tqdm's own choice between notebook and terminal; None draws nothing into a log file or a test.
    disable = None if auto.notebook_tqdm is std.tqdm else False
    drawn: Iterable[T] = auto.tqdm(items, total=total, desc=label, disable=disable, leave=False)
    return drawn


_current: Bar = _terminal_bar


def use(draw: Bar) -> None:
    """Draw progress with `draw` from now on, in this process."""
    global _current
    _current = draw


def bar(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Pass `items` on while showing how far they are.

    Parameters
    ----------
    items : iterable
        What is being worked through.
    total : int
        How many there will be at most.
    label : str
        What is going on, in a few words.

    Examples
    --------
    >>> list(bar(range(3), total=3, label="rounds"))
    [0, 1, 2]
    """
    yield from _current(items, total, label)
