"""How unlike devices are, in numbers: labels, quantities, and vectors.

Each measure needs only what devices may tell: counts of labels, numbers of rows, or a mean and a
spread of vectors. Devices without rows count for nothing, except as the poorest in
`quantity_gini`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import F64
from fedlab.metrics.evenness import gini


def label_divergence(counts: ArrayLike) -> float:
    """Return the Jensen-Shannon divergence of the devices' label distributions, in bits.

    With w_k the part of all rows that device k has, p_k its shares of labels, and p = Σ w_k p_k::

        JS = Σ_k w_k KL(p_k || p) = H(p) - Σ_k w_k H(p_k)

    0 if all devices have the same shares; H(w) (so log2 n for n devices of equal size) if no two
    share a label; never more than H(p). It is the mutual information of a row's device and its
    label. Chance alone makes it positive: of N rows dealt at random, by about
    (n - 1)(K - 1) / (2 N ln 2) bits with K labels.

    Parameters
    ----------
    counts : array_like, shape (devices, labels)
        Rows of each label on each device, as `label_table` gives.

    Raises
    ------
    ValueError
        If a count is negative or not finite, or there are no rows.

    Source: J. Lin: Divergence measures based on the Shannon entropy. IEEE Transactions on
    Information Theory 37(1), 1991, section V (the generalised divergence with weights).

    Examples
    --------
    >>> label_divergence([[5, 5], [20, 20]]), label_divergence([[10, 0], [0, 10]])
    (0.0, 1.0)
    """
    joint, apart = _joint(counts)
    some = joint > 0
    # Rounding may leave a little less than 0, which the sum can't be (Gibbs).
    return max(0.0, float((joint[some] * np.log2(joint[some] / apart[some])).sum()))


def label_distance(counts: ArrayLike) -> float:
    """Return the mean distance of a device's label distribution from the pooled one, 0 ... 1.

    With w_k, p_k and p as in `label_divergence`, the weighted mean of total variations::

        Σ_k w_k ½ Σ_y |p_k(y) - p(y)|

    It is half of the "earth mover's distance" by which Zhao et al. explain how far models of
    devices part. 0 if all have the same shares; 1 - 1/n for n devices of equal size of which no
    two share a label.

    Parameters
    ----------
    counts : array_like, shape (devices, labels)
        Rows of each label on each device, as `label_table` gives.

    Raises
    ------
    ValueError
        If a count is negative or not finite, or there are no rows.

    Source: Y. Zhao, M. Li, L. Lai, N. Suda, D. Civin, V. Chandra: Federated learning with non-IID
    data. arXiv:1806.00582, 2018, section 3.

    Examples
    --------
    >>> label_distance([[5, 5], [20, 20]]), label_distance([[10, 0], [0, 10]])
    (0.0, 0.5)
    """
    joint, apart = _joint(counts)
    return float(np.abs(joint - apart).sum() / 2)


def quantity_gini(sizes: ArrayLike) -> float:
    """Return the Gini coefficient of the devices' numbers of rows.

    Half the mean difference of two devices (drawn with replacement) over the mean size::

        G = Σ_i Σ_j |n_i - n_j| / (2 n² mean)

    0 if all have the same; 1 - 1/n if one of n devices has all.

    Parameters
    ----------
    sizes : array_like, shape (devices,)
        Rows of each device, as ``Partition.sizes`` gives.

    Raises
    ------
    ValueError
        If a size is negative or not finite, or there are no rows.

    Source: C. Gini: Variabilità e mutabilità, 1912. In English: L. Ceriani, P. Verme: The origins
    of the Gini index. Journal of Economic Inequality 10, 2012.

    Examples
    --------
    >>> quantity_gini([7, 7, 7]), quantity_gini([0, 0, 0, 12])
    (0.0, 0.75)
    """
    return gini(_not_negative(sizes, "sizes", "(devices,)", 1))


def embedding_skew(vectors: Iterable[ArrayLike]) -> float:
    """Return the part of the vectors' variance that lies between devices: 0 is IID, 1 the most.

    With N rows on n devices, m the mean of all rows and m_k of device k's::

        within = Σ_k Σ_(x on k) ||x - m_k||²      total = Σ_x ||x - m||²
        skew   = 1 - (within / (N - n)) / (total / (N - 1))

    The plain share 1 - within / total grows with the number of devices even where there is no
    skew. This one is corrected for that: over all random splits of given sizes its mean is exactly
    0. So it may come out a little below 0, as an adjusted R² may: -(n - 1) / (N - n) where all
    devices have the very same mean.

    Parameters
    ----------
    vectors : iterable of array_like, each of shape (rows, d)
        The vectors of each device, read one device at a time: ``(device.index.vectors ...)``, or a
        sample of them. Where only directions matter (cosine), scale them to length 1 first.

    Raises
    ------
    ValueError
        If fewer than two devices have rows, there is no device with more than one, a number is not
        finite, widths differ, or all vectors are alike.

    Source: T. L. Kelley: An unbiased correlation ratio measure. PNAS 21(9), 1935 (ε², here with the
    trace of the scatter matrices in place of a sum of squares).

    Examples
    --------
    >>> here, there = np.array([[0.0, 1.0], [0.0, 3.0]]), np.array([[9.0, 1.0], [9.0, 3.0]])
    >>> round(embedding_skew([here, there]), 3)
    0.929
    >>> round(embedding_skew([here, here]), 3)
    -0.5
    """
    rows, means, within = _scatter(vectors)
    total_rows, devices = rows.sum(), len(rows)
    if devices < 2 or total_rows == devices:
        raise ValueError(
            f"there are {total_rows:.0f} vectors on {devices} devices; skew takes two devices with "
            "vectors, one of them with at least two"
        )
    between = float(rows @ np.square(means - rows @ means / total_rows).sum(axis=1))
    if within + between == 0:
        raise ValueError("all vectors are alike: there is no variance of which devices have a part")
    per_row = within / (total_rows - devices)
    return float(1 - per_row / ((within + between) / (total_rows - 1)))


def _scatter(vectors: Iterable[ArrayLike]) -> tuple[F64, F64, float]:
    """Return each device's number of rows and mean, and the sum of squares about those means."""
    rows: list[int] = []
    means: list[F64] = []
    within = 0.0
    for place, some in enumerate(vectors):
        x = np.asarray(some, dtype=np.float64)
        if x.ndim != 2 or (means and x.shape[1] != len(means[0])):
            wide = len(means[0]) if means else "d"
            raise ValueError(f"vectors of device {place}: {x.shape} given; takes (rows, {wide})")
        if not np.isfinite(x).all():
            raise ValueError(f"vectors of device {place} hold NaN or infinity")
        if len(x):
            rows.append(len(x))
            means.append(x.mean(axis=0))
            within += float(np.square(x - means[-1]).sum())
    return np.array(rows, dtype=np.float64), np.array(means), within


def _joint(counts: ArrayLike) -> tuple[F64, F64]:
    """Return the joint distribution of device and label, and the product of its margins."""
    table = _not_negative(counts, "counts", "(devices, labels)", 2)
    joint = table / table.sum()
    return joint, np.outer(joint.sum(axis=1), joint.sum(axis=0))


def _not_negative(values: ArrayLike, name: str, shape: str, ndim: int) -> F64:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim:
        raise ValueError(f"{name} has shape {array.shape}; it takes {shape}")
    if not (np.isfinite(array).all() and (array >= 0).all() and array.sum() > 0):
        raise ValueError(f"{name} takes finite numbers, none negative and not all 0")
    return array
