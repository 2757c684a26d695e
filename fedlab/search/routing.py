"""Routing: each device sums up its rows by a few centroids, and a query goes where they are near.

The coarse step of an inverted-file index (Jégou, Douze, Schmid: Product quantization for nearest
neighbor search, TPAMI 2011), with devices in the place of lists. It pays where devices differ: over
rows dealt at random, every device looks alike, and asking fewer of them loses their share of the
answer.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.ledger import Ledger
from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F32, F64, I64, Bool
from fedlab.core.validation import one_of, whole_number
from fedlab.device.compatibility import one_kind
from fedlab.device.device import Device
from fedlab.index.ingest import as_lengths, as_vectors
from fedlab.index.scan import METRICS

#: A device of few rows sends fewer centroids, so that a centroid is of several rows on average.
ROWS_A_CENTROID = 4
_STEPS = 25  # of k-means; centroids that still move after so many hardly do
_PRODUCTS = 1 << 22  # distances to centroids held at once


@dataclass(frozen=True, eq=False)
class Summary:
    """What a device tells of its rows: where they lie, in few words.

    Parameters
    ----------
    centroids : (c, d) float32 array
        Means of groups of rows; under cosine, of rows scaled to length one.
    counts : (c,) array
        Rows in each group.
    """

    centroids: F32
    counts: I64

    def __post_init__(self) -> None:
        shape = np.shape(self.centroids)
        if len(shape) != 2 or np.shape(self.counts) != shape[:1]:
            raise ValueError(
                f"centroids of shape {shape} and counts of shape {np.shape(self.counts)} were "
                "given; (c, d) and (c,) are needed"
            )
        rows = as_vectors(self.centroids, shape[1], "centroids")
        object.__setattr__(self, "centroids", rows)
        object.__setattr__(self, "counts", np.asarray(self.counts))

    @property
    def nbytes(self) -> int:
        """Bytes of the message: 4 a number, and 4 a count."""
        return 4 * (self.centroids.size + len(self.counts))


def summarise(device: Device, centroids: int = 8, seed: int = 0) -> Summary:
    """Group a device's rows by k-means, and return the groups' means and sizes.

    The same rows and seed give the same summary, bit for bit, for any number of threads.

    Parameters
    ----------
    device : Device
        Rows held out for validation are part of its index, and so of its summary.
    centroids : int
        How many at most; a device of few rows sends one for each `ROWS_A_CENTROID` of them, an
        empty one none.
    seed : int
        The experiment's.

    Examples
    --------
    >>> from fedlab import VectorIndex
    >>> index = VectorIndex(1, "l2sq")
    >>> _ = index.add([[0.0], [1.0], [1.0], [2.0], [7.0], [8.0], [8.0], [9.0]])
    >>> found = summarise(Device("ward 3", index), centroids=2)
    >>> sorted(found.centroids.ravel().tolist()), found.counts.tolist(), found.nbytes
    ([1.0, 8.0], [4, 4], 16)
    """
    whole_number(centroids, "centroids", 1, 65_536)
    index = device.index
    rows = index.vectors
    if not len(rows):
        return Summary(np.empty((0, index.dimensions), np.float32), np.empty(0, np.int64))
    if index.metric == "cosine":
        rows = rows / np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))[:, None]
        rows = rows.astype(np.float32)
    groups = max(1, min(centroids, len(rows) // ROWS_A_CENTROID))
    random = generator(seed, Purpose.ROUTING, device=device.id).integers(2**32)
    means, of_row = _k_means(rows, groups, int(random))
    counts = np.bincount(of_row, minlength=groups)
    return Summary(means[counts > 0], counts[counts > 0])


def _k_means(rows: F32, groups: int, seed: int) -> tuple[F32, I64]:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # Threads add up their shares in the order in which they end; one gives the same sums each time.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # Fewer distinct rows than groups: the groups that stay empty are left out.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(groups, n_init=1, max_iter=_STEPS, random_state=seed).fit(rows)
    return fitted.cluster_centers_.astype(np.float32), fitted.labels_.astype(np.int64)


class Router:
    """The server's table of who has rows where, and its choice of whom to ask.

    **What it tells the server.** A centroid is a mean of rows: it shows the topics that a device
    holds, the counts how much of each, and a group of one row *is* that row. Summaries with noise
    (differential privacy on counts and centroids) may stand in the place of plain ones. Whom the
    server asks tells each device that a query is near to it. A device can send centroids that draw
    queries to it: what it answers is then checked as any answer is.

    A table is of the rows that stood when it was learned: learn it anew when they have changed.

    Parameters
    ----------
    devices : sequence of int or str
        The devices' ids, in the order in which they are asked.
    summaries : sequence of Summary
        One of each device. Groups without rows don't count; a device without groups is asked only
        where all are.
    metric : {"cosine", "inner", "l2sq"}
        The devices' metric.

    Examples
    --------
    >>> from fedlab import VectorIndex
    >>> devices = []
    >>> for place in range(3):
    ...     index = VectorIndex(2, "l2sq")
    ...     _ = index.add(np.full((8, 2), 10.0 * place))
    ...     devices.append(Device(place, index))
    >>> router = Router.learn(devices, centroids=1)
    >>> router.choose([[19.0, 19.0]], 2)
    array([[False,  True,  True]])
    """

    def __init__(
        self, devices: Sequence[int | str], summaries: Sequence[Summary], metric: str
    ) -> None:
        one_of(metric, METRICS, "metric")
        if len(devices) != len(summaries) or not len(devices):
            raise ValueError(
                f"{len(summaries)} summaries were given for {len(devices)} devices; one of each is "
                "needed"
            )
        if len({summary.centroids.shape[1] for summary in summaries}) > 1:
            raise ValueError("the devices' centroids differ in dimensions; learn them anew")
        self.devices = tuple(devices)
        self.summaries = tuple(summaries)
        self.metric = metric
        self.dimensions = summaries[0].centroids.shape[1]
        # With noise, a count may say that nobody is there.
        groups = [summary.centroids[summary.counts > 0] for summary in summaries]
        self._centroids = np.concatenate(groups)
        self._sizes = np.array([len(centroids) for centroids in groups])

    @classmethod
    def learn(cls, devices: Sequence[Device], centroids: int = 8, seed: int = 0) -> Router:
        """Ask each device for its summary (see `summarise`).

        Raises
        ------
        ValueError
            If there is no device, two have the same id, or metrics or dimensions differ.
        """
        metric, _ = one_kind(devices)
        summaries = [summarise(device, centroids, seed) for device in devices]
        return cls([device.id for device in devices], summaries, metric)

    def __repr__(self) -> str:
        return (
            f"Router({len(self.devices)} devices, {len(self._centroids)} centroids, "
            f"{self.metric}, {self.nbytes:,} bytes)"
        )

    @property
    def nbytes(self) -> int:
        """Bytes that all devices sent."""
        return sum(summary.nbytes for summary in self.summaries)

    def note(self, ledger: Ledger) -> None:
        """Count the summaries as what was sent up before any query: round 0."""
        sizes = [summary.nbytes for summary in self.summaries]
        ledger.note(0, "up", "centroids", sizes, np.arange(len(sizes)))

    def choose(self, queries: ArrayLike, m: int) -> Bool:
        """Choose the m devices whose centroids lie nearest to each query.

        A device is as near as its nearest centroid is, by the devices' own metric; of equally near
        ones the first is asked.

        Parameters
        ----------
        queries : (q, d) or (d,) array
        m : int
            How many to ask. Those that had no rows when this was learned are asked only where all
            are.

        Returns
        -------
        (q, devices) bool array
        """
        whole_number(m, "m", 1)
        asked = as_vectors(queries, self.dimensions, "queries")
        as_lengths(asked, self.metric, "queries")
        filled = np.flatnonzero(self._sizes)
        chosen = np.zeros((len(asked), len(self.devices)), np.bool_)
        if len(filled) <= m:
            chosen[:, filled] = True
            chosen |= m >= len(self.devices)
            return chosen
        step = max(1, _PRODUCTS // len(self._centroids))
        for start in range(0, len(asked), step):
            part = slice(start, start + step)
            order = np.argsort(self._distances(asked[part]), axis=1, kind="stable")[:, :m]
            np.put_along_axis(chosen[part], filled[order], True, axis=1)
        return chosen

    def _distances(self, queries: F32) -> F64:
        """Return how far each query is from each device that has centroids, (q, filled)."""
        centroids = self._centroids.astype(np.float64)
        squares = np.square(centroids).sum(axis=1)
        scores = -(queries.astype(np.float64) @ centroids.T)
        if self.metric == "cosine":
            # Rows that point all ways have a mean of length zero, which is near to none.
            scores /= np.sqrt(np.where(squares > 0, squares, np.inf))
        elif self.metric == "l2sq":
            scores = squares + 2.0 * scores
        starts = np.cumsum(self._sizes) - self._sizes
        nearest: F64 = np.minimum.reduceat(scores, starts[self._sizes > 0], axis=1)
        return nearest
