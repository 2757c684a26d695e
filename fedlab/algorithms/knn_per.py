"""kNN-Per: a device's own rows vote, beside the model that all have learned together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.randomness import Purpose, generator
from fedlab.core.threads import one_blas_thread
from fedlab.core.typing import F64, I64, Array
from fedlab.core.validation import positive, require, share_of_one, whole_number, whole_or_none
from fedlab.device.device import Device
from fedlab.index.ingest import as_vectors
from fedlab.index.vectorindex import DType, VectorIndex
from fedlab.models.base import Model

if TYPE_CHECKING:
    import pandas as pd

#: Shares among which a device chooses.
SHARES = tuple(np.linspace(0, 1, 11).round(1).tolist())


@dataclass(frozen=True)
class KNNPer:
    """Devices predict with a share of their nearest rows' votes, and the rest of the model's.

    A device's memory is a `VectorIndex` of the embeddings that its training rows have under the
    model, with their labels; of a model without `embed`, of the rows themselves. Of a row's k
    nearest there, at squared distances d^2, class c gets a share of the votes in proportion to the
    sum of exp(-d^2 / (D scale)) over those of class c, D the embedding's dimension. Nothing is
    trained, and nothing leaves the device.

    Parameters
    ----------
    k : int
        Neighbours that vote.
    share : float
        lambda: 0 is the model, 1 the neighbours alone.
    scale : float
        Width of the votes: a large one lets all k count alike.
    dtype : {"f32", "f16", "bf16", "i8", "b1"}
        How the memory stores numbers (see `VectorIndex`).
    rows : int, optional
        Most rows that a device remembers; which ones, is drawn. By default all.
    seed : int
        Where they are drawn.

    Notes
    -----
    It goes with a model that any algorithm has learned, and reaches devices that never took part. A
    row that is erased from a device stays in a memory that was made before: erase it there, too.

    Source: Marfoq, Neglia, Kameni and Vidal, "Personalized federated learning through local
    memorization", ICML 2022, equations 5 and 6; the kernel is that of the authors' code.

    Examples
    --------
    >>> from fedlab.models import SoftmaxRegression
    >>> index = VectorIndex(1, "l2sq")
    >>> _ = index.add([[0.0], [1.0], [5.0]], labels=[0, 0, 1])
    >>> memory = KNNPer(k=2, share=0.5).memory(
    ...     Device("ward 3", index), SoftmaxRegression(1, 2), np.zeros(4, np.float32)
    ... )
    >>> memory.predict([[0.5]])  # both neighbours say 0, the model says nothing
    array([[0.75, 0.25]])
    """

    k: int = 10
    share: float = 0.5
    scale: float = 1.0
    dtype: DType = "f32"
    rows: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number(self.k, "k", 1)
        share_of_one(share=self.share)
        positive(scale=self.scale)
        whole_or_none(self.rows, "rows", 0)

    def memory(self, device: Device, model: Model, parameters: Array) -> Memory:
        """Return what a device remembers of its training rows under a model: it stays there."""
        require(model, "a model that neighbours stand beside", "predict", "check_labels")
        (x, y), keys = device.training(), device.training_keys
        model.check_labels(y)
        if self.rows is not None and self.rows < len(x):
            draw = generator(self.seed, Purpose.RESAMPLING, device=device.id)
            kept = np.sort(draw.permutation(len(x))[: self.rows])
            x, y, keys = x[kept], y[kept], keys[kept]
        seen = self._seen(x, model, parameters)
        index = VectorIndex(seen.shape[1], "l2sq", self.dtype)
        index.add(seen, keys=keys, labels=y if len(y) else None)
        return Memory(self, model, parameters, index)

    def _seen(self, x: Array, model: Any, parameters: Array) -> Array:
        """Return rows as the memory holds them."""
        if not hasattr(model, "embed"):
            return x
        with one_blas_thread():
            return np.asarray(model.embed(parameters, x), np.float32)

    def validate(
        self,
        devices: Sequence[Device],
        model: Model,
        parameters: Array,
        *,
        choosing: Sequence[Device] | None = None,
        shares: Sequence[float] = SHARES,
    ) -> pd.DataFrame:
        """Return what predictions are worth on each device's held-out rows, one row a device.

        Parameters
        ----------
        devices : sequence of Device
            They hold rows out; devices that never took part will do.
        model : Model
        parameters : (p,) array
            The server's.
        choosing : sequence of Device, optional
            The same devices, with the same rows to train on, and others held out: on these each
            chooses its share (see `Memory.choose`). By default all have `share`.
        shares : sequence of float
            Among which they choose.

        Returns
        -------
        DataFrame
            Indexed by ``device``: ``loss`` (mean of -log p), ``accuracy``, ``rows`` (those held
            out), ``share``.

        Raises
        ------
        ValueError
            If a device holds no rows out, or would choose on rows that it is measured on.
        """
        import pandas as pd

        found = {}
        for device, other in zip(devices, choosing or devices, strict=True):
            memory = self.memory(device, model, parameters)
            if choosing is not None:
                refuse_seen(device, other)
                memory = memory.choose(*other.validation(), shares)
            measures = memory.measure(*device.validation())
            found[device.id] = {**measures, "share": memory.of.share}
        return pd.DataFrame.from_dict(found, orient="index").rename_axis("device")


def refuse_seen(device: Device, other: Device) -> None:
    """Raise unless two devices differ in what they hold out, and in that alone."""
    if device.id != other.id or not np.array_equal(device.training_keys, other.training_keys):
        raise ValueError(
            f"device {device.id!r} would choose its share as {other.id!r} with other training "
            "rows; give the same devices in the same order, that differ in rows held out"
        )
    if both := np.intersect1d(device.validation_keys, other.validation_keys).tolist():
        raise ValueError(
            f"device {device.id!r} would choose its share on rows that it is measured on, such as "
            f"key {both[0]}; hold out others for choosing="
        )


@dataclass(frozen=True, eq=False)
class Memory:
    """A device's rows as a model sees them, and predictions by their votes.

    Attributes
    ----------
    of : KNNPer
        The settings; ``share`` is this device's own.
    model : Model
    parameters : (p,) array
    index : VectorIndex
        Embeddings (squared Euclidean distances) with their rows' keys and labels. Like any index it
        is saved, sealed, opened and erased from.
    """

    of: KNNPer
    model: Any
    parameters: Array = field(repr=False)
    index: VectorIndex

    def predict(self, x: ArrayLike) -> F64:
        """Return each row's class probabilities, (n, classes).

        Without a share, or with an empty memory, they are the model's own.
        """
        return self._mixed(*self._both(x), self.of.share)

    def _both(self, x: ArrayLike) -> tuple[F64, F64]:
        """Return the model's class probabilities, and the neighbours'; without any, the model's."""
        rows = as_vectors(x, self.model.inputs, "rows")
        with one_blas_thread():
            said = np.asarray(self.model.predict(self.parameters, rows), np.float64)
        if not len(self.index):
            return said, said
        keys, _, weights = self._near(rows)
        labels = self.index.labels_of(keys.ravel()).reshape(keys.shape)
        votes = np.zeros_like(said)
        np.add.at(votes, (np.arange(len(votes))[:, None], labels), weights)
        return said, votes

    def _mixed(self, said: F64, votes: F64, share: float) -> F64:
        return said if votes is said else share * votes + (1 - share) * said

    def _near(self, rows: Array) -> tuple[Any, F64, F64]:
        """Return each row's neighbours: keys, squared distances, and weights that sum to one."""
        seen = self.of._seen(rows, self.model, self.parameters)
        hits = self.index.search(seen, min(self.of.k, len(self.index)), exact=True)
        near = hits.distances
        # The nearest one's factor cancels out: far from all rows, others would round to nothing.
        powers = np.exp((near[:, :1] - near) / (self.index.dimensions * self.of.scale))
        return hits.keys, near, powers / powers.sum(axis=1, keepdims=True)

    def measure(self, x: ArrayLike, y: ArrayLike) -> dict[str, float]:
        """Return ``loss`` (mean of -log p), ``accuracy`` and ``rows`` on rows with labels."""
        return self._measured(self.predict(x), self._labels(y))

    def _labels(self, y: ArrayLike) -> I64:
        labels = np.asarray(y)
        if not len(labels):
            raise ValueError("no rows were given to measure on; use Device.hold_out first")
        self.model.check_labels(labels)
        return labels.astype(np.int64)

    @staticmethod
    def _measured(said: F64, y: I64) -> dict[str, float]:
        with np.errstate(divide="ignore"):  # neighbours alone may rule out a row's class
            losses = -np.log(said[np.arange(len(y)), y])
        hits = said.argmax(axis=1) == y
        return {"loss": float(losses.mean()), "accuracy": float(hits.mean()), "rows": len(y)}

    def choose(self, x: ArrayLike, y: ArrayLike, shares: Sequence[float] = SHARES) -> Memory:
        """Return the memory with the share that has the least loss on validation rows.

        Of several, the first. These rows must be no part of the memory, nor of what is reported.
        """
        both, labels = self._both(x), self._labels(y)
        losses = [self._measured(self._mixed(*both, share), labels)["loss"] for share in shares]
        return replace(self, of=replace(self.of, share=shares[int(np.argmin(losses))]))

    def evidence(self, x: ArrayLike) -> pd.DataFrame:
        """Return the rows that stand behind predictions: on the device, and for it alone.

        Returns
        -------
        DataFrame
            A row a neighbour, nearest first: ``query`` (its place in x), ``key``, ``label``,
            ``distance`` (squared, of embeddings), ``weight`` (its part of the votes).
        """
        import pandas as pd

        rows = as_vectors(x, self.model.inputs, "rows")
        if not len(self.index):
            return pd.DataFrame({name: [] for name in EVIDENCE})
        keys, near, weights = self._near(rows)
        query, labels = np.indices(keys.shape)[0], self.index.labels_of(keys.ravel())
        columns = (query.ravel(), keys.ravel(), labels, near.ravel(), weights.ravel())
        return pd.DataFrame(dict(zip(EVIDENCE, columns, strict=True)))


#: Columns of `Memory.evidence`.
EVIDENCE = ("query", "key", "label", "distance", "weight")
