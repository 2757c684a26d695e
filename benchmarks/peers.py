"""Environments of the other frameworks, each of its own, outside the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlab.files.atomic import write_bytes

_PINS = Path(__file__).with_name("peers.toml")


@dataclass(frozen=True)
class Peer:
    """A framework as peers.toml pins it.

    Attributes
    ----------
    name, what : str
    pythons : tuple of str
        Versions of Python that the pins have wheels for, as "3.11".
    packages : tuple of str
        Exact pins: those that matter, and all that they bring along.
    """

    name: str
    what: str
    pythons: tuple[str, ...]
    packages: tuple[str, ...]

    @property
    def home(self) -> Path:
        return folder() / self.name

    @property
    def python(self) -> Path:
        """The environment's interpreter, there or not."""
        scripts = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
        return self.home.joinpath(*scripts)

    @property
    def installed(self) -> bool:
        """Whether an install of these very pins came to its end."""
        stamp = self.home / "pins.json"
        if not (stamp.exists() and self.python.exists()):
            return False
        return bool(json.loads(stamp.read_text(encoding="utf-8")) == list(self.packages))

    @property
    def command(self) -> str:
        """What installs it."""
        return f"python -m benchmarks install {self.name}"


def folder() -> Path:
    """Return where environments lie: $FEDLAB_PEERS, or ~/.cache/fedlab-peers."""
    chosen = os.environ.get("FEDLAB_PEERS")
    return Path(chosen) if chosen else Path.home() / ".cache" / "fedlab-peers"


def peers() -> dict[str, Peer]:
    """Return all peers of peers.toml by name."""
    with _PINS.open("rb") as file:
        tables = tomllib.load(file)
    return {
        name: Peer(
            name,
            table["what"],
            tuple(table["pythons"]),
            (*table["packages"], *table["dependencies"]),
        )
        for name, table in tables.items()
    }


def install(names: Sequence[str]) -> None:
    """Make the environments of the named peers (all of them if none is named) anew.

    Raises
    ------
    ValueError
        If there is no such peer.
    RuntimeError
        If no fitting Python is found, or an install fails.
    """
    known = peers()
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"no peer is called {', '.join(unknown)}; there are {', '.join(known)}")
    for name in names or known:
        peer = known[name]
        if peer.installed:
            print(f"{name}: already there, in {peer.home}")
            continue
        print(f"{name}: {peer.what}, into {peer.home}", flush=True)
        _run([_interpreter(peer), "-m", "venv", "--clear", str(peer.home)], name)
        # No --no-deps: torch brings other packages along on other systems.
        pip = [str(peer.python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        _run([*pip, *peer.packages], name)
        write_bytes(peer.home / "pins.json", json.dumps(peer.packages).encode())


def _interpreter(peer: Peer) -> str:
    if f"{sys.version_info.major}.{sys.version_info.minor}" in peer.pythons:
        return sys.executable
    for version in peer.pythons:
        if found := shutil.which(f"python{version}"):
            return found
    raise RuntimeError(
        f"{peer.name} needs Python {' or '.join(peer.pythons)}; none was found on PATH. Install "
        "one, or run this command with it"
    )


def _run(command: list[str], name: str) -> None:
    if subprocess.run(command, check=False).returncode:
        raise RuntimeError(f"{name} could not be installed; the lines above say why")
