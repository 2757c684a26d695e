"""A link whose messages Flower carries, over TLS, between nodes that are known by their keys.

Flower's server app is a process of SuperLink's. It passes messages on through a door, a connection
within this machine that takes a key; so this process needs no Flower, and stays what it is where
SuperLink or the app ends.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from fedlab.deploy.messages import LARGEST, Id
from fedlab.files.atomic import write_bytes

#: The bundle that Flower hands to every node: it names what is there already.
_BUNDLE = {
    "pyproject.toml": """[project]
name = "fedlab-app"
version = "1.0.0"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fedlab"

[tool.flwr.app.components]
serverapp = "bundle:server"
clientapp = "bundle:client"

[tool.flwr.app.config]
door = ""
""",
    # Flower looks for assignments.
    "bundle.py": "import fedlab.deploy.app as a\nclient = a.client\nserver = a.server\n",
}
_GONE = "the app at SuperLink is gone"
#: Seconds after a try to start it again in which there is no other.
_AGAIN = 10.0


class FlowerLink:
    """Messages to nodes over Flower.

    Parameters
    ----------
    folder : path-like
        Where the app's bundle and the door's key are written; of this user alone.
    nodes : mapping of device id to int
        Flower's number of each device's node, as it was registered with its public key.
    flwr : str
        Flower's command.
    environment : mapping of str to str
        Of that command.
    patience : float
        Seconds in which the app has to come to the door; and in which a message is answered.

    Raises
    ------
    RuntimeError
        If Flower starts no run, or its app does not come.

    Notes
    -----
    Where the app has gone, because SuperLink ended or gave it up, the next message starts another,
    in the same bounded time; where that fails, messages fail, and a later one tries again.
    """

    def __init__(
        self,
        folder: Path,
        nodes: Mapping[Id, int],
        flwr: str,
        environment: Mapping[str, str],
        patience: float,
    ) -> None:
        self._nodes, self._patience, self._lock = dict(nodes), patience, Lock()
        self._numbers, self._open = itertools.count(), dict[int, Future[Any]]()
        self._folder, self._flwr, self._environment = folder, flwr, environment
        self._ended, self._again = False, 0.0
        app = folder / "app"
        app.mkdir(exist_ok=True)
        for name, text in _BUNDLE.items():
            (app / name).write_text(text, encoding="utf-8")
        self._connect()

    def _connect(self) -> None:
        """Start the app at SuperLink, and wait until it comes to the door."""
        key, door, said = os.urandom(32), self._folder / "door.json", "it did not answer"
        with Listener(("127.0.0.1", 0), authkey=key) as listener:
            told = {"address": listener.address, "key": key.hex()}
            write_bytes(door, json.dumps(told).encode(), mode=0o600)
            app = [str(self._folder / "app"), "fedlab", "--run-config", f'door="{door}"']
            how: dict[str, Any] = {"env": self._environment, "timeout": self._patience}
            came: list[Connection] = []
            with suppress(subprocess.TimeoutExpired):
                run = [self._flwr, "run", *app]
                done = subprocess.run(run, capture_output=True, text=True, **how)
                said = (done.stdout + done.stderr)[-500:]
                # A listener by itself would wait for ever.
                waiting = Thread(target=_take_one, args=(listener, came), daemon=True)
                waiting.start()
                waiting.join(0 if done.returncode else self._patience)
            door.unlink()
        if not came:
            raise RuntimeError(f"Flower starts no run: {said}")
        [self._door] = came
        if self._ended:  # by who did not wait for this
            self._door.close()
        Thread(target=self._listen, args=came, daemon=True, name="fedlab door").start()

    @property
    def devices(self) -> Sequence[Id]:
        return list(self._nodes)

    def online(self) -> list[Id]:
        """Return the devices whose nodes Flower knows to be there; none if SuperLink is gone."""
        try:
            there = set(self._ask({"kind": "nodes"}).result(self._patience)["nodes"])
        except ConnectionError:
            there = set()
        return [device for device, node in self._nodes.items() if str(node) in there]

    def send(self, device: Id, kind: str, data: bytes) -> Future[bytes]:
        asked = {"kind": kind, "node": str(self._nodes[device]), "patience": self._patience}
        return self._ask(asked, data)

    def _ask(self, asked: dict[str, Any], data: bytes | None = None) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._door.closed and not self._ended and time.monotonic() > self._again:
                with suppress(OSError, RuntimeError):  # the message says that it is gone
                    self._connect()
                self._again = time.monotonic() + _AGAIN
            number = next(self._numbers)
            self._open[number] = future
            try:
                self._door.send_bytes(json.dumps({**asked, "number": number}).encode())
                if data is not None:
                    self._door.send_bytes(data)
            except OSError:
                self._open.pop(number, future).set_exception(ConnectionError(_GONE))
        return future

    def _listen(self, door: Connection) -> None:
        try:
            while True:
                told = json.loads(door.recv_bytes())
                future = self._open.pop(told["number"])
                if "failed" in told:
                    future.set_exception(ConnectionError(told["failed"]))
                else:
                    future.set_result(told if "nodes" in told else door.recv_bytes(LARGEST))
        except (EOFError, OSError):
            with self._lock:  # so that no message is asked through it any more
                door.close()
                while self._open:
                    self._open.popitem()[1].set_exception(ConnectionError(_GONE))

    def close(self) -> None:
        """Let the app at SuperLink end."""
        self._ended = True
        self._door.close()


def _take_one(listener: Listener, came: list[Connection]) -> None:
    with suppress(OSError):  # it is closed where nobody came in time
        came.append(listener.accept())
