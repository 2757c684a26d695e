"""Do studies hold? Kills at random moments, memory, throughput, and reading many runs.

A study is killed again and again (SIGKILL): all of it, one run's process, or a server that forks
runs. In the end it must give the frame of one that was not, with no record changed, nothing half
done, and no process left; then one byte of an input is changed. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import studied
from benchmarks.summary import Spread
from fedlab.files.atomic import write_bytes
from fedlab.study import load_runs
from fedlab.study.records import DONE, RESULTS, RunRecord, attempts, latest, run_id

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("the sweep", "a run", "a server")
#: Of ten kills, so many of each kind.
TURNS = (0, 0, 1, 0, 2, 0, 0, 1, 0, 2)
PARTS = ("kills", "throughput", "load")
_MARK = "FEDLAB_CAMPAIGN"
_PATIENCE = 180.0
_GONE = 10.0


# -- processes -------------------------------------------------------------------------------------


def parents() -> dict[int, tuple[int, str]]:
    """Return parent and state of each process."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
            found[int(name)] = int(parent), state
        except OSError:  # it has ended
            continue
    return found


def marked(mark: str) -> list[int]:
    """Return the processes that a sweep with this mark, or anything it started, has left."""
    wanted, found = f"{_MARK}={mark}\0".encode(), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if wanted in Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found


def children(process: int) -> list[int]:
    """Return the processes that one has started and that live."""
    return [one for one, (parent, how) in parents().items() if parent == process and how != "Z"]


def until(what: Callable[[], object], seconds: float = _PATIENCE) -> bool:
    """Wait until something is so; say whether it came to be."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@dataclass
class Sweep:
    """A study that is run by a process of its own."""

    inputs: Path
    folder: Path
    how: dict[str, Any]
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> Sweep:
        self.folder.mkdir(parents=True, exist_ok=True)
        words = [str(self.inputs), str(self.folder), json.dumps(self.how)]
        with (self.folder / "sweep.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.studied", *words],
                cwd=ROOT,
                env=os.environ | {_MARK: str(self.folder)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def servers(self) -> list[int]:
        return children(self.process.pid)

    def runs(self) -> list[int]:
        return [one for server in self.servers() for one in children(server)]

    def left(self) -> int:
        """Return how many of its processes are there some seconds after its end."""
        until(lambda: not marked(str(self.folder)), _GONE)
        return len(marked(str(self.folder)))

    def wait_for(self, what: Callable[[], object]) -> None:
        """Wait until something is so, or the study has ended."""
        if not until(lambda: what() or self.ended):
            self.process.kill()
            raise RuntimeError(f"it does not go on; see {self.folder / 'sweep.log'}")

    def reach(self, runs: int) -> None:
        """Wait until so many runs have ended, well or not, or the study has."""
        self.wait_for(lambda: self.finished() >= runs)

    def finished(self) -> int:
        """Return how many runs, done or failed, have a place."""
        runs = self.folder / "runs"
        return sum(not n.startswith(".") for n in os.listdir(runs)) if runs.is_dir() else 0

    def records(self) -> dict[str, bytes]:
        """Return the bytes of all records."""
        return {
            path.parent.name: path.read_bytes()
            for path in (self.folder / "runs").glob("[!.]*/record.json")
        }


# -- kills -----------------------------------------------------------------------------------------


@dataclass
class Kills:
    """What came of the kills of one study.

    Attributes
    ----------
    seconds : dict of kind to list of float
        From each kill, or from the start of the next sweep, until a further run has ended.
    left, changed, half : int
        Processes that a killed sweep left; records that are not as they were; folders that are not
        whole runs.
    calls : int
        Sweeps that it took in all.
    failed : int
        Attempts that are told as failed: those whose process, or server, was killed.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    left: int = 0
    changed: int = 0
    half: int = 0
    calls: int = 1
    failed: int = 0


