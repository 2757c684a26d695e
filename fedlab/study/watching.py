"""A run that its study may end early: `rounds()` watched by a pruner.

What a pruner knows is fixed before a run begins: the runs of earlier generations. So it decides the
same however many runs go on beside it, and in whatever order they end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlab.core.extras import imported
from fedlab.federation.history import Report
from fedlab.study.results import RUN_FOLDER, record

_PRUNING = "pruning.json"


@dataclass(frozen=True)
class Pruning:
    """What ends a run early.

    Parameters
    ----------
    pruner : str
        A class of `optuna.pruners`, without its ending: ``"Median"``, ``"SuccessiveHalving"``.
    settings : mapping
        What it takes.
    metric : str
        A measure of the server, by round.
    direction : {"maximize", "minimize"}
    before : tuple of mappings
        Values by round of earlier runs with the same seed.
    """

    pruner: str
    settings: Mapping[str, Any]
    metric: str
    direction: str
    before: tuple[Mapping[int, float], ...] = field(default=())

    def write(self, folder: Path) -> None:
        """Write it where `watched` looks for it."""
        told = {name: getattr(self, name) for name in ("pruner", "metric", "direction")}
        told |= {"settings": dict(self.settings), "before": [[*b.items()] for b in self.before]}
        (folder / _PRUNING).write_text(json.dumps(told), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Pruning | None:
        """Read what a study wrote; None if it prunes nothing."""
        if not (folder / _PRUNING).is_file():
            return None
        told = json.loads((folder / _PRUNING).read_bytes())
        return cls(**told | {"before": tuple(map(dict, told["before"]))})

    def trial(self) -> Any:
        """Return an Optuna trial that stands beside the earlier ones."""
        optuna: Any = imported("optuna", "tuning", "a study that prunes")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = made(optuna.pruners, self.pruner, "Pruner", self.settings)
        study = optuna.create_study(direction=self.direction, pruner=pruner)
        done = optuna.trial.TrialState.COMPLETE
        for values in self.before:
            last = values[max(values)]
            study.add_trial(
                optuna.trial.create_trial(state=done, value=last, intermediate_values=values)
            )
        return study.ask()


def watched(rounds: Iterable[Report]) -> Iterator[Report]:
    """Pass on what `Federation.rounds` yields, and end where the study's pruner says so.

    Outside of a study that prunes, it passes on everything. A run that was ended early has
    ``pruned``, the round, among its values.

    Parameters
    ----------
    rounds : iterable of Report

    Examples
    --------
    >>> from fedlab import History
    >>> list(watched([]))
    []
    """
    folder = os.environ.get(RUN_FOLDER)
    pruning = Pruning.read(Path(folder)) if folder else None
    trial = pruning.trial() if pruning else None
    for report in rounds:
        yield report
        if trial is not None and pruning is not None and pruning.metric in report.measures:
            trial.report(report.measures[pruning.metric], report.round)
            if trial.should_prune():
                record(pruned=report.round)
                return


def made(module: Any, name: str, ending: str, settings: Mapping[str, Any]) -> Any:
    """Return an object of one of Optuna's classes, by the name without its ending.

    Raises
    ------
    ValueError
        If there is no such class, or it doesn't take these settings.
    """
    there = [each.removesuffix(ending) for each in module.__all__ if each.endswith(ending)]
    if name not in there:
        raise ValueError(f"Optuna has no {ending.lower()} {name!r}; it has {', '.join(there)}")
    try:
        return getattr(module, name + ending)(**settings)
    except TypeError as error:
        raise ValueError(f"{name}{ending} can't be made: {error}") from None
