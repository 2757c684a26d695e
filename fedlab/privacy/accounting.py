"""What rounds of Gaussian noise on a sum of clipped updates cost: epsilons, by `dp-accounting`.

A device's update has at most the length S; the sum gets noise N(0, (z S)^2). How far one device
moves the sum, and how likely it takes part, stand in a *sampling*:

    Sampled   each device by itself with one probability; one device more or less moves the sum by S
    Fixed     so many of all devices, without replacement; another device in place of one: 2 S
    Unsampled no chance counts, since the adversary knows who took part, or everybody does
    Shared    as many devices as are sure to be there add the noise, a whole-numbered part each

The same holds of the steps of a device, with rows for devices and gradients for updates.

The accountant comes with the extra `privacy`, and is imported when an epsilon is asked for.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

from fedlab.core.extras import imported
from fedlab.core.typing import F64
from fedlab.core.validation import positive, proportion, share_of_one, shown, whole_number

Accountant = Literal["rdp", "pld"]
Adjacency = Literal["add or remove one device", "replace one device"]
ACCOUNTANTS = ("rdp", "pld")


@dataclass(frozen=True)
class Sampled:
    """Each device takes part by itself with probability `rate`: Poisson sampling."""

    rate: float
    adjacency: ClassVar[Adjacency] = "add or remove one device"

    def __post_init__(self) -> None:
        share_of_one(rate=self.rate)

    def __str__(self) -> str:
        return f"Poisson sampling at a rate of {self.rate:g}"

    def _event(self, dp: Any, z: float, rounds: int) -> tuple[Any, int]:
        return dp.PoissonSampledDpEvent(self.rate, dp.GaussianDpEvent(z)), rounds


@dataclass(frozen=True)
class Fixed:
    """`cohort` of `devices` take part, drawn uniformly without replacement.

    The accountant takes the noise in parts of how far the sum moves, which is 2 S: z / 2.
    """

    cohort: int
    devices: int
    adjacency: ClassVar[Adjacency] = "replace one device"

    def __post_init__(self) -> None:
        whole_number(self.cohort, "cohort", 1, whole_number(self.devices, "devices", 1))

    def __str__(self) -> str:
        return f"{self.cohort} of {self.devices} devices, without replacement"

    def _event(self, dp: Any, z: float, rounds: int) -> tuple[Any, int]:
        noise = dp.GaussianDpEvent(z / 2)
        return dp.SampledWithoutReplacementDpEvent(self.devices, self.cohort, noise), rounds


@dataclass(frozen=True)
class Unsampled:
    """Nothing is gained by sampling: a device is taken to be in every round."""

    adjacency: Adjacency = "replace one device"

    def __str__(self) -> str:
        return "no amplification by sampling"

    def _event(self, dp: Any, z: float, rounds: int) -> tuple[Any, int]:
        moved = 2 if self.adjacency == "replace one device" else 1
        # Gaussians add up: T of them tell as much as one with 1 / sqrt(T) of the noise.
        return dp.GaussianDpEvent(z / moved / math.sqrt(rounds)), 1


@dataclass(frozen=True)
class Shared:
    """No sampling; each of `devices` adds discrete Gaussian noise to `numbers` whole numbers.

    A sum of those is no discrete Gaussian. With s the `deviation` of one, in whole numbers, and
    tau = 10 sum_{k<n} exp(-2 (pi s)^2 k / (k + 1)), its divergence of order alpha is at most
    alpha / 2 (D / (sqrt(n) s) + tau sqrt(d))^2, where D = 2 S is how far one device moves the sum,
    and sqrt(n) s = z S.

    Source: Kairouz, Liu and Steinke, "The distributed discrete Gaussian mechanism for federated
    learning with secure aggregation", ICML 2021, proposition 14.
    """

    devices: int
    deviation: float
    numbers: int
    adjacency: ClassVar[Adjacency] = "replace one device"

    def __post_init__(self) -> None:
        if self.deviation < 0.5:
            raise ValueError(
                f"noise of a device has a deviation of {self.deviation:g} whole numbers, and its "
                "bound takes 1/2; take more bits, or more noise"
            )

    def __str__(self) -> str:
        return f"noise of {self.devices} devices, no amplification by sampling"

    @property
    def tau(self) -> float:
        """How far the sum of noise is from one discrete Gaussian, in each number."""
        rate = 2 * (math.pi * self.deviation) ** 2
        return 10 * math.fsum(math.exp(-rate * k / (k + 1)) for k in range(1, self.devices))

    def _event(self, dp: Any, z: float, rounds: int) -> tuple[Any, int]:
        return dp.ZCDpEvent((2 / z + self.tau * math.sqrt(self.numbers)) ** 2 / 2), rounds


Sampling = Sampled | Fixed | Unsampled | Shared


@lru_cache(maxsize=4096)
def epsilon_of(
    noise_multiplier: float,
    rounds: int,
    sampling: Sampling,
    delta: float,
    accountant: Accountant = "rdp",
) -> float:
    """Return the epsilon of so many rounds.

    Parameters
    ----------
    noise_multiplier : float
        z: the noise's standard deviation in parts of S.
    rounds : int
    sampling : Sampled, Fixed, Unsampled or Shared
    delta : float
    accountant : {"rdp", "pld"}
        Renyi divergences (Mironov, CSF 2017), or the tighter and slower distribution of losses
        (Koskela et al., AISTATS 2020), which fixed cohorts don't have.

    Raises
    ------
    ImportError
        Without the extra `privacy`.

    Examples
    --------
    ::

        epsilon_of(1.0, 100, Sampled(0.1), 1e-5)  # 7.904, and 7.047 by "pld"
    """
    positive(noise_multiplier=noise_multiplier)
    whole_number(rounds, "rounds", 0)
    proportion(delta=delta)
    _refuse_uncovered(sampling, accountant)
    if rounds == 0 or sampling == Sampled(0.0):
        return 0.0
    dp, made = _library(accountant, isinstance(sampling, Fixed))
    event, count = sampling._event(dp, noise_multiplier, rounds)
    if accountant == "pld":
        return float(made().compose(event, count).get_epsilon(delta))
    orders, divergences = _divergences(event, isinstance(sampling, Fixed))
    return float(dp.rdp.compute_epsilon(orders, count * divergences, delta)[0])


@lru_cache(maxsize=256)
def _divergences(event: Any, fixed: bool) -> tuple[F64, F64]:
    """Return orders, and Renyi's divergences of one release, which add up from round to round."""
    _, made = _library("rdp", fixed)
    one = made().compose(event)
    return one.orders, one.rdp


