"""Figures of the workbench.

Each function draws on given axes or on a figure of its own, and returns ``(figure, axes, frame)``:
the frame holds the figure's data. Nothing is shown here; `notebook.cells.show` does that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from matplotlib import pyplot
from matplotlib.colors import PowerNorm
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedlab.device.profile import HOUR
from fedlab.federation.history import History
from fedlab.metrics.intervals import Interval, mean_interval
from fedlab.workbench.figures.axes import Drawn, axes_of, beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Runs = Mapping[str, History | Sequence[History]]

_X = {
    "round": ("round", 1.0),
    "bytes": ("sent and received (MB)", 1e6),
    "seconds": ("simulated time (s)", 1.0),
}


def convergence_frame(runs: Runs, metric: str, x: str = "round") -> pd.DataFrame:
    """Return one measure of several runs as a tidy frame: run, seed, x, value."""
    parts = []
    for name, histories in runs.items():
        several = [histories] if isinstance(histories, History) else list(histories)
        for number, history in enumerate(several):
            wide = history.wide()
            if metric not in wide:
                raise KeyError(f"no {metric!r} in the run {name!r}; there are {list(wide)}")
            bytes_moved = (wide.bytes_down + wide.bytes_up).cumsum()
            at = {"round": wide.index, "bytes": bytes_moved, "seconds": wide.seconds.cumsum()}[x]
            columns = {"run": name, "seed": number, x: np.asarray(at), "value": wide[metric]}
            parts.append(pd.DataFrame(columns).dropna())  # it may not be measured in each round
    return pd.concat(parts, ignore_index=True)


def plot_convergence(
    runs: Runs,
    metric: str,
    *,
    x: Literal["round", "bytes", "seconds"] = "round",
    ylabel: str | None = None,
    reference: tuple[str, float] | None = None,
    ax: Axes | None = None,
) -> Drawn:
    """Draw a measure as runs go on: a line each; of several seeds, their mean and a band.

    Parameters
    ----------
    runs : mapping of name to History, or to Histories of several seeds
    metric : str
        A measure of the server's, such as ``test_accuracy``.
    x : {"round", "bytes", "seconds"}
        Rounds, bytes moved so far, or simulated seconds so far.
    ylabel : str, optional
        What the measure is, with its unit.
    reference : (name, value), optional
        A level to compare with, drawn as a dashed line.

    Notes
    -----
    The band is Student's 95% interval for the mean over seeds, at each round; or at the same bytes
    or seconds, which seeds reach in different rounds. What takes long is told in hours.
    """
    figure, ax = axes_of(ax)
    frame = convergence_frame(runs, metric, x)
    label, unit = _X[x]
    if x == "seconds" and frame[x].max() > 2 * HOUR:
        label, unit = "simulated time (h)", HOUR
    for name, run in frame.groupby("run", sort=False):
        run = run if x == "round" else _at_the_same(run, x)
        steps = run.groupby("seed").cumcount()
        at = run.groupby(steps)[x].mean() / unit
        values = run.groupby(steps).value
        [line] = ax.plot(at, values.mean(), label=str(name))
        if len(run.seed.unique()) > 1:
            bands = [mean_interval(v) for _, v in values if len(v) > 1]
            low, high = [b.low for b in bands], [b.high for b in bands]
            ax.fill_between(at[: len(bands)], low, high, color=line.get_color(), alpha=0.18, lw=0)
    if reference is not None:
        _draw_level(ax, reference)
    ax.set(xlabel=label, ylabel=ylabel or metric.replace("_", " "))
    if metric.endswith("accuracy"):  # a band of few seeds may reach where no accuracy can be
        bottom, top = ax.get_ylim()
        ax.set_ylim(max(bottom, 0.0), min(top, 1.02))
    if x == "round":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if len(runs) > 1 or reference is not None:
        ax.legend()
    return figure, ax, frame


def _at_the_same(run: pd.DataFrame, x: str) -> pd.DataFrame:
    """Return a run's seeds at the same bytes or seconds, by straight lines between rounds."""
    seeds = dict(list(run.groupby("seed")))
    if len(seeds) < 2:
        return run
    first = max(s[x].iloc[0] for s in seeds.values())
    last = min(s[x].iloc[-1] for s in seeds.values())
    at = np.linspace(first, last, 200)
    return pd.concat(
        pd.DataFrame({"seed": n, x: at, "value": np.interp(at, s[x], s.value)})
        for n, s in seeds.items()
    )


