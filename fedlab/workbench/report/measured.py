"""Figures of a report with what lies behind them: a table, and all of it to download."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from fedlab.core.typing import F64
from fedlab.study.scrub import scrub
from fedlab.workbench.notebook.cells import PNG, SVG, drawn
from fedlab.workbench.report.pictures import data_url

if TYPE_CHECKING:
    from fedlab.workbench.figures.axes import Drawn

#: A table on a page has so many rows at most, and a download so many characters.
_ROWS, _CHARACTERS = 200, 800_000
#: A curve on a page has so many points at most.
_POINTS = 300
_WIDE, _HIGH = 240, 80


@dataclass(frozen=True)
class Data:
    """A table as far as a page has room for it, and the address of all of it as CSV."""

    name: str
    words: str
    count: int
    columns: list[str]
    rows: list[list[Any]]
    url: str
    said: str

    @classmethod
    def of(cls, name: str, frame: pd.DataFrame, words: str = "") -> Data:
        """Return the data of a frame, for a file of that name."""
        csv = _quoted(frame)
        fits = len(frame)
        if len(csv) > _CHARACTERS:
            fits = int(fits * _CHARACTERS / len(csv))
            csv = _quoted(frame.head(fits))
        shown = frame.head(_ROWS).astype(object)
        rows = [[_cell(value) for value in row] for row in shown.to_numpy().tolist()]
        said = f"the first {_ROWS} are shown" if len(frame) > _ROWS else ""
        if fits < len(frame):
            said = f"the first of {len(frame):,}, since a page is no place for more; {said}"
        columns = [str(column) for column in frame]
        return cls(name, words, fits, columns, rows, f"data:text/csv;charset=utf-8,{csv}", said)


def _cell(value: Any) -> tuple[str, bool]:
    """Return what a table shows of a value, and whether it is a number."""
    if isinstance(value, float):
        return ("", True) if np.isnan(value) else (short(value), True)
    return "" if value is None or value is pd.NA else str(value), isinstance(value, int)


def _quoted(frame: pd.DataFrame) -> str:
    return quote(scrub(frame.to_csv(index=False)))


@dataclass(frozen=True)
class Figure:
    """A figure as a picture, in words, with warnings and its data; or why there is none."""

    title: str
    url: str = ""
    alt: str = ""
    notes: tuple[str, ...] = ()
    data: Data | None = None
    error: str = ""

    @classmethod
    def of(cls, title: str, name: str, draw: Callable[[], Drawn]) -> Figure:
        """Draw a figure; what can't be drawn costs itself, and says why."""
        from matplotlib import pyplot

        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", UserWarning)
            try:
                figure, _, frame = draw()
            except Exception as error:  # whatever runs measured, it must not cost the page
                return cls(title, error=f"No figure: {error}")
        notes = tuple(dict.fromkeys(str(one.message) for one in warned))
        if frame.empty:
            pyplot.close(figure)
            return cls(title, error="No figure: " + "; ".join(notes))
        kinds = drawn(figure)
        pyplot.close(figure)
        kind = SVG if SVG in kinds else PNG
        content = kinds[kind]
        text = base64.b64encode(content).decode() if isinstance(content, bytes) else content
        alt = f"{title}. Its numbers stand in the table below."
        return cls(title, data_url(text, kind), alt, notes, Data.of(name, frame))


@dataclass(frozen=True)
class Curve:
    """A metric of one run by round: points of an SVG's lines, and what they say."""

    name: str
    lines: list[str]
    round: int
    last: str
    low: str
    high: str

    @classmethod
    def of(cls, name: str, lines: Iterable[F64]) -> Curve | None:
        """Return the curve of some lines, each (rounds, 2); None if there is one round or none."""
        lines = [line[np.isfinite(line).all(axis=1)] for line in lines]
        whole = np.concatenate(lines)
        if not len(whole) or not np.ptp(whole[:, 0]):
            return None
        (first, low), (end, high) = whole.min(axis=0), whole.max(axis=0)
        scale = _WIDE / (end - first), _HIGH / ((high - low) or 1)
        points = [
            " ".join(
                f"{scale[0] * (x - first):.1f},{_HIGH - scale[1] * (y - low):.1f}"
                for x, y in line[:: max(1, len(line) // _POINTS)].tolist()
            )
            for line in lines
        ]
        return cls(name, points, int(end), short(whole[-1, 1]), short(low), short(high))

    @property
    def said(self) -> str:
        """It in words."""
        return f"{self.name} by round: from {self.low} to {self.high}, at last {self.last}"


def of_run(name: str, rows: pd.DataFrame) -> tuple[list[Curve], list[Data]]:
    """Return what one run measured: a curve for each metric of the server's, and all in tables.

    Parameters
    ----------
    name : str
        The run's, for the names of files.
    rows : DataFrame
        Its part of `fedlab.study.load_runs`, from ``round`` on.
    """
    told, others = rows[(rows.who == "server") & rows["round"].notna()], rows[_of_devices(rows)]
    further = [str(name) for name in rows][4:]  # what tells several histories of one run apart
    keys = [*further, "round", "metric"]
    last = told.drop_duplicates(keys, keep="last").set_index(keys).value
    wide: pd.DataFrame = last.unstack().reset_index()  # noqa: PD010 - four times as fast as a pivot table
    places = list(wide.groupby(further).indices.values()) if further else [np.arange(len(wide))]
    metrics = list(wide)[len(keys) - 1 :]
    numbers = {metric: wide[["round", metric]].to_numpy(np.float64) for metric in metrics}
    made = (Curve.of(str(m), [each[place] for place in places]) for m, each in numbers.items())
    found = [(f"{name} by round", wide, "Data by round")]
    found.append((f"{name} by device", others, "Data of single devices"))
    return [*filter(None, made)], [Data.of(*each) for each in found if len(each[1])]


def _of_devices(rows: pd.DataFrame) -> pd.Series[bool]:
    return ~rows.who.isin(["server", "run"])


def short(value: float) -> str:
    """Return a number as a table has room for it.

    Examples
    --------
    >>> short(0.123456), short(1234567.8)
    ('0.1235', '1,234,568')
    """
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
