"""Aggregators that some of the devices may lie to.

Each looks at a whole cohort at once. Where devices are picked or weighed, all blocks of a device
(change, buffers, control variates) are judged together, as one long vector: a device that lies in
one of them loses all. `f` is how many devices of a cohort may lie; with fewer devices than a method
needs for that, a federation is refused, or a round is skipped. Numbers that devices tell, such as
their losses, are not judged.

Rows are a claim of the device's own, so all devices count alike, but for `GeometricMedian`, which
takes weights. A bound on the norm of updates (Sun et al., "Can you really backdoor federated
learning?", 2019) is `fedlab.updates.ClipNorm`, behind the attacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from fedlab.core.typing import F64, Array, Places
from fedlab.core.validation import known, of_kind, positive, require, whole_number
from fedlab.device.device import Device
from fedlab.updates.aggregators import Joint, Mean
from fedlab.updates.sent import Updates
from fedlab.updates.stages import shortening, squares_of

Blocks = Mapping[str, Array]
Combined = tuple[dict[str, F64], Any]


def apart(blocks: Iterable[Array]) -> F64:
    """Return squared distances between devices over all their blocks, (m, m).

    Differences are taken first and squared then, in float64, so that nothing cancels out: honest
    devices stay apart exactly where others are 1e9 times as far.

    Examples
    --------
    >>> apart([np.array([[0.0], [3.0]]), np.array([[0.0], [4.0]])])
    array([[ 0., 25.],
           [25.,  0.]])
    """
    from scipy.spatial.distance import pdist, squareform

    return np.asarray(squareform(np.sum([pdist(b, "sqeuclidean") for b in blocks], axis=0)))


def _summed(blocks: Blocks, shares: F64) -> dict[str, F64]:
    """Return sum_k shares_k v_k of each block."""
    return {n: Mean().add(Mean().begin(b.shape[1]), b, shares) for n, b in blocks.items()}


def _trimmed(rows: Array, trim: int) -> F64:
    """Return each column's mean without its `trim` least and largest numbers, (n,)."""
    return mean(np.sort(rows, axis=0)[trim : len(rows) - trim])


