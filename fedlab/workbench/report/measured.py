"""What was measured, for a page: curves and figures, and behind each a table and all of it as CSV.

Each function returns what a template shows, by name.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from fedlab.core.typing import F64
from fedlab.study.scrub import scrub
from fedlab.workbench.notebook.cells import PNG, SVG, drawn
from fedlab.workbench.report.pictures import data_url

if TYPE_CHECKING:
    import pandas as pd

    from fedlab.workbench.figures.axes import Drawn

#: Rows of a table on a page, characters of a download, and points of a curve, at most.
_ROWS, _CHARACTERS, _POINTS = 200, 800_000, 300
_WIDE, _HIGH = 240, 80


def short(value: Any) -> str:
    """Return a value as a table has room for it.

    Examples
    --------
    >>> short(0.123456), short(1234567.8), short([1, 2]), short(float("nan"))
    ('0.1235', '1,234,568', '[1, 2]', '')
    """
    if not isinstance(value, float) or np.isnan(value):
        return str(value) if value == value else ""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def data(name: str, frame: pd.DataFrame, words: str) -> dict[str, Any]:
    """Return a frame as a table, as far as a page has room for it, and the address of its CSV."""
    rows, csv = len(frame), quote(scrub(frame.to_csv(index=False)))
    if len(csv) > _CHARACTERS:
        rows = int(rows * _CHARACTERS / len(csv))
        csv = quote(scrub(frame.head(rows).to_csv(index=False)))
    shown = frame.head(_ROWS).astype(object)
    table = {"rows": shown.where(shown.notna(), "").to_numpy().tolist(), "columns": list(frame)}
    url = f"data:text/csv;charset=utf-8,{csv}"
    return {"name": name, "words": words, "of": len(frame), "count": rows, "url": url, **table}


def figure(title: str, name: str, draw: Callable[[], Drawn]) -> dict[str, Any]:
    """Return a figure as a picture, with what was warned of; or why there is none."""
    from matplotlib import pyplot

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        try:
            made, _, frame = draw()
        except Exception as error:  # whatever runs measured, it must not cost the page
            return {"title": title, "notes": [f"No figure: {error}"]}
    notes = list(dict.fromkeys(str(one.message) for one in warned))
    kinds = drawn(made)
    pyplot.close(made)
    if frame.empty:
        return {"title": title, "notes": ["No figure, since there are no points to draw.", *notes]}
    kind = SVG if SVG in kinds else PNG
    content = kinds[kind]
    text = base64.b64encode(content).decode() if isinstance(content, bytes) else content
    table = data(name, frame, "Data of this figure")
    return {"title": title, "url": data_url(text, kind), "notes": notes, "data": table}


def of_run(name: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the curve of each metric that the server has by round, and tables of what there is.

    Parameters
    ----------
    name : str
        The run's, for the names of files.
    rows : DataFrame
        Its part of `fedlab.study.load_runs`, from ``round`` on.
    """
    further = list(rows)[4:]  # what tells several histories of one run apart
    keys = [*further, "round", "metric"]
    told = rows[(rows.who == "server") & rows["round"].notna()].drop_duplicates(keys, keep="last")
    wide = told.set_index(keys).value.unstack().reset_index()  # noqa: PD010 - 4 times as fast
    places = list(wide.groupby(further).indices.values()) if further else [slice(None)]
    numbers = wide[list(wide)[len(further) :]].to_numpy(np.float64)
    metrics = [str(name) for name in wide][len(further) + 1 :]
    lines = [[numbers[p][:, [0, k + 1]] for p in places] for k in range(len(metrics))]
    made = [_curve(*each) for each in zip(metrics, lines, strict=True) if len(told)]
    found = [
        (f"{name} by round", wide, "Data by round"),
        (f"{name} by device", rows[~rows.who.isin(["server", "run"])], "Data of single devices"),
    ]
    return {"curves": [*filter(None, made)], "tables": [data(*one) for one in found if len(one[1])]}


def _curve(name: str, lines: list[F64]) -> dict[str, Any] | None:
    """Return a metric's lines, each (rounds, 2), as an SVG has them; None if it is one round's."""
    lines = [line[np.isfinite(line).all(axis=1)] for line in lines]
    whole = np.concatenate(lines)
    if not len(whole) or not np.ptp(whole[:, 0]):
        return None
    (first, low), (end, high) = whole.min(axis=0), whole.max(axis=0)
    scale = np.array([_WIDE / (end - first), -_HIGH / ((high - low) or 1)])
    drawn = [(line[:: max(1, len(line) // _POINTS)] - [first, high]) * scale for line in lines]
    points = [" ".join(f"{x:.1f},{y:.1f}" for x, y in line) for line in drawn]
    ends = {"round": int(end), "last": whole[-1, 1], "low": low, "high": high}
    return {"name": name, "lines": points, **ends}
