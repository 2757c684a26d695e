"""Processes that start warm: forked from one that has imported what they import.

Starting Python and importing NumPy, pandas, matplotlib and fedlab takes seconds; a fork of a
process that has done so takes milliseconds, and shares nothing with its siblings.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_SCRIPT = Path(__file__).with_name("forked.py")


def _changed_at(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


class Forked:
    """One process, as `subprocess.Popen` has it; its group has its number."""

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        self.pid = 0
        self.returncode: int | None = None
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
        self._lock = threading.Lock()
        self._say({"preload": list(preload)})
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
            file in which it writes what it depended on; for that ``named``, the modules that it
            imports by name, and ``caches``, folders of what could be made again.
        """
        made, number = Forked(), next(self._numbers)
        with self._lock:
            self._forked[number] = made
        if not self._say({"id": number, **asked}):
            made.ends(-signal.SIGKILL)
        return made.started()

    def close(self) -> None:
        """End it, and all that it has forked."""
        assert self._process.stdin is not None
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
            forked = self._forked[told["id"]]
            if "pid" in told:
                forked.begins(told["pid"])
            else:
                forked.ends(told["status"])
        for forked in list(self._forked.values()):  # it is gone, and nobody waits for them now
            if forked.returncode is None:
                forked.kill()
                forked.ends(-signal.SIGKILL)
