"""Trials of saved files do what they say, and tell a store that holds from one that doesn't."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab import VectorIndex
from fedlab.workbench.experiments import files as store_trials
from tests.helpers import DTYPES, filled, normal


@pytest.fixture(scope="module")
def index() -> VectorIndex:
    index = filled(normal(400, 12), labels=np.arange(400))
    index.build_graph()
    return index


def test_only_a_seal_withstands_who_writes_a_new_digest(index):
    counted = store_trials.altered_files(index, 8, seed=3)
    assert counted.loc["nothing (control)"].tolist() == ["0 of 8", "0 of 8"]
    assert counted.loc["a number edited, with a digest that fits"].tolist() == ["0 of 8", "8 of 8"]
    others = counted.drop(["nothing (control)", "a number edited, with a digest that fits"])
    assert len(others) == 5
    assert (others == "8 of 8").all(axis=None)
    assert index.generation == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_edited_file_opens_with_one_number_changed(dtype, tmp_path):
    index = filled(normal(40, 12), "cosine", dtype)
    path = tmp_path / "device.index"
    index.save(path)
    path.write_bytes(store_trials._edited(path, np.random.default_rng(0)))
    found = VectorIndex.open(path)
    changed = found.vectors != index.vectors
    assert changed.sum() == 1
    now, before = found.vectors[changed], index.vectors[changed]
    if dtype == "b1":  # a bit is a sign
        assert now == -before
    else:
        np.testing.assert_allclose(now, before, rtol=0.01, atol=0.03)


def test_a_store_that_checks_nothing_is_told_apart(index, monkeypatch):
    monkeypatch.setattr(store_trials.VectorIndex, "open", lambda path, key, at_least: None)
    assert (store_trials.altered_files(index, 2) == "0 of 2").all(axis=None)


def test_ways_change_files_as_they_are_called():
    draw = np.random.default_rng(0)
    content = np.random.default_rng(1).bytes(20_000)
    flipped = np.frombuffer(store_trials.flipped(content, draw, 99, 100), np.uint8)
    differ = np.flatnonzero(flipped != np.frombuffer(content, np.uint8))
    assert differ.tolist() == [99]
    moved = store_trials._exchanged(content, draw)
    assert moved != content
    assert sorted(moved) == sorted(content)
    spliced = store_trials.spliced(b"b" * 100, b"a" * 100, draw)
    assert spliced.lstrip(b"b") == b"a" * spliced.count(b"a")
    assert 0 < spliced.count(b"a") < 100 == len(spliced)
    assert content.startswith(store_trials.cut(content, draw))


def test_killed_saves_leave_whole_files(index):
    counted = store_trials.killed_saves(index, 3, seed=1)
    assert counted[["kills", "whole", "after the next save"]].tolist() == [3, 3, 0]
    assert 0 <= counted["temporary files"] <= 3
    assert index.generation == 0


def test_a_saver_that_cannot_begin_is_told(index, tmp_path):
    with pytest.raises(RuntimeError, match="ended before it began"):
        store_trials._kill_a_saver(tmp_path / "absent", store_trials.Key.generate(), 0.0)


def test_sealing_costs_bytes_that_are_known(index):
    costs = store_trials.sealing_costs(index, times=1)
    assert costs.index.tolist() == ["plain", "sealed", "ratio"]
    # Magic, version and header, the stream's 24 bytes, and 17 a chunk.
    assert 16 + 24 + 17 < costs.bytes["sealed"] - costs.bytes["plain"] < 400
    assert (costs[["save", "open"]] > 0).all(axis=None)
    assert costs.save["ratio"] == costs.save["sealed"] / costs.save["plain"]
