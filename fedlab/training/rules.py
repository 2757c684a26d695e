"""Rules that choose rows: at random, by a score, for variety, without near-duplicates.

A score says how much a device wants each of its rows: `loss` and `gradient_bound` under the model
that it was sent, `Nearness` by likeness to queries; or any function ``score(device, given)`` that
returns a number for each training row (see `fedlab.training.choice.Given`). Distances are those of
the device's own index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F32, F64, Bool, Places
from fedlab.core.validation import at_most_one, not_negative, positive, require
from fedlab.device.device import Device
from fedlab.device.rows import Rows
from fedlab.index.ingest import as_labels, as_vectors
from fedlab.models.base import losses_of
from fedlab.training.choice import Given

Score = Callable[[Device, Given], F64]


# -- scores ---------------------------------------------------------------------------------------


def loss(device: Device, given: Given) -> F64:
    """Return each row's loss under the model that the device was sent, (r,).

    A model with ``losses(parameters, x, y)`` is asked once; others are measured row by row.

    Sources: Loshchilov & Hutter, "Online batch selection for faster training of neural networks",
    ICLR workshop 2016; Shin et al., "FedBalancer", MobiSys 2022, for devices.
    """
    x, y = _labelled(device, given)
    return losses_of(given.model, given.parameters, x, y)  # type: ignore[arg-type]


def gradient_bound(device: Device, given: Given) -> F64:
    """Return the length of each row's gradient at the scores of the classes, (r,).

    That is ``|softmax(scores) - onehot(y)|``. Up to a factor it bounds the length of the whole
    gradient. The model needs `predict`, and its loss must be the cross-entropy.

    Source: Katharopoulos & Fleuret, "Not all samples are created equal: deep learning with
    importance sampling", ICML 2018, eq. 20.
    """
    require(given.model, "a model whose gradients are bounded", "predict")
    x, y = _labelled(device, given)
    error = np.array(given.model.predict(given.parameters, x), np.float64)  # type: ignore[attr-defined]
    error[np.arange(len(y)), y] -= 1
    return np.asarray(np.linalg.norm(error, axis=1))


def _labelled(device: Device, given: Given) -> tuple[F32, NDArray[Any]]:
    if given.parameters is None:
        raise ValueError("choosing rows by the model needs an algorithm that sends one model")
    x, y = device.training()
    given.model.check_labels(y)
    return x, y


@dataclass(frozen=True, eq=False)
class _Queries:
    queries: F32
    labels: NDArray[Any] | None = None
    scale: float = 0.1
    fixed = True

    def __post_init__(self) -> None:
        array = np.atleast_2d(np.asarray(self.queries))
        object.__setattr__(self, "queries", as_vectors(array, array.shape[-1], "queries"))
        if self.labels is not None:
            object.__setattr__(self, "labels", as_labels(self.labels, len(self.queries)))
        positive(scale=self.scale, **{"the number of queries": len(self.queries)})

    @property
    def nbytes(self) -> int:
        """Bytes of the queries, and their labels."""
        return self.queries.nbytes + (0 if self.labels is None else self.labels.nbytes)

    def _near(self, device: Device) -> F64:
        held, near = device.training_rows(), np.full(len(device.index), np.inf)
        for label in [None] if self.labels is None else np.unique(self.labels):
            queries, where = self.queries, mask_of(held)
            if self.labels is not None:
                queries, where = queries[self.labels == label], where & (held.y == label)
            hits = device.most_similar(queries, len(near), where)
            rows = device.index.rows_of(hits.keys[hits.found])
            np.minimum.at(near, rows, hits.distances[hits.found])
        return np.asarray(np.exp(-near / self.scale)[_places(held)])


class Nearness(_Queries):
    """exp(-d / scale), with d a row's distance to the nearest query in the device's index.

    Parameters
    ----------
    queries : (q, d) array
        They are sent to the devices.
    labels : (q,) array, optional
        Then only queries of the row's own label count: class prototypes, say (see `class_means`). A
        row that has none scores 0.
    scale : float
        In the measure of the index's distances; it matters where rows are `Drawn`, or devices
        weighed.
    """

    def __call__(self, device: Device, given: Given) -> F64:
        return self._near(device)


class Relevance(_Queries):
    """A device's weight: the sum of its rows' `Nearness`, as if each row counted by its own.

    For ``Federation(weights=Relevance(queries))``; parameters are those of `Nearness`.
    """

    def __call__(self, device: Device) -> float:
        return float(self._near(device).sum())


def class_means(devices: Iterable[Device]) -> tuple[NDArray[Any], F32]:
    """Return the classes of all training rows, (c,), and the mean vector of each, (c, d).

    Each device tells the sums and counts of its classes: the prototypes of FedProto (Tan et al.,
    AAAI 2022), in the space of the rows.

    Examples
    --------
    >>> from fedlab.index import VectorIndex
    >>> index = VectorIndex(2)
    >>> _ = index.add([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]], labels=[0, 0, 1])
    >>> class_means([Device("ward 3", index)])[1].tolist()
    [[2.0, 0.0], [0.0, 1.0]]
    """
    sums: dict[Any, F64] = {}
    for device in devices:
        x, y = device.training()
        for label in np.unique(y).tolist():
            mine = x[y == label].astype(np.float64)
            sums[label] = sums.get(label, 0.0) + np.append(mine.sum(axis=0), len(mine))
    totals = np.array([sums[label] for label in sorted(sums)])
    return np.array(sorted(sums)), (totals[:, :-1] / totals[:, -1:]).astype(np.float32)


# -- rules ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Share:
    share: float

    def __post_init__(self) -> None:
        at_most_one(share=self.share)

    def _count(self, rows: int) -> int:
        return max(1, round(self.share * rows))


@dataclass(frozen=True)
class Uniform(_Share):
    """A share of the rows at random, without replacement: what every other rule must beat.

    Parameters
    ----------
    share : float
        0 < share <= 1; at least one row is chosen.
    fixed : bool
        Whether a device draws once, and not in each round: what rules compare with that always
        choose the same rows.
    """

    fixed: bool = False

    def choose(self, device: Device, given: Given) -> Places:
        rows = len(device.training_rows())
        return np.sort(given.draw.permutation(rows)[: self._count(rows)])


@dataclass(frozen=True)
class _ByScore(_Share):
    score: Score

    @property
    def nbytes(self) -> int:
        """What the score takes."""
        return int(getattr(self.score, "nbytes", 0))

    def _scores(self, device: Device, given: Given) -> F64:
        scores, rows = self.score(device, given), len(device.training_rows())
        if np.shape(scores) != (rows,) or not np.isfinite(scores).all():
            raise ValueError(f"the score gave no finite number for each of the {rows} rows")
        return scores


@dataclass(frozen=True)
class Highest(_ByScore):
    """The share of the rows with the highest scores; of equal ones, the first.

    ``Highest(0.5, Nearness(queries))`` are those nearest to queries, ``Highest(0.5, loss)`` the
    hardest.

    Parameters
    ----------
    share : float
        0 < share <= 1; at least one row is chosen.
    score : Score
    by_class : bool
        Whether that is done within each class, whose shares then stay.
    """

    by_class: bool = False

    @property
    def fixed(self) -> bool:
        """Whether its score is."""
        return bool(getattr(self.score, "fixed", False))

    def choose(self, device: Device, given: Given) -> Places:
        order = np.argsort(-self._scores(device, given), kind="stable")
        labels = device.training()[1][order] if self.by_class else np.zeros(len(order))
        parts = [order[labels == label] for label in np.unique(labels)]
        return np.sort(np.concatenate([part[: self._count(len(part))] for part in parts]))


@dataclass(frozen=True)
class Drawn(_ByScore):
    """Rows drawn with replacement, with chances in proportion to their scores.

    Row i then counts as if its loss had the weight p_i: a batch's gradient is an unbiased estimate
    of the gradient of sum_i p_i loss_i, not of the plain mean. (Katharopoulos & Fleuret 2018, eq.
    2, divide by p_i for the latter; training here has no weights within a batch.)

    Parameters
    ----------
    share : float
        So many rows are drawn, as a share of all; 0 < share <= 1.
    score : Score
        At least 0, and not 0 for all rows.
    """

    def choose(self, device: Device, given: Given) -> Places:
        scores = self._scores(device, given)
        if scores.min() < 0 or not scores.any():
            raise ValueError(
                "the score is below 0 for a row, or 0 for all: rows can't be drawn by it"
            )
        size, chances = self._count(len(scores)), scores / scores.sum()
        return np.sort(given.draw.choice(len(scores), size, p=chances))


@dataclass(frozen=True)
class Diverse(_Share):
    """A core-set: each row that is taken is the one farthest from all that were taken before.

    It begins with the first row. No row is then farther from its nearest one than twice what the
    best choice of as many could achieve, in a metric: the length of differences under l2sq, the
    chord under cosine; an index that orders by inner product has none.

    Parameters
    ----------
    share : float
        0 < share <= 1; at least one row is chosen.

    Sources: Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985; Sener &
    Savarese, "Active learning for convolutional neural networks: a core-set approach", ICLR 2018,
    algorithm 1.
    """

    fixed = True

    def choose(self, device: Device, given: Given) -> Places:
        index, held = _with_metric(device), device.training_rows()
        places, near, taken = _places(held), np.full(len(index), np.inf), [0]
        for _ in range(1, self._count(len(places))):
            last = places[taken[-1]]
            hits = index.search(index.vectors[last], len(index), where=mask_of(held))
            rows = index.rows_of(hits.keys[hits.found])
            near[rows] = np.minimum(near[rows], hits.distances[hits.found])
            near[last] = -1.0
            taken.append(int(np.argmax(near[places])))
        return np.sort(taken)


@dataclass(frozen=True)
class Distinct:
    """No two rows within a radius of one another: of near-duplicates the first is kept.

    Parameters
    ----------
    radius : float
        A distance of the device's index, as `VectorIndex.within` takes it.

    Source: Abbas et al., "SemDeDup", 2023, with all pairs and not only those within a cluster.
    """

    radius: float
    fixed = True

    def __post_init__(self) -> None:
        not_negative(radius=self.radius)

    def choose(self, device: Device, given: Given) -> Places:
        index, held = _with_metric(device), device.training_rows()
        places, free, kept = _places(held), np.ones(len(index), np.bool_), []
        around = index.within(index.vectors[places], self.radius, where=mask_of(held))
        near = np.split(index.rows_of(around.keys), around.offsets[1:-1])
        for place, row in enumerate(places.tolist()):
            if free[row]:
                kept.append(place)
                free[near[place]] = free[row] = False
        return np.array(kept, np.intp)


def _with_metric(device: Device) -> Any:
    if device.index.metric == "inner":
        raise ValueError("inner products are no distances; give the device a cosine or l2sq index")
    return device.index


def _places(rows: Rows) -> Places:
    return np.arange(len(rows.x)) if rows.chosen is None else rows.chosen


def mask_of(rows: Rows) -> Bool:
    """Return which of a device's rows are meant, (n,), as `VectorIndex.search` takes it."""
    return np.isin(np.arange(len(rows.x)), _places(rows))
