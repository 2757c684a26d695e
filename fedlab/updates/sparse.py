"""Codecs that send some of a row's numbers: the largest ones, or some drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fedlab.core.typing import Array
from fedlab.core.validation import whole_number
from fedlab.updates.codecs import Codec, Context, counted, fitted, refuse_share
from fedlab.updates.entropy import Field, Raw, Subset


def largest(row: Array, count: int) -> Array:
    """Return the places of the largest magnitudes, rising; of equal ones, the first ones.

    Examples
    --------
    >>> largest(np.array([1.0, -3.0, 3.0, 3.0]), 2)
    array([1, 2])
    """
    if count >= len(row):
        return np.arange(len(row))
    sizes = np.abs(row)
    least = np.partition(sizes, len(row) - count)[len(row) - count]
    chosen = sizes > least
    equal = np.flatnonzero(sizes == least)
    chosen[equal[: count - np.count_nonzero(chosen)]] = True
    return np.flatnonzero(chosen)


@dataclass(frozen=True)
class TopK(Codec):
    """The numbers of largest magnitude travel, and where they stand; the others become zero.

    The squared error is at most (1 - k/n) |v|^2.

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
    (array([ 0., -2.,  0.,  0.], dtype=float32), 8)
    """

    keep: int | float = 0.01

    def __post_init__(self) -> None:
        refuse_share(self.keep, "keep")

    def parts(self, at: Context) -> tuple[Field, ...]:
        count = counted(self.keep, at.size)
        return Raw(at.numbers, count), Subset(count, at.size)

    def code(self, row: Array, at: Context) -> tuple[Array, ...]:
        places = largest(row, counted(self.keep, at.size))
        return row[places], places

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        row = np.zeros(at.size, at.numbers)
        row[arrays[1]] = arrays[0]
        return row


@dataclass(frozen=True)
class RandomK(Codec):
    """Numbers at random places travel; where these are, both ends draw from the seed.

    Scaled by n/k, so that the mean is the row, its mean squared error is (n/k - 1) |v|^2; plain,
    (1 - k/n) |v|^2.

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
        places = self._places(at)
        factor = at.size / len(places) if self.scaled else 1.0
        row = np.zeros(at.size, at.numbers)
        with np.errstate(over="ignore"):
            row[places] = fitted(np.multiply(arrays[0], factor, dtype=np.float64), at.numbers)
        return row

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
    Rothchild et al., "FetchSGD", ICML 2020. Lines come from a 64-bit mixing function (splitmix64)
    at keys that are drawn, which is no proven hash family.
    """

    cells: int | float = 0.02
    lines: int = 5
    keep: int | float | None = None

    contracts: ClassVar[bool] = False
    additive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        refuse_share(self.cells, "cells")
        whole_number(self.lines, "lines", 1, 99)
        if self.keep is not None:
            refuse_share(self.keep, "keep")

    def parts(self, at: Context) -> tuple[Field, ...]:
        return (Raw(at.numbers, self.lines * counted(self.cells, at.size)),)

    def code(self, row: Array, at: Context) -> tuple[Array, ...]:
        from fedlab.updates import kernels

        sums = np.zeros((self.lines, counted(self.cells, at.size)))
        kernels.sketched(row, self._keys(at), sums)
        return (fitted(sums.ravel(), at.numbers),)

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        from fedlab.updates import kernels

        row, sums = np.empty(at.size, at.numbers), arrays[0].reshape(self.lines, -1)
        kernels.unsketched(sums, self._keys(at), row)
        if self.keep is not None:
            read = largest(row, counted(self.keep, at.size))
            row, whole = np.zeros_like(row), row
            row[read] = whole[read]
        return row

    def _keys(self, at: Context) -> Array:
        return replace(at, round=0).draw(shared=True).integers(2**64, size=self.lines, dtype="u8")
