"""The audit: where bytes of erased rows still stand."""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import U64, Places
from fedlab.data import kept_vectors
from fedlab.erasure.fingerprints import (
    FORMS,
    OF_VECTORS,
    Fingerprints,
    beside,
    coded,
    rows_as_bytes,
)
from fedlab.files.atomic import before_leftovers
from fedlab.files.keys import Sealer
from fedlab.files.sealing import SealError, is_sealed, unsealed_chunks
from fedlab.index.certificate import Holder, owner_of

if TYPE_CHECKING:
    import pandas as pd

    from fedlab.index.vectorindex import VectorIndex

Path_ = str | os.PathLike[str]
Blocks = Iterable[Any]
Name = tuple[str, int]
#: Bytes of n rows, one after another; where each begins, (n,); the rows' keys, (n,).
Part = tuple[NDArray[np.uint8], Places, U64]

#: What no search through an index and its files can see.
OUT_OF_REACH = (
    "Out of this audit's reach: memory that was freed and not used again, blocks that a disk or a "
    "flash memory kept when a file was replaced, swap and core dumps, backups and snapshots, views "
    "and copies elsewhere and other processes, rows under another encoding (printed as text, "
    "scaled, stored column by column), and any model that learned from the rows."
)

#: Files that hold their content compressed, by how they begin: rows in them can't be seen.
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip or npz",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\x89HDF": "HDF5",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
_BLOCK = 1 << 22
_NUMBERS = 1 << 20


class _Unsearchable(Exception):
    """A place does not show its bytes."""


@dataclass(frozen=True)
class Finding:
    """Bytes of an erased row, in one place.

    Attributes
    ----------
    place : str
        "memory: the buffer of codes", with a name where several were searched, or a file's path.
    form : str
        The precision ("f32"), or the column and encoding of a text ("labels, UTF-8").
    key : int
        The erased row's.
    offset : int
        Where they first stand, in bytes: of a sealed file, within what it holds.
    times : int
        How often they stand there.
    shared_with : int, optional
        The key of a kept row that has the same bytes.
    explained : int
        How often kept rows have them.
    """

    place: str
    form: str
    key: int
    offset: int
    times: int
    shared_with: int | None = None
    explained: int = 0

    @property
    def exceeds(self) -> bool:
        """Whether a row's numbers stand more often in a place than kept rows explain.

        A file that was not saved since, for example; or a graph within it, which has them again.
        """
        return self.form in FORMS and self.times > self.explained > 0

    def __str__(self) -> str:
        often = f", {self.times:,} times" if self.times > 1 else ""
        return f"row {self.key} as {self.form} in {self.place}, at byte {self.offset:,}{often}"


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes
    ----------
    keys : tuple of int
        The erased rows.
    found : tuple of Finding
        Their bytes, where no kept row has the same.
    shared : tuple of Finding
        Bytes that a kept row has, too: they show nothing of the erased one, unless they stand more
        often than kept rows explain.
    undecidable : mapping of str to int
        Of how many rows a form was not looked for, since fewer than 16 bytes make it up: whole,
        or by being repeated.
    looked_at : mapping of str to int
        Places, and how many bytes were searched there.
    unread : mapping of str to str
        Places that could not be searched to their end, and why.
    stored : str
        The precision in which the index stores rows.
    """

    keys: tuple[int, ...]
    found: tuple[Finding, ...]
    shared: tuple[Finding, ...]
    undecidable: Mapping[str, int]
    looked_at: Mapping[str, int]
    unread: Mapping[str, str]
    stored: str

    @property
    def verdict(self) -> Literal["found", "undecided", "clean"]:
        """What follows: "undecided" where a place stayed unread, or stored rows are too short.

        Also where a row's bytes stand more often than the kept rows explain that have the same.
        """
        if self.found:
            return "found"
        open_ = self.stored in self.undecidable or any(one.exceeds for one in self.shared)
        return "undecided" if self.unread or open_ else "clean"

    @property
    def clean(self) -> bool:
        """Whether all could be searched, and nothing was found but what kept rows share."""
        return self.verdict == "clean"

    def to_frame(self) -> pd.DataFrame:
        """Return all findings, shared ones too, one row each."""
        import pandas as pd

        findings = (*self.found, *self.shared)
        columns = {
            name: [getattr(finding, name) for finding in findings]
            for name in Finding.__dataclass_fields__
        }
        # Keys reach beyond what a float holds, which pandas would make of them beside a None.
        whole = {name: pd.array(columns[name], "UInt64") for name in ("key", "shared_with")}
        return pd.DataFrame({**columns, **whole})

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as lists, dicts, numbers and text."""
        return {"verdict": self.verdict, **asdict(self), "out_of_reach": OUT_OF_REACH}

    def __str__(self) -> str:
        total = sum(self.looked_at.values())
        lines = [
            f"{self.verdict}: {len(self.keys):,} erased rows were looked for in "
            f"{len(self.looked_at):,} places, {total:,} bytes"
        ]
        lines += [f"  found: {one}" for one in self.found]
        lines += [
            f"  shared: {one}; the kept row {one.shared_with} has the same bytes"
            + (f", and explains {one.explained}: save the file anew" if one.exceeds else "")
            for one in self.shared
        ]
        lines += [f"  unread: {place}: {why}" for place, why in self.unread.items()]
        lines += [
            f"  not decidable: {form} of {rows:,} rows, under 16 bytes of their own"
            for form, rows in self.undecidable.items()
        ]
        return "\n".join([*lines, OUT_OF_REACH])


