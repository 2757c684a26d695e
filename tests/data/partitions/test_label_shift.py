"""Drift: every round's split is a split, and its counts lie on the line between the two ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.data import Drift, Partition, audit, by_column, dirichlet, iid, label_table

Y = np.arange(2000) % 10


def drift_of(seed: int = 0, first: int = 5, last: int = 25) -> Drift:
    return Drift(dirichlet(Y, 6, 0.3, 1), dirichlet(Y, 6, 0.3, 2), Y, first, last, seed)


def counts(split: object) -> np.ndarray:
    return label_table(split, Y).to_numpy()  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 3), min_size=8, max_size=80),
    st.integers(1, 5),
    st.floats(0, 1),
    st.integers(0, 2**64 - 1),
)
def test_every_share_is_a_split_between_the_two(
    labels: list[int], devices: int, share: float, seed: int
) -> None:
    start, end = iid(len(labels), devices, 0), iid(len(labels), devices, 1)
    drift = Drift(start, end, labels, 0, 10, seed)
    split = drift.mixed(share)
    audit(split)
    assert sorted(np.concatenate(split.rows).tolist()) == list(range(len(labels)))
    here = split.device_of
    assert ((here == start.device_of) | (here == end.device_of)).all()
    assert split.names == start.names


def test_of_each_cell_the_share_has_moved_up_to_rounding() -> None:
    drift = drift_of()
    cells = np.stack([Y, drift.start.device_of, drift.end.device_of], axis=1)
    moving = cells[:, 1] != cells[:, 2]
    for share in np.linspace(0, 1, 11):
        gone = drift.mixed(share).device_of == cells[:, 2]
        for cell in np.unique(cells[moving], axis=0):
            of_cell = (cells == cell).all(axis=1)
            wanted = share * of_cell.sum()
            assert abs((gone & of_cell).sum() - wanted) < 1 + 1e-9


def test_counts_lie_on_the_line_on_average() -> None:
    """Over seeds, within five standard errors of (1 - s) start + s end."""
    share = 0.3
    drawn = np.array([counts(drift_of(seed).mixed(share)) for seed in range(80)])
    line = (1 - share) * counts(drift_of().start) + share * counts(drift_of().end)
    error = drawn.std(axis=0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(axis=0) - line) <= 5 * error + 1e-9).all()
    assert np.abs(drawn - line).max() < 6  # at most 5 cells enter and 5 leave, each rounded


def test_each_row_is_as_likely_to_go_first() -> None:
    """Ten rows of one cell, five gone at a half; chi-squared over 400 seeds, 99.9% below 27.9
    (9 degrees of freedom, and half the variance, as ten rows yield five without repeats)."""
    none, every = np.array([], dtype=np.int64), np.arange(10)
    start, end = (Partition(rows, (0, 1), 10, "") for rows in ((every, none), (none, every)))
    gone = np.zeros(10)
    for seed in range(400):
        moved = Drift(start, end, np.zeros(10, dtype=int), 0, 1, seed).mixed(0.5).rows[1]
        assert len(moved) == 5
        gone[moved] += 1
    assert ((gone - 200) ** 2 / (400 * 0.25) * 0.9).sum() < 27.9


def test_rounds_run_from_start_to_end_and_rows_move_once() -> None:
    drift = drift_of(first=5, last=25)
    assert [drift.share(r) for r in (0, 5, 10, 15, 25, 1000)] == [0, 0, 0.25, 0.5, 1, 1]
    assert drift.at(0) is drift.start
    assert drift.at(5) is drift.start
    assert drift.at(25) is drift.at(99) is drift.end
    rounds = np.array([drift.at(r).device_of for r in range(4, 27)])
    assert ((rounds[1:] != rounds[:-1]).sum(axis=0) <= 1).all()
    assert ((rounds[0] != rounds[-1]) == (drift.start.device_of != drift.end.device_of)).all()


def test_a_round_is_the_same_whenever_it_is_asked_for() -> None:
    late, early = drift_of(), drift_of()
    for r in (24, 6, 13):
        late.at(r)
    assert (late.at(13).device_of == early.at(13).device_of).all()
    assert (drift_of(seed=1).at(13).device_of != early.at(13).device_of).any()


def test_an_abrupt_drift_is_one_round_long() -> None:
    drift = drift_of(first=9, last=10)
    assert drift.at(9) is drift.start
    assert drift.at(10) is drift.end


def test_a_split_that_stays_does_not_drift() -> None:
    split = dirichlet(Y, 6, 0.3, 1)
    assert (Drift(split, split, Y, 0, 10, 0).at(5).device_of == split.device_of).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"end": iid(2000, 5, 0)}, "start splits 2000 rows over 6 devices, end 2000 over 5"),
        ({"end": iid(1999, 6, 0)}, "the same rows"),
        ({"end": by_column([f"ward {r % 6}" for r in range(2000)])}, "by name"),
        ({"labels": Y[:-1]}, "1999 labels for 2000 rows"),
        ({"last": 5}, "last is 5; it must be a whole number of at least 6"),
        ({"first": -1}, "first is -1"),
    ],
)
def test_a_drift_that_can_not_be_is_refused(changes: dict[str, object], message: str) -> None:
    given_ = {"start": iid(2000, 6, 0), "end": iid(2000, 6, 1), "labels": Y, "first": 5}
    with pytest.raises(ValueError, match=message):
        Drift(**{**given_, "last": 9, "seed": 0, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"it must lie in 0 \.\.\. 1"):
        drift_of().mixed(share)
