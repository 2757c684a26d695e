"""Files that are whole or absent: write aside, flush, move.

A kill at any moment leaves the old file or the new one, never a torn one. A temporary file that a
killed writer left behind is removed by the next write to the same path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["replacing", "write_bytes"]


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
        aside = target.with_name(f".{target.name}.{os.urandom(8).hex()}.tmp")
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        _lock(handle)
        if os.fstat(handle).st_nlink:
            return aside, handle
        os.close(handle)  # somebody took it for a leftover before it was locked


def _remove_leftovers(target: Path) -> None:
    for leftover in target.parent.glob(f".{_escaped(target.name)}.{'[0-9a-f]' * 16}.tmp"):
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


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


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
