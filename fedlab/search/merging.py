"""Devices' hits side by side, and merged into one answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlab.core.typing import F64, I64, U64, Bool, Places
from fedlab.index.ingest import KEY_LIMIT
from fedlab.search.messages import Answer

Columns = tuple[F64, U64, I64]


@dataclass(frozen=True, eq=False)
class Gathered:
    """Hits of all m devices for q queries, w places each, and how many each was asked for."""

    distances: F64
    keys: U64
    counts: I64
    asked: I64

    @classmethod
    def empty(cls, devices: int, queries: int, width: int) -> Gathered:
        shape = devices, queries, width
        return cls(
            *(np.empty(shape), np.empty(shape, np.uint64)),
            *(np.zeros(shape[:2], np.int64), np.full(shape[:2], width)),
        )

    def put(self, place: int, answer: Answer) -> Columns:
        """Take a device's first answer, and return the copy."""
        mine = self.distances[place], self.keys[place], self.counts[place]
        mine[0][:], mine[1][:], mine[2][:] = answer.distances, answer.keys, answer.counts
        return mine

    def put_again(
        self, place: int, own: Places, exact: bool, distances: F64, keys: U64, counts: I64
    ) -> str | None:
        """Take a device's longer answer to some queries, which must begin as its first one did."""
        said = np.arange(keys.shape[1]) < self.counts[place, own][:, None]
        same = (self.distances[place, own] == distances) & (self.keys[place, own] == keys)
        if exact and not same[said].all():
            return "answered otherwise when it was asked again"
        self.distances[place, own], self.keys[place, own] = distances, keys
        self.counts[place, own], self.asked[place, own] = counts, keys.shape[1]
        return None

    def widened(self, which: Places, width: int) -> Gathered:
        """Return the hits for some queries, with more room for each."""
        wide = Gathered.empty(len(self.counts), len(which), width)
        held = self.keys.shape[2]
        wide.distances[:, :, :held] = self.distances[:, which]
        wide.keys[:, :, :held] = self.keys[:, which]
        wide.counts[:], wide.asked[:] = self.counts[:, which], self.asked[:, which]
        return wide

    def merged(self, k: int) -> tuple[Found, Bool]:
        """Return the k nearest of each query, and which devices may hold others, (m, q)."""
        from fedlab.search import kernels

        devices, queries = self.counts.shape
        found = Found.empty(devices, queries, k)
        unsure = np.empty((devices, queries), np.bool_)
        kernels.merge(
            *(self.distances, self.keys, self.counts, self.asked),
            *(found.distances, found.devices, found.keys, found.counts, unsure),
        )
        found.certified[:] = ~unsure.any(axis=0)
        return found, unsure


@dataclass(frozen=True, eq=False)
class Found:
    """The merged hits of q queries, as `FederatedHits` has them; m stands for no device."""

    distances: F64
    devices: I64
    keys: U64
    counts: I64
    certified: Bool

    @classmethod
    def empty(cls, devices: int, queries: int, k: int) -> Found:
        shape = queries, k
        return cls(
            *(np.full(shape, np.inf), np.full(shape, devices)),
            *(np.full(shape, KEY_LIMIT, np.uint64), np.zeros(queries, np.int64)),
            np.zeros(queries, np.bool_),
        )

    def filled(self) -> tuple[Places, Places]:
        """Return of which query and at which place each hit is."""
        who, place = np.nonzero(np.arange(self.keys.shape[1])[None, :] < self.counts[:, None])
        return who, place

    def reordered(self, distances: F64, devices: int, k: int) -> Found:
        """Return the k nearest by other distances, in the order of `filled`; none is certified."""
        who, place = self.filled()
        holder, keys = self.devices[who, place], self.keys[who, place]
        order = np.lexsort((keys, holder, distances, who))
        rank = np.arange(len(who)) - np.searchsorted(who, who)  # `who` is sorted either way
        best = Found.empty(devices, len(self.counts), k)
        order, at = order[rank < k], (who[rank < k], rank[rank < k])
        best.distances[at], best.devices[at] = distances[order], holder[order]
        best.keys[at], best.counts[:] = keys[order], np.minimum(self.counts, k)
        return best

    def put(self, which: Places, better: Found) -> None:
        """Put other answers in the place of some queries'."""
        for name, values in vars(better).items():
            getattr(self, name)[which] = values


def copied(answer: Answer) -> Columns:
    """Return an answer's distances, keys and counts, as its device can't change them any more."""
    distances, keys, counts = answer.distances, answer.keys, answer.counts
    return np.array(distances, order="C"), np.array(keys, order="C"), np.array(counts, order="C")
