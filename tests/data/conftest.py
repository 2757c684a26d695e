"""Wheels made on the spot, and the pulled sources where they can be had."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fedlab.data import DataUnavailable, Source, pull
from fedlab.data.loading.registry import Member

CONTENT = b"age,ill\n61,1\n48,0\n" * 100
MEMBER = "madeup/data/table.csv"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_wheel(folder: Path, content: bytes = CONTENT, member: str = MEMBER) -> Path:
    """Write a wheel that pip accepts, with one file of data in it."""
    folder.mkdir(exist_ok=True)
    wheel = folder / "fedlab_madeup-1.0-py3-none-any.whl"
    info = "fedlab_madeup-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: fedlab-madeup\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def source_for(wheel: Path, content: bytes = CONTENT, **changes: object) -> Source:
    fields: dict[str, object] = {
        "name": "madeup",
        "what": "Made up",
        "description": "rows for a test",
        "package": "fedlab-madeup",
        "version": "1.0",
        "wheel_sha256": sha256(wheel.read_bytes()),
        "licence": "CC0",
        "citation": "none",
        "origin": "this test",
        "instead": "diabetes",
        "members": (Member(MEMBER, sha256(content), len(content)),),
    }
    return Source(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave pip nowhere to look: no index, no folder of wheels."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")


@pytest.fixture
def wheels(tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, the only place where pip may look."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture(scope="session")
def pulled() -> Callable[[str], None]:
    """Make sure that a source is here; skip the test, by the source's name, where it can't be."""

    def ensure(name: str) -> None:
        try:
            pull(name)
        except DataUnavailable as error:
            pytest.skip(f"{name}: {error}")

    return ensure


@pytest.fixture
def handed(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that are handed on in pip's place, unchecked: for what comes after pip."""

    def careless(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        shutil.copytree(wheels, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(
        importlib.import_module("fedlab.data.loading.pull").subprocess, "run", careless
    )
    return wheels