def _median(rows: Array) -> F64:
    return _trimmed(rows, (len(rows) - 1) // 2)


def mean(rows: Array) -> F64:
    """Return the rows' mean in float64, (n,)."""
    return np.asarray(rows.mean(axis=0, dtype=np.float64))


@dataclass(frozen=True)
class Median(Joint):
    """Each number's median over the devices; of an even count, the mean of the two in the middle.

    Source: Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates",
    ICML 2018, option I.

    Examples
    --------
    >>> sent = Updates(np.arange(3), {"change": np.array([[1.0], [2.0], [1e6]])}, np.ones(3), {})
    >>> Median().combine({}, sent, {})[0]
    {'change': array([2.])}
    """

    def combine(self, state: Any, sent: Updates, own: Blocks) -> Combined:
        return {name: _median(block) for name, block in sent.blocks.items()}, state


@dataclass(frozen=True)
class _Bounded(Joint):
    """One that is told how many devices lie at most.

    Parameters
    ----------
    f : int
    """

    f: int

    def __post_init__(self) -> None:
        whole_number(self.f, "f", 0)

    @property
    def least(self) -> int:  # type: ignore[override]
        return 2 * self.f + 1


@dataclass(frozen=True)
class TrimmedMean(_Bounded):
    """Each number's mean over the devices without its f least and f largest; m > 2f.

    Source: Yin et al., 2018, option II.

    Examples
    --------
    >>> rows = np.array([[-1e6], [2.0], [4.0], [1e6]])
    >>> sent = Updates(np.arange(4), {"change": rows}, np.ones(4), {})
    >>> TrimmedMean(f=1).combine({}, sent, {})[0]
    {'change': array([3.])}
    """

    def combine(self, state: Any, sent: Updates, own: Blocks) -> Combined:
        return {name: _trimmed(block, self.f) for name, block in sent.blocks.items()}, state


@dataclass(frozen=True)
class Krum(_Bounded):
    """The update nearest to its neighbours, or the mean of the `keep` that are; m >= 2f + 3.

    Parameters
    ----------
    f : int
    neighbours : {"paper", "byzfl"}
        How many others a device is compared with: m - f - 2, or m - f - 1 as in ByzFL.
    keep : int
        Updates that are averaged: 1 is Krum, more is multi-Krum.

    Source: Blanchard et al., "Machine learning with adversaries: Byzantine tolerant gradient
    descent", NeurIPS 2017.

    Examples
    --------
    >>> rows = np.array([[1.0], [1.1], [1.2], [1.3], [1e6]])
    >>> sent = Updates(np.arange(5), {"change": rows}, np.ones(5), {})
    >>> Krum(f=1).combine({}, sent, {})[0]
    {'change': array([1.1])}
    """

    neighbours: Literal["paper", "byzfl"] = "paper"
    keep: int | None = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        known(self.neighbours, ("paper", "byzfl"), "count of neighbours")
        whole_number(1 if self.keep is None else self.keep, "keep", 1)

    @property
    def least(self) -> int:  # type: ignore[override]
        return max(2 * self.f + 3, self.f + (self.keep or 1))

    def combine(self, state: Any, sent: Updates, own: Blocks) -> Combined:
        keep = self.keep or len(sent) - self.f
        chosen = np.sort(self._best(apart(sent.blocks.values()))[:keep])
        blocks = {name: block[chosen] for name, block in sent.blocks.items()}
        return _summed(blocks, np.full(keep, 1 / keep)), state

    def _best(self, distances: F64) -> Places:
        """Return devices by the sum of the distances to their nearest, best first."""
        count = len(distances) - self.f - (2 if self.neighbours == "paper" else 1)
        near = np.sort(distances, axis=1)[:, 1 : count + 1]  # a device is its own nearest
        return np.argsort(near.sum(axis=1), kind="stable")


@dataclass(frozen=True)
class MultiKrum(Krum):
    """`Krum` that averages all but f updates, as in ByzFL, unless `keep` says how many."""

    keep: int | None = None


@dataclass(frozen=True)
class Bulyan(Krum):
    """Of m - 2f updates that Krum picks in turn, each number's mean of those nearest its median.

    Of m - 4f numbers, that is, or more where some are as near; m >= 4f + 3.

    Parameters
    ----------
    f, neighbours
        See `Krum`.

    Source: El Mhamdi, Guerraoui and Rouault, "The hidden vulnerability of distributed learning in
    Byzantium", ICML 2018.

    Examples
    --------
    >>> rows = np.array([[1.0], [1.1], [1.2], [1.3], [1.4], [1.5], [1e6]])
    >>> sent = Updates(np.arange(7), {"change": rows}, np.ones(7), {})
    >>> Bulyan(f=1).combine({}, sent, {})[0]["change"].round(2)
    array([1.2])
    """

    @property
    def least(self) -> int:  # type: ignore[override]
        return 4 * self.f + 3

    def combine(self, state: Any, sent: Updates, own: Blocks) -> Combined:
        distances, left = apart(sent.blocks.values()), np.arange(len(sent))
        chosen = list[int]()
        while len(chosen) < len(sent) - 2 * self.f:
            best = self._best(distances[np.ix_(left, left)])[0]
            chosen.append(int(left[best]))
            left = np.delete(left, best)
        chosen.sort()
        return {name: self._nearest(block[chosen]) for name, block in sent.blocks.items()}, state

    def _nearest(self, rows: Array) -> F64:
        """Return each column's mean of the numbers nearest to its median, and of all as near."""
        far = np.abs(rows - _median(rows))
        limit = np.sort(far, axis=0)[len(rows) - 2 * self.f - 1]
        return np.asarray(rows.mean(axis=0, dtype=np.float64, where=far <= limit))


@dataclass(frozen=True)
class GeometricMedian(Joint):
    """The point whose weighted distances to the updates sum to the least, by Weiszfeld's steps.

    It holds against devices that have less than half of the weight.

    Parameters
    ----------
    nu : float
        Distances below it count as it.
    steps : int
        At most; they end earlier where nothing moves.

    Source: Pillutla, Kakade and Harchaoui, "Robust aggregation for federated learning", IEEE
    Transactions on Signal Processing 2022, algorithm 2.

    Examples
    --------
    >>> rows = np.array([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    >>> sent = Updates(np.arange(5), {"change": rows}, np.full(5, 0.2), {})
    >>> GeometricMedian().combine({}, sent, {})[0]
    {'change': array([0., 0.])}
    """

    nu: float = 1e-6
    steps: int = 1000

    weights: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        positive(nu=self.nu)
        whole_number(self.steps, "steps", 1)

    def combine(self, state: Any, sent: Updates, own: Blocks) -> Combined:
        # The point is a mean of the rows, so its distances follow from theirs: |v_k - z|^2 =
        # sum_j a_j D_kj - a'Da/2. Only shares move, and not whole vectors.
        distances = apart(sent.blocks.values())
        shares = weights = sent.weights / sent.weights.sum()
        for _ in range(self.steps):
            squares = distances @ shares - shares @ distances @ shares / 2
            pulls = weights / np.maximum(np.sqrt(np.maximum(squares, 0)), self.nu)
            before, shares = shares, pulls / pulls.sum()
            if np.abs(shares - before).max() < 1e-14:
                break
        return _summed(sent.blocks, shares), state


@dataclass(frozen=True)
class CenteredClipping(Joint):
    """The last round's aggregate, moved by the mean of the updates' clipped distances from it.

    v <- v + mean_k((x_k - v) min(1, radius / d_k)), where d_k is the length of x_k - v; before the
    first round, v is 0.

    Parameters
    ----------
    radius : float
    steps : int
        In a round.

    Source: Karimireddy, He and Jaggi, "Learning from history for Byzantine robust optimization",
    ICML 2021, algorithm 2.

    Examples
    --------
    >>> sent = Updates(np.arange(2), {"change": np.array([[1.0], [1e6]])}, np.ones(2), {})
    >>> CenteredClipping(radius=1.0).combine({}, sent, {})[0]
    {'change': array([1.])}
    """

    radius: float
    steps: int = 1

    def __post_init__(self) -> None:
        positive(radius=self.radius)
        whole_number(self.steps, "steps", 1)

    def combine(self, state: Any, sent: Updates, own: Blocks) -> Combined:
        centre = {name: state.get(name, 0.0) for name in sent.blocks}
        for _ in range(self.steps):
            away = {
                name: np.asarray(b, np.float64) - centre[name] for name, b in sent.blocks.items()
            }
            far = np.sqrt(squares_of(away.values(), len(sent)))
            shares = shortening(far, self.radius) / len(sent)
            centre = {name: centre[name] + move for name, move in _summed(away, shares).items()}
        return centre, {name: mean.copy() for name, mean in centre.items()}


@dataclass(frozen=True, eq=False)
class FLTrust(Joint):
    """Updates as long as the server's own, each weighed by how much it points where that one does.

    The server trains on rows of its own as if it were one more device. An update's trust is the
    cosine between the two, or 0 where that is negative; where nobody is trusted nothing moves.

    Parameters
    ----------
    root : Device
        The server's rows; it is none of the federation's devices.

    Source: Cao et al., "FLTrust: Byzantine-robust federated learning via trust bootstrapping",
    NDSS 2021, algorithm 2.
    """

    root: Device

    def __post_init__(self) -> None:
        of_kind(self.root, Device, "root")
        if not self.root.rows:
            raise ValueError(f"root {self.root!r} has no rows to train on; give it some")

    def combine(self, state: Any, sent: Updates, own: Blocks) -> Combined:
        far = np.sqrt(squares_of(sent.blocks.values(), len(sent)))
        length = float(np.linalg.norm(np.concatenate([[], *own.values()])))
        along = np.sum([block @ own[name] for name, block in sent.blocks.items()], axis=0)
        trust = np.maximum(along, 0) / np.maximum(far * length, np.finfo(np.float64).tiny)
        shares = trust * length / np.where(trust > 0, far * trust.sum(), 1.0)
        return _summed(sent.blocks, shares), state


@dataclass(frozen=True)
class NNM(_Bounded):
    """Nearest-neighbour mixing: each update becomes the mean of the m - f nearest; m > 2f.

    Parameters
    ----------
    f : int
    then : Joint
        What aggregates the mixed updates; `TrimmedMean` with f = 0 takes their mean.

    Source: Allouah et al., "Fixing by mixing: a recipe for optimal Byzantine ML under
    heterogeneity", AISTATS 2023.

    Examples
    --------
    >>> rows = np.array([[1.0], [2.0], [3.0], [1e6]])
    >>> sent = Updates(np.arange(4), {"change": rows}, np.ones(4), {})
    >>> NNM(1, Median()).combine({}, sent, {})[0]
    {'change': array([2.])}
    """

    then: Joint

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.then, "then (an aggregator such as Median())", "init", "combine")

    @property
    def least(self) -> int:  # type: ignore[override]
        return max(super().least, getattr(self.then, "least", 1))

    @property
    def root(self) -> Device | None:
        return getattr(self.then, "root", None)

    def init(self, size: int) -> Any:
        return self.then.init(size)

    def combine(self, state: Any, sent: Updates, own: Blocks) -> Combined:
        count = len(sent) - self.f
        near = np.argsort(apart(sent.blocks.values()), axis=1, kind="stable")[:, :count]
        mixing = np.zeros((len(sent),) * 2)
        np.put_along_axis(mixing, near, 1 / count, axis=1)
        blocks = {n: mixing.astype(block.dtype) @ block for n, block in sent.blocks.items()}
        return self.then.combine(state, replace(sent, blocks=blocks), own)
