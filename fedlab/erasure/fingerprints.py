"""Fingerprints of rows: enough to find their bytes again without keeping them.

A window of L bytes has the rolling hash sum_j b_j B^(L - 1 - j) mod 2^64, which follows from that
of the window before it in two multiplications, so that every offset of a buffer is looked at. Where
a hash fits, BLAKE2b under a secret key decides. B and the key are drawn anew each time.

Source: Karp and Rabin, "Efficient randomized pattern-matching algorithms", IBM Journal of Research
and Development 31(2), 1987.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.typing import F32, U64, Bool, Places
from fedlab.core.validation import of_kind, plain_array
from fedlab.index.encoding import DTYPES, LARGEST, decode, encode
from fedlab.index.ingest import as_keys, as_labels, as_vectors

if TYPE_CHECKING:
    from fedlab.index.vectorindex import VectorIndex

Bytes = NDArray[np.uint8]

#: Columns of a table that are the rows themselves, and their keys.
OF_VECTORS = ("codes", "scales", "squares", "keys")

#: In which vectors are looked for: as indexes store them, and as NumPy has them by default.
FORMS = (*DTYPES, "f64")

#: What repeats fewer bytes than these may stand anywhere by chance.
LEAST = 16
_STEP = 1 << 20  # bytes searched at once


@dataclass(frozen=True, eq=False)
class _Length:
    """The rolling hashes of all patterns of one length."""

    size: int
    base: np.uint64
    hashes: U64

    @cached_property
    def _likely(self) -> Bool:
        # 32 places for each hash turn most windows away, and stay in a cache.
        bits = min(len(self.hashes).bit_length() + 5, 24)
        likely = np.zeros(1 << bits, np.bool_)
        likely[self.hashes >> np.uint64(64 - bits)] = True
        return likely

    def places(self, piece: Bytes, first: int) -> list[int]:
        """Return where windows from `first` on begin whose hash is known."""
        places = np.empty(max(len(piece) - first - self.size + 1, 0), np.int64)
        leaving = np.uint64(pow(int(self.base), self.size, 2**64))
        settings = self.size, first, self.base, leaving, self._likely, self.hashes
        found: list[int] = places[: _rolling().matching(piece, *settings, places)].tolist()
        return found


class Fingerprints:
    """What finds the bytes of some rows again, in each precision, and the texts beside them.

    Take them before rows are erased, and let them go after the last audit. They hold no byte of a
    row. They do tell whether a guess was right, to whoever has them: keep them as you would a key.

    Attributes
    ----------
    keys : tuple of int
        The rows' keys, rising.
    undecidable : dict of str to int
        Of how many rows a form is not looked for, since fewer than 16 bytes make it up: found
        somewhere, it would say nothing.

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    >>> fingerprints = Fingerprints.of_rows(rows, keys=[7, 9])
    >>> blocks = [b"abc", rows[1].tobytes()]
    >>> [(form, key, offset) for (form, key), offset in fingerprints.search(blocks)]
    [('f32', 9, 3)]
    >>> fingerprints.undecidable
    {'b1': 2, 'i8': 2}
    """

    def __init__(self, keys: Iterable[int]) -> None:
        self.keys = tuple(sorted(set(keys)))
        self._secret = os.urandom(32)
        self._base = np.uint64(int.from_bytes(os.urandom(8), "little") | 1)
        self._short: dict[str, set[int]] = {}
        # What stands behind a digest, and the rolling hashes of each length.
        self._known: dict[bytes, list[tuple[str, int]]] = {}
        self._hashes: dict[int, list[int]] = {}

    def __repr__(self) -> str:
        return f"Fingerprints({len(self.keys):,} rows, {len(self._known):,} patterns)"

    @property
    def undecidable(self) -> dict[str, int]:
        """Of how many rows each form is not looked for."""
        return {form: len(keys) for form, keys in sorted(self._short.items())}

    @classmethod
    def of_rows(
        cls, vectors: ArrayLike, keys: ArrayLike, labels: ArrayLike | None = None
    ) -> Fingerprints:
        """Take fingerprints of rows that are at hand: as they were given, and as they are stored.

        Parameters
        ----------
        vectors : (n, d) array
        keys : (n,) whole numbers
        labels : (n,) array, optional
        """
        given = plain_array(vectors, "vectors")
        rows = as_vectors(given, given.shape[-1] if given.ndim else 1, "vectors")
        known = as_keys(keys).tolist()
        if len(known) != len(rows):
            raise ValueError(f"{len(known)} keys were given for {len(rows)} rows; one a row")
        columns = {} if labels is None else {"labels": as_labels(labels, len(rows))}
        fingerprints = cls(known)
        fingerprints._take_given(given, rows, known, columns)
        return fingerprints

    @classmethod
    def taken(
        cls, index: VectorIndex, keys: ArrayLike, vectors: ArrayLike | None = None
    ) -> Fingerprints:
        """Take fingerprints of rows that stand in an index.

        Parameters
        ----------
        index : VectorIndex
        keys : (n,) whole numbers
        vectors : (n, d) array, optional
            The rows as they were given, where the index stores them in another precision: files in
            given folders may hold those.

        Raises
        ------
        KeyError
            If a key is not in the index.
        TypeError
            If another object than an index is given: rows at hand go to `of_rows`.
        """
        from fedlab.index.vectorindex import VectorIndex

        of_kind(index, VectorIndex, "index")
        rows, known = index.get(keys), as_keys(keys)
        place = index.rows_of(known)
        columns = index.columns
        fingerprints = cls(known.tolist())
        codes = rows_as_bytes(columns["codes"][place])
        fingerprints._take_codes(index.dtype, codes, known.tolist())
        others = {n: c[place] for n, c in columns.items() if n not in OF_VECTORS}
        fingerprints._take(rows, known.tolist(), others)
        if vectors is not None:
            given = as_vectors(vectors, index.dimensions, "vectors")
            if len(given) != len(known):
                raise ValueError(f"{len(given)} vectors were given for {len(known)} keys")
            fingerprints._take_given(plain_array(vectors, "vectors"), given, known.tolist(), {})
        return fingerprints

    def _take_given(
        self, given: NDArray[Any], rows: F32, keys: list[int], columns: Mapping[str, NDArray[Any]]
    ) -> None:
        if given.dtype == np.float64:  # before they lost what float32 can't hold
            self._take_codes("f64", rows_as_bytes(given.reshape(rows.shape)), keys)
        self._take(rows, keys, columns)

    def _take(self, rows: F32, keys: list[int], columns: Mapping[str, NDArray[Any]]) -> None:
        for dtype in FORMS:
            chosen, codes = coded(dtype, rows)
            self._take_codes(dtype, codes, [keys[place] for place in chosen])
        short = {form: set(known) for form, known in self._short.items()}
        for whose, source in _derived(rows):
            for dtype in FORMS:
                chosen, codes = coded(dtype, source)
                self._take_codes(dtype, codes, [keys[place] for place in whose[chosen]])
        # What compression made the same all over says nothing of the row as it stands.
        self._short = short
        for name, column in columns.items():
            for form, content, place in beside(name, column):
                self._note(form, content, keys[place])

    def _take_codes(self, form: str, codes: Bytes, keys: list[int]) -> None:
        for code, key in zip(codes, keys, strict=True):
            self._note(form, code.tobytes(), key)

    def _note(self, form: str, pattern: bytes, key: int) -> None:
        if _repeats_few(pattern):
            self._short.setdefault(form, set()).add(key)
            return
        names = self._known.setdefault(self._digest(pattern), [])
        if not names:
            value = _rolling().hashed(np.frombuffer(pattern, np.uint8), self._base)
            self._hashes.setdefault(len(pattern), []).append(int(value))
        if (form, key) not in names:
            names.append((form, key))

    # -- searching ---------------------------------------------------------------------------

    def search(self, blocks: Iterable[Any]) -> Iterator[tuple[tuple[str, int], int]]:
        """Yield what is found in bytes that come in parts: ((form, key), offset).

        Parameters
        ----------
        blocks : iterable of bytes, arrays, or other buffers
            One after another; what lies across two of them is found.
        """
        lengths = [
            _Length(size, self._base, np.unique(np.array(hashes, np.uint64)))
            for size, hashes in self._hashes.items()
        ]
        carried, start = np.empty(0, np.uint8), 0
        for part in _parts(blocks):
            piece = np.concatenate([carried, part])
            for length in lengths:
                # Windows before it were seen already.
                first = max(0, len(carried) - length.size + 1)
                for place in length.places(piece, first):
                    found = self._digest(piece[place : place + length.size].data)
                    for name in self._known.get(found, ()):
                        yield name, start + place
            kept = min(len(piece), max(self._hashes, default=1) - 1)
            carried = piece[len(piece) - kept :]
            start += len(piece) - kept

    def _digest(self, pattern: bytes | memoryview) -> bytes:
        return hashlib.blake2b(pattern, digest_size=16, key=self._secret).digest()


def _rolling() -> Any:
    from fedlab.erasure import kernels

    return kernels


def _parts(blocks: Iterable[Any]) -> Iterator[Bytes]:
    for block in blocks:
        whole = np.frombuffer(block, np.uint8) if len(block) else np.empty(0, np.uint8)
        for start in range(0, len(whole), _STEP):
            yield whole[start : start + _STEP]


def _repeats_few(pattern: bytes) -> bool:
    """Return whether fewer than 16 bytes, repeated, make up a pattern."""
    return len(pattern) < LEAST or any(
        pattern[period:] == pattern[:-period] for period in range(1, LEAST)
    )


# -- what rows look like ---------------------------------------------------------------------------


def coded(dtype: str, rows: F32) -> tuple[Places, Bytes]:
    """Return which rows a storage type, or NumPy's f64, can hold, and their codes, (n, b) bytes."""
    if dtype == "f64":
        return np.arange(len(rows)), rows_as_bytes(rows.astype(np.float64))
    chosen = np.flatnonzero(np.abs(rows).max(axis=1, initial=0.0) <= LARGEST[dtype])
    return chosen, rows_as_bytes(encode(rows[chosen], dtype)["codes"])


