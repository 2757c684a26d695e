"""Codecs that send every number of a row in fewer bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from fedlab.core.typing import F64, Array
from fedlab.core.validation import positive, whole_number
from fedlab.updates.codecs import Codec, Context, fitted, scaled_by
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
            shares, peak = scaled_by(row)
            return np.array([peak]), np.rint(127 * shares).astype(np.int32) + 127
        largest = np.uint32(0x7F7F0000).view(np.float32)
        bits = np.clip(row, -largest, largest).astype(np.float32).view(np.uint32)
        even = bits >> 16 & 1  # ties go to the even one
        return (((bits + 0x7FFF + even) >> 16).astype(np.uint16),)

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

    With f the fraction of levels |v_i| / |v| above a whole number, the mean squared error is the
    sum of f (1 - f), times |v|^2 / levels^2: at most min(n / levels^2, sqrt(n) / levels) |v|^2.

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
        return Raw("f8", len(self._starts(at))), Symbols(2 * self.levels + 1, at.size)

    def code(self, row: Array, at: Context) -> tuple[Array, ...]:
        shares, peak = scaled_by(row)
        starts = self._starts(at)
        reduce, of = (np.maximum, np.abs(shares)) if self.norm == "max" else (np.add, shares**2)
        norms = reduce.reduceat(of, starts) ** (1.0 if self.norm == "max" else 0.5)
        steps = np.abs(shares) * (self.levels / self._each(np.where(norms > 0, norms, 1.0), at))
        level = np.minimum(np.floor(steps + at.draw().random(at.size)), self.levels)
        with np.errstate(over="ignore"):
            measure = fitted(peak * norms, norms.dtype)
        return measure, (np.copysign(level, shares) + self.levels).astype(np.int32)

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        steps = np.arange(-self.levels, self.levels + 1) / self.levels
        if self.bucket is None:
            return fitted(arrays[0] * steps, at.numbers)[arrays[1]]
        return fitted(self._each(arrays[0], at) * steps[arrays[1]], at.numbers)

    def _starts(self, at: Context) -> Array:
        return np.arange(0, at.size, self.bucket or at.size)

    def _each(self, norms: F64, at: Context) -> F64:
        return norms if self.bucket is None else np.repeat(norms, self.bucket)[: at.size]


@dataclass(frozen=True)
class TernGrad(QSGD):
    """Each number becomes -m, 0 or m, with m the largest magnitude, at random and without bias.

    The mean squared error is the sum of |v_i| (m - |v_i|).

    Source: Wen et al., "TernGrad: ternary gradients to reduce communication in distributed deep
    learning", NeurIPS 2017, equation 3, for the row as a whole (m is no layer's) and unclipped.
    """

    levels: int = field(default=1, init=False)
    norm: Literal["l2", "max"] = field(default="max", init=False)


@dataclass(frozen=True)
class Sign(Codec):
    """Signs travel, a bit each (zero counts as positive), and their common magnitude.

    With the mean magnitude the squared error is |v|^2 - |v|_1^2 / n.

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
        shares, peak = scaled_by(row)
        mean: F64 = np.array([peak * np.abs(shares).mean()] if self.step is None else [])
        return mean, (row >= 0).astype(np.int32)

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        scale = arrays[0][0] if self.step is None else self.step
        return fitted(np.array([-scale, scale]), at.numbers)[arrays[1]]