def kill_often(sweep: Sweep, kinds: Sequence[str], seed: int = 0) -> Kills:
    """Run a study to its end, killing something at random moments, and say what came of it.

    Parameters
    ----------
    sweep : Sweep
    kinds : sequence of str
        What is killed, in this order: of `KINDS`.
    seed : int
    """
    draw, came = np.random.default_rng(seed), Kills({kind: [] for kind in kinds})
    runs = sweep.how["runs"]
    moments = np.sort(draw.choice(np.arange(1, max(runs * 9 // 10, len(kinds) + 1)), len(kinds)))
    kept = dict[str, bytes]()
    sweep.start()
    for moment, kind in zip(moments, kinds, strict=True):
        sweep.reach(int(moment))
        time.sleep(draw.uniform(0, 0.2))
        if kind != KINDS[0]:
            sweep.wait_for(sweep.runs)
        if sweep.ended:
            raise RuntimeError("the study ended before all its kills: give it more runs")
        kept = sweep.records() | kept
        before = sweep.finished()
        began, lost = time.monotonic(), 0
        if kind == KINDS[0]:
            sweep.process.kill()
            sweep.process.wait()
            came.left += sweep.left()
            began = time.monotonic()
            came.calls += 1
            sweep.start()
        else:
            victims = sweep.runs() if kind == KINDS[1] else sweep.servers()
            victim = int(draw.choice(victims))
            lost = 1 if kind == KINDS[1] else len(children(victim))
            os.kill(victim, signal.SIGKILL)
        sweep.reach(before + lost + 1)
        came.seconds[kind].append(time.monotonic() - began)
    sweep.process.wait()
    kept = sweep.records() | kept
    while any(one.status != DONE for one in latest(sweep.folder).values()):
        if came.calls > len(kinds) + 3:
            break
        came.calls += 1
        sweep.start().process.wait()
    came.left += sweep.left()
    now = sweep.records()
    came.changed = sum(now.get(name) != content for name, content in kept.items())
    came.half = len(os.listdir(sweep.folder / "runs")) - len(now)
    came.failed = sum(one.status != DONE for one in attempts(sweep.folder))
    return came


def change_one_byte(sweep: Sweep, draw: np.random.Generator) -> tuple[int, int, int]:
    """Change a byte of an input; return how many runs read it, how many are stale, and both."""
    how = {name: value for name, value in sweep.how.items() if name != "workers"}
    study = studied.study(sweep.inputs, sweep.folder, **how)
    table = studied.tables(sweep.inputs)[draw.integers(studied.TABLES)]
    content = bytearray(table.read_bytes())
    content[draw.choice([i for i, byte in enumerate(content) if chr(byte).isdigit()])] ^= 1
    table.write_bytes(content)
    status = study.status()
    reads, stale = status.table == str(table), status.status == "stale"
    return int(reads.sum()), int(stale.sum()), int((reads & stale).sum())


# -- memory ----------------------------------------------------------------------------------------


def watch(sweep: Sweep) -> pd.DataFrame:
    """Look at a sweep until it ends; return a row a look.

    Returns
    -------
    DataFrame
        ``finished`` (runs), ``sweep_mb`` and ``servers_mb`` (resident memory), ``zombies``,
        ``files`` (open ones of the sweep) and ``threads``.
    """
    looks = []
    while not sweep.ended:
        found, pid = parents(), sweep.process.pid
        servers = [one for one, (parent, _) in found.items() if parent == pid]
        below = [found[one] for one in found if found[one][0] in (pid, *servers)]
        try:
            looks.append(
                {
                    "finished": sweep.finished(),
                    "sweep_mb": _resident(pid),
                    "servers_mb": max(map(_resident, servers), default=0.0),
                    "zombies": sum(state == "Z" for _, state in below),
                    "files": len(os.listdir(f"/proc/{pid}/fd")),
                    "threads": len(os.listdir(f"/proc/{pid}/task")),
                }
            )
        except OSError:  # it has just ended
            continue
        time.sleep(0.1)
    return pd.DataFrame(looks)


def _resident(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def quarters(looks: pd.DataFrame, runs: int) -> pd.DataFrame:
    """Return medians over each quarter of the runs; of zombies, the most that were seen at once."""
    quarter = (looks.finished * 4 // runs).clip(upper=3).rename("quarter")
    return looks.groupby(quarter).agg(
        {name: "max" if name == "zombies" else "median" for name in looks.columns[1:]}
    )


# -- throughput, and reading -----------------------------------------------------------------------


def against_papermill(folder: Path, runs: int, blocks: int, say: Callable[[str], None]) -> Spread:
    """Run notebooks by a study and by plain papermill commands, two at a time each, in turn.

    Returns
    -------
    Spread
        Of a study's seconds, its process's start included, over those of papermill, by blocks.
    """
    ratios, share = [], max(1, runs // blocks)
    inputs = folder / "inputs"
    inputs.mkdir()
    for block in range(blocks):
        how = {"runs": share, "notebooks": True, "workers": 2}
        began = time.monotonic()
        sweep = Sweep(inputs, folder / f"block-{block}", how).start()
        sweep.process.wait()
        ours = time.monotonic() - began
        done = sum(one.status == DONE for one in latest(sweep.folder).values())
        began = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            ended = list(pool.map(_papermill, [inputs] * share, range(share)))
        theirs = time.monotonic() - began
        if done != share or any(ended):
            raise RuntimeError(f"{share} runs: {done} are done, papermill ended with {set(ended)}")
        ratios.append(ours / theirs)
        say(f"block {block + 1}: {share} runs in {ours:.1f} s, by papermill in {theirs:.1f} s")
    return Spread.range(ratios)


def _papermill(inputs: Path, number: int) -> int:
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "FEDLAB_THREADS")
    table = studied.tables(inputs)[number % studied.TABLES]
    given = ["-p", "table", str(table), "-p", "n", str(number)]
    return subprocess.run(
        [
            *(sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "python3"),
            *(str(studied.notebook(inputs)), str(inputs / f"out-{number}.ipynb"), *given),
        ],
        cwd=ROOT,
        env=os.environ | dict.fromkeys(threads, "1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    ).returncode


def by_hand(folder: Path, runs: int, rounds: int = 50, metrics: int = 8) -> None:
    """Write a study's folder as so many runs would have left it."""
    import io

    draw = np.random.default_rng(0)
    names = [f"metric_{number}" for number in range(metrics)]
    for number in range(runs):
        frame = pd.DataFrame(
            {
                "round": pd.array(np.repeat(np.arange(1, rounds + 1), metrics), dtype="Int64"),
                "who": pd.array(["server"] * rounds * metrics, dtype="string"),
                "metric": pd.array(names * rounds, dtype="string"),
                "value": draw.normal(size=rounds * metrics),
            }
        )
        made = io.BytesIO()
        frame.to_parquet(made, index=False, compression="zstd")
        parameters = {"alpha": 0.1 * (number % 10), "algorithm": "fedavg", "seed": number // 10}
        record = RunRecord(
            **{"id": run_id("by hand", parameters), "attempt": 1, "target": "by hand"},
            **{"status": DONE, "parameters": parameters, "started": "2026-01-01T00:00:00+00:00"},
            **{"seconds": 1.0, "source": "", "command": ""},
            digests={RESULTS: hashlib.sha256(made.getvalue()).hexdigest()},
        )
        place = folder / "runs" / record.folder
        place.mkdir(parents=True)
        write_bytes(place / RESULTS, made.getvalue())
        record.write(place)


# -- the command -----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that are asked for, print what came of them, and return 1 if anything broke."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks studies", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--runs", type=int, help="of a study (200; for throughput 100)")
    parser.add_argument("--kills", type=int, default=10, help="(10)")
    parser.add_argument("--notebooks", action="store_true", help="kill notebooks, not functions")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time (2)")
    parser.add_argument("--blocks", type=int, default=4, help="turns of the throughput (4)")
    parser.add_argument("--load", type=int, default=1000, help="runs that are read (1000)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - set(PARTS):
        raise ValueError(f"no part is called {unknown.pop()!r}; there are {', '.join(PARTS)}")
    parts, well = given.parts or PARTS, True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "kills" in parts:
            well = _kills(folder / "kills", given)
        if "throughput" in parts:
            (folder / "throughput").mkdir()
            runs = given.runs or 100
            ratio = against_papermill(folder / "throughput", runs, given.blocks, print)
            print(f"{runs} notebooks, two at a time, take {ratio} of papermill's time")
        if "load" in parts:
            by_hand(folder / "load", given.load)
            seconds = [_seconds(lambda: load_runs(folder / "load")) for _ in range(5)]
            print(f"load_runs: {given.load:,} runs of 50 rounds and 8 metrics in s: ", end="")
            print(Spread.range(seconds))
    return int(not well)


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _kills(folder: Path, given: argparse.Namespace) -> bool:
    how = {"runs": given.runs or 200, "notebooks": given.notebooks, "workers": given.workers}
    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    whole = Sweep(inputs, folder / "whole", how).start()
    memory = quarters(watch(whole), how["runs"])
    kinds = [KINDS[turn] for turn in itertools.islice(itertools.cycle(TURNS), given.kills)]
    killed = Sweep(inputs, folder / "killed", how)
    came = kill_often(killed, kinds, given.seed)
    same = load_runs(whole.folder).equals(load_runs(killed.folder))
    reads, stale, both = change_one_byte(killed, np.random.default_rng(given.seed))
    before = killed.finished()
    killed.start().process.wait()
    again = killed.finished() - before
    print(f"{how['runs']} runs, {how['workers']} at a time, and {given.kills} kills")
    for kind, seconds in came.seconds.items():
        print(f"  of {kind:<10} {len(seconds):>2}, went on after s: {Spread.range(seconds)}")
    print(f"  {'the same frame' if same else 'ANOTHER FRAME'} as without kills")
    print(
        f"  {came.calls} sweeps; {came.failed} attempts told as failed, {came.changed} records "
        f"changed, {came.half} runs half done, {came.left} processes left"
    )
    print(
        f"one byte of an input: {reads} runs read it, {stale} are stale, {both} of them the same, "
        f"{again} ran again"
    )
    print("memory without kills, by quarters of the runs\n" + memory.round(1).to_string())
    flat = memory[["sweep_mb", "servers_mb"]].pipe(lambda m: m.iloc[-1] <= 1.1 * m.iloc[1])
    return (
        same
        and not (came.changed or came.half or came.left)
        and reads == stale == both == again
        and bool(flat.all())
    )


if __name__ == "__main__":
    sys.exit(main())
