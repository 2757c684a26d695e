"""Does an index fail closed? Thousands of corrupted files, each opened in a process of its own.

Each trial alters a saved index at a place drawn from one stratum, and opens it in a fork: it must
be refused with `IndexFileError`. A crash, another error, or an index that opens is a failure. An
unaltered file is opened now and then as control; it must open.

With ``--mapped`` the unaltered file is opened as one whose rows stay in it, and is then altered in
its place, before its rows are read: they must be the same (where the alteration lies elsewhere), or
be refused.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedlab.files.keys import Key
from fedlab.index.file import IndexFileError
from fedlab.index.vectorindex import VectorIndex
from fedlab.workbench.experiments.files import cut, flipped, spliced

OPENED, REFUSED, WRONG_ERROR, OTHER_ROWS = 10, 11, 12, 13
_CHUNK = (1 << 20) + 17

Draw = np.random.Generator
Corruption = Callable[[bytes, Draw], bytes]


def two_indexes(rows: int) -> Iterator[VectorIndex]:
    """Yield two indexes of the same sizes, with labels and a graph."""
    for seed in (0, 1):
        draw = np.random.default_rng(seed)
        index = VectorIndex(32, "l2sq", "f16")
        index.add(draw.normal(size=(rows, 32)), labels=draw.integers(0, 9, rows))
        index.build_graph()
        yield index


@dataclass(frozen=True)
class Campaign:
    """Two pairs of files, sealed and not, that trials alter.

    Attributes
    ----------
    sealed, plain : tuple of (bytes, bytes)
        Two indexes' files of each sort; the second one lends its header and its chunks.
    key, other : Key
    """

    sealed: tuple[bytes, bytes]
    plain: tuple[bytes, bytes]
    key: Key
    other: Key

    @classmethod
    def of(cls, folder: Path, rows: int = 20_000) -> Campaign:
        """Save two indexes of three chunks and more, with labels and a graph."""
        key, other = Key.generate(), Key.generate()
        sealed, plain = [], []
        for index in two_indexes(rows):
            index.save(folder / "sealed", key)
            index.save(folder / "plain")
            sealed.append((folder / "sealed").read_bytes())
            plain.append((folder / "plain").read_bytes())
        return cls((sealed[0], sealed[1]), (plain[0], plain[1]), key, other)

    def strata(self) -> dict[str, tuple[bool, Corruption]]:
        """Return, by name, whether a stratum's file is sealed, and what is done to it."""
        return {
            **{f"sealed: {name}": (True, how) for name, how in _shared(self.sealed).items()},
            **{f"sealed: {name}": (True, how) for name, how in _chunks(self.sealed).items()},
            **{f"plain: {name}": (False, how) for name, how in _shared(self.plain).items()},
        }

    def run(
        self, folder: Path, trials: int, seed: int = 0, mapped: bool = False
    ) -> dict[str, Counter[str]]:
        """Return, by stratum, how many trials ended in which way."""
        counts: dict[str, Counter[str]] = {}
        for number, (name, sealed, key, content) in enumerate(self._trials(trials, seed)):
            if number % 50 == 0:
                for good, whose in ((self.sealed[0], self.key), (self.plain[0], None)):
                    how = _opened_in_a_fork(
                        folder / "control", good, whose, good if mapped else None
                    )
                    counts.setdefault("control", Counter())[how] += 1
            before = (self.sealed if sealed else self.plain)[0] if mapped else None
            how = _opened_in_a_fork(folder / "altered", content, key if sealed else None, before)
            counts.setdefault(name, Counter())[how] += 1
        return counts

    def _trials(self, trials: int, seed: int) -> Iterator[tuple[str, bool, Key, bytes]]:
        strata = list(self.strata().items())
        for number in range(trials):
            draw = np.random.default_rng([seed, number])
            place = number % (len(strata) + 1)
            if place == len(strata):
                yield "sealed: another key", True, self.other, self.sealed[0]
                continue
            name, (sealed, corrupt) = strata[place]
            whole = (self.sealed if sealed else self.plain)[0]
            content = corrupt(whole, draw)
            if content == whole:  # what was drawn changed nothing, so that this is no corruption
                content = flipped(whole, draw)
            yield name, sealed, self.key, content


