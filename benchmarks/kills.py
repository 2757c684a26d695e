"""Does a save fail closed? Hundreds of saves, each killed (SIGKILL) in the middle.

Some kills fall exactly before and after each call by which a save touches the file system: they are
listed first, then a child kills itself at each in turn. The others fall at random times on a file
of 200 MB. After each kill the file must open, and be bit for bit the old content or the new one;
after the next save nothing may be left beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.campaign import two_indexes
from benchmarks.seals import uniform_index
from fedlab.files import atomic
from fedlab.files.keys import Key
from fedlab.files.sealing import unsealed
from fedlab.index.file import IndexFileError
from fedlab.index.vectorindex import VectorIndex
from fedlab.workbench.experiments.timing import seconds_in_turn

#: The calls by which `fedlab.files` touches the file system, and those of an open file.
CALLS = ("close", "fdopen", "fstat", "fsync", "open", "replace", "unlink")
METHODS = ("write", "flush", "close")

Counts = dict[str, Counter[str]]


@dataclass(frozen=True)
class Target:
    """A file that holds an old index, and is to be saved over by a new one.

    Attributes
    ----------
    path : Path
        In a folder of its own.
    key : Key, optional
    old, new : VectorIndex
    known : dict of bytes to str
        The digest of what the file holds before and after.
    """

    path: Path
    key: Key | None
    old: VectorIndex
    new: VectorIndex
    known: dict[bytes, str]

    @classmethod
    def of(cls, path: Path, old: VectorIndex, new: VectorIndex, key: Key | None) -> Target:
        target = cls(path, key, old, new, {})
        for name, save in (("old", target.restore), ("new", target.save)):
            save()
            target.known[target._digest()] = name
        assert len(target.known) == 2
        target.restore()
        return target

    def restore(self) -> None:
        """Save the old index."""
        self.old.generation = 0
        self.old.save(self.path, self.key)

    def save(self) -> None:
        """Save the new index over the old one: what is killed."""
        self.new.generation = 1
        self.new.save(self.path, self.key)

    def after_kill(self) -> Iterator[str]:
        """Yield what came of a kill, in words; the file is the old one again afterwards."""
        try:
            VectorIndex.open(self.path, self.key)
            yield self.known.get(self._digest(), "torn")
        except (IndexFileError, OSError):
            yield "torn"
        if self._beside():
            yield "with a temporary file"
        self.restore()
        if self._beside():
            yield "left after the next save"

    def leave_something(self) -> None:
        """Put a file beside it such as a killed save leaves."""
        atomic._name_beside(self.path).write_bytes(b"half of it")

    def _beside(self) -> list[str]:
        return [name for name in os.listdir(self.path.parent) if name != self.path.name]

    def _digest(self) -> bytes:
        content = self.path.read_bytes() if self.key is None else unsealed(self.path, self.key)
        return hashlib.blake2b(content).digest()


# -- before and after each call --------------------------------------------------------------------


class _Trace:
    """The moments before and after each call; at one of them, the process ends."""

    def __init__(self, last: int | None) -> None:
        self.moments: list[str] = []
        self._last = last
        for name in CALLS:
            setattr(os, name, self._around(getattr(os, name), name))
        if atomic.fcntl is not None:
            atomic.fcntl.flock = self._around(atomic.fcntl.flock, "flock")
        opened = os.fdopen
        os.fdopen = lambda *given: _Traced(opened(*given), self._around)  # type: ignore[assignment]

    def _around(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def traced(*given: Any, **more: Any) -> Any:
            self._moment(f"before {name}")
            result = call(*given, **more)
            self._moment(f"after {name}")
            return result

        return traced

    def _moment(self, name: str) -> None:
        if len(self.moments) == self._last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.moments.append(name)


class _Traced:
    """An open file whose methods are traced."""

    def __init__(self, file: Any, around: Callable[..., Any]) -> None:
        self._file = file
        self.fileno = file.fileno
        for name in METHODS:
            setattr(self, name, around(getattr(file, name), f"file.{name}"))

    def __enter__(self) -> _Traced:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()  # type: ignore[attr-defined]


def moments(target: Target) -> list[str]:
    """Return the moments of a save, in their order: before and after each call."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            send = os.write
            trace = _Trace(None)
            target.save()
            send(theirs, json.dumps(trace.moments).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        named: list[str] = json.loads(pipe.read())
    os.waitpid(child, 0)
    target.restore()
    return named


def at_moments(name: str, target: Target, leftover: bool = False, every: int = 1) -> Counts:
    """Kill a save before and after each call, and return how the kills ended, by moment.

    Parameters
    ----------
    name : str
        What the strata's names begin with.
    target : Target
    leftover : bool
        Whether an earlier killed save has left something that this one removes.
    every : int
        One gives all moments, two every other.
    """
    if leftover:
        target.leave_something()
    counts: Counts = {}
    for number, moment in list(enumerate(moments(target)))[::every]:
        if leftover:
            target.leave_something()
        child = os.fork()
        if not child:
            try:
                _Trace(number)
                target.save()
            finally:
                os._exit(1)  # it should have been killed
        _, how = os.waitpid(child, 0)
        if not os.WIFSIGNALED(how):
            raise RuntimeError(f"{name}: the save went past moment {number} ({moment})")
        counts.setdefault(f"{name}, {moment}", Counter())["kills"] += 1
        counts[f"{name}, {moment}"].update(target.after_kill())
    return counts


# -- at random times -------------------------------------------------------------------------------


def at_random(name: str, target: Target, kills: int, seed: int = 0) -> Counts:
    """Kill saves at random times, uniform over what a whole one takes."""
    draw = np.random.default_rng(seed)
    [longest] = seconds_in_turn({"save": target.save})["save"]
    target.restore()
    counts = Counter[str]()
    while counts["kills"] < kills:
        child = os.fork()
        if not child:
            try:
                target.save()
            finally:
                os._exit(0)
        time.sleep(draw.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        _, how = os.waitpid(child, 0)
        if os.WIFSIGNALED(how):
            counts["kills"] += 1
            counts.update(target.after_kill())
        else:  # it was done before the signal came
            target.restore()
    return {f"{name}, at random": counts}


# -- the campaign ----------------------------------------------------------------------------------


def _small(folder: Path, key: Key | None) -> Target:
    """A file of three chunks and more, with labels and a graph."""
    old, new = two_indexes(12_000)
    return Target.of(_place(folder), old, new, key)


def _large(folder: Path, key: Key | None, megabytes: int) -> Target:
    rows = megabytes * 1_000_000 // (4 * 384 + 8)
    index = uniform_index(rows)
    return Target.of(_place(folder), index, index.view(0, rows - 1), key)


def _place(folder: Path) -> Path:
    folder.mkdir()
    return folder / "ward.index"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign, print how its kills ended, and return 1 if any left a torn file or more."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="at least so many in all (200)")
    parser.add_argument("--random", type=int, default=60, help="at least so many at random (60)")
    parser.add_argument("--megabytes", type=int, default=200, help="size of the large file (200)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    counts: Counts = {}
    keys = {"plain": None, "sealed": Key.generate()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for sort, key in keys.items():
            target = _small(folder / f"small {sort}", key)
            for leftover in (False, True):
                beside = " beside a leftover" if leftover else ""
                counts |= at_moments(f"{sort}{beside}", target, leftover)
        exact = _total(counts, "kills")
        randomly = max(given.random, given.kills - exact)
        for place, (sort, key) in enumerate(keys.items()):
            share = (randomly + place) // len(keys)
            target = _large(folder / f"large {sort}", key, given.megabytes)
            counts |= at_random(f"{sort} of {given.megabytes} MB", target, share, given.seed)
    return _report(counts, exact)


def _total(counts: Counts, what: str) -> int:
    return sum(ends[what] for ends in counts.values())


def _report(counts: Counts, exact: int) -> int:
    width = max(map(len, counts))
    for stratum, ends in counts.items():
        said = ", ".join(f"{count} {how}" for how, count in ends.items() if how != "kills")
        print(f"{stratum:<{width}}  {ends['kills']:>3} kills: {said}")
    kills, torn, left = (
        _total(counts, what) for what in ("kills", "torn", "left after the next save")
    )
    print(
        f"{kills} kills, {exact} of them before or after a call: {_total(counts, 'old')} old, "
        f"{_total(counts, 'new')} new, {torn} torn; {_total(counts, 'with a temporary file')} with "
        f"a temporary file beside it, {left} after the next save"
    )
    return int(torn > 0 or left > 0)


if __name__ == "__main__":
    sys.exit(main())
