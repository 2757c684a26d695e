"""Differential privacy of what devices send: noise on the clipped sum, on each update, or shared.

What it costs, and with what it goes together, is worked out when a federation is built: see
`fedlab.federation.accounted`. Noise is a secret, and comes from the operating system; with
``simulated=True`` it follows from the run's seed, for tests and figures, and protects nobody.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, Array
from fedlab.core.validation import known, positive, proportion, whole_number
from fedlab.device.states import DeviceStates
from fedlab.privacy.accounting import ACCOUNTANTS, Accountant
from fedlab.privacy.noise import Source, continuous_gaussian, discrete_gaussian
from fedlab.updates.aggregators import Mean
from fedlab.updates.secure import FixedPoint
from fedlab.updates.sent import Updates
from fedlab.updates.stages import At, Rowwise, shortening, squares_of

#: The block in which devices tell whether their update was within the clip.
WITHIN = "within"


def _source(simulated: bool, at: At, device: int = 0) -> Source:
    if not simulated:
        return os.urandom
    return generator(at.seed, Purpose.SIMULATED_NOISE, round=at.round, device=device).bytes


def _measured(sent: Updates) -> tuple[dict[str, Array], F64]:
    """Return blocks of finite numbers, and how long each device's are together, (m,).

    NaN of one device would be NaN in any sum: who has it sends zeros, and counts as too long.
    """
    squares, blocks = squares_of(sent.blocks.values(), len(sent)), dict(sent.blocks)
    if not (sound := np.isfinite(squares)).all():
        blocks = {name: np.where(sound[:, None], b, 0) for name, b in blocks.items()}
    return blocks, np.sqrt(np.where(sound, squares, np.inf))


def _add_each(
    part: Any, blocks: dict[str, Array], sent: Updates, at: At, noise: Callable[..., Array]
) -> None:
    """Add noise of each device's own to its rows, in place."""
    for row, place in enumerate(sent.places.tolist()):
        source = _source(part.simulated, at, place)
        for name in sorted(blocks):
            blocks[name][row] += noise(blocks[name].shape[1], source)


def check(part: Any, **clip: float) -> None:
    """Refuse settings of noise that are none."""
    positive(**clip, noise_multiplier=part.noise_multiplier)
    proportion(delta=part.delta)
    known(part.accountant, ACCOUNTANTS, "accountant")
    if part.epsilon is not None:
        positive(epsilon=part.epsilon)


