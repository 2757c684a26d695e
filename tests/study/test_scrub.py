"""Paths of this machine don't leave it, however they are written."""

from __future__ import annotations

import html
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from fedlab.study import scrub as module
from fedlab.study.scrub import ROOT, scrub, without_paths


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A clone in a home, at a path that HTML and URLs write otherwise."""
    home = Path("/home/an & other")
    monkeypatch.setattr(module, "ROOT", home / "my 'work'" / "fedlab")
    monkeypatch.setattr(Path, "home", lambda: home)
    module._patterns.cache_clear()
    yield home
    monkeypatch.undo()
    module._patterns.cache_clear()


def test_the_clone_s_files_become_relative() -> None:
    assert (
        scrub(f'File "{ROOT}/fedlab/index/vectorindex.py", line 3')
        == 'File "fedlab/index/vectorindex.py", line 3'
    )


def test_environment_and_temporary_files_get_names() -> None:
    assert scrub(f"{sys.prefix}/lib/x.py") == "environment/lib/x.py"
    assert scrub(f"{tempfile.gettempdir()}/ipykernel_12/34.py:2: Warning") == "cell:2: Warning"


def test_each_way_of_writing_a_path_is_found(at: Path) -> None:
    inside = f"{at}/my 'work'/fedlab/fedlab/index/vectorindex.py"
    for written in (
        inside,
        html.escape(inside),
        quote(inside),
        "~/my 'work'/fedlab/fedlab/index/vectorindex.py",
    ):
        assert scrub(written) == "fedlab/index/vectorindex.py"
    assert scrub(f"{at}/notes.txt") == "~/notes.txt"
    assert scrub(f"in {at}/my 'work'/fedlab:") == "in .:"


def test_what_only_begins_alike_stays(at: Path) -> None:
    assert scrub(f"{at}wise") == f"{at}wise"
    assert scrub(f"{at}-2/x") == f"{at}-2/x"


def test_the_working_directory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "cwd", lambda: Path("/scratch/a project"))
    assert scrub("File /scratch/a project/my_study.py") == "File my_study.py"
    assert scrub("/scratch/a projector/x") == "/scratch/a projector/x"


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("[Errno 2] No such file: '/mnt/ward 3/rows.csv'", "[Errno 2] No such file: 'rows.csv'"),
        ("see /mnt/data/x.npz, line 3", "see x.npz, line 3"),
        ('open("/srv/a/b/")', 'open("b")'),
        ("(/srv/a/b): no", "(b): no"),
        (f"'{tempfile.gettempdir()}/of me/a b/no.csv'", "'no.csv'"),
        ("https://example.org/a/b is gone", "https://example.org/a/b is gone"),
        ("3/4 and a/b/c; 1 / 2 / 3; /", "3/4 and a/b/c; 1 / 2 / 3; /"),
        (f"{ROOT}/fedlab/study/study.py", "fedlab/study/study.py"),
    ],
)
def test_only_names_are_left_of_paths_in_messages(said: str, left: str) -> None:
    assert without_paths(said) == left
