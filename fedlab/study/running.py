"""How the runs of a study are given out to workers, done, and put in their place."""

from __future__ import annotations

import itertools
import json
import platform
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fedlab.core.threads import cores
from fedlab.files import atomic
from fedlab.study import results
from fedlab.study.forks import servers_of
from fedlab.study.records import (
    DONE,
    FAILED,
    NOTEBOOK,
    RESULTS,
    TRACE,
    Failure,
    RunRecord,
    began,
)
from fedlab.study.scrub import without_paths
from fedlab.study.targets import Runnable, Share
from fedlab.study.trace import Now
from fedlab.study.watching import Pruning

T = TypeVar("T")

_LOOK_SECONDS = 0.02
_CALLS = itertools.count()
#: Digests of files that runs of this process read; each file is read once.
NOW = Now()


@dataclass(frozen=True)
class Planned:
    """A run that a study wants: its id, values for all parameters, and what may end it early."""

    id: str
    parameters: Mapping[str, Any]
    pruning: Pruning | None = None


class Executor(Protocol):
    """Whatever takes work and gives a future: `concurrent.futures`, Dask's client, submitit."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Any:
        """Return what has ``done()`` and ``result()``."""


class Told(Protocol):
    """Is told how a sweep goes."""

    def __call__(self, counts: Mapping[str, int], record: RunRecord | None) -> None:
        """Hear how many runs are done, failed, running and left, and which one has just ended."""


class Ordered(Protocol):
    """What a sweep takes from a study."""

    folder: Path
    target: Runnable
    inputs: tuple[str, ...] | None


@dataclass
class Workers:
    """An executor, and what each run that it is given may take.

    Parameters
    ----------
    pool : Executor
    share : Share
    count : int
        Runs at the same time.
    """

    pool: Executor
    share: Share
    count: int

    @classmethod
    @contextmanager
    def of(
        cls,
        cache: Path,
        count: int,
        limit: float,
        executor: Executor | None = None,
        threads: int = 0,
    ) -> Iterator[Workers]:
        """Yield workers; when the block is left, however, no process of their own stays behind.

        Parameters
        ----------
        cache : Path
            A folder of what could be made again.
        count : int
        limit : float
            Seconds until a run is killed.
        executor : Executor, optional
            Threads of this process by default.
        threads : int
            Of each run; by default the cores are shared out.
        """
        cache.mkdir(parents=True, exist_ok=True)
        # Elsewhere, servers outlive this call: all studies have them together, so they stay few.
        owner = f"{cache} {next(_CALLS)}" if executor is None else ""
        share = Share(threads or max(1, cores() // count), limit, owner, cache)
        if executor is not None:
            yield cls(executor, share, count)
            return
        pool = ThreadPoolExecutor(count)
        try:
            yield cls(pool, share, count)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            servers_of(owner).close()
            pool.shutdown()

    def each(
        self,
        due: Iterable[T],
        call: Callable[[T], tuple[Any, ...]],
        look: Callable[[], object] = lambda: None,
    ) -> Generator[tuple[T, Any], None, None]:
        """Do a call for each of `due`, and yield both it and the future as they end.

        Parameters
        ----------
        due : iterable
        call : function
            Returns a function and its arguments; the run begins then.
        look : function
            Called now and then meanwhile.
        """
        left, pending = deque(due), dict[Any, T]()
        try:
            while left or pending:
                while left and len(pending) < self.count:
                    one = left.popleft()
                    pending[self.pool.submit(*call(one))] = one
                for future in [future for future in pending if future.done()]:
                    yield pending.pop(future), future
                look()
                # To look at a job of a cluster may take a call over the network.
                time.sleep(_LOOK_SECONDS * max(1, len(pending) / 4))
        finally:
            for future in pending:
                future.cancel()


def sweep(
    study: Ordered, workers: Workers, due: Sequence[Planned], done: int, tell: Told | None
) -> dict[str, RunRecord]:
    """Run all of `due`; return the records of those that failed and could not be written.

    Parameters
    ----------
    study : Study
    workers : Workers
    due : sequence of Planned
    done : int
        How many need not be run.
    tell : function or None
    """
    source, unwritten = study.target.source(), dict[str, RunRecord]()
    counts = {DONE: done, FAILED: 0, "running": 0, "left": len(due)}

    def say(record: RunRecord | None, **changes: int) -> None:
        for name, change in changes.items():
            counts[name] += change
        if tell is not None:
            tell(dict(counts), record)

    def call(one: Planned) -> tuple[Any, ...]:
        say(None, running=1, left=-1)
        # To Dask, a call is its arguments: a second try would get the first one's end.
        asked = (study.folder, study.target, one, source, workers.share, study.inputs)
        return perform, *asked, uuid.uuid4().hex

    say(None)
    with closing(workers.each(due, call)) as ended:
        for planned, future in ended:
            record = _record_of(study, future, planned, source)
            if not record.attempt:
                unwritten[record.id] = record
            say(record, running=-1, **{record.status: 1})
    return unwritten


def _record_of(study: Ordered, future: Any, planned: Planned, source: str) -> RunRecord:
    """Return a run's record; where its worker is gone, or could not write one, of that."""
    try:
        record: RunRecord = future.result()
    except Exception as error:
        failure = Failure(type(error).__name__, str(error))
        record = _record(study.target, planned, source, 0.0, failure)
        with suppress(OSError):  # where the disk is full, it is in what the study gives back
            return _placed(study.folder, planned.id, lambda folder: record)
    return record