def audit_erasure(
    index: VectorIndex | Holder | Iterable[Holder],
    fingerprints: Fingerprints,
    *,
    files: Iterable[Path_] = (),
    key: Sealer | Sequence[Sealer] | None = None,
    folders: Iterable[Path_] = (),
) -> Audit:
    """Look for the bytes of erased rows in indexes, their graphs, files and folders.

    Searched are the buffers behind the index's columns whole, room to spare included; the graph's
    own bytes and the buffers that it borrowed; each file, decrypted, and of a link what that leads
    to; beside it, files whose names begin with its own (older generations, by whatever ending) and
    what killed saves left; and all files in given folders. Each row is looked for at every offset,
    in each precision, as it was given and as each precision rounds it; its texts in UTF-8 and
    UTF-32. The vectors that `fedlab.data.embed` has kept in the data folder are searched, too.

    Parameters
    ----------
    index : VectorIndex, Device, or several
        As they stand now; their other rows are those that were kept. Give all devices of a
        federation, ``federation.devices``: views of one store hold each other's rows.
    fingerprints : Fingerprints
        Taken before the rows were erased, or of rows that are still at hand.
    files : paths
        Where the index was saved.
    key : Key or Passphrase, or several, optional
        What opens sealed files. Those that none of them opens are named in `Audit.unread`.
    folders : paths
        Searched with all that they hold: backups, a population's store.

    Raises
    ------
    FileNotFoundError
        If a file or a folder isn't there.

    Examples
    --------
    >>> from fedlab.index.vectorindex import VectorIndex
    >>> index = VectorIndex(8)
    >>> _ = index.add(np.random.default_rng(0).normal(size=(100, 8)))
    >>> index.build_graph()
    >>> fingerprints = Fingerprints.taken(index, [3, 5])
    >>> _ = index.remove([3, 5])
    >>> audit_erasure(index, fingerprints).verdict  # the graph still holds them
    'found'
    >>> _ = index.erase([])
    >>> audit_erasure(index, fingerprints).verdict
    'clean'
    """
    for what, given in (("files", files), ("folders", folders)):
        if isinstance(given, str | os.PathLike):
            raise TypeError(f"{what} is one path, {os.fspath(given)!r}; give a list of them")
    sealers = (key,) if isinstance(key, Sealer) else tuple(key or ())
    several = isinstance(index, Sequence) or not isinstance(index, Holder)  # a Population is both
    if not (holders := list[Any](index) if several else [index]):  # type: ignore[arg-type]
        raise ValueError("no index was given, nor a device; give one at least")
    indexes: list[Any] = list(
        {id(i): i for i in (getattr(h, "index", h) for h in holders)}.values()
    )
    embedded = [kept_vectors()] if kept_vectors().is_dir() else []
    # Before anything is searched: what is missing is told.
    paths = list(_paths(files, [*folders, *embedded]))
    places = [*_memory(holders), *((str(path), _content(path, sealers)) for path in paths)]
    seen = dict[tuple[str, Name], list[int]]()
    looked_at, unread = dict[str, int](), _elsewhere(indexes, paths)
    for place, blocks in places:
        try:
            for name, offset in fingerprints.search(_counted(blocks, place, looked_at)):
                seen.setdefault((place, name), [offset, 0])[1] += 1
        except (OSError, SealError, _Unsearchable) as error:
            unread[place] = str(error)
    kept = dict[Name, list[int]]()
    for one in indexes:
        for name, keys in _kept(one, fingerprints, {form for _, (form, _) in seen}).items():
            kept.setdefault(name, []).extend(keys)
    findings = [
        Finding(place, *name, offset, times, next(iter(keys), None), len(keys))
        for (place, name), (offset, times) in seen.items()
        for keys in [kept.get(name, [])]
    ]
    return Audit(
        fingerprints.keys,
        found=tuple(one for one in findings if one.shared_with is None),
        shared=tuple(one for one in findings if one.shared_with is not None),
        undecidable=fingerprints.undecidable,
        looked_at=looked_at,
        unread=unread,
        stored=min((one.dtype for one in indexes), key=lambda d: d not in fingerprints.undecidable),
    )


