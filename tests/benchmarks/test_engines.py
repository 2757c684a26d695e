"""The benchmark of engines: what it compares, how it sums up, what flipped bytes do."""

from __future__ import annotations

import json
import os
import signal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks import engines
from benchmarks.flips import ENDS, FILES, File, _ended, flipped
from fedlab.index.engines import ENGINES, HNSW, FaissIVFPQ
from fedlab.index.vectorindex import VectorIndex
from tests.helpers import clustered

posix = pytest.mark.skipif(os.name == "nt", reason="needs fork and signals")


def test_every_engine_and_every_type_takes_part() -> None:
    for rows, dimensions in ((1000, 16), (20_000, 100), (100_000, 384)):
        known = engines.contestants(rows, dimensions)
        assert {one.engine.name for one in known if one.engine} == set(ENGINES)
        assert {one.dtype for one in known} == {"f32", "f16", "bf16", "i8", "b1"}
        assert len({one.name for one in known}) == len(known)
        for one in known:
            index = VectorIndex(dimensions, "cosine", one.dtype, one.engine or HNSW())
            for settings in one.settings():
                index.tune(**settings)


def test_the_mixture_is_the_same_however_many_rows_are_drawn_and_queries_are_others() -> None:
    rows, queries = engines.mixture(10_500, 8, part=1), engines.mixture(10_500, 8, part=2)
    np.testing.assert_array_equal(rows[:10_000], engines.mixture(10_000, 8, part=1))
    assert {row.tobytes() for row in rows}.isdisjoint(query.tobytes() for query in queries)
    assert rows.var() == pytest.approx(2, rel=0.1)  # of the centres 1, about them 1


def test_the_fastest_setting_that_reaches_a_recall_counts() -> None:
    def run(*speeds: float) -> dict[str, object]:
        recalls = (0.90, 0.96, 0.97, 0.995)
        return {
            "name": "x",
            "build_seconds": speeds[0],
            "bytes_a_vector": 10.0,
            "file_bytes": 100.0,
            "tried": [
                {"settings": {"n": n}, "recall": recall, "queries_a_second": speed}
                for n, (recall, speed) in enumerate(zip(recalls, speeds, strict=True))
            ],
        }

    (row,) = engines.summarised([run(9, 5, 6, 1), run(8, 5, 7, 2), run(7, 9, 8, 3)])
    assert (row.build.low, row.build.middle, row.build.high) == (7, 8, 9)
    best = row.speeds[0.95]
    assert best is not None
    assert (best[0], best[1].low, best[1].middle, best[1].high) == ({"n": 2}, 6, 7, 8)
    best = row.speeds[0.99]
    assert best is not None
    assert (best[0], best[1].middle) == ({"n": 3}, 2)
    assert row.best_recall == 0.995
    run_without = run(1, 1, 1, 1)
    run_without["tried"] = run_without["tried"][:2]  # type: ignore[index]
    assert engines.summarised([run_without])[0].speeds[0.99] is None


@posix
def test_the_command_measures_and_writes_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "reports/engines.json"
    given = ["--rows", "1000", "--dimensions", "16", "--queries", "30", "--repeats", "1"]
    chosen = ["--only", "scan, f32", "graph, f32", "--flips", "3", "--json", str(out)]
    assert engines.main([*given, *chosen]) == 0
    report = json.loads(out.read_text())
    assert [run["name"] for run in report["runs"]] == ["scan, f32", "graph, f32"]
    scan, graph = report["runs"]
    assert [one["recall"] for one in scan["tried"]] == [1.0]
    assert graph["tried"][0]["settings"] == {"expansion_search": 16}
    assert graph["tried"][-1]["recall"] > 0.99
    assert graph["bytes_a_vector"] > scan["bytes_a_vector"] == 16 * 4 + 12
    assert graph["file_bytes"] > scan["file_bytes"] > 1000 * 16 * 4
    assert report["flips"]["fedlab"] == {"refused": 3}
    assert sum(report["flips"]["graph"].values()) == 3
    printed = capsys.readouterr().out
    assert "scan, f32" in printed
    assert "other answers" in printed


def test_names_that_nobody_has_are_refused() -> None:
    with pytest.raises(ValueError, match="no name holds scann; there are scan, f32"):
        engines.main(["--only", "scann"])
    with pytest.raises(ValueError, match="--rows takes a whole number from 1000"):
        engines.main(["--rows", "10"])


@posix
@pytest.mark.parametrize(
    ("engine", "whose"), [(HNSW(), "fedlab"), (FaissIVFPQ(8, 4, 4), "fedlab"), (HNSW(), "graph")]
)
def test_a_flipped_byte_is_refused_by_us_and_not_by_all(engine: HNSW, whose: str) -> None:
    rows = clustered(400, 8)
    ends = flipped(FILES[whose], engine, rows, rows[:5], trials=12)
    assert sum(ends.values()) == 12
    assert set(ends) <= set(ENDS)
    assert (ends["refused"] == 12) == (whose == "fedlab")


@posix
def test_each_end_is_told_from_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.flips._SECONDS", 1)
    expected, queries = np.array([[1, 2]]), np.zeros((1, 2), np.float32)

    def ended(search: object) -> str:
        file = File(lambda index, path: None, search)  # type: ignore[arg-type]
        return _ended(file, tmp_path / "any", queries, expected)

    def hang(*_: object) -> None:
        while True:
            pass

    assert ended(lambda path, queries: expected) == "same answers"
    assert ended(lambda path, queries: expected + 1) == "other answers"
    assert ended(lambda path, queries: int("x")) == "refused"
    assert ended(lambda path, queries: os.kill(os.getpid(), signal.SIGSEGV)) == "crashed"
    assert ended(lambda path, queries: os._exit(1)) == "crashed"
    assert ended(hang) == "hung"


@posix
@pytest.mark.skipif(find_spec("annoy") is None, reason="annoy is not installed")
def test_annoys_own_file_gives_the_answers_that_it_was_saved_with() -> None:
    from fedlab.index.engines import Annoy

    rows = clustered(400, 8)
    assert sum(flipped(FILES["annoy"], Annoy(trees=5), rows, rows[:5], trials=3).values()) == 3
