"""Points that Optuna picks, in generations, so that they don't depend on how fast runs end."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fedlab.core.extras import imported
from fedlab.core.validation import known, whole_number
from fedlab.metrics.evenness import Better
from fedlab.study.points import Range, Space
from fedlab.study.records import latest
from fedlab.study.results import load_runs
from fedlab.study.running import Planned
from fedlab.study.study import Study
from fedlab.study.targets import Runnable
from fedlab.study.watching import Pruning, made


class Tuning(Study):
    """A study whose points are picked by what earlier ones gave.

    A generation is asked for at once, and told in its own order when all of it has ended. So the
    points are the same for any number of workers; and after a kill they are asked for again, and
    told from what is kept.

    Parameters
    ----------
    target : function or Runnable
    folder : path-like
    space : mapping of name to Range or list
        What may be picked.
    trials : int
        Points, each of which runs with all seeds and is judged by their mean.
    metric : str
        The last value of a measure of the server, or a value that the run recorded.
    better : {"higher", "lower"}
    generation : int
        Points that are picked at once.
    sampler, pruner : str or (str, mapping)
        A class of `optuna.samplers` or `optuna.pruners` without its ending, and what it takes:
        ``"TPE"``, ``("Median", {"n_warmup_steps": 3})``. A pruner ends runs that go through
        `watched`.
    seed : int
        The sampler's.
    seeds, inputs
        As of `Study`.

    Raises
    ------
    ImportError
        Without the extra ``tuning``.
    ValueError
        If there is no such sampler or pruner.
    """

    def __init__(
        self,
        target: Runnable | Callable[..., Any],
        folder: str | os.PathLike[str],
        space: Space,
        *,
        trials: int,
        metric: str,
        better: Better = "higher",
        generation: int = 8,
        sampler: str | tuple[str, Mapping[str, Any]] = "TPE",
        pruner: str | tuple[str, Mapping[str, Any]] = "Nop",
        seed: int = 0,
        seeds: Iterable[int] | None = None,
        inputs: Iterable[str | os.PathLike[str]] | None = None,
    ) -> None:
        self._optuna: Any = imported("optuna", "tuning", "a study that tunes")
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        self._space = {name: distribution(self._optuna, given) for name, given in space.items()}
        self._trials = whole_number(trials, "trials", 1)
        self._generation = whole_number(generation, "generation", 1)
        up = known(better, ("higher", "lower"), "way to be better") == "higher"
        self._metric, self._direction = metric, "maximize" if up else "minimize"
        self._sampler = _named(sampler, {"seed": seed})
        self._pruner = _named(pruner, {})
        made(self._optuna.pruners, self._pruner[0], "Pruner", self._pruner[1])
        # One of each, so that a name or a value that doesn't fit is refused before anything runs.
        first = self._new_study().ask(self._space).params
        super().__init__(target, folder, [first], seeds=seeds, inputs=inputs)

    @property
    def runs(self) -> tuple[Planned, ...]:
        """The runs that are known by now: of all generations that ended, and of the next."""
        found: dict[str, Planned] = {}
        for generation in self.generations():
            found |= {one.id: one for one in generation}
            if not self._finished(generation):
                break
        return tuple(found.values())

    def generations(self) -> Iterator[list[Planned]]:
        """Yield the runs of each generation; when the next is asked for, they have ended."""
        study, left = self._new_study(), self._trials
        before: dict[int, list[Mapping[int, float]]] = {}
        while left > 0:
            trials = [study.ask(self._space) for _ in range(min(left, self._generation))]
            left -= len(trials)
            groups = [self._with_seeds(trial.params, before) for trial in trials]
            yield [one for group in groups for one in group]
            values, curves = self._measured([one.id for group in groups for one in group])
            for trial, group in zip(trials, groups, strict=True):
                found = [values.get(one.id, math.nan) for one in group]
                for place, one in enumerate(group):
                    if curve := curves.get(one.id):
                        before.setdefault(place, []).append(curve)
                mean = math.fsum(found) / len(found)
                failed = not math.isfinite(mean)
                state = self._optuna.trial.TrialState.FAIL if failed else None
                study.tell(trial, None if failed else mean, state=state)

    def _with_seeds(
        self, point: Mapping[str, Any], before: Mapping[int, list[Mapping[int, float]]]
    ) -> list[Planned]:
        runs = [self._planned(point, seed) for seed in self._each_seed()]
        if self._pruner[0] == "Nop":
            return runs
        about = (*self._pruner, self._metric, self._direction)
        pruning = [Pruning(*about, tuple(before.get(place, ()))) for place in range(len(runs))]
        return [Planned(one.id, one.parameters, by) for one, by in zip(runs, pruning, strict=True)]

    def _measured(self, ids: list[str]) -> tuple[dict[str, float], dict[str, dict[int, float]]]:
        """Return the metric of runs at their ends, and by round."""
        frame = load_runs(self.folder, ids)
        ours = frame[(frame.metric == self._metric) & frame.who.isin(["run", "server"])]
        ends = ours.sort_values("round", na_position="last").drop_duplicates("run", keep="last")
        values = dict(zip(ends.run, ends.value, strict=True))
        rounds = ours[ours["round"].notna()]
        curves: dict[str, dict[int, float]] = {}
        for run, number, value in zip(rounds.run, rounds["round"], rounds.value, strict=True):
            curves.setdefault(str(run), {})[int(number)] = float(value)
        return values, curves

    def _finished(self, generation: list[Planned]) -> bool:
        kept = latest(self.folder)
        return all(one.id in kept for one in generation)

    def _new_study(self) -> Any:
        sampler = made(self._optuna.samplers, self._sampler[0], "Sampler", self._sampler[1])
        return self._optuna.create_study(direction=self._direction, sampler=sampler)


def _named(
    given: str | tuple[str, Mapping[str, Any]], more: Mapping[str, Any]
) -> tuple[str, Mapping[str, Any]]:
    name, settings = (given, {}) if isinstance(given, str) else given
    return name, {**more, **settings}


def distribution(optuna: Any, given: Any) -> Any:
    """Return what Optuna picks from for a range, or a list."""
    distributions = optuna.distributions
    if not isinstance(given, Range):
        return distributions.CategoricalDistribution(list(given))
    kind = distributions.IntDistribution if given.whole else distributions.FloatDistribution
    return kind(given.low, given.high, log=given.log)
