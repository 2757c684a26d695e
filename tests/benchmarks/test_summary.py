"""The table's arithmetic, on numbers made up for it."""

from __future__ import annotations

import math
import re

import pytest

from benchmarks.field import FLOOR, OURS, REFERENCE
from benchmarks.measure import Measured, Run
from benchmarks.summary import Spread, over_floor, rows, table


def run(*seconds: float, loss: float = 1.0) -> Run:
    return Run(seconds, startup=0.5, peak_mb=100.0, loss=loss, versions={})


def measured() -> Measured:
    return Measured(
        {
            # The first round compiles: it must not count.
            OURS: [run(9.0, 0.01, 0.02, 0.03), run(9.0, 0.02, 0.02, 0.02)],
            REFERENCE: [run(0.5, 0.05, 0.08, 0.09), run(0.5, 0.1, 0.1, 0.1)],
            FLOOR: [run(0.0, 0.01, 0.01, 0.01, loss=math.nan)] * 2,
        }
    )


def test_ratios_are_of_medians_within_a_repeat() -> None:
    ours, loop, _ = rows(measured(), warmup=1, tolerance=0.01)
    assert ours.ratio == Spread(1.0, 1.0, 1.0)
    # .08 / .02 in the first repeat, .1 / .02 in the second.
    assert loop.ratio is not None
    assert (loop.ratio.low, loop.ratio.high) == pytest.approx((4.0, 5.0))
    assert loop.ratio.middle == pytest.approx(4.5)


def test_milliseconds_are_quartiles_of_all_steady_rounds() -> None:
    ours = rows(measured(), warmup=1, tolerance=0.01)[0]
    assert ours.milliseconds == Spread(20.0, 20.0, 20.0)
    loop = rows(measured(), warmup=1, tolerance=0.01)[1]
    assert loop.milliseconds.middle == pytest.approx(95.0)
    assert loop.milliseconds.low == pytest.approx(82.5)


def test_ours_over_the_floor() -> None:
    assert over_floor(measured(), warmup=1) == Spread(2.0, 2.0, 2.0)
    assert over_floor(Measured({OURS: [run(1.0, 1.0)]}), warmup=1) is None


def test_one_loss_astray_in_one_repeat_is_told() -> None:
    runs = measured()
    runs.runs["fedjax"] = [run(1.0, 0.1, loss=1.009), run(1.0, 0.1, loss=1.02)]
    by_name = {row.name: row for row in rows(runs, warmup=1, tolerance=0.01)}
    assert not by_name["fedjax"].agrees
    assert by_name[OURS].agrees
    assert by_name[FLOOR].agrees
    assert by_name["fedjax"].loss == pytest.approx(1.0145)


def test_a_loss_that_is_no_number_does_not_agree() -> None:
    runs = measured()
    runs.runs["pfl"] = [run(1.0, 0.1, loss=math.nan)] * 2
    assert not rows(runs, warmup=1, tolerance=0.5)[-1].agrees


def test_without_ours_there_are_times_but_no_ratios() -> None:
    (loop,) = rows(Measured({REFERENCE: [run(1.0, 0.1)]}), warmup=1, tolerance=0.01)
    assert loop.ratio is None
    assert "-" in table([loop])


def test_the_table_reads_in_columns() -> None:
    runs = measured()
    runs.runs["fedjax"] = [run(1.0, 2.0, loss=3.0)] * 2
    head, ours, loop, floor, fedjax = table(rows(runs, warmup=1, tolerance=0.01)).splitlines()
    columns = ["ms a round", "times fedlab", "start-up s", "peak MB", "loss"]
    assert re.split(r"\s{2,}", head.strip()) == columns
    assert ours.split()[:6] == [OURS, "20", "(20", "to", "20)", "1"]
    assert "4.5 (4 to 5)" in loop
    assert floor.startswith(FLOOR)
    assert fedjax.endswith("DIFFERS")
    assert "2,000 (2,000 to 2,000)" in fedjax
    assert len({len(line) for line in (ours, loop, fedjax)}) <= 2
