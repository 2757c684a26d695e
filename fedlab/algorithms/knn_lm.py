"""kNN-LM: a language model that remembers its device's own text in an index."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.algorithms.knn_per import refuse_seen
from fedlab.core.threads import usable_threads
from fedlab.core.typing import F64, I64, Array
from fedlab.core.validation import positive, require, share_of_one, whole_number
from fedlab.device.device import Device
from fedlab.index.answers import Hits
from fedlab.index.vectorindex import DType, VectorIndex

if TYPE_CHECKING:
    import pandas as pd

#: Rows of tokens that are read at a time: their scores over all words take most of the memory.
_ROWS = 4
#: Shares among which a device chooses.
SHARES = tuple(np.linspace(0, 0.9, 10).round(1).tolist())


@dataclass(frozen=True)
class KNNLM:
    """The next token comes with a share from what followed the most similar places of one's text.

    p = lambda p_kNN + (1 - lambda) p_LM, where p_kNN(w) is in proportion to the sum of exp(-d^2 /
    (D scale)) over those of the k nearest places, at squared distances d^2 in D dimensions, that w
    followed. A place is the model's hidden state there (what enters its head), kept in a
    `VectorIndex` with the token that followed as its label. Nothing is trained, and nothing leaves
    the device.

    Parameters
    ----------
    k : int
        Places that count.
    share : float
        lambda: 0 is the model.
    scale : float
        Width of the votes: a large one lets all k count alike.
    dtype : {"f32", "f16", "bf16", "i8", "b1"}
        How the memory stores numbers (see `VectorIndex`).

    Source: Khandelwal et al., "Generalization through memorization: nearest neighbor language
    models", ICLR 2020, equations 2 and 3.

    Examples
    --------
    >>> KNNLM(k=4, share=0.3)
    KNNLM(k=4, share=0.3, scale=1.0, dtype='f16')
    """

    k: int = 8
    share: float = 0.25
    scale: float = 1.0
    dtype: DType = "f16"

    def __post_init__(self) -> None:
        whole_number(self.k, "k", 1)
        share_of_one(share=self.share)
        positive(scale=self.scale)

    def memory(self, rows: ArrayLike, model: Any, parameters: Array) -> TextMemory:
        """Return what a device remembers of its text, under a model.

        Parameters
        ----------
        rows : (n, length) array
            Tokens, such as a device's training rows; none make an empty memory.
        model : Model
            With ``predict_and_embed``: scores of the next token, (n, length, words), and hidden
            states, one after another in a row.
        parameters : (p,) array
        """
        require(model, "a language model", "predict_and_embed")
        text = np.asarray(rows, np.float32).reshape(-1, model.inputs)
        states = [_read(model, parameters, part)[1] for part in _parts(text)]
        width = states[0].shape[-1] if states else 1
        index = VectorIndex(width, "l2sq", self.dtype)
        if states:
            followed = text[:, 1:].astype(np.int64).ravel()
            index.add(np.concatenate(states).reshape(-1, width), labels=followed)
        return TextMemory(self, model, parameters, index)

    def validate(
        self,
        devices: Sequence[Device],
        model: Any,
        parameters: Array,
        *,
        choosing: Sequence[Device] | None = None,
        shares: Sequence[float] = SHARES,
    ) -> pd.DataFrame:
        """Return how well each device's held-out text is foretold, with its memory and without.

        Parameters
        ----------
        devices : sequence of Device
            Their rows are tokens, and they hold some out; devices that never took part will do.
        model, parameters
            See `memory`.
        choosing : sequence of Device, optional
            The same devices, with other rows held out: on these each chooses its share, as in
            `KNNPer.validate`. By default all have `share`.
        shares : sequence of float
            Among which they choose.

        Returns
        -------
        DataFrame
            Indexed by ``device``: ``loss`` (mean of -log p over tokens; exp of it is the
            perplexity), ``model`` (the same of the model alone), ``rows``, ``share``.

        Raises
        ------
        ValueError
            If a device holds no rows out, or would choose on rows that it is measured on.
        """
        import pandas as pd

        def validated(device: Device, other: Device) -> dict[str, float]:
            memory = self.memory(device.training()[0], model, parameters)
            if choosing is not None:
                memory = memory.choose(other.validation()[0], shares)
            (rows, _), share = device.validation(), memory.of.share
            mixed, alone = memory.losses(rows, [share, 0.0])
            return {"loss": mixed, "model": alone, "rows": len(rows), "share": share}

        pairs = list(zip(devices, choosing or devices, strict=True))
        for pair in pairs if choosing is not None else ():
            refuse_seen(*pair)
        with ThreadPoolExecutor(usable_threads()) as pool:
            found = list(pool.map(lambda pair: validated(*pair), pairs))
        names = pd.Index([device.id for device in devices], name="device")
        return pd.DataFrame(found, names)


@dataclass(frozen=True, eq=False)
class TextMemory:
    """A device's text as a model sees it.

    Attributes
    ----------
    of : KNNLM
        The settings; ``share`` is this device's own.
    model : Model
    parameters : (p,) array
    index : VectorIndex
        A row for each place, labelled with the token that followed. Like any index it is saved,
        sealed, opened and erased from.
    """

    of: KNNLM
    model: Any
    parameters: Array
    index: VectorIndex

    def losses(self, rows: ArrayLike, shares: Sequence[float] | None = None) -> F64:
        """Return the mean -log p of the tokens but the first of each row, for each share, (s,).

        The share of the settings is taken where none are given. exp of it is the perplexity.
        """
        asked = np.array([self.of.share] if shares is None else shares, np.float64)
        for share in asked:
            share_of_one(share=float(share))
        text = np.asarray(rows, np.float32).reshape(-1, self.model.inputs)
        if not len(text):
            raise ValueError("no rows of tokens were given; at least one is needed")
        by_model, by_place = (
            np.concatenate(both) for both in zip(*map(self._both, _parts(text)), strict=True)
        )
        if not len(self.index):
            asked = np.zeros_like(asked)
        with np.errstate(divide="ignore"):
            mixed = np.log(asked[:, None] * by_place + (1 - asked[:, None]) * np.exp(by_model))
        # Where the model alone counts, its own logarithm: no digit is lost by exp and log.
        mixed[asked == 0] = by_model
        return np.asarray(-mixed.mean(axis=1))

    def choose(self, rows: ArrayLike, shares: Sequence[float] = SHARES) -> TextMemory:
        """Return the memory with the share that predicts given rows best: the least one of equals.

        Choose on rows that are neither remembered nor measured on.
        """
        best = float(shares[int(np.argmin(self.losses(rows, shares)))])
        return replace(self, of=replace(self.of, share=best))

    def _both(self, rows: Array) -> tuple[F64, F64]:
        """Return log p of each following token by the model, and p by the memory."""
        following = rows[:, 1:].astype(np.int64)
        said, states = _read(self.model, self.parameters, rows)
        scores = said[:, :-1].astype(np.float64)
        scores = scores - scores.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(scores, following[..., None], axis=-1)[..., 0]
        by_model = (chosen - np.log(np.exp(scores).sum(axis=-1))).ravel()
        if not len(self.index):
            return by_model, np.zeros_like(by_model)
        k = min(self.of.k, len(self.index))
        found = self.index.search(states.reshape(-1, states.shape[-1]), k)
        return by_model, self._votes(found, following.ravel())

    def _votes(self, found: Hits, following: I64) -> F64:
        distances = np.asarray(found.distances, np.float64)
        # Over the nearest one's, so that votes from afar don't all come to zero.
        further = (distances - distances[:, :1]) / (self.index.dimensions * self.of.scale)
        weights = np.where(np.isfinite(further), np.exp(-further), 0)
        labels = self.index.labels_of(found.keys.ravel()).reshape(found.keys.shape)
        right = labels == following[:, None]
        return np.asarray((weights * right).sum(axis=1) / weights.sum(axis=1))


def _parts(text: Array) -> list[Array]:
    return [text[start : start + _ROWS] for start in range(0, len(text), _ROWS)]


def _read(model: Any, parameters: Array, rows: Array) -> tuple[Array, Array]:
    """Return scores of the next token, and the hidden states at all places but the last."""
    scores, flat = model.predict_and_embed(parameters, rows)
    return scores, np.asarray(flat, np.float32).reshape(*rows.shape, -1)[:, :-1]
