"""The command: who is absent is listed, who fails is told, and numbers are kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.__main__ import main
from benchmarks.field import CONTESTANTS, OURS, REFERENCE, Contestant
from benchmarks.measure import Measured, measure, present
from benchmarks.peers import install, peers
from benchmarks.workload import Workload
from benchmarks.workloads import regression


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDLAB_PEERS", str(tmp_path / "peers"))
    return tmp_path / "peers"


def run(workload: Workload, *contestants: Contestant, timeout: float = 60) -> Measured:
    return measure(
        workload, contestants, peers(), repeats=1, timeout=timeout, say=lambda line: None
    )


def test_absent_peers_are_listed_and_skipped() -> None:
    able, absent = present(CONTESTANTS, peers())
    assert all(contestant.peer is None for contestant in able)
    assert {OURS, REFERENCE} < {contestant.name for contestant in able}
    assert [peer.name for peer in absent] == list(peers())


def test_every_contestants_environment_is_pinned() -> None:
    assert {c.peer for c in CONTESTANTS} - {None} == set(peers())
    for peer in peers().values():
        assert all(package.count("==") == 1 for package in peer.packages)
        assert len(set(peer.packages)) == len(peer.packages)


def test_an_environment_of_other_pins_is_not_there() -> None:
    peer = peers()["pfl"]
    peer.python.parent.mkdir(parents=True)
    peer.python.touch()
    assert not peer.installed  # an install that did not come to its end
    stamp = peer.home / "pins.json"
    stamp.write_text(json.dumps(peer.packages))
    assert peer.installed
    stamp.write_text(json.dumps([*peer.packages[1:], "pfl==0.0.1"]))
    assert not peer.installed


def test_only_peers_that_there_are_can_be_installed() -> None:
    with pytest.raises(ValueError, match="no peer is called tff; there are fedjax"):
        install(["tff"])


def test_a_peer_whose_python_is_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "version_info", SimpleNamespace(major=3, minor=99))
    with pytest.raises(RuntimeError, match=r"fedjax needs Python 3\.11 or 3\.12"):
        install(["fedjax"])


def test_processes_hand_back_rounds_and_loss() -> None:
    workload = regression(3, devices=4, rows_each=50)
    measured = run(workload, *(c for c in CONTESTANTS if c.name in (OURS, REFERENCE)))
    assert not measured.failed
    ours, loop = (measured.runs[name][0] for name in (OURS, REFERENCE))
    assert len(ours.seconds) == len(loop.seconds) == 3
    assert ours.loss == pytest.approx(loop.loss, rel=1e-5)
    assert ours.loss < workload.pooled_loss(workload.start)
    assert loop.startup > sum(loop.seconds[:1])
    assert 10 < loop.peak_mb < 1_000
    assert "numpy" in loop.versions


def test_who_fails_is_told_and_stops_nobody() -> None:
    loop = next(c for c in CONTESTANTS if c.name == REFERENCE)
    measured = run(regression(1, devices=2, rows_each=20), Contestant("none", "no_such"), loop)
    assert list(measured.runs) == [REFERENCE]
    assert "no_such" in measured.failed["none"]


def test_who_takes_too_long_is_stopped() -> None:
    loop = next(c for c in CONTESTANTS if c.name == REFERENCE)
    measured = run(regression(1, devices=2, rows_each=20), loop, timeout=0.01)
    assert measured.failed == {REFERENCE: "it was stopped after 0.01 seconds"}


def test_the_command_prints_the_table_and_keeps_the_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "reports" / "rounds.json"
    chosen = ["--only", REFERENCE, "numpy-sums", "pfl", "--json", str(kept)]
    assert main(["rounds", "W3", "--rounds", "1", "--repeats", "1", *chosen]) == 0
    printed = capsys.readouterr().out
    assert "50 devices, 100,000 rows" in printed
    assert "not measured: pfl-research" in printed
    assert "python -m benchmarks install pfl" in printed
    assert "fedjax" not in printed  # it was not asked for
    report = json.loads(kept.read_text())
    assert report["machine"]["cores"] >= 1
    w3 = report["workloads"]["W3"]
    assert [row["name"] for row in w3["rows"]] == [REFERENCE, "numpy-sums"]
    assert all(row["agrees"] for row in w3["rows"])
    assert len(w3["runs"][REFERENCE][0]["seconds"]) == 3  # two to warm up, one to count


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rounds", "W9"], "no workload is called 'W9'; there are W1, W2"),
        (["rounds", "--only", "tff"], "no contestant is called 'tff'"),
        (["rounds", "--repeats", "0"], "whole numbers from 1"),
        (["install", "tff"], "no peer is called tff"),
    ],
)
def test_mistakes_are_named(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err
