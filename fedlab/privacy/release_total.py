"""Class counts over all devices with the noise of a single release: masks and noise together.

Where each device adds all the noise that its own release takes, a sum over D devices carries D
times the variance. Under masks nobody sees a device's part, so a D-th of the variance is enough
from each. A sum of discrete Gaussians is no discrete Gaussian, but near one: Kairouz, Liu and
Steinke, "The distributed discrete Gaussian mechanism for federated learning with secure
aggregation", ICML 2021, say how near, and what that costs.

`NOISY_TOTAL` says what is protected. It costs one masked sum: 8 bytes a class and device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.ledger import Ledger
from fedlab.core.typing import I64, U64
from fedlab.core.validation import require, whole_number
from fedlab.device.compatibility import require_several
from fedlab.device.device import Device
from fedlab.privacy.mechanisms import Budget, Gaussian
from fedlab.privacy.noise import discrete_gaussian
from fedlab.privacy.release import counts_of, require_privacy, source_of
from fedlab.privacy.secure_sum import Session
from fedlab.privacy.threat_model import Protection

NOISY_TOTAL = Protection(
    name="noisy total",
    protects=(
        "each device's counts from everybody, by masks; whether any one row is among all, from "
        "everybody who sees the total"
    ),
    does_not=(
        "hide what many rows have in common; hold against more devices that tell the server their "
        "noise than were allowed for; notice a device that counts falsely or leaves out its noise"
    ),
    assumes="what masked sums and a noisy release assume",
    cost="epsilon and delta; one round, 8 c bytes a device; noise of about a single release",
    source="Kairouz, Liu and Steinke, ICML 2021",
)

_TOTAL = 3  # the purpose of its sum
_PART = 2  # of the address of a seeded draw


@dataclass(frozen=True)
class TotalCounts:
    """Noisy class counts over all devices.

    Attributes
    ----------
    counts : (c,) int64 array
        They may be negative.
    sigma : float
        Standard deviation of the noise in each.
    epsilon, delta : float
        What they cost.
    ledger : Ledger
        What was sent.
    """

    counts: I64
    sigma: float
    epsilon: float
    delta: float
    ledger: Ledger


def share_of_noise(mechanism: Gaussian, devices: int, classes: int) -> Fraction:
    """Return the least width of each device's noise so that that of all together is enough.

    With n devices of width s each, one row that changes one of d counts by one, and u**2 =
    1 / (n s**2), the sum is e**2 / 2 - zero-concentrated private (their proposition 14), where

        e**2 = u**2 + min(2 t d, 2 t u + t**2 d),
        t = 10 sum_{k=1}^{n-1} exp(-2 pi**2 s**2 k / (k + 1)).

    Examples
    --------
    >>> float(share_of_noise(Gaussian(1.0, 1e-6), devices=50, classes=10))
    0.875
    """
    width = Fraction(1, 2)
    while _concentration(float(width), devices, classes) > mechanism.rho / mechanism.steps:
        width += Fraction(1, 16)
    return width


def _concentration(width: float, devices: int, classes: int) -> float:
    """Return e**2 / 2."""
    steps = np.arange(1, devices)
    apart = 10 * float(np.exp(-2 * (math.pi * width) ** 2 * steps / (steps + 1)).sum())
    one = 1 / (width * math.sqrt(devices))
    more = min(2 * apart * classes, 2 * apart * one + apart**2 * classes)
    return (one**2 + more) / 2 * (1 + 1e-9)  # up by what rounding may have lost


def release_total_counts(
    devices: Sequence[Device],
    classes: ArrayLike,
    mechanism: Gaussian,
    *,
    colluding: int = 0,
    session: Session | None = None,
    budget: Budget | None = None,
    seed: int | None = None,
) -> TotalCounts:
    """Return how many rows of each class all devices have together, with noise.

    Parameters
    ----------
    devices : sequence of Device
        Two at least; their rows have labels, and all of them count.
    classes : (c,) array
        Those that are asked for, chosen without looking at the rows. Others are not counted.
    mechanism : Gaussian
    colluding : int
        So many devices may tell the server their noise: that of the others is still enough.
    session : Session, optional
        Keys that these devices have exchanged; by default they do it now.
    budget, seed
        As in `release_counts`.

    Raises
    ------
    MissingDeviceError
        If a device is not there.

    Examples
    --------
    >>> from fedlab import VectorIndex
    >>> devices = [Device(place, VectorIndex(1)) for place in range(50)]
    >>> for device in devices:
    ...     _ = device.index.add(np.ones((100, 1)), labels=np.repeat([0, 1], 50))
    >>> total = release_total_counts(devices, [0, 1, 2], Gaussian(1.0, 1e-6), seed=0)
    >>> total.counts, round(total.sigma, 2)
    (array([2501, 2504,   -6]), 6.19)
    """
    require_several(devices)
    for device in devices:
        require(device, "a device", "id", "labels")
    require_privacy(mechanism, budget)
    if not isinstance(mechanism, Gaussian):
        raise TypeError(
            f"mechanism is {mechanism!r}; a total takes Gaussian(epsilon, delta): only its noise "
            "adds up over devices"
        )
    ids = [device.id for device in devices]
    asked = [counts_of(device, classes) for device in devices]
    whole_number(colluding, "colluding", 0, max(len(devices) - 2, 0))
    session = Session.of(ids, session)
    if budget is not None:
        budget.spend(mechanism, f"total class counts of {len(devices)} devices")
    width = share_of_noise(mechanism, len(devices) - colluding, len(asked[0]))

    def told(place: int) -> U64:
        source = source_of(seed, devices[place], _PART)
        noisy = asked[place] + discrete_gaussian(width, len(asked[place]), source)
        return noisy.view(np.uint64)  # negative numbers stand above 2**63

    total = session.sum(told, _TOTAL)
    ledger = Ledger(ids)
    ledger.note(1, "up", "masked noisy counts", total.nbytes, np.arange(len(ids)))
    sigma = float(width) * math.sqrt(len(devices))
    return TotalCounts(total.view(np.int64), sigma, mechanism.epsilon, mechanism.delta, ledger)
