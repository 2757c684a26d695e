"""A process that has imported what runs import, and becomes one process for each of them.

It is run by its path, so that it imports nothing of `fedlab` by itself: what a run's process has
imported in the end is then what the run imports. It reads requests from its standard input, a line
of JSON each, and answers on its standard output; `fedlab.study.forks` is the other end. When that
is gone, so are all runs.

A run's process notes what its result depends on (`Noted`), and writes that down last: a run that
was killed leaves nothing that could be taken for a whole one.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import json
import os
import random
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

#: What these events start, or reach, can't be seen from here.
_UNSEEN = {
    "subprocess.Popen": "it started a process",
    "os.system": "it started a process",
    "os.exec": "it started a process",
    "os.posix_spawn": "it started a process",
    "os.fork": "it forked",
    "os.forkpty": "it forked",
    "socket.connect": "it opened a connection",
    "sqlite3.connect": "it opened a database",
}
#: What only asks what machine this is: joblib does, and the module `platform`.
_ASKED = ("uname", "lscpu", "sysctl")
#: Who opens files in Python before native code reads them.
_OPENERS = (
    os.path.join("site-packages", "pandas", ""),
    os.path.join("site-packages", "pyarrow", ""),
    os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), ""),
)
#: Modules that read files in native code, and whose readers are called by their own names.
_NATIVE = ("pyarrow.dataset", "pyarrow.parquet", "h5py", "netCDF4", "duckdb", "polars")
#: Files that are caches of what else is noted.
_CACHES = (".pyc", ".nbi", ".nbc", ".nbe", ".lock")


def code_digest(source: bytes) -> str:
    """Return a digest of Python code that neither comments nor layout change."""
    with contextlib.suppress(SyntaxError, ValueError):  # what can't be run is told by its bytes
        source = ast.dump(ast.parse(source)).encode()
    return hashlib.sha256(source).hexdigest()


class Noted:
    """What a run reads, from when this is made.

    Parameters
    ----------
    known : dict of module name to (path, digest)
        Code that was imported before.
    owners : mapping of str to list of str
        Which distributions top-level modules belong to.
    caches : list of str
        Folders of what is kept, and could be made again.
    """

    def __init__(self, known: dict[str, list[str]], owners: Any, caches: list[str]) -> None:
        self._known, self._owners = known, owners
        self._began, self._busy = time.time_ns(), False
        self._read: dict[str, tuple[int, ...]] = {}
        self._wrote: set[str] = set()
        self._unseen: set[str] = set()
        self._aside = _installed() + tuple(os.path.realpath(p) + os.sep for p in caches)
        sys.addaudithook(self._hear)

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if self._busy:
            return
        if event == "open":
            self._busy = True
            with contextlib.suppress(OSError, ValueError, TypeError):
                self._opened(given[0], given[2])
            self._busy = False
        elif event == "os.rename":  # written aside and moved
            source, target = (os.path.realpath(os.fsdecode(path)) for path in given[:2])
            if source in self._wrote:
                self._wrote.add(target)
        elif event in _UNSEEN and not _is_harmless(event, given):
            self._unseen.add(_UNSEEN[event])

    def _opened(self, path: Any, flags: int) -> None:
        if isinstance(path, int):
            return
        name = os.path.realpath(os.fsdecode(path))
        if flags & (os.O_WRONLY | os.O_RDWR):
            if flags & os.O_TRUNC or not os.path.exists(name):
                self._wrote.add(name)
                return
            if flags & os.O_WRONLY:  # appended to: what stood there is not read
                return
        if not os.path.exists(name):  # that it wasn't there may matter
            self._read.setdefault(name, ())
        elif os.path.isfile(name) and name not in self._wrote:
            held = os.stat(name)
            self._read.setdefault(
                name, (held.st_size, held.st_mtime_ns, held.st_ctime_ns, held.st_ino)
            )

    def told(self) -> dict[str, Any]:
        """Return modules with digests, files as they were, distributions' versions, and doubts."""
        self._busy = True
        loaded = dict(sys.modules)
        modules = _sources(loaded, self._known)
        for name, (path, _) in modules.items():
            if name not in self._known and os.stat(path).st_mtime_ns > self._began:
                self._unseen.add(f"{name} changed while it ran")
        sources = {path for path, _ in modules.values()}
        files = {
            path: held
            for path, held in self._read.items()
            if path not in sources | self._wrote and not path.endswith(_CACHES)
            if not path.startswith(self._aside) and bool(held) == os.path.exists(path)
        }
        self._unseen |= {f"{name} reads files in native code" for name in _READERS}
        tops = {name.partition(".")[0] for name in loaded}
        owners = {owner for top in tops for owner in self._owners.get(top, ())}
        return {
            "modules": modules,
            "files": files,
            "distributions": {name: metadata.version(name) for name in sorted(owners)},
            "python": sys.version.split()[0],
            "unseen": sorted(self._unseen),
            "imported": [n for n in loaded if n not in modules or n.startswith("fedlab.")],
        }


