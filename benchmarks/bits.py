"""Whether results are the same, bit for bit, as at another revision: a net under refactorings.

The scenarios of `benchmarks/scenarios` run twice, each time in a process of its own: with `fedlab`
as it was at the revision, which is checked out beside and removed again, and with `fedlab` as it
stands here. Digests of what comes out are compared: parameters, histories without wall times,
answers, ledgers, files. What differs from run to run by design is left out (`searching` says what).
The exit status is 0 if all is the same, and 1 if not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

_ROOT = Path(__file__).resolve().parents[1]
_WALL = "wall_seconds"
_SAME, _DIFFERS, _MISSING = "same", "differs", "missing"


@dataclass
class Told:
    """What one tree gave: digests by scenario and part, and errors by scenario ("" for all)."""

    digests: dict[tuple[str, str], str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def error(self, scenario: str) -> str:
        return self.errors.get(scenario) or self.errors.get("", "there is no such part")


# -- digests ----------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """Return a SHA-256 of the bits of a value: arrays, frames, numbers, text, and lists of them.

    A frame counts as a set of rows, and wall times don't count.
    """
    whole = hashlib.sha256()
    for piece in _pieces(value):
        whole.update(len(piece).to_bytes(8, "little") + piece)
    return whole.hexdigest()


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, pd.DataFrame):
        yield from _pieces(_sorted_rows(value))
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        yield f"{value.dtype.str} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Mapping):
        yield from _pieces(sorted((str(name), digest(inner)) for name, inner in value.items()))
    elif isinstance(value, list | tuple | np.ndarray):
        yield f"{len(value)} values".encode()
        for inner in value:
            yield from _pieces(inner)
    else:
        yield value if isinstance(value, bytes) else _word(value).encode()


def _word(value: Any) -> str:
    plain = value.item() if isinstance(value, np.generic) else value
    return plain.hex() if isinstance(plain, float) else str(plain)


def _sorted_rows(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    flat = frame.reset_index() if frame.index.name else frame
    names = sorted(set(flat.columns) - {_WALL})
    rows = sorted(zip(*(map(_word, flat[name]) for name in names), strict=True))
    return [tuple(names), *(row for row in rows if _WALL not in row)]


# -- one tree: a process of its own ---------------------------------------------------------------


def _tell(only: Sequence[str], threads: Sequence[int]) -> None:
    """Run the scenarios with the `fedlab` that is found, and print a line of JSON for each part."""
    import fedlab

    # These scenarios, and behind all else: `benchmarks.workloads` is the tree's own.
    sys.path.append(str(Path(__file__).parent))
    from scenarios import scenarios  # type: ignore[import-not-found]

    _say(origin=str(Path(fedlab.__file__).parents[1].resolve()))
    warnings.simplefilter("ignore")  # remarks, which are compared
    known = scenarios(threads)
    chosen = [name for name in known if not only or any(word in name for word in only)]
    if not chosen:
        raise ValueError(f"no scenario holds {' or '.join(only)}; there are {'; '.join(known)}")
    for name in chosen:
        try:
            for part, value in known[name]():
                _say(scenario=name, part=part, digest=digest(value))
        except Exception as error:
            _say(scenario=name, error=f"{type(error).__name__}: {error}")


def _say(**what: str) -> None:
    print(json.dumps(what), flush=True)


def _told(tree: Path, only: Sequence[str], threads: Sequence[int]) -> Told:
    """Run the scenarios with a tree's `fedlab`."""
    words = ["--tell", json.dumps([list(only), list(threads)])]
    # Compiled anew: numba does not notice that a function of another file, which it inlined, is
    # no longer what it was.
    with tempfile.TemporaryDirectory() as compiled:
        done = subprocess.run(
            [sys.executable, "-P", str(Path(__file__).resolve()), *words],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": compiled},
            capture_output=True,
            text=True,
            check=False,
        )
    told = Told()
    for line in map(json.loads, done.stdout.splitlines()):
        if "origin" in line and Path(line["origin"]) != tree.resolve():
            raise RuntimeError(f"fedlab was found in {line['origin']}, and not in {tree}")
        if "digest" in line:
            told.digests[line["scenario"], line["part"]] = line["digest"]
        if "error" in line:
            told.errors[line["scenario"]] = _last_line(line["error"])
    if done.returncode:
        told.errors[""] = f"ended with {done.returncode}: {_last_line(done.stderr)}"
    return told


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


@contextmanager
def _checked_out(revision: str) -> Iterator[Path]:
    """Hold a worktree of a revision for as long as this lasts."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "tree"
        _git("worktree", "add", "--detach", str(tree), revision)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*words: str) -> None:
    done = subprocess.run(
        ["git", "-C", str(_ROOT), *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"git {' '.join(words)}: {_last_line(done.stderr)}")


# -- two trees ------------------------------------------------------------------------------------


def compared(then: Told, now: Told) -> list[tuple[str, str, str]]:
    """Return (scenario, part, verdict), what is not the same last."""
    rows = []
    for scenario, part in dict.fromkeys([*then.digests, *now.digests]):
        verdict = _SAME
        for tree, name in ((then, "at the revision"), (now, "here")):
            if (scenario, part) not in tree.digests:
                verdict = f"{_MISSING} {name}: {tree.error(scenario)}"
        if verdict == _SAME and then.digests[scenario, part] != now.digests[scenario, part]:
            verdict = _DIFFERS
        rows.append((scenario, part, verdict))
    # Where both trees fail alike, no part of theirs shows it.
    rows += [
        (scenario or "all", "", f"{_MISSING} in both: {now.errors[scenario]}")
        for scenario in sorted({*then.errors} & {*now.errors})
    ]
    return sorted(rows, key=lambda row: row[2] != _SAME)


def table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Return a line a part, and a count of each verdict."""
    lines = [("scenario", "part", "bits"), *rows]
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    text = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {verdict}".rstrip() for a, b, verdict in lines]
    counts = [
        f"{sum(row[2].startswith(word) for row in rows):,} {word}"
        for word in (_SAME, _DIFFERS, _MISSING)
    ]
    return "\n".join([*text, ", ".join(counts)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare this tree with a revision, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks bits", description=__doc__)
    parser.add_argument("--against", metavar="REV", required=True, help="a revision, as git's")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="scenarios whose names hold these"
    )
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="threads to train with (1 2)"
    )
    given = parser.parse_args(arguments)
    if min(given.threads) < 1:
        raise ValueError("--threads takes whole numbers from 1")
    with _checked_out(given.against) as tree:
        print(f"running with fedlab at {given.against}", file=sys.stderr, flush=True)
        then = _told(tree, given.only, given.threads)
    print("running with fedlab as it stands here", file=sys.stderr, flush=True)
    now = _told(_ROOT, given.only, given.threads)
    rows = compared(then, now)
    print(table(rows))
    return 0 if rows and all(row[2] == _SAME for row in rows) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--tell"]:
        _tell(*json.loads(sys.argv[2]))
    else:
        sys.exit(main())