def _counted(blocks: Blocks, place: str, looked_at: dict[str, int]) -> Iterator[Any]:
    looked_at[place] = 0
    for block in blocks:
        looked_at[place] += len(block)
        yield block


# -- what kept rows have ---------------------------------------------------------------------------


def _kept(index: VectorIndex, fingerprints: Fingerprints, forms: set[str]) -> dict[Name, list[int]]:
    """Return which of the patterns that were seen stand in rows that were kept, and in whose."""
    rows = np.flatnonzero(~np.isin(index.keys, np.array(fingerprints.keys, np.uint64)))
    kept: dict[Name, list[int]] = {}
    for dtype in FORMS if forms.intersection(FORMS) else ():
        kept = _whose(fingerprints, _codes_of(index, rows, dtype)) | kept
    for name, column in index.columns.items():
        if name not in OF_VECTORS and forms.difference(FORMS):
            kept = _whose(fingerprints, _texts_of(name, column[rows], index.keys[rows])) | kept
    return kept


def _codes_of(index: VectorIndex, rows: Places, dtype: str) -> Iterator[Part]:
    stored, step = index.columns["codes"], max(1, _NUMBERS // index.dimensions)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        if dtype == index.dtype:
            codes = rows_as_bytes(stored[part])
        else:
            chosen, codes = coded(dtype, index.get(index.keys[part]))
            part = part[chosen]
        yield codes.ravel(), codes.shape[1] * np.arange(len(codes)), index.keys[part]


def _texts_of(name: str, column: NDArray[np.generic], keys: U64) -> Iterator[Part]:
    distinct, first = np.unique(column, return_index=True)
    # Zeros between them, so that two make no third one.
    texts = [(content + bytes(4), place) for _, content, place in beside(name, distinct)]
    if texts:
        ends = np.cumsum([len(content) for content, _ in texts])
        whole = np.frombuffer(b"".join(content for content, _ in texts), np.uint8)
        yield whole, np.concatenate([[0], ends[:-1]]), keys[first[[place for _, place in texts]]]


def _whose(fingerprints: Fingerprints, parts: Iterable[Part]) -> dict[Name, list[int]]:
    begins, seen = list[int](), list[tuple[Places, U64]]()

    def blocks() -> Iterator[NDArray[np.uint8]]:
        begin = 0
        for content, starts, keys in parts:
            begins.append(begin)
            seen.append((starts, keys))
            begin += content.size
            yield content

    whose: dict[Name, list[int]] = {}
    for name, offset in fingerprints.search(blocks()):
        place = bisect_right(begins, offset) - 1
        starts, keys = seen[place]
        row = np.searchsorted(starts, offset - begins[place], "right") - 1
        whose.setdefault(name, []).append(int(keys[row]))
    return whose


# -- where to look ---------------------------------------------------------------------------------


def _memory(holders: list[Any]) -> Iterator[tuple[str, Blocks]]:
    """Yield what indexes or devices hold: whole buffers, once, whatever part of them is used."""
    seen = set[int]()
    for holder in holders:
        whose = "" if len(holders) == 1 else f"{holder!r}, "
        for name, array in holder.buffers():
            owner = owner_of(array)
            if owner.size and id(owner) not in seen:
                seen.add(id(owner))
                content = np.ascontiguousarray(owner).reshape(-1).view(np.uint8)
                yield f"memory: {whose}{name}", [content]
        index = getattr(holder, "index", holder)
        if index.has_graph and id(index) not in seen:
            seen.add(id(index))
            yield f"memory: {whose}the graph", _serialised(index)


def _serialised(index: VectorIndex) -> Iterator[bytes]:
    if (content := index.graph_bytes()) is None:
        raise _Unsearchable("the engine doesn't give its bytes; erasing lets go of them")
    yield content


def _paths(files: Iterable[Path_], folders: Iterable[Path_]) -> Iterator[Path]:
    """Yield each file once: those given, those beside them, and all in folders."""
    seen = set[Path]()
    for path in (*_beside_all(files), *_within_all(folders)):
        if (real := path.resolve()) not in seen:
            seen.add(real)
            yield path


def _beside_all(files: Iterable[Path_]) -> Iterator[Path]:
    for file in map(Path, files):
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}; give those that were saved")
        for place in _led_through(file):
            yield place
            for other in sorted(place.parent.iterdir()):
                if other.name.startswith((place.name, before_leftovers(place))):
                    yield from _within(other) if other.is_dir() else [other]


