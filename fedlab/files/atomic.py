"""Files and folders that are whole or absent: write aside, flush, move.

A kill at any moment leaves the old file or the new one, never a torn one. A temporary file that a
killed writer left behind is removed by the next write to the same path.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: str | os.PathLike[str], mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place when the block ends well.

    Parameters
    ----------
    path : path-like
        The file to create or to replace. Its folder must exist. Of a link, what it leads to is
        replaced: else the real file would keep what it held.
    mode : int
        Permissions of a new file, before the process's umask. A file that stands keeps its own, and
        its owner where the system lets it.

    Yields
    ------
    binary file
        Write to it; if the block raises, `path` is as it was and nothing is left beside it.

    Raises
    ------
    OSError
        If there is no such folder, or what stands there can't be replaced whole: a folder, a pipe,
        a link that leads to itself, a file that is mounted by itself.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "model.bin"
    >>> with replacing(target) as file:
    ...     _ = file.write(b"whole")
    >>> target.read_bytes()
    b'whole'
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist; make it first")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; give the name of a file")
    if os.path.lexists(target) and not target.is_file():
        raise OSError(f"{target} is no regular file, nor a link to one; give another name")
    standing = target.stat() if target.exists() else None
    _remove_leftovers(target)
    with _sentences(target):
        aside, handle = _create_beside(target, standing.st_mode & 0o777 if standing else mode)
    try:
        with os.fdopen(handle, "wb") as file:
            if standing and os.name != "nt":
                _make_alike(handle, standing)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name != "nt":  # while the lock holds
                with _sentences(target):
                    os.replace(aside, target)
        if os.name == "nt":  # pragma: no cover - it moves no file that is open
            os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def write_bytes(path: str | os.PathLike[str], content: bytes, mode: int = 0o666) -> None:
    """Replace the file at `path` by `content`, whole or not at all (see `replacing`)."""
    with replacing(path, mode) as file:
        file.write(content)


class Linked(NamedTuple):
    """A file that had other names when it was replaced: they keep what it held."""

    path: str
    device: int
    inode: int
    others: int


def linked(path: str | os.PathLike[str]) -> tuple[Linked, ...]:
    """Return the file at `path` if it has other names, hard links; to be asked before a write."""
    if not os.path.isfile(path) or (found := os.stat(path)).st_nlink < 2:
        return ()
    return (Linked(os.fspath(path), found.st_dev, found.st_ino, found.st_nlink - 1),)


def _make_alike(handle: int, standing: os.stat_result) -> None:
    """Give a file the owner, the group and the permissions of another, as far as we may."""
    made = os.fstat(handle)
    if (made.st_uid, made.st_gid) != (standing.st_uid, standing.st_gid):
        with suppress(PermissionError):
            os.fchown(handle, standing.st_uid, standing.st_gid)
    os.fchmod(handle, standing.st_mode & 0o777)


@contextmanager
def _sentences(target: Path) -> Iterator[None]:
    """Say what to do where the system lets no file be written beside another, or take its place."""
    try:
        yield
    except OSError as error:
        ways = {
            errno.EBUSY: "it is mounted by itself: mount its folder instead",
            errno.EXDEV: "it lies on another file system than its folder: mount the folder instead",
            errno.EACCES: f"files may not be made in {target.parent}: allow it",
            errno.EPERM: f"it or {target.parent} is protected: allow changes",
            errno.EROFS: f"{target.parent} can only be read",
        }
        if error.errno not in ways:
            raise
        said = f"{target} can't be written whole; {ways[error.errno]}, or give another place"
        raise OSError(error.errno, said) from error


def _create_beside(target: Path, mode: int) -> tuple[Path, int]:
    while True:
        aside = _name_beside(target)
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        _lock(handle)
        if os.fstat(handle).st_nlink:
            return aside, handle
        os.close(handle)  # somebody took it for a leftover before it was locked


def _remove_leftovers(target: Path) -> None:
    for leftover in _left_beside(target):
        # Another process may clean up at the same moment; a file that is gone is what we want.
        with suppress(FileNotFoundError, PermissionError):
            if fcntl is None:  # pragma: no cover - Windows removes no file that is open
                leftover.unlink()
                continue
            handle = os.open(leftover, os.O_WRONLY)
            try:
                if _lock(handle, fcntl.LOCK_NB):
                    leftover.unlink()
            finally:
                os.close(handle)


def _name_beside(target: Path) -> Path:
    return target.with_name(f"{before_leftovers(target)}{os.urandom(8).hex()}.tmp")


def before_leftovers(target: Path) -> str:
    """Return how the names begin of files that killed writers of `target` left beside it."""
    most = os.pathconf(target.parent, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    name = os.fsencode(target.name)
    if len(name) + len("..0123456789abcdef.tmp") <= most:
        return f".{target.name}."
    return f".{hashlib.blake2b(name, digest_size=16).hexdigest()}."


def _left_beside(target: Path) -> Iterator[Path]:
    """Yield what stands under names that `_name_beside` gives."""
    start = before_leftovers(target)
    escaped = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in start)
    return target.parent.glob(f"{escaped}{'[0-9a-f]' * 16}.tmp")


def _lock(handle: int, how: int = 0) -> bool:
    """Lock a file; False if somebody else is writing it, or if its file system has no locks.

    A lock ends with the process that holds it, however that ends. Its number would not do: in a
    container the next process often has the same one.
    """
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | how)
            return True
    return False


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk; Windows has no handle on a folder to flush.
    if os.name == "nt":  # pragma: no cover
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- folders ------------------------------------------------------------------------------------


@contextmanager
def making_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder beside `path` that is moved there when the block ends well.

    Parameters
    ----------
    path : path-like
        Must not exist yet; the folder that it stands in must.

    Yields
    ------
    Path
        Fill it; if the block raises, nothing is left.

    Raises
    ------
    FileExistsError
        If `path` exists.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist; make it first")
    _refuse_standing(target)
    _remove_left_folders(target)
    with ExitStack() as lock:
        aside = _folder_beside(target, lock)
        try:
            yield aside
            _sync_folder(aside)
            _refuse_standing(target)
            os.rename(aside, target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    _sync_folder(target.parent)


def _refuse_standing(target: Path) -> None:
    if os.path.lexists(target):
        raise FileExistsError(
            f"{target} exists; remove it first if it isn't needed, or give another name"
        )


def _folder_beside(target: Path, lock: ExitStack) -> Path:
    while True:
        aside = _name_beside(target)
        aside.mkdir()
        with suppress(FileNotFoundError):
            lock.enter_context(locked(aside))
            if aside.exists():
                return aside
        # Somebody took it for a leftover before it was locked.


def _remove_left_folders(target: Path) -> None:
    for leftover in _left_beside(target):
        # Another process may clean up at the same moment.
        with suppress(FileNotFoundError, NotADirectoryError), locked(leftover, wait=False) as ours:
            if ours:
                shutil.rmtree(leftover)


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Lock a folder until the block ends, or the process; say whether it could be."""
    if fcntl is None:  # pragma: no cover - Windows neither opens folders nor removes open files
        yield not wait
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _lock(handle, 0 if wait else fcntl.LOCK_NB)
    finally:
        os.close(handle)
