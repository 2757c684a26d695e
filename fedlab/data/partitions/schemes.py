"""The splits of the field's benchmarks: Dirichlet, classes per device, quantity skew, shards."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import I64, Bool
from fedlab.core.validation import whole_number
from fedlab.data.partitions.dirichlet import SHUFFLES, LabelSkew
from fedlab.data.partitions.partition import Partition, check_devices, codes_of, split_by


def dirichlet(
    labels: ArrayLike,
    devices: int,
    alpha: float,
    seed: int,
    *,
    min_rows: int = 10,
    tries: int = 1000,
) -> Partition:
    """Split rows by Dirichlet label skew, by the rule of NIID-Bench.

    For each class, its shuffled rows are cut at shares p ~ Dir(alpha, ..., alpha), in which devices
    that already have their fair part (n / devices rows or more) get 0 and the rest are scaled to
    sum to 1. The whole is drawn again until every device has `min_rows`. Where all of p lies on
    devices that are full, so that the rule would divide 0 by 0, that class's p is drawn again. Cuts
    are rounded down, so the last device may get a row more of each class, as in the field's code.

    Parameters
    ----------
    labels : array_like, shape (n,)
        Classes, whole numbers or text.
    devices : int
        How many devices.
    alpha : float
        Concentration: small is skewed, large tends to IID.
    seed : int
        The experiment's seed.
    min_rows : int
        Rows that every device must have.
    tries : int
        How often to draw before giving up.

    Returns
    -------
    Partition
        Its `how` tells the number of tries.

    Raises
    ------
    ValueError
        If a parameter is out of range, or no try gave every device its rows; the message then names
        an alpha and a number of devices that do (with this seed).

    Source: Q. Li, Y. Diao, Q. Chen, B. He: Federated learning on non-IID data silos: an
    experimental study. ICDE 2022, section IV; the rule in full in its code, NIID-Bench,
    ``partition_data``.

    Examples
    --------
    >>> digits = np.repeat(np.arange(10), 100)
    >>> split = dirichlet(digits, devices=5, alpha=0.5, seed=0)
    >>> sum(split.sizes), min(split.sizes) >= 10
    (1000, True)
    """
    codes, classes = codes_of(labels)
    check_devices(len(codes), devices, min_rows)
    sizes = np.bincount(codes, minlength=len(classes))
    return _deal(codes, LabelSkew(sizes, devices, alpha, seed, min_rows), tries)


def by_classes(
    labels: ArrayLike, devices: int, k: int, seed: int, *, tries: int = 1000
) -> Partition:
    """Give each device rows of exactly k classes: the split that NIID-Bench calls #C=k.

    Device i owns class i mod K, of K classes, and k - 1 others drawn at random without repeats.
    Each class's shuffled rows are cut evenly among its owners; the first owners get the rows that
    are left over. Owners are drawn again until each class has one and none goes without a row of a
    class that it owns (the field's code would then lose rows, or give a device fewer classes).

    Parameters
    ----------
    labels : array_like, shape (n,)
        Classes, whole numbers or text.
    devices : int
        How many devices.
    k : int
        Classes of each device, 1 ... K.
    seed : int
        The experiment's seed.
    tries : int
        How often to draw owners before giving up.

    Raises
    ------
    ValueError
        If a parameter is out of range, or no try gave each class an owner and each owner a row.

    Source: Q. Li, Y. Diao, Q. Chen, B. He: Federated learning on non-IID data silos: an
    experimental study. ICDE 2022, section IV (quantity-based label imbalance); ``noniid-#label`` in
    its code.

    Examples
    --------
    >>> digits = np.repeat(np.arange(10), 100)
    >>> split = by_classes(digits, devices=10, k=2, seed=0)
    >>> {len(np.unique(digits[rows])) for rows in split.rows}
    {2}
    """
    codes, classes = codes_of(labels)
    check_devices(len(codes), devices, min_rows=whole_number(k, "k", 1, len(classes)))
    sizes = np.bincount(codes, minlength=len(classes))
    owned = _owned(sizes, devices, k, seed, whole_number(tries, "tries", 1))
    shuffle = generator(seed, Purpose.PARTITION, part=SHUFFLES)
    device_of = np.empty_like(codes)
    for label, size in enumerate(sizes):
        owners = np.flatnonzero(owned[:, label])
        order = shuffle.permutation(np.flatnonzero(codes == label))
        device_of[order] = owners[_even(size, len(owners))]
    how = f"{k} of {len(classes)} classes each over {devices} devices, seed {seed}"
    return split_by(device_of, range(devices), how)


def by_quantity(
    total: int, devices: int, alpha: float, seed: int, *, min_rows: int = 10, tries: int = 1000
) -> Partition:
    """Split shuffled rows into parts of unlike sizes, in shares p ~ Dir(alpha, ..., alpha).

    Labels play no part, so each device's are IID: only sizes are skewed. Shares are drawn again
    until every device has `min_rows`. This is `dirichlet` with a single class. (NIID-Bench's
    code asks for p * total >= 10 before it rounds; here the rows themselves are counted.)

    Parameters
    ----------
    total : int
        Rows.
    devices : int
        How many devices.
    alpha : float
        Concentration: small is skewed, large tends to equal sizes.
    seed : int
        The experiment's seed.
    min_rows : int
        Rows that every device must have.
    tries : int
        How often to draw before giving up.

    Raises
    ------
    ValueError
        If a parameter is out of range, or no try gave every device its rows; the message then names
        an alpha and a number of devices that do (with this seed).

    Source: Q. Li, Y. Diao, Q. Chen, B. He: Federated learning on non-IID data silos: an
    experimental study. ICDE 2022, section IV (quantity skew); ``iid-diff-quantity`` in its code.

    Examples
    --------
    >>> split = by_quantity(1000, devices=5, alpha=0.5, seed=0)
    >>> sum(split.sizes), min(split.sizes) >= 10
    (1000, True)
    """
    check_devices(total, devices, min_rows)
    skew = LabelSkew(np.array([total]), devices, alpha, seed, min_rows, kind="quantity")
    return _deal(np.zeros(total, dtype=np.int64), skew, tries)


def shards(labels: ArrayLike, devices: int, seed: int, *, shards_each: int = 2) -> Partition:
    """Sort rows by label, cut them into equal shards, and deal `shards_each` to each device.

    Rows of one label stay in the order of the data, as in the paper: only the dealing is random.
    Sizes of shards differ by at most one.

    Parameters
    ----------
    labels : array_like, shape (n,)
        Classes, whole numbers or text.
    devices : int
        How many devices; the paper has 100.
    seed : int
        The experiment's seed.
    shards_each : int
        Shards of each device, at least 1; there must be a row for each shard.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Source: H. B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Agüera y Arcas:
    Communication-efficient learning of deep networks from decentralized data. AISTATS 2017, section
    3.

    Examples
    --------
    >>> digits = np.arange(6000) % 10
    >>> split = shards(digits, devices=100, seed=0)
    >>> set(split.sizes), max(len(np.unique(digits[rows])) for rows in split.rows)
    ({60}, 2)
    """
    codes, _ = codes_of(labels)
    each = whole_number(shards_each, "shards_each", 1)
    check_devices(len(codes), devices, min_rows=each)
    pieces = devices * each
    holder = generator(seed, Purpose.PARTITION).permutation(pieces) // each
    device_of = np.empty_like(codes)
    device_of[np.argsort(codes, kind="stable")] = holder[_even(len(codes), pieces)]
    how = f"{each} label-sorted shards each over {devices} devices, seed {seed}"
    return split_by(device_of, range(devices), how)


def _deal(codes: I64, skew: LabelSkew, tries: int) -> Partition:
    """Return the partition that shuffles each class's rows and deals them as `skew` counts."""
    counts, used = skew.counts(tries)
    shuffle = generator(skew.seed, Purpose.PARTITION, part=SHUFFLES)
    device_of = np.empty_like(codes)
    for label, of_class in enumerate(counts):
        order = shuffle.permutation(np.flatnonzero(codes == label))
        device_of[order] = np.repeat(np.arange(skew.devices), of_class)
    how = f"{skew}, at least {skew.min_rows} rows each (try {used})"
    return split_by(device_of, range(skew.devices), how)


def _even(size: int, parts: int) -> I64:
    """Return, for each of `size` places in order, which of the even parts it falls in."""
    return np.sort(np.arange(size) % parts)


def _owned(sizes: I64, devices: int, k: int, seed: int, tries: int) -> Bool:
    """Return which device owns which class, shape (devices, K)."""
    draw = generator(seed, Purpose.PARTITION)
    own = np.arange(devices)
    fixed = np.bincount(own % len(sizes), minlength=len(sizes))
    if devices * k >= len(sizes) and (fixed <= sizes).all():  # else no draw can do
        for _ in range(tries):
            rank = draw.random((devices, len(sizes)))
            rank[own, own % len(sizes)] = -1.0
            owned = np.zeros(rank.shape, dtype=np.bool_)
            np.put_along_axis(owned, np.argsort(rank, axis=1)[:, :k], True, axis=1)
            owners = owned.sum(axis=0)
            if (owners >= 1).all() and (owners <= sizes).all():
                return owned
    if devices < len(sizes):
        why, way = "an owner", f"a larger k, or at least {len(sizes)} devices"
    else:
        why, way = "a row for each owner", "fewer devices or a smaller k, or leave out rare classes"
    raise ValueError(
        f"{k} classes for each of {devices} devices did not give every one of {len(sizes)} classes "
        f"(of {sizes.min()} rows and more) {why}; take {way}"
    )
