"""What a search across devices found, and what is known of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedlab.core.ledger import Ledger
from fedlab.core.typing import F64, I64, U64, Bool

if TYPE_CHECKING:
    import pandas as pd

#: Columns of `FederatedHits.to_frame` that say where a hit is; the rows' own have other names.
TAKEN = ("query", "device", "key", "distance")


@dataclass(frozen=True)
class FederatedHits:
    """The neighbours of q queries over all devices, in one order: distance, device, key.

    Attributes
    ----------
    devices : (q, k) int64 array
        Who holds each hit, as a place among the devices that were asked; -1 where there is none.
    keys : (q, k) uint64 array
        Its key there; 2**64 - 1 where there is none.
    distances : (q, k) float64 array
        As in `fedlab.Hits`; inf where there is none.
    counts : (q,) int64 array
        Neighbours of each query.
    certified : (q,) bool array
        Whether the answer is proven equal to that of one index over all rows of all devices,
        provided that devices answered truthfully.
    set_aside : mapping of device id to str
        Devices whose answers were not used, and why.
    ledger : Ledger
        What was sent.
    approximate : tuple of device ids
        Devices that answered by a graph; if there is one, nothing is certified.
    asked : tuple of device ids
        The devices, in the order of their places.
    given : mapping of str to (q, k) object array
        The columns that were wanted of the rows that were found: labels, metadata. None where a
        device declined, and where there is no hit.
    declined : mapping of device id to tuple of str
        Devices that hold hits and did not give all columns, and which they kept to themselves.

    Examples
    --------
    >>> from fedlab import Device, VectorIndex
    >>> from fedlab.search import FederatedSearch
    >>> wards = [Device(name, VectorIndex(1, "l2sq")) for name in ("A", "B")]
    >>> keys = [ward.index.add([[place]]) for place, ward in enumerate(wards)]
    >>> hits = FederatedSearch(wards).search([0.9], k=2)
    >>> hits.ids.tolist()
    [['B', 'A']]
    >>> hits.to_frame()[["query", "device", "key"]].values.tolist()
    [[0, 'B', 0], [0, 'A', 0]]

    Labels and metadata come from devices whose owners agreed to give them:

    >>> from fedlab.search import Responding
    >>> labelled = Device("C", VectorIndex(1, "l2sq"))
    >>> _ = labelled.index.add([[0.8]], labels=["ill"])
    >>> search = FederatedSearch([wards[0], Responding(labelled, gives=["label"])])
    >>> hits = search.search([0.9], k=2, columns=["label"])
    >>> hits.given["label"].tolist(), hits.declined
    ([['ill', None]], {'A': ('label',)})
    """

    devices: I64
    keys: U64
    distances: F64
    counts: I64
    certified: Bool
    set_aside: Mapping[int | str, str]
    ledger: Ledger
    approximate: tuple[int | str, ...] = ()
    asked: tuple[int | str, ...] = ()
    given: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)
    declined: Mapping[int | str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def found(self) -> Bool:
        """(q, k) mask of the places that are filled."""
        return np.arange(self.keys.shape[1])[None, :] < self.counts[:, None]

    @property
    def ids(self) -> NDArray[np.object_]:
        """(q, k) ids of the devices that hold the hits; None where there is none."""
        names = np.empty(len(self.asked) + 1, np.object_)
        names[:-1] = self.asked
        return names[self.devices]

    def to_frame(self) -> pd.DataFrame:
        """Return a tidy frame: query, device (by id), key, distance; a row a hit, nearest first.

        Columns that were given follow; their missing values are pandas' NA.
        """
        import pandas as pd

        who, place = np.nonzero(self.found)
        columns = {"device": self.ids, "key": self.keys, "distance": self.distances}
        frame = pd.DataFrame({"query": who, **{n: c[who, place] for n, c in columns.items()}})
        given = {name: pd.array(c[who, place].tolist()) for name, c in self.given.items()}
        return frame.assign(**given)


def federated_recall(found: FederatedHits, truth: FederatedHits) -> float:
    """Return the share of the true neighbours, device and key, that were found, over all queries.

    Without any true neighbour there is none to miss: 1.

    Parameters
    ----------
    found, truth : FederatedHits
        Of the same queries and devices; `truth` of an exact search.

    Examples
    --------
    >>> from fedlab import Device, VectorIndex
    >>> from fedlab.search import FederatedSearch
    >>> devices = [Device(place, VectorIndex(1, "l2sq")) for place in range(2)]
    >>> for device in devices:
    ...     _ = device.index.add([[device.id], [device.id + 10.0]])
    >>> near, far = (FederatedSearch(devices).search([place], k=2) for place in (0.0, 10.2))
    >>> federated_recall(near, near), federated_recall(far, near)
    (1.0, 0.0)
    """
    same = (found.devices[:, None, :] == truth.devices[:, :, None]) & (
        found.keys[:, None, :] == truth.keys[:, :, None]
    )
    hits = (same & found.found[:, None, :]).any(axis=2) & truth.found
    return float(hits.sum() / truth.counts.sum()) if truth.counts.any() else 1.0
