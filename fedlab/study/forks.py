"""Processes that start warm: forked from one that has imported what they import.

Starting Python and importing NumPy, pandas, matplotlib and fedlab takes seconds; a fork of a
process that has done so takes milliseconds, and shares nothing with its siblings.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlab.files import atomic

_SCRIPT = Path(__file__).with_name("forked.py")


def _changed_at(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


class Stopped(Exception):
    """A run was ended because nobody wants its result any more."""


class Forked:
    """One process, as `subprocess.Popen` has it; its group has its number."""

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        self.pid = 0
        self.returncode: int | None = None
        #: Whether it was ended because nobody wants its result any more.
        self.stopped = False
        self._begun, self._ended = threading.Event(), threading.Event()

    def begins(self, pid: int) -> None:
        """Take note of its number."""
        self.pid = pid
        self._begun.set()

    def ends(self, status: int) -> None:
        """Take note of how it ended."""
        self.returncode = status
        self._begun.set()
        self._ended.set()

    def started(self) -> Forked:
        """Return it once it has a number, or has ended without one."""
        self._begun.wait()
        return self

    def poll(self) -> int | None:
        """Return how it ended, below 0 by a signal; None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Return how it ended, when it has, or None after so many seconds."""
        self._ended.wait(timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to it and whatever it has started."""
        if self.pid and self.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def kill(self) -> None:
        """Kill it, and whatever it has started."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


class ForkServer:
    """A process that has imported some modules, and forks.

    Whoever holds it may be killed: it ends with its holder, and all that it forked with it.

    Parameters
    ----------
    preload : iterable of str
        Modules to import; what can't be imported is left to the runs.
    environment : mapping
        Its environment variables: native libraries read how many threads they may have once.
    """

    def __init__(self, preload: Iterable[str], environment: Mapping[str, str]) -> None:
        # -P: the script's own folder is no place to import from.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            start_new_session=True,
            text=True,
            bufsize=1,
        )
        self._numbers, self._forked = itertools.count(), dict[int, Forked]()
        self._lock, self._closing = threading.Lock(), False
        # On macOS, what has loaded the system's frameworks must not fork: there, runs import all.
        self._say({"preload": [] if sys.platform == "darwin" else list(preload)})
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        #: Code that it has imported: by module, the path and a digest.
        self.known: dict[str, list[str]] = json.loads(line)["known"] if line else {}
        self._stood = self._stands()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def current(self) -> bool:
        """Whether it can go on: it lives, and no code that it has imported has changed since."""
        return self._process.poll() is None and self._stands() == self._stood

    def _stands(self) -> list[int]:
        return [_changed_at(path) for path, _ in self.known.values()]

    def fork(self, **asked: Any) -> Forked:
        """Return a new process, once it runs.

        Parameters
        ----------
        **asked
            ``kernel``, arguments of a Jupyter kernel, or ``call`` ("module:function") with its
            ``arguments``; ``cwd``, ``env``, ``log`` (a file for what it prints), and ``trace``, the
            file in which it writes what it depended on; for that ``caches``, folders of what could
            be made again. If this process goes while it runs, a folder ``scratch`` goes, too.
        """
        made, number = Forked(), next(self._numbers)
        with self._lock:
            made.stopped = self._closing
            self._forked[number] = made
        if not self._say({"id": number, **asked}):
            made.ends(-signal.SIGKILL)
        return made.started()

    def close(self) -> None:
        """End it, and all that it has forked."""
        assert self._process.stdin is not None
        with self._lock:
            self._closing = True
            for forked in self._forked.values():
                forked.stopped = True
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()

    def _say(self, asked: Mapping[str, Any]) -> bool:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError), self._lock:
            self._process.stdin.write(json.dumps(asked) + "\n")
            return True
        return False

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "pid" in told:
                self._forked[told["id"]].begins(told["pid"])
            else:
                self._forked.pop(told["id"]).ends(told["status"])
        for forked in list(self._forked.values()):  # it is gone, and nobody waits for them now
            if forked.returncode is None:
                forked.kill()
                forked.ends(-signal.SIGKILL)


@dataclass
class _Kept:
    """Servers for one purpose, the warmest last; how many use them; what a run has imported.

    That is kept in a file as well, so that the first server of the next sweep is a warm one.
    """

    memory: Path
    servers: list[ForkServer] = field(default_factory=list)
    users: int = 0
    imported: Sequence[str] | None = None
    warm: bool = False


class Servers:
    """Fork servers, one for each purpose, of which few are kept without work.

    Parameters
    ----------
    idle : int
        Servers that may stand without work; of more, the one that worked longest ago is closed.
    """

    def __init__(self, idle: int = 2) -> None:
        self._idle, self._lock, self._closed = idle, threading.Lock(), False
        self._kept = dict[Hashable, _Kept]()  # in the order of their last use

    @contextlib.contextmanager
    def using(
        self, purpose: Hashable, named: Sequence[str], environment: Mapping[str, str], cache: Path
    ) -> Iterator[ForkServer]:
        """Yield the server for a purpose, with current code, made where there is none.

        Parameters
        ----------
        purpose : hashable
        named : sequence of str
            Modules to preload.
        environment : mapping
        cache : Path
            A folder that remembers what runs have imported.

        Raises
        ------
        Stopped
            If these servers were closed.
        """
        with self._lock:
            if self._closed:
                raise Stopped
            if purpose not in self._kept:
                self._kept[purpose] = _remembered(cache, named)
            kept = self._kept[purpose]
            known = kept.imported or ()
            # One that has old code, or little, stays for those that it has forked.
            cold = bool(known) and not kept.warm
            if not kept.servers or not kept.servers[-1].current or cold:
                kept.servers.append(ForkServer([*named, *known], environment))
                kept.warm = bool(known)
            kept.users += 1
            server = kept.servers[-1]
        try:
            yield server
        finally:
            self._leave(purpose)

    def warmed(self, purpose: Hashable, imported: Sequence[str]) -> None:
        """Take note of what a run has imported: the next server for this purpose begins with it."""
        with self._lock:
            kept = self._kept.get(purpose)
            if kept is not None and kept.imported is None:
                kept.imported = imported
                with contextlib.suppress(OSError):  # then the next one begins cold
                    atomic.write_bytes(kept.memory, json.dumps(imported).encode())

    def close(self) -> None:
        """End all servers, and whatever runs in them, for good."""
        with self._lock:
            self._closed = True
            ended = [server for kept in self._kept.values() for server in kept.servers]
            self._kept.clear()
        for server in ended:
            server.close()

    def _leave(self, purpose: Hashable) -> None:
        with self._lock:
            kept = self._kept.pop(purpose, None)
            if kept is None:  # closed meanwhile
                return
            kept.users -= 1
            self._kept[purpose] = kept
            ended = [] if kept.users else kept.servers[:-1]
            kept.servers = kept.servers[len(ended) :]
            free = [name for name, one in self._kept.items() if not one.users]
            for name in free[: -self._idle]:
                ended += self._kept.pop(name).servers
        for server in ended:
            server.close()


def _remembered(cache: Path, named: Sequence[str]) -> _Kept:
    known = hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]
    kept = _Kept(cache / f"imports-{known}.json")
    with contextlib.suppress(OSError, ValueError):
        kept.imported = [*map(str, json.loads(kept.memory.read_bytes()))]
    return kept


_SERVERS = dict[str, Servers]()


def servers_of(owner: str) -> Servers:
    """Return the servers that this process holds for an owner: a study, by its name."""
    return _SERVERS.setdefault(owner, Servers())