def _draw_level(ax: Axes, reference: tuple[str, float]) -> None:
    ax.axhline(reference[1], color="#4D4D4D", ls="--", lw=1.3, label=reference[0])


def plot_panels(
    groups: Mapping[str, Runs], metric: str, **settings: Any
) -> tuple[Figure, list[Axes], pd.DataFrame]:
    """Draw a measure of many runs side by side, a panel a group, each as in `plot_convergence`.

    Parameters
    ----------
    groups : mapping of panel title to runs
    metric : str
    **settings
        Of `plot_convergence`, such as ``x=`` or ``ylabel=``.
    """
    size = (4.6 * len(groups), 4.2)
    figure, grid = pyplot.subplots(1, len(groups), figsize=size, sharey=True, squeeze=False)
    panels, frames = list(grid[0]), []
    for title, axes in zip(groups, panels, strict=True):
        _, _, frame = plot_convergence(groups[title], metric, **settings, ax=axes)
        axes.set_title(title, fontsize=11)
        axes.label_outer()
        frames.append(frame)
    return figure, panels, pd.concat(frames, ignore_index=True)


def plot_lines(
    lines: pd.DataFrame,
    *,
    xlabel: str,
    ylabel: str,
    log: bool | Literal["x"] = False,
    ax: Axes | None = None,
) -> Drawn:
    """Draw a line for each column against the frame's index.

    Where the index repeats, as over seeds, it is their mean, with Student's 95% interval as a band.
    `log` scales both axes, or the x axis alone, with the index's values as its ticks.
    """
    figure, ax = axes_of(ax)
    several, at = not lines.index.is_unique, lines.groupby(level=0)
    drawn = at.mean() if several else lines
    drawn.plot(ax=ax, xlabel=xlabel, ylabel=ylabel, loglog=log is True)
    if not log and pd.api.types.is_integer_dtype(drawn.index):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log == "x":
        ax.set_xscale("log")
        ax.set_xticks(drawn.index, [f"{value:g}" for value in drawn.index])
        ax.minorticks_off()
    if several:
        for name, line in zip(lines, ax.get_lines()[-lines.shape[1] :], strict=True):
            told = [(x, mean_interval(v.dropna())) for x, v in at[str(name)] if v.count() > 1]
            where: Any = [x for x, _ in told]
            low, high = [i.low for _, i in told], [i.high for _, i in told]
            ax.fill_between(where, low, high, color=line.get_color(), alpha=0.18, lw=0)
    return figure, ax, lines