@lru_cache(maxsize=256)
def noise_for(
    epsilon: float, delta: float, rounds: int, sampling: Sampling, accountant: Accountant = "rdp"
) -> float:
    """Return the noise multiplier z with which so many rounds cost at most epsilon.

    Raises
    ------
    ImportError
        Without the extra `privacy`.

    Examples
    --------
    ::

        noise_for(2.0, 1e-5, 100, Sampled(0.1))
    """
    positive(epsilon=epsilon)
    proportion(delta=delta)
    whole_number(rounds, "rounds", 1)
    _refuse_uncovered(sampling, accountant)
    dp, made = _library(accountant, isinstance(sampling, Fixed))

    def event(z: float) -> Any:
        return dp.SelfComposedDpEvent(*sampling._event(dp, z, rounds))

    begin = dp.LowerEndpointAndGuess(0.05, 1.0)
    return float(dp.calibrate_dp_mechanism(made, event, epsilon, delta, begin, tol=1e-4))


def _refuse_uncovered(sampling: Sampling, accountant: str) -> None:
    if not isinstance(sampling, Sampling):
        raise TypeError(f"sampling is {shown(sampling)}; give Sampled(rate), Fixed or Unsampled")
    if accountant not in ACCOUNTANTS:
        raise ValueError(f"accountant is {accountant!r}; choose 'rdp' or 'pld'")
    if isinstance(sampling, Fixed) and accountant == "pld":
        raise ValueError(
            "accountant='pld' was given with a fixed cohort, which it does not cover; take 'rdp', "
            "or Poisson sampling"
        )


def _library(accountant: str, fixed: bool) -> tuple[Any, Any]:
    dp = imported("dp_accounting", "privacy", "an epsilon")
    logging.getLogger("absl").addFilter(_is_news)
    kind = dp.rdp.RdpAccountant if accountant == "rdp" else dp.pld.PLDAccountant
    # `Unsampled` has doubled how far the sum moves by itself.
    relations = dp.NeighboringRelation
    relation = relations.REPLACE_ONE if fixed else relations.ADD_OR_REMOVE_ONE
    return dp, lambda: kind(neighboring_relation=relation)


def _is_news(record: logging.LogRecord) -> bool:
    """Orders that the accountant leaves out make an epsilon larger, never smaller: no news."""
    return "Excluding this order" not in record.getMessage()
