"""Search over rows that nobody holds: additive secret shares on two servers, exact to rounding.

Rows X and query q are each split into two vectors that are uniform modulo 2**64 and add up to
them; a server holds one of the two. With A, b random and c = A b dealt in shares beforehand (a
Beaver triple; Beaver, CRYPTO 1991; for matrices: Mohassel and Zhang, "SecureML", S&P 2017,
section IV), the servers open E = X - A once and f = q - b for each query, and server i answers

    z_i = E q_i + A_i f + c_i,    so that    z_0 + z_1 = E q + A f + A b = X q.

Who asked adds the two. b serves one query and no other: two queries under one b would tell their
difference. All numbers are fixed-point (`fedlab.privacy.fixed_point`), all sums exact.

Cost, for n rows of d numbers: once, 16 n d bytes of shares up from devices and 8 n d from each
server to the other; then a linear scan of 2 n d products a server, and 32 d + 24 n bytes a query (n
answers from each server, n numbers from the dealer). `TWO_SERVER_SHARES` says what is protected.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import U64
from fedlab.core.validation import whole_number
from fedlab.privacy.masks import keystream
from fedlab.privacy.noise import Source
from fedlab.privacy.threat_model import Protection

TWO_SERVER_SHARES = Protection(
    name="two-server shares",
    protects="rows and queries, at rest and in use, from each server and from the dealer",
    does_not=(
        "hide how many rows of how many dimensions there are, a power of two that bounds their "
        "lengths, how many queries come and when; hide "
        "from who asks the score of every row (d independent queries tell all rows); notice a "
        "server that alters its answer"
    ),
    assumes=(
        "two servers that don't collude and follow the protocol, and a dealer that colludes with "
        "neither; separate encrypted channels"
    ),
    cost=(
        "once 32 n d bytes; 2 rounds; a query: 32 d + 24 n bytes, and 2 n d products on each "
        "server, n d at the dealer, beforehand"
    ),
    source="Beaver, CRYPTO 1991; Mohassel and Zhang, S&P 2017, section IV",
)

_KEY = 32
_ROWS, _QUERY, _PRODUCT = 1, 2, 3  # purposes of a server's stream


def share(words: U64, source: Source = os.urandom) -> tuple[U64, U64]:
    """Split whole numbers into two parts, each uniform modulo 2**64, that add up to them.

    Random bytes come from `source`, by default the operating system: a seeded one, for an
    experiment that can be repeated, keeps no secret.

    Examples
    --------
    >>> first, second = share(np.uint64([1, 2, 3]))
    >>> first + second
    array([1, 2, 3], dtype=uint64)
    """
    first: U64 = np.frombuffer(source(words.nbytes), np.uint64).reshape(words.shape)
    return first, words - first


@dataclass(frozen=True)
class Triples:
    """What one server needs for some queries, each of which it serves once.

    Attributes
    ----------
    first : int
        The number of the first query; the others follow.
    products : (m, n) uint64 array, or None
        Its share of A b for each. None where it makes it itself, from its stream.
    """

    first: int
    count: int
    products: U64 | None


class Dealer:
    """Deals the randomness of the protocol; sees neither rows nor queries.

    A server's shares of A and b, and the first server's of A b, are streams that it makes itself
    from a key of 32 bytes. What is left to send is the second server's share of A b.

    Parameters
    ----------
    rows, dimensions : int
        Of the shared matrix.
    threads : int
        Threads that multiply; numbers don't depend on it.

    Attributes
    ----------
    keys : (bytes, bytes)
        One for each server, to be told to that server only.
    """

    def __init__(self, rows: int, dimensions: int, threads: int = 1) -> None:
        from nacl.utils import random

        self.rows = whole_number(rows, "rows", 1)
        self.dimensions = whole_number(dimensions, "dimensions", 1)
        self.threads = whole_number(threads, "threads", 1, 1024)
        self.keys: tuple[bytes, bytes] = (random(_KEY), random(_KEY))
        first, second = (_matrix(key, rows, dimensions) for key in self.keys)
        self._matrix = first + second
        self._dealt = 0

    def deal(self, count: int) -> tuple[Triples, Triples]:
        """Deal for the next `count` queries, whose numbers were never dealt before."""
        from fedlab.privacy.ring import multiply_add

        whole_number(count, "count", 1)
        first, second = self.keys
        numbers = range(self._dealt, self._dealt + count)
        masks = _masks(first, numbers, self.dimensions) + _masks(second, numbers, self.dimensions)
        products = -_products(first, numbers, self.rows)
        multiply_add(self._matrix, masks, products, self.threads)
        self._dealt += count
        return Triples(numbers[0], count, None), Triples(numbers[0], count, products)


class Server:
    """One of the two: a share of the rows, and its part of each product.

    Parameters
    ----------
    key : bytes
        From the dealer.
    rows : (n, d) uint64 array
        Its share of the rows.
    threads : int
        Threads that multiply; answers don't depend on it.

    Examples
    --------
    >>> rows, queries = np.uint64([[1, 2], [3, 4], [5, 6]]), np.uint64([[10, 1]])
    >>> dealer = Dealer(3, 2)
    >>> servers = [Server(key, part) for key, part in zip(dealer.keys, share(rows))]
    >>> opened = servers[0].opening + servers[1].opening
    >>> for server in servers:
    ...     server.open(opened)
    >>> parts, triples = share(queries), dealer.deal(1)
    >>> masked = [s.mask(part, t) for s, part, t in zip(servers, parts, triples)]
    >>> answers = [s.answer(part, sum(masked), t) for s, part, t in zip(servers, parts, triples)]
    >>> sum(answers)
    array([[12, 34, 56]], dtype=uint64)
    """

    def __init__(self, key: bytes, rows: U64, threads: int = 1) -> None:
        self.threads = whole_number(threads, "threads", 1, 1024)
        self.shape: tuple[int, ...] = rows.shape
        self._key = key
        self._mask = _matrix(key, *rows.shape)
        #: (n, d) what it tells the other server: its share of X - A.
        self.opening: U64 = rows - self._mask
        self._opened: U64 | None = None
        self._masked = self._answered = 0  # queries below these numbers have been served

    def open(self, opened: U64) -> None:
        """Take in E = X - A, the sum of both servers' `opening`."""
        if opened.shape != self.shape:
            raise ValueError(f"rows of shape {opened.shape} were opened; this holds {self.shape}")
        self._opened = opened
        self.opening = opened[:0]  # the share itself is needed no more

    def mask(self, queries: U64, triples: Triples) -> U64:
        """Return its share of f = q - b for each query, (m, d): to be told to the other server.

        Raises
        ------
        ValueError
            If a query under this number was masked before: two under one b tell their difference.
        """
        self._masked = self._once(triples, self._masked, len(queries))
        return queries - _masks(self._key, _numbers(triples), self.shape[1])

    def answer(self, queries: U64, opened: U64, triples: Triples) -> U64:
        """Return its share of each row's product with each query, (m, n).

        Parameters
        ----------
        queries : (m, d) uint64 array
            Its share of them.
        opened : (m, d) uint64 array
            f, the sum of what `mask` gave on both servers.
        triples : Triples
            What the dealer dealt it for these queries.

        Raises
        ------
        ValueError
            If the rows are not opened, or the triples were used before.
        """
        from fedlab.privacy.ring import multiply_add

        if self._opened is None:
            raise ValueError("the rows are not opened; exchange `opening` first, and call open()")
        self._answered = self._once(triples, self._answered, len(queries))
        if triples.products is None:
            products = _products(self._key, _numbers(triples), self.shape[0])
        else:
            products = triples.products.copy()
        multiply_add(self._opened, queries, products, self.threads)
        multiply_add(self._mask, opened, products, self.threads)
        return products

    def _once(self, triples: Triples, served: int, queries: int) -> int:
        if triples.count != queries:
            raise ValueError(f"triples for {triples.count} queries were given with {queries}")
        if triples.first < served:
            raise ValueError(
                f"triples {triples.first} ... {triples.first + triples.count - 1} were used, up to "
                f"{served - 1}; two queries under one mask tell their difference: have new ones "
                "dealt"
            )
        return triples.first + triples.count


def _numbers(triples: Triples) -> range:
    return range(triples.first, triples.first + triples.count)


def _matrix(key: bytes, rows: int, dimensions: int) -> U64:
    return _words(key, _ROWS, range(1), rows * dimensions).reshape(rows, dimensions)


def _masks(key: bytes, numbers: range, dimensions: int) -> U64:
    return _words(key, _QUERY, numbers, dimensions)


def _products(key: bytes, numbers: range, rows: int) -> U64:
    return _words(key, _PRODUCT, numbers, rows)


def _words(key: bytes, purpose: int, numbers: range, count: int) -> U64:
    streams: list[NDArray[Any]] = [keystream(key, purpose, number, count) for number in numbers]
    return np.stack(streams)
