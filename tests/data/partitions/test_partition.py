"""Splits: no row twice, none lost, and the Dirichlet split is the field's, drawn from its law."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.core.randomness import Purpose, generator
from fedlab.data import (
    Partition,
    PartitionError,
    audit,
    by_column,
    dirichlet,
    iid,
    label_table,
    load_mnist5k,
)
from fedlab.data.partitions.dirichlet import SHARES, SHUFFLES, LabelSkew


def covers(partition: Partition) -> bool:
    """Whether it is a split, told in another way than the audit tells it."""
    return sorted(r for rows in partition.rows for r in rows.tolist()) == list(
        range(partition.total)
    )


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**64 - 1))
def test_iid_covers_evenly(total: int, devices: int, seed: int) -> None:
    devices = min(devices, total)
    split = iid(total, devices, seed)
    assert covers(split)
    assert max(split.sizes) - min(split.sizes) <= 1
    again = iid(total, devices, seed)
    assert all((a == b).all() for a, b in zip(split.rows, again.rows, strict=True))


def test_iid_puts_a_row_on_each_device_equally_often() -> None:
    """Chi-squared of where row 0 goes in 4,000 seeds: 99.9% of such counts lie below 29.6."""
    where = [
        next(d for d, rows in enumerate(iid(20, 10, s).rows) if 0 in rows) for s in range(4000)
    ]
    counts = np.bincount(where, minlength=10)
    assert ((counts - 400) ** 2 / 400).sum() < 29.6


@given(st.lists(st.sampled_from(["north", "south", "east", "west"]), min_size=1))
def test_by_column_gives_each_value_its_rows(values: list[str]) -> None:
    split = by_column(values)
    assert covers(split)
    assert list(split.names) == sorted(set(values))
    for name, rows in zip(split.names, split.rows, strict=True):
        assert rows.tolist() == [i for i, value in enumerate(values) if value == name]


def test_by_column_names_devices_by_plain_values() -> None:
    assert by_column(np.array([10, 9, 10])).names == (9, 10)  # by size, not as text
    assert by_column(pd.Series([2.0, 1.0], index=[5, 5])).names == (1, 2)
    assert by_column([True, False]).names == ("False", "True")
    assert all(type(name) is int for name in by_column(np.array([1, 2], np.int16)).names)
    with pytest.raises(ValueError, match=r"device column 'ward' is missing in 1 row \(1\)"):
        by_column(pd.Series(["a", None], name="ward"))


labels_of_classes = st.integers(1, 6).flatmap(
    lambda classes: st.lists(st.integers(0, classes - 1), min_size=40, max_size=200)
)


@settings(deadline=None)
@given(
    labels_of_classes,
    st.integers(1, 8),
    st.sampled_from([0.05, 0.3, 1.0, 100.0]),
    st.integers(0, 2**64 - 1),
    st.integers(0, 4),
)
def test_dirichlet_covers_and_keeps_its_minimum(
    labels: list[int], devices: int, alpha: float, seed: int, least: int
) -> None:
    try:
        split = dirichlet(labels, devices, alpha, seed, min_rows=least, tries=300)
    except ValueError:
        if least == 0:  # without a minimum the first try does
            raise
        return
    assert covers(split)
    assert min(split.sizes) >= least
    again = dirichlet(labels, devices, alpha, seed, min_rows=least, tries=1000)
    assert all((a == b).all() for a, b in zip(split.rows, again.rows, strict=True))


def niid_bench(
    y: np.ndarray, n_parties: int, beta: float, least: int, shares: np.random.Generator,
    shuffles: np.random.Generator,
) -> list[list[int]]:  # fmt: skip
    """The rule as NIID-Bench's ``partition_data`` states it, on lists of rows, written apart from
    ours. Rows are shuffled at the end, as our draws are."""
    size, total = 0, len(y)
    while size < least:
        batches: list[list[tuple[int, int]]] = [[] for _ in range(n_parties)]
        for k in sorted(set(y.tolist())):
            of_class = int((y == k).sum())
            p = shares.dirichlet(np.repeat(beta, n_parties))
            p = np.array(
                [q * (len(b) < total / n_parties) for q, b in zip(p, batches, strict=True)]
            )
            p = p / p.sum()
            cuts = (np.cumsum(p) * of_class).astype(int)[:-1]
            for batch, part in zip(batches, np.split(np.arange(of_class), cuts), strict=True):
                batch.extend((k, int(place)) for place in part)
        size = min(len(batch) for batch in batches)
    order = {k: shuffles.permutation(np.where(y == k)[0]) for k in sorted(set(y.tolist()))}
    return [sorted(int(order[k][place]) for k, place in batch) for batch in batches]


@pytest.mark.parametrize("alpha", [0.1, 0.5, 5.0])
@pytest.mark.parametrize("seed", range(5))
def test_dirichlet_equals_the_fields_rule_on_the_same_draws(alpha: float, seed: int) -> None:
    y = np.random.default_rng(seed).integers(7, size=900)
    split = dirichlet(y, 12, alpha, seed, min_rows=3)
    shares = generator(seed, Purpose.PARTITION, part=SHARES)
    shuffles = generator(seed, Purpose.PARTITION, part=SHUFFLES)
    assert [r.tolist() for r in split.rows] == niid_bench(y, 12, alpha, 3, shares, shuffles)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_class_shares_follow_the_dirichlet(alpha: float) -> None:
    """Of the first class, whose shares nothing has capped yet: mean 1/n and variance
    (1/n)(1 - 1/n) / (n alpha + 1), each within five standard errors."""
    n, seeds, rows = 5, 3000, 1_000_000
    shares = np.array(
        [
            LabelSkew(np.array([rows, rows]), n, alpha, seed, 0).counts(1)[0][0] / rows
            for seed in range(seeds)
        ]
    )
    variance = (1 / n) * (1 - 1 / n) / (n * alpha + 1)
    assert np.abs(shares.mean(axis=0) - 1 / n).max() < 5 * np.sqrt(variance / seeds)
    squares = (shares - 1 / n) ** 2
    assert np.abs(squares.mean(axis=0) - variance).max() < 5 * squares.std() / np.sqrt(seeds)


def test_a_device_with_its_fair_part_gets_no_more() -> None:
    """But for the last, which the field's rule gives the row that rounding may leave over."""
    capped = 0
    for seed in range(50):
        counts, _ = LabelSkew(np.full(8, 100), 10, 0.3, seed, 0).counts(1)
        full = np.cumsum(counts, axis=0) - counts >= 80
        capped += full.sum()
        assert (counts[:, :-1][full[:, :-1]] == 0).all()
        assert (counts[:, -1][full[:, -1]] <= 1).all()
    assert capped > 100


