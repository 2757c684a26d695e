"""Figures of vectors, and of the search across devices; as those of `fedlab.workbench.figures`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import color_sequences, colormaps
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from fedlab.workbench.figures.axes import Drawn, axes_of, beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = ("o", "s", "^", "D", "v", "P")
#: Where a line's points are named: to each line its own side, so that names seldom meet.
_BESIDE = ((0, -18), (-7, 6), (-7, 6), (7, -14))
#: A legend names so many groups at most.
LEGEND = 20


def plot_recall_bytes(points: pd.DataFrame, *, ax: Axes | None = None) -> Drawn:
    """Draw what ways of searching find against what they send: a line a way, a point a setting.

    Parameters
    ----------
    points : DataFrame
        ``way``, ``setting``, ``recall`` (0 ... 1), ``bytes`` (a query).
    """
    figure, ax = axes_of(ax, (7.0, 4.6))
    for place, (way, part) in enumerate(points.groupby("way", sort=False)):
        line = part.sort_values("bytes")
        [drawn] = ax.plot(
            line.bytes, line.recall, label=str(way), ms=7, marker=_MARKS[place % len(_MARKS)]
        )
        # Where only bytes differ, points lie close together: the cheapest one is named.
        named = line if len(set(line.recall)) > 1 else line.head(1)
        shift, look = _BESIDE[place % len(_BESIDE)], {"color": drawn.get_color(), "fontsize": 10}
        for _, row in named.iterrows():
            beside(ax, str(row.setting), (row.bytes, row.recall), shift, **look)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(_as_bytes))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="bytes a query, both ways, all devices", ylabel="recall of the exact answer")
    ax.set_ylim(min(0.0, points.recall.min()), 1.08)
    ax.margins(x=0.1)
    ax.legend(loc="lower right")
    return figure, ax, points


def _as_bytes(value: float, _: int) -> str:
    return f"{value / 1000:g} kB" if value >= 1000 else f"{value:g} B"


def colours(groups: pd.Series[Any]) -> list[str]:
    """Return a colour for each category; up to ten can be told apart by the colour-blind.

    Source of those: M. A. Petroff: Accessible color sequences for data visualization.
    arXiv:2107.02270, 2021.

    Examples
    --------
    >>> colours(pd.Series(["b", "a", "b"], dtype="category"))
    ['#3f90da', '#ffa90e']
    """
    count, few = len(groups.cat.categories), color_sequences["petroff10"]
    many = colormaps["viridis" if groups.cat.ordered else "turbo"](np.linspace(0.03, 0.97, count))
    named = count <= len(few) and not groups.cat.ordered
    return [to_hex(colour) for colour in (few[:count] if named else many)]


def plot_vectors(points: pd.DataFrame, by: str, *, ax: Axes | None = None) -> Drawn:
    """Draw a map of vectors, coloured by one of its columns.

    Parameters
    ----------
    points : DataFrame
        A row a vector: ``x``, ``y``, and the column `by`, of categories. What the axes are is in
        its ``attrs["axes"]``.
    by : str

    Examples
    --------
    >>> points = pd.DataFrame({"x": [0.0, 1.0], "y": [1.0, 0.0], "label": ["ill", "well"]})
    >>> points.attrs["axes"] = "east", "north"
    >>> figure, axes, frame = plot_vectors(points.astype({"label": "category"}), "label")
    """
    figure, ax = axes_of(ax, (7.0, 5.0))
    palette, groups = colours(points[by]), points[by].cat
    # In pixels: fifty thousand marks of a drawing would take seconds, and megabytes.
    look = {"s": 3 if len(points) > 5_000 else 9, "lw": 0, "alpha": 0.6, "rasterized": True}
    ax.scatter(points.x, points.y, c=np.array(palette)[groups.codes], **look)  # type: ignore[arg-type]
    if len(palette) <= LEGEND:
        dots = [Line2D([], [], ls="", marker="o", ms=5, color=colour) for colour in palette]
        names = [str(name) for name in groups.categories]
        figure.legend(dots, names, loc="outside right upper", title=by, fontsize=9)
    ax.set(xlabel=points.attrs["axes"][0], ylabel=points.attrs["axes"][1])
    return figure, ax, points
