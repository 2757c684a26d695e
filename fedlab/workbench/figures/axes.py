"""What every figure begins with: axes of its own, or those that were given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib import pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: A figure, its axes, and the frame that holds its data.
Drawn = tuple["Figure", "Axes", pd.DataFrame]


def beside(
    ax: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], **look: Any
) -> None:
    """Write beside a point, which text moved to the left ends at; `shift` is in points."""
    side = "center" if not shift[0] else "left" if shift[0] > 0 else "right"
    ax.annotate(text, at, xytext=shift, textcoords="offset points", ha=side, **look)


def axes_of(ax: Axes | None, size: tuple[float, float] | None = None) -> tuple[Figure, Axes]:
    """Return the figure of given axes, and them; or a new figure of that size in inches."""
    if ax is None:
        return pyplot.subplots(figsize=size)
    return ax.figure, ax  # type: ignore[return-value]
