"""A codec that sends matrices as products of two thin ones."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from fedlab.core.threads import one_blas_thread
from fedlab.core.typing import Array
from fedlab.core.validation import whole_number
from fedlab.updates.codecs import Codec, Context, fitted, scaled_by
from fedlab.updates.entropy import Field, Raw


@dataclass(frozen=True)
class LowRank(Codec):
    """Each of the model's matrices M travels as P Q', P of orthonormal columns: PowerSGD.

    P spans M Q, with the Q that the device sent last, and Q becomes M' P: a step of subspace
    iteration a round, which tends to the best approximation of its rank where M stays. The squared
    error is |M|^2 - |M' P|^2. Arrays of more than two axes count as matrices by their first one;
    vectors travel whole, and matrices that are no larger than P and Q.

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
        found = self._matrices(at)
        whole = at.size - sum(rows * columns for _, rows, columns in found)
        counts = whole, sum(self.rank * rows for _, rows, _ in found), self.keeps(at)
        return tuple(Raw(at.numbers, count) for count in counts)

    def keeps(self, at: Context) -> int:
        return sum(self.rank * columns for _, _, columns in self._matrices(at))

    def code(self, row: Array, at: Context) -> tuple[Array, ...]:
        found, start, draw = self._matrices(at), 0, at.draw()
        lefts, rights, whole = [], [], np.ones(at.size, np.bool_)
        for place, rows, columns in found:
            whole[place : place + rows * columns] = False
            shares, peak = scaled_by(row[place : place + rows * columns].reshape(rows, columns))
            random = draw.normal(size=(columns, self.rank))
            if at.start is not None:
                last = at.start[start : start + random.size].reshape(random.shape)
                random = np.where(last.any(axis=0), scaled_by(last)[0], random)
            start += random.size
            with one_blas_thread():
                left = np.linalg.qr(shares @ random)[0].astype(at.numbers)
                right = shares.T @ left.astype(np.float64)
            lefts.append(left.ravel())
            with np.errstate(over="ignore"):
                rights.append(fitted(peak * right, at.numbers).ravel())
        none = np.empty(0, at.numbers)
        return row[whole], np.concatenate([none, *lefts]), np.concatenate([none, *rights])

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        row, whole = np.empty(at.size, at.numbers), np.ones(at.size, np.bool_)
        others, lefts, rights = arrays
        for place, rows, columns in self._matrices(at):
            left, lefts = np.split(lefts, [self.rank * rows])
            right, rights = np.split(rights, [self.rank * columns])
            thin, peak = scaled_by(right.reshape(columns, self.rank))
            with one_blas_thread(), np.errstate(over="ignore"):
                matrix = peak * (left.reshape(rows, self.rank).astype(np.float64) @ thin.T)
            row[place : place + rows * columns] = fitted(matrix, at.numbers).ravel()
            whole[place : place + rows * columns] = False
        row[whole] = others
        return row

    def _matrices(self, at: Context) -> list[tuple[int, int, int]]:
        """Return where each matrix that is worth it begins, its rows and columns."""
        found, place = [], 0
        for _, shape in at.layout.shapes if at.layout is not None else ():
            if len(shape) > 1:
                rows, columns = shape[0], prod(shape[1:])
                if self.rank * (rows + columns) < rows * columns:
                    found.append((place, rows, columns))
            place += prod(shape)
        return found