def plot_splits(splits: Mapping[str, pd.DataFrame]) -> tuple[Figure, list[Axes], pd.DataFrame]:
    """Draw each device's mixture of labels, a panel a split: darker for a larger share.

    Parameters
    ----------
    splits : mapping of title to DataFrame
        A row a device, a column a label (see `fedlab.data.label_table`).

    Returns
    -------
    figure, list of axes, frame
        The frame holds the shares of all splits, by title and device; a device's sum to one.
    """
    figure, grid = pyplot.subplots(
        1, len(splits), figsize=(max(7.0, 2.6 * len(splits)), 3.2), sharey=True, squeeze=False
    )
    panels, shares = list(grid[0]), {}
    # The square root keeps small shares apart from none.
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    for ax, (title, counts) in zip(panels, splits.items(), strict=True):
        shares[title] = counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
        mesh = ax.pcolormesh(
            shares[title].T, cmap="Blues", norm=norm, edgecolors="white", linewidth=0.6
        )
        ax.set(title=title, xlabel="device", ylabel="label")
        ax.set_yticks(np.arange(counts.shape[1]) + 0.5, [*map(str, counts.columns)])
        every = -(-len(counts) // 5)
        ax.set_xticks(np.arange(len(counts))[::every] + 0.5, [*map(str, counts.index[::every])])
        ax.grid(visible=False)
        ax.label_outer()
    ticks = [0, 0.1, 0.25, 0.5, 1]
    figure.colorbar(mesh, ax=panels, label="share of the device's rows", ticks=ticks, pad=0.02)
    return figure, panels, pd.concat(shares)


def plot_counts(counts: pd.DataFrame, *, ylabel: str = "rows", ax: Axes | None = None) -> Drawn:
    """Draw stacked bars with their numbers: a bar for each row of the frame, a part a column."""
    figure, ax = axes_of(ax)
    counts.plot.bar(ax=ax, stacked=True, rot=0, width=0.62, xlabel="", ylabel=ylabel)
    highest = counts.sum(axis=1).max()
    bars: list[Any] = list(ax.patches)
    for bar in bars:
        left, bottom, width, height = bar.get_x(), bar.get_y(), bar.get_width(), bar.get_height()
        # A number that does not fit into its part stands beside it.
        fits = height >= 0.06 * highest
        at = left + width * (0.5 if fits else 1.05), bottom + height / 2
        look = {"color": "white", "ha": "center"} if fits else {"color": "#222222", "ha": "left"}
        ax.annotate(f"{height:.0f}", at, va="center", fontsize=10, **look)  # type: ignore[arg-type]
    ax.set_ylim(0, 1.18 * highest)
    ax.grid(axis="x", visible=False)
    ax.legend(ncols=len(counts.columns), loc="upper right")
    return figure, ax, counts


def plot_intervals(
    intervals: Mapping[str, Mapping[str, Interval]],
    *,
    xlabel: str,
    zero: str | None = None,
    ax: Axes | None = None,
) -> Drawn:
    """Draw estimates with their intervals: a row for each name, a colour for each series.

    Parameters
    ----------
    intervals : mapping of series to mapping of name to Interval
    xlabel : str
        What is estimated, with its unit.
    zero : str, optional
        What lies right of zero ("federated is better"); draws a line at zero.
    """
    every = [name for series in intervals.values() for name in series]
    names, entries = list(dict.fromkeys(every)), []
    figure, ax = axes_of(ax, (7.0, 1.3 + 0.34 * len(every)))
    for number, (series, by_name) in enumerate(intervals.items()):
        # Series stand side by side only where they have names in common.
        shift = (number - (len(intervals) - 1) / 2) * 0.22 * (len(every) > len(names))
        at = [names.index(name) + shift for name in by_name]
        told = np.array([(i.low, i.estimate, i.high) for i in by_name.values()])
        low, middle, high = told.reshape(-1, 3).T
        ax.errorbar(middle, at, xerr=(middle - low, high - middle), fmt="o", label=series, lw=1.8)
        entries += [(series, n, i.estimate, i.low, i.high) for n, i in by_name.items()]
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel(xlabel)
    ax.grid(axis="y", visible=False)
    if zero is not None:
        ax.axvline(0, color="#4D4D4D", lw=1.2, ls="--")
        ax.set_title(f"right of the line: {zero}", fontsize=11, fontweight="normal")
    if len(intervals) > 1:
        figure.legend(loc="outside lower center", ncols=min(len(intervals), 3))
    return figure, ax, pd.DataFrame(entries, columns=["series", "name", "estimate", "low", "high"])


def plot_crossing(costs: pd.DataFrame, *, ax: Axes | None = None) -> Drawn:
    """Draw what searching costs in all against how many queries come, building counted.

    Parameters
    ----------
    costs : DataFrame
        A row for each index size: ``rows``, ``build`` (seconds to build the graph), ``scan`` and
        ``graph`` (seconds a query).

    Returns
    -------
    figure, axes, frame
        The frame is `costs` with ``crossing``: the queries after which the graph has cost less
        (inf where a graph's query costs more than a scan's).
    """
    figure, ax = axes_of(ax)
    saved = costs.scan - costs.graph
    frame = costs.assign(crossing=np.where(saved > 0, costs.build / saved.where(saved > 0), np.inf))
    reached = frame.crossing[np.isfinite(frame.crossing)]
    queries = np.geomspace(10, 10 * reached.max() if len(reached) else 1e6, 200)
    for _, row in frame.iterrows():
        [line] = ax.plot(queries, queries * row.scan, label=f"{row.rows:,.0f} rows")
        color = line.get_color()
        ax.plot(queries, row.build + queries * row.graph, color=color, ls="--")
        if np.isfinite(row.crossing):
            ax.plot(row.crossing, row.crossing * row.scan, "o", color=color)
    ax.plot([], [], color="#4D4D4D", label="scan")
    ax.plot([], [], color="#4D4D4D", ls="--", label="graph, building counted")
    ax.set(xscale="log", yscale="log", xlabel="queries asked so far", ylabel="time in all (s)")
    ax.legend(fontsize=10)
    return figure, ax, frame


def plot_tradeoff(storage: pd.DataFrame, *, ax: Axes | None = None) -> Drawn:
    """Draw what storage costs and keeps: bytes of a vector against recall, one point a type.

    Parameters
    ----------
    storage : DataFrame
        Indexed by storage type: ``bytes`` (of a vector), ``recall`` (0 ... 1), ``speed`` (queries a
        second).
    """
    figure, ax = axes_of(ax)
    ax.scatter(storage.bytes, storage.recall, s=90)
    middle = storage.bytes.min() / 2 + storage.bytes.max() / 2
    # Below and above by turns: neighbours of like recall would write over each other.
    for place, (name, row) in enumerate(storage.sort_values("bytes").iterrows()):
        side, (va, up) = -9 if row.bytes > middle else 9, (("top", -4), ("bottom", 4))[place % 2]
        said = f"{name}\n{row.speed:,.0f} queries/s"
        beside(ax, said, (row.bytes, row.recall), (side, up), va=va, fontsize=11)
    lowest = float(storage.recall.min())
    ax.set_ylim(lowest - max(0.02, 0.6 * (1 - lowest)), 1 + max(0.006, 0.2 * (1 - lowest)))
    ax.set(xlabel="bytes of a vector", ylabel="recall@10")
    ax.margins(x=0.12)
    return figure, ax, storage


def plot_sorted(
    groups: Mapping[str, Sequence[float]],
    *,
    ylabel: str,
    reference: tuple[str, float] | None = None,
    ax: Axes | None = None,
) -> Drawn:
    """Draw each group's values from worst to best, to see the tail that an average hides.

    Parameters
    ----------
    groups : mapping of name to values
        A device's accuracy each, say.
    ylabel : str
    reference : (name, value), optional
        A level to compare with, drawn as a dashed line.
    """
    figure, ax = axes_of(ax)
    parts = []
    for name, values in groups.items():
        ordered = np.sort(np.asarray(values, float))
        share = (np.arange(len(ordered)) + 0.5) / len(ordered)
        ax.plot(share, ordered, label=name, marker="o", ms=3.5)
        parts.append(pd.DataFrame({"group": name, "share": share, "value": ordered}))
    if reference is not None:
        _draw_level(ax, reference)
    ax.set(xlabel="devices, from the worst to the best", ylabel=ylabel)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    ax.legend()
    return figure, ax, pd.concat(parts, ignore_index=True)