@dataclass(frozen=True)
class PrivateMean(Mean):
    """Central differential privacy: the sum of clipped updates, with noise, over a fixed number.

    Each update is shortened to the length S, over all its blocks together and after all stages.
    Their unweighted sum gets N(0, (z S)^2) in each number, and is divided by how many devices are
    *expected*: how many came is a secret, and a round to which nobody came is noise alone. It goes
    with `Poisson`, `AtRandom` or `RoundRobin` and ``weights="uniform"``.

    Parameters
    ----------
    clip : float
        S; with `quantile`, the first one.
    noise_multiplier : float
        z; `fedlab.privacy.accounting.noise_for` finds the one for a target.
    delta : float
        Far below one by the number of devices.
    epsilon : float, optional
        The budget: a run ends before the round that would go beyond it.
    adversary : {"model", "server"}
        Against whom epsilon holds. "model": who sees the model of each round, and neither who took
        part nor the seed from which the cohorts follow. "server": who knows the cohorts too, so
        that sampling counts for nothing, and sees only the noised sum. Nothing here protects from
        a server that reads single updates.
    accountant : {"rdp", "pld"}
    quantile : float, optional
        Let S follow this quantile of the updates' lengths; 0.5 is the median. The count by which it
        does is noised, and z holds for both together.
    clip_rate : float
        How fast S follows.
    count_noise : float, optional
        Standard deviation of the noise on that count, above z / 2; by default a twentieth of the
        expected devices.
    expected : float, optional
        Devices of a round; public. By default those that the rule of selection draws on average.
    simulated : bool
        Draw noise by the run's seed.

    Source: McMahan et al., "Learning differentially private recurrent language models", ICLR 2018,
    algorithm 1; Andrew et al., "Differentially private learning with adaptive clipping", NeurIPS
    2021, algorithm 1 and theorem 1.

    Examples
    --------
    >>> PrivateMean(clip=1.0, noise_multiplier=1.1, delta=1e-5, epsilon=3.0).quantile is None
    True
    """

    clip: float
    noise_multiplier: float
    delta: float
    epsilon: float | None = None
    adversary: Literal["model", "server"] = "model"
    accountant: Accountant = "rdp"
    quantile: float | None = None
    clip_rate: float = 0.2
    count_noise: float | None = None
    expected: float | None = None
    simulated: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"rows", "linear"})
    #: Nobody is enough, since noise alone is a release.
    least: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check(self, clip=self.clip)
        known(self.adversary, ("model", "server"), "adversary")
        positive(clip_rate=self.clip_rate)
        if self.quantile is not None:
            proportion(quantile=self.quantile)
        for name in ("count_noise", "expected"):
            if (given := getattr(self, name)) is not None:
                positive(**{name: given})

    def done(self, held: F64, share: float) -> F64:
        raise TypeError("PrivateMean gives no sum without noise; see PrivateMean.release")

    def counting(self, expected: float) -> tuple[float, float]:
        """Return the noise of the count, and z of the updates that leaves z for both.

        Raises
        ------
        ValueError
            If the count alone would tell more than z allows.
        """
        z = self.noise_multiplier
        if self.quantile is None:
            return 0.0, z
        count = expected / 20 if self.count_noise is None else self.count_noise
        if 2 * count <= z:
            raise ValueError(
                f"the count for quantile={self.quantile} has noise {count:g}, and must have more "
                f"than noise_multiplier / 2 = {z / 2:g}; give a larger count_noise, or a fixed clip"
            )
        return count, (z**-2 - (2 * count) ** -2) ** -0.5

    def bounded(self, clip: float, sent: Updates) -> Updates:
        """Return updates whose weighted sum no device moves by more than the clip.

        Raises
        ------
        ValueError
            If single blocks have weights of their own.
        """
        if sent.weighed:
            raise ValueError(f"PrivateMean weighs all alike; {list(sent.weighed)} have weights")
        blocks, lengths = _measured(sent)
        sent = replace(sent, blocks=blocks, weights=shortening(lengths, clip))
        if self.quantile is None:
            return sent
        whole = np.ones(len(sent))
        return replace(
            sent,
            blocks={**blocks, WITHIN: np.where(lengths <= clip, 0.5, -0.5)[:, None]},
            weighed={WITHIN: whole},
            sizes={**sent.sizes, WITHIN: whole.astype(np.int64)},
        )

    def release(
        self, clip: float, sums: Mapping[str, F64], expected: float, at: At
    ) -> tuple[dict[str, F64], float]:
        """Return each block's noised mean, and the next clip."""
        count, z = self.counting(expected)
        source, means = _source(self.simulated, at), dict[str, F64]()
        for name in sorted(sums):
            width = count if name == WITHIN else z * clip
            noise = continuous_gaussian(width, len(sums[name]), source)
            means[name] = (sums[name] + noise) / expected
        if self.quantile is not None:
            within = float(means.pop(WITHIN)[0]) + 0.5
            clip *= math.exp(-self.clip_rate * (within - self.quantile))
        return means, clip


@dataclass(frozen=True)
class LocalNoise(Rowwise):
    """Local differential privacy: each device shortens its update to S, and adds N(0, (z S)^2).

    The server may read all that is sent: stages and aggregators behind this one change nothing
    about the guarantee, which holds for each device by itself, whatever it is replaced by. Noise of
    a device is as large as `PrivateMean` takes for the whole sum.

    Parameters
    ----------
    clip, noise_multiplier, delta, epsilon, accountant, simulated
        See `PrivateMean`. One update may move by 2 S: epsilon is that of z / 2, and of every round,
        as if the device took part in each.

    Source: Kasiviswanathan et al., "What can we learn privately?", SIAM J. Comput. 2011; Dwork and
    Roth, "The algorithmic foundations of differential privacy", 2014, theorem 3.22.

    Examples
    --------
    >>> sent = Updates(np.zeros(1, int), {"change": np.array([[3.0, 4.0]])}, np.ones(1), {})
    >>> noised, _, _ = LocalNoise(1.0, 5.0, delta=1e-5).apply({}, sent, DeviceStates(), At(0, 1))
    >>> noised.blocks["change"].shape
    (1, 2)
    """

    clip: float
    noise_multiplier: float
    delta: float
    epsilon: float | None = None
    accountant: Accountant = "rdp"
    simulated: bool = False

    takes: ClassVar[frozenset[str]] = frozenset({"integer"})

    def __post_init__(self) -> None:
        check(self, clip=self.clip)

    def apply(
        self, state: Any, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Updates, Any, DeviceStates]:
        blocks, lengths = _measured(sent)
        factors = shortening(lengths, self.clip)[:, None]
        blocks = {name: block * factors for name, block in blocks.items()}
        noise = partial(continuous_gaussian, self.noise_multiplier * self.clip)
        _add_each(self, blocks, sent, at, noise)
        narrow = {name: block.astype(sent.blocks[name].dtype) for name, block in blocks.items()}
        return replace(sent, blocks=narrow, sizes={}), state, kept


