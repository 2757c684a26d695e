"""What noise on updates is worth: an epsilon, with all that it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from fedlab.core.typing import I64, Places
from fedlab.privacy.accounting import Sampling, epsilon_of

#: What a run shows that no noise covers: it is the experimenter's, and must not be given away.
OUTSIDE = (
    "train_loss, rows, devices, bytes and seconds in the history",
    "measures on rows that devices hold out, and when a run stops by them",
    "remarks, Federation.why, Federation.rounds_that_used, checkpoints",
    "what devices keep for themselves, such as models of their own",
)
_WHO = {
    "model": "who sees the model of each round, and neither the cohorts nor the seed",
    "server": "a server that knows the cohorts, and reads nothing but the noised sum",
    "local": "a server that reads each update; rows, steps and losses that go with it are outside",
    "rows": "who sees all that the device sends, such as the server, and knows all other rows",
}
_ROW = "add or remove one row of a device; how many it has is public"


@dataclass(frozen=True)
class Guarantee:
    """An epsilon, and what it means.

    Attributes
    ----------
    epsilon, delta : float
        Spent so far.
    rounds : int
        Releases so far; of rows, the steps of the device that has done most.
    adjacency, adversary, sampling, accountant, unit : str
    simulated : bool
        Whether the noise follows from the run's seed, so that it protects nobody.
    outside : tuple of str
        What no noise covers.
    """

    epsilon: float
    delta: float
    rounds: int
    adjacency: str
    adversary: str
    sampling: str
    accountant: str
    simulated: bool
    unit: str = "rounds"
    outside: tuple[str, ...] = OUTSIDE

    def __str__(self) -> str:
        simulated = " (simulated: the noise follows from the seed)" if self.simulated else ""
        return (
            f"epsilon {self.epsilon:.4g} at delta {self.delta:g}{simulated} after {self.rounds} "
            f"{self.unit}, to {self.adjacency}; {self.sampling}; by "
            f"{self.accountant}; against {self.adversary}. "
            f"Outside of it: {'; '.join(self.outside)}"
        )


@dataclass(frozen=True)
class Privacy:
    """How a run's noise is accounted.

    Attributes
    ----------
    part : PrivateMean, LocalNoise or DistributedNoise
    sampling : Sampled, Fixed, Unsampled or Shared
    expected : float
        By what sums are divided.
    """

    part: Any
    sampling: Sampling
    expected: float = 0.0

    name: ClassVar[str] = "epsilon"

    def epsilon(self, releases: int) -> float:
        """Return the epsilon of so many rounds."""
        part = self.part
        return epsilon_of(
            part.noise_multiplier, releases, self.sampling, part.delta, part.accountant
        )

    def done(self, state: Mapping[str, Any]) -> int:
        """Return how many there were."""
        return int(state["releases"])

    def measures(self, state: Mapping[str, Any]) -> dict[str, float]:
        """Return what the history tells; an epsilon of simulated noise has another name."""
        name = f"{self.name}_simulated" if self.part.simulated else self.name
        found = {name: self.epsilon(self.done(state))}
        if getattr(self.part, "quantile", None) is not None:
            found["clip"] = state["clip"]
        return found

    def guarantee(self, state: Mapping[str, Any]) -> Guarantee:
        """Return what has been spent, with all that it depends on."""
        who = getattr(self.part, "adversary", "local")
        return Guarantee(
            self.epsilon(self.done(state)),
            *(self.part.delta, self.done(state), self.sampling.adjacency),
            *(_WHO.get(who, who), str(self.sampling)),
            *(f"dp-accounting ({self.part.accountant})", self.part.simulated),
        )

    def ended(self, state: Mapping[str, Any]) -> str | None:
        """Return why no further round may be done, if none may."""
        budget, done = self.part.epsilon, self.done(state)
        if budget is None or (after := self.epsilon(done + 1)) <= budget:
            return None
        return (
            f"the budget is spent: {self.epsilon(done):.4g} of epsilon {budget:g} after {done} "
            f"rounds, and a further one would make it {after:.4g}"
        )


@dataclass(frozen=True)
class RowPrivacy(Privacy):
    """How the noise of `PrivateSGD` is accounted: for each device, over all of its steps.

    The state's ``steps``, (n,), are those of each device, by place.
    """

    name: ClassVar[str] = "epsilon_rows"

    def done(self, state: Mapping[str, Any]) -> int:
        """Return the steps of the device that has done most."""
        return int(state["steps"].max())

    def guarantee(self, state: Mapping[str, Any]) -> Guarantee:
        found = super().guarantee(state)
        return replace(found, adjacency=_ROW, adversary=_WHO["rows"], unit="steps of a device")

    def spent(self, steps: I64, further: int) -> Places:
        """Return the places of devices that can't do so many steps more within their budget."""
        budget = np.inf if self.part.epsilon is None else self.part.epsilon
        for done in np.unique(steps)[::-1].tolist():
            if self.epsilon(done + further) <= budget:
                return np.flatnonzero(steps > done)
        return np.arange(len(steps))
