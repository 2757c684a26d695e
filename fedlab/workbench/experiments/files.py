"""What happens to a saved index: sealed, altered by somebody, or killed while it is written."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from fedlab.files.keys import Key
from fedlab.index.file import INDEX, IndexFileError
from fedlab.index.vectorindex import VectorIndex
from fedlab.workbench.experiments.timing import seconds_in_turn

_BLOCK = 4096

Draw = np.random.Generator
Call = Callable[[], object]


def sealing_costs(index: VectorIndex, times: int = 3) -> pd.DataFrame:
    """Measure what a seal costs, under a key that is made and forgotten here.

    Returns
    -------
    DataFrame
        Indexed by "plain", "sealed" and "ratio": ``save`` and ``open`` (seconds, the least of
        `times`), ``bytes`` of the file.
    """
    with _saved_aside(index) as folder:
        taken = seconds_in_turn(sealing_steps(index, folder), times)
        sorts = ["plain", "sealed"]
        columns = {
            what: [min(taken[f"{sort} {what}"]) for sort in sorts] for what in ("save", "open")
        }
        columns["bytes"] = [float((folder / sort).stat().st_size) for sort in sorts]
    frame = pd.DataFrame(columns, sorts)
    frame.loc["ratio"] = frame.loc["sealed"] / frame.loc["plain"]
    return frame


def sealing_steps(index: VectorIndex, folder: Path) -> dict[str, Call]:
    """Return what is timed: saving to the files "plain" and "sealed" of a folder, and opening them.

    The key is made and forgotten here.
    """
    plain, sealed, key = folder / "plain", folder / "sealed", Key.generate()
    return {
        "plain save": partial(index.save, plain),
        "sealed save": partial(index.save, sealed, key),
        "plain open": partial(VectorIndex.open, plain),
        "sealed open": partial(VectorIndex.open, sealed, key),
    }


@contextmanager
def _saved_aside(index: VectorIndex) -> Iterator[Path]:
    """Yield a folder to save `index` in; how often it was saved is then as it was."""
    generation = index.generation
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    finally:
        index.generation = generation


# -- altered on purpose or by accident -----------------------------------------------------------


def altered_files(index: VectorIndex, trials: int, seed: int = 0) -> pd.DataFrame:
    """Alter saved files in several ways, open them, and count how that ends.

    All of it happens in this process: every byte is authenticated before USearch sees any, so a
    file that is refused can't crash it. (`python -m benchmarks corrupt` tries thousands of files,
    each in a process of its own.)

    Parameters
    ----------
    index : VectorIndex
        Saved for this, sealed and not; it stays as it is.
    trials : int
        Of each way and each sort of file.
    seed : int
        Draws the places.

    Returns
    -------
    DataFrame
        A row for each way: ``what``, and how many of how many files were refused, ``plain`` and
        ``sealed``. The first way is the control, which changes nothing.
    """
    ends: dict[str, dict[str, str]] = {}
    with _saved_aside(index) as folder:
        for sort, key in (("plain", None), ("sealed", Key.generate())):
            draw = np.random.default_rng(seed)
            path = folder / "device.index"
            older, newer = (_saved(index, path, key) for _ in range(2))
            index.save(folder / "plain")
            files = _Files(older, newer, folder / "plain")
            least = index.generation - 1  # that of the second file
            for what, alter in _WAYS.items():
                refused = sum(
                    _is_refused(path, alter(files, draw), key, least) for _ in range(trials)
                )
                ends.setdefault(what, {})[sort] = f"{refused} of {trials}"
    return pd.DataFrame(ends).T.rename_axis("what")


@dataclass(frozen=True)
class _Files:
    """Three saves of one index, one after another; the last one, without a seal, as a file."""

    older: bytes
    newer: bytes
    plain: Path


Alter = Callable[[_Files, Draw], bytes]


def _saved(index: VectorIndex, path: Path, key: Key | None) -> bytes:
    index.save(path, key)
    return path.read_bytes()


def _is_refused(path: Path, content: bytes, key: Key | None, least: int) -> bool:
    path.write_bytes(content)
    try:
        VectorIndex.open(path, key, at_least=least)
    except IndexFileError:
        return True
    return False


def flipped(content: bytes, draw: Draw, start: int = 0, stop: int | None = None) -> bytes:
    """Flip one bit, of one of the bytes from `start` to before `stop`."""
    altered = bytearray(content)
    altered[draw.integers(start, len(content[:stop]))] ^= 1 << int(draw.integers(8))
    return bytes(altered)


def cut(content: bytes, draw: Draw) -> bytes:
    """Leave out the end."""
    return content[: int(draw.integers(len(content)))]


def spliced(content: bytes, other: bytes, draw: Draw) -> bytes:
    """Put the other's end in the place of one's own."""
    place = int(draw.integers(1, min(len(content), len(other))))
    return content[:place] + other[place:]


def _exchanged(content: bytes, draw: Draw) -> bytes:
    """Exchange two halves of a range, as a disk that mixes up its blocks would."""
    half = min(_BLOCK, len(content) // 4)
    start = int(draw.integers(len(content) - 2 * half))
    middle, stop = start + half, start + 2 * half
    return content[:start] + content[middle:stop] + content[start:middle] + content[stop:]


def _edited(path: Path, draw: Draw) -> bytes:
    """Change one stored number by its last bit, under a digest that then fits."""
    parameters, arrays = INDEX.read(path)
    name, codes = next(iter(arrays.items()))
    altered = codes.copy()
    numbers = altered.view(np.uint8).reshape(altered.size, -1)
    numbers[draw.integers(len(numbers)), 0] ^= 1
    edited = path.with_name("edited")
    INDEX.write(edited, parameters, {**arrays, name: altered})
    return edited.read_bytes()


_WAYS: dict[str, Alter] = {
    "nothing (control)": lambda files, draw: files.newer,
    "one bit flipped": lambda files, draw: flipped(files.newer, draw),
    "cut short": lambda files, draw: cut(files.newer, draw),
    "two blocks exchanged": lambda files, draw: _exchanged(files.newer, draw),
    "the older save's end": lambda files, draw: spliced(files.newer, files.older, draw),
    "the older save put back": lambda files, draw: files.older,
    "a number edited, with a digest that fits": lambda files, draw: _edited(files.plain, draw),
}


# -- killed while saving ---------------------------------------------------------------------------

_SAVER = """
import sys
from fedlab import Key, VectorIndex
path, key = sys.argv[1], Key(sys.stdin.buffer.read(32))
index = VectorIndex.open(path, key)
print("ready", flush=True)
while True:
    index.save(path, key)
