"""Real attacks on protected vectors, each with the success that chance alone would have.

The attacker knows the scheme and its parameters, never its secret (Kerckhoffs), and vectors of the
same kind. A **holder** has the protected rows; an **asker** sends queries and reads distances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F64, I64
from fedlab.core.validation import whole_number, whole_or_none
from fedlab.leaks.alignment import laid_of, nearest_of, way_back
from fedlab.leaks.defences import Counts, Shares
from fedlab.leaks.scene import (
    CANDIDATES,
    FOLDS,
    PAIRS,
    POINTS,
    TURN,
    Scene,
    cosines,
    squared_distances,
)
from fedlab.leaks.trilateration import needed, trilaterate

Attacker = Literal["", "holder", "asker"]

_UNSEEN = 1_000  # rows on which a map from known pairs is judged
_SOLVED = 500  # rows that are found by trilateration
_CANDIDATES = 500  # members, and as many others, in a test of membership


class AttackResult(NamedTuple):
    """One number, who could reach it, and what it would be without any leak."""

    attacker: Attacker
    metric: str
    value: float
    chance: float


class Attack(Protocol):
    """Anything that measures what one attack finds in a scene."""

    #: Whether protected rows must exist; released counts have none.
    needs_rows: ClassVar[bool]

    def measure(self, scene: Scene) -> Iterator[AttackResult]:
        """Run the attack."""


@dataclass(frozen=True)
class Linkage:
    """Link each protected row to its original in a pool of candidates, without one known pair.

    The pool holds the device's rows among as many others. Rows are laid upon the candidates
    (`fedlab.leaks.alignment.lay_upon`), then each goes to the nearest.

    Measures ``linkage``, the share of rows linked rightly, and ``recovery, 0 pairs``, the mean
    cosine of the laid rows to the truth; chance is one among the candidates, and the cosine of the
    mean of such rows to the truth.
    """

    needs_rows: ClassVar[bool] = True

    def measure(self, scene: Scene) -> Iterator[AttackResult]:
        """Run the attack."""
        linked, missed = self.link(scene)
        right = linked == np.arange(len(linked))
        yield AttackResult("holder", "linkage", float(right.mean()), 1 / len(scene.pool[0]))
        error = self._error(scene, float(missed[laid_of(len(missed)) :].mean()))
        recovered = scene.prior.given(scene.laid, error)
        value = float(cosines(recovered, scene.inside).mean())
        yield AttackResult("holder", "recovery, 0 pairs", value, scene.guess())

    def link(self, scene: Scene) -> tuple[I64, F64]:
        """Say for each of the device's rows which vector it is taken for.

        Returns
        -------
        linked : (n,) int64 array
            A place in ``scene.inside`` and, after its n rows, ``scene.outside``.
        missed : (n,) float64 array
            The squared distance to it.
        """
        pool, place = scene.pool
        found, missed = nearest_of(scene.laid, scene.defence.public(pool))
        return np.argsort(place)[found], missed

    def _error(self, scene: Scene, missed: float) -> float:
        """How wrong the laying is, beyond the scheme's own noise: variance in each direction.

        A right map misses the nearest candidate by the noise, a worthless one by as much as it
        misses for rows that were turned at random before. What lies between is taken to be partly
        right.
        """
        if not scene.defence.secret_axes:
            return 0.0
        from scipy.stats import ortho_group

        candidates = scene.defence.public(scene.pool[0])
        dimensions = candidates.shape[1]
        turn = ortho_group.rvs(dimensions, random_state=scene.draw(TURN))
        turned = scene.seen.held[:_UNSEEN] @ turn @ scene.back
        worthless = float(nearest_of(turned, candidates)[1].mean())
        span = max(worthless - scene.noise_power, 1e-12)
        trust = min(max((worthless - missed) / span, 1e-6), 1.0)
        return float((1 / trust - 1) / dimensions)


@dataclass(frozen=True)
class KnownPairs:
    """Learn the way back from some pairs (row, protected row), and apply it to the others.

    Measures ``recovery, m pairs``: the mean cosine of recovered rows to the truth, on rows that are
    in no pair; chance as in `Linkage`.

    Parameters
    ----------
    pairs : tuple of int
        How many are known; the smaller sets lie in the larger ones.
    """

    pairs: tuple[int, ...] = (16, 64, 256)
    needs_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for count in self.pairs:
            whole_number(count, "pairs", 2)

    def check(self, rows: int) -> None:
        """Refuse a device with too few rows, of which none would be left unseen."""
        if (most := max(self.pairs, default=0)) >= rows:
            raise ValueError(
                f"KnownPairs: {most} known pairs were asked for, of {rows} rows on the device "
                f"(half of the vectors, less the queries); at least {most + 1} are needed, to "
                "leave some unseen: give more vectors, or ask for fewer: "
                f"KnownPairs(pairs=({max(2, rows // 4)},))"
            )

    def measure(self, scene: Scene) -> Iterator[AttackResult]:
        """Run the attack."""
        self.check(len(scene.inside))
        most, order = max(self.pairs, default=0), scene.draw(PAIRS).permutation(len(scene.inside))
        unseen = order[most : most + _UNSEEN]
        held = scene.seen.held / np.sqrt(np.square(scene.seen.held).mean())
        chance = scene.guess(unseen)
        for count in self.pairs:
            known = order[:count]
            folds = scene.draw(FOLDS)
            back, offset = way_back(
                held[known], scene.inside[known], scene.prior, scene.defence.secret_axes, folds
            )
            found = cosines(held[unseen] @ back + offset, scene.inside[unseen])
            yield AttackResult("holder", f"recovery, {count} pairs", float(found.mean()), chance)


@dataclass(frozen=True)
class Trilateration:
    """Ask points of one's own choice, read the distances, and solve for the rows.

    Measures ``trilateration``: the mean cosine of recovered rows to the truth; chance as in
    `Linkage`. Where no party holds what the search works with (`Shares`), the holder tries too,
    with the distances that can be computed from one share.

    Parameters
    ----------
    top : int, optional
        See a row's distance only while it is among so many nearest. The asker then starts from a
        query that happened to hit the row, asks around it as widely as it stays in sight, solves,
        and asks again around the solution. None: all distances are seen.
    decimals : int, optional
        Distances are rounded to so many.
    targets : int
        Rows that are attacked under `top`; without, the first 500 are.

    Notes
    -----
    Of n distances to chosen points, d + 1 determine a row of d numbers (one more where distances
    are scaled); twice as many are asked here, so that noise averages out, and what is left of it is
    weighed against what such rows look like (`fedlab.leaks.trilateration.Prior`).
    """

    top: int | None = None
    decimals: int | None = None
    targets: int = 6
    needs_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole_or_none(self.top, "top", 1)
        whole_or_none(self.decimals, "decimals", 0, 15)
        whole_number(self.targets, "targets", 1)

    @property
    def metric(self) -> str:
        """The measure's name."""
        top = f", top {self.top}" if self.top else ""
        decimals = "" if self.decimals is None else f", {self.decimals} decimals"
        return f"trilateration{top}{decimals}"

    def measure(self, scene: Scene) -> Iterator[AttackResult]:
        """Run the attack."""
        if self.top is not None:
            targets = np.arange(min(self.targets, len(scene.inside)))
            value = self._in_sight(scene, targets)
            yield AttackResult("asker", self.metric, value, scene.guess(targets))
            return
        count = 2 * needed("l2sq", scene.inside.shape[1], secret_scale=True)
        points, rows = _points(scene, count), slice(_SOLVED)
        asked, seen = scene.chosen(points), scene.seen
        views: dict[Attacker, F64] = {"asker": squared_distances(asked.used, seen.used[rows])}
        if isinstance(scene.defence, Shares):
            views["holder"] = squared_distances(asked.held, seen.held[rows])
        for who, distances in views.items():
            found = cosines(self._solve(scene, points, distances), scene.inside[rows])
            yield AttackResult(who, self.metric, float(found.mean()), scene.guess(rows))

    def _solve(self, scene: Scene, points: F64, distances: F64) -> F64:
        if self.decimals is not None:
            distances = distances.round(self.decimals)
        return trilaterate(
            scene.defence.public(points),
            distances,
            secret_scale=scene.defence.secret_scale,
            prior=scene.prior,
        )

    def _in_sight(self, scene: Scene, targets: I64) -> float:
        sight = _Sight(scene, self.top or 1)
        first = sight.ask(scene.outside, targets, batch=1)
        found = np.tile(scene.prior.mean, (len(targets), 1))
        for target in targets:
            if np.isfinite(first[:, target]).any():
                start = scene.outside[np.nanargmin(first[:, target])]
                found[target] = self._approach(scene, sight, int(target), start)
        return float(cosines(found, scene.inside[targets]).mean())

    def _approach(self, scene: Scene, sight: _Sight, target: int, start: F64) -> F64:
        """Solve around a point from which the target is seen, and again around the solution."""
        point, found, dimensions = start, scene.prior.mean, len(start)
        count = needed("l2sq", dimensions, secret_scale=True) * 5 // 4 + 8
        for step in range(2):
            draw = scene.draw(POINTS + 1000 * (1 + step) + 10_000 * target)
            around = draw.normal(size=(count, dimensions)) / np.sqrt(dimensions)
            seen = np.zeros(count, np.bool_)
            for spread in 0.8 * 0.5 ** np.arange(9):
                # A few first: whether the target stays in sight is cheap to find out.
                probe = sight.ask(point + spread * around[:24], np.array([target]), batch=2)
                if np.isfinite(probe).mean() >= 0.95:
                    points = point + spread * around
                    distances = sight.ask(points, np.array([target]), batch=3 + step)
                    seen = np.isfinite(distances[:, 0])
                    break
            if seen.sum() < needed("l2sq", dimensions, scene.defence.secret_scale):
                break
            point = found = self._solve(scene, points[seen], distances[seen])[0]
        return found


