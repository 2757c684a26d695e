"""Texts to vectors by one encoder for all devices, computed once and kept.

MiniLM knows what words mean and learns nothing here; hashing with an SVD needs no download, and
knows only which words occur together in the public texts that it was fitted on. Which one was used
stands in what is returned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from fedlab.core.typing import F32
from fedlab.core.validation import one_of, read_only, whole_number
from fedlab.data.embedding.minilm import DIMENSIONS, LONGEST, minilm, missing_packages
from fedlab.data.embedding.projection import Projection, as_texts
from fedlab.data.loading.pull import pull
from fedlab.data.loading.registry import DataChanged, DataUnavailable, folder, source
from fedlab.files.arrays import FileKind

How = Literal["auto", "minilm", "hashing"]

_FOLDER = "vectors"
#: Part of each kept file's name: another number whenever the same texts come to other vectors.
_EDITION = "1"


class VectorsChanged(DataChanged, ValueError):
    """A file of kept vectors is not the one that was written."""


_KIND = FileKind(b"FEDLBTXT", "file of text vectors", VectorsChanged)


@dataclass(frozen=True, eq=False)
class Embedded:
    """Texts as vectors. The array is read-only.

    Attributes
    ----------
    vectors : ndarray of float32, shape (n, d)
        A row a text, in their order. MiniLM's have length 1. By hashing, a text without a known
        word is a row of zeros.
    how : str
        "minilm" or "hashing".
    made : str
        With what, and why if it was chosen: print it, record it.
    """

    vectors: F32
    how: str
    made: str

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """One way from texts to vectors; made by `text_encoder`. It is loaded when first used.

    Attributes
    ----------
    how : str
        "minilm" or "hashing".
    dimensions : int
        Numbers in a vector.
    made : str
        With what, and why if it was chosen.
    """

    how: str
    dimensions: int
    made: str
    _public: tuple[str, ...] = field(default=(), repr=False)
    _seed: int = field(default=0, repr=False)

    def __call__(self, texts: Sequence[str]) -> F32:
        """Return a float32 row a text, (n, dimensions); nothing is kept.

        Raises
        ------
        TypeError
            If what was given is one text, or holds what is no text.
        """
        given = as_texts(texts)
        return minilm()(given) if self.how == "minilm" else self.projection(given)

    @cached_property
    def projection(self) -> Projection:
        """The fitted projection behind "hashing"; its `loss` says what is lost.

        Raises
        ------
        ValueError
            If the encoder is MiniLM, which projects nothing.
        """
        if self.how != "hashing":
            raise ValueError("MiniLM projects nothing: it has no loss to measure against words")
        if not self._public:
            return Projection.random(self.dimensions, seed=self._seed)
        return Projection.fitted(self._public, self.dimensions, seed=self._seed)

    def key(self) -> str:
        """Return what makes these vectors what they are, as 64 hex digits."""
        if self.how == "minilm":
            members = source("minilm").members
            return _digest("minilm", _EDITION, str(LONGEST), *(member.sha256 for member in members))
        settings = f"{self.dimensions} {self._seed} {version('scikit-learn')}"
        return _digest("hashing", _EDITION, settings, _digest(*self._public))


def text_encoder(
    how: How = "auto", *, public: Sequence[str] | None = None, dimensions: int = 256, seed: int = 0
) -> TextEncoder:
    """Choose how texts become vectors.

    Parameters
    ----------
    how : {"auto", "minilm", "hashing"}
        MiniLM takes the extra ``text`` and, once, a download of 84 MB. "auto" takes MiniLM where
        both can be had, and says in `made` what it took, and why.
    public : sequence of str, optional
        For hashing: the texts on which its SVD and its word weights are fitted, and which are
        therefore as good as published. Never devices' texts put together. Without them, "hashing"
        is a random projection, fitted on nothing, which finds less (see `Projection.random`).
    dimensions, seed : int
        Of the SVD; MiniLM always has 384 dimensions, and no seed.

    Raises
    ------
    ImportError
        If MiniLM is asked for without the extra ``text``.
    ValueError, TypeError
        If `how` is unknown, or "auto" finds neither MiniLM nor public texts.
    DataUnavailable, DataChanged
        As `fedlab.data.pull` does.

    Examples
    --------
    >>> public = ["cats purr at night", "dogs bark at night", "cats and dogs", "a purring cat"]
    >>> encoder = text_encoder("hashing", public=public, dimensions=2)
    >>> encoder(["purr", "bark"]).shape, encoder.how
    ((2, 2), 'hashing')
    """
    one_of(how, ("auto", "minilm", "hashing"), "how")
    why_not = "" if how == "minilm" else _why_no_minilm() if how == "auto" else "not asked for"
    if not why_not:
        if how == "minilm" and not missing_packages():
            pull("minilm")
        elif how == "minilm":
            minilm()  # raises the error that names the extra
        made = f"{source('minilm').what}, {DIMENSIONS} dimensions, texts cut at {LONGEST} pieces"
        return TextEncoder("minilm", DIMENSIONS, made)
    if public is None and how == "auto":
        raise ValueError(
            f"hashing takes public texts (MiniLM can't be had: {why_not}): its SVD is fitted on "
            "them, and they are as good as published. Give public=..., or how='hashing', which "
            "without them is a random projection"
        )
    if public is None:
        whole_number(dimensions, "dimensions", 1)
        made = f"hashing and a random projection to {dimensions} dimensions, seed {seed}"
        return TextEncoder("hashing", dimensions, made, (), seed)
    given = tuple(as_texts(public))
    whole_number(dimensions, "dimensions", 1, len(given) - 1)
    made = f"hashing and SVD of {dimensions} dimensions, fitted on {len(given):,} public texts"
    because = f"; MiniLM: {why_not}" if how == "auto" else ""
    return TextEncoder("hashing", dimensions, made + because, given, seed)


def embed(
    texts: Sequence[str],
    how: How | TextEncoder = "auto",
    *,
    public: Sequence[str] | None = None,
    dimensions: int = 256,
    seed: int = 0,
    keep: bool = True,
) -> Embedded:
    """Turn texts into vectors, once: they are kept in the data folder, and read from there later.

    What is kept lies there in the clear, and no erasure knows of it: of texts that may have to be
    erased some day, keep nothing. `fedlab.erasure.audit_erasure` looks there, too.

    Parameters
    ----------
    texts : sequence of str
    how : {"auto", "minilm", "hashing"} or TextEncoder
        See `text_encoder`, as for the other parameters.
    keep : bool
        Whether to write vectors to the data folder (`kept_vectors`), and read them from there.

    Raises
    ------
    VectorsChanged
        If the file of kept vectors is torn or altered. It is never read, nor overwritten.
    ImportError, ValueError, TypeError, DataUnavailable, DataChanged
        As `text_encoder` does.

    Examples
    --------
    ::

        rows = embed(["Common cold", "Acute nasopharyngitis"])
        rows.made, rows.vectors.shape
    """
    encoder = (
        how
        if isinstance(how, TextEncoder)
        else text_encoder(how, public=public, dimensions=dimensions, seed=seed)
    )
    given = as_texts(texts)
    if not keep:
        return Embedded(read_only(encoder(given)), encoder.how, encoder.made)
    key = _digest(encoder.key(), *given)
    path = kept_vectors() / f"{encoder.how}-{key[:32]}.vectors"
    if not path.exists():
        vectors = encoder(given)
        path.parent.mkdir(parents=True, exist_ok=True)
        _KIND.write(path, {"key": key, "made": encoder.made}, {"vectors": vectors})
        return Embedded(read_only(vectors), encoder.how, encoder.made)
    try:
        header, arrays = _KIND.read(path)
        kept = arrays.get("vectors")
        if kept is None or header.get("key") != key or kept.shape[:1] != (len(given),):
            raise VectorsChanged(f"{path.name} holds other vectors than its name says")
    except VectorsChanged as error:
        raise VectorsChanged(f"{error}: delete {_FOLDER}/{path.name} in the data folder") from error
    return Embedded(read_only(kept.astype(np.float32, copy=False)), encoder.how, encoder.made)


def kept_vectors() -> Path:
    """Return the folder in which `embed` keeps vectors, whether it is there yet or not."""
    return folder() / _FOLDER


def _why_no_minilm() -> str:
    missing = missing_packages()
    if missing:
        return f"{' and '.join(missing)} not installed (the extra 'text')"
    try:
        pull("minilm")
    except DataUnavailable:
        return "its weights can't be downloaded now"
    return ""


def _digest(*parts: str) -> str:
    """Return the sha256 of a list of texts: their lengths keep ["ab", "c"] from ["a", "bc"]."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()
