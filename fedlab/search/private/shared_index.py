"""Devices' rows in secret shares on two servers, searched exactly (see `shares` for the scheme)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.ledger import Ledger
from fedlab.core.typing import F32, F64
from fedlab.core.validation import whole_number
from fedlab.device.compatibility import one_kind
from fedlab.device.device import Device
from fedlab.index.ingest import KEY_LIMIT, as_lengths, as_vectors
from fedlab.index.scan import as_distances
from fedlab.privacy.fixed_point import error_bound, from_products, to_words
from fedlab.privacy.secret_shares import Dealer, Server, share
from fedlab.search.answers import FederatedHits

_BATCH = 64  # queries that are answered at once,
_SCORES = 1 << 22  # and scores of theirs that are held at once (32 MB, a few times over)
_SERVERS = np.array([0, 1])
_DEALER = 2


@dataclass(frozen=True)
class _Form:
    """How rows and queries become vectors of length at most sqrt(2) whose product ranks.

    Under cosine both are brought to length one. Else rows are divided by `scale`, a power of two
    that no row is longer than and that everybody knows. Squared distances take one more place:
    (x, |x|^2) times (-2 q, 1) is |x - q|^2 - |q|^2, so that lengths are shared too.
    """

    metric: str
    scale: float

    def rows(self, vectors: F32) -> F64:
        values = vectors.astype(np.float64)
        if self.metric == "cosine":
            return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))
        values /= self.scale
        if self.metric == "inner":
            return values
        return np.column_stack([values, np.square(values).sum(axis=1)])

    def queries(self, vectors: F32) -> tuple[F64, F64]:
        """Return queries of length one, and what a product must be multiplied by, (q,)."""
        values = vectors.astype(np.float64)
        if self.metric == "l2sq":
            values = np.column_stack([-2.0 * values / self.scale, np.ones(len(values))])
        lengths = np.linalg.norm(values, axis=1)
        lengths = np.where(lengths > 0, lengths, 1.0)
        factors = {"cosine": np.ones(len(values)), "inner": lengths * self.scale}
        return values / lengths[:, None], factors.get(self.metric, lengths * self.scale**2)

    def distances(self, products: F64, vectors: F32) -> F64:
        if self.metric == "l2sq":
            squares = np.square(vectors, dtype=np.float64).sum(axis=1)
            return np.asarray(np.maximum(products + squares[:, None], 0.0))
        if self.metric == "cosine":
            return np.asarray(np.maximum(1.0 - products, 0.0))
        # What rows are ordered by (see `fedlab.index.scan.as_distances`).
        return np.asarray(-products)


class SharedIndex:
    """All rows of some devices, in secret shares on two servers; as they were when it was made.

    Each device splits its rows and sends one part to each server. A query is split alike. No server
    sees anything but uniform numbers; who asks gets every row's score, and finds the nearest.
    Which place belongs to which device and key is known to all: keys are no secret here.

    Parameters
    ----------
    devices : sequence of Device
        Of one dimension and metric, with a row at least among them.
    threads : int
        Threads a server multiplies with; answers don't depend on it.

    Attributes
    ----------
    setup : Ledger
        What was sent to build it: by devices (their shares to both servers, and a byte that bounds
        their rows' lengths), the dealer (keys) and the servers (their openings).
    servers : (Server, Server)
    dealer : Dealer
    scale : float
        The power of two that no row is longer than, which everybody knows; 1 under cosine.

    Examples
    --------
    >>> from fedlab import VectorIndex
    >>> devices = [Device(place, VectorIndex(2)) for place in range(2)]
    >>> for place, device in enumerate(devices):
    ...     _ = device.index.add([[1.0, place], [0.0, 1.0]])
    >>> hits = SharedIndex(devices).search([1.0, 0.9], k=2)
    >>> hits.devices, hits.keys, hits.certified
    (array([[1, 0]]), array([[0, 0]], dtype=uint64), array([ True]))
    """

    def __init__(self, devices: Sequence[Device], threads: int = 1) -> None:
        self.metric, self.dimensions = one_kind(devices)
        self._ids = [device.id for device in devices]
        self._keys = np.concatenate([device.index.keys for device in devices])
        self._holders = np.repeat(np.arange(len(devices)), [len(d.index) for d in devices])
        if not len(self._keys):
            raise ValueError("the devices hold no rows; there is nothing to share")
        self.scale = _scale(devices) if self.metric != "cosine" else 1.0
        self._form = _Form(self.metric, self.scale)
        parts = [share(to_words(self._form.rows(device.index.vectors))) for device in devices]
        halves = [np.concatenate(half) for half in zip(*parts, strict=True)]
        rows, width = halves[0].shape
        self.dealer = Dealer(rows, width, threads)
        first, second = (
            Server(key, half, threads) for key, half in zip(self.dealer.keys, halves, strict=True)
        )
        self.servers = first, second
        self.setup = self._noted([half.nbytes for half, _ in parts])
        opened = first.opening + second.opening
        for server in self.servers:
            server.open(opened)

    def __len__(self) -> int:
        return len(self._keys)

    def _noted(self, sizes: list[int]) -> Ledger:
        ledger = Ledger([*self._ids, "server 0", "server 1", "dealer"])
        everyone = np.arange(len(sizes))
        if self.metric != "cosine":
            ledger.note(1, "up", "bounds", 1, everyone)
            ledger.note(1, "down", "scale", 1, everyone)
        ledger.note(1, "up", "shares of rows", 2 * np.array(sizes), everyone)
        ledger.note(1, "up", "keys", 64, [len(sizes) + _DEALER])
        openings = [server.opening.nbytes for server in self.servers]
        ledger.note(2, "up", "openings", openings, len(sizes) + _SERVERS)
        return ledger

    def search(self, queries: ArrayLike, k: int) -> FederatedHits:
        """Find the k nearest rows of each query, over all devices.

        Parameters
        ----------
        queries : (q, d) or (d,) array
        k : int

        Returns
        -------
        FederatedHits
            Distances lie within `error(queries)` of the true ones. An answer is certified if its
            distances, and the next one, lie so far apart that rounding can't have changed their
            order. The ledger's ends are the servers, seen from who asks, and the dealer.
        """
        k = whole_number(k, "k", 1)
        asked = as_vectors(queries, self.dimensions, "queries")
        as_lengths(asked, self.metric, "queries")
        ledger = Ledger(["server 0", "server 1", "dealer"])
        found = _empty(len(asked), k, len(self), ledger, tuple(self._ids))
        batch = max(1, min(_BATCH, _SCORES // len(self)))
        for start in range(0, len(asked), batch):
            part = slice(start, start + batch)
            self._rank(self._distances(asked[part], ledger), self.error(asked[part]), found, part)
        return found

    def error(self, queries: ArrayLike) -> F64:
        """Return how far the distance of a row to each query can lie from the true one, (q,)."""
        asked = as_vectors(queries, self.dimensions, "queries")
        _, factors = self._form.queries(asked)
        squares = np.square(asked, dtype=np.float64).sum(axis=1) if self.metric == "l2sq" else 1.0
        # The last bits of float64, in which rows are scaled and distances are put together.
        rounding = (self.dimensions + 8) * 2.0**-51 * (np.abs(factors) + squares)
        return np.asarray(error_bound(self.dimensions + 1) * np.abs(factors) + rounding)

    def _distances(self, asked: F32, ledger: Ledger) -> F64:
        """Run the protocol for a batch of queries: what who asks learns, (m, n)."""
        values, factors = self._form.queries(asked)
        parts = share(to_words(values))
        triples = self.dealer.deal(len(asked))
        sides = list(zip(self.servers, parts, triples, strict=True))
        masked = [server.mask(part, dealt) for server, part, dealt in sides]
        opened = masked[0] + masked[1]
        answers = [server.answer(part, opened, dealt) for server, part, dealt in sides]
        ledger.note(1, "down", "shares of queries", parts[0].nbytes, _SERVERS)
        ledger.note(1, "up", "triples", answers[0].nbytes, [_DEALER])
        ledger.note(1, "up", "opened queries", masked[0].nbytes, _SERVERS)
        ledger.note(2, "up", "shares of scores", answers[0].nbytes, _SERVERS)
        products = from_products(answers[0] + answers[1]) * factors[:, None]
        return self._form.distances(products, asked)

    def _rank(self, distances: F64, error: F64, found: FederatedHits, part: slice) -> None:
        held = min(found.keys.shape[1], len(self))
        looked = min(held + 1, len(self))  # one further, to see how far away it is
        for query, row in zip(range(part.start, part.stop), distances, strict=False):
            bound = np.partition(row, looked - 1)[looked - 1]
            near = np.flatnonzero(row <= bound)
            order = np.lexsort((self._keys[near], self._holders[near], row[near]))
            near = near[order][:looked]
            apart = np.diff(row[near]) > 2 * error[query - part.start]
            found.certified[query] = apart.all()
            near = near[:held]
            found.devices[query, :held] = self._holders[near]
            found.keys[query, :held] = self._keys[near]
            found.distances[query, :held] = as_distances(row[near], self.metric)


def _scale(devices: Sequence[Device]) -> float:
    """Return the least power of two that no row of any device is longer than."""
    exponents = []
    for device in devices:
        squares = np.square(device.index.vectors, dtype=np.float64).sum(axis=1)
        longest = float(np.sqrt(squares.max(initial=0.0)))
        exponents.append(int(np.frexp(longest)[1]) if longest else -126)
    return float(2.0 ** max(exponents))


def _empty(
    queries: int, k: int, rows: int, ledger: Ledger, ids: tuple[int | str, ...]
) -> FederatedHits:
    return FederatedHits(
        devices=np.full((queries, k), -1, np.int64),
        keys=np.full((queries, k), KEY_LIMIT, np.uint64),
        distances=np.full((queries, k), np.inf),
        counts=np.full(queries, min(k, rows), np.int64),
        certified=np.zeros(queries, np.bool_),
        set_aside={},
        ledger=ledger,
        asked=ids,
    )
