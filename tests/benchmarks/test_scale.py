"""The scale benchmark on small populations: what it writes, and its arithmetic."""

import pytest

from benchmarks import scale
from fedlab import Population


def test_populations_are_as_described_and_the_same_each_time(tmp_path):
    scale.write(tmp_path / "a", 3_000)
    scale.write(tmp_path / "b", 3_000)
    population = Population(tmp_path / "a")
    assert len(population) == 3_000
    assert (population.rows.min(), population.rows.max()) == (1, 39)
    assert population.rows.mean() == pytest.approx(20, abs=1)
    codes = "codes.npy"
    assert (tmp_path / "a" / codes).read_bytes() == (tmp_path / "b" / codes).read_bytes()


def test_ratios_are_taken_within_a_repeat():
    runs = [
        scale.Measured(1_000, (0.1, 0.1, 0.1), 0.0, 50.0),
        scale.Measured(9_000, (0.2, 0.2, 0.2), 0.0, 60.0),
        scale.Measured(1_000, (0.4, 0.4, 0.4), 0.0, 50.0),
        scale.Measured(9_000, (0.4, 0.4, 0.4), 0.0, 70.0),
    ]
    table = scale.summary(runs).splitlines()
    assert "1.50 (1.00 to 2.00)" in table[2]
    assert table[2].split()[-1] == "70"


def test_a_size_is_measured_in_a_process_of_its_own(tmp_path, capsys):
    arguments = ["--sizes", "1000", "--repeats", "1", "--out", str(tmp_path / "out")]
    assert scale.main(arguments) == 0
    assert "1,000" in capsys.readouterr().out
    assert (tmp_path / "out" / "scale.png").stat().st_size > 5_000
    with pytest.raises(ValueError, match="1000 devices or more"):
        scale.main(["--sizes", "10"])
