"""What an attack finds: a protected device, and an attacker who knows vectors of the same kind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedlab.randomness import Purpose, generator
from fedlab.search.leaks.alignment import lay_upon
from fedlab.search.leaks.protections import CHOSEN, QUERIES, ROWS, Protection, Seen
from fedlab.search.leaks.trilateration import Prior

__all__ = ["Scene", "cosines", "squared_distances"]

Double = NDArray[np.float64]
Places = NDArray[np.int64]

#: Parts of an attacker's randomness.
SPLIT, POOL, PAIRS, POINTS, CANDIDATES = range(5)


@dataclass(frozen=True)
class Scene:
    """One protection on one device, for one seed.

    Attributes
    ----------
    protection : Protection
    inside : (n, d) float64 array
        The device's rows, unprotected: the truth.
    outside : (m, d) float64 array
        Rows of the same kind that are not on the device; the attacker has them.
    queries : (q, d) float64 array
        Honest queries, for the recall.
    k : int
    seed : int
    """

    protection: Protection
    inside: Double
    outside: Double
    queries: Double
    k: int
    seed: int

    @cached_property
    def seen(self) -> Seen:
        """The device's rows, protected."""
        return self.protection.protect(self.inside, self.seed, ROWS)

    @cached_property
    def asked(self) -> Seen:
        """The honest queries, protected."""
        return self.protection.protect(self.queries, self.seed, QUERIES)

    def chosen(self, queries: Double, batch: int = 0) -> Seen:
        """Protect an attacker's queries: he comes through the door that all askers come through."""
        return self.protection.protect(queries, self.seed, CHOSEN + batch)

    @cached_property
    def pool(self) -> tuple[Double, Places]:
        """The attacker's candidates, shuffled, and where among them each row's original is."""
        everything = np.concatenate([self.inside, self.outside])
        place = self.draw(POOL).permutation(len(everything))
        pool = np.empty_like(everything)
        pool[place] = everything
        return pool, place[: len(self.inside)]

    @cached_property
    def prior(self) -> Prior:
        """What the attacker expects of a row."""
        return Prior.of(self.outside)

    @cached_property
    def laid(self) -> Double:
        """The holder's rows laid upon the candidates, without any known pair, (n, d)."""
        candidates = self.protection.public(self.pool[0])
        return np.asarray(self.seen.held @ lay_upon(self.seen.held, candidates))

    def draw(self, part: int) -> np.random.Generator:
        """Return an attacker's own randomness; every attack has its part."""
        return generator(self.seed, Purpose.ATTACK, part=part)

    @property
    def guess(self) -> float:
        """The mean cosine to the truth of a guess that uses no view: the mean of such rows."""
        mean = np.broadcast_to(self.outside.mean(axis=0), self.inside.shape)
        return float(cosines(mean, self.inside).mean())


def cosines(a: Double, b: Double) -> Double:
    """Return the cosine of each row with the row beside it.

    Examples
    --------
    >>> cosines(np.array([[1.0, 1.0]]), np.array([[2.0, 2.0]])).round(9)
    array([1.])
    """
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, 1e-300))


def squared_distances(queries: Double, rows: Double) -> Double:
    """Return squared Euclidean distances in float64, (q, n), by one product.

    Examples
    --------
    >>> squared_distances(np.zeros((1, 2)), np.array([[3.0, 4.0]]))
    array([[25.]])
    """
    lengths = np.square(queries).sum(axis=1)[:, None] + np.square(rows).sum(axis=1)
    return np.asarray(np.maximum(lengths - 2 * queries @ rows.T, 0.0))
