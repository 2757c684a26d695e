"""Secure sums of updates: numbers in fixed point, and masks under which only their sum is seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, I64, Places
from fedlab.core.validation import positive, require, share_of_one, whole_number
from fedlab.device.states import DeviceStates
from fedlab.privacy.fixed_point import FRACTION, from_words, to_words
from fedlab.privacy.secure_aggregation import SecureExchange, ThresholdError, few_neighbours, ring
from fedlab.updates.sent import Updates
from fedlab.updates.stages import At, Rowwise, State

#: What devices tell under masks besides their blocks, and what an algorithm averages.
TOLD = "rows", "loss"


@dataclass(frozen=True)
class FixedPoint(Rowwise):
    """Each device applies its weight to its numbers, and rounds them to whole multiples of a step.

    The weights of a cohort sum to one, so a sum of numbers of size at most `limit` is at most
    that, and half of the range of `bits` is left for rounding and noise. The mean of m devices is
    off by at most m/2 steps, `m * limit * 2**(1 - bits)` where the limit is a power of two.

    Parameters
    ----------
    limit : float
        No number of an update is larger: that of a `ClipNorm` in front of it.
    bits : int
        In which sums are taken, and numbers travel: 8 ... 32.

    Examples
    --------
    >>> sent = Updates(np.zeros(1, int), {"change": np.array([[0.3, -1.0]])}, np.ones(1), {})
    >>> fixed = FixedPoint(limit=1.0, bits=16)
    >>> fixed.apply({}, sent, DeviceStates(), At(0, 1))[0].blocks["change"], 1 / fixed.step
    (array([[  4915., -16384.]]), 16384.0)
    """

    limit: float
    bits: int = 24

    gives: ClassVar[frozenset[str]] = frozenset({"integer"})
    takes: ClassVar[frozenset[str]] = frozenset({"linear"})

    def __post_init__(self) -> None:
        positive(limit=self.limit)
        whole_number(self.bits, "bits", 8, 32)

    @property
    def step(self) -> float:
        """What one stands for: a power of two."""
        return 2.0 ** (math.ceil(math.log2(self.limit)) + 2 - self.bits)

    def apply(
        self, state: State, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Updates, State, DeviceStates]:
        shares = {name: sent.weights_of(name)[:, None] / self.step for name in sent.blocks}
        blocks = {name: np.rint(block * shares[name]) for name, block in sent.blocks.items()}
        weighed = {**sent.weighed, **dict.fromkeys(blocks, np.ones(len(sent)))}
        return replace(sent, blocks=blocks, weighed=weighed, sizes={}), state, kept


@dataclass(frozen=True)
class SecureSum(Rowwise):
    """The server sees the sum of what a cohort sends, and nothing of a single device.

    Rows and losses of single devices are summed under masks, too (a loss that is too large for it,
    some billions, counts as the largest that isn't). Weights are public: take
    ``weights="uniform"`` where row counts tell too much. Devices may drop out, before they send
    or after (see `fedlab.privacy.secure_aggregation`); a round with too few left is skipped. Who
    comes too late for a `Deadline`, or drops out by its profile, counts as one of the first kind.

    Parameters
    ----------
    threshold : float
        Which part of a device's neighbours and itself must be left, above 1/2 and at most 1.
    neighbours : "all", "few" or int
        With whom each device shares masks: "few" are O(log n), with a threshold of their own (see
        `fedlab.privacy.secure_aggregation.few_neighbours`).
    drops : (float, float)
        Shares of the cohort that drop out before and after they send, drawn anew in each round.
        A device that can't train drops out before it sends, too.

    Source: Bonawitz et al., CCS 2017; Bell et al., CCS 2020.

    Examples
    --------
    >>> from fedlab.updates import Chain, ClipNorm
    >>> Chain((ClipNorm(1.0), FixedPoint(limit=1.0), SecureSum())).shows_rows
    False
    """

    threshold: float = 2 / 3
    neighbours: int | Literal["all", "few"] = "all"
    drops: tuple[float, float] = (0.0, 0.0)

    needs: ClassVar[frozenset[str]] = frozenset({"rows", "integer", "additive"})
    gives: ClassVar[frozenset[str]] = frozenset({"hidden", "linear"})
    takes: ClassVar[frozenset[str]] = frozenset({"rows"})

    def __post_init__(self) -> None:
        if not 0.5 < self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; it must be above 1/2 and at most 1")
        if self.neighbours not in ("all", "few"):
            whole_number(self.neighbours, 'neighbours (else "all" or "few")', 2)
        before, after = self.drops
        share_of_one(before=before, after=after, together=before + after)

    def among(self, count: int) -> tuple[int | None, int]:
        """Return how many neighbours devices of a cohort have, None for all, and the threshold."""
        if self.neighbours == "few":
            return few_neighbours(count)
        near = None if self.neighbours == "all" else self.neighbours
        holders = count if near is None else min(near + near % 2 + 1, count)
        return near, math.ceil(self.threshold * holders - 1e-9)

    def apply(
        self, state: State, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Updates, State, DeviceStates]:
        return sent, state, kept  # masked by `SummedUnderMasks`, which knows the cohort


class SummedUnderMasks:
    """A round's sum: a cohort that exchanges keys and shares, and what the server adds up.

    Parameters
    ----------
    how : SecureSum
    fixed : stage
        That which made whole numbers: its ``bits`` and ``step`` are read.
    places : (n,) int array
        The cohort's, in the federation.
    at : At
    lost : (l,) int array
        Further devices that exchange keys, and of which no numbers come: too late, or out of reach.
    through : callable
        What makes the exchange, as `SecureExchange` does of its first three parameters.

    Attributes
    ----------
    exchange : SecureExchange
    absent : (b,) int array
        Devices of the federation that drop out before they send.
    count : int
        Devices that exchange keys.

    Raises
    ------
    ThresholdError
        If the cohort is too small.
    """

    def __init__(
        self,
        how: SecureSum,
        fixed: Any,
        places: Places,
        at: At,
        lost: Sequence[int] = (),
        through: Callable[..., Any] = SecureExchange,
    ) -> None:
        require(fixed, "the stage that makes whole numbers", "bits", "step")
        sure, draw = len(places), generator(at.seed, Purpose.SECURE_SUM, round=at.round)
        count = sure + len(lost)
        near, threshold = how.among(count)
        order, drops = draw.permutation(count).tolist(), draw.permutation(sure)
        before, after, _ = np.split(drops, np.rint(np.cumsum(how.drops) * sure).astype(int))
        self.exchange: Any = through(ring(count, near, order), threshold, (fixed.bits, 64))
        self._least = getattr(fixed, "survivors", 0)
        self.fixed, self.absent, self._after = fixed, places[before], after.tolist()
        self._at = {place: at for at, place in enumerate([*places.tolist(), *lost])}
        self.count = count
        self._widths, self._told = dict[str, int](), list[str]()
        self._coded: Any = {}

    def add(self, sent: Updates, told: Mapping[str, F64]) -> None:
        """Let devices mask and send their whole numbers, and others that they tell, (m,) each.

        Raises
        ------
        ValueError
            See `whole_words`. Nothing has been sent then.
        """
        rows = whole_words(self.fixed, sent, told, self.count)
        self.expect(sent, told)
        for place, words in zip(sent.places.tolist(), rows, strict=True):
            self.exchange.send(self._at[place], words)

    def expect(self, sent: Updates, told: Iterable[str]) -> None:
        """Take note of the form of what devices send and tell, by which `done` reads their sum."""
        self._widths, self._told = {n: b.shape[1] for n, b in sent.blocks.items()}, list(told)
        self._coded = sent.coded

    @property
    def gone(self) -> list[int]:
        """Devices that drop out after they sent, as places in the cohort."""
        return [*self._after, *self.exchange.silent]

    @property
    def counts(self) -> list[int]:
        """How many numbers each device sends, and tells."""
        return [sum(self._widths.values()), len(self._told)]

    def done(self) -> tuple[dict[str, F64], dict[str, float]]:
        """Return the sums of blocks and of what was told.

        Raises
        ------
        ThresholdError
            If too few devices are left.
        """
        if (came := len(self.exchange.server.came)) < self._least:
            raise ThresholdError(f"noise counts on {self._least} devices, and {came} sent theirs")
        words, told = self.exchange.finish(self._after)
        spare = 32 - self.fixed.bits
        total = ((words << np.uint32(spare)).view(np.int32) >> spare) * self.fixed.step
        parts = np.split(total, np.cumsum([*self._widths.values()], dtype=np.intp))
        sums = dict(zip(self._widths, parts, strict=False))  # the last part is empty
        for name, readers in self._coded.items():
            for read in reversed(readers):
                sums[name] = read(sums[name])
        return sums, dict(zip(self._told, from_words(told).tolist(), strict=True))

    def nbytes(self, places: Places) -> I64:
        """Return the bytes of all messages from and to devices of the federation, (m,)."""
        sizes: I64 = self.exchange.ledger.of_devices()
        return sizes[[self._at[place] for place in places.tolist()]]


def largest_told(count: int) -> float:
    """Return the largest number that each of a cohort may tell, so that no sum of them wraps."""
    return 2.0 ** (62 - FRACTION) / count


def told_of(sent: Updates, averaged: Iterable[str], count: int) -> dict[str, F64]:
    """Return what each of a cohort of `count` devices tells under masks besides its blocks."""
    rows, loss = (np.asarray(sent.stats[name], np.float64) for name in ("rows", "loss"))
    means = {n: np.asarray(sent.stats[n] * sent.weights_of(n), np.float64) for n in averaged}
    told = rows, np.minimum(rows * loss, largest_told(count))
    return dict(zip(TOLD, told, strict=True)) | means


def whole_words(
    fixed: Any, sent: Updates, told: Mapping[str, F64], count: int
) -> Iterator[list[NDArray[np.unsignedinteger[Any]]]]:
    """Return, of each device, its whole numbers and what it tells, as words that can be masked.

    Parameters
    ----------
    fixed : stage
        That which made whole numbers.
    sent : Updates
    told : mapping of str to (m,) arrays
    count : int
        Devices of the cohort.

    Raises
    ------
    ValueError
        If a number isn't whole, or the sum could wrap: each device may fill half of the range
        by its weight, and 1/n of the other half.
    """
    room = 2.0 ** (fixed.bits - 2) * (sent.weights + 1 / count)
    for name, block in sent.blocks.items():
        over = np.flatnonzero(np.abs(block).max(axis=1, initial=0.0) >= room)
        if over.size or (block != np.rint(block)).any():
            raise ValueError(
                f"{name!r} of the device at place {sent.places[[*over, 0][0]]} holds numbers "
                f"that aren't whole, or don't fit {fixed}, so that the sum could wrap; "
                "put a ClipNorm in front of it, or raise its limit"
            )
    numbers = np.column_stack(list(told.values()))
    if not (np.abs(numbers) <= largest_told(count)).all():
        raise ValueError(f"{', '.join(told)} of some devices are too large for a secure sum")
    blocks = sent.blocks.values()
    each = (np.concatenate([[], *(b[row] for b in blocks)]) for row in range(len(sent)))
    words = (whole.astype(np.int64).astype(np.uint32) for whole in each)
    return ([word, to_words(n)] for word, n in zip(words, numbers, strict=True))
