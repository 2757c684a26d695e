"""Laplace and Gaussian noise; the discrete ones are sampled exactly: whole numbers, no floats.

Noise that is computed in floating point takes only some of the values that its formula allows, and
which ones betrays what it was added to (Mironov, "On significance of the least significant bits for
differential privacy", CCS 2012). The samplers here follow Canonne, Kamath and Steinke, "The
discrete Gaussian for differential privacy", NeurIPS 2020, algorithms 1-3: every probability is a
fraction of whole numbers, and every draw compares a uniform whole number with another. How long a
draw takes still depends on its result: they don't protect from who can time them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F64, I64, Bool
from fedlab.core.validation import whole_number

#: Where random bytes come from, given how many.
Source = Callable[[int], bytes]


_LARGEST = 1 << 62


def discrete_laplace(scale: Fraction, size: int, source: Source = os.urandom) -> I64:
    """Draw whole numbers x with probability proportional to exp(-|x| / scale).

    Parameters
    ----------
    scale : Fraction
        t / s with t below 2**50; a number of which one row moves by at most `sensitivity` becomes
        epsilon-private with scale sensitivity / epsilon.
    size : int
    source : callable
        Random bytes; the operating system's by default.

    Raises
    ------
    ValueError
        If the scale is not above zero, or its parts are too large.

    Examples
    --------
    >>> discrete_laplace(Fraction(3, 2), 1000).shape
    (1000,)
    """
    t, s = scale.numerator, scale.denominator
    if not 0 < t < 1 << 50 or s >= 1 << 50:
        raise ValueError(f"scale is {scale}; it must be above 0, in parts below 2**50")
    whole_number(size, "size", 0)

    def tried(count: int) -> tuple[I64, Bool]:
        steps = _below(np.full(count, t), source)
        kept = _exp_of_minus(steps, np.full(count, t), source)
        size = (steps + t * _geometric(count, source)) // s
        negative = _below(np.full(count, 2), source) == 1
        return np.where(negative, -size, size), kept & ~(negative & (size == 0))

    return _until_kept(tried, size)


def discrete_gaussian(sigma: Fraction, size: int, source: Source = os.urandom) -> I64:
    """Draw whole numbers x with probability proportional to exp(-x**2 / (2 sigma**2)).

    Parameters
    ----------
    sigma : Fraction
        At least 1/16 and at most 2**24: a fraction of 16 below 256, a whole number above.
    size : int
    source : callable
        Random bytes; the operating system's by default.

    Raises
    ------
    ValueError
        If sigma is none of those.

    Examples
    --------
    >>> discrete_gaussian(Fraction(5), 1000).shape
    (1000,)
    """
    finest = 16 if sigma < 256 else 1
    if not Fraction(1, 16) <= sigma <= 1 << 24 or finest % sigma.denominator:
        raise ValueError(
            f"sigma is {sigma}; it must be a multiple of 1/16 below 256, and whole from there to "
            "2**24"
        )
    whole_number(size, "size", 0)
    t = max(1, math.floor(sigma))
    centre, factor = sigma**2 / t, 1 / (2 * sigma**2)
    scale = factor / centre.denominator**2

    def tried(count: int) -> tuple[I64, Bool]:
        drawn = discrete_laplace(Fraction(t), count, source)
        apart = np.abs(np.abs(drawn) * centre.denominator - centre.numerator)
        if int(apart.max()) ** 2 * scale.numerator >= _LARGEST:
            raise OverflowError("a draw of probability below 2**-150 came; is the source random?")
        return drawn, _exp_of_minus(
            apart**2 * scale.numerator, np.full(count, scale.denominator), source
        )

    return _until_kept(tried, size)


def continuous_gaussian(sigma: float, size: int, source: Source = os.urandom) -> F64:
    """Draw N(0, sigma^2) in floating point: fast, and not protected from Mironov's attack.

    By Box and Muller's transform of 64 random bits a uniform number, so that what lies beyond
    9.4 sigma never comes.

    Parameters
    ----------
    sigma : float
    size : int
    source : callable
        Random bytes; the operating system's by default.

    Examples
    --------
    >>> continuous_gaussian(2.0, 1000).shape
    (1000,)
    """
    pairs = (size + 1) // 2
    words = np.frombuffer(source(16 * pairs), np.uint64).reshape(2, pairs)
    radius = sigma * np.sqrt(-2 * np.log((words[0].astype(np.float64) + 0.5) * 2.0**-64))
    angle = 2 * np.pi * 2.0**-64 * words[1].astype(np.float64)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]


def _until_kept(tried: Callable[[int], tuple[I64, Bool]], size: int) -> I64:
    """Draw anew what was not kept, until `size` draws were."""
    found: list[I64] = [np.empty(0, np.int64)]
    missing = size
    while missing:
        # Twice as many as are missing; which are left over does not depend on their values.
        drawn, kept = tried(2 * missing + 8)
        found.append(drawn[kept][:missing])
        missing -= len(found[-1])
    return np.concatenate(found)


def _exp_of_minus(numerators: I64, denominators: I64, source: Source) -> Bool:
    """Return true with probability exp(-numerator / denominator), for each (algorithm 1)."""
    whole, rest = np.divmod(numerators, denominators)
    true = _exp_of_minus_share(rest, denominators, source)
    open_ = np.flatnonzero(true & (whole > 0))
    while len(open_):
        one = np.ones(len(open_), np.int64)
        true[open_] = _exp_of_minus_share(one, one, source)
        whole[open_] -= 1
        open_ = open_[true[open_] & (whole[open_] > 0)]
    return true


def _exp_of_minus_share(numerators: I64, denominators: I64, source: Source) -> Bool:
    """The same for fractions of at most one."""
    odd = np.ones(len(numerators), np.bool_)
    open_, step = np.arange(len(numerators)), 1
    while True:
        limits = denominators[open_] * step
        open_ = open_[_below(limits, source) < numerators[open_]]
        if not len(open_):
            return odd
        odd[open_] = ~odd[open_]
        step += 1


def _geometric(count: int, source: Source) -> I64:
    """Return how often in a row a coin of probability exp(-1) falls true."""
    times = np.zeros(count, np.int64)
    open_ = np.arange(count)
    while len(open_):
        one = np.ones(len(open_), np.int64)
        open_ = open_[_exp_of_minus_share(one, one, source)]
        times[open_] += 1
    return times


def _below(limits: NDArray[Any], source: Source) -> I64:
    """Draw a uniform whole number of at least 0 below each limit, exactly, by rejection."""
    if len(limits) and int(limits.max()) >= _LARGEST:
        raise OverflowError("a limit beyond 2**62 came; is the source random?")
    limits = limits.astype(np.uint64)
    drawn = np.empty(len(limits), np.uint64)
    open_ = np.arange(len(limits))
    while len(open_):
        words = np.frombuffer(source(8 * len(open_)), np.uint64)
        limit = limits[open_]
        uneven = (np.uint64(0) - limit) % limit  # 2**64 modulo the limit
        drawn[open_] = words % limit
        open_ = open_[words > np.uint64(2**64 - 1) - uneven]
    return drawn.astype(np.int64)
