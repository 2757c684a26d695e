"""Trials of a search: federations that can be paused, in brackets, within one budget."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedlab.core.typing import F64
from fedlab.core.validation import of_kind
from fedlab.federation.federation import Federation
from fedlab.privacy.mechanisms import Budget, Laplace
from fedlab.study.judging import Unfit, Validators, share
from fedlab.study.points import Point

#: Rungs: how many trials, and the rounds that they reach.
Bracket = tuple[tuple[int, int], ...]
_BYTES = ("bytes_up", "bytes_down")


def brackets(
    way: str, rounds: int, each: int, eta: int = 3, points: int = 1 << 32
) -> list[Bracket]:
    """Return what is trained how far within a budget.

    Those that go on from one rung to the next aren't trained again, so a bracket costs
    sum_i n_i (r_i - r_(i-1)) rounds. Hyperband's brackets follow one another, and begin again,
    while one fits; of the last one, as many trials as fit. Successive halving takes as many trials
    as fit into its one bracket, the boldest. No bracket has more trials than there are points.

    Sources: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter
    optimization", AISTATS 2016; Li et al., "Hyperband: a novel bandit-based approach to
    hyperparameter optimization", JMLR 18, 2018, algorithm 1.

    Examples
    --------
    >>> brackets("hyperband", rounds=81, each=9)
    [((9, 1), (3, 3), (1, 9)), ((5, 3), (1, 9)), ((3, 9),), ((4, 1), (1, 3), (1, 9))]
    """
    most = int(math.log(each, eta) + 1e-9) if way in ("halving", "hyperband") else 0
    limit = {"halving": 1, "grid": points, "random": points}.get(way, rounds)
    found, left = list[Bracket](), rounds
    while left >= each and len(found) < limit:
        s = most - len(found) % (most + 1)
        bold = -(-(most + 1) * eta**s // (s + 1))
        wanted = {"hyperband": bold, "halving": left}.get(way, 1)
        for count in range(min(wanted, points), 0, -1):
            rungs = [(max(1, count // eta**i), each // eta ** (s - i)) for i in range(s + 1)]
            before = (0, *(reached for _, reached in rungs))
            cost = sum(n * (reached - b) for (n, reached), b in zip(rungs, before, strict=False))
            if cost <= left:  # one trial alone takes `each`
                break
        found, left = [*found, tuple(rungs)], left - cost
    return found


@dataclass(eq=False)
class Trial:
    """A federation at its point; how far the search has trained it, and what was told of it."""

    number: int
    point: Point
    federation: Any = None
    rounds: int = 0
    bytes: float = 0.0
    bytes_judging: int = 0
    judged: int = 0
    value: float = math.nan
    ended: str = ""
    epsilon: float = math.inf

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Note what goes wrong, which ends this trial, and no other one."""
        try:
            yield
        except Unfit:  # and so is any other one
            raise
        except Exception as error:
            self.ended = f"failed: {type(error).__name__}: {error}"


@dataclass(eq=False)
class Trials:
    """Trials that share a budget, each with files of its own in a folder, if there is one."""

    make: Callable[..., Any]
    bytes: float | None
    judges: Validators
    seed: int
    selections: int
    folder: str | os.PathLike[str] | None
    budget: Budget
    trials: list[Trial] = field(default_factory=list)

    def run(self, plan: list[Bracket], pick: Callable[[float | None], Point]) -> None:
        """Go through brackets; the next point may depend on the value that was told last."""
        value: float | None = None
        for bracket in plan:
            if self.spent:
                break
            alive = [self.begin(pick(value)) for _ in range(bracket[0][0])]
            kept = [count for count, _ in bracket[1:]] + [bracket[-1][0]]
            for level, (count, reached) in enumerate(bracket):
                for trial in alive:
                    self.train(trial, reached)
                there = [trial for trial in alive if trial.rounds == reached and not trial.ended]
                alive = self.judge(there, count, kept[level])
            value = alive[0].value if alive else math.nan

    def begin(self, point: Point, **more: Any) -> Trial:
        """Make a trial's federation; what `make` does wrong by itself ends the search."""
        self.trials.append(trial := Trial(len(self.trials), point))
        with trial.failing():
            trial.federation = self.make(**point, **more)
        if not trial.ended:
            of_kind(made := trial.federation, Federation, "what make returned")
            if made.round_number or any(made is one.federation for one in self.trials[:-1]):
                raise ValueError("make gave a used federation; it must make a new one each time")
            self.judges.drawn(made)  # that too few hold rows out is told before anything is trained
        return trial

    @property
    def spent(self) -> bool:
        """Whether no byte is left."""
        used = math.fsum(trial.bytes + trial.bytes_judging for trial in self.trials)
        return self.bytes is not None and used >= self.bytes

    def train(self, trial: Trial, until: int) -> None:
        """Go on until a trial has done so many rounds, unless it fails or the bytes are spent."""
        if trial.ended:
            return
        federation, before = trial.federation, trial.rounds
        path = self.folder and os.path.join(self.folder, f"trial-{trial.number:04d}-{until:06d}")
        if path and os.path.exists(path):  # as it was when it was judged here
            federation.load(path)
            trial.bytes = math.fsum(v for m in _BYTES for _, v in federation.history.points(m))
            trial.rounds = until
        with trial.failing():
            while trial.rounds < until and not self.spent:
                measures = federation.round().measures
                trial.bytes += sum(measures[name] for name in _BYTES)
                trial.rounds += 1
        if not any(before < number for number in federation.took_part()) and before < trial.rounds:
            said = federation.history.remarks().query("round > @before").iloc[0]
            trial.ended = trial.ended or f"failed: no update came; {said.who}: {said.text}"
        if path and trial.rounds == until:
            federation.save(path)

    def judge(self, trials: list[Trial], count: int, kept: int) -> list[Trial]:
        """Return the best of trials that came as far as each other, of `count`, best first."""
        judges, part = self.judges, None
        if judges.epsilon is not None:
            part = share(judges.epsilon, self.selections, count, kept)
            self.budget.spend(Laplace(judges.epsilon / self.selections), f"the best {kept}")
        for trial in trials:
            trial.value = self.asked(trial, part)
            trial.epsilon = part.epsilon if part else math.inf
        left = [trial for trial in trials if not trial.ended]
        left.sort(key=lambda trial: -judges.sign * trial.value)
        for trial in left[kept:]:
            trial.ended, trial.federation = f"dropped after round {trial.rounds}", None
        for trial in left if part and count > 2 * kept else ():
            trial.value = math.nan  # who is best was told, and no value
        return left[:kept]

    def asked(self, trial: Trial, part: Laplace | None) -> float:
        """Return what the judges tell of a trial; NaN where they can't, and why in the trial."""
        at = {"round": trial.rounds, "device": trial.number}
        with trial.failing():
            device = 0 if self.judges.same else trial.number
            values, weights = self.measured(trial, **at | {"device": device})
            if part is not None:
                return self.judges.noisy(values, part, self.seed, **at)
            return float(np.average(values, weights=weights))
        return math.nan

    def measured(self, trial: Trial, **at: int) -> tuple[F64, F64]:
        """Return what each judge measures, and how it counts; they were sent the model for it."""
        values, weights = self.judges.asked(trial.federation, self.seed, **at)
        trial.bytes_judging += len(values) * (trial.federation.state.parameters.nbytes + 16)
        trial.judged = trial.rounds
        return values, weights
