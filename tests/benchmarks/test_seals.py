"""The throughput of seals: every step at every size, and ratios that follow from its seconds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.seals import STEPS, main, measured


def test_the_command_measures_all_steps_and_writes_them_to_a_file(tmp_path, capsys):
    target = tmp_path / "made" / "seals.json"
    few = ["--rows", "20", "300", "--graph-rows", "20", "--repeats", "2", "--json", str(target)]
    assert main(few) == 0
    steps = json.loads(target.read_text())["steps"]
    assert [(one["rows"], one["graph"], one["step"]) for one in steps] == [
        (rows, graph, step)
        for rows, graph in ((20, False), (20, True), (300, False))
        for step in STEPS
    ]
    for one in steps:
        assert one["rate"] == pytest.approx(one["megabytes"] / one["seconds"])
        against = (
            "plain write"
            if "open" not in one["step"] and "read" not in one["step"]
            else "plain read"
        )
        [base] = [
            other["seconds"]
            for other in steps
            if (other["rows"], other["graph"], other["step"])
            == (one["rows"], one["graph"], against)
        ]
        assert one["ratio"] == pytest.approx(one["seconds"] / base)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + len(steps) + 1
    assert "sealed save" in printed[3]


def test_megabytes_are_those_of_the_plain_file(tmp_path: Path):
    found = measured(100, False, tmp_path, repeats=1)
    assert {one.megabytes * 1e6 for one in found} == {os.path.getsize(tmp_path / "plain")}
    assert os.path.getsize(tmp_path / "raw") == os.path.getsize(tmp_path / "plain")
    assert os.path.getsize(tmp_path / "sealed") > os.path.getsize(tmp_path / "plain")


@pytest.mark.parametrize("wrong", [["--rows", "0"], ["--repeats", "0"]])
def test_odd_sizes_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        main(wrong)
    assert "whole numbers from 1" in capsys.readouterr().err
