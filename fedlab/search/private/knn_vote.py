"""The exact kNN vote over all devices, from masked sums alone.

First the distance of the k-th neighbour is found (`fedlab.search.private.kth_distance`). Then each
device counts the classes of its rows within that distance, masks the counts, and the sum over
devices is the vote. Rows tied at the k-th distance all vote: then there are more than k votes.

Cost: one round and 4 bytes a class, query and device more than the bisection. `MASKED_VOTE` says
what is protected and what is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.ledger import Ledger
from fedlab.core.threads import one_blas_thread
from fedlab.core.typing import I64
from fedlab.device.compatibility import one_kind
from fedlab.device.device import Device
from fedlab.privacy.secure_sum import Session
from fedlab.privacy.threat_model import Protection
from fedlab.search.private.kth_distance import Bits, Codes, KthDistances, Search, Side, ordered

MASKED_VOTE = Protection(
    name="masked vote",
    protects="which device's rows voted, and for what: only the votes of all are seen",
    does_not=(
        "hide the votes, which with k of 1 or few tell a row's class; hide what the k-th distance "
        "tells; notice a device that votes falsely or often"
    ),
    assumes="what the masked k-th distance assumes",
    cost="one round and 4 c D bytes a query more than the masked k-th distance, for c classes",
    source="masked sums after Bonawitz et al., CCS 2017",
)

_VOTES = 2  # the purpose of its sum


@dataclass(frozen=True)
class Vote:
    """What the nearest rows of all devices say of each query.

    Attributes
    ----------
    classes : (c,) array
    counts : (q, c) int64 array
        Rows of each class within the k-th distance: k of them, more where rows are tied at it,
        fewer where there are fewer.
    reach : KthDistances
        The k-th distances, and what was seen on the way to them.
    ledger : Ledger
        What was sent.
    """

    classes: NDArray[Any]
    counts: I64
    reach: KthDistances
    ledger: Ledger

    @property
    def winners(self) -> NDArray[Any]:
        """(q,) class with the most votes; of several with as many, the first.

        Raises
        ------
        ValueError
            If nobody voted on a query, as where no device has rows.
        """
        silent = np.flatnonzero(self.counts.sum(axis=1) == 0)
        if len(silent):
            raise ValueError(
                f"nobody voted on {len(silent)} of {len(self.counts)} queries (the first is query "
                f"{silent[0]}), so no class won; ask devices that hold rows, or read counts"
            )
        winners: NDArray[Any] = self.classes[self.counts.argmax(axis=1)]
        return winners


def vote(
    devices: Sequence[Device],
    queries: ArrayLike,
    k: int,
    classes: ArrayLike,
    bits: Bits = 32,
    *,
    session: Session | None = None,
) -> Vote:
    """Let the k nearest rows of all devices vote on each query's class, seen by nobody.

    Parameters
    ----------
    devices : sequence of Device
        Two at least, of one dimension and metric; their rows have labels.
    queries : (q, d) or (d,) array
    k : int
    classes : (c,) array
        All classes that occur, as known to everybody, each once.
    bits : {32, 64}
        The precision at which distances are told apart (see `kth_distances`): with 32, rows whose
        distances agree as float32 are tied.
    session : Session, optional
        Keys that these devices have exchanged; by default they do it now.

    Raises
    ------
    ValueError, TypeError
        If devices, queries, k or classes are refused, or rows have a class that is not among
        them; nothing was sent then.
    MissingDeviceError
        If a device is not there.

    Examples
    --------
    >>> from fedlab import VectorIndex
    >>> devices = [Device(place, VectorIndex(1, "l2sq")) for place in range(3)]
    >>> for place, device in enumerate(devices):
    ...     _ = device.index.add([[place], [place + 5.0]], labels=["near", "far"])
    >>> answer = vote(devices, [[0.1], [6.0]], k=3, classes=["near", "far"])
    >>> answer.counts
    array([[3, 0],
           [0, 3]])
    >>> answer.winners
    array(['near', 'far'], dtype='<U4')
    """
    names = _classes(classes)
    one_kind(devices)
    for device in devices:
        _refuse_unknown(device, names)
    search = Search(devices, queries, k, bits, session)
    reach = search.kth_distances()
    with one_blas_thread():
        counts = search.session.sum(lambda place: _votes(search.sides[place], names), _VOTES)
    search.ledger.note(bits + 1, "up", "masked votes", 4 * counts.size, search.everyone)
    return Vote(names, counts.astype(np.int64), reach, search.ledger)


def _classes(classes: ArrayLike) -> NDArray[Any]:
    names = np.asarray(classes)
    if names.ndim != 1 or not len(names) or len(np.unique(names)) < len(names):
        raise ValueError("classes are a list of at least one, each once")
    return names


def _refuse_unknown(device: Device, classes: NDArray[Any]) -> None:
    unknown = np.setdiff1d(device.labels, classes)
    if len(unknown):
        raise ValueError(
            f"device {device.id!r} has rows of class {unknown.tolist()[0]!r}, which is not among "
            "classes; give all classes"
        )


def _votes(side: Side, classes: NDArray[Any]) -> Codes:
    """Return how many of a device's rows within reach each class has, (q, c)."""
    counts = np.zeros((len(side.queries), len(classes)), np.uint32)
    held, wanted = len(side.device.index), side.k
    order = np.argsort(classes)
    left, near = np.arange(len(side.queries)), side.nearest()
    while held and len(left):
        inside = ordered(near.distances, side.bits) <= side.reach[left, None]
        # Rows tied at the k-th distance may be more than k: look on until one lies beyond.
        done = ~inside[:, -1] | (wanted >= held)
        query, place = np.nonzero(inside & done[:, None])
        labels = side.device.index.labels_of(near.keys[query, place])
        which = order[np.searchsorted(classes, labels, sorter=order)]
        np.add.at(counts, (left[query], which), 1)
        left, wanted = left[~done], min(2 * wanted, held)
        near = side.device.index.scan(side.queries[left], wanted)
    return counts
