"""Figures of a study: its contestants round by round, effects of parameters, and trade-offs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from fedlab.core.validation import one_of
from fedlab.metrics.evenness import Better
from fedlab.metrics.intervals import Interval
from fedlab.study.comparing import pareto
from fedlab.workbench.figures.axes import Drawn, axes_of, beside
from fedlab.workbench.figures.learning import plot_intervals, plot_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_contest(
    frame: pd.DataFrame, by: str, metric: str, *, over: str = "seed", ax: Axes | None = None
) -> Drawn:
    """Draw a metric of the server's by round: contestants' means over seeds, each with a band.

    Parameters
    ----------
    frame : DataFrame
        Of `fedlab.study.load_runs`, or a part of it: a row a measurement.
    by : str
        The parameter whose values are the contestants.
    metric : str
    over : str
        What makes runs independent. Over all other parameters, means are taken first.

    Returns
    -------
    figure, axes, frame
        The frame has a row for each round and seed and a column for each contestant.

    Raises
    ------
    ValueError
        If there is no such metric by round.
    """
    rows = frame[(frame.who == "server") & frame["round"].notna()]
    one_of(metric, sorted(set(rows.metric)), "metric by round")
    rows = rows[rows.metric == metric]
    rows = rows.assign(**{by: rows[by].astype(object).where(rows[by].notna(), "None").map(str)})
    lines = rows.pivot_table("value", ["round", *([over] if over in rows else [])], by)
    label, unit = _axis(metric)
    drawn = (lines / unit).set_axis(lines.index.get_level_values("round").astype(int))
    figure, ax, _ = plot_lines(drawn, xlabel="round", ylabel=label, ax=ax)
    if over in rows and len(rows[over].unique()) > 1:
        each = rows.groupby(by)[over].nunique()
        seeds = " to ".join(sorted({str(each.min()), str(each.max())}, key=int))
        told = f"mean of {seeds} seeds, and Student's 95% interval"
        ax.set_title(told, fontsize=11, fontweight="normal")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, ax, lines.reset_index()


def plot_effects(effects: pd.DataFrame, *, xlabel: str, ax: Axes | None = None) -> Drawn:
    """Draw the mean of each value of each parameter, with its interval, and the share of variance.

    Parameters
    ----------
    effects : DataFrame
        Of `fedlab.study.effects`.
    xlabel : str
        What the metric is, with its unit.
    """
    series: dict[str, dict[str, Interval]] = {}
    for parameter, value, *told, _, share in effects.itertuples(index=False):
        name = f"{parameter}: {share:.0%}"
        series.setdefault(name, {})[f"{parameter} = {value}"] = Interval(*told)
    figure, ax, _ = plot_intervals(series, xlabel=xlabel, ax=ax)
    title = "below: how much of the variance each explains"
    ax.set_title(title, loc="left", fontsize="medium", fontweight="normal")
    return figure, ax, effects


def plot_pareto(
    table: pd.DataFrame, better: Mapping[str, Better], *, over: str = "seed", ax: Axes | None = None
) -> Drawn:
    """Draw two metrics of all settings, and which of these no other one beats.

    Parameters
    ----------
    table : DataFrame
        Of `fedlab.study.finals`.
    better : mapping of metric to {"higher", "lower"}
        The first goes up the figure, the second along it; further ones count, and are not seen.
    over : str
        Means are taken over it.

    Returns
    -------
    figure, axes, frame
        The frame is that of `fedlab.study.candidates`, with ``front``.

    Raises
    ------
    ValueError
        If fewer than two metrics are given.
    """
    if len(better) < 2:
        raise ValueError(f"{list(better)} was given; a trade-off takes two metrics or more")
    figure, ax = axes_of(ax)
    frame, (up, along, *further) = pareto(table, better, over=over, beaten=True), better
    (ylabel, high), (xlabel, wide) = _axis(up), _axis(along)
    drawn = frame.assign(x=frame[along] / wide, y=frame[up] / high).sort_values(["x", "y"])
    beaten, front = drawn[~drawn.front], drawn[drawn.front]
    ax.scatter(beaten.x, beaten.y, color="#8A8A8A", s=28, label="beaten")
    # Of two metrics, what is reached by a point is reached on its worse side, too.
    steps: Any = "steps-post" if better[along] == "lower" else "steps-pre"
    style = "o" if further else "o-"
    ax.plot(front.x, front.y, style, drawstyle=steps, lw=1.2, ms=8, label="not beaten by any")
    settings = [str(name) for name in frame if name not in (*better, "seeds", "front")]
    # Of more points, labels would cover each other; the frame has them.
    for row in front.to_dict("records") if len(front) <= 8 else ():
        said = ", ".join(f"{name} {row[name]}" for name in settings)
        right = row["x"] <= drawn.x.mean()
        beside(ax, said, (row["x"], row["y"]), (8 if right else -8, -12), fontsize=9)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ways = ", ".join(f"{name.replace('_', ' ')} {way}" for name, way in better.items())
    ax.set_title(f"better is: {ways}", fontsize=11, fontweight="normal")
    ax.margins(0.12)
    ax.legend()
    return figure, ax, frame


def _axis(metric: str) -> tuple[str, float]:
    """Return what an axis says of a metric, with its unit, and what one of the unit is."""
    words = "sent and received" if metric == "bytes" else metric.replace("_", " ")
    if "bytes" in metric:
        return f"{words} (MB)", 1e6
    return words + " (s)" * ("seconds" in metric) + " (J)" * ("joules" in metric), 1.0