def _led_through(path: Path) -> Iterator[Path]:
    """Yield a path and, if it is a link, what that leads to, link by link."""
    yield path
    if path.is_symlink():
        yield from _led_through(path.parent / path.readlink())


def _elsewhere(indexes: Iterable[VectorIndex], paths: Sequence[Path]) -> dict[str, str]:
    """Tell which files the indexes replaced that still stand under names nobody gave."""
    stats = [path.stat() for path in paths if path.exists()]
    found = [(known.st_dev, known.st_ino) for known in stats]
    return {
        f"hard links to what {old.path} was": (
            f"the file that was replaced had other names, which keep it; find them (find / -inum "
            f"{old.inode}), and give their folders, or remove them and audit the index opened anew"
        )
        for index in indexes
        for old in index.linked
        if old.others > found.count((old.device, old.inode))
    }


def _within_all(folders: Iterable[Path_]) -> Iterator[Path]:
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}; give those that are to be read")
        yield from _within(folder)


def _within(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, inner, names in os.walk(folder, onerror=refuse):
        links = [name for name in inner if os.path.islink(os.path.join(parent, name))]
        yield from (Path(parent, name) for name in sorted([*links, *names]))


def _content(path: Path, sealers: Sequence[Sealer]) -> Iterator[bytes]:
    """Yield a file's bytes, decrypted; raise OSError or SealError where that ends too early."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # before it is opened: a pipe would wait
        raise _Unsearchable(
            f"{path.name} is no regular file; of a link to a folder, give the folder"
        )
    if is_sealed(path):
        yield from _opened(path, sealers)
        return
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            yield block
        file.seek(0)
        begin = file.read(8)
    for magic, kind in _PACKED.items():
        if begin.startswith(magic):
            raise _Unsearchable(
                f"{path.name} is packed ({kind}); unpack it, and audit what it holds"
            )


def _opened(path: Path, sealers: Sequence[Sealer]) -> Iterator[bytes]:
    problem = SealError(f"{path.name} is sealed; give the key that it was sealed under")
    for sealer in sealers:
        chunks = unsealed_chunks(path, sealer)
        try:
            yield next(chunks)
        except SealError as error:
            problem = error
            continue
        yield from chunks
        return
    raise problem
