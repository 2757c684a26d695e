"""What an attack finds: a protected device, and an attacker who knows vectors of the same kind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, I64
from fedlab.leaks.alignment import lay_upon
from fedlab.leaks.defences import CHOSEN, QUERIES, ROWS, Defence, Seen
from fedlab.leaks.trilateration import Prior

#: Parts of an attacker's randomness.
SPLIT, POOL, PAIRS, FOLDS, CANDIDATES, TURN, POINTS = range(7)


@dataclass(frozen=True)
class Scene:
    """One defence on one device, for one seed.

    Attributes
    ----------
    defence : Defence
    inside : (n, d) float64 array
        The device's rows, unprotected: the truth.
    outside : (m, d) float64 array
        Rows of the same kind that are not on the device; the attacker has them.
    queries : (q, d) float64 array
        Honest queries, for the recall.
    k : int
    seed : int
    """

    defence: Defence
    inside: F64
    outside: F64
    queries: F64
    k: int
    seed: int

    @cached_property
    def seen(self) -> Seen:
        """The device's rows, protected."""
        return self.defence.protect(self.inside, self.seed, ROWS)

    @cached_property
    def asked(self) -> Seen:
        """The honest queries, protected."""
        return self.defence.protect(self.queries, self.seed, QUERIES)

    def chosen(self, queries: F64, batch: int = 0) -> Seen:
        """Protect an attacker's queries: he comes through the door that all askers come through."""
        return self.defence.protect(queries, self.seed, CHOSEN + batch)

    @cached_property
    def pool(self) -> tuple[F64, I64]:
        """The attacker's candidates, shuffled; and where in them rows inside and outside are."""
        everything = np.concatenate([self.inside, self.outside])
        place = self.draw(POOL).permutation(len(everything))
        pool = np.empty_like(everything)
        pool[place] = everything
        return pool, place

    @cached_property
    def prior(self) -> Prior:
        """What the attacker knows of rows, and of what the scheme does to them."""
        seen = self.defence.public(self.outside)
        return Prior.of(self.outside, seen, self.noise_power)

    @cached_property
    def back(self) -> F64:
        """The map that lays the holder's rows upon the candidates, without any known pair, (d, d).

        Its scale is the one at which mean squared lengths agree, noise counted.
        """
        candidates, held = self.defence.public(self.pool[0]), self.seen.held
        turn = np.eye(held.shape[1])
        if self.defence.secret_axes:
            turn = lay_upon(held, candidates)
        expected = _power(candidates) + self.noise_power
        return np.asarray(turn * np.sqrt(expected / max(_power(held @ turn), 1e-300)))

    @cached_property
    def laid(self) -> F64:
        """The holder's rows, laid upon the candidates, (n, d)."""
        return np.asarray(self.seen.held @ self.back)

    @property
    def noise_power(self) -> float:
        """The mean squared length of the noise on a row."""
        return self.defence.noise_power(self.inside.shape[1])

    def draw(self, part: int) -> np.random.Generator:
        """Return an attacker's own randomness; every attack has its part."""
        return generator(self.seed, Purpose.ATTACK, part=part)

    def guess(self, rows: slice | I64 = slice(None)) -> float:
        """Return the mean cosine to the truth of a guess that uses no view: the mean of such rows.

        Parameters
        ----------
        rows : slice or places
            Which of the device's rows are attacked; by default all.
        """
        truth = self.inside[rows]
        mean = np.broadcast_to(self.outside.mean(axis=0), truth.shape)
        return float(cosines(mean, truth).mean())


def _power(rows: F64) -> float:
    return float(np.square(rows).sum(axis=1).mean())


def cosines(a: F64, b: F64) -> F64:
    """Return the cosine of each row with the row beside it.

    Examples
    --------
    >>> cosines(np.array([[1.0, 1.0]]), np.array([[2.0, 2.0]])).round(9)
    array([1.])
    """
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, 1e-300))


def squared_distances(queries: F64, rows: F64) -> F64:
    """Return squared Euclidean distances in float64, (q, n), by one product.

    Examples
    --------
    >>> squared_distances(np.zeros((1, 2)), np.array([[3.0, 4.0]]))
    array([[25.]])
    """
    lengths = np.square(queries).sum(axis=1)[:, None] + np.square(rows).sum(axis=1)
    return np.asarray(np.maximum(lengths - 2 * queries @ rows.T, 0.0))