"""


def killed_saves(index: VectorIndex, kills: int, seed: int = 0) -> pd.Series[int]:
    """Kill processes that save an index, sealed, at random moments, and look at what they leave.

    Parameters
    ----------
    index : VectorIndex
        Saved for this; it stays as it is.
    kills : int
        Each is a process of its own, and takes about a second. (`python -m benchmarks kill` kills
        before and after each write, flush and rename, too.)
    seed : int
        Draws the moments, within the time of five saves.

    Returns
    -------
    Series
        ``kills``; how many files were ``whole`` (they open, and hold the same rows); how many
        ``temporary files`` were left behind, and how many stood there ``after the next save``.
    """
    draw, key = np.random.default_rng(seed), Key.generate()
    counts = dict.fromkeys(("kills", "whole", "temporary files", "after the next save"), 0)
    with _saved_aside(index) as folder:
        path = folder / "device.index"
        seconds = seconds_in_turn({"save": partial(index.save, path, key)}, 2)["save"]
        for moment in draw.uniform(0, 5 * min(seconds), kills):
            _kill_a_saver(path, key, float(moment))
            counts["kills"] += 1
            counts["temporary files"] += len(list(folder.iterdir())) - 1
            counts["whole"] += _is_whole(path, key, index)
            index.save(path, key)
            counts["after the next save"] += len(list(folder.iterdir())) - 1
    return pd.Series(counts, name="counted")


def _kill_a_saver(path: Path, key: Key, moment: float) -> None:
    command = [sys.executable, "-c", _SAVER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(key.secret)
        child.stdin.close()
        if child.stdout.readline() != b"ready\n":
            raise RuntimeError("the process that was to save an index ended before it began")
        time.sleep(moment)
        child.kill()


def _is_whole(path: Path, key: Key, index: VectorIndex) -> bool:
    try:
        found = VectorIndex.open(path, key)
    except IndexFileError:
        return False
    same = np.array_equal(found.vectors, index.vectors)
    return same and np.array_equal(found.keys, index.keys)
