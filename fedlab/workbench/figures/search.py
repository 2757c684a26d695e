"""Figures of the search across devices; as those of `fedlab.workbench.figures`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.ticker import FuncFormatter, NullFormatter

from fedlab.workbench.figures.axes import Drawn, axes_of, beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = ("o", "s", "^", "D", "v", "P")
#: Where a line's points are named: to each line its own side, so that names seldom meet.
_BESIDE = ((0, -18), (-7, 6), (-7, 6), (7, -14))


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
