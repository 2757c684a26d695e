"""Codecs that send every number of a row in fewer bits, as it is or after a rotation."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar, Literal

import numpy as np

from fedlab.core.typing import F64, Array
from fedlab.core.validation import positive, whole_number
from fedlab.updates.codecs import Codec, Context, fitted
from fedlab.updates.entropy import Field, Raw, Symbols


@dataclass(frozen=True)
class Cast(Codec):
    """Numbers travel in fewer bits, rounded to the nearest; what is too large becomes the largest.

    "i8" has 255 steps between the row's largest magnitude and its negative.

    Parameters
    ----------
    dtype : {"f16", "bf16", "i8"}

    Examples
    --------
    >>> row = np.array([0.1], np.float32)
    >>> at = Context(1, row.dtype)
    >>> Cast().decode(Cast().encode(row, at), at), len(Cast().encode(row, at))
    (array([0.09997559], dtype=float32), 2)
    """

    dtype: Literal["f16", "bf16", "i8"] = "f16"

    def __post_init__(self) -> None:
        if self.dtype not in ("f16", "bf16", "i8"):
            raise ValueError(f"dtype is {self.dtype!r}; choose 'f16', 'bf16' or 'i8'")

    def parts(self, at: Context) -> tuple[Field, ...]:
        if self.dtype == "i8":
            return Raw("f8", 1), Symbols(255, at.size)
        return (Raw("f2" if self.dtype == "f16" else "u2", at.size),)

    def code(self, row: Array, at: Context) -> tuple[Array, ...]:
        if self.dtype == "f16":
            return (fitted(row, np.dtype(np.float16)),)
        if self.dtype == "i8":
            peak = np.max(np.abs(row), keepdims=True).astype(np.float64)
            steps = np.rint(row * (127 / np.maximum(peak, 1e-300)))
            return peak, steps.astype(np.int32) + 127
        largest = np.uint32(0x7F7F0000).view(np.float32)
        bits = np.clip(row, -largest, largest).astype(np.float32).view(np.uint32)
        ties = bits >> 16 & 1  # go to the even one
        return ((bits + 0x7FFF + ties >> 16).astype(np.uint16),)

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        if self.dtype == "f16":
            return arrays[0].astype(at.numbers)
        if self.dtype == "i8":
            return fitted(arrays[0] * (np.arange(-127, 128) / 127), at.numbers)[arrays[1]]
        return (arrays[0].astype(np.uint32) << 16).view(np.float32).astype(at.numbers)


@dataclass(frozen=True)
class QSGD(Codec):
    """Magnitudes over the norm are rounded to one of `levels` steps, at random and without bias.

    The longer the row, the smaller its numbers beside the norm, and the more become zero by chance:
    a norm for each `bucket` of numbers mends that, as in the paper's experiments.

    With f the fraction of levels ``|v_i| / |v|`` above a whole number, the mean squared error is
    the sum of f (1 - f), times ``|v|^2`` / levels^2: at most
    min(n / levels^2, sqrt(n) / levels) ``|v|^2``.

    Parameters
    ----------
    levels : int
        Up to 127.
    norm : {"l2", "max"}
        What magnitudes are measured by.
    bucket : int, optional
        How many numbers, one after another, share a norm; by default all.

    Source: Alistarh et al., "QSGD: communication-efficient SGD via gradient quantization and
    encoding", NeurIPS 2017; entropy-coded here instead of Elias-coded.
    """

    levels: int = 7
    norm: Literal["l2", "max"] = "l2"
    bucket: int | None = None

    contracts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        whole_number(self.levels, "levels", 1, 127)
        if self.norm not in ("l2", "max"):
            raise ValueError(f"norm is {self.norm!r}; choose 'l2' or 'max'")
        if self.bucket is not None:
            whole_number(self.bucket, "bucket", 1)

    def parts(self, at: Context) -> tuple[Field, ...]:
        norms = Raw("f8", -(-at.size // (self.bucket or at.size)))
        return norms, Symbols(2 * self.levels + 1, at.size)

    def code(self, row: Array, at: Context) -> tuple[Array, ...]:
        rows = self._buckets(row.astype(np.float64))
        norms = np.linalg.norm(rows, 2 if self.norm == "l2" else np.inf, axis=1)
        rows *= (self.levels / np.maximum(norms, 1e-300))[:, None]
        steps = np.abs(rows.ravel()[: at.size]) + at.draw().random(at.size, np.float32)
        levels = np.minimum(steps, self.levels).astype(np.int32)
        return norms, np.where(row < 0, self.levels - levels, self.levels + levels)

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        steps = np.arange(-self.levels, self.levels + 1) / self.levels
        rows = arrays[0][:, None] * self._buckets(steps[arrays[1]])
        return fitted(rows.ravel()[: at.size], at.numbers)

    def _buckets(self, row: Array) -> Array:
        width = self.bucket or len(row)
        return np.pad(row, (0, -len(row) % width)).reshape(-1, width)


@dataclass(frozen=True)
class TernGrad(QSGD):
    """Each number becomes -m, 0 or m, with m the largest magnitude, at random and without bias.

    The mean squared error is the sum of ``|v_i| (m - |v_i|)``.

    Source: Wen et al., "TernGrad: ternary gradients to reduce communication in distributed deep
    learning", NeurIPS 2017, equation 3, for the row as a whole (m is no layer's) and unclipped.
    """

    levels: int = field(default=1, init=False)
    norm: Literal["l2", "max"] = field(default="max", init=False)


@dataclass(frozen=True)
class Sign(Codec):
    """Signs travel, a bit each (zero counts as positive), and their common magnitude.

    With the mean magnitude the squared error is ``|v|^2 - |v|_1^2 / n``.

    Parameters
    ----------
    step : float, optional
        The magnitude of all, which then does not travel; by default the row's mean magnitude.

    Source: Karimireddy et al., "Error feedback fixes SignSGD", ICML 2019 (scaled); Bernstein et
    al., "signSGD: compressed optimisation for non-convex problems", ICML 2018 (plain).
    """

    step: float | None = None

    def __post_init__(self) -> None:
        if self.step is not None:
            positive(step=self.step)

    @property
    def contracts(self) -> bool:  # type: ignore[override]
        return self.step is None

    def parts(self, at: Context) -> tuple[Field, ...]:
        return Raw("f8", int(self.step is None)), Symbols(2, at.size)

    def code(self, row: Array, at: Context) -> tuple[Array, ...]:
        mean = np.abs(row).mean(keepdims=True, dtype=np.float64)
        return mean[: int(self.step is None)], (row >= 0).astype(np.int32)

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        scale = arrays[0][0] if self.step is None else self.step
        return fitted(np.array([-scale, scale]), at.numbers)[arrays[1]]


@dataclass(frozen=True)
class Eden(Codec):
    """A row is rotated at random, and each of its numbers becomes one of 2^b; a scale mends it.

    The rotation is a Walsh-Hadamard transform after random signs, which both ends draw from the
    seed; the numbers are the best ones for a normal distribution (Lloyd and Max), with mean squared
    error D at a variance of 1. Unbiased, the mean squared error is ``D / (1 - D) |v|^2``: .5708
    at one bit, .1331 at two; else ``D |v|^2``, .3634 and .1175. That holds of long rows; where a
    few numbers outweigh all others, signs and a transform are no uniform rotation, and two bits
    were seen to err by .145 for .133.

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
    >>> row = np.random.default_rng(0).normal(size=2**16)
    >>> at = Context(2**16, row.dtype)
    >>> sent = Eden(bits=2).encode(row, at)
    >>> error = np.sum((Eden(bits=2).decode(sent, at) - row) ** 2) / np.sum(row**2)
    >>> round(float(error), 2), len(sent) < 2 * 2**16 / 8 + 16
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
        from fedlab.updates.kernels import hadamard

        levels, scales, symbols = normal_levels(self.bits), [], []
        between = ((levels[1:] + levels[:-1]) / 2).astype(at.numbers)
        for part in self._parts(row * _signs(at), at):
            length = float(np.sqrt(np.sum(np.square(part, dtype=np.float64))))
            unit = (part * np.float64(1 / length if length else 0.0)).astype(at.numbers)
            hadamard(unit)  # now of length sqrt(size), as normal numbers would be
            symbols.append(np.sum([unit > edge for edge in between], axis=0, dtype=np.uint8))
            nearest = levels[symbols[-1]]
            along = float(np.sum(unit * nearest))
            best = len(part) / along if self.unbiased and along else along / np.sum(nearest**2)
            scales.append(length / np.sqrt(len(part)) * best)
        return fitted(np.array(scales), np.dtype("f8")), np.concatenate(symbols)

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        from fedlab.updates.kernels import hadamard

        levels = normal_levels(self.bits).astype(at.numbers)
        parts = self._parts(levels[arrays[1]], at)
        for scale, part in zip(arrays[0], parts, strict=True):
            hadamard(part)
            part[:] = fitted(part * (scale / np.sqrt(len(part))), at.numbers)
        return np.concatenate(parts)[: at.size] * _signs(at)

    def _parts(self, row: Array, at: Context) -> list[Array]:
        """Return the parts of a row, filled up with zeros."""
        cut = cuts(at.size)
        whole = np.concatenate([row, np.zeros(sum(cut) - len(row), row.dtype)])
        return np.split(whole, np.cumsum(cut)[:-1])


@dataclass(frozen=True)
class Drive(Eden):
    """A row is rotated at random, and the signs of its numbers travel, a bit each, and a scale.

    Unbiased, the mean squared error is ``(pi/2 - 1) |v|^2``; else ``(1 - 2/pi) |v|^2``.

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