def test_all_shares_on_full_devices_are_drawn_again() -> None:
    """At alpha 1e-6 a class falls on one device whole, often on one that is full (0 / 0)."""
    for seed in range(30):
        counts, _ = LabelSkew(np.full(10, 50), 10, 1e-6, seed, 0).counts(1)
        assert counts.sum() == 500
        assert (counts.sum(axis=0) == 50).all()  # ten classes, ten devices, one each
    zeros = sum(
        generator(seed, Purpose.PARTITION, part=SHARES).dirichlet(np.full(10, 1e-6)).max() == 1.0
        for seed in range(30)
    )
    assert zeros == 30  # so the plain rule would divide by zero, wherever that device is full


def test_a_large_alpha_tends_to_iid() -> None:
    table = label_table(
        dirichlet(np.repeat(np.arange(10), 1000), 10, 1e5, 0), np.repeat(np.arange(10), 1000)
    )
    assert np.abs(table.to_numpy() - 100).max() < 10


@pytest.mark.parametrize(("devices", "alpha"), [(100, 0.1), (40, 0.01)])
def test_a_split_that_is_not_found_names_what_does(devices: int, alpha: float) -> None:
    labels = np.repeat(np.arange(10), 500)
    with pytest.raises(ValueError, match="in 200 tries, no Dirichlet") as caught:
        dirichlet(labels, devices, alpha, 0, tries=200)
    hint = str(caught.value)
    larger = float(re.search(r"alpha=([\d.e+-]+)", hint).group(1))  # type: ignore[union-attr]
    fewer = int(re.search(r"devices=(\d+)", hint).group(1))  # type: ignore[union-attr]
    assert larger > alpha
    assert fewer < devices
    assert min(dirichlet(labels, devices, larger, 0, tries=200).sizes) >= 10
    assert min(dirichlet(labels, fewer, alpha, 0, tries=200).sizes) >= 10


