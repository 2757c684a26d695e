"""What the runs come to: medians with their spread, ratios to ours, and whether losses agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.field import FLOOR, OURS, REFERENCE
from benchmarks.measure import Measured, Run


@dataclass(frozen=True)
class Spread:
    """A median, and how far values lie about it: quartiles of rounds, or the range of repeats."""

    middle: float
    low: float
    high: float

    @classmethod
    def quartiles(cls, values: Sequence[float]) -> Spread:
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        return cls(float(middle), float(low), float(high))

    @classmethod
    def range(cls, values: Sequence[float]) -> Spread:
        return cls(float(np.median(values)), float(min(values)), float(max(values)))

    def __str__(self) -> str:
        return f"{_short(self.middle)} ({_short(self.low)} to {_short(self.high)})"


@dataclass(frozen=True)
class Row:
    """One contestant on one workload.

    Attributes
    ----------
    name : str
    milliseconds : Spread
        Of a steady round; quartiles over all rounds of all repeats.
    ratio : Spread or None
        How many times as long as ours a round takes: in each repeat the ratio of the two medians,
        of which the median and the range are given. None where ours did not run.
    startup, peak_mb, loss : float
        Medians over repeats.
    agrees : bool
        Whether in every repeat its loss was the reference's, within the workload's tolerance.
    """

    name: str
    milliseconds: Spread
    ratio: Spread | None
    startup: float
    peak_mb: float
    loss: float
    agrees: bool


def rows(measured: Measured, *, warmup: int, tolerance: float) -> list[Row]:
    """Summarise all contestants' runs, the first `warmup` rounds of each left out.

    Parameters
    ----------
    measured : Measured
    warmup : int
    tolerance : float
        How far a loss may lie from the reference's, relative to it.
    """
    runs = measured.runs
    reference = next((runs[name] for name in (REFERENCE, OURS) if name in runs), None)
    target = float(np.median([run.loss for run in reference])) if reference else float("nan")
    return [
        Row(
            name,
            Spread.quartiles([1e3 * s for run in own for s in run.seconds[warmup:]]),
            ratio(own, runs[OURS], warmup) if OURS in runs else None,
            float(np.median([run.startup for run in own])),
            float(np.median([run.peak_mb for run in own])),
            float(np.median([run.loss for run in own])),
            name == FLOOR or all(abs(r.loss - target) <= tolerance * target for r in own),
        )
        for name, own in runs.items()
    ]


def ratio(own: Sequence[Run], others: Sequence[Run], warmup: int) -> Spread:
    """Return how many times as long as the others' a round of one's own takes, by repeats."""
    medians = [[float(np.median(run.seconds[warmup:])) for run in runs] for runs in (own, others)]
    return Spread.range([mine / yours for mine, yours in zip(*medians, strict=True)])


def over_floor(measured: Measured, warmup: int) -> Spread | None:
    """Return how many times the floor our round takes, if both were measured."""
    runs = measured.runs
    if OURS not in runs or FLOOR not in runs:
        return None
    return ratio(runs[OURS], runs[FLOOR], warmup)


def table(of: Sequence[Row]) -> str:
    """Return the rows as text in columns."""
    head = ["", "ms a round", "times fedlab", "start-up s", "peak MB", "loss", ""]
    cells = [head, *(_cells(row) for row in of)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(head))]
    lines = []
    for line in cells:
        first, *others = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    ratio = "-" if row.ratio is None else str(row.ratio)
    if row.name == FLOOR:
        return [row.name, str(row.milliseconds), ratio, "", "", "", ""]
    verdict = "agrees" if row.agrees else "DIFFERS"
    numbers = [f"{row.startup:.2f}", f"{row.peak_mb:.0f}", f"{row.loss:.5f}"]
    return [row.name, str(row.milliseconds), "1" if row.name == OURS else ratio, *numbers, verdict]


def _short(value: float) -> str:
    """Return three figures, and no exponent."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.1e}"
