"""Runs notebooks, and keeps a record of each run that can be trusted.

A run is a notebook and values for its parameters. Its record (`NN_name.json`) is written last; a
second call takes what is there as long as nothing that the result depends on has changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

from fedlab.core.extras import missing
from fedlab.core.threads import cores
from fedlab.core.validation import whole_number
from fedlab.files import atomic
from fedlab.study.parameters import bind
from fedlab.study.records import Failure, began, sha256, written
from fedlab.study.running import NOW, Workers
from fedlab.study.targets import Share
from fedlab.training import prepare
from fedlab.workbench.batch.commands import papermill_line, workbench_line
from fedlab.workbench.batch.notebooks import LIMIT_SECONDS, Notebook, dump, has_tag, labels
from fedlab.workbench.batch.records import Record, versions
from fedlab.workbench.batch.supervisor import NotebookRun, Outcome
from fedlab.workbench.report.outputs import answer, lacking


@dataclass(frozen=True)
class Settings:
    """How to run.

    Parameters
    ----------
    folder : Path
        Where records and executed notebooks go.
    cache : Path
        Kept from run to run; may be removed at any time.
    jobs : int
        Notebooks at the same time; the cores are shared out among them.
    limit : float
        Seconds that one notebook may take.
    fresh : bool
        Run everything, also what hasn't changed.
    """

    folder: Path
    cache: Path
    jobs: int = 1
    limit: float = LIMIT_SECONDS
    fresh: bool = False

    def __post_init__(self) -> None:
        whole_number(self.jobs, "jobs", 1)
        if not self.limit > 0:  # without an end is allowed
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
        fedlab.study.parameters.ParameterError
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
        return f"{self.notebook.name}-{sha256(json.dumps(self.values).encode())[:8]}"

    def commands(self) -> tuple[str, str]:
        """The lines that reproduce this run: the workbench's, and plain papermill's."""
        path = self.notebook.shown_path
        return workbench_line(path, self.values), papermill_line(path, self.values)


class Progress(Protocol):
    """Is told how runs go."""

    def reused(self, record: Record) -> None:
        """`record` was there already."""

    def stale(self, record: Record, parts: Sequence[str]) -> None:
        """`record` completed, but with other inputs: those of `parts` have changed since."""

    def started(self, run: Run) -> None:
        """`run` is given to a kernel."""

    def cell(self, run: Run, number: int, label: str) -> None:
        """`run` is at its code cell `number`; told by its own thread."""

    def tick(self) -> None:
        """Time went by."""

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
    for path in (run.notebook.path for run in runs):
        if path.resolve() == executed_path(settings.folder, path.stem).resolve():
            raise ValueError(
                f"{path} would be replaced by its executed notebook; give another folder for the "
                "results (-o FOLDER)"
            )
    settings.folder.mkdir(parents=True, exist_ok=True)
    found, due = dict[str, Record](), list[Run]()
    for run in runs:
        name = run.notebook.name
        if run.notebook.broken:
            found[name] = _keep(run, _unread(run.notebook), settings.folder)
            progress.finished(found[name])
            continue
        old, changed = _compared(run, settings.folder)
        if _is_whole(old, settings.folder) and not (changed or settings.fresh):
            found[name] = old
            progress.reused(old)
            continue
        due.append(run)
        if changed and old and old.error is None:
            progress.stale(old, changed)
    with closing(_outcomes(due, settings, progress)) as ended:
        for run, outcome in ended:
            record = _keep(run, outcome, settings.folder)
            found[record.name] = record
            progress.finished(record)
    return [found[run.notebook.name] for run in runs]


#: How what `check` says begins where nothing differs.
SAME = "the same results twice"
_TIMED = "wall-time"
# pandas names each styled table at random; an object's own text is often where it lies in memory.
_ANEW = re.compile(r"T_[0-9a-f]{5}| at 0x[0-9a-f]+")


def check(run: Run, settings: Settings, progress: Progress) -> Record:
    """Run a notebook twice, with one thread and with several, and under other hash seeds.

    The hash seed is in what order Python goes through sets. Cells tagged ``wall-time`` may differ,
    and so may what goes to stderr.

    Returns
    -------
    Record
        Of the first run; ``checked`` says whether the second gave the same, or names the first cell
        that differs. It is written like that of any run.
    """
    settings.folder.mkdir(parents=True, exist_ok=True)
    several = max(2, cores())
    ((_, one),), ((_, other),) = (
        [*_outcomes([run], settings, progress, threads, str(seed))]
        for seed, threads in enumerate((1, several), 1)
    )
    said = differing(one.node, other.node)
    if failure := one.failure or other.failure:
        said = f"it failed: {failure}"
    timed = sum(has_tag(cell, _TIMED) for cell in one.node.cells)
    aside = f"; {timed} {'cell' if timed == 1 else 'cells'} of wall time aside" if timed else ""
    checked = said or f"{SAME}, with 1 and {several} threads{aside}"
    record = _keep(run, one, settings.folder, checked)
    progress.finished(record)
    return record


def differing(one: NotebookNode, other: NotebookNode) -> str:
    """Name the first code cell whose outputs differ; empty if there is none."""
    places = labels(one)
    for number, (index, label) in enumerate(places.items(), 1):
        if has_tag(one.cells[index], _TIMED):
            continue
        first, second = (
            [
                _ANEW.sub("", json.dumps(output | {"execution_count": None}))
                for output in node.cells[index].outputs
                if output.get("name") != "stderr"  # what is said on the way
            ]
            for node in (one, other)
        )
        if first != second:
            return f"cell {number} gave something else the second time: {label}"
    return ""


def executed_path(folder: Path, name: str) -> Path:
    """Where the executed notebook of a run stands."""
    return folder / f"{name}.ipynb"


def record_path(folder: Path, name: str) -> Path:
    """Where the record of a run stands."""
    return folder / f"{name}.json"


def stem(folder: Path, record: Record) -> str:
    """The name that a run's files have, without their endings.

    A run that failed stands beside one that completed, under a name of its own.
    """
    kept = completed(folder, record.name) if record.error else None
    return record.name if kept is None else f"{record.name}.failed"


def completed(folder: Path, name: str) -> Record | None:
    """Return the record of the last run that completed, whatever has changed since; else None."""
    record = Record.read(record_path(folder, name))
    return record if _is_whole(record, folder) else None


def _compared(run: Run, folder: Path) -> tuple[Record | None, list[str]]:
    """A run's last record, and what has changed since, or was never seen."""
    old = Record.read(record_path(folder, run.notebook.name))
    if old is None or old.trace is None:
        return old, ["no run that ended well"]
    changed = ["cells"] if old.source != run.notebook.source() else []
    changed += ["parameters"] if old.parameters != written(run.parameters) else []
    return old, [*changed, *NOW.changed(old.trace), *old.trace.unseen]