def _shared(files: tuple[bytes, bytes]) -> dict[str, Corruption]:
    """Return corruptions of both sorts of files."""
    _, second = files

    def length_field(content: bytes, draw: Draw) -> bytes:
        start = int(draw.choice([8, 12, 16]))
        value = int(draw.choice([0, 1, 2**31 - 1, 2**32 - 1, int(draw.integers(2**32))]))
        return content[:start] + struct.pack("<I", value) + content[start + 4 :]

    return {
        "a flip in the header": lambda content, draw: flipped(content, draw, 0, 300),
        "a flip anywhere": flipped,
        "a flip near the end": lambda c, draw: flipped(c, draw, len(c) - 2000),
        "a length field": length_field,
        "cut": cut,
        "bytes behind the end": lambda c, draw: c + draw.bytes(int(draw.integers(1, 100))),
        "a splice of two files": lambda content, draw: spliced(content, second, draw),
        "zeros over a range": _zeroed,
    }


def _zeroed(content: bytes, draw: Draw) -> bytes:
    start = int(draw.integers(len(content) - 64))
    return content[:start] + bytes(64) + content[start + 64 :]


def _chunks(files: tuple[bytes, bytes]) -> dict[str, Corruption]:
    """Return corruptions of a sealed file's chunks and header."""
    first, second = files
    begin = 16 + struct.unpack_from("<I", first, 12)[0] + 24

    def cut_up(content: bytes) -> list[bytes]:
        body = content[begin:]
        return [body[place : place + _CHUNK] for place in range(0, len(body), _CHUNK)]

    def exchanged(content: bytes, draw: Draw) -> bytes:
        chunks = cut_up(content)
        a, b = draw.choice(len(chunks), 2, replace=False)
        chunks[a], chunks[b] = chunks[b], chunks[a]
        return content[:begin] + b"".join(chunks)

    def dropped(content: bytes, draw: Draw) -> bytes:
        chunks = cut_up(content)
        del chunks[int(draw.integers(len(chunks)))]
        return content[:begin] + b"".join(chunks)

    def repeated(content: bytes, draw: Draw) -> bytes:
        chunks = cut_up(content)
        chunks.insert(int(draw.integers(len(chunks))), chunks[int(draw.integers(len(chunks)))])
        return content[:begin] + b"".join(chunks)

    return {
        "two chunks exchanged": exchanged,
        "a chunk dropped": dropped,
        "a chunk repeated": repeated,
        "another file's header": lambda c, draw: second[:begin] + c[begin:],
        "another file's stream header": lambda c, draw: (
            c[: begin - 24] + second[begin - 24 : begin] + c[begin:]
        ),
    }


def _opened_in_a_fork(path: Path, content: bytes, key: Key | None, before: bytes | None) -> str:
    """Open a file in a child, search it if it opens, and say how the child ended.

    Where it had other content `before`, that is opened mapped, and it changes then.
    """
    path.write_bytes(content if before is None else before)
    child = os.fork()
    if not child:
        status = WRONG_ERROR
        try:
            index = VectorIndex.open(path, key, mapped=before is not None)
            rows = index.vectors
            if before is None:
                index.search(rows[:3], k=5, exact=False)
            else:
                path.write_bytes(content)  # the same file still, of other content
            same = np.array_equal(rows, index.vectors)
            status = OPENED if same else OTHER_ROWS
        except IndexFileError:
            status = REFUSED
        finally:
            os._exit(status)
    _, how = os.waitpid(child, 0)
    if os.WIFSIGNALED(how):
        return f"crashed with signal {os.WTERMSIG(how)}"
    names = {OPENED: "opened", REFUSED: "refused", WRONG_ERROR: "ended with another error"}
    names[OTHER_ROWS] = "gave other rows"
    return names.get(os.WEXITSTATUS(how), f"ended with status {os.WEXITSTATUS(how)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign, print how its trials ended, and return 1 unless all were refused."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks corrupt", description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000, help="corrupted files (10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mapped", action="store_true", help="alter files that are open, mapped")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = Campaign.of(folder).run(folder, given.trials, given.seed, given.mapped)
    width = max(map(len, counts))
    for stratum, ends in counts.items():
        said = ", ".join(f"{count:,} {how}" for how, count in ends.items())
        print(f"{stratum:<{width}}  {said}")
    control = counts.pop("control")
    good = ("refused", "opened") if given.mapped else ("refused",)
    bad = sum(count for ends in counts.values() for how, count in ends.items() if how not in good)
    wrong_control = sum(control.values()) - control["opened"]
    what = "not refused, with other rows" if given.mapped else "not refused"
    print(f"{given.trials:,} corruptions: {bad} {what}; control: {wrong_control} not opened")
    return int(bad > 0 or wrong_control > 0)


if __name__ == "__main__":
    sys.exit(main())
