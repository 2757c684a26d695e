"""The benchmark of readers: every format is read by both, which agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.readers import main
from tests.servers import server


def test_every_format_is_read_by_ours_and_by_its_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "readers.json"
    small = ["--rows", "200", "--dimensions", "8", "--repeats", "1", "--json", str(path)]
    with server("debian") as address:
        assert main([*small, "--postgresql", address]) == 0
    report = json.loads(path.read_text())
    names = [one["name"] for one in report["formats"]]
    assert names == [
        "npy", "npz", "fvecs", "idx", "idx.gz", "hdf5", "parquet", "feather", "usearch", "db",
        "postgresql",
    ]  # fmt: skip
    assert all(one["ratio"]["middle"] > 0 for one in report["formats"])
    assert capsys.readouterr().out.count("\n") == len(names) + 2
