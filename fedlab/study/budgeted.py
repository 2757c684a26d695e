"""Hyper-parameters chosen within one budget of rounds and bytes, and how surely.

`Tuning` picks the points of a study, each a run in a process of its own, judged by what it
measured. Here trials are federations of this process that can be paused: they share a budget, are
judged by devices on rows that they hold out, and go on where they stood.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from fedlab.algorithms.fedex import FedEx
from fedlab.core.extras import imported
from fedlab.core.randomness import Purpose, generator
from fedlab.core.settings import described
from fedlab.core.validation import of_kind, one_of, positive, shown, whole_number
from fedlab.privacy.mechanisms import Budget
from fedlab.study.judging import CLOSE, Validators, finalists, guessed, resampled
from fedlab.study.points import Point, Range, Space, drawn, grid
from fedlab.study.trials import Trial, Trials, brackets
from fedlab.study.tuning import distribution

if TYPE_CHECKING:
    import pandas as pd

    from fedlab.federation.federation import Federation

Way = Literal["grid", "random", "tpe", "halving", "hyperband", "fedex"]
_FINALISTS = 5
_COLUMNS = ("rounds", "bytes", "bytes_judging", "value", "ended")


@dataclass(frozen=True, eq=False)
class Tuned:
    """What a search found.

    Attributes
    ----------
    point : mapping
        The hyper-parameters that were chosen; by FedEx, the most probable ones, which no model was
        trained by alone.
    federation : Federation
        It, trained as far as the budget went; of FedEx, the run that mixed all of them.
    trials : DataFrame
        By ``trial``: the point, ``rounds`` and ``bytes`` of training, ``bytes_judging``, ``value``
        (the last that was told), ``who`` told it, and how the trial ``ended``. FedEx has one row,
        of a run that mixed points: NaN stands for the point, and the value is none of theirs.
    finalists : DataFrame
        The best five of those that went as far as any, and how surely the best one is the best (see
        `fedlab.study.judging.finalists`). Without epsilon, they were judged once more for this, all
        by the same devices.
    epsilon : float, optional
        What the judgements told of any one device at most; simulated noise protects nobody.
    probabilities : DataFrame, optional
        Of FedEx: the points, and how probable it found each. Nothing is known of one by itself.
    metric : str
        What values are.
    """

    point: Point
    federation: Federation
    trials: pd.DataFrame
    finalists: pd.DataFrame
    epsilon: float | None = None
    probabilities: pd.DataFrame | None = None
    metric: str = "accuracy"

    @property
    def close(self) -> list[int]:
        """The finalists that can't be told from the best one."""
        return self.finalists.index[self.finalists["beside the best"] == CLOSE].tolist()

    def __str__(self) -> str:
        best, close = self.finalists.iloc[0], ", ".join(map(str, self.close)) or "none"
        sure = "one device's" if math.isnan(best.low) else f"95%: {best.low:.3f} to {best.high:.3f}"
        noise = "" if self.epsilon is None else f", noise of epsilon {self.epsilon:g} included"
        said = f"{self.metric} {best.value:.3f} ({sure}{noise})"
        if self.probabilities is not None:
            mixed = f"one run that mixed {len(self.probabilities)} configurations: {said}"
            return f"{mixed}; of the most probable, {dict(self.point)}, by itself nothing is known"
        chance = "not known" if math.isnan(best.chance) else f"{best.chance:.2f}"
        chance = f"chance to be the best of {len(self.finalists)}: {chance}"
        return f"{dict(self.point)}: {said}; {chance}; {CLOSE}: {close}"