class _Sight:
    """A search that shows a row's distance only while it is among the k nearest."""

    def __init__(self, scene: Scene, k: int) -> None:
        rows = scene.seen.used
        self._scene, self._k = scene, min(k, len(rows))
        self._rows, self._half = rows.astype(np.float32), np.square(rows).sum(axis=1) / 2

    def ask(self, points: F64, targets: NDArray[np.integer], batch: int) -> F64:
        """Return each target's distance to each point, NaN where it is out of sight."""
        asked = self._scene.chosen(points, batch).used
        closeness = asked.astype(np.float32) @ self._rows.T
        closeness -= self._half.astype(np.float32)
        last = np.partition(closeness, -self._k, axis=1)[:, -self._k]
        distances = squared_distances(asked, self._scene.seen.used[targets])
        return np.where(closeness[:, targets] >= last[:, None], distances, np.nan)


@dataclass(frozen=True)
class Membership:
    """Tell whether a vector is on the device, from how near the nearest row lies.

    The holder looks for candidates among the rows that `Linkage` laid upon the pool; the asker asks
    for the candidate itself and reads the nearest distance (of released `Counts`: how many rows lie
    on it). Measures ``membership``: the probability that a member looks more like one than an
    outsider does (the area under the ROC curve); chance is one half.
    """

    needs_rows: ClassVar[bool] = False

    def measure(self, scene: Scene) -> Iterator[AttackResult]:
        """Run the attack."""
        draw = scene.draw(CANDIDATES)
        count = min(_CANDIDATES, len(scene.inside), len(scene.outside))
        members = scene.inside[draw.permutation(len(scene.inside))[:count]]
        others = scene.outside[draw.permutation(len(scene.outside))[:count]]
        candidates = np.concatenate([members, others])
        scores: dict[Attacker, F64] = {}
        if isinstance(scene.defence, Counts):
            near = (squared_distances(candidates, scene.inside) < 1e-9).sum(axis=1)
            scores["asker"] = scene.defence.released(near, scene.seed)
        else:
            asked = scene.chosen(candidates, batch=9)
            held = nearest_of(scene.defence.public(candidates), scene.laid)[1]
            scores["holder"] = -held
            scores["asker"] = -squared_distances(asked.used, scene.seen.used).min(axis=1)
        for who, score in scores.items():
            yield AttackResult(who, "membership", separation(score, count), 0.5)


def separation(scores: F64, members: int) -> float:
    """Return the probability that a member scores above another; ties count one half."""
    from scipy.stats import mannwhitneyu

    wins = mannwhitneyu(scores[:members], scores[members:]).statistic
    return float(wins / (members * (len(scores) - members)))


def _points(scene: Scene, count: int) -> F64:
    """Return queries in random directions and of several lengths, so that no unknown hides."""
    draw = scene.draw(POINTS)
    points = draw.normal(size=(count, scene.inside.shape[1]))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return np.asarray(points * draw.uniform(0.5, 2.0, size=(count, 1)))
