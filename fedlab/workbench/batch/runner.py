"""Runs notebooks, and keeps a record of each run that can be trusted.

A run is a notebook and values for its parameters. Its record (`NN_name.json`) is written last; a
second call takes what is there as long as nothing that the result depends on has changed.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fedlab.core.threads import cores
from fedlab.files import atomic
from fedlab.training import prepare
from fedlab.workbench.batch import jupyter, records
from fedlab.workbench.batch.commands import papermill_line, workbench_line
from fedlab.workbench.batch.notebooks import LIMIT_SECONDS, Notebook, dump
from fedlab.workbench.batch.parameters import bind
from fedlab.workbench.batch.records import Record
from fedlab.workbench.batch.supervisor import Outcome, Supervisor, Task, Watcher
from fedlab.workbench.report.outputs import answer


@dataclass(frozen=True)
class Settings:
    """How to run.

    Parameters
    ----------
    folder : Path
        Where records and executed notebooks go.
    cache : Path
        Kept from run to run; may be removed at any time.
    data : Path
        The folder of pulled data: what is in it is part of a run's inputs.
    jobs : int
        Notebooks at the same time; the cores are shared out among them.
    limit : float
        Seconds that one notebook may take.
    fresh : bool
        Run everything, also what hasn't changed.
    """

    folder: Path
    cache: Path
    data: Path
    jobs: int = 1
    limit: float = LIMIT_SECONDS
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"jobs is {self.jobs}; at least 1 is needed")
        if not self.limit > 0:
            raise ValueError(f"the limit is {self.limit} s; it must be above 0")


@dataclass(frozen=True)
class Run:
    """A notebook with the values that were set, converted and checked by `Run.of`."""

    notebook: Notebook
    values: dict[str, Any]

    @classmethod
    def of(cls, notebook: Notebook, values: Mapping[str, Any] | None = None) -> Run:
        """Check `values` against the notebook's own parameters.

        Raises
        ------
        fedlab.workbench.batch.parameters.ParameterError
            For an unknown name or a value that doesn't fit.
        """
        return cls(notebook, bind(notebook.parameters, values or {}, notebook.name))

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters: those that were set, and the defaults of the others."""
        defaults = {parameter.name: parameter.default for parameter in self.notebook.parameters}
        return {**defaults, **self.values}

    @property
    def label(self) -> str:
        """A folder's name for this run: the same for the same values."""
        if not self.values:
            return self.notebook.name
        return f"{self.notebook.name}-{records.sha256(json.dumps(self.values).encode())[:8]}"

    def commands(self) -> tuple[str, str]:
        """The lines that reproduce this run: the workbench's, and plain papermill's."""
        path = self.notebook.shown_path
        return workbench_line(path, self.values), papermill_line(path, self.values)


class Progress(Watcher):
    """A watcher that is also told of whole notebooks."""

    def reused(self, record: Record) -> None:
        """`record` was there already."""

    def finished(self, record: Record) -> None:
        """A notebook ended, well or not."""


def execute(runs: Sequence[Run], settings: Settings, progress: Progress) -> list[Record]:
    """Run what has to be run, and return a record for each of `runs`, in their order.

    A notebook that fails, hangs or takes its kernel down has a record that says so; the others go
    on.
    """
    names = [run.notebook.name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError("two runs of one notebook in one folder; give each a folder of its own")
    settings.folder.mkdir(parents=True, exist_ok=True)
    # Now, not after the run: what changes while it runs must show as a change.
    digests = {run.notebook.name: _digest(run, settings) for run in runs}
    found: dict[str, Record] = {}
    for run in runs:
        old = None if settings.fresh else standing(run, settings)
        if old is not None:
            found[run.notebook.name] = old
            progress.reused(old)
    due = {run.notebook.name: run for run in runs if run.notebook.name not in found}
    with closing(_outcomes(list(due.values()), settings, progress)) as outcomes:
        for outcome in outcomes:
            run = due[outcome.task.notebook.stem]
            record = _keep(run, outcome, digests[run.notebook.name], settings.folder)
            found[record.name] = record
            progress.finished(record)
    return [found[run.notebook.name] for run in runs]


def executed_path(folder: Path, name: str) -> Path:
    """Where the executed notebook of a run stands."""
    return folder / f"{name}.ipynb"


def record_path(folder: Path, name: str) -> Path:
    """Where the record of a run stands."""
    return folder / f"{name}.json"


def standing(run: Run, settings: Settings) -> Record | None:
    """Return the record of a run whose inputs and results are as they were; else None."""
    name = run.notebook.name
    record = Record.read(record_path(settings.folder, name))
    if record is None or record.status != "completed" or record.digest != _digest(run, settings):
        return None
    executed = executed_path(settings.folder, name)
    whole = executed.is_file() and records.sha256(executed.read_bytes()) == record.executed_digest
    return record if whole else None


def _digest(run: Run, settings: Settings) -> str:
    return records.digest(run.notebook, run.parameters, settings.data)


def _outcomes(
    runs: Sequence[Run], settings: Settings, progress: Progress
) -> Generator[Outcome, None, None]:
    if not runs:
        return
    prepare()  # else each kernel that starts before the first has done so would compile for itself
    jobs = min(settings.jobs, len(runs))
    cache = settings.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    _sweep(cache)
    with tempfile.TemporaryDirectory(prefix=f"running-{os.getpid()}-", dir=cache) as name:
        scratch = Path(name)
        environment = jupyter.environment(cache, scratch, max(1, cores() // jobs))
        tasks = [Task(run.notebook.path.resolve(), run.values) for run in runs]
        yield from Supervisor(jobs, environment, settings.limit).run(tasks, progress)


def _sweep(cache: Path) -> None:
    """Remove what a run that was killed left behind."""
    for folder in cache.glob("running-*"):
        owner = folder.name.split("-")[1]
        if not (owner.isdigit() and psutil.pid_exists(int(owner))):
            shutil.rmtree(folder, ignore_errors=True)


def _keep(run: Run, outcome: Outcome, digest: str, folder: Path) -> Record:
    """Write the executed notebook, then the record that vouches for it."""
    content = dump(outcome.node)
    atomic.write_bytes(executed_path(folder, run.notebook.name), content)
    own, plain = run.commands()
    ended = datetime.datetime.now(datetime.UTC)
    record = Record(
        name=run.notebook.name,
        notebook=run.notebook.shown_path,
        title=run.notebook.title,
        question=run.notebook.question,
        status="failed" if outcome.failure else "completed",
        parameters=_written(run.parameters),
        set_parameters=_written(run.values),
        started=(ended - datetime.timedelta(seconds=outcome.seconds)).isoformat("T", "seconds"),
        seconds=outcome.seconds,
        cells=outcome.cells,
        digest=digest,
        executed_digest=records.sha256(content),
        versions=records.versions(),
        command=own,
        papermill=plain,
        answer=answer(outcome.node),
        error=outcome.failure,
    )
    record.write(record_path(folder, run.notebook.name))
    return record


def _written(values: dict[str, Any]) -> dict[str, Any]:
    """The values as a record gives them back: tuples as lists."""
    read: dict[str, Any] = json.loads(json.dumps(values))
    return read
