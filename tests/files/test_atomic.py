from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fedlab.files.atomic import before_leftovers, making_folder, replacing, write_bytes
from tests.helpers import ROOT, run_child

posix = pytest.mark.skipif(os.name == "nt", reason="needs fork and signals")


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "model.bin"
    write_bytes(target, b"one")
    assert target.read_bytes() == b"one"
    with replacing(str(target)) as file:
        file.write(b"two")
        assert target.read_bytes() == b"one"
    assert target.read_bytes() == b"two"
    assert names(tmp_path) == ["model.bin"]


def write_and_raise(target: Path, error: type[BaseException]) -> None:
    with replacing(target) as file:
        file.write(b"two")
        raise error


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "model.bin"
    write_bytes(target, b"one")
    for error in (ArithmeticError, KeyboardInterrupt):
        with pytest.raises(error):
            write_and_raise(target, error)
    assert target.read_bytes() == b"one"
    assert names(tmp_path) == ["model.bin"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("missing/model.bin", FileNotFoundError, "missing does not exist; make it first"),
        ("folder", IsADirectoryError, "folder is a folder; give the name of a file"),
        ("", IsADirectoryError, "is a folder"),
    ],
)
def test_places_where_no_file_can_be(
    name: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(error, match=message):
        write_bytes(tmp_path / name, b"one")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == []


@posix
def test_permissions_are_those_asked_for(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        write_bytes(tmp_path / "open", b"")
        write_bytes(tmp_path / "closed", b"", mode=0o600)
    finally:
        os.umask(mask)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("open", "closed")] == [
        0o644,
        0o600,
    ]


def test_a_reader_keeps_the_file_it_opened(tmp_path: Path) -> None:
    target = tmp_path / "model.bin"
    write_bytes(target, b"one")
    with open(target, "rb") as reader:
        write_bytes(target, b"two, and longer")
        assert reader.read() == b"one"


def test_writers_at_the_same_time_each_write_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "model.bin"
    contents = [bytes([number]) * 50_000 for number in range(6)]
    failures = []

    def write(content: bytes) -> None:
        try:
            for _ in range(10):
                write_bytes(target, content)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert target.read_bytes() in contents
    assert names(tmp_path) == ["model.bin"]


@posix
def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    target = tmp_path / "model[1].bin"
    other = tmp_path / ".other.0123456789abcdef.tmp"
    other.write_bytes(b"not ours")
    code = """
import sys, time
from fedlab.files.atomic import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    write_bytes(target, b"by another")
    assert len(names(tmp_path)) == 3  # the other's, the writer's, ours
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert target.read_bytes() == b"by another"
    write_bytes(target, b"again")
    assert names(tmp_path) == [other.name, target.name]


STEPS = """
import os, sys
from pathlib import Path
from fedlab.files import atomic

folder = Path(sys.argv[1])
target = folder / "model.bin"
old, new = b"old" * 1000, b"new" * 2000

def die_at(step):
    count = 0
    def moment():
        nonlocal count
        count += 1
        if count == step:
            os._exit(9)
    def around(function):
        def call(*arguments, **more):
            moment()
            result = function(*arguments, **more)
            moment()
            return result
        return call
    class Wrapped:
        def __init__(self, file):
            self.file = file
            self.write, self.flush = around(file.write), around(file.flush)
            self.fileno = file.fileno
        def __enter__(self):
            return self
        def __exit__(self, *error):
            moment()
            self.file.close()
            moment()
    fdopen = os.fdopen
    for name in ("open", "fsync", "replace"):
        setattr(os, name, around(getattr(os, name)))
    os.fdopen = lambda *arguments: Wrapped(fdopen(*arguments))
    with atomic.replacing(target) as file:
        for start in range(0, len(new), 2000):
            file.write(new[start : start + 2000])
    os._exit(0)

seen, step, status = [], 0, 9
while status:
    atomic.write_bytes(target, old)
    assert os.listdir(folder) == ["model.bin"], os.listdir(folder)
    step += 1
    child = os.fork()
    if not child:
        die_at(step)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), status
    content = target.read_bytes()
    assert content in (old, new)
    seen.append(content == new)
