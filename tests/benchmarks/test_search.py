from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import search


@pytest.mark.parametrize("select", ["threshold", "partition"])
@pytest.mark.parametrize("block", [10, 64, 1000])
def test_the_central_scan_is_brute_force(select: str, block: int) -> None:
    rows, queries = search.mixture(605, 12, part=1), search.mixture(300, 12, part=2)
    inverse = (1 / np.linalg.norm(rows, axis=1)).astype(np.float32)
    found, scores = search.central(rows, inverse, queries, 10, select, block)
    cosines = queries @ rows.T / np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(-scores, -np.sort(-cosines, axis=1)[:, :10], rtol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(cosines, found, axis=1), -scores, rtol=1e-4)


def test_contestants_take_turns_and_ratios_stay_within_them() -> None:
    order: list[str] = []
    contest = search.run("x", 1, {n: lambda n=n: order.append(n) for n in ("a", "b")}, 3)  # type: ignore[misc]
    assert order == ["a", "b"] * 4
    assert [len(taken) for taken in contest.seconds.values()] == [3, 3]
    known = search.Contest("x", 1, {"a": (1.0, 4.0, 9.0), "b": (1.0, 2.0, 3.0)})
    assert known.ratio("a", "b") == (1.5, 2.0, 2.5)


def test_the_command_measures_prints_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "numbers" / "search.json"
    small = "--devices 5 --rows 60 --dimensions 8 --k 3 --batches 1 40 --repeats 2 --graph-rows 200"
    small += " --threads 2"
    assert search.main([*small.split(), "--dtypes", "i8", "--json", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "across devices" in shown
    assert "graph, i8" in shown
    written: dict[str, Any] = json.loads(path.read_text())
    assert [(c["what"], c["batch"]) for c in written["contests"]] == [
        ("devices", 1),
        ("devices", 40),
        ("graph, i8", 1000),
        ("scan, load", 40),
        ("graph, load", 400),
    ]
    assert list(written["contests"][-1]["seconds"]) == [
        "2 threads",
        "2 processes",
        "one thread",
        "NumPy scan",
    ]
    assert all(
        seconds > 0 for c in written["contests"] for s in c["seconds"].values() for seconds in s
    )


def test_numbers_that_make_no_contest_are_refused() -> None:
    with pytest.raises(ValueError, match="--k 9 is more than --rows 5"):
        search.main(["--k", "9", "--rows", "5"])
    with pytest.raises(ValueError, match="from 1"):
        search.main(["--devices", "0"])
