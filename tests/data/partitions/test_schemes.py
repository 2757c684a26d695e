"""Classes per device, quantity skew and shards: the field's rules, and no row lost."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.core.randomness import Purpose, generator
from fedlab.data import (
    Partition,
    by_classes,
    by_quantity,
    dirichlet,
    label_table,
    quantity_gini,
    shards,
)
from fedlab.data.partitions.dirichlet import SHUFFLES

DIGITS = np.arange(6000) % 10
seeds = st.integers(0, 2**64 - 1)


def covers(split: Partition) -> bool:
    return sorted(np.concatenate(split.rows).tolist()) == list(range(split.total))


def same(a: Partition, b: Partition) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.rows, b.rows, strict=True))


def test_device_of_is_the_inverse_of_rows() -> None:
    split = dirichlet(DIGITS, 7, 0.5, 3)
    for place, rows in enumerate(split.rows):
        assert np.flatnonzero(split.device_of == place).tolist() == sorted(rows.tolist())


# -- classes per device ----------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 6), seeds, st.randoms())
def test_each_device_has_exactly_its_classes_evenly_cut(
    classes: int, devices: int, k: int, seed: int, random: object
) -> None:
    k = min(k, classes)
    labels = np.repeat(np.arange(classes), np.arange(classes) + 12)
    random.shuffle(labels)  # type: ignore[attr-defined]
    try:
        split = by_classes(labels, devices, k, seed)
    except ValueError:
        if devices >= classes:  # then each class has an owner, and 12 rows do for 12 owners
            raise
        return
    assert covers(split)
    assert same(split, by_classes(labels, devices, k, seed))
    table = label_table(split, labels).to_numpy()
    assert ((table > 0).sum(axis=1) == k).all()
    for device in range(devices):
        assert table[device, device % classes] > 0
    for column in table.T:
        held = column[column > 0]
        assert held.max() - held.min() <= 1


def niid_bench_classes(
    y: np.ndarray, devices: int, k: int, owners: list[list[int]], shuffles: np.random.Generator
) -> list[list[int]]:
    """How NIID-Bench deals rows once it knows who owns what, as its ``noniid-#label`` states it."""
    rows: list[list[int]] = [[] for _ in range(devices)]
    for label in range(int(y.max()) + 1):
        times = sum(label in owned for owned in owners)
        parts = np.array_split(shuffles.permutation(np.where(y == label)[0]), times)
        which = 0
        for device in range(devices):
            if label in owners[device]:
                rows[device].extend(parts[which].tolist())
                which += 1
    return [sorted(some) for some in rows]


@pytest.mark.parametrize(("devices", "k"), [(10, 1), (10, 3), (23, 2), (7, 10)])
def test_rows_are_dealt_by_the_fields_rule(devices: int, k: int) -> None:
    y = np.random.default_rng(k).integers(10, size=997)
    split = by_classes(y, devices, k, seed=5)
    owners = [np.flatnonzero(row).tolist() for row in label_table(split, y).to_numpy()]
    shuffles = generator(5, Purpose.PARTITION, part=SHUFFLES)
    expected = niid_bench_classes(y, devices, k, owners, shuffles)
    assert [rows.tolist() for rows in split.rows] == expected


def test_other_classes_are_drawn_evenly() -> None:
    """Device 0 of 10, k=3: each of the 36 pairs of others is as likely. 99.9% of such chi-squared
    (35 degrees of freedom) lie below 66.6."""
    pairs: dict[tuple[int, ...], int] = {}
    labels = np.repeat(np.arange(10), 10)
    for seed in range(1080):
        device = by_classes(labels, 10, 3, seed).rows[0]
        pair = tuple(sorted(set(labels[device].tolist()) - {0}))
        pairs[pair] = pairs.get(pair, 0) + 1
    assert len(pairs) == 36
    assert sum((count - 30) ** 2 / 30 for count in pairs.values()) < 66.6


def test_all_classes_on_each_device_is_an_even_cut_of_each() -> None:
    table = label_table(by_classes(DIGITS, 8, 10, 0), DIGITS).to_numpy()
    assert (table == 75).all()


def test_fewer_devices_than_classes_are_drawn_until_every_class_has_an_owner() -> None:
    labels = np.repeat(np.arange(6), 10)
    for seed in range(20):
        split = by_classes(labels, 3, 2, seed)  # a fit of three pairs: one draw in dozens
        assert covers(split)
        assert split.sizes == (20, 20, 20)


@pytest.mark.parametrize(
    ("labels", "devices", "k", "message"),
    [
        (DIGITS, 4, 2, "did not give every one of 10 classes .* an owner; take a larger k, or at"),
        (DIGITS, 10, 11, "k is 11; it must be a whole number of at least 1 and at most 10"),
        (DIGITS, 10, 0, "k is 0"),
        ([0, 1, 1, 1, 1, 1, 1, 1], 4, 2, "a row for each owner; take fewer devices or a smaller k"),
        ([0] * 30 + [1], 3, 2, "of 1 rows and more"),
        ([0, 1], 3, 1, "devices is 3"),
    ],
)
def test_classes_that_can_not_be_dealt_are_refused(
    labels: list[int], devices: int, k: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        by_classes(labels, devices, k, 0)


def test_a_refusal_that_names_a_number_of_devices_is_right() -> None:
    with pytest.raises(ValueError, match="at least") as caught:
        by_classes(DIGITS, 4, 2, 0)
    devices = int(re.search(r"at least (\d+) devices", str(caught.value)).group(1))  # type: ignore[union-attr]
    assert covers(by_classes(DIGITS, devices, 2, 0))


# -- quantity --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    st.integers(20, 400), st.integers(1, 8), st.sampled_from([0.1, 0.5, 1.0, 50.0]), seeds,
    st.integers(0, 2),
)  # fmt: skip
def test_quantity_skew_covers_and_keeps_its_minimum(
    total: int, devices: int, alpha: float, seed: int, least: int
) -> None:
    if alpha == 0.1:  # six devices with a tenth of twenty rows each: no draw of 100,000 has them
        devices = min(devices, 4)
    split = by_quantity(total, devices, alpha, seed, min_rows=least, tries=100_000)
    assert covers(split)
    assert min(split.sizes) >= least
    assert same(split, by_quantity(total, devices, alpha, seed, min_rows=least, tries=100_000))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 20.0])
