"""Figures of what a store keeps, and of what it lets go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.ticker import MaxNLocator

from fedlab.workbench.figures.axes import Drawn, axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fedlab.erasure import Audit


def traces(audits: Mapping[str, Audit]) -> pd.DataFrame:
    """Count the erased rows whose bytes stand in an index's columns, in its graph, and in files.

    Parameters
    ----------
    audits : mapping of name to Audit
        Of the same rows.

    Returns
    -------
    DataFrame
        A row for each audit; "columns", "graph" and "files" are numbers of rows found there.
    """
    counted = {}
    for name, audit in audits.items():
        keys: dict[str, set[int]] = {"columns": set(), "graph": set(), "files": set()}
        for finding in audit.found:
            keys[_kind(finding.place)].add(finding.key)
        counted[name] = {kind: len(found) for kind, found in keys.items()}
    return pd.DataFrame(counted).T


def _kind(place: str) -> str:
    if not place.startswith("memory: "):
        return "files"
    return "graph" if "graph" in place else "columns"


def plot_traces(audits: Mapping[str, Audit], ax: Axes | None = None) -> Drawn:
    """Draw where erased rows were found: a group of bars for each audit.

    Parameters
    ----------
    audits : mapping of name to Audit
        Of the same rows, after removing them in different ways.
    """
    figure, ax = axes_of(ax)
    frame = traces(audits)
    frame.plot.bar(ax=ax, rot=0, width=0.78)
    for bars in ax.containers:
        ax.bar_label(bars, fontsize=11, padding=2)  # type: ignore[arg-type]
    ax.grid(axis="x", visible=False)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(ylabel="erased rows found", ylim=(0, 1.15 * max(1, frame.to_numpy().max())))
    ax.legend(title="in", loc="upper right")
    return figure, ax, frame
