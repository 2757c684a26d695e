"""The net under refactorings: what counts as the same bits, and that it notices what is not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks import bits
from benchmarks.bits import Told, compared, digest, table
from benchmarks.scenarios import found, scenarios


def test_equal_bits_have_one_digest_and_others_have_others() -> None:
    values = np.linspace(0, 1, 7)
    assert digest(values) == digest(values.copy()) == digest(np.repeat(values, 2)[::2])
    near = values.copy()
    near[3] = np.nextafter(near[3], 1)
    others = [near, -values, values.astype(np.float32), values[None], values[:6], values.tolist()]
    digests = [digest(values), *map(digest, others)]
    assert len(set(digests)) == len(digests)
    assert digest(0.0) != digest(-0.0)
    assert digest(["ab", "c"]) != digest(["a", "bc"])
    assert digest({"a": values, "b": 1}) == digest({"b": 1, "a": values})
    assert digest({"a": values, "b": 1}) != digest({"a": near, "b": 1})


def test_frames_count_without_their_order_and_wall_times() -> None:
    frame = pd.DataFrame({"round": [1, 2], "metric": ["loss", "loss"], "value": [0.5, 0.25]})
    timed = frame.assign(wall_seconds=[3.0, 4.0])
    walls = pd.DataFrame({"round": [1], "metric": ["wall_seconds"], "value": [9.0]})
    for same in (
        frame[::-1],
        timed,
        pd.concat([frame, walls]),
        frame[["value", "round", "metric"]],
    ):
        assert digest(same) == digest(frame)
    moved = frame.assign(value=[0.5, np.nextafter(0.25, 1)])
    for other in (
        moved,
        frame[:1],
        frame.assign(round=[1, 3]),
        frame.set_index("round")[["value"]],
    ):
        assert digest(other) != digest(frame)


def test_the_table_says_what_differs_and_why_something_is_missing() -> None:
    then = Told({("W1", "history"): "a", ("W1", "parameters"): "b", ("W2", "history"): "c"})
    now = Told({("W1", "history"): "x", ("W1", "parameters"): "b"}, {"W2": "KeyError: 'rows'"})
    rows = compared(then, now)
    assert rows == [
        ("W1", "parameters", "same"),
        ("W1", "history", "differs"),
        ("W2", "history", "missing here: KeyError: 'rows'"),
    ]
    said = table(rows).splitlines()
    assert said[2].split() == ["W1", "history", "differs"]
    assert said[-1] == "1 same, 1 differs, 1 missing"
    failed = Told({}, {"W2": "KeyError: 'rows'"})
    assert compared(failed, failed) == [("W2", "", "missing in both: KeyError: 'rows'")]
    crashed = compared(then, Told({}, {"": "ended with -11: it said nothing"}))
    assert {verdict for *_, verdict in crashed} == {"missing here: ended with -11: it said nothing"}


def test_a_name_is_taken_from_where_it_is() -> None:
    assert found("prod", "no.such.module", "itertools", "math")(range(1, 4)) == 6
    with pytest.raises(ImportError, match="no tree: No module named 'nowhere'"):
        found("tree", "nowhere", "math")


def test_a_scenario_gives_the_same_digests_again() -> None:
    run = scenarios([1])["weights, uniform | plain"]
    once, again = ({part: digest(value) for part, value in run()} for _ in range(2))
    assert once == again
    assert {"parameters", "history", "remarks"} < once.keys()


def test_what_cannot_be_compared_is_told() -> None:
    with pytest.raises(RuntimeError, match="no-such-revision"):
        bits.main(["--against", "no-such-revision"])
    with pytest.raises(ValueError, match="--threads takes whole numbers from 1"):
        bits.main(["--against", "HEAD", "--threads", "0"])
