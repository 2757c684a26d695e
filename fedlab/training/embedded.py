"""An index of embeddings under a model that moves: how stale it is, and when it is made anew."""

from __future__ import annotations

import time

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F32, U64, Array
from fedlab.core.validation import positive, read_only, require, whole_number, whole_or_none
from fedlab.device.device import Device
from fedlab.index.vectorindex import VectorIndex
from fedlab.metrics.retrieval import recall
from fedlab.models.base import Model


class EmbeddedRows:
    """A device's training rows as a model embeds them, in an index of their own.

    Parameters
    ----------
    device : Device
    model : Model
        With ``embed(parameters, x)``.
    parameters : (p,) array
        Those of the first embedding.
    every : int, optional
        Rounds after which `follow` embeds all rows anew. Without this one and the next, never.
    most : float, optional
        It does so too where the drift is above this.
    sample : int
        Rows that are embedded in each round to see the drift, where that decides.
    seed : int
        Of the sample that tells the drift.

    Attributes
    ----------
    index : VectorIndex
        Under l2sq, and the keys and labels that the rows have on the device.
    rows, seconds : int, float
        What following the model has cost so far: rows that went through the model, wall time.
    embedded_in : int
        The round of the last embedding.
    """

    def __init__(
        self,
        device: Device,
        model: Model,
        parameters: Array,
        *,
        every: int | None = None,
        most: float | None = None,
        sample: int = 32,
        seed: int = 0,
    ) -> None:
        require(model, "a model that embeds", "embed")
        whole_or_none(every, "every", 1)
        positive(most=1.0 if most is None else most, sample=sample)
        self.device, self.model, self.seed = device, model, seed
        self.every, self.most, self.sample, self.rows, self.seconds = every, most, sample, 0, 0.0
        self._embed_all(parameters, 0)

    def follow(self, parameters: Array, round: int) -> bool:
        """Embed all rows anew if it is time to, or if the device's rows have changed.

        Parameters
        ----------
        parameters : (p,) array
            The model after a round.
        round : int
            Counted from 1.

        Returns
        -------
        bool
            Whether that was done.
        """
        due = self._edits != self.device.index.edits
        due = due or (self.every is not None and round - self.embedded_in >= self.every)
        if due or (self.most is not None and self.drift(parameters, round) > self.most):
            self._embed_all(parameters, round)
        return self.embedded_in == round

    def drift(self, parameters: Array, round: int = 0) -> float:
        """Return how far a sample of rows has moved, by how long their stored embeddings are.

        ``sqrt(sum |h' - h|^2 / sum |h|^2)``, with h as stored and h' under the parameters.
        """
        began = time.perf_counter()
        draw = generator(self.seed, Purpose.ROWS, round=round, device=self.device.id)
        some = self.index.keys[draw.permutation(len(self.index))[: self.sample]]
        held, now = self.index.get(some), self._values(self.device.index.get(some), parameters)
        self.rows += len(some)
        self.seconds += time.perf_counter() - began
        return float(np.linalg.norm(now - held)) / max(float(np.linalg.norm(held)), 1e-30)

    def staleness(self, parameters: Array, k: int = 10) -> dict[str, float]:
        """Return how well the index still serves a model; it embeds all rows to know, uncounted.

        ``overlap`` is the mean share of a row's k neighbours under the parameters that are its
        neighbours here, too. ``recall`` is that of a search here with embeddings of today, against
        a fresh index. A row is no neighbour of itself.
        """
        whole_number(k, "k", 1, max(len(self.index) - 1, 1))
        fresh = VectorIndex(self.index.dimensions, "l2sq")
        fresh.add(self._values(self.device.index.get(self.index.keys), parameters), self.index.keys)
        truth = _neighbours(fresh, fresh.vectors, k)
        asked = {"overlap": self.index.vectors, "recall": fresh.vectors}
        return {name: recall(_neighbours(self.index, q, k), truth) for name, q in asked.items()}

    def _embed_all(self, parameters: Array, round: int) -> None:
        began, (x, labels) = time.perf_counter(), self.device.training()
        values = self._values(x, parameters)
        self.index = VectorIndex(values.shape[1], "l2sq")
        self.index.add(values, self.device.training_keys, labels)
        self._edits, self.embedded_in = self.device.index.edits, round
        self.rows += len(x)
        self.seconds += time.perf_counter() - began

    def _values(self, x: F32, parameters: Array) -> F32:
        embedded = self.model.embed(read_only(parameters), x)  # type: ignore[attr-defined]
        return np.asarray(embedded, np.float32)


def _neighbours(index: VectorIndex, queries: F32, k: int) -> U64:
    """Return the keys of the k rows nearest to each query, (n, k), without the row beside it."""
    found = index.search(queries, k + 1).keys
    itself = found == index.keys[:, None]
    return np.take_along_axis(found, np.argsort(itself, axis=1, kind="stable")[:, :k], axis=1)
