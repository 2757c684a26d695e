"""The benchmark of filtered searches on a small index: what it tells."""

import pytest

from benchmarks import filtered


def test_each_filter_is_measured(capsys):
    assert filtered.main(["--rows", "2000", "--dimensions", "8", "--queries", "20"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split()[:4] == ["filter", "share", "recall", "rescued"]
    assert [line.split()[0] for line in said[1:]] == ["none"] + ["chance", "place"] * 3
    for line in said[1:]:
        assert 0.8 <= float(line.split()[2]) <= 1
        assert line.split()[-1] == "scan"
    with pytest.raises(ValueError, match="--rows takes"):
        filtered.main(["--rows", "10"])
