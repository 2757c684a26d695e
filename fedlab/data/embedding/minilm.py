"""all-MiniLM-L6-v2 without a deep-learning framework: six layers of a small BERT, in NumPy.

The weights come as safetensors, which is plain numbers behind a header, and are pulled and verified
like any other source; nothing of the package that they come in is imported. The encoder is that of
Devlin et al. (NAACL 2019) with post-layer normalisation and the exact GELU; a text's vector is the
mean over its word pieces, brought to length 1 (Reimers, Gurevych, EMNLP 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.progress import bar
from fedlab.core.typing import F32, I64, Bool
from fedlab.data.loading.loaders import expect
from fedlab.data.loading.pull import opened
from fedlab.data.loading.registry import source

DIMENSIONS = 384
#: Word pieces of a text that are read, as in the model's own settings; the rest is left out.
LONGEST = 256
_BATCH = 32
_WORKERS = 4  # each holds some 200 MB for a batch of long texts
_LAYERS = 6
_HEADS = 12
_PACKAGES = ("safetensors", "tokenizers")


def missing_packages() -> tuple[str, ...]:
    """Return which packages of the extra ``text`` are not installed."""
    return tuple(name for name in _PACKAGES if find_spec(name) is None)


@cache
def minilm() -> MiniLM:
    """Return the encoder, its weights pulled, verified and read once in a process.

    Raises
    ------
    ImportError
        If the extra ``text`` is not installed.
    DataUnavailable, DataChanged
        As `fedlab.data.pull` does.

    Examples
    --------
    ::

        rows = minilm()(["It is sunny.", "The sun shines."])
        rows @ rows.T
    """
    missing = missing_packages()
    if missing:
        raise ImportError(
            f"MiniLM takes {' and '.join(missing)}, not installed here; the extra 'text' brings "
            "them: pip install -e '.[text]' in the clone (fedlab-workbench[text]). how='hashing' "
            "needs neither them nor a download"
        )
    from safetensors.numpy import load
    from tokenizers import Tokenizer

    what = source("minilm")
    weights_file, words_file = what.members
    with opened(what, weights_file) as handle:
        weights = load(handle.read())
    with opened(what, words_file) as handle:
        tokenizer = Tokenizer.from_str(handle.read().decode())
    return MiniLM(weights, tokenizer)


class MiniLM:
    """The encoder: texts in, rows of 384 numbers and length 1 out.

    Parameters
    ----------
    weights : dict of str to ndarray of float32
        By the names of the published file.
    tokenizer : tokenizers.Tokenizer
        Word pieces, lower case.
    """

    def __init__(self, weights: dict[str, NDArray[Any]], tokenizer: Any) -> None:
        words = weights["embeddings.word_embeddings.weight"]
        expect(words.shape == (30_522, DIMENSIONS), "minilm", f"words of shape {words.shape}")
        places = weights["embeddings.position_embeddings.weight"][:LONGEST]
        self._words = words
        self._places = places + weights["embeddings.token_type_embeddings.weight"][0]
        self._first = _norm_of(weights, "embeddings.LayerNorm")
        self._layers = [_Layer(weights, f"encoder.layer.{place}") for place in range(_LAYERS)]
        tokenizer.no_padding()
        tokenizer.enable_truncation(LONGEST)
        self._tokenizer = tokenizer

    def __call__(self, texts: Sequence[str]) -> F32:
        """Return unit rows, (n, 384); texts beyond 256 word pieces are cut there."""
        from threadpoolctl import threadpool_limits

        pieces = [entry.ids for entry in self._tokenizer.encode_batch(list(texts))]
        rows = np.empty((len(pieces), DIMENSIONS), np.float32)
        batches = list(_batches(pieces))
        # A batch is one thread's, so that its bits don't depend on how many there are.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(_WORKERS) as pool:
            done = pool.map(lambda batch: self._encoded([pieces[row] for row in batch]), batches)
            for batch, encoded in zip(
                batches, bar(done, len(batches), "embedding texts"), strict=True
            ):
                rows[batch] = encoded
        return rows

    def _encoded(self, pieces: list[list[int]]) -> F32:
        lengths = np.array([len(ids) for ids in pieces])
        there: Bool = np.arange(max(map(len, pieces))) < lengths.reshape(-1, 1)
        ids: I64 = np.zeros(there.shape, np.int64)
        ids[there] = np.concatenate(pieces)
        states = _normed(self._words[ids] + self._places[: ids.shape[1]], self._first)
        hidden = np.expand_dims(np.where(there, 0, -np.inf).astype(np.float32), (1, 2))
        for layer in self._layers:
            states = layer(states, hidden)
        mean = np.einsum("btd,bt->bd", states, there.astype(np.float32))
        mean /= lengths.astype(np.float32).reshape(-1, 1)
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), np.float32)


class _Layer:
    """Attention and a network of one hidden layer, each added to its input and normalised."""

    def __init__(self, weights: dict[str, NDArray[Any]], name: str) -> None:
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        matrices, offsets = zip(*(_dense_of(weights, part) for part in parts), strict=True)
        self._mixed = np.concatenate(matrices, axis=1), np.concatenate(offsets)
        self._out = _dense_of(weights, f"{name}.attention.output.dense")
        self._out_norm = _norm_of(weights, f"{name}.attention.output.LayerNorm")
        self._up = _dense_of(weights, f"{name}.intermediate.dense")
        self._down = _dense_of(weights, f"{name}.output.dense")
        self._down_norm = _norm_of(weights, f"{name}.output.LayerNorm")

    def __call__(self, states: F32, hidden: F32) -> F32:
        attended = _affine(self._attention(states, hidden), self._out)
        states = _normed(states + attended, self._out_norm)
        return _normed(
            states + _affine(_gelu(_affine(states, self._up)), self._down), self._down_norm
        )

    def _attention(self, states: F32, hidden: F32) -> F32:
        rows, length, width = states.shape
        split = _affine(states, self._mixed).reshape(rows, length, 3, _HEADS, width // _HEADS)
        query, key, value = split.transpose(2, 0, 3, 1, 4)
        scores = (query / np.float32(np.sqrt(width // _HEADS))) @ key.transpose(0, 1, 3, 2)
        scores += hidden
        scores -= scores.max(axis=-1, keepdims=True)  # in place: a batch's scores take 100 MB
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = (scores @ value).transpose(0, 2, 1, 3)
        return np.asarray(mixed.reshape(rows, length, width), np.float32)


def _batches(pieces: list[list[int]]) -> Iterator[I64]:
    """Yield rows in batches of like length, so that little is padded."""
    order = np.argsort([len(ids) for ids in pieces], kind="stable")
    for start in range(0, len(order), _BATCH):
        yield order[start : start + _BATCH]


def _dense_of(weights: dict[str, NDArray[Any]], name: str) -> tuple[F32, F32]:
    return np.ascontiguousarray(weights[f"{name}.weight"].T), weights[f"{name}.bias"]


def _norm_of(weights: dict[str, NDArray[Any]], name: str) -> tuple[F32, F32]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def _affine(states: F32, dense: tuple[F32, F32]) -> F32:
    matrix, offset = dense
    # One large product: NumPy would make many small ones of three dimensions.
    product = states.reshape(-1, len(matrix)) @ matrix
    product += offset
    return product.reshape(*states.shape[:-1], -1)


def _normed(states: F32, norm: tuple[F32, F32]) -> F32:
    centred = states - states.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + np.float32(1e-12))
    return np.asarray(centred / deviation * norm[0] + norm[1], np.float32)


def _gelu(states: F32) -> F32:
    from scipy.special import erf

    share = states / np.float32(np.sqrt(2))
    erf(share, out=share)
    share += 1
    share *= states
    share /= 2
    return share