@functools.cache
def _installed() -> tuple[str, ...]:
    """Return where Python and its packages are: their versions say what is there."""
    import site
    import sysconfig

    places = [sysconfig.get_path(n) for n in ("stdlib", "platstdlib", "purelib", "platlib")]
    places += [*site.getsitepackages(), site.getusersitepackages()]
    places += ["/proc", "/sys", "/dev", "/etc", "/usr/share"]
    return tuple({os.path.realpath(place) + os.sep for place in places})


def _sources(loaded: Any, known: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return path and digest of each module that is of no installed package."""
    found = {}
    for name, module in loaded.items():
        path = getattr(module, "__file__", None)
        if not isinstance(path, str) or not path.endswith(".py"):
            continue
        path = os.path.realpath(path)
        if name in known:
            found[name] = known[name]
        elif name != "__main__" and not path.startswith(_installed()) and os.path.isfile(path):
            with open(path, "rb") as file:
                found[name] = [path, code_digest(file.read())]
    return found


def _is_harmless(event: str, given: tuple[Any, ...]) -> bool:
    """Whether what happens is within this machine, or only asks what machine it is."""
    if event == "socket.connect":  # a Unix socket has no tuple
        return not (isinstance(given[1], tuple) and given[1][0] not in ("127.0.0.1", "::1"))
    if event == "sqlite3.connect":
        return bool(given[0] == ":memory:")
    # Another of these servers notes its runs by itself.
    return event == "subprocess.Popen" and (
        __file__ in given[1] or os.path.basename(os.fsdecode(given[1][0])) in _ASKED
    )


#: Modules that somebody has imported to read files in native code, here or before the fork.
_READERS: set[str] = set()


def _hear_import(event: str, given: tuple[Any, ...]) -> None:
    if event == "import" and given[0] in _NATIVE and not _is_by_openers():
        _READERS.add(given[0])


def _is_by_openers() -> bool:
    """Whether what imports a module right now opens files where that can be seen."""
    frame = sys._getframe(2)
    while frame is not None and "importlib" in frame.f_code.co_filename:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None and any(part in frame.f_code.co_filename for part in _OPENERS)


def main() -> None:
    """Import what is asked for, then make a process for each request, until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what modules print when they are imported is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    lines = _lines(woken, answers)
    first = next(lines, None)
    if first is None:
        return
    before = set(sys.modules)
    sys.addaudithook(_hear_import)
    for name in first["preload"]:
        if name in _NATIVE:  # whose import tells that it is used
            continue
        with contextlib.suppress(Exception):  # the run will meet it, and say so
            importlib.import_module(name)
    loaded = {n: m for n, m in list(sys.modules.items()) if n not in before}
    known = _sources(loaded, {})
    owners = metadata.packages_distributions()
    print(json.dumps({"known": known}), file=answers)
    for asked in lines:
        if (pid := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            answers.close()
            _become(asked, known, owners)
        print(json.dumps({"id": asked["id"], "pid": pid}), file=answers)
        _RUNNING[pid] = asked
    for pid, asked in _RUNNING.items():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)  # it may not have a group yet
        shutil.rmtree(asked.get("scratch", ""), ignore_errors=True)


#: Processes that run, and the requests that they came from.
_RUNNING: dict[int, Any] = {}


def _lines(woken: int, answers: Any) -> Iterator[Any]:
    """Yield requests, and tell meanwhile which processes ended, and how."""
    held = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            with contextlib.suppress(ChildProcessError):
                while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    pid, status = ended
                    code = os.waitstatus_to_exitcode(status)
                    number = _RUNNING.pop(pid)["id"]
                    print(json.dumps({"id": number, "status": code}), file=answers)
        if 0 in ready:
            if not (more := os.read(0, 65536)):
                return
            *whole, held = (held + more).split(b"\n")
            yield from map(json.loads, whole)


def _become(asked: dict[str, Any], known: dict[str, list[str]], owners: Any) -> None:
    """Be a run: in a group and a folder of its own, with its environment, and with no inheritance.

    It never returns.
    """
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"], JPY_PARENT_PID=str(os.getppid()))
        random.seed()
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        sys.path.insert(0, "")  # as for any script: what lies beside it can be imported
        run = _kernel(asked["kernel"]) if "kernel" in asked else _call(asked)
        noted = Noted(known, owners, asked["caches"])
        run()
        with open(asked["trace"], "w", encoding="utf-8") as file:
            json.dump(noted.told(), file)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _kernel(arguments: list[str]) -> Callable[[], object]:
    from ipykernel.kernelapp import IPKernelApp

    sys.argv = ["ipykernel_launcher", *arguments]
    app = IPKernelApp.instance()
    app.initialize(arguments)  # type: ignore[no-untyped-call]
    return app.start


def _call(asked: dict[str, Any]) -> Callable[[], object]:
    module, _, name = asked["call"].partition(":")
    return lambda: getattr(importlib.import_module(module), name)(*asked["arguments"])


if __name__ == "__main__":
    main()
