"""A noisy total under masks: the counts, the noise of one release, and the privacy claimed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fedlab import Device, VectorIndex
from fedlab.privacy.release_total import share_of_noise
from fedlab.search.private import (
    Budget,
    BudgetError,
    Gaussian,
    Laplace,
    Session,
    release_counts,
    release_total_counts,
)


def wards(count: int, classes: int = 3) -> list[Device]:
    devices = []
    for place in range(count):
        index = VectorIndex(1, "l2sq")
        labels = np.arange(place + 10) % classes
        index.add(np.zeros((len(labels), 1)), labels=labels)
        devices.append(Device(place, index))
    return devices


def distribution(width: float, devices: int) -> NDArray[np.float64]:
    """Probabilities of the sum of discrete Gaussians, by convolution of their closed form."""
    whole = np.arange(-math.ceil(14 * width), math.ceil(14 * width) + 1)
    one = np.exp(-(whole**2) / (2 * width**2))
    one /= one.sum()
    total = one
    for _ in range(devices - 1):
        total = np.convolve(total, one)
    return total


@pytest.mark.parametrize("devices", [1, 2, 10, 50])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.3, 1e-6), (1.0, 1e-5), (4.0, 1e-4)])
def test_the_sum_of_all_noise_is_as_private_as_is_claimed(
    devices: int, epsilon: float, delta: float
) -> None:
    """Measured on the exact distribution: by Renyi divergence of many orders, and as delta."""
    mechanism = Gaussian(epsilon, delta)
    width = float(share_of_noise(mechanism, devices, 1))
    here = distribution(width, devices)
    there = np.roll(here, 1)  # the count is one higher; the ends are below 1e-40
    seen = (here > 1e-30) & (there > 1e-30)
    p, q = here[seen], there[seen]
    for order in (1.5, 2, 4, 8):
        divergence = math.log(np.sum(p**order * q ** (1 - order))) / (order - 1)
        assert divergence <= order * mechanism.rho * (1 + 1e-6)
    lost = np.maximum(here - math.exp(epsilon) * there, 0).sum()
    assert lost <= delta
    # Control: a width that is no longer enough has more than rho. A step of 1/16 is the grain.
    if width > 1:
        thin = distribution(0.8 * width, devices)
        shifted = np.roll(thin, 1)
        both = (thin > 1e-30) & (shifted > 1e-30)
        assert math.log(np.sum(thin[both] ** 2 / shifted[both])) > 2 * mechanism.rho


def test_more_classes_never_need_less_noise() -> None:
    mechanism = Gaussian(1.0, 1e-6)
    widths = [share_of_noise(mechanism, 100, classes) for classes in (1, 10, 1000, 100_000)]
    assert widths == sorted(widths)


def test_the_total_is_the_counts_and_the_noise() -> None:
    devices, mechanism, classes = wards(20, classes=2), Gaussian(2.0, 1e-6), range(1000)
    exact = np.zeros(1000, np.int64)
    for device in devices:
        exact[:2] += [device.class_counts()[label] for label in (0, 1)]
    found = release_total_counts(devices, classes, mechanism)
    drawn = found.counts - exact
    assert np.abs(drawn[:2]).max() < 6 * found.sigma
    assert abs(drawn.mean()) < 5 * found.sigma / math.sqrt(1000)
    low, high = stats.chi2(1000).ppf([1e-7, 1 - 1e-7])
    assert low < (drawn**2).sum() / found.sigma**2 < high
    # Each device's own release would take so much that the total has nearly sqrt(20) times this.
    assert found.sigma < 0.4 * float(mechanism.sigma(1)) * math.sqrt(20)
    assert found.ledger.bytes == 20 * 1000 * 8


def test_totals_below_zero_come_back_so() -> None:
    devices = [Device(place, VectorIndex(1)) for place in range(5)]
    found = release_total_counts(devices, range(200), Gaussian(0.5, 1e-6), seed=0)
    assert found.counts.min() < 0 < found.counts.max()
    again = release_total_counts(devices, range(200), Gaussian(0.5, 1e-6), seed=0)
    assert (found.counts == again.counts).all()
    assert (release_counts(devices[0], range(200), Gaussian(0.5, 1e-6), seed=0) != 0).any()


def test_noise_without_the_colluding_is_enough() -> None:
    mechanism = Gaussian(1.0, 1e-6)
    devices = wards(10)
    some = release_total_counts(devices, [0], mechanism, colluding=6)
    none = release_total_counts(devices, [0], mechanism)
    assert some.sigma * math.sqrt(4 / 10) >= float(mechanism.sigma(1)) * 0.95
    assert some.sigma > none.sigma


def test_refusals() -> None:
    devices, mechanism = wards(3), Gaussian(1.0, 1e-6)
    with pytest.raises(ValueError, match="colluding is 2"):
        release_total_counts(devices, [0], mechanism, colluding=2)
    with pytest.raises(ValueError, match="other devices"):
        release_total_counts(devices, [0], mechanism, session=Session(["a", "b", "c"]))
    with pytest.raises(ValueError, match="each once"):
        release_total_counts(devices, [0, 0], mechanism)
    with pytest.raises(TypeError, match=r"mechanism is Laplace\(.*a total takes Gaussian"):
        release_total_counts(devices, [0], Laplace(1.0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"budget is 1\.0"):
        release_total_counts(devices, [0], mechanism, budget=1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="device 0 alone was given"):
        release_total_counts(devices[0], [0], mechanism)  # type: ignore[arg-type]
    budget = Budget(epsilon=0.5, delta=1e-6)
    with pytest.raises(BudgetError, match="total class counts of 3 devices"):
        release_total_counts(devices, [0], mechanism, budget=budget)
    assert not budget.spent
