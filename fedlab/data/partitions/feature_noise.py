"""Skew of features: the same kind of rows, measured ever less well from device to device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.validation import not_negative
from fedlab.data.partitions.partition import Partition
from fedlab.data.tables.values import Dataset


def with_feature_noise(data: Dataset, partition: Partition, level: float, seed: int) -> Dataset:
    """Return the data with Gaussian noise on the features that grows from device to device.

    Each feature of device i of n, counted from 0 in the partition's order, gets noise of standard
    deviation ``level * i / (n - 1)``: none on the first device, `level` on the last. It is drawn
    once, so it belongs to the data as a sensor's would. (NIID-Bench draws it anew at each reading.)

    Parameters
    ----------
    data : Dataset
        Features of comparable scale; the benchmark's are pixels in 0 ... 1.
    partition : Partition
        Which rows are whose; at least two devices.
    level : float
        Standard deviation on the last device, at least 0. The benchmark's is 0.1.
    seed : int
        The experiment's seed.

    Raises
    ------
    ValueError
        If the level is negative or not finite, the partition is of other data, or has one device.

    Source: Q. Li, Y. Diao, Q. Chen, B. He: Federated learning on non-IID data silos: an
    experimental study. ICDE 2022, section IV (noise-based feature imbalance). Its code takes the
    level as a standard deviation and divides by n - 1; so does this.

    Examples
    --------
    >>> from fedlab.data import iid, load_digits
    >>> digits = load_digits()
    >>> split = iid(len(digits), devices=5, seed=0)
    >>> noise = with_feature_noise(digits, split, level=0.4, seed=0).x - digits.x
    >>> [round(float(noise[rows].std()), 1) for rows in split.rows]
    [0.0, 0.1, 0.2, 0.3, 0.4]
    """
    not_negative(level=level)
    partition.check(len(data))
    last = len(partition) - 1
    if last == 0:
        raise ValueError("noise grows from device to device; the partition has one: it takes two")
    x = data.x.copy()
    for place, rows in enumerate(partition.rows):
        draw = generator(seed, Purpose.FEATURE_NOISE, device=place)
        noise = draw.standard_normal((len(rows), x.shape[1])) * (level * place / last)
        x[rows] += noise.astype(np.float32)
    what = f"{data.origin.source} with feature noise 0 ... {level:g} (seed {seed})"
    return replace(data, x=x, origin=replace(data.origin, source=what))
