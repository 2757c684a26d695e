"""Attacks on what devices send: the first stage of a chain, in simulations.

Who attacks is fixed for a run: named devices, or a share of all, drawn by the run's seed, the same
ones for all attacks and for poisoned data (`fedlab.device.poison`). Attackers train like the
others, and then send something else, in all blocks; the numbers that they tell, such as their rows,
stay true. An attack that knows what honest devices send sees the whole cohort at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import Array, Places
from fedlab.core.validation import not_negative
from fedlab.device.device import Device
from fedlab.device.poison import Who, attackers, refuse_strangers
from fedlab.device.states import DeviceStates
from fedlab.updates.robust import apart, mean
from fedlab.updates.sent import Updates
from fedlab.updates.stages import At, Rowwise, squares_of

Blocks = dict[str, Array]


@dataclass(frozen=True)
class Forgery(Rowwise):
    """What attacks share: a subclass says what attackers send instead of their updates.

    Parameters
    ----------
    who : float, or collection of ids
        A share of all devices of the federation, or which ones.
    """

    who: Who

    #: Whether it sees what the honest devices of a cohort send.
    whole: ClassVar[bool] = False
    #: A clip, or feedback, in front of it would act on honest devices alone.
    needs: ClassVar[frozenset[str]] = frozenset({"rows", "fresh"})

    def __post_init__(self) -> None:
        refuse_strangers(self.who)
        settings = {part.name: getattr(self, part.name) for part in fields(self)[1:]}
        not_negative(**{name: value for name, value in settings.items() if value is not None})

    def check(self, devices: Iterable[Device]) -> None:
        """Refuse devices among which those named are not."""
        refuse_strangers(self.who, devices)

    def apply(
        self, state: Any, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Updates, Any, DeviceStates]:
        bad = attackers(at.devices, sent.places, self.who, at.seed)
        if not bad.any():
            return sent, state, kept
        # A cohort of attackers only looks at what it would have sent.
        honest = {n: block if bad.all() else block[~bad] for n, block in sent.blocks.items()}
        mine = {name: block[bad] for name, block in sent.blocks.items()}
        forged = self.forged(honest, mine, sent.places[bad], at)
        blocks = {name: block.copy() for name, block in sent.blocks.items()}
        for name, block in blocks.items():
            block[bad] = forged[name]
        return sent.with_blocks(**blocks), state, kept

    def forged(self, honest: Blocks, mine: Blocks, places: Places, at: At) -> Blocks:
        """Return what attackers send by block, (a, n), or (n,) where all send the same.

        Parameters
        ----------
        honest, mine : dict of arrays
            What honest devices send, and what the attackers would.
        places : (a,) int array
            Of the attackers, in the federation.
        at : At
        """
        raise NotImplementedError


@dataclass(frozen=True)
class SignFlip(Forgery):
    """Attackers send minus their updates, times `scale`.

    Parameters
    ----------
    who
        See `Forgery`.
    scale : float

    Source: Li et al., "RSA: Byzantine-robust stochastic aggregation methods", AAAI 2019.
    """

    scale: float = 1.0

    def forged(self, honest: Blocks, mine: Blocks, places: Places, at: At) -> Blocks:
        return {name: -self.scale * block for name, block in mine.items()}


@dataclass(frozen=True)
class GaussianAttack(Forgery):
    """Attackers send noise: N(0, (std t^-decay)^2) in round t.

    Parameters
    ----------
    who
        See `Forgery`.
    std, decay : float

    Source: Blanchard et al., NeurIPS 2017, section 5.
    """

    std: float = 1.0
    decay: float = 0.0

    def forged(self, honest: Blocks, mine: Blocks, places: Places, at: At) -> Blocks:
        std, forged = (
            self.std * at.round**-self.decay,
            {n: np.empty_like(b) for n, b in mine.items()},
        )
        for row, place in enumerate(places.tolist()):
            draw = generator(at.seed, Purpose.BYZANTINE, round=at.round, device=place)
            for block in forged.values():
                block[row] = std * draw.standard_normal(block.shape[1])
        return forged


@dataclass(frozen=True)
class FreeRider(GaussianAttack):
    """Attackers send back the model that they got, in disguise if `std` is positive.

    Parameters
    ----------
    who, std, decay
        See `GaussianAttack`.

    Source: Fraboni, Vidal and Lorenzi, "Free-rider attacks on model aggregation in federated
    learning", AISTATS 2021.
    """

    std: float = 0.0
    decay: float = 1.0


@dataclass(frozen=True)
class IPM(Forgery):
    """Inner product manipulation: all attackers send -tau times the honest updates' mean.

    Parameters
    ----------
    who
        See `Forgery`.
    tau : float

    Source: Xie, Koyejo and Gupta, "Fall of empires: breaking Byzantine-tolerant SGD by inner
    product manipulation", UAI 2020.
    """

    tau: float = 1.1

    whole: ClassVar[bool] = True

    def forged(self, honest: Blocks, mine: Blocks, places: Places, at: At) -> Blocks:
        return {name: -self.tau * mean(block) for name, block in honest.items()}


@dataclass(frozen=True)
class ALIE(Forgery):
    """A little is enough: all attackers send the honest mean plus z standard deviations.

    Parameters
    ----------
    who
        See `Forgery`.
    z : float, optional
        By default the most at which enough honest devices lie still further away to vouch for it
        (see `z_max`).

    Source: Baruch, Baruch and Goldberg, "A little is enough: circumventing defenses for distributed
    learning", NeurIPS 2019, algorithm 3.
    """

    z: float | None = None

    whole: ClassVar[bool] = True

    def forged(self, honest: Blocks, mine: Blocks, places: Places, at: At) -> Blocks:
        among = len(next(iter(honest.values())))
        z = z_max(among + len(places), len(places)) if self.z is None else self.z
        return {name: mean(block) + z * _std(block) for name, block in honest.items()}


def z_max(devices: int, attackers: int) -> float:
    """Return Phi^-1((n - m - s) / (n - m)) with s = floor(n/2 + 1) - m; 0 where it is below.

    Examples
    --------
    >>> round(z_max(25, 5), 4), round(z_max(50, 24), 4)
    (0.2533, 1.4261)
    """
    honest = devices - attackers
    supporters = max(devices // 2 + 1 - attackers, 1)
    return NormalDist().inv_cdf(max((honest - supporters) / honest, 0.5))


@dataclass(frozen=True)
class MinMax(Forgery):
    """As far against the honest mean as no farther from any honest device than two of those are.

    All attackers send mean - gamma * std with the largest such gamma, over all blocks.

    Parameters
    ----------
    who
        See `Forgery`.

    Source: Shejwalkar and Houmansadr, "Manipulating the Byzantine: optimizing model poisoning
    attacks and defenses for federated learning", NDSS 2021, section IV (with the standard
    deviation).
    """

    whole: ClassVar[bool] = True

    def forged(self, honest: Blocks, mine: Blocks, places: Places, at: At) -> Blocks:
        means = {name: mean(block) for name, block in honest.items()}
        stds = {name: _std(block) for name, block in honest.items()}
        # |mean - g_i - gamma std|^2 <= D is a quadratic in gamma for each i; the least root holds.
        a = sum(float(std @ std) for std in stds.values())
        away = {name: means[name] - block for name, block in honest.items()}
        b = sum((each @ stds[name] for name, each in away.items()), np.zeros(1))
        c = squares_of(away.values(), len(b)) - apart(honest.values()).max()
        gamma = np.min((b + np.sqrt(np.maximum(b * b - a * c, 0))) / a) if a else 0.0
        return {name: means[name] - gamma * stds[name] for name in honest}


def _std(block: Array) -> Array:
    return np.asarray(block.std(axis=0, dtype=np.float64, ddof=min(1, len(block) - 1)))
