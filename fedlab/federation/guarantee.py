"""What noise on updates is worth: an epsilon, with all that it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedlab.privacy.accounting import Sampling, epsilon_of
from fedlab.updates import LocalNoise, PrivateMean

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
}


@dataclass(frozen=True)
class Guarantee:
    """An epsilon, and what it means.

    Attributes
    ----------
    epsilon, delta : float
        Spent so far.
    rounds : int
        Releases so far.
    adjacency, adversary, sampling, accountant : str
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
    outside: tuple[str, ...] = OUTSIDE

    def __str__(self) -> str:
        simulated = " (simulated: the noise follows from the seed)" if self.simulated else ""
        return (
            f"epsilon {self.epsilon:.4g} at delta {self.delta:g}{simulated} after {self.rounds} "
            f"rounds, to {self.adjacency} (all of its rows); {self.sampling}; by "
            f"{self.accountant}; against {self.adversary}. "
            f"Outside of it: {'; '.join(self.outside)}"
        )


@dataclass(frozen=True)
class Privacy:
    """How a run's noise is accounted.

    Attributes
    ----------
    part : PrivateMean or LocalNoise
    sampling : Sampled, Fixed or Unsampled
    expected : float
        By what sums are divided.
    """

    part: PrivateMean | LocalNoise
    sampling: Sampling
    expected: float

    def epsilon(self, releases: int) -> float:
        """Return the epsilon of so many rounds."""
        part = self.part
        return epsilon_of(
            part.noise_multiplier, releases, self.sampling, part.delta, part.accountant
        )

    def measures(self, state: Mapping[str, Any]) -> dict[str, float]:
        """Return what the history tells; an epsilon of simulated noise has another name."""
        name = "epsilon_simulated" if self.part.simulated else "epsilon"
        found = {name: self.epsilon(state["releases"])}
        if getattr(self.part, "quantile", None) is not None:
            found["clip"] = state["clip"]
        return found

    def guarantee(self, state: Mapping[str, Any]) -> Guarantee:
        """Return what has been spent, with all that it depends on."""
        return Guarantee(
            self.epsilon(state["releases"]),
            *(self.part.delta, state["releases"], self.sampling.adjacency),
            *(_WHO[getattr(self.part, "adversary", "local")], str(self.sampling)),
            *(f"dp-accounting ({self.part.accountant})", self.part.simulated),
        )

    def ended(self, state: Mapping[str, Any]) -> str | None:
        """Return why no further round may be done, if none may."""
        budget, done = self.part.epsilon, state["releases"]
        if budget is None or (after := self.epsilon(done + 1)) <= budget:
            return None
        return (
            f"the budget is spent: {self.epsilon(done):.4g} of epsilon {budget:g} after {done} "
            f"rounds, and a further one would make it {after:.4g}"
        )
