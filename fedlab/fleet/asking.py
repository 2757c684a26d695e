"""Rules that ask some devices about their data, and keep the best of them.

Candidates are drawn first, so that a round asks those alone. What they are asked costs bytes and
seconds, which the history counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlab.core.typing import F64, I64, Array, Places
from fedlab.core.validation import not_negative, whole_number
from fedlab.device.device import Device
from fedlab.fleet.clock import FORWARD
from fedlab.fleet.selection import choose_places
from fedlab.fleet.view import Cohort, Inquiry, MeanLoss, Plainly, State, View
from fedlab.models.base import Model, losses_of


@dataclass(frozen=True)
class _OfCandidates(Plainly):
    candidates: int

    def __post_init__(self) -> None:
        whole_number(self.candidates, "candidates", 1)

    def init(self, devices: int, size: int) -> State:
        if self.candidates < size:
            raise ValueError(
                f"{self.candidates} candidates can't fill a cohort of {size}; ask for more "
                "candidates, or for a smaller cohort"
            )
        return {}

    def _drawn(self, view: View) -> Places:
        places = view.reachable
        return view.sample(places, self.candidates, view.fleet.rows(places))


@dataclass(frozen=True)
class _Highest(_OfCandidates):
    """Those of the candidates who answer a question with the highest number."""

    name: ClassVar[str]

    @property
    def asks(self) -> Inquiry:
        raise NotImplementedError

    def choose(self, state: State, view: View) -> Cohort:
        drawn = self._drawn(view)
        told = view.ask(self.asks, drawn)[:, 0]
        known = np.flatnonzero(np.isfinite(told))
        best = known[np.argsort(-told[known], kind="stable")[: view.size]]
        reason = f"highest {self.name} of {len(drawn)} candidates"
        return Cohort(drawn[best], state, reason, drawn, {self.name: told})


@dataclass(frozen=True)
class PowerOfChoice(_Highest):
    """Of d candidates, drawn by their rows, those on whose rows the model's loss is highest.

    Candidates receive the model, and tell one number; those chosen are not sent it again. With as
    many candidates as the cohort has devices it is `ByRows`. It takes time by the population, for
    drawing by rows.

    Parameters
    ----------
    candidates : int
        d, at least the cohort.

    Source: Cho, Wang & Joshi, "Towards understanding biased client selection in federated
    learning", AISTATS 2022, algorithm 1.
    """

    reads: ClassVar[tuple[str, ...]] = ("loss",)
    name = "loss"

    @property
    def asks(self) -> Inquiry:
        return MeanLoss()


@dataclass(frozen=True)
class Worth:
    """The loss of the model on a device's rows, without its near-duplicates and doubtful labels.

    Each row counts 1 / (rows within `near` of it, itself included), and nothing where the label of
    most of its nearest neighbours is another one; the sum is divided by the device's rows.
    """

    near: float
    neighbours: int
    sends_model: ClassVar[bool] = True

    def answer(self, device: Device, model: Model, parameters: Array) -> float:
        x, y = device.training()
        model.check_labels(y)
        keys, index = device.training_keys, device.index
        where = np.isin(index.keys, keys)
        worth = 1 / index.within(x, self.near, where=where).counts
        hits = index.search(x, min(self.neighbours + 1, len(x)), where=where, exact=True)
        others = hits.found & (hits.keys != keys[:, None])
        others &= np.cumsum(others, axis=1) <= self.neighbours
        named = np.where(others, hits.keys, keys[:, None])
        same = others & (index.labels_of(named.ravel()).reshape(named.shape) == y[:, None])
        worth[2 * same.sum(axis=1) < others.sum(axis=1)] = 0
        return float(worth @ losses_of(model, parameters, x, y) / len(x))

    def operations(self, rows: I64, model: Model) -> F64:
        # Two scans of all pairs, and a pass forward.
        scans = 4.0 * model.inputs * rows.astype(np.float64) ** 2
        return np.asarray(scans + FORWARD * model.layout.size * rows)


@dataclass(frozen=True)
class ByQuality(_Highest):
    """Of some candidates, those whose good rows the model has most to learn from.

    Each candidate tells one number: the mean loss on its rows, where near-duplicates share one
    row's weight, and rows whose neighbours have other labels have none. It finds both in its
    own index. It takes time by the population, for drawing by rows.

    Parameters
    ----------
    candidates : int
    near : float
        Rows within this distance of the device's index are near-duplicates.
    neighbours : int
        How many nearest rows have a say about a label.

    Sources: Cho, Wang & Joshi (see `PowerOfChoice`) for choosing by loss; Wilson, "Asymptotic
    properties of nearest neighbor rules using edited data", 1972, for doubtful labels.
    """

    near: float = 0.01
    neighbours: int = 5
    reads: ClassVar[tuple[str, ...]] = ("quality",)
    name = "quality"

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(near=self.near)
        whole_number(self.neighbours, "neighbours", 1)

    @property
    def asks(self) -> Inquiry:
        return Worth(self.near, self.neighbours)


@dataclass(frozen=True)
class Centroid:
    """The mean of a device's training rows, (d,)."""

    sends_model: ClassVar[bool] = False

    def answer(self, device: Device, model: Model, parameters: Array) -> F64:
        return np.asarray(device.training()[0].mean(axis=0, dtype=np.float64))

    def operations(self, rows: I64, model: Model) -> F64:
        return np.asarray(model.inputs * rows, np.float64)


@dataclass(frozen=True)
class ByDiversity(_OfCandidates):
    """Of some candidates, those whose rows lie far apart: each the farthest from those before it.

    Candidates tell the centroid of their index's rows; distances are Euclidean. It takes time by
    the cohort.

    Parameters
    ----------
    candidates : int

    Source: Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985; of devices,
    by gradients, Balakrishnan et al., "Diverse client selection for federated learning via
    submodular maximization", ICLR 2022.
    """

    reads: ClassVar[tuple[str, ...]] = ("centroid",)

    @property
    def asks(self) -> Inquiry:
        return Centroid()

    def _drawn(self, view: View) -> Places:
        return choose_places(view.fleet, self.candidates, view.seed, view.round)

    def choose(self, state: State, view: View) -> Cohort:
        drawn = self._drawn(view)
        told = view.ask(self.asks, drawn)
        known = np.flatnonzero(np.isfinite(told).all(axis=1))
        apart, chosen = np.full(len(drawn), np.nan), list[int]()
        nearest = np.full(len(known), np.inf)
        for turn in range(min(view.size, len(known))):
            one = int(view.draw(1).integers(len(known)) if turn == 0 else np.argmax(nearest))
            apart[known[one]] = nearest[one]
            chosen.append(int(known[one]))
            distances = np.linalg.norm(told[known] - told[known[one]], axis=1)
            nearest = np.minimum(nearest, distances)
            nearest[one] = -np.inf
        numbers = {"distance to those before": apart}
        places = drawn[np.array(chosen, np.intp)]
        return Cohort(places, state, "far from the others", drawn, numbers)
