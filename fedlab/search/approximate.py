"""Search across devices that trades recall for bytes and time: fewer devices, bits and steps.

Three savings, each by itself or together: a router asks only the devices whose centroids are near
(see `fedlab.search.routing`), the query travels in fewer bits (`fedlab.search.quantised`), and
devices answer through their graphs. No answer is certified, unless none of them was used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.checks import KEY_LIMIT, as_vectors, whole_number
from fedlab.device import Device
from fedlab.scan import measure
from fedlab.search.found import FederatedHits
from fedlab.search.ledger import Ledger
from fedlab.search.quantised import QUERY_TYPES, PackedQueries, bytes_a_query, pack
from fedlab.search.routing import Router, one_kind

__all__ = ["HIT_BYTES", "ApproximateSearch"]

KEY_BYTES = 8
DISTANCE_BYTES = 4
#: A hit as it travels.
HIT_BYTES = KEY_BYTES + DISTANCE_BYTES


@dataclass(frozen=True, eq=False)
class _Found:
    """Hits in one list: query `who` found `keys` at the device `places`, `distances` away."""

    who: NDArray[np.int64]
    places: NDArray[np.int64]
    keys: NDArray[np.uint64]
    distances: NDArray[np.float64]

    def best(self, k: int) -> _Found:
        """Return the k nearest of each query, in order: query, distance, device, key."""
        order = np.lexsort((self.keys, self.places, self.distances, self.who))
        who = self.who[order]
        kept = order[np.arange(len(who)) - np.searchsorted(who, who) < k]
        return _Found(self.who[kept], self.places[kept], self.keys[kept], self.distances[kept])


@dataclass(frozen=True, eq=False)
class ApproximateSearch:
    """The nearest rows over all devices, nearly: what is saved, and so what is missed, can be set.

    Parameters
    ----------
    devices : sequence of Device
        Of one metric and number of dimensions.
    router : Router, optional
        Learned from these devices; with `ask` it says whom a query goes to.
    ask : int, optional
        How many devices are asked; by default all that have rows.
    query : {"f32", "f16", "bf16", "i8", "b1"}
        How queries travel. Distances in the answer are then to the decoded query.
    exact : bool, optional
        Devices answer through the scan (True), their graph (False), or as sizes decide.
    rescore : int
        How many of a query's best hits are measured again, against the full query, by the devices
        that hold them; 0 for none. It is one exchange more, and puts order and distances right. If
        there are more than k to choose from, recall rises too.

    Examples
    --------
    >>> from fedlab import VectorIndex
    >>> devices = []
    >>> for place in range(3):
    ...     index = VectorIndex(2, "l2sq")
    ...     _ = index.add(np.float32([[0, 0], [0, 1], [1, 0], [1, 1]]) + 10 * place)
    ...     devices.append(Device(place, index))
    >>> search = ApproximateSearch(devices, Router.learn(devices, 1), ask=1, query="f16")
    >>> hits = search.search([10.0, 10.0], k=2)
    >>> hits.devices, hits.keys, hits.distances
    (array([[1, 1]]), array([[0, 1]], dtype=uint64), array([[0., 1.]]))
    >>> hits.ledger.down, hits.ledger.up  # a query of two f16; three centroids and two hits
    (4, 60)
    """

    devices: Sequence[Device]
    router: Router | None = None
    ask: int | None = None
    query: str = "f32"
    exact: bool | None = None
    rescore: int = 0

    def __post_init__(self) -> None:
        one_kind(self.devices)
        if self.query not in QUERY_TYPES:
            raise ValueError(f"query is {self.query!r}; choose one of {', '.join(QUERY_TYPES)}")
        ids = tuple(device.id for device in self.devices)
        if self.router is not None and self.router.devices != ids:
            raise ValueError("the router was learned from other devices, or in another order")
        whole_number(self.rescore, "rescore", 0)
        if self.ask is not None:
            whole_number(self.ask, "ask", 1)
            if self.router is None:
                raise ValueError(f"ask is {self.ask}, and no router says whom: Router.learn(...)")

    def search(self, queries: ArrayLike, k: int, hits: int | None = None) -> FederatedHits:
        """Find about the k nearest rows of each query.

        Parameters
        ----------
        queries : (q, d) or (d,) array
        k : int
            How many.
        hits : int, optional
            k', which each device that is asked returns; k by default.

        Returns
        -------
        FederatedHits
            `certified` only where the answer is exact for certain: all rows were asked for, in
            f32, by scan, and each device returned k hits or all that it has.
        """
        k = whole_number(k, "k", 1)
        wanted = k if hits is None else whole_number(hits, "hits", 1)
        metric, dimensions = one_kind(self.devices)
        packed = pack(queries, dimensions, metric, self.query)
        asked = self._asked(queries, len(packed))
        ledger = Ledger([device.id for device in self.devices])
        if self.router is not None:
            self.router.note(ledger)
        found, certain = self._found(packed, asked, wanted, k, ledger)
        if self.rescore:
            found = self._rescored(found.best(max(k, self.rescore)), queries, ledger)
            certain[:] = False
        return _answer(found.best(k), k, certain, ledger)

    def _asked(self, queries: ArrayLike, count: int) -> NDArray[np.bool_]:
        if self.router is None or self.ask is None:
            filled = np.array([len(device.index) > 0 for device in self.devices])
            return np.broadcast_to(filled, (count, len(filled)))
        return self.router.choose(queries, self.ask)

    def _found(
        self,
        packed: PackedQueries,
        asked: NDArray[np.bool_],
        wanted: int,
        k: int,
        ledger: Ledger,
    ) -> tuple[_Found, NDArray[np.bool_]]:
        """Return the hits of those asked, and which queries' answers are exact for certain."""
        probes = packed.decoded()
        size = bytes_a_query(packed.dimensions, packed.dtype)
        certain = np.full(len(probes), self.query == "f32")
        lists, down, up = [], [], []
        places = np.flatnonzero(asked.any(axis=0))
        for place in places.tolist():
            who = np.flatnonzero(asked[:, place])
            hits = self.devices[place].index.search(probes[who], wanted, self.exact)
            query, column = np.nonzero(hits.found)
            where = np.full(len(query), place, np.int64)
            keys, distances = hits.keys[query, column], hits.distances[query, column]
            lists.append(_Found(who[query], where, keys, distances))
            down.append(size * len(who))
            up.append(HIT_BYTES * len(query))
            if hits.engine == "graph" or wanted < min(k, len(self.devices[place].index)):
                certain[who] = False
        for place, device in enumerate(self.devices):
            if len(device.index):
                certain &= asked[:, place]
        ledger.note(1, "down", "queries", down, places)
        ledger.note(1, "up", "hits", up, places)
        return _joined(lists), certain

    def _rescored(self, found: _Found, queries: ArrayLike, ledger: Ledger) -> _Found:
        """Return hits with their distances to the full queries."""
        metric, dimensions = one_kind(self.devices)
        rows = as_vectors(queries, dimensions, "queries")
        distances = np.empty(len(found.who))
        down, up = [], []
        places = np.unique(found.places)
        for place in places.tolist():
            held = np.flatnonzero(found.places == place)
            vectors = self.devices[place].index.get(found.keys[held])
            distances[held] = measure(vectors, rows[found.who[held]], metric)
            asking = len(np.unique(found.who[held]))
            down.append(4 * dimensions * asking + KEY_BYTES * len(held))
            up.append(DISTANCE_BYTES * len(held))
        ledger.note(2, "down", "full queries and keys", down, places)
        ledger.note(2, "up", "distances", up, places)
        return replace(found, distances=distances)


def _joined(lists: list[_Found]) -> _Found:
    empty = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0))
    columns = zip(empty, *(vars(part).values() for part in lists), strict=True)
    return _Found(*map(np.concatenate, columns))


def _answer(found: _Found, k: int, certified: NDArray[np.bool_], ledger: Ledger) -> FederatedHits:
    counts = np.bincount(found.who, minlength=len(certified))
    at = found.who, np.arange(len(found.who)) - (np.cumsum(counts) - counts)[found.who]
    devices = np.full((len(counts), k), -1, np.int64)
    keys = np.full((len(counts), k), KEY_LIMIT, np.uint64)
    distances = np.full((len(counts), k), np.inf)
    devices[at], keys[at], distances[at] = found.places, found.keys, found.distances
    return FederatedHits(devices, keys, distances, counts, certified, {}, ledger)
