"""A test bed: SuperLink and a SuperNode for each device, real processes on this machine alone.

What it writes stands in one folder: keys and certificates of mode 600, Flower's settings and its
database, logs, and a folder for each node. It ends what it started, however the block ends; and
where this process is killed, the system ends them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from shutil import which
from typing import Any

from fedlab.core.extras import flower, missing
from fedlab.core.validation import positive
from fedlab.deploy.flower import FlowerLink
from fedlab.deploy.messages import Id
from fedlab.deploy.searching import RemoteResponding
from fedlab.deploy.server import deployed, respondents
from fedlab.device.device import Device
from fedlab.federation import Federation
from fedlab.files.atomic import write_bytes
from fedlab.files.keys import Key

#: By which the processes of a bed are known: it stands in their environment.
_MARK = "FEDLAB_TEST_BED"
#: In place of Flower's own commands: what is started for each message doesn't load all of
#: SuperNode first; and SuperLink has our limit.
_COMMANDS = {
    "flwr-clientapp": """
import sys, types

none = types.SimpleNamespace(flower_supernode=None)
sys.modules["flwr.supernode.cli.flower_supernode"] = none
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

flwr_clientapp()
""",
    "flower-superlink": "from fedlab.deploy.superlink import main\n\nmain()\n",
}


class TestBed:
    """SuperLink and SuperNodes on loopback, for as long as a ``with`` block.

    Parameters
    ----------
    folder : path-like
        Where everything is written; it must not exist.
    devices : sequence of Device
        Their rows are sealed into the nodes' folders, each under a key of its own.
    patience : float
        Seconds in which all nodes have to be there, and in which a message is answered.

    Raises
    ------
    FileExistsError
        If the folder is there already.
    FileNotFoundError
        If Flower is not there (``make flower``).
    RuntimeError
        If something does not come up in time; it says what, and where its log is.
    """

    __test__ = False  # pytest takes it for tests

    def __init__(
        self, folder: str | os.PathLike[str], devices: Sequence[Device], patience: float = 120.0
    ) -> None:
        ids = [device.id for device in devices]
        positive(patience=patience, devices=len(ids))
        if Path(folder).exists():
            raise FileExistsError(f"{folder} is there already; give another folder, or remove it")
        self._set(folder, {"ids": ids, "port": _free_port(), "patience": patience})
        if missing("flower"):
            raise FileNotFoundError(
                f"Flower is not in {self.commands}; `make flower` puts it there, or name its "
                "environment: FEDLAB_FLOWER=/path/to/environment"
            )
        for name in ("", "logs", "keys", "nodes", "flwr", "bin"):
            (self.folder / name).mkdir(mode=0o700)
        for name, code in _COMMANDS.items():
            command, script = (self.folder / "bin" / one for one in (name, f"{name}.py"))
            script.write_text(code, encoding="utf-8")
            run = f'exec {quote(str(self.commands / "python"))} {quote(str(script))} "$@"'
            command.write_text(f"#!/bin/sh\n{run}\n", encoding="utf-8")
            command.chmod(0o700)
        for device in devices:
            node, key = self.node(device.id), Key.generate()
            node.mkdir(mode=0o700)
            key.write(self._key("device", device.id))
            device.index.save(node / "index.fedlab", key)
            told = {"id": device.id, "profile": asdict(device.profile)}
            (node / "device.json").write_text(json.dumps(told), encoding="utf-8")

    def _set(self, folder: str | os.PathLike[str], told: dict[str, Any]) -> None:
        self.folder, self.commands, self.told = Path(folder).absolute(), flower(), told
        self.ids, self.port, self.patience = told["ids"], told["port"], told["patience"]
        self.link: FlowerLink | None = None
        self._processes: dict[Id, subprocess.Popen[bytes]] = {}

    @classmethod
    def at(cls, folder: str | os.PathLike[str]) -> TestBed:
        """Return the bed that another process holds in a folder; to close it ends none of it."""
        bed = cls.__new__(cls)
        bed._set(folder, json.loads((Path(folder) / "bed.json").read_text(encoding="utf-8")))
        return bed

    def node(self, device: Id) -> Path:
        """Return the folder of a device's node."""
        return self.folder / "nodes" / str(self.ids.index(device))

    def _key(self, kind: str, device: Id) -> Path:
        return self.folder / "keys" / f"{kind}{self.ids.index(device)}"

    # -- processes ---------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What Flower's processes are told: to stay at home."""
        root, before = Path(__file__).resolve().parents[2], os.environ.get("PYTHONPATH", "")
        settings = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        settings |= {"FLWR_HOME": str(self.folder / "flwr"), _MARK: str(self.folder)}
        settings |= {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05"}
        settings |= {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), before]))}
        path = os.pathsep.join([str(self.folder / "bin"), str(self.commands), os.defpath])
        return {**os.environ, **settings, "PATH": path}

    def _start(self, who: Id, command: str, **told: object) -> None:
        words = [f"--{name.replace('_', '-')}={value}" for name, value in told.items()]
        log = self.folder / "logs" / f"{self.ids.index(who) if who in self.ids else 'superlink'}"
        how: dict[str, Any] = {"env": self.environment, "start_new_session": True}
        if sys.platform == "linux":
            how["preexec_fn"] = _end_with_parent
        how |= {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        found = str(which(command, path=self.environment["PATH"]))
        run = [found, *(word.removesuffix("=True") for word in words)]
        with open(log, "ab") as file:
            self._processes[who] = subprocess.Popen(run, stdout=file, **how)

    def start_superlink(self) -> None:
        """Start SuperLink; it goes on from its database."""
        keys = self.folder / "keys"
        tls = {"ssl_ca_certfile": keys / "ca.crt", "ssl_certfile": keys / "server.crt"}
        state = {"ssl_keyfile": keys / "server.key", "database": self.folder / "flwr" / "state.db"}
        where = {"host": "127.0.0.1", "port": self.port, "enable_supernode_auth": True}
        more = {"disable_runtime_dependency_installation": True}
        self._start("", "flower-superlink", **tls, **state, **where, **more)
        self._until(lambda: _listens(self.port), "SuperLink does not listen", "")

    def start_node(self, device: Id, **other: object) -> None:
        """Start a device's SuperNode; `other` are settings of Flower's in place of ours.

        For a minute SuperLink takes one that was killed for one that is there, and refuses another.
        """
        if (link := self.link) is not None:
            self._until(lambda: device not in link.online(), f"SuperLink still has {device!r}")
        config = f'folder="{self.node(device)}" key-file="{self._key("device", device)}"'
        told = {"superlink": f"127.0.0.1:{self.port}", "node_config": config, "host": "127.0.0.1"}
        told["root_certificates"] = str(self.folder / "keys" / "ca.crt")
        told["auth_supernode_private_key"] = str(self._key("node", device))
        self._start(device, "flower-supernode", **{**told, "port": _free_port(), **other})

    def kill(self, who: Id = "") -> None:
        """Kill a device's SuperNode, or SuperLink, and all that it started."""
        process = self._processes.pop(who)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def __enter__(self) -> TestBed:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> TestBed:
        """Start all, and wait until it is there; ``with`` does, and closes it in the end."""
        self._keys("make")
        certificate, settings = self.folder / "keys" / "ca.crt", self.folder / "flwr/config.toml"
        address = f'address = "127.0.0.1:{self.port}"\nroot-certificates = "{certificate}"\n'
        settings.write_text(f"[superlink.fedlab]\n{address}", encoding="utf-8")
        self.start_superlink()
        self.told["numbers"] = [int(n) for n in self._keys("register").split(":")[-1].split()]
        (self.folder / "bed.json").write_text(json.dumps(self.told), encoding="utf-8")
        for id in self.ids:
            self.start_node(id)
        self.connect()
        self.wait()
        return self

    def _keys(self, way: str) -> str:
        command = [self.commands / "python", "-m", "fedlab.deploy.keys", way, self.folder / "keys"]
        how: dict[str, Any] = {"env": self.environment, "timeout": self.patience, "text": True}
        done = subprocess.run([*map(str, command), str(len(self.ids))], capture_output=True, **how)
        if done.returncode:
            raise RuntimeError(f"Flower could not {way} keys: {done.stderr[-800:]}")
        return str(done.stdout)

    def connect(self) -> None:
        """Open a link to SuperLink; where that is started again, the link comes anew by itself."""
        nodes = dict(zip(self.ids, self.told["numbers"], strict=True))
        flwr = str(self.commands / "flwr")
        self.link = FlowerLink(self.folder, nodes, flwr, self.environment, self.patience)

    def wait(self) -> None:
        """Wait until all nodes are there, for a bounded time."""
        all_there = {"online"}
        self._until(lambda: {*self.status().values()} == all_there, "nodes are missing", *self.ids)

    def _until(self, so: Callable[[], bool], wrong: str, *whose: Id) -> None:
        end, logs = time.monotonic() + self.patience, self.folder / "logs"
        while not so():
            gone = [who for who in whose if self._processes[who].poll() is not None]
            if gone or time.monotonic() > end:
                raise RuntimeError(f"{wrong} after {self.patience:g} s, ended: {gone}; see {logs}")
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; afterwards none is left."""
        if self.link is not None:
            self.link.close()
        end = time.monotonic() + 10
        nodes = [process for who, process in self._processes.items() if who != ""]
        # SuperLink last: a node that is let down tries for long to reach it.
        for group in (nodes, [*self._processes.values()]):
            for process in group:
                process.terminate()
            for process in group:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, end - time.monotonic()))
        while self._processes and (left := marked(self.folder)) and time.monotonic() < end + 10:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    # -- what it is for ----------------------------------------------------------------------------

    def federation(
        self, experiment: str | os.PathLike[str], patience: float = 120.0, **parameters: Any
    ) -> Federation:
        """Give every node the experiment's file, and return the federation: see `deployed`.

        A node has one experiment: a federation of another file goes on no more. Where this one is
        refused, nodes have the old one again.
        """
        assert self.link is not None
        new = Path(experiment).read_bytes()
        files = [self.node(id) / "experiment.py" for id in self.ids]
        before = [file.read_bytes() if file.exists() else None for file in files]
        try:
            for file in files:
                write_bytes(file, new)
            return deployed(self.link, experiment, patience=patience, **parameters)
        except BaseException:
            for file, old in zip(files, before, strict=True):
                file.unlink(missing_ok=True) if old is None else write_bytes(file, old)
            raise

    def respondents(self, federation: Federation) -> list[RemoteResponding]:
        """Return the devices for `fedlab.search.FederatedSearch`."""
        assert self.link is not None
        return respondents(self.link, federation, self.patience)

    def status(self) -> dict[Id, str]:
        """Return how each device's node is: "online", "not there", or "ended"."""
        online = [] if self.link is None else self.link.online()
        said: dict[Id, str] = {id: "online" if id in online else "not there" for id in self.ids}
        running = [who for who, process in self._processes.items() if process.poll() is None]
        return {id: how if id in running or not running else "ended" for id, how in said.items()}


def marked(folder: Path) -> list[int]:
    """Return the processes that a bed in this folder started, as far as the system tells."""
    found, mark = [], f"{_MARK}={folder}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as door:
        return door.connect_ex(("127.0.0.1", port)) == 0


def _end_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
