"""Class counts and centroids that a device may tell of its rows: differentially private.

Two sets of rows are neighbours if one holds one row more. A release is (epsilon, delta)-private if
for any neighbours and any set of answers the probability of one is at most exp(epsilon) times that
of the other, plus delta. Rows are on one device each, so that all devices' releases of one kind
together cost what one does (parallel composition); releases after each other add up their epsilons
and deltas (basic composition; Dwork and Roth, 2014, theorem 3.16): `Budget` keeps the sum. Within a
release of centroids, Gaussian steps add up as zero-concentrated privacy (Bun and Steinke, TCC 2016)
and are converted once.

Each device adds its own noise, so nobody need be trusted; a sum over D devices carries D times the
variance (`fedlab.privacy.release_total` does with less). Noise is exact (`fedlab.search.private.
noise`). `NOISY_RELEASE` says what is protected.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.ledger import Ledger
from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, I64
from fedlab.core.validation import of_kind, positive, require, whole_number
from fedlab.device.compatibility import one_kind
from fedlab.device.device import Device
from fedlab.index.ingest import as_vectors
from fedlab.privacy.mechanisms import Budget, Mechanism
from fedlab.privacy.noise import Source
from fedlab.privacy.threat_model import Protection

NOISY_RELEASE = Protection(
    name="noisy release",
    protects="whether any one row is among a device's, from everybody who sees the release",
    does_not=(
        "hide what many rows have in common (a class, a topic, a person with many rows); hide how "
        "long the noise took to draw; cover what else is told of the rows"
    ),
    assumes=(
        "one row a person (else epsilon grows with their number), classes, first centroids and "
        "clipping chosen without looking at rows, and devices that add their noise"
    ),
    cost=(
        "epsilon (and delta); counts: 8 c bytes a device; centroids: 8 c (2 d + 1) bytes a device "
        "and round; noise that grows as 1 / epsilon, and over D devices as sqrt(D)"
    ),
    source="Dwork et al., TCC 2006; Canonne, Kamath and Steinke, NeurIPS 2020",
)

_COUNTS, _CENTROIDS = 0, 1  # parts of the address of a seeded draw
_GRID = 1 << 12  # steps from zero to the clipping length


def release_counts(
    device: Device,
    classes: ArrayLike,
    mechanism: Mechanism,
    *,
    budget: Budget | None = None,
    seed: int | None = None,
) -> I64:
    """Return how many rows of each class a device has, with noise.

    One row changes one count by one, so the noise is that of sensitivity 1.

    Parameters
    ----------
    device : Device
        Its rows have labels; all of them count, held-out ones too.
    classes : (c,) array
        Those that are asked for, chosen without looking at the rows. Others are not counted.
    mechanism : Laplace or Gaussian
    budget : Budget, optional
        What is left of these rows' privacy; the release is noted there.
    seed : int, optional
        Makes an experiment repeatable, and the noise no secret. By default noise is drawn from the
        operating system.

    Returns
    -------
    (c,) int64 array
        Counts, which may be negative.

    Examples
    --------
    >>> from fedlab import VectorIndex
    >>> index = VectorIndex(1)
    >>> _ = index.add(np.ones((100, 1)), labels=np.repeat([0, 1], 50))
    >>> from fedlab.search.private import Laplace
    >>> counts = release_counts(Device("ward 3", index), [0, 1, 2], Laplace(1.0))
    >>> counts.shape, counts.dtype
    ((3,), dtype('int64'))
    """
    of_kind(device, Device, "device")
    counts = counts_of(device, classes)
    require_privacy(mechanism, budget)
    if budget is not None:
        budget.spend(mechanism, f"class counts of {device.id!r}")
    return counts + mechanism.noise(1, len(counts), source_of(seed, device, _COUNTS))


def require_privacy(mechanism: object, budget: object) -> None:
    """Refuse what is no mechanism, or no budget."""
    require(mechanism, "a mechanism, Laplace(epsilon) or Gaussian(epsilon, delta),", "noise")
    if budget is not None:
        of_kind(budget, Budget, "budget")


def counts_of(device: Device, classes: ArrayLike) -> I64:
    """Return how many rows of each class a device has, exactly: for itself only."""
    names = np.asarray(classes)
    if names.ndim != 1 or len(np.unique(names)) < len(names):
        raise ValueError("classes are a list, each once")
    tally = Counter(device.labels.tolist())
    return np.array([tally[name] for name in names.tolist()], np.int64)


@dataclass(frozen=True)
class Centroids:
    """Noisy centroids, and what they cost.

    Attributes
    ----------
    centroids : (c, d) float64 array
    counts : (c,) int64 array
        Noisy numbers of rows that were nearest to the centroids before the last move.
    epsilon, delta : float
        What all of it cost.
    ledger : Ledger
        What was sent.
    """

    centroids: F64
    counts: I64
    epsilon: float
    delta: float
    ledger: Ledger


def release_centroids(
    devices: Sequence[Device],
    initial: ArrayLike,
    mechanism: Mechanism,
    *,
    clip: float = 1.0,
    iterations: int = 3,
    budget: Budget | None = None,
    seed: int | None = None,
) -> Centroids:
    """Move centroids towards the devices' rows, which tell only noisy sums and counts.

    Lloyd's steps as in Blum, Dwork, McSherry and Nissim ("Practical privacy: the SuLQ framework",
    PODS 2005): in each, every device sends, for each centroid, the sum of the rows nearest to it
    and their number, with noise. Half of a step's privacy goes to sums and half to numbers.

    Parameters
    ----------
    devices : sequence of Device
        Of one dimension and metric. One device alone releases centroids of its own.
    initial : (c, d) array
        First centroids, chosen without looking at the rows: directions at random, public data.
    mechanism : Laplace or Gaussian
        What all iterations together may cost. Under Laplace rows are clipped by their absolute
        sums, under Gaussian by their lengths.
    clip : float
        A row that is longer is shortened to this. Under cosine, rows are brought to length one
        first.
    iterations : int
    budget, seed
        As in `release_counts`.

    Examples
    --------
    >>> from fedlab import VectorIndex
    >>> index = VectorIndex(2, "l2sq")
    >>> _ = index.add(np.repeat([[0.9, 0.1], [0.1, 0.9]], 500, axis=0))
    >>> from fedlab.search.private import Laplace
    >>> found = release_centroids([Device(0, index)], np.eye(2), Laplace(5.0), seed=0)
    >>> np.abs(found.centroids - [[0.9, 0.1], [0.1, 0.9]]).max() < 0.1
    np.True_
    """
    _, dimensions = one_kind(devices)
    centroids = as_vectors(initial, dimensions, "initial").astype(np.float64)
    positive(clip=clip)
    whole_number(iterations, "iterations", 1)
    if not len(centroids):
        raise ValueError("initial holds no centroid; give one at least")
    require_privacy(mechanism, budget)
    if budget is not None:
        budget.spend(mechanism, f"{len(centroids)} centroids of {len(devices)} devices")
    each = mechanism.halved(2 * iterations)
    ledger = Ledger([device.id for device in devices])
    everyone = np.arange(len(devices))
    counts = np.zeros(len(centroids), np.int64)
    for step in range(iterations):
        sums = np.zeros(centroids.shape, np.int64)
        counts = np.zeros(len(centroids), np.int64)
        for device in devices:
            told = _told(device, centroids, each, clip, source_of(seed, device, _CENTROIDS, step))
            sums, counts = sums + told[0], counts + told[1]
        ledger.note(step + 1, "down", "centroids", 8 * centroids.size, everyone)
        ledger.note(step + 1, "up", "noisy sums and counts", sums.nbytes + counts.nbytes, everyone)
        centroids = _moved(centroids, sums.astype(np.float64) * (clip / _GRID), counts, clip)
    return Centroids(centroids, counts, mechanism.epsilon, mechanism.delta, ledger)


def _told(
    device: Device, centroids: F64, each: Mechanism, clip: float, source: Source
) -> tuple[I64, I64]:
    """Return what one device says: noisy sums in steps of clip / _GRID, and noisy counts."""
    rows = _clipped(device, clip, each.norm)
    # Each distance by itself: in a matrix product a row's last bits can depend on other rows.
    apart = [np.square(rows - centroid).sum(axis=1) for centroid in centroids]
    near = np.argmin(apart, axis=0)
    # Rounded towards zero, so that no row grows beyond the clipping length; whole numbers add up
    # the same in any order.
    steps = np.trunc(rows / clip * _GRID).astype(np.int64)
    sums = np.zeros(centroids.shape, np.int64)
    np.add.at(sums, near, steps)
    counts = np.bincount(near, minlength=len(centroids)).astype(np.int64)
    sums += each.noise(_GRID, sums.size, source).reshape(sums.shape)
    return sums, counts + each.noise(1, len(counts), source)


def _clipped(device: Device, clip: float, norm: int) -> F64:
    rows = device.index.vectors.astype(np.float64)
    if device.index.metric == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, ord=norm, axis=1, keepdims=True)
    # A little under the clipping length, for what rounding may add.
    factor = clip * (1 - 1e-9) / np.maximum(lengths, 1e-300)
    return np.asarray(rows * np.minimum(1.0, factor))


def _moved(centroids: F64, sums: F64, counts: I64, clip: float) -> F64:
    """Return the means, drawn back into the clipping length; where nothing is near, as before."""
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray(means * np.minimum(1.0, clip / np.maximum(lengths, 1e-300)))


def source_of(seed: int | None, device: Device, part: int, step: int = 0) -> Source:
    """Return where a device's noise comes from: the operating system, unless there is a seed."""
    if seed is None:
        return os.urandom
    draw: Any = generator(seed, Purpose.RELEASE, device=device.id, round=step, part=part)
    return draw.bytes  # type: ignore[no-any-return]