def perform(
    root: Path,
    target: Runnable,
    planned: Planned,
    source: str,
    share: Share,
    inputs: tuple[str, ...] | None,
    call: str,
) -> RunRecord:
    """Do one run in a folder of its own, which is moved to its place when its record is written.

    Raises
    ------
    Stopped
        If nobody wants its result any more; nothing is left of it then.
    """

    def fill(folder: Path) -> RunRecord:
        if planned.pruning is not None:
            planned.pruning.write(folder)
        ended = target.perform(planned.parameters, folder, share)
        record = _record(target, planned, source, ended.seconds, ended.failure)
        environment = record.environment | {"threads": share.threads}
        if ended.told is not None:
            trace = NOW.trace(ended.told, inputs or ())
            atomic.write_bytes(folder / TRACE, json.dumps(asdict(trace)).encode())
            environment |= {"distributions": dict(trace.distributions)}
        recorded = results.gathered(folder, ended.recorded)
        found = results.digests(folder, (RESULTS, NOTEBOOK))
        return replace(record, recorded=recorded, environment=environment, digests=found)

    return _placed(root, planned.id, fill)


def _record(
    target: Runnable, planned: Planned, source: str, seconds: float, failure: Failure | None
) -> RunRecord:
    return RunRecord(
        id=planned.id,
        attempt=0,
        target=target.name,
        status=FAILED if failure else DONE,
        parameters=dict(planned.parameters),
        started=began(seconds),
        seconds=seconds,
        source=source,
        command=target.command(planned.parameters),
        error=replace(failure, message=without_paths(failure.message)) if failure else None,
        environment={"python": platform.python_version(), "platform": platform.platform()},
    )


def _placed(root: Path, name: str, fill: Callable[[Path], RunRecord]) -> RunRecord:
    """Fill a folder for a run's next attempt, write its record last, and move it to its place."""
    places = ((n, root / "runs" / f"{name}-{n}") for n in itertools.count(1))
    number, place = next((n, place) for n, place in places if not place.exists())
    try:
        with atomic.making_folder(place) as folder:
            record = replace(fill(folder), attempt=number)
            record.write(folder)
    except FileExistsError:
        theirs = RunRecord.read(place)
        if theirs is None or theirs.status != DONE:
            raise
        return theirs  # a worker that was taken for dead, or whose sweep was stopped, has done it
    return record
