from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

import pytest

from fedlab.core import progress
from tests.helpers import ROOT, run_child

T = TypeVar("T")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(progress, "_current", progress._current)
    lines: list[str] = []

    def draw(items: Iterable[T], total: int, label: str) -> Iterator[T]:
        for place, item in enumerate(items):
            lines.append(f"{label} {place}/{total}")
            yield item

    progress.use(draw)
    return lines


def test_items_pass_through_the_bar_that_is_in_use(drawn: list[str]) -> None:
    assert list(progress.bar("ab", total=2, label="rounds")) == ["a", "b"]
    assert drawn == ["rounds 0/2", "rounds 1/2"]


def test_items_are_taken_one_by_one_and_stopping_early_is_fine(drawn: list[str]) -> None:
    items = itertools.count()
    for item in progress.bar(items, total=10, label="rounds"):
        if item == 2:
            break
    assert drawn == ["rounds 0/10", "rounds 1/10", "rounds 2/10"]
    assert next(items) == 3


def test_an_error_in_the_loop_is_the_callers(drawn: list[str]) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ArithmeticError("theirs")

    with pytest.raises(ArithmeticError, match="theirs"):
        list(progress.bar(broken(), total=2, label="rounds"))


def test_nothing_is_drawn_where_nobody_looks() -> None:
    code = """
import contextlib, io
from fedlab.core.progress import bar
with contextlib.redirect_stderr(io.StringIO()) as seen:
    print(sum(bar(range(100), total=100, label='rounds')), repr(seen.getvalue()))
"""
    assert run_child(code) == "4950 ''\n"


def test_a_terminal_gets_a_bar() -> None:
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    code = "from fedlab.core.progress import bar; list(bar(range(3), total=3, label='rounds'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=slave, check=True)
    os.write(slave, b"end")  # so that there is something to read in any case
    seen = os.read(master, 10_000).decode()
    os.close(slave)
    os.close(master)
    assert done.returncode == 0
    assert "rounds" in seen
    assert "/3" in seen
