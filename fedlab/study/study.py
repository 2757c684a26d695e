"""A study: one notebook or function over many points and seeds, run where it has not been yet."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlab.core.validation import positive, whole_number
from fedlab.files import atomic
from fedlab.study import results
from fedlab.study.parameters import bind
from fedlab.study.points import Point
from fedlab.study.records import (
    DONE,
    FAILED,
    RunRecord,
    latest,
    read_trace,
    run_id,
    written,
)
from fedlab.study.running import NOW, Executor, Planned, Told, Workers, sweep
from fedlab.study.targets import FunctionTarget, Runnable

if TYPE_CHECKING:
    import pandas as pd

STALE, UNVERIFIED, MISSING = "stale", "unverified", "missing"
_LIMIT_SECONDS = 3600.0
_REASONS = 3


@dataclass(frozen=True)
class Standing:
    """How a planned run stands: done, failed, stale, unverified or missing, and why."""

    planned: Planned
    status: str
    why: tuple[str, ...] = ()
    record: RunRecord | None = None

    @property
    def said(self) -> str:
        """Why, in a line."""
        more = len(self.why) - _REASONS
        return "; ".join(self.why[:_REASONS]) + (f"; and {more} more" if more > 0 else "")


class Study:
    """One target over points and seeds, with a folder that keeps what was found.

    Parameters
    ----------
    target : function or Runnable
        A function of a module, with typed parameters that have defaults; it returns numbers by
        name, a `Federation`, a `History`, a data frame, or a list of these. For notebooks see
        `fedlab.workbench.batch.target.notebook_target`.
    folder : path-like
        Where runs are kept, each in a folder of its own that is never written to again.
    points : iterable of mappings
        Values for parameters (see `grid` and `drawn`); others keep their defaults.
    seeds : iterable of int, optional
        Each point runs with each: in the parameter ``seed``, or as ``seeds``, a list of one.
    inputs : iterable of path-like, optional
        All that runs read where it can't be seen, such as in a process that they start; an empty
        one says that there is nothing. Without this such runs are never taken for done.

    Raises
    ------
    fedlab.study.parameters.ParameterError
        For an unknown parameter, or a value that doesn't fit, before anything is run.
    FileNotFoundError
        If a declared input is no file.

    Notes
    -----
    A run is done as long as its code, parameters, the files that it read, and the versions of what
    it imported are as they were. What it depended on is noted while it runs, not declared.

    Examples
    --------
    ::

        from my_study import train        # def train(alpha: float = 1.0, seed: int = 0) -> ...

        study = Study(train, "reports/alphas", grid(alpha=[0.1, 1.0]), seeds=range(5))
        study.run(workers=2)
        study.frame()
    """

    def __init__(
        self,
        target: Runnable | Callable[..., Any],
        folder: str | os.PathLike[str],
        points: Iterable[Point] = ({},),
        *,
        seeds: Iterable[int] | None = None,
        inputs: Iterable[str | os.PathLike[str]] | None = None,
    ) -> None:
        self.target: Runnable = FunctionTarget.of(target) if callable(target) else target
        self.folder = Path(folder).absolute()
        self.inputs = None if inputs is None else tuple(os.path.abspath(path) for path in inputs)
        for path in self.inputs or ():
            if not os.path.isfile(path):
                raise FileNotFoundError(f"inputs: {path} is no file; declare files that runs read")
        self._seeds = None if seeds is None else [*seeds]
        self._unwritten = dict[str, RunRecord]()
        planned = [self._planned(point, seed) for point in points for seed in self._each_seed()]
        self._runs = tuple({one.id: one for one in planned}.values())
        if not planned:
            raise ValueError("the study has no runs: give at least one point, and one seed")
        for name in self.target.unread:
            if len({json.dumps(one.parameters[name]) for one in planned}) > 1:
                warnings.warn(f"{self.target.name}: no cell reads {name}", stacklevel=2)

    @property
    def runs(self) -> tuple[Planned, ...]:
        """The runs that it wants, in order, each once."""
        return self._runs

    def _each_seed(self) -> list[Mapping[str, Any]]:
        if self._seeds is None:
            return [{}]
        names = {parameter.name for parameter in self.target.parameters}
        if "seed" in names:
            return [{"seed": seed} for seed in self._seeds]
        if "seeds" in names:
            return [{"seeds": [seed]} for seed in self._seeds]
        known = (
            ", ".join(sorted(names))
            or "none (a notebook declares them in a cell tagged `parameters`)"
        )
        raise ValueError(f"{self.target.name} has no parameter seed or seeds; it has {known}")

    def _planned(self, point: Point, seed: Mapping[str, Any]) -> Planned:
        parameters = self.target.parameters
        set_ = bind(parameters, {**point, **seed}, self.target.name)
        values = written({parameter.name: parameter.default for parameter in parameters} | set_)
        return Planned(run_id(self.target.name, values), values)

    # -- how it stands -----------------------------------------------------------------------

    def standing(self, runs: Sequence[Planned] | None = None) -> list[Standing]:
        """Return how each run stands, in order; what has changed since is looked up now."""
        source, kept = self.target.source(), latest(self.folder) | self._unwritten
        return [self._standing(one, kept.get(one.id), source) for one in runs or self.runs]

    def _standing(self, planned: Planned, record: RunRecord | None, source: str) -> Standing:
        if record is None:
            return Standing(planned, MISSING)
        if record.status == FAILED:
            return Standing(planned, FAILED, (str(record.error),), record)
        trace = read_trace(folder := self.folder / "runs" / record.folder)
        if trace is None or results.digests(folder, record.digests) != record.digests:
            return Standing(planned, STALE, ("its files are not as it left them",), record)
        changed = ["its own code"] if record.source != source else []
        if changed := [*changed, *NOW.changed(trace)]:
            return Standing(planned, STALE, tuple(changed), record)
        unseen = trace.unseen if self.inputs is None else []
        if not unseen and (end := record.recorded.get("pruned")):
            return Standing(planned, DONE, (f"pruned after round {end}",), record)
        return Standing(planned, UNVERIFIED if unseen else DONE, tuple(unseen), record)

    def status(self) -> pd.DataFrame:
        """Return a row a run: ``run``, ``status``, ``why``, ``seconds``, and its parameters."""
        import pandas as pd

        rows = [
            {"run": one.planned.id, "status": one.status, "why": one.said}
            | {"seconds": one.record.seconds if one.record else None}
            | {name: results.in_table(value) for name, value in one.planned.parameters.items()}
            for one in self.standing()
        ]
        return pd.DataFrame(rows)

    def frame(self) -> pd.DataFrame:
        """Return what its runs measured (see `fedlab.study.load_runs`)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return results.load_runs(self.folder, [one.id for one in self.runs])

    # -- running -----------------------------------------------------------------------------

    def run(
        self,
        *,
        workers: int = 2,
        limit: float = _LIMIT_SECONDS,
        executor: Executor | None = None,
        fresh: bool = False,
        tell: Told | None = None,
    ) -> pd.DataFrame:
        """Run what is missing, failed, stale or unverified, and return how all runs stand.

        It may be killed at any moment, and called again: what was finished stays.

        Parameters
        ----------
        workers : int
            Runs at the same time; the cores are shared out among them.
        limit : float
            Seconds that one run may take.
        executor : object with ``submit``, optional
            Where runs are started: by default threads, which wait for a process each. A Dask
            client and submitit's executors do; all must see the study's folder under one name.
        fresh : bool
            Run all of them, also what is done.
        tell : function, optional
            Called when it begins, and whenever a run starts or ends.

        Raises
        ------
        BlockingIOError
            If another process runs this study.
        """
        whole_number(workers, "workers", 1)
        positive(limit=limit)
        self._unwritten.clear()
        cache = self.folder / ".cache"
        with self._alone(), Workers.of(cache, workers, limit, executor) as hands:
            for generation in self.generations():
                stand = self.standing(generation)
                due = [one.planned for one in stand if fresh or one.status != DONE]
                self._unwritten |= sweep(self, hands, due, len(stand) - len(due), tell)
        return self.status()

    def generations(self) -> Iterator[Sequence[Planned]]:
        """Yield runs that can be told before any of them has begun: here, all of them."""
        yield self.runs

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the study's lock, which ends with this process, however it ends."""
        runs = self.folder / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        kept, mine = self.folder / "study.json", {"format": 1, "target": self.target.name}
        with atomic.locked(runs, wait=False) as ours:
            if not ours:
                raise BlockingIOError(
                    f"another process is running the study in {self.folder}; wait for it, stop it, "
                    "or give another folder"
                )
            if kept.is_file() and (other := json.loads(kept.read_bytes())) != mine:
                raise ValueError(
                    f"{self.folder} holds a study of {other.get('target')}, not of "
                    f"{self.target.name}; give another folder"
                )
            atomic.write_bytes(kept, json.dumps(mine).encode())
            yield