assert sorted(seen) == seen and set(seen) == {False, True}
print(step)
"""


@posix
def test_a_kill_before_or_after_any_step_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    # Three writes, flush, fsync, close, replace and the folder's fsync, opening included.
    assert int(run_child(STEPS, tmp_path)) > 18


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@posix
@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_a_new_file_obeys_the_umask_and_a_file_that_stands_keeps_its_mode(
    mask: int, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "new", b"")
        (tmp_path / "theirs").write_bytes(b"")
        for mode in (0o664, 0o640, 0o600, 0o604):
            (tmp_path / "standing").touch()
            (tmp_path / "standing").chmod(mode)
            write_bytes(tmp_path / "standing", b"two", mode=0o600)
            assert mode_of(tmp_path / "standing") == mode
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "new") == mode_of(tmp_path / "theirs") == 0o666 & ~mask


@posix
def test_a_file_that_stands_keeps_its_owner_where_the_system_lets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, given = tmp_path / "theirs", []
    target.touch()
    stat, fstat = target.stat(), os.fstat

    def of_another(handle: int) -> os.stat_result:
        values = list(fstat(handle))
        values[4] += 1  # st_uid
        return os.stat_result(values)

    monkeypatch.setattr(os, "fstat", of_another)

    def refuse(handle: int, user: int, group: int) -> None:
        given.append((user, group))
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    write_bytes(target, b"two")
    assert given == [(stat.st_uid, stat.st_gid)]
    assert target.read_bytes() == b"two"


@posix
def test_what_a_link_leads_to_is_replaced(tmp_path: Path) -> None:
    real, away = tmp_path / "real", tmp_path / "away"
    real.mkdir()
    away.mkdir()
    (real / "model.bin").write_bytes(b"one")
    (away / "near").symlink_to(Path("..", "real", "model.bin"))
    (tmp_path / "far").symlink_to(away / "near")
    (tmp_path / "folder").symlink_to(real)
    for number, path in enumerate([away / "near", tmp_path / "far", tmp_path / "folder/model.bin"]):
        write_bytes(path, b"%d" % number)
        assert (real / "model.bin").read_bytes() == b"%d" % number
    assert (away / "near").is_symlink()
    assert (tmp_path / "far").is_symlink()
    assert names(real) == ["model.bin"]
    assert names(away) == ["near"]


@posix
def test_a_link_to_what_is_not_there_yet_makes_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "model.bin")
    write_bytes(tmp_path / "link", b"one")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "model.bin").read_bytes() == b"one"
    (tmp_path / "lost").symlink_to(tmp_path / "gone" / "model.bin")
    with pytest.raises(FileNotFoundError, match="gone does not exist; make it first"):
        write_bytes(tmp_path / "lost", b"one")


@posix
def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    (tmp_path / "device").symlink_to("/dev/null")
    for name in ("pipe", "ring", "device"):
        with pytest.raises(OSError, match="no regular file"):
            write_bytes(tmp_path / name, b"one")
    assert names(tmp_path) == ["device", "pipe", "ring"]


@pytest.mark.parametrize("letter", ["x", "é", "[", "日"])
@pytest.mark.parametrize("size", [200, 231, 234, 254])
def test_names_may_be_as_long_as_the_file_system_lets_them(
    letter: str, size: int, tmp_path: Path
) -> None:
    target = tmp_path / (letter * (size // len(letter.encode())))
    for content in (b"one", b"two"):
        killed = tmp_path / f"{before_leftovers(target)}{'0' * 16}.tmp"
        killed.write_bytes(b"left by a killed writer")
        write_bytes(target, content)
        assert target.read_bytes() == content
        assert names(tmp_path) == [target.name]
    target.unlink()
    with making_folder(target) as aside:
        (aside / "rows").touch()
    assert names(target) == ["rows"]


@posix
@pytest.mark.parametrize(
    ("step", "number", "message"),
    [
        ("replace", errno.EBUSY, "mounted by itself: mount its folder"),
        ("replace", errno.EXDEV, "another file system than its folder"),
        ("replace", errno.EPERM, "protected"),
        ("open", errno.EACCES, "files may not be made in"),
        ("open", errno.EROFS, "can only be read"),
    ],
)
def test_a_file_that_cannot_be_replaced_whole_is_told_and_stays(
    step: str, number: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "mounted"
    target.write_bytes(b"one")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(OSError, match=f"mounted can't be written whole; .*{message}") as told:
        write_bytes(target, b"two")
    monkeypatch.undo()
    assert told.value.errno == number
    assert target.read_bytes() == b"one"
    assert names(tmp_path) == ["mounted"]
