"""Codecs that rotate a row at random, after which its numbers look normally distributed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from fedlab.core.typing import F64, Array
from fedlab.core.validation import whole_number
from fedlab.updates.codecs import Codec, Context, fitted, scaled_by
from fedlab.updates.entropy import Field, Raw, Symbols


@dataclass(frozen=True)
class Eden(Codec):
    """A row is rotated at random, and each of its numbers becomes one of 2^b; a scale mends it.

    The rotation is a Walsh-Hadamard transform after random signs, which both ends draw from the
    seed; the numbers are the best ones for a normal distribution (Lloyd and Max), with mean squared
    error D at a variance of 1. Unbiased, the mean squared error is D / (1 - D) |v|^2: .5708 at one
    bit, .1331 at two; else D |v|^2, .3634 and .1175.
    That holds of long rows; where a few numbers outweigh all others, signs and a transform are no
    uniform rotation, and two bits were seen to err by .145 for .133.

    Parameters
    ----------
    bits : int
        Of a number, up to 6.
    unbiased : bool
        Whether the mean is the row (over rotations), or the error as small as it can be.

    Notes
    -----
    A transform has a power of two of numbers. A row is cut into such parts, the largest first, with
    a scale each; the last part, of less than a 32nd of the row, is filled up with zeros.

    Source: Vargaftik et al., "EDEN: communication-efficient and robust distributed mean estimation
    for federated learning", ICML 2022.

    Examples
    --------
    >>> row = np.random.default_rng(0).normal(size=4096)
    >>> at = Context(4096, row.dtype)
    >>> sent = Eden(bits=2).encode(row, at)
    >>> error = np.sum((Eden(bits=2).decode(sent, at) - row) ** 2) / np.sum(row**2)
    >>> round(float(error), 2), len(sent) < 2 * 4096 / 8 + 16
    (0.13, True)
    """

    bits: int = 1
    unbiased: bool = True

    def __post_init__(self) -> None:
        whole_number(self.bits, "bits", 1, 6)

    @property
    def contracts(self) -> bool:  # type: ignore[override]
        return not self.unbiased

    def parts(self, at: Context) -> tuple[Field, ...]:
        cut = cuts(at.size)
        return Raw("f8", len(cut)), Symbols(2**self.bits, sum(cut))

    def code(self, row: Array, at: Context) -> tuple[Array, ...]:
        from fedlab.updates import kernels

        levels = normal_levels(self.bits)
        between = ((levels[1:] + levels[:-1]) / 2).astype(at.numbers)
        cut, signs = cuts(at.size), _signs(at)
        turned = np.zeros(sum(cut), at.numbers)
        np.multiply(row, signs, out=turned[: at.size])
        scales, symbols, start = np.zeros(len(cut)), np.zeros(sum(cut), np.uint8), 0
        for place, size in enumerate(cut):
            part = slice(start, start + size)
            start += size
            shares, peak = scaled_by(turned[part])
            if not peak:
                continue
            length = np.sqrt(np.square(shares).sum())
            unit = (shares / length).astype(at.numbers)
            kernels.hadamard(unit)  # now of length sqrt(size), as normal numbers would be
            kernels.rounded(unit, between, symbols[part])
            nearest = levels[symbols[part]]
            along = float(np.sum(unit * nearest))
            whole = size if self.unbiased else along
            best = along if self.unbiased else float(np.sum(np.square(nearest)))
            with np.errstate(over="ignore"):
                mended = np.float64(peak) * (length / np.sqrt(size) * whole / best)
            scales[place] = fitted(mended, scales.dtype)
        return scales, symbols

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        from fedlab.updates import kernels

        scales, symbols = arrays
        levels, start = normal_levels(self.bits).astype(at.numbers), 0
        turned = levels[symbols]
        for scale, size in zip(scales, cuts(at.size), strict=True):
            part = turned[start : start + size]
            start += size
            kernels.hadamard(part)
            with np.errstate(over="ignore"):
                part[:] = fitted(part * (scale / np.sqrt(size)), at.numbers)
        return np.asarray(turned[: at.size] * _signs(at))


@dataclass(frozen=True)
class Drive(Eden):
    """A row is rotated at random, and the signs of its numbers travel, a bit each, and a scale.

    Unbiased, the mean squared error is (pi/2 - 1) |v|^2; else (1 - 2/pi) |v|^2.

    Source: Vargaftik et al., "DRIVE: one-bit distributed mean estimation", NeurIPS 2021, with the
    rotation of its section 6. It is `Eden` with one bit.
    """

    bits: int = field(default=1, init=False)


@cache
def cuts(size: int) -> tuple[int, ...]:
    """Return the powers of two into which a row is cut; the last one may reach beyond its end.

    Examples
    --------
    >>> cuts(10), cuts(199_210)
    ((8, 2), (131072, 65536, 4096))
    """
    made, left = [], size
    while left:
        fill = 1 << (left - 1).bit_length()
        made.append(fill if fill - left <= size // 32 else fill >> 1)
        left = max(0, left - made[-1])
    return tuple(made)


@cache
def normal_levels(bits: int) -> F64:
    """Return the 2^bits numbers, rising, that lie nearest to a normal one in the mean square.

    Source: Max, "Quantizing for minimum distortion", 1960; each number is the mean of those that
    are nearest to it.

    Examples
    --------
    >>> normal_levels(2).round(4)
    array([-1.5104, -0.4528,  0.4528,  1.5104])
    """
    from scipy.special import ndtr, ndtri

    levels, moved = ndtri((np.arange(2**bits) + 0.5) / 2**bits), 1.0
    while moved > 1e-12:
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        density = np.exp(-np.square(edges) / 2) / np.sqrt(2 * np.pi)
        before, levels = levels, -np.diff(density) / np.diff(ndtr(edges))
        moved = np.abs(levels - before).max()
    return np.asarray(levels)


def _signs(at: Context) -> Array:
    """Return -1 and 1 at random, (n,), of the row's type."""
    flags = np.unpackbits(np.frombuffer(at.draw().bytes(-(-at.size // 8)), np.uint8), count=at.size)
    return flags.astype(at.numbers) * 2 - 1