def rows_as_bytes(codes: NDArray[np.generic]) -> Bytes:
    """Return (n, b) the bytes of each row."""
    whole = np.ascontiguousarray(codes)
    return whole.view(np.uint8).reshape(len(whole), -1) if whole.size else np.empty((0, 0), "u1")


def beside(name: str, column: NDArray[Any]) -> Iterator[tuple[str, bytes, int]]:
    """Yield (form, bytes, place) of what stands beside the rows: labels, for one."""
    if column.dtype.kind in "UT":
        for place, text in enumerate(column.tolist()):
            yield f"{name}, UTF-32", text.encode("utf-32-le", "surrogatepass"), place  # as in NumPy
            yield f"{name}, UTF-8", text.encode("utf-8", "surrogatepass"), place  # as in most files
        return
    for place, content in enumerate(rows_as_bytes(column)):
        yield f"{name}, {column.dtype}", content.tobytes(), place


def _derived(rows: F32) -> Iterator[tuple[Places, F32]]:
    """Yield (which rows, rows): what each storage type makes of them."""
    for dtype in DTYPES:
        chosen, _ = coded(dtype, rows)
        columns = encode(rows[chosen], dtype)
        yield chosen, decode(**columns, dimensions=rows.shape[1])  # type: ignore[arg-type]