def tuned(
    make: Callable[..., Federation],
    space: Space,
    *,
    rounds: int,
    bytes: float | None = None,
    way: Way = "hyperband",
    each: int | None = None,
    judges: Validators | None = None,
    eta: int = 3,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> Tuned:
    """Choose hyper-parameters within one budget, counted for every way alike.

    Parameters
    ----------
    make : function
        Given a point's values by name, it returns a federation at its start.
    space : mapping of name to Range or list
        What may be chosen; a grid takes lists.
    rounds : int
        Of training, over all trials together. All of them are done: what is too little for a
        further trial, or was left by trials that failed, goes on with the best one.
    bytes : float, optional
        Up, down and for judging, over all trials together: from there on no round begins.
    way : {"hyperband", "halving", "grid", "random", "tpe", "fedex"}
        "tpe" takes the extra ``tuning``. "fedex" tunes ``learning_rate`` and ``epochs`` of
        `LocalSGD` within one run (see `fedlab.algorithms.FedEx`), which `make` takes as
        ``algorithm``; of ranges it draws eta^3 points. Its value is that of the run, in which all
        were mixed; of the point that it names, trained by itself, nothing is known.
    each : int, optional
        Rounds of a trial at most. By default a sixteenth of all, or of a grid what each has.
    judges : Validators, optional
        Who judges; by default all devices that hold rows out, each by its rows.
    eta : int
        One trial of so many goes on from a rung of halving to the next.
    seed : int
        Of points, judges, and simulated noise; that of training stands in `make`.
    folder : path-like, optional
        Keeps trials as they are at each judgement, so that a search that was killed goes on when it
        is called again. Each search takes one of its own.

    Raises
    ------
    ValueError
        If the budget doesn't suffice, fewer hold rows out than judge, there is no such measure,
        `make` returns what another trial has or what was trained, or no trial could be judged.
    TypeError
        If `make` returns no federation, or an argument is of another kind.
    CheckpointError
        If the folder holds trials of another search.

    Notes
    -----
    A trial that can't be made, trains nobody or gives NaN fails, and is in the table with its
    reason. The noise of epsilon hides devices from who reads the table and the plan; a model that
    was trained without noise tells of devices by itself.

    Examples
    --------
    ::

        def make(learning_rate, epochs):
            local = LocalSGD(learning_rate=learning_rate, epochs=epochs)
            return Federation(devices, model, local=local, cohort=10)

        space = {"learning_rate": Range(0.001, 1.0, log=True), "epochs": [1, 5]}
        found = tuned(make, space, rounds=400, judges=Validators(20))
        print(found, found.trials, found.finalists)
    """
    one_of(way, get_args(Way), "way")
    whole_number(rounds, "rounds", 1)
    whole_number(eta, "eta", 2)
    if bytes is not None:
        positive(bytes=bytes)
    judges = Validators() if judges is None else judges
    of_kind(judges, Validators, "judges")
    of_kind(space, Mapping, "space")
    if not callable(make):
        raise TypeError(f"make is {shown(make)}; give a function that makes a Federation")
    if folder is not None and judges.epsilon is not None and not judges.simulated:
        raise ValueError("to judge again costs epsilon again: give epsilon, or a folder")
    if taken := sorted({*space} & {*_COLUMNS}):
        raise ValueError(f"{', '.join(taken)} of the space name columns of the table; rename them")
    ranges = any(isinstance(given, Range) for given in space.values())
    points = [] if ranges and way != "grid" else grid(**space)  # type: ignore[arg-type]
    share = rounds if way == "fedex" else rounds // (len(points) if way == "grid" else 16) or 1
    each = whole_number(share if each is None else each, "each", 1)
    plan = brackets(way, rounds, each, eta, len(points) or rounds)
    if len(plan) < (least := len(points) if way == "grid" else 1):
        raise ValueError(f"{least} trials of {each} rounds take more than the {rounds} given")
    if points and way != "grid":
        order = generator(seed, Purpose.STUDY, part=1).permutation(len(points))
        points = [points[n] for n in order.tolist()]
    needed = eta**3 if way == "fedex" else sum(bracket[0][0] for bracket in plan)
    points = points or drawn(space, needed, seed)
    if folder is not None:
        os.makedirs(folder, exist_ok=True)
    budget = Budget(judges.epsilon or 0.0)
    search = Trials(make, bytes, judges, seed, sum(map(len, plan)), folder, budget)
    if way == "fedex":
        point, probabilities = _shared(search, points, rounds)
        return replace(_ended(search, rounds), point=point, probabilities=probabilities)
    turns = itertools.cycle(points)
    search.run(plan, _asked(space, judges, seed).send if way == "tpe" else lambda _: next(turns))
    return _ended(search, rounds)


def _ended(search: Trials, rounds: int) -> Tuned:
    """Compare the best trials, and let the best one go on with what is left."""
    import pandas as pd

    judges, trials = search.judges, search.trials
    # Where bytes end a bracket early, those that were dropped may have come as far as the others.
    told = [t for t in trials if math.isfinite(t.value) and t.federation is not None]
    last = max((t.judged for t in told), default=0)
    able = [t for t in told if t.judged == last]
    if not able:
        spent = f"stopped: the {search.bytes} bytes were spent first" if search.spent else "stopped"
        raise ValueError(f"no trial could be judged; the first: {trials[0].ended or spent}")
    able.sort(key=lambda trial: -judges.sign * trial.value)
    distinct = dict[str, Trial]()
    for trial in able:  # a point that was drawn twice is one
        distinct.setdefault(described(trial.point), trial)
    able = list(distinct.values())[:_FINALISTS]
    values = np.array([trial.value for trial in able])
    if judges.epsilon is None:
        asked = [search.measured(trial, part=1) for trial in able]
        each, weights = np.transpose([values for values, _ in asked]), asked[0][1]
        values = np.average(each, axis=0, weights=weights)
        draws = resampled(each, weights, search.seed)
    else:
        count = len(judges.drawn(able[0].federation))
        draws = guessed(values, count, np.array([t.epsilon for t in able]), search.seed)
    best = able[0]
    search.train(best, best.rounds + rounds - sum(trial.rounds for trial in trials))
    best.ended = best.ended or "best"
    for trial in trials:
        trial.ended = trial.ended or ("finished" if trial.judged else "stopped")
    rows = [{**t.point, **{name: getattr(t, name) for name in _COLUMNS}} for t in trials]
    table = pd.DataFrame(rows, pd.RangeIndex(len(rows), name="trial"))
    table.insert(len(table.columns) - 1, "who", np.where(table.value.isna(), "", str(judges)))
    sure = finalists([trial.number for trial in able], values, draws, judges.sign)
    epsilon = None if judges.epsilon is None else judges.epsilon - search.budget.left[0]
    return Tuned(best.point, best.federation, table, sure, epsilon, metric=judges.metric)


def _shared(search: Trials, points: list[Point], rounds: int) -> tuple[Point, pd.DataFrame]:
    """Train in one run by FedEx; return the point that it found most probable, and all of them."""
    import pandas as pd

    if search.judges.epsilon or {*points[0]} != {"learning_rate", "epochs"}:
        raise ValueError(
            "FedEx tunes learning_rate and epochs, both, and reads the errors of single devices; "
            f"{', '.join(points[0])} with epsilon={search.judges.epsilon} take another way"
        )
    rates = tuple(point["learning_rate"] / points[0]["learning_rate"] for point in points)
    method = FedEx(rates, tuple(point["epochs"] for point in points), seed=search.seed)
    search.train(trial := search.begin(points[0], algorithm=method), rounds)
    theta = trial.federation.state.algorithm["theta"] if trial.federation else math.nan
    trial.point = dict.fromkeys(points[0], math.nan)  # what it is worth is no point's worth
    if not trial.ended:
        search.judge([trial], 1, 1)
    return points[int(np.argmax(theta))], pd.DataFrame(points).assign(probability=theta)


def _asked(space: Space, judges: Validators, seed: int) -> Generator[Point, float | None, None]:
    """Yield what Optuna's TPE asks for, told the value of each before the next."""
    optuna: Any = imported("optuna", "tuning", "way='tpe'")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    choices = {name: distribution(optuna, given) for name, given in space.items()}
    while True:
        trial = study.ask(choices)
        value = yield trial.params
        told = None if value is None or not math.isfinite(value) else -judges.sign * value
        study.tell(trial, told, state=optuna.trial.TrialState.FAIL if told is None else None)
