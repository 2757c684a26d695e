"""Commitments: a device binds itself to its rows beforehand, and opens those that it shows.

A binary tree of hashes (Merkle, "A digital signature based on a conventional encryption function",
CRYPTO 1987) over (key, row) in the order of keys. The root is 32 bytes; to open a row takes its
salt and one hash a level. Leaves and inner nodes are hashed apart, so that none passes for the
other. Each leaf has a salt of its own, so hashes beside a path don't let anybody try guesses
of the neighbours' rows.

What is proven: a row that opens under the root is the one that stood under that key when the root
was made, up to collisions of BLAKE2b. What is not: that the row was true then, or that rows were
not left out, then or in an answer.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import numpy as np

from fedlab.core.typing import F32, U64

_SIZE = 32


@dataclass(frozen=True)
class Commitment:
    """The root over a device's rows, and how many there are."""

    root: bytes
    rows: int

    @property
    def nbytes(self) -> int:
        return len(self.root) + 8


@dataclass(frozen=True)
class Opening:
    """Where a row stands in the tree, its salt, and the hashes beside the way to the root."""

    place: int
    salt: bytes
    path: tuple[bytes, ...]

    @property
    def nbytes(self) -> int:
        return 8 + len(self.salt) + sum(map(len, self.path))


class RowTree:
    """The hashes over a device's rows; it stays on the device.

    Parameters
    ----------
    keys : (n,) uint64 array
    rows : (n, d) float32 array

    Examples
    --------
    >>> keys, rows = np.arange(3, dtype=np.uint64), np.eye(3, dtype=np.float32)
    >>> tree = RowTree(keys, rows)
    >>> (opening,) = tree.openings(keys[1:2])
    >>> opens(tree.commitment, 1, rows[1], opening), opens(tree.commitment, 1, rows[2], opening)
    (True, False)
    """

    def __init__(self, keys: U64, rows: F32) -> None:
        order = np.argsort(keys)
        self._keys = keys[order]
        self._secret = os.urandom(_SIZE)
        level = [
            _leaf(key, self._salt(key), rows[row])
            for key, row in zip(self._keys.tolist(), order.tolist(), strict=True)
        ]
        self._levels = [level]
        while len(level) > 1:
            pairs = zip(level[::2], level[1::2], strict=False)
            odd = level[-1:] if len(level) % 2 else []  # it moves up as it is
            level = [_node(left, right) for left, right in pairs] + odd
            self._levels.append(level)

    @property
    def commitment(self) -> Commitment:
        """What others are given."""
        top = self._levels[-1]
        return Commitment(top[0] if top else bytes(_SIZE), len(self._keys))

    def openings(self, keys: U64) -> tuple[Opening, ...]:
        """Return the openings of rows that stand in the tree.

        Raises
        ------
        KeyError
            If a key has no row in it.
        """
        places = np.searchsorted(self._keys, keys)
        known = places < len(self._keys)
        known[known] = self._keys[places[known]] == keys[known]
        if not known.all():
            raise KeyError(f"key {keys[~known][0]} came after the device had committed")
        return tuple(self._opening(place) for place in places.tolist())

    def _opening(self, place: int) -> Opening:
        path, at = [], place
        for level in self._levels[:-1]:
            if at ^ 1 < len(level):
                path.append(level[at ^ 1])
            at //= 2
        return Opening(place, self._salt(int(self._keys[place])), tuple(path))

    def _salt(self, key: int) -> bytes:
        name = key.to_bytes(8, "little")
        return hashlib.blake2b(name, key=self._secret, digest_size=16).digest()


def opens(commitment: Commitment, key: int, row: F32, opening: Opening) -> bool:
    """Say whether `row` is the one that was committed to under `key`."""
    at, size = opening.place, commitment.rows
    if not 0 <= at < size:
        return False
    path = list(opening.path)
    if len(path) > size.bit_length():
        return False
    found = _leaf(key, opening.salt, row)
    while size > 1:
        if at ^ 1 < size:
            if not path:
                return False
            beside = path.pop(0)
            found = _node(beside, found) if at % 2 else _node(found, beside)
        at, size = at // 2, (size + 1) // 2
    return not path and found == commitment.root


def _leaf(key: int, salt: bytes, row: F32) -> bytes:
    content = key.to_bytes(8, "little") + salt + np.asarray(row, "<f4").tobytes()
    return hashlib.blake2b(content, digest_size=_SIZE, person=b"fedlab row").digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.blake2b(left + right, digest_size=_SIZE, person=b"fedlab node").digest()