def _is_whole(record: Record | None, folder: Path) -> TypeGuard[Record]:
    """Whether a run completed, and its executed notebook is there as it left it.

    One that did nothing for want of an extra stands for as long as that is missing.
    """
    if not record or record.status != "completed" or (record.lacks and not missing(record.lacks)):
        return False
    executed = executed_path(folder, record.name)
    return executed.is_file() and sha256(executed.read_bytes()) == record.executed_digest


def _outcomes(
    due: Sequence[Run],
    settings: Settings,
    progress: Progress,
    threads: int = 0,
    hash_seed: str = "random",
) -> Generator[tuple[Run, Outcome], None, None]:
    """Run those that are due, and yield each with how it ended."""
    if not due:
        return
    prepare()  # else each kernel that starts before the first has done so would compile for itself
    jobs, variables = min(settings.jobs, len(due)), {"PYTHONHASHSEED": hash_seed}
    with Workers.of(settings.cache.resolve(), jobs, settings.limit, threads=threads) as workers:

        def call(run: Run) -> tuple[Any, ...]:
            progress.started(run)
            return _execute, run, workers.share, variables, progress

        for run, future in workers.each(due, call, progress.tick):
            yield run, future.result()


def _execute(run: Run, share: Share, variables: Mapping[str, str], progress: Progress) -> Outcome:
    at_cell = partial(progress.cell, run)
    return NotebookRun(run.notebook.path, run.values, share, variables, at_cell).execute()


def _unread(notebook: Notebook) -> Outcome:
    node = new_notebook(cells=[new_markdown_cell(f"# {notebook.title}")])  # type: ignore[no-untyped-call]
    return Outcome(0.0, Failure("ValueError", notebook.broken), None, {}, "", node, [])


def _keep(run: Run, outcome: Outcome, folder: Path, checked: str = "") -> Record:
    """Write the executed notebook, then the record that vouches for it."""
    content = dump(outcome.node)
    own, plain = run.commands()
    record = Record(
        name=run.notebook.name,
        notebook=run.notebook.shown_path,
        title=run.notebook.title,
        question=run.notebook.question,
        status="failed" if outcome.failure else "completed",
        parameters=written(run.parameters),
        set_parameters=written(run.values),
        started=began(outcome.seconds),
        seconds=outcome.seconds,
        cells=outcome.cells,
        executed_digest=sha256(content),
        versions=versions(),
        command=own,
        papermill=plain,
        answer=answer(outcome.node),
        error=outcome.failure,
        recorded=dict(outcome.recorded),
        source=outcome.source,
        trace=None if outcome.told is None else NOW.trace(outcome.told),
        lacks=lacking(outcome.node),
        checked=checked,
    )
    name = stem(folder, record)
    atomic.write_bytes(executed_path(folder, name), content)
    record.write(record_path(folder, name))
    if record.error is None:
        for ending in (".ipynb", ".json", ".html"):
            (folder / f"{record.name}.failed{ending}").unlink(missing_ok=True)
    return record
