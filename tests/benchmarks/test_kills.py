"""A smaller share of the kills; and that the campaign would notice a save that does not hold."""

from __future__ import annotations

import ast
import inspect
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.kills import CALLS, Target, at_moments, at_random, main, moments
from fedlab.files import atomic
from fedlab.files.keys import Key
from fedlab.index.vectorindex import VectorIndex

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork and signals")

#: What touches no file.
HARMLESS = {"PathLike", "fspath", "urandom"}


def index(seed: int, rows: int = 300) -> VectorIndex:
    made = VectorIndex(16, "l2sq")
    made.add(np.random.default_rng(seed).normal(size=(rows, 16)), labels=["a"] * rows)
    return made


def target(folder: Path, key: Key | None = None, rows: int = 300) -> Target:
    return Target.of(folder / "ward.index", index(0, rows), index(1, rows), key)


def total(counts: dict[str, Counter[str]]) -> Counter[str]:
    return sum(counts.values(), Counter())


def test_all_calls_that_a_save_makes_are_among_those_that_are_traced():
    save = (
        atomic.replacing,
        atomic._remove_leftovers,
        atomic._create_beside,
        atomic._lock,
        atomic._sync_folder,
    )
    called = {
        node.attr
        for function in save
        for node in ast.walk(ast.parse(inspect.getsource(function)))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and callable(getattr(os, node.attr))
    }
    assert called - HARMLESS <= set(CALLS)
    assert {"open", "fsync", "replace", "close"} <= called


@pytest.mark.parametrize("key", [None, Key.generate()], ids=["plain", "sealed"])
@pytest.mark.parametrize("leftover", [False, True])
def test_a_kill_before_or_after_any_call_leaves_the_old_index_or_the_new(key, leftover, tmp_path):
    counts = at_moments("here", target(tmp_path, key), leftover)
    ends = total(counts)
    assert ends["old"] + ends["new"] == ends["kills"] > 25
    assert ends["torn"] == ends["left after the next save"] == 0
    assert ends["with a temporary file"] > 10
    assert set(counts["here, before replace"]) == {"kills", "old", "with a temporary file"}
    assert set(counts["here, after replace"]) == {"kills", "new"}
    for what in ("open", "file.write", "file.flush", "fsync", "file.close", "flock"):
        assert {f"here, before {what}", f"here, after {what}"} <= set(counts)


def test_kills_at_random_times(tmp_path):
    ends = total(at_random("here", target(tmp_path, Key.generate(), 20_000), kills=6, seed=1))
    assert ends["kills"] == 6 == ends["old"] + ends["new"]
    assert ends["torn"] == ends["left after the next save"] == 0


class InPlace(Target):
    """Saves as most libraries do."""

    def save(self) -> None:
        aside = replace(self, path=self.path.with_name("aside"))
        Target.save(aside)
        content = aside.path.read_bytes()
        aside.path.unlink()
        with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_TRUNC), "wb") as file:
            file.write(content[:1000])
            file.flush()
            file.write(content[1000:])


def test_the_control_a_save_in_place_is_found_torn(tmp_path):
    good = target(tmp_path)
    bad = InPlace(good.path, None, good.old, good.new, good.known)
    assert "after file.flush" in moments(bad)
    counts = at_moments("here", bad, every=2)
    assert total(counts)["torn"] > 1


def test_the_control_what_is_left_is_counted(tmp_path):
    one = target(tmp_path)
    (tmp_path / "left").touch()
    assert list(one.after_kill()) == ["old", "with a temporary file", "left after the next save"]


def test_the_command_prints_counts_and_says_by_its_status_how_it_went(capsys, monkeypatch):
    from benchmarks import kills

    few = ["--kills", "1", "--random", "2", "--megabytes", "2"]
    monkeypatch.setattr(kills, "_small", lambda *_: None)
    monkeypatch.setattr(kills, "at_moments", lambda name, *_: {name: Counter(kills=3, old=3)})
    assert main(few) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("14 kills, 12 of them before or after a call: ")
    assert "0 torn" in said
    bad = Counter(kills=3, old=2, torn=1)
    monkeypatch.setattr(kills, "at_moments", lambda name, *_: {name: bad})
    assert main(few) == 1
