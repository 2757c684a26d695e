"""Studies whose runs other processes start: Dask's workers, and submitit's jobs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedlab.study import Study, grid
from fedlab.study.records import attempts
from fedlab.workbench.batch.target import notebook_target
from tests.study import work
from tests.workbench.building import gone, notebook, write

distributed = pytest.importorskip("distributed")
submitit = pytest.importorskip("submitit")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
#: Seconds after which Dask's scheduler takes a worker for dead, where a test waits for that. A busy
#: machine stands still for some; and workers that are taken for dead end.
DEAD = 15
#: Seconds until a cluster's client ends; what waits for workers that are gone fails then.
BOUND = 400.0


def until(what: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def parent(process: int) -> int:
    """A process's parent; 0 where there is no such process."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def numbers(mark: Path) -> list[int]:
    """The processes of the runs that wrote them down."""
    return [*map(int, mark.read_text().split())] if mark.exists() else []


@dataclass
class Cluster:
    """A scheduler and workers of Dask, each a process of its own on this machine."""

    folder: Path
    dead: float = 300
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    scheduler: subprocess.Popen[bytes] | None = None

    @property
    def file(self) -> Path:
        return self.folder / "scheduler.json"

    def start(self, workers: int) -> distributed.Client:
        self.scheduler = self._process("dask_scheduler", "--port", "0")
        until(lambda: self.file.exists() and self.file.read_text().strip())
        for _ in range(workers):
            self.add()
        client = distributed.Client(scheduler_file=str(self.file))
        client.wait_for_workers(workers, timeout=60)
        return client

    def add(self) -> None:
        # In a folder of its own, as on another machine.
        where = ["--local-directory", str(self.folder / "scratch"), "--no-nanny", "--nthreads", "2"]
        self.workers.append(self._process("dask_worker", *where))

    def close(self) -> None:
        for one in [self.scheduler, *self.workers]:
            if one is not None:
                one.kill()
                one.wait()

    def _process(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", f"distributed.cli.{module}", "--no-dashboard"),
                    *("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"),
                    *("--scheduler-file", str(self.file), *words),
                ],
                env=os.environ
                | {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{self.dead} s"}
                | {"DASK_TEMPORARY_DIRECTORY": str(self.folder)}
                | {"PYTHONPATH": str(ROOT)},
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@contextlib.contextmanager
def served(made: Cluster) -> Iterator[tuple[Cluster, Any]]:
    try:
        with made.start(2) as client:
            bound = threading.Timer(BOUND, client.close)
            bound.start()
            try:
                yield made, client
            finally:
                bound.cancel()
    finally:
        made.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Any]]:
    with served(Cluster(tmp_path_factory.mktemp("dask"))) as made:
        yield made


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    """A study of a function, and one of a notebook, run by this process."""
    folder = tmp_path_factory.mktemp("local")
    write(
        notebook(
            "# Small",
            "twice = 2 * n",
            "from fedlab.study import record; record(twice=twice)",
            parameters="n: int = 0",
        ),
        folder / "small.ipynb",
    )
    made = [
        Study(work.curve, folder / "curve", grid(alpha=[0.1, 1.0], rounds=[2])),
        Study(notebook_target(folder / "small.ipynb"), folder / "notebook", grid(n=[1, 2])),
    ]
    for study in made:
        assert set(study.run(workers=2).status) == {"done"}
    return made


def same(executor: Any, local: list[Study], folder: Path) -> None:
    for theirs in local:
        mine = Study(
            theirs.target, folder / theirs.target.name, [one.parameters for one in theirs.runs]
        )
        assert set(mine.run(workers=2, executor=executor).status) == {"done"}, mine.status().why
        pd.testing.assert_frame_equal(mine.frame(), theirs.frame())


