"""Drift: devices whose mixtures of labels move from one split to another as rounds go by."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, I64
from fedlab.core.validation import share_of_one, whole_number
from fedlab.data.partitions.partition import Partition, codes_of, split_by

MOVES = 2  # a part of the address (seed, PARTITION), as SHARES and SHUFFLES are


@dataclass(frozen=True, eq=False)
class Drift:
    """Label shift over rounds: from one partition to another, in a straight line.

    At a round that lies a share s of the way from `first` to `last`, device k holds the counts of
    labels ``(1 - s) * start_k + s * end_k``: the linear (monotone) shift of the literature, on each
    device. Each row changes hands at most once, so every round's split is an audited
    `Partition` of the same rows. What drifts is who has them: p(y) on a device moves, while
    p(x | y) and the pooled data stay.

    The counts are exact up to rounding. Of the m rows of one label that go from one device to
    another, either floor(s m) or ceil(s m) have gone, s m on average over seeds.

    Parameters
    ----------
    start, end : Partition
        Splits of the same rows over devices of the same names.
    labels : array_like, shape (total,)
        Classes, whole numbers or text.
    first, last : int
        Up to round `first` the split is `start`; from `last` on, `end`. 0 <= first < last;
        ``last = first + 1`` is an abrupt drift.
    seed : int
        The experiment's seed; it draws which rows go first.

    Raises
    ------
    ValueError
        If the partitions don't fit each other or the labels, or rounds are out of order.

    Source: R. Wu, C. Guo, Y. Su, K. Q. Weinberger: Online adaptation to label distribution shift.
    NeurIPS 2021 (monotone shift). Y. Bai, Y.-J. Zhang, P. Zhao, M. Sugiyama, Z.-H. Zhou: Adapting
    to online label shift with provable guarantees. NeurIPS 2022 (linear shift; square and
    sinusoidal ones are `mixed` of another schedule).

    Examples
    --------
    From IID to skewed, between rounds 10 and 30:

    >>> from fedlab.data import dirichlet, iid, label_distance, label_table
    >>> y = np.repeat(np.arange(10), 200)
    >>> drift = Drift(iid(2000, 8, seed=0), dirichlet(y, 8, 0.1, seed=0), y, 10, 30, seed=0)
    >>> distances = [label_distance(label_table(drift.at(r), y)) for r in (0, 10, 20, 30, 99)]
    >>> distances[0] == distances[1] < distances[2] < distances[3] == distances[4]
    True
    """

    start: Partition
    end: Partition
    labels: ArrayLike = field(repr=False)
    first: int
    last: int
    seed: int
    _moments: F64 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        whole_number(self.first, "first", 0)
        whole_number(self.last, "last", self.first + 1)
        if self.start.total != self.end.total or self.start.names != self.end.names:
            raise ValueError(
                f"start splits {self.start.total} rows over {len(self.start)} devices, end "
                f"{self.end.total} over {len(self.end)}; they take the same rows and the same "
                "devices, by name and in the same order"
            )
        codes, _ = codes_of(self.labels)
        if len(codes) != self.start.total:
            raise ValueError(f"there are {len(codes)} labels for {self.start.total} rows")
        object.__setattr__(self, "_moments", self._moments_of(codes))

    def share(self, round: int) -> float:
        """Return how far the drift is at a round, 0 ... 1."""
        return float(np.clip((round - self.first) / (self.last - self.first), 0.0, 1.0))

    def at(self, round: int) -> Partition:
        """Return the partition at a round."""
        return self.mixed(self.share(round))

    def mixed(self, share: float) -> Partition:
        """Return the partition that is a share of the way from start to end.

        Any schedule can be had by it: ``mixed((1 - cos(round / 10)) / 2)`` comes and goes. What has
        moved at a share has moved at every larger one.

        Raises
        ------
        ValueError
            If the share is outside 0 ... 1.
        """
        share_of_one(share=share)
        if share in (0, 1):
            return self.end if share else self.start
        moved = self._moments < share
        device_of = np.where(moved, self.end.device_of, self.start.device_of)
        how = f"{share:.1%} of the way from ({self.start.how}) to ({self.end.how})"
        return split_by(device_of, self.start.names, f"{how}, seed {self.seed}")

    def _moments_of(self, codes: I64) -> F64:
        """Return the share at which each row moves.

        The m rows of a cell (a label on its way between two devices) move one after another at
        (r + u) / m, with one u ~ U(0, 1) a cell: systematic sampling, whose counts are exact up to
        rounding and, thanks to u, right on average.
        """
        draw = generator(self.seed, Purpose.PARTITION, part=MOVES)
        devices = len(self.start)
        cells = (codes * devices + self.start.device_of) * devices + self.end.device_of
        shuffled = draw.permutation(len(codes))
        _, cell_of, sizes = np.unique(cells[shuffled], return_inverse=True, return_counts=True)
        order = shuffled[np.argsort(cell_of, kind="stable")]
        rank = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        late = np.repeat(draw.random(len(sizes)), sizes)
        moments = np.empty(len(codes))
        moments[order] = (rank + late) / np.repeat(sizes, sizes)
        return moments