def test_mnist5k_at_alpha_a_tenth_takes_tens_of_tries_for_50_devices(
    pulled: Callable[[str], None],
) -> None:
    """Measured elsewhere on the field's code: 20 to 80 tries."""
    pulled("mnist5k")
    y = load_mnist5k().y
    tries = [
        int(re.search(r"try (\d+)", dirichlet(y, 50, 0.1, seed).how).group(1))  # type: ignore[union-attr]
        for seed in range(20)
    ]
    assert 20 <= np.median(tries) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "alpha is 0.0; it takes 1e-06"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"alpha": 1e300}, r"alpha is 1e\+300"),
        ({"tries": 0}, "tries is 0"),
        ({"min_rows": -1}, "min_rows is -1"),
        ({"devices": 0}, r"devices is 0; .* allow 1 \.\.\. 10"),
        ({"devices": 11}, r"devices is 11; 100 rows, with at least 10 a device, allow 1 \.\.\. 10"),
        ({"labels": [0, None] * 50}, "missing in 50 rows"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments: dict[str, object], message: str) -> None:
    given_ = {"labels": np.arange(100) % 4, "devices": 5, "alpha": 0.5, "seed": 0, **arguments}
    with pytest.raises(ValueError, match=message):
        dirichlet(**given_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "names", "total", "message"),
    [
        ([[0, 1], [1, 2]], ("a", "b"), 3, r"1 row \(1\) held twice, by 'a', 'b'"),
        ([[0, 0], [1, 2]], ("a", "b"), 3, r"1 row \(0\) held twice, by 'a'"),
        ([[0, 1], [3]], ("a", "b"), 4, r"1 row \(2\) in no device"),
        ([[0], [2]], ("a", "b"), 9, r"7 rows \(1, 3, 4, 5, 6, \.\.\.\) in no device"),
        ([[0, 1], [2]], ("a", "b"), 2, r"1 row \(2\) outside 0 \.\.\. 1"),
        ([[-1, 0], [1]], ("a", "b"), 2, r"1 row \(-1\) outside"),
        ([[0], [1]], ("a", "a"), 2, "share a name: a"),
        ([[0], [1]], ("a",), 2, "1 names for 2 devices"),
        ([[0.5], [1]], ("a", "b"), 2, "type float64; they take integers"),
        ([[True], [False]], ("a", "b"), 2, "type bool"),
        ([[[0]], [1]], ("a", "b"), 2, r"shape \(1, 1\)"),
        ([], (), 0, "0 rows over 0 devices"),
    ],
)
def test_a_split_that_is_none_can_not_be_made(
    rows: list[list[int]], names: tuple[str, ...], total: int, message: str
) -> None:
    with pytest.raises(PartitionError, match=message):
        Partition(tuple(np.array(r) for r in rows), names, total, "by hand")


@given(st.data())
def test_the_audit_finds_every_fault_put_in(data: st.DataObject) -> None:
    total, devices = data.draw(st.integers(4, 60)), data.draw(st.integers(2, 4))
    rows = [r.copy() for r in iid(total, devices, data.draw(st.integers(0, 99))).rows]
    victim = data.draw(st.integers(0, devices - 1))
    fault = data.draw(st.sampled_from(["lose", "double", "overlap", "stray"]))
    if fault == "lose":
        rows[victim] = rows[victim][1:]
    elif fault == "double":
        rows[victim] = np.append(rows[victim], rows[victim][0])
    elif fault == "overlap":
        rows[victim] = np.append(rows[victim], rows[victim - 1][0])
    else:
        rows[victim] = np.append(rows[victim], data.draw(st.sampled_from([-1, total, 2**40])))
    with pytest.raises(PartitionError):
        Partition(tuple(rows), tuple(range(devices)), total, "by hand")


def test_a_split_can_not_be_changed_and_leaves_the_callers_arrays_alone() -> None:
    mine = np.array([0, 1])
    split = Partition((mine, np.array([2])), (0, 1), 3, "by hand")
    mine[0] = 2
    audit(split)
    with pytest.raises(ValueError, match="read-only"):
        split.rows[0][0] = 2


def test_a_device_may_be_empty() -> None:
    assert Partition((np.array([]), np.array([0])), (0, 1), 1, "by hand").sizes == (0, 1)


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=5, max_size=60), st.integers(1, 5))
def test_the_label_table_counts(labels: list[str], devices: int) -> None:
    split = iid(len(labels), devices, 3)
    table = label_table(split, labels)
    device = np.empty(len(labels), dtype=int)
    for name, rows in zip(split.names, split.rows, strict=True):
        device[rows] = name
    expected = pd.crosstab(device, np.array(labels))
    assert table.to_numpy().tolist() == expected.to_numpy().tolist()
    assert (table.index.name, table.columns.name) == ("device", "label")
    with pytest.raises(ValueError, match="labels for"):
        label_table(split, [*labels, "a"])
