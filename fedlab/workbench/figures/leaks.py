"""Figures of attacks: what a search keeps against what one gets, and which defence withstands it.

As in `fedlab.workbench.figures`, a function returns ``(figure, axes, frame)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from matplotlib import pyplot
from numpy.typing import ArrayLike

from fedlab.leaks import leak_summary
from fedlab.workbench.figures.axes import Drawn, axes_of, beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "oDs^vPX*"
_SIZES = (190, 120, 95, 75, 75, 60, 60, 60)


def trade_frame(frame: pd.DataFrame, attacker: Literal["holder", "asker"]) -> pd.DataFrame:
    """Return recall, and the strongest attack of one party, for each protection and setting.

    Parameters
    ----------
    frame : DataFrame
        From `fedlab.leaks.measure_leaks`.
    attacker : {"holder", "asker"}

    Returns
    -------
    DataFrame
        ``protection``, ``setting``, ``recall``, ``attack`` (the metric), ``success``: how much of
        the way from chance to certainty the attack gets, (value - chance) / (1 - chance), 0 where
        it is below chance. Protections without a recall are left out.
    """
    means = leak_summary(frame)
    by = ["protection", "setting"]
    recalls = means[means.metric.str.startswith("recall@")].set_index(by).value
    attacks = means[means.attacker == attacker]
    if attacks.empty or recalls.empty:
        raise ValueError(
            f"the frame holds {len(recalls)} recalls and {len(attacks)} attacks of the {attacker}; "
            "both are needed: see measure_leaks(vectors, defences, attacks)"
        )
    success = ((attacks.value - attacks.chance) / (1 - attacks.chance)).clip(lower=0)
    attacks = attacks.assign(success=success)
    best = attacks.loc[attacks.groupby(by, sort=False).success.idxmax()].set_index(by)
    joined = recalls.rename("recall").to_frame().join(best[["metric", "success"]], how="inner")
    return joined.rename(columns={"metric": "attack"}).reset_index()


def plot_leaks(
    frame: pd.DataFrame, *, attacker: Literal["holder", "asker"] = "holder", ax: Axes | None = None
) -> Drawn:
    """Draw recall against the strongest attack: a marker for each protection and setting.

    Settings of one protection are joined by a line. Top left is what one would like to have: a
    search that finds everything, and an attack that has no more than chance.

    Parameters
    ----------
    frame : DataFrame
        From `fedlab.leaks.measure_leaks`.
    attacker : {"holder", "asker"}
        Who attacks: the one who keeps the protected rows, or one who asks and reads distances.

    Returns
    -------
    figure, axes, frame
        The frame is that of `trade_frame`.
    """
    trade = trade_frame(frame, attacker)
    figure, ax = axes_of(ax)
    for number, (name, group) in enumerate(trade.groupby("protection", sort=False)):
        # Markers that fall on one another differ in form, and lie upon each other by size.
        place = number % len(_MARKERS)
        [line] = ax.plot(group.success, group.recall, lw=1.2, alpha=0.6)
        ax.scatter(
            group.success,
            group.recall,
            s=_SIZES[place],
            marker=_MARKERS[place],
            color=line.get_color(),
            edgecolors="white",
            linewidths=0.8,
            zorder=3 + number,
            label=str(name),
            clip_on=False,
        )
    _name_settings(trade, ax)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.06), ylabel="recall of the search")
    ax.set_xlabel(f"strongest attack of the {attacker} (0 chance, 1 certainty)")
    # Below the axes: a marker may lie anywhere in them.
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    return figure, ax, trade


def _name_settings(trade: pd.DataFrame, ax: Axes) -> None:
    """Write settings beside their markers, those that lie together in one line."""
    together: list[tuple[list[float], float, list[str]]] = []
    ordered = trade[trade.setting != ""].sort_values("recall", ascending=False, kind="stable")
    columns = (ordered.success.to_numpy(float), ordered.recall.to_numpy(float), ordered.setting)
    for at, height, setting in zip(*columns, strict=True):
        for reach, recall, names in together:
            if np.hypot(reach[0] - at, 1.6 * (recall - height)) < 0.08:
                names += [setting] if setting not in names else []
                reach += [at]
                break
        else:
            together.append(([at], height, [setting]))
    for reach, recall, names in together:
        left = reach[0] > 0.5
        at, shift = min(reach) if left else max(reach), (-10 if left else 10, 0)
        beside(ax, ", ".join(names), (at, recall), shift, va="center", fontsize=10)


def plot_images(
    rows: Mapping[str, ArrayLike], width: int
) -> tuple[Figure, list[Axes], pd.DataFrame]:
    """Draw rows as images side by side, each on a scale of its own: what an attack has read.

    Parameters
    ----------
    rows : mapping of title to (n,) array
        Pixels, line by line; the larger, the darker.
    width : int
        Pixels of a line.
    """
    figure, grid = pyplot.subplots(1, len(rows), figsize=(1.7 * len(rows), 2.2), squeeze=False)
    for ax, (title, pixels) in zip(grid[0], rows.items(), strict=True):
        ax.imshow(np.reshape(pixels, (-1, width)), cmap="gray_r")
        ax.set_title(title, fontsize=10, fontweight="normal")
        ax.set_axis_off()
    return figure, list(grid[0]), pd.DataFrame({n: np.ravel(pixels) for n, pixels in rows.items()})


def plot_grid(
    tables: Mapping[str, pd.DataFrame], *, label: str
) -> tuple[Figure, list[Axes], pd.DataFrame]:
    """Draw tables side by side, each number on its colour: the darker, the larger.

    Parameters
    ----------
    tables : mapping of title to DataFrame
        With the same rows. A dash stands for NaN.
    label : str
        What the numbers are, with their unit.

    Returns
    -------
    figure, list of axes, frame
        The frame holds all tables by title.
    """
    frame, most = pd.concat(tables), max(len(table.columns) for table in tables.values())
    low, high = np.nanmin(frame), np.nanmax(frame)
    size = (2.4 + max(2.4, 0.42 * most) * len(tables), 2.0 + 0.3 * len(frame) / len(tables))
    figure, grid = pyplot.subplots(1, len(tables), figsize=size, sharey=True, squeeze=False)
    for ax, (title, table) in zip(grid[0], tables.items(), strict=True):
        mesh = ax.imshow(table, cmap="Blues", vmin=low, vmax=high, aspect="auto")
        for (row, column), value in np.ndenumerate(table.to_numpy()):
            color = "w" if value > low + 0.6 * (high - low) else "k"
            said = f"{value:.2f}".removeprefix("0") if np.isfinite(value) else "-"
            ax.text(column, row, said, color=color, ha="center", va="center", size=9)
        ax.set(title=title, xticks=range(len(table.columns)), yticks=range(len(table)))
        ax.set_xticklabels(table.columns, rotation=45, ha="right")
        ax.set_yticklabels(table.index)
        ax.grid(visible=False)
        ax.label_outer()
    figure.colorbar(mesh, ax=list(grid[0]), label=label, pad=0.02)
    return figure, list(grid[0]), frame
