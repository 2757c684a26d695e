"""How much noise a release takes, and what may still be released: epsilon, delta and their sums."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

from fedlab.core.typing import I64
from fedlab.core.validation import number
from fedlab.privacy.noise import Source, discrete_gaussian, discrete_laplace

_FINE = 1 << 20  # epsilons are rounded down to a multiple of 1 / _FINE


@dataclass(frozen=True)
class Laplace:
    """Pure privacy: discrete Laplace noise of scale (largest change in absolute sum) / epsilon.

    Examples
    --------
    >>> Laplace(epsilon=1.0).halved()
    Laplace(epsilon=0.5)
    """

    epsilon: float
    delta = 0.0
    norm = 1

    def __post_init__(self) -> None:
        _checked_epsilon(self.epsilon)

    def noise(self, sensitivity: int, size: int, source: Source) -> I64:
        """Return noise for whole numbers of which one row moves the sum by `sensitivity`."""
        epsilon = Fraction(math.floor(self.epsilon * _FINE), _FINE)
        return discrete_laplace(sensitivity / epsilon, size, source)

    def halved(self, times: int = 2) -> Laplace:
        """Return what can be spent so many times."""
        return Laplace(self.epsilon / times)


@dataclass(frozen=True)
class Gaussian:
    """Nearly pure privacy: discrete Gaussian noise, (epsilon, delta)-private.

    Noise of sigma = (largest change in Euclidean length) / sqrt(2 rho) is rho-zero-concentrated
    private (Canonne et al., for many dimensions), and so (epsilon, delta)-private with
    epsilon = rho + 2 sqrt(rho log(1 / delta)) (Bun and Steinke, proposition 1.3).

    Examples
    --------
    >>> round(Gaussian(epsilon=1.0, delta=1e-6).rho, 5)
    0.01747
    """

    epsilon: float
    delta: float
    steps: int = 1
    norm = 2

    def __post_init__(self) -> None:
        _checked_epsilon(self.epsilon)
        if not 0 < self.delta < 1:
            raise ValueError(f"delta is {self.delta}; it must lie between 0 and 1, far below 1 / n")

    @property
    def rho(self) -> float:
        """What all steps together cost, and each of them its share of."""
        logarithm = -math.log(self.delta)
        return (math.sqrt(logarithm + self.epsilon) - math.sqrt(logarithm)) ** 2

    def noise(self, sensitivity: int, size: int, source: Source) -> I64:
        """Return noise for whole numbers of which one row moves the length by `sensitivity`."""
        return discrete_gaussian(self.sigma(sensitivity), size, source)

    def sigma(self, sensitivity: int) -> Fraction:
        """Return the width of one step's noise."""
        # Up by what the square roots above may have lost, then up to what can be sampled.
        sigma = sensitivity / math.sqrt(2 * self.rho / self.steps) * (1 + 1e-9)
        finest = 16 if sigma <= 255 else 1
        return Fraction(math.ceil(sigma * finest), finest)

    def halved(self, times: int = 2) -> Gaussian:
        """Return what can be spent so many times: epsilon and delta are those of all together."""
        return Gaussian(self.epsilon, self.delta, self.steps * times)


Mechanism = Laplace | Gaussian


class BudgetError(ValueError):
    """A release would cost more than is left."""


@dataclass
class Budget:
    """What may still be told of some rows: epsilons and deltas add up, and end.

    Keep one for each set of rows: a device, or several that are always asked together.

    Examples
    --------
    >>> budget = Budget(epsilon=1.0)
    >>> budget.spend(Laplace(0.75), "class counts")
    >>> budget.left
    (0.25, 0.0)
    """

    epsilon: float
    delta: float = 0.0
    spent: list[tuple[str, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, value, most in (("epsilon", self.epsilon, math.inf), ("delta", self.delta, 1.0)):
            if not 0 <= number(value, name) < most:
                raise ValueError(f"{name} is {value!r}; a number of at least 0, below {most:g}")

    @property
    def left(self) -> tuple[float, float]:
        """Epsilon and delta that are left."""
        epsilon = self.epsilon - math.fsum(entry[1] for entry in self.spent)
        return epsilon, self.delta - math.fsum(entry[2] for entry in self.spent)

    def spend(self, mechanism: Mechanism, what: str) -> None:
        """Note a release before it is made.

        Raises
        ------
        BudgetError
            If that is more than is left; nothing is noted then.
        """
        epsilon, delta = self.left
        # Ten tenths add up to a little more than one.
        rounding = 1e-9
        if (
            mechanism.epsilon > epsilon + rounding * self.epsilon
            or mechanism.delta > delta + rounding * self.delta
        ):
            raise BudgetError(
                f"{what} would cost ({mechanism.epsilon}, {mechanism.delta}), and "
                f"({epsilon:.6g}, {delta:.6g}) is left: release it with more noise, or not at all"
            )
        self.spent.append((what, mechanism.epsilon, mechanism.delta))


def _checked_epsilon(epsilon: float) -> None:
    number(epsilon, "epsilon")
    if not 1e-4 <= epsilon <= 1000:
        raise ValueError(f"epsilon is {epsilon}; it must lie in 0.0001 ... 1000")