def test_sizes_follow_the_dirichlet(alpha: float) -> None:
    """Mean 1/n and variance (1/n)(1 - 1/n) / (n alpha + 1), within five standard errors."""
    n, total, draws = 4, 2000, 700
    sizes = [by_quantity(total, n, alpha, seed, min_rows=0).sizes for seed in range(draws)]
    shares = np.array(sizes) / total
    variance = (1 / n) * (1 - 1 / n) / (n * alpha + 1)
    assert np.abs(shares.mean(axis=0) - 1 / n).max() < 5 * np.sqrt(variance / draws) + 1 / total
    squares = (shares - 1 / n) ** 2
    slack = 5 * squares.std(axis=0).max() / np.sqrt(draws) + 1 / total
    assert np.abs(squares.mean(axis=0) - variance).max() < slack


def test_gini_of_uniform_shares_has_its_known_mean() -> None:
    """With alpha=1, shares are spacings of uniform points: E G = (n - 1) / (2 n)."""
    ginis = [quantity_gini(by_quantity(5000, 10, 1.0, s, min_rows=0).sizes) for s in range(300)]
    assert abs(np.mean(ginis) - 0.45) < 5 * np.std(ginis) / np.sqrt(300)


def test_rows_of_a_quantity_split_are_shuffled() -> None:
    """The mean row of a device of m among N has mean (N - 1)/2, variance (N + 1)(N - m)/(12 m)."""
    total = 300
    z = []
    for seed in range(200):
        rows = by_quantity(total, 3, 1.0, seed).rows[0]
        variance = (total + 1) * (total - len(rows)) / (12 * len(rows))
        z.append((rows.mean() - (total - 1) / 2) / np.sqrt(variance))
    assert abs(np.mean(z)) < 5 / np.sqrt(200)
    assert 0.5 < np.var(z) < 1.5


def test_a_quantity_split_says_what_it_is_and_what_would_do() -> None:
    assert by_quantity(1000, 5, 0.5, 0).how.startswith("Dirichlet(0.5) quantity skew over 5")
    with pytest.raises(ValueError, match=r"no Dirichlet.* quantity skew .*this does: alpha="):
        by_quantity(1000, 50, 0.05, 0, tries=50)
    with pytest.raises(ValueError, match=r"devices is 11; 100 rows, .* allow 1 \.\.\. 10"):
        by_quantity(100, 11, 0.5, 0)
    with pytest.raises(ValueError, match="alpha is nan"):
        by_quantity(100, 5, float("nan"), 0)


# -- shards ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 4), min_size=12, max_size=150), st.integers(1, 4), st.integers(1, 3),
    seeds,
)  # fmt: skip
def test_shards_cover_and_are_runs_of_the_sorted_rows(
    labels: list[int], devices: int, each: int, seed: int
) -> None:
    split = shards(labels, devices, seed, shards_each=each)
    assert covers(split)
    ordered = sorted(range(len(labels)), key=lambda row: labels[row])  # stable
    pieces = [set(part.tolist()) for part in np.array_split(np.array(ordered), devices * each)]
    for rows in split.rows:
        mine = set(rows.tolist())
        whole = [piece for piece in pieces if piece <= mine]
        assert len(whole) == each
        assert sum(map(len, whole)) == len(mine)


def test_mcmahans_mnist_has_600_rows_and_at_most_two_digits_a_device() -> None:
    """60,000 rows in 200 shards of 300: where digits are equally many, none is cut by a shard."""
    labels = np.random.default_rng(0).permutation(np.arange(60_000) % 10)
    split = shards(labels, 100, seed=0)
    assert set(split.sizes) == {600}
    digits = (label_table(split, labels).to_numpy() > 0).sum(axis=1)
    assert set(digits.tolist()) == {1, 2}
    # Of 200 shards, 20 a digit, a pair is of one digit with probability 19/199: about 9.5 of 100.
    assert 1 <= (digits == 1).sum() <= 22


def test_pairs_of_shards_are_dealt_evenly() -> None:
    """Of four shards, shard 0's partner is each of the others; 99.9% of chi-squared(2) < 13.8."""
    partners = np.zeros(4)
    for seed in range(600):
        split = shards([0, 1, 2, 3], 2, seed)
        mine = next(rows for rows in split.rows if 0 in rows)
        partners[mine.max()] += 1
    assert partners[0] == 0
    assert ((partners[1:] - 200) ** 2 / 200).sum() < 13.8


@pytest.mark.parametrize(
    ("devices", "each", "message"),
    [(4, 2, r"devices is 4; 7 rows, with at least 2 a device, allow 1 \.\.\. 3"),
     (3, 0, "shards_each is 0"), (0, 2, "devices is 0")],
)  # fmt: skip
def test_shards_that_can_not_be_are_refused(devices: int, each: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shards([0, 1, 2, 3, 0, 1, 2], devices, 0, shards_each=each)
