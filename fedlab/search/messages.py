"""What server and devices say to each other in a search, and the seam at which a device stands.

A device is anything with the members of `Respondent`: one in this process (`Responding`), one
beyond a network, or one that lies. A transport must bound what it reads before it makes arrays of
it: an answer to q queries for k hits is never longer than `Question.bytes_of` says for q k hits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fedlab.core.typing import F32, F64, I64, U64
from fedlab.core.validation import read_only
from fedlab.index.scan import Queries
from fedlab.search.commitment import Opening
from fedlab.search.queries import PackedQueries

_HIT, _COUNT, _NONCE = 16, 4, 16


@dataclass(frozen=True, eq=False)
class Question:
    """Which k of your rows are nearest to each of these queries?

    Attributes
    ----------
    sent : PackedQueries
        The queries as they travel.
    k : int
    metric : {"cosine", "inner", "l2sq"}
    nonce : bytes
        16 random bytes that the answer must repeat.
    where : str, optional
        Only rows that pass are meant (see `fedlab.index.filters`).
    """

    sent: PackedQueries
    k: int
    metric: str
    nonce: bytes
    where: str | None = None

    @cached_property
    def queries(self) -> F32:
        """What to search for, (q, d): read-only, as all devices in this process share it."""
        return read_only(self.sent.decoded())

    @cached_property
    def ready(self) -> Queries:
        """The queries made ready for scans; devices in one process share this work."""
        return Queries.of(self.queries, self.metric)

    @property
    def nbytes(self) -> int:
        """Bytes of the queries, filter, k and nonce."""
        return self.sent.nbytes + len((self.where or "").encode()) + _COUNT + _NONCE

    def bytes_of(self, hits: int) -> int:
        """Return the bytes of an answer: distances and keys of all hits, counts and nonce."""
        return hits * _HIT + len(self.queries) * _COUNT + _NONCE


@dataclass(frozen=True, eq=False)
class Answer:
    """A device's nearest rows, by distance and then by key.

    Attributes
    ----------
    nonce : bytes
        The question's.
    distances : (q, k) float64 array
        As `fedlab.index.scan.ordering` has them: under inner product -p. inf in places that are not
        filled.
    keys : (q, k) uint64 array
        2**64 - 1 in places that are not filled.
    counts : (q,) int64 array
        Places that are filled; fewer than k say that the device holds no other row that is meant.
    exact : bool
        Whether these are the nearest for certain; False if a graph proposed them.
    """

    nonce: bytes
    distances: F64
    keys: U64
    counts: I64
    exact: bool = True


@dataclass(frozen=True, eq=False)
class Request:
    """Show me the rows of these keys."""

    keys: U64
    nonce: bytes

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + _NONCE


@dataclass(frozen=True, eq=False)
class Shown:
    """Rows as the device stores them, decoded; and where it had committed to them, the openings.

    Attributes
    ----------
    nonce : bytes
        The request's.
    rows : (m, d) float32 array
        In the order of the request's keys.
    openings : sequence of m Opening
        Empty where the device has not committed.
    """

    nonce: bytes
    rows: F32
    openings: tuple[Opening, ...] = ()

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + sum(opening.nbytes for opening in self.openings) + _NONCE


@dataclass(frozen=True, eq=False)
class Remeasure:
    """How far are these rows of yours from these queries, in full?

    Attributes
    ----------
    queries : (q, d) float32 array
    who : (m,) int64 array
        Which of the queries each key is about.
    keys : (m,) uint64 array
    nonce : bytes
    """

    queries: F32
    who: I64
    keys: U64
    nonce: bytes

    @property
    def nbytes(self) -> int:
        return self.queries.nbytes + len(self.keys) * (_COUNT + self.keys.itemsize) + _NONCE


@dataclass(frozen=True, eq=False)
class Remeasured:
    """Distances as in `Answer`, (m,), in the order of the keys that were asked about."""

    nonce: bytes
    distances: F64

    @property
    def nbytes(self) -> int:
        return self.distances.nbytes + _NONCE
