"""What rows in their file cost: every step in every way, and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.mapped import WAYS, main

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")


def test_the_command_measures_all_steps_in_all_ways(capsys):
    assert main(["--rows", "400", "--repeats", "1"]) == 0
    first, *steps, last = capsys.readouterr().out.splitlines()
    assert first.startswith("400 rows, 1 MB")
    assert [line.split()[0] for line in steps] == ["open", "1", "16", "256", "100", "1,000"]
    for line in [*steps, last]:
        assert all(f"{way} " in line for way in WAYS)


def test_odd_sizes_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--rows", "0"])
    assert "whole numbers from 1" in capsys.readouterr().err
