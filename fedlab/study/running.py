"""How the runs of a study are given out to workers, done, and put in their place."""

from __future__ import annotations

import datetime
import itertools
import json
import platform
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

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
)
from fedlab.study.scrub import without_paths
from fedlab.study.targets import Runnable, Share
from fedlab.study.trace import Now
from fedlab.study.watching import Pruning

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
class Sweep:
    """Gives runs to an executor, so many at a time, until all have ended.

    Parameters
    ----------
    study : Study
    pool : Executor
    share : Share
    workers : int
    tell : function or None
    """

    study: Ordered
    pool: Executor
    share: Share
    workers: int
    tell: Told | None

    @classmethod
    @contextmanager
    def over(
        cls,
        study: Ordered,
        workers: int,
        limit: float,
        executor: Executor | None,
        tell: Told | None,
    ) -> Iterator[Sweep]:
        """Yield a sweep; when the block is left, however, no process of its own stays behind."""
        threads, cache = max(1, cores() // workers), study.folder / ".cache"
        cache.mkdir(parents=True, exist_ok=True)
        if executor is not None:
            # There, servers outlive this call: all studies have them together, so they stay few.
            yield cls(study, executor, Share(threads, limit, "", cache), workers, tell)
            return
        owner = f"{study.folder} {next(_CALLS)}"
        pool = ThreadPoolExecutor(workers)
        try:
            yield cls(study, pool, Share(threads, limit, owner, cache), workers, tell)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            servers_of(owner).close()
            pool.shutdown()

    def run(self, due: Sequence[Planned], done: int) -> dict[str, RunRecord]:
        """Run all of `due`; return the records of those that failed and could not be written.

        Parameters
        ----------
        due : sequence of Planned
        done : int
            How many need not be run.
        """
        study, source = self.study, self.study.target.source()
        left, pending = deque(due), dict[Any, Planned]()
        counts, unwritten = {DONE: done, FAILED: 0}, dict[str, RunRecord]()

        def say(record: RunRecord | None = None) -> None:
            if self.tell is not None:
                self.tell(counts | {"running": len(pending), "left": len(left)}, record)

        say()
        try:
            while left or pending:
                while left and len(pending) < self.workers:
                    one = left.popleft()
                    asked = (study.folder, study.target, one, source, self.share, study.inputs)
                    # To Dask, a call is its arguments: a second try would get the first one's end.
                    pending[self.pool.submit(perform, *asked, uuid.uuid4().hex)] = one
                    say()
                for future in [future for future in pending if future.done()]:
                    record = self._record_of(future, pending.pop(future), source)
                    if not record.attempt:
                        unwritten[record.id] = record
                    counts[record.status] += 1
                    say(record)
                # To look at a job of a cluster may take a call over the network.
                time.sleep(_LOOK_SECONDS * max(1, len(pending) / 4))
        finally:
            for future in pending:
                future.cancel()
        return unwritten

    def _record_of(self, future: Any, planned: Planned, source: str) -> RunRecord:
        """Return a run's record; where its worker is gone, or could not write one, of that."""
        try:
            record: RunRecord = future.result()
        except Exception as error:
            failure = Failure(type(error).__name__, str(error))
            record = _record(self.study.target, planned, source, 0.0, failure)
            with suppress(OSError):  # where the disk is full, it is in what the study gives back
                return _placed(self.study.folder, planned.id, lambda folder: record)
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
    began = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    return RunRecord(
        id=planned.id,
        attempt=0,
        target=target.name,
        status=FAILED if failure else DONE,
        parameters=dict(planned.parameters),
        started=began.isoformat("T", "milliseconds"),
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