def test_many_studies_leave_few_processes_to_a_worker(tmp_path: Path) -> None:
    def servers() -> int:
        return sum(parent(int(one)) == os.getpid() for one in os.listdir("/proc") if one.isdigit())

    before = servers()
    with ThreadPoolExecutor(1) as pool:  # as a worker of a cluster does
        for number in range(3):
            Study(work.keeps_state, tmp_path / f"{number}").run(executor=pool)
    assert servers() - before <= 2


# Dask


def test_dask_gives_the_frame_of_the_local_pool(
    cluster: tuple[Cluster, Any], local: list[Study], tmp_path: Path
) -> None:
    client = cluster[1]
    same(client, local[:1], tmp_path)
    same(client.get_executor(), local[1:], tmp_path)


@pytest.mark.parametrize("allowed", [3, 0])
def test_a_worker_of_dask_is_killed(
    cluster: tuple[Cluster, Any], tmp_path: Path, allowed: int
) -> None:
    made, client = cluster

    def allow(dask_scheduler: Any) -> None:
        dask_scheduler.allowed_failures = allowed

    client.run_on_scheduler(allow)
    mark = tmp_path / "mark"
    points = grid(seconds=[1.5, 1.6, 1.7, 1.8], place=[str(mark)])
    study = Study(work.trouble, tmp_path / "study", points)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(study.run, workers=4, executor=client)
        victim = made.workers.pop()
        killed = until(lambda: [one for one in numbers(mark) if parent(parent(one)) == victim.pid])
        victim.kill()
        victim.wait()
        assert all(map(gone, killed))
        made.add()
        table = running.result(60)
    if allowed:  # Dask itself starts them again, elsewhere
        assert set(table.status) == {"done"}
        assert len(list(attempts(study.folder))) == 4
        return
    lost = table[table.status == "failed"]
    assert 1 <= len(lost) <= 2
    assert set(table.status) == {"done", "failed"}
    assert lost.why.str.contains("KilledWorker").all()
    assert set(study.run(workers=4, executor=client).status) == {"done"}
    assert len(list(attempts(study.folder))) == 4 + len(lost)


@pytest.fixture
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Any]]:
    with served(Cluster(tmp_path_factory.mktemp("strict"), DEAD)) as made:
        yield made


def test_a_run_that_holds_the_interpreter_does_not_stop_the_heartbeat(
    strict: tuple[Cluster, Any], tmp_path: Path
) -> None:
    client = strict[1]
    workers = set(client.scheduler_info()["workers"])
    study = Study(work.trouble, tmp_path, grid(kind=["holds"], seconds=[2.0 * DEAD]))
    # The control: the same in a worker itself, which is taken for dead.
    here, there = sorted(workers)
    client.submit(work.trouble, "holds", 3.0 * DEAD, workers=[here], pure=False)
    assert set(study.run(executor=client.get_executor(workers=[there])).status) == {"done"}
    assert len(list(attempts(tmp_path))) == 1
    assert there in client.scheduler_info()["workers"]
    assert here not in client.scheduler_info()["workers"]


# submitit


def test_submitit_gives_the_frame_of_the_local_pool(local: list[Study], tmp_path: Path) -> None:
    same(submitit.AutoExecutor(tmp_path / "jobs", cluster="local"), local, tmp_path)


def test_a_job_of_submitit_is_killed(tmp_path: Path) -> None:
    mark, jobs = tmp_path / "mark", submitit.LocalExecutor(tmp_path / "jobs")
    points = grid(seconds=[2.0, 2.1], place=[str(mark)])
    study = Study(work.trouble, tmp_path / "study", points)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(study.run, workers=2, executor=jobs)
        victim = until(lambda: numbers(mark))[0]
        os.kill(parent(parent(victim)), signal.SIGKILL)  # the job's process
        assert gone(victim)
        table = running.result(60).set_index("status")
    assert sorted(table.index) == ["done", "failed"]
    assert "UncompletedJobError" in table.why["failed"]
    assert set(study.run(executor=jobs).status) == {"done"}
    assert len(list(attempts(study.folder))) == 3
