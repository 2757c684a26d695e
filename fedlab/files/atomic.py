"""Files and folders that are whole or absent: write aside, flush, move.

A kill at any moment leaves the old file or the new one, never a torn one. A temporary file that a
killed writer left behind is removed by the next write to the same path.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: str | os.PathLike[str], mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place when the block ends well.

    Parameters
    ----------
    path : path-like
        The file to create or to replace. Its folder must exist.
    mode : int
        Permissions of a new file, before the process's umask.

    Yields
    ------
    binary file
        Write to it; if the block raises, `path` is as it was and nothing is left beside it.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "model.bin"
    >>> with replacing(target) as file:
    ...     _ = file.write(b"whole")
    >>> target.read_bytes()
    b'whole'
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist; make it first")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; give the name of a file")
    _remove_leftovers(target)
    aside, handle = _create_beside(target, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name != "nt":  # while the lock holds
                os.replace(aside, target)
        if os.name == "nt":  # pragma: no cover - it moves no file that is open
            os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def write_bytes(path: str | os.PathLike[str], content: bytes, mode: int = 0o644) -> None:
    """Replace the file at `path` by `content`, whole or not at all (see `replacing`)."""
    with replacing(path, mode) as file:
        file.write(content)


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
    return target.with_name(f".{target.name}.{os.urandom(8).hex()}.tmp")


def _left_beside(target: Path) -> Iterator[Path]:
    """Yield what stands under names that `_name_beside` gives."""
    escaped = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in target.name)
    return target.parent.glob(f".{escaped}.{'[0-9a-f]' * 16}.tmp")


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
            lock.enter_context(_locked(aside))
            if aside.exists():
                return aside
        # Somebody took it for a leftover before it was locked.


def _remove_left_folders(target: Path) -> None:
    for leftover in _left_beside(target):
        # Another process may clean up at the same moment.
        with suppress(FileNotFoundError, NotADirectoryError), _locked(leftover, wait=False) as ours:
            if ours:
                shutil.rmtree(leftover)


@contextmanager
def _locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Lock a folder until the block ends, or the process; say whether it could be."""
    if fcntl is None:  # pragma: no cover - Windows neither opens folders nor removes open files
        yield not wait
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _lock(handle, 0 if wait else fcntl.LOCK_NB)
    finally:
        os.close(handle)
