"""How many rows of each class a device gets under Dirichlet skew: the counts alone.

Shares are drawn apart from the shuffling of rows (at another address), so that a try that fails
costs no shuffling.
"""

from __future__ import annotations

import numpy as np

from fedlab.core.typing import F64, I64, Bool

SHARES, SHUFFLES = 0, 1  # parts of the address (seed, PARTITION)
LEAST_ALPHA, MOST_ALPHA = 1e-6, 1e6  # beyond, float64 gammas under- or overflow


def label_skew(sizes: I64, devices: int, alpha: float, draw: np.random.Generator) -> I64:
    """Draw rows of each class on each device, (classes, devices), by the rule of NIID-Bench.

    See `fedlab.data.dirichlet`. Skew of quantity is that of a single class.

    Examples
    --------
    >>> label_skew(np.array([60, 40]), 4, 0.5, np.random.default_rng(0)).sum(axis=1)
    array([60, 40])
    """
    counts = np.zeros((len(sizes), devices), dtype=np.int64)
    filled = np.zeros(devices, dtype=np.int64)
    fair = sizes.sum() / devices
    for label, size in enumerate(sizes):
        share = _share(alpha, filled < fair, draw)
        cuts = (np.cumsum(share) * size).astype(np.int64)[:-1]
        counts[label] = np.diff(cuts, prepend=0, append=size)
        filled += counts[label]
    return counts


def _share(alpha: float, room: Bool, draw: np.random.Generator) -> F64:
    # Some device has room, and a share falls on it with probability 1 / devices at least.
    alphas = np.full(len(room), alpha)
    while True:
        share: F64 = draw.dirichlet(alphas)
        share[~room] = 0.0
        if share.sum() > 0:
            share /= share.sum()
            return share
