"""Differential privacy of single rows: SGD whose steps clip each row's gradient, and add noise.

A step's rows are a Poisson sample, each row by itself: only such a sample has the amplification
that the accountant counts. Shuffled batches have not (Chua et al., "How private are DP-SGD
implementations?", ICML 2024). Samples and noise are secrets, and come from the operating system;
with ``simulated=True`` they follow from the run's seed, for tests and figures, and protect nobody.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, Array, Bool
from fedlab.core.validation import share_of_one
from fedlab.models import MLP, LinearRegression, SoftmaxRegression
from fedlab.models.base import Model, cross_entropy, gradient_of
from fedlab.privacy.accounting import Accountant
from fedlab.privacy.noise import continuous_gaussian
from fedlab.training.local import LocalSGD
from fedlab.training.work import Phase
from fedlab.updates.private import check
from fedlab.updates.stages import shortening

#: Numbers in the gradients of rows that are held at once.
_HELD = 1 << 22
_BUILT_IN = (LinearRegression, SoftmaxRegression, MLP)


@dataclass(frozen=True, kw_only=True)
class PrivateSGD(LocalSGD):
    """DP-SGD: what a device sends tells little about any single one of its rows.

    Each step takes every row with probability q, shortens each row's gradient to the length S, adds
    N(0, (z S)^2) to their sum, and divides by the expected number of rows, q n. Momentum, weight
    decay and all that an algorithm adds come after the noise. It holds against whoever sees the
    device's updates, the server too. The number of rows, n, is public: the neighbour of a device's
    rows is the same with one of them blank, which gives no gradient.

    Parameters
    ----------
    row_clip : float
        S, over all that trains in a phase.
    noise_multiplier : float
        z; ``noise_for(epsilon, delta, steps, Sampled(share))`` finds the one for a target.
    share : float
        q, the same on all devices; takes the place of a batch size. An epoch has 1 / q steps.
    delta : float
        Below one by the number of rows of a device.
    epsilon : float, optional
        The budget of each device: it is left out of rounds that would go beyond.
    accountant : {"rdp", "pld"}
    simulated : bool
        Draw samples and noise by the run's seed.
    epochs, learning_rate, decay, momentum, weight_decay
        See `LocalSGD`.

    Notes
    -----
    A step's loss is estimated as its gradient is, over q n rows and without noise: like all losses,
    it is outside of the guarantee. Lengths are computed in floating point, to rounding.

    Source: Abadi et al., "Deep learning with differential privacy", CCS 2016, algorithm 1; Noble et
    al., "Differentially private federated learning on heterogeneous data", AISTATS 2022.

    Examples
    --------
    >>> local = PrivateSGD(row_clip=1.0, noise_multiplier=1.1, share=0.05, delta=1e-4, epsilon=4.0)
    >>> local.steps
    20
    """

    batch_size: int | None = None
    row_clip: float
    noise_multiplier: float
    share: float
    delta: float
    epsilon: float | None = None
    accountant: Accountant = "rdp"
    simulated: bool = False

    def __post_init__(self) -> None:
        if self.batch_size is not None or self.clip is not None:
            raise ValueError(
                f"batch_size={self.batch_size} and clip={self.clip} were given; PrivateSGD samples "
                "rows and shortens each one's gradient: leave both out; see share and row_clip"
            )
        super().__post_init__()
        check(self, row_clip=self.row_clip, share=self.share)
        share_of_one(share=self.share)

    @property
    def steps(self) -> int:
        """Steps of an epoch: in these each row is expected once."""
        return max(1, round(1 / self.share))

    def gradients(
        self, model: Model, point: Array, x: Array, y: Array, phase: Phase, draw: Any, **at: Any
    ) -> Iterator[tuple[float, Array]]:
        for wrong in uncovered(model, [phase]):
            raise ValueError(f"PrivateSGD gives no epsilon with {wrong}")
        epochs, source = at.pop("epochs"), os.urandom
        if self.simulated:
            source = generator(purpose=Purpose.PRIVATE_ROWS, part=at.pop("begun"), **at).bytes
        else:  # what a model draws for a row depends on who else was sampled
            draw = np.random.default_rng()
        expected, width = self.share * len(x), self.noise_multiplier * self.row_clip
        for _ in range(epochs * self.steps):
            words = np.frombuffer(source(8 * len(x)), np.uint64)
            some = words <= np.uint64(min(int(self.share * 2.0**64), 2**64) - 1)
            clipped = x[some], y[some], self.row_clip, phase.trained, draw
            loss, total = clipped_sum(model, point, *clipped)
            total += continuous_gaussian(width, len(point), source)
            yield loss / expected, (total / expected).astype(point.dtype)


def uncovered(model: Model, phases: Sequence[Phase]) -> Iterator[str]:
    """Yield what looks at rows otherwise than by clipped gradients, and what would do instead."""
    if model.layout.buffered is not None:
        yield "buffers, which take what they hold from rows as they are; take GroupNorm, say"
    if any(phase.objective is not None for phase in phases):
        yield "a loss of the algorithm's, of which rows have no part each; take FedAvg, say"
    if any(phase.tells_more for phase in phases):
        yield "what devices compute of rows and tell without noise; take FedAvg, say"


def clipped_sum(
    model: Model, point: Array, x: Array, y: Array, clip: float, mask: Any = None, draw: Any = None
) -> tuple[float, F64]:
    """Return the sum of rows' losses, and that of their gradients, each at most as long as a clip.

    One row more moves the sum of gradients by the clip at most. A row whose gradient is not finite
    adds nothing.

    The gradients of built-in models are never there one by one: a layer's is an outer product, and
    so is as long as the product of two lengths (Goodfellow, "Efficient per-example gradient
    computations", 2015). A model with ``row_gradients``, such as a `TorchModel`, gives those of
    many rows at once. Any other one is asked row by row, and so is one with an `l2`.

    Parameters
    ----------
    model : Model
    point : (p,) array
    x, y : (n, inputs) and (n,) arrays
        n may be 0.
    clip : float
    mask : (p,) mask, optional
        What enters lengths and sums; by default all. Lengths by layers take arrays as a whole.
    draw : Generator, optional
        For a model that is ``stochastic``.

    Examples
    --------
    >>> x, y = np.array([[3.0], [0.0]]), np.array([-8.0, 0.5])
    >>> clipped_sum(LinearRegression(1), np.zeros(2), x, y, clip=1.0)  # (24, 8), (0, -0.5)
    (32.125, array([ 0.9486833 , -0.18377223]))
    """
    loss, total = 0.0, np.zeros(len(point))
    built_in = type(model) in _BUILT_IN and not getattr(model, "l2", 0)
    by = _by_layers if built_in else _by_rows
    mask = np.ones(len(point), np.bool_) if mask is None else mask
    some = len(x) or 1 if built_in else max(1, _HELD // len(point))
    for begin in range(0, len(x), some):
        rows = x[begin : begin + some], y[begin : begin + some]
        losses, squares, summed = by(model, point, *rows, mask, draw)
        sound = np.isfinite(squares)
        total += summed(np.where(sound, shortening(np.sqrt(squares), clip), 0))
        loss += float(losses[sound].sum(dtype=np.float64))
    return loss, np.where(mask, total, 0)


#: Of rows: losses, (n,), squares of gradients' lengths, (n,), and what sums gradients by weights.
_Rows = tuple[Array, F64, Callable[[F64], Array]]


def _by_layers(model: Any, point: Array, x: Array, y: Array, mask: Bool, draw: Any) -> _Rows:
    def layers(vector: Array) -> list[tuple[Array, Array]]:
        parts = list(model.layout.views(vector).values())
        return [(w.reshape(len(w), -1), b) for w, b in zip(parts[::2], parts[1::2], strict=True)]

    (*hidden, last), entered = layers(point), [x.astype(point.dtype, copy=False)]
    for weights, bias in hidden:
        entered.append(np.maximum(entered[-1] @ weights + bias, 0))
    passed, squares = list[tuple[Array, Array]](), np.zeros(len(x))
    scores = entered[-1] @ last[0] + last[1]
    if isinstance(model, LinearRegression):
        error = scores - y[:, None].astype(point.dtype)
        losses = np.square(error[:, 0]) / 2
    else:
        losses, error = cross_entropy(scores, y)
        error[np.arange(len(y)), y] -= 1
    backwards = zip(layers(point)[::-1], layers(mask)[::-1], entered[::-1], strict=True)
    for (weights, _), on, received in backwards:
        inward = np.square(received, dtype=np.float64).sum(axis=1) * on[0].any() + on[1].any()
        squares += np.square(error, dtype=np.float64).sum(axis=1) * inward
        passed.insert(0, (received, error))
        error = error @ weights.T * (received > 0)

    def summed(factors: F64) -> Array:
        whole, kept = np.zeros_like(point), factors > 0
        scale = factors[kept, None].astype(point.dtype)
        for (inner, outer), (received, error) in zip(layers(whole), passed, strict=True):
            scaled = error[kept] * scale
            inner[...], outer[...] = received[kept].T @ scaled, scaled.sum(axis=0)
        return whole

    return losses, squares, summed


def _by_rows(model: Any, point: Array, x: Array, y: Array, mask: Bool, draw: Any) -> _Rows:
    if hasattr(model, "row_gradients"):
        losses, gradients = model.row_gradients(point, x, y, draw)
    else:
        rows = zip(x[:, None], y[:, None], strict=True)
        found = [gradient_of(model, point, *row, draw) for row in rows]
        losses, gradients = (np.array(part) for part in zip(*found, strict=True))
    gradients = np.where(mask, gradients, 0)
    squares = np.square(gradients, dtype=np.float64).sum(axis=1)
    return losses, squares, lambda factors: factors[factors > 0] @ gradients[factors > 0]
