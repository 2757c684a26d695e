"""Profiles: their limits, drawn from distributions, read from tables, kept by populations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest

from fedlab import Device, Population, Profile, VectorIndex, write_population
from fedlab.device import profiles_of, read_profiles, sample_profiles


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"upload": 0}, "upload is 0; it must be a positive number"),
        ({"dropout": 1.1}, r"dropout is 1.1; it must lie in 0 \.\.\. 1"),
        ({"watts": -1}, "watts is -1; it must be zero or positive"),
        (
            {"online_from": 25},
            r"online_from is 25, online_until 24.0; they must lie in 0 \.\.\. 24",
        ),
        ({"online_until": float("nan")}, "online_until is nan"),
    ],
)
def test_profiles_out_of_range_are_refused_alone_and_in_columns(
    wrong: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        Profile(**wrong)
    columns = {name: [1.0, value] for name, value in wrong.items()}
    rows = [(np.eye(2), [0, 1])] * 2
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} of device 1"):
        write_population(tmp_path / "p", rows, dimensions=2, profiles=columns)


def test_samples_are_log_normal_around_the_medians_and_follow_from_the_seed() -> None:
    columns = sample_profiles(4000, seed=3, upload=5e5, spread=0.5)
    for name, median in {"bandwidth": 4.495e6, "upload": 5e5, "compute": 1e9}.items():
        scaled = np.log(columns[name] / median) / 0.5
        assert kstest(scaled, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(np.log([*columns.values()]))[0, 1]) < 0.06
    again, other = sample_profiles(4000, seed=3, upload=5e5, spread=0.5), sample_profiles(9, seed=4)
    assert all((columns[name] == again[name]).all() for name in columns)
    assert not np.isin(other["compute"], columns["compute"]).any()
    twentieths = np.quantile(sample_profiles(50_000, seed=0)["compute"], [0.05, 0.95])
    assert twentieths[1] / twentieths[0] == pytest.approx(10, rel=0.1)
    with pytest.raises(ValueError, match="spread is -1"):
        sample_profiles(3, seed=0, spread=-1)


def test_a_population_keeps_every_field_and_reads_what_was_written_before(tmp_path: Path) -> None:
    profiles = [
        Profile(upload=5e5, online_from=22, online_until=6, dropout=0.1, watts=3.5),
        Profile(bandwidth=2e6),
    ]
    devices = []
    for number, profile in enumerate(profiles):
        index = VectorIndex(2)
        index.add(np.eye(2), labels=[0, 1])
        devices.append(Device(number, index, profile))
    write_population(tmp_path / "p", devices, dimensions=2)
    assert [device.profile for device in Population(tmp_path / "p")] == profiles
    columns = profiles_of(Population(tmp_path / "p").profiles)
    assert columns[0] == profiles[0]
    old = json.loads((tmp_path / "p" / "population.json").read_text())
    old["columns"] = ["bandwidth"]  # a store from before there were others
    (tmp_path / "p" / "population.json").write_text(json.dumps(old))
    assert Population(tmp_path / "p")[0].profile == Profile()


def test_a_table_is_read_and_its_bad_rows_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "devices.csv"
    path.write_text("device,bandwidth,upload,online_from\n7,1e6,2e5,22\n12,,,\n")
    assert read_profiles(path) == {
        7: Profile(bandwidth=1e6, upload=2e5, online_from=22),
        12: Profile(),
    }
    path.write_text("device,compute\nward 3,1e8\n12,2e8\n")
    assert list(read_profiles(path)) == ["ward 3", "12"]
    path.write_text("device,compute,dropout\na,1e8,0\nb,fast,0\na,1e8,0\nc,1e8,2\nd,-1,0\n")
    with pytest.raises(ValueError, match=r"4 bad rows\. line 3: .*'fast'; line 4: .*'a'.* twice"):
        read_profiles(path)
    with pytest.raises(ValueError, match=r"line 5: dropout is 2\.0.*; line 6: compute is -1\.0"):
        read_profiles(path)
    path.write_text("device,speed\na,1\n")
    with pytest.raises(ValueError, match=r"columns \['device', 'speed'\]; device is needed"):
        read_profiles(path)
