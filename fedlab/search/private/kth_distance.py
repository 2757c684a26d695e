"""The exact distance of the k-th neighbour over all devices, from masked sums alone.

Distances are mapped to whole numbers in the same order, and the server bisects: for each query it
asks how many rows lie within a threshold, and halves the range. A device answers with a count, cut
off at k and masked, so that only the sum over devices is seen; whether at least k rows lie within
is unchanged by the cut. All queries bisect side by side.

Cost, for D devices: 32 rounds (or 64). A query's vector goes down once, 4 d bytes a device; each
round takes a count up and one bit down for a query and a device. Counts and masks are of one byte
where D k is below 2**8, of two below 2**16, of four above: 3.4 kB a query for 50 devices, k = 10
and 32 rounds, beside the vectors. `MASKED_KTH_DISTANCE` says what is protected and what is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.ledger import Ledger
from fedlab.core.threads import one_blas_thread
from fedlab.core.typing import F32, F64, I64, Bool
from fedlab.core.validation import one_of, whole_number
from fedlab.device.compatibility import one_kind
from fedlab.device.device import Device
from fedlab.index.ingest import as_lengths, as_vectors
from fedlab.index.scan import Nearest, Queries, as_distances
from fedlab.privacy.secure_sum import Session
from fedlab.privacy.threat_model import Protection

Bits = Literal[32, 64]
Codes = NDArray[np.unsignedinteger[Any]]

MASKED_KTH_DISTANCE = Protection(
    name="masked k-th distance",
    protects="which device holds near rows, how many, and at which distances: only sums are seen",
    does_not=(
        "hide the query from devices; hide the k-th distance, nor how many rows in all (up to k "
        "a device) lie within each threshold that was tried, from server and devices; notice a "
        "device that counts falsely, unless the sum becomes impossible"
    ),
    assumes="what masked sums assume; devices that count truthfully; exact scans on devices",
    cost=(
        "32 rounds (64 in float64); a query: 4 d D bytes of vectors, 32 D of counts (64 D or 128 D "
        "where D k is 2**8 or 2**16 and more), 4 D of decisions"
    ),
    source="masked sums after Bonawitz et al., CCS 2017; bisection after Aggarwal et al., 2004",
)

_COUNTS = 1  # the purpose of its sums
_TOP = {32: np.uint32, 64: np.uint64}
_FLOATS = {32: np.float32, 64: np.float64}


class FalseCountsError(ValueError):
    """Sums came out that no true counts add up to."""


def ordered(distances: F64, bits: Bits = 64) -> Codes:
    """Map distances to whole numbers that stand in the same order, inf included.

    Parameters
    ----------
    distances : float64 array
        No NaN among them.
    bits : {32, 64}
        32 rounds distances to float32 first: those that become equal are ties.

    Examples
    --------
    >>> codes = ordered(np.array([-2.0, -0.0, 0.0, 1.5, np.inf]))
    >>> (np.diff(codes.astype(float)) >= 0).all(), codes[1] == codes[2]
    (np.True_, np.True_)
    >>> distances_of(codes)
    array([-2. ,  0. ,  0. ,  1.5,  inf])
    """
    kind = _TOP[bits]
    with np.errstate(over="ignore"):
        floats = distances.astype(_FLOATS[bits]) + 0.0  # -0.0 becomes 0.0
    codes = floats.view(kind)
    top = kind(1 << (bits - 1))
    # A float's bits are its sign and its size: turned over below zero, moved up above.
    return np.asarray(np.where(codes & top, ~codes, codes | top))


def distances_of(codes: Codes) -> F64:
    """Map whole numbers back to the distances that `ordered` made them of."""
    bits = 8 * codes.dtype.itemsize
    top = codes.dtype.type(1 << (bits - 1))
    floats = np.where(codes & top, codes ^ top, ~codes).view(_FLOATS[bits])
    return np.asarray(floats, np.float64)


@dataclass(frozen=True)
class KthDistances:
    """The distance of each query's k-th neighbour over all devices, and what the server saw.

    Attributes
    ----------
    distances : (q,) float64 array
        inf where all devices together hold fewer than k rows. After 32 rounds it is the float32
        nearest to the true distance (under inner product 1 - p, for the float32 nearest to p);
        after 64 the distance itself.
    sums : (rounds, q) int64 array
        What the server learned on its way: rows within each threshold, at most k from a device.
    ledger : Ledger
        What was sent.
    """

    distances: F64
    sums: I64
    ledger: Ledger


def kth_distances(
    devices: Sequence[Device],
    queries: ArrayLike,
    k: int,
    bits: Bits = 32,
    *,
    session: Session | None = None,
) -> KthDistances:
    """Find the exact distance of each query's k-th neighbour among all rows of all devices.

    Parameters
    ----------
    devices : sequence of Device
        Two at least, of one dimension and metric. All rows of their indexes count, held-out ones
        too.
    queries : (q, d) or (d,) array
    k : int
    bits : {32, 64}
        Rounds, and the precision at which distances are told apart: that of float32 (6e-8 of
        their size) or of float64.
    session : Session, optional
        Keys that these devices have exchanged; by default they do it now.

    Raises
    ------
    ValueError, TypeError
        If devices, queries or k are refused; nothing was sent then.
    MissingDeviceError
        If a device is not there.
    FalseCountsError
        If the sums are impossible; most false counts are not, and are not noticed.

    Examples
    --------
    >>> from fedlab import VectorIndex
    >>> devices = [Device(place, VectorIndex(2, "l2sq")) for place in range(3)]
    >>> for place, device in enumerate(devices):
    ...     _ = device.index.add([[place, 0.0], [place, 3.0]])
    >>> found = kth_distances(devices, [0.0, 0.0], k=3)
    >>> found.distances, found.ledger.rounds
    (array([4.]), 32)
    """
    search = Search(devices, queries, k, bits, session)
    return search.kth_distances()


class Search:
    """A private search on its way: the devices' sides of it, and the server's.

    Parameters are those of `kth_distances`.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        queries: ArrayLike,
        k: int,
        bits: Bits = 32,
        session: Session | None = None,
    ) -> None:
        one_of(bits, _TOP, "bits")
        asked = _checked(devices, queries)
        self.metric = devices[0].index.metric
        self.queries = Queries.of(asked, self.metric)
        self.k = whole_number(k, "k", 1, (1 << 32) // len(devices) - 1)
        self.bits = bits
        ids = [device.id for device in devices]
        self.session = Session.of(ids, session)
        self.ledger = Ledger(ids)
        self.everyone = np.arange(len(ids))
        self.sides = [Side(device, self.queries, self.k, bits) for device in devices]

    def kth_distances(self) -> KthDistances:
        """Bisect; each device knows the result too, since it followed the decisions."""
        count = len(self.queries)
        self.ledger.note(1, "down", "queries", self.queries.scaled.nbytes, self.everyone)
        sums = np.empty((self.bits, count), np.int64)
        # No sum is larger than D k, so words that hold that much are enough.
        kind = np.min_scalar_type(self.k * len(self.sides))
        series = self.session.series(self.bits, count, kind, _COUNTS)
        for step in range(self.bits):
            with one_blas_thread():
                sums[step] = series.sum(lambda place: self.sides[place].count().astype(kind))
            self.ledger.note(step + 1, "up", "masked counts", kind.itemsize * count, self.everyone)
            self.ledger.note(step + 1, "down", "decisions", -(-count // 8), self.everyone)
            for side in self.sides:
                side.decide(sums[step] >= self.k)
        distances = as_distances(distances_of(self.sides[0].reach), self.metric)
        self._refuse_impossible(sums, distances)
        return KthDistances(distances, sums, self.ledger)

    def _refuse_impossible(self, sums: I64, distances: F64) -> None:
        least = -np.inf if self.metric == "inner" else 0.0
        wrong = ~(distances >= least) | (sums > self.k * len(self.sides)).any(axis=0)
        if wrong.any():
            raise FalseCountsError(
                f"the counts for {wrong.sum()} of {len(wrong)} queries can't be true (the first is "
                f"query {np.flatnonzero(wrong)[0]}); a device counts falsely, and masks hide which"
            )


class Side:
    """What one device keeps of a private search: its nearest rows, and the range left.

    Attributes
    ----------
    reach : (q,) unsigned array
        The k-th distance as a whole number, as far as it is known: bits from the top.
    """

    def __init__(self, device: Device, queries: Queries, k: int, bits: Bits) -> None:
        self.device, self.queries, self.k, self.bits = device, queries, k, bits
        self.reach = np.zeros(len(queries), _TOP[bits])
        self._bit = bits - 1
        self._rows: Nearest | None = None
        self._near: Codes | None = None

    def nearest(self) -> Nearest:
        """Return the device's own k nearest rows of each query, or all it has, measured once."""
        if self._rows is None:
            self._rows = self.device.index.scan(self.queries, self.k)
        return self._rows

    def count(self) -> Codes:
        """Return how many rows lie within the threshold, up to k, for each query."""
        if self._near is None:
            # Where rows are short, the answer is inf: places without a row stand there.
            near = self.nearest().distances
            far = np.full((len(near), self.k - near.shape[1]), np.inf)
            self._near = ordered(np.concatenate([near, far], axis=1), self.bits)
        threshold = self.reach | self.reach.dtype.type((1 << self._bit) - 1)
        return np.asarray((self._near <= threshold[:, None]).sum(axis=1, dtype=np.uint32))

    def decide(self, within: Bool) -> None:
        """Take in whether at least k rows of all devices lie within the threshold."""
        kind = self.reach.dtype.type
        self.reach |= np.where(within, kind(0), kind(1 << self._bit))
        self._bit -= 1


def _checked(devices: Sequence[Device], queries: ArrayLike) -> F32:
    if len(devices) < 2:
        raise ValueError(f"{len(devices)} devices were given; a sum hides its parts from two on")
    metric, dimensions = one_kind(devices)
    queries = as_vectors(queries, dimensions, "queries")
    as_lengths(queries, metric, "queries")
    return queries