@dataclass(frozen=True)
class DistributedNoise(Rowwise):
    """Devices share the noise of a secure sum: each adds its part, and none sees the whole.

    Each shortens its update to the length S, weighs it, cuts it to whole numbers of steps towards
    zero, so that none gets longer, and adds discrete Gaussian noise. `SecureSum` follows. The parts
    of `survivors` less `colluders` devices have the standard deviation z S together, and a round to
    which fewer came is given up; who comes besides adds noise that is not counted. So noise is that
    of `PrivateMean` against a server that is not trusted, and for each device a fraction of what
    `LocalNoise` takes. It goes with ``weights="uniform"``.

    Parameters
    ----------
    clip, noise_multiplier, delta, epsilon, simulated
        See `PrivateMean`. As the server knows the cohort, and sees sums in which one device may
        move by 2 S, epsilon is that of z / 2, without amplification by sampling.
    survivors : int
        Fewest devices of a round that send their numbers.
    colluders : int
        Devices that may tell the server their noise, and the shares that they hold.
    bits : int
        In which sums are taken, and numbers travel: 8 ... 30. Half of their range holds S and
        twelve standard deviations of each device's noise, which are passed once in 10^31 numbers: a
        round in which they are stops the run.

    Source: Kairouz, Liu and Steinke, "The distributed discrete Gaussian mechanism for federated
    learning with secure aggregation", ICML 2021, algorithms 1 and 2, without their rotation and
    their rounding at random, which save bits.

    Examples
    --------
    >>> part = DistributedNoise(1.0, 2.0, delta=1e-5, survivors=80, colluders=16)
    >>> sent = Updates(np.zeros(1, int), {"change": np.array([[3.0, 4.0]])}, np.ones(1) / 100, {})
    >>> noised, _, _ = part.apply({}, sent, DeviceStates(), At(0, 1))
    >>> (noised.blocks["change"] % 1 == 0).all(), round(100 * part.step * part.deviation(0.01), 3)
    (np.True_, 0.25)
    """

    clip: float
    noise_multiplier: float
    delta: float
    survivors: int
    colluders: int = 0
    epsilon: float | None = None
    bits: int = 24
    simulated: bool = False

    gives: ClassVar[frozenset[str]] = frozenset({"integer"})
    takes: ClassVar[frozenset[str]] = frozenset({"linear"})
    accountant: ClassVar[Accountant] = "rdp"

    def __post_init__(self) -> None:
        check(self, clip=self.clip)
        whole_number(self.survivors, "survivors", 1)
        whole_number(self.colluders, "colluders", 0, self.survivors - 1)
        whole_number(self.bits, "bits", 8, 30)

    @property
    def adversary(self) -> str:
        """Against whom epsilon holds."""
        return (
            f"a server that knows the cohorts, and sees sums of masked updates, with up to "
            f"{self.colluders} devices colluding; sums of rows and losses are outside"
        )

    @property
    def honest(self) -> int:
        """How many devices' noise is counted on."""
        return self.survivors - self.colluders

    @property
    def step(self) -> float:
        """What one stands for: a power of two."""
        limit = self.clip * (1 + 12 * self.noise_multiplier / math.sqrt(self.honest))
        return FixedPoint(limit, self.bits).step

    def deviation(self, weight: float) -> Fraction:
        """Return that of a device's noise, in steps, rounded up to one that is drawn exactly."""
        share = self.noise_multiplier / math.sqrt(self.honest)
        wanted = share * weight * self.clip / self.step
        finest = 16 if wanted <= 255 else 1
        return Fraction(math.ceil(wanted * finest), finest)

    def apply(
        self, state: Any, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Updates, Any, DeviceStates]:
        blocks, lengths = _measured(sent)
        # A billionth shorter, so that what floating point adds makes none longer than the clip.
        factors = shortening(lengths, self.clip * (1 - 1e-9)) * sent.weights / self.step
        blocks = {name: np.trunc(block * factors[:, None]) for name, block in blocks.items()}
        width = self.deviation(float(sent.weights.max(initial=0.0)))
        _add_each(self, blocks, sent, at, partial(discrete_gaussian, width))
        weighed = dict.fromkeys(blocks, np.ones(len(sent)))
        return replace(sent, blocks=blocks, weighed=weighed, sizes={}), state, kept
