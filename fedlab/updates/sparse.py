"""Codecs that send fewer numbers: the largest ones, some drawn at random, sums, thin matrices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import ClassVar

import numpy as np

from fedlab.core.threads import one_blas_thread
from fedlab.core.typing import Array, Bool
from fedlab.core.validation import whole_number
from fedlab.updates.codecs import Codec, Context, counted, fitted, refuse_share
from fedlab.updates.entropy import Field, Raw, Symbols


def largest(row: Array, count: int) -> Bool:
    """Return which numbers are of largest magnitude, (n,); of equal ones, the first ones.

    Examples
    --------
    >>> largest(np.array([1.0, -3.0, 3.0, 3.0]), 2)
    array([False,  True,  True, False])
    """
    if count >= len(row):
        return np.ones(len(row), np.bool_)
    sizes = np.abs(row)
    least = np.partition(sizes, len(row) - count)[len(row) - count]
    chosen = sizes > least
    equal = np.flatnonzero(sizes == least)
    chosen[equal[: count - np.count_nonzero(chosen)]] = True
    return np.asarray(chosen)


@dataclass(frozen=True)
class TopK(Codec):
    """The numbers of largest magnitude travel, and where they stand; the others become zero.

    The squared error is at most ``(1 - k/n) |v|^2``.

    Parameters
    ----------
    keep : int or float
        Numbers that travel, or their share.

    Source: Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", NeurIPS 2018.

    Examples
    --------
    >>> row = np.array([0.5, -2.0, 1.0, 0.0], np.float32)
    >>> at = Context(4, row.dtype)
    >>> sent = TopK(1).encode(row, at)
    >>> TopK(1).decode(sent, at), len(sent)
    (array([ 0., -2.,  0.,  0.], dtype=float32), 6)
    """

    keep: int | float = 0.01

    def __post_init__(self) -> None:
        refuse_share(self.keep, "keep")

    def parts(self, at: Context) -> tuple[Field, ...]:
        return Raw(at.numbers, counted(self.keep, at.size)), Symbols(2, at.size)

    def code(self, row: Array, at: Context) -> tuple[Array, ...]:
        chosen = largest(row, counted(self.keep, at.size))
        return row[chosen], chosen.astype(np.uint8)

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        row, places = np.zeros(at.size, at.numbers), np.flatnonzero(arrays[1])
        if len(places) != len(arrays[0]):
            raise ValueError(f"a message names {len(places)} places of {len(arrays[0])} numbers")
        row[places] = arrays[0]
        return row


@dataclass(frozen=True)
class RandomK(Codec):
    """Numbers at random places travel; where these are, both ends draw from the seed.

    Scaled by n/k, so that the mean is the row, its mean squared error is ``(n/k - 1) |v|^2``;
    plain, ``(1 - k/n) |v|^2``.

    Parameters
    ----------
    keep : int or float
        Numbers that travel, or their share.
    scaled : bool
    shared : bool
        Whether all devices of a round send the same places: then messages may be added up.

    Source: Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", NeurIPS 2018.
    """

    keep: int | float = 0.01
    scaled: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        refuse_share(self.keep, "keep")

    @property
    def contracts(self) -> bool:  # type: ignore[override]
        return not self.scaled

    @property
    def additive(self) -> bool:  # type: ignore[override]
        return self.shared

    def parts(self, at: Context) -> tuple[Field, ...]:
        return (Raw(at.numbers, counted(self.keep, at.size)),)

    def code(self, row: Array, at: Context) -> tuple[Array, ...]:
        return (row[self._places(at)],)

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        row, factor = np.zeros(at.size), at.size / len(arrays[0]) if self.scaled else 1.0
        row[self._places(at)] = factor * arrays[0].astype(np.float64)
        return fitted(row, at.numbers)

    def _places(self, at: Context) -> Array:
        count = counted(self.keep, at.size)
        return np.sort(at.draw(shared=self.shared).choice(at.size, count, replace=False))


@dataclass(frozen=True)
class CountSketch(Codec):
    """Sums of the row's numbers travel, each number in one of each line, with a sign.

    A number is read as the median of what its sums say. Sums are linear, S(v) + S(w) = S(v + w), as
    all devices and rounds have the same lines, so messages may be added up; what is read of them is
    not linear. The error is large but for the few numbers that outweigh the rest.

    Parameters
    ----------
    cells : int or float
        Sums of a line, or their share of the row's numbers.
    lines : int
    keep : int or float, optional
        How many numbers are read, the largest ones, or their share; the others are zero. By default
        all.

    Source: Charikar, Chen and Farach-Colton, "Finding frequent items in data streams", 2002;
    Rothchild et al., "FetchSGD", ICML 2020. Where numbers enter is drawn, (lines, n), and held for
    all rows, which takes the place of a hash.
    """

    cells: int | float = 0.02
    lines: int = 5
    keep: int | float | None = None

    contracts: ClassVar[bool] = False
    additive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        refuse_share(self.cells, "cells")
        if whole_number(self.lines, "lines", 1, 99) % 2 == 0:
            raise ValueError(f"lines is {self.lines}; a median is one of an odd number")
        if self.keep is not None:
            refuse_share(self.keep, "keep")

    def parts(self, at: Context) -> tuple[Field, ...]:
        return (Raw(at.numbers, self.lines * counted(self.cells, at.size)),)

    def code(self, row: Array, at: Context) -> tuple[Array, ...]:
        cells, wide = counted(self.cells, at.size), row.astype(np.float64)
        both = [np.bincount(line, wide, 2 * cells) for line in self._where(at)]
        return (fitted(np.concatenate([b[:cells] - b[cells:] for b in both]), at.numbers),)

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        sums = arrays[0].reshape(self.lines, -1)
        signed = np.concatenate([sums, -sums], axis=1)
        said = [line[where] for line, where in zip(signed, self._where(at), strict=True)]
        for last in range(self.lines - 1, 0, -1):  # all places are sorted at once, by exchanges
            for i in range(last):
                low = np.minimum(said[i], said[i + 1])
                said[i], said[i + 1] = low, np.maximum(said[i], said[i + 1])
        row: Array = said[self.lines // 2]
        if self.keep is not None:
            row[~largest(row, counted(self.keep, at.size))] = 0
        return row

    def _where(self, at: Context) -> Array:
        return _cells(at.seed, at.part, at.size, counted(self.cells, at.size), self.lines)


@lru_cache(maxsize=2)
def _cells(seed: int, part: int, size: int, cells: int, lines: int) -> Array:
    """Return where numbers enter sums, (lines, n); those that count as negative stand behind."""
    draw = Context(size, np.dtype(np.float32), seed, part=part).draw(shared=True)
    return draw.integers(2 * cells, size=(lines, size), dtype=np.intp)


@dataclass(frozen=True)
class LowRank(Codec):
    """Each of the model's matrices M travels as P Q', P of orthonormal columns: PowerSGD.

    P spans M Q, with the Q that the device sent last, and Q becomes M' P: a step of subspace
    iteration a round, which tends to the best approximation of its rank where M stays. The squared
    error is ``|M|^2 - |M' P|^2``. Arrays of more than two axes count as matrices by their first
    one; vectors travel whole, and matrices that are no larger than P and Q.

    Parameters
    ----------
    rank : int

    Source: Vogels, Karimireddy and Jaggi, "PowerSGD: practical low-rank gradient compression for
    distributed optimization", NeurIPS 2019, algorithm 1; each device by itself, where the paper
    adds up P and Q over all.

    Examples
    --------
    >>> from fedlab.models.base import Layout
    >>> matrix = np.outer([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, -1.0, 2.0])
    >>> at = Context(16, matrix.dtype, layout=Layout((("weights", (4, 4)),)))
    >>> sent = LowRank(1).encode(matrix.ravel(), at)
    >>> np.abs(LowRank(1).decode(sent, at) - matrix.ravel()).max() < 1e-14, len(sent)
    (np.True_, 64)
    """

    rank: int = 2

    def __post_init__(self) -> None:
        whole_number(self.rank, "rank", 1)

    def parts(self, at: Context) -> tuple[Field, ...]:
        found, whole = self._matrices(at)
        counts = int(whole.sum()), sum(self.rank * rows for _, rows, _ in found), self.keeps(at)
        return tuple(Raw(at.numbers, count) for count in counts)

    def keeps(self, at: Context) -> int:
        return sum(self.rank * columns for _, _, columns in self._matrices(at)[0])

    def code(self, row: Array, at: Context) -> tuple[Array, ...]:
        (found, whole), draw, last = self._matrices(at), at.draw(), at.start
        lefts, rights = [np.empty(0, at.numbers)], [np.empty(0, at.numbers)]
        for part, rows, columns in found:
            matrix = row[part].reshape(rows, columns).astype(np.float64)
            basis = draw.normal(size=(columns, self.rank))
            if last is not None:
                mine, last = np.split(last, [basis.size])
                mine = mine.reshape(basis.shape)
                basis = np.where(mine.any(axis=0), mine, basis)  # else it would stay at zero
            with one_blas_thread():
                left = np.linalg.qr(matrix @ basis)[0].astype(at.numbers)
                right = fitted(matrix.T @ left, at.numbers)
            lefts.append(left.ravel())
            rights.append(right.ravel())
        return row[whole], np.concatenate(lefts), np.concatenate(rights)

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        (found, whole), row = self._matrices(at), np.empty(at.size, at.numbers)
        row[whole], lefts, rights = arrays
        for part, rows, columns in found:
            left, lefts = np.split(lefts, [self.rank * rows])
            right, rights = np.split(rights, [self.rank * columns])
            thin = right.reshape(columns, self.rank).astype(np.float64)
            with one_blas_thread():
                row[part] = fitted((left.reshape(rows, self.rank) @ thin.T).ravel(), at.numbers)
        return row

    def _matrices(self, at: Context) -> tuple[list[tuple[slice, int, int]], Array]:
        """Return where matrices that are worth it lie, their rows and columns; and what is left."""
        found, start, left = [], 0, np.ones(at.size, np.bool_)
        for _, shape in () if at.layout is None else at.layout.shapes:
            rows, columns, size = shape[0] if shape else 1, prod(shape[1:]), prod(shape)
            if self.rank * (rows + columns) < size:
                found.append((slice(start, start + size), rows, columns))
                left[found[-1][0]] = False
            start += size
        return found, left
