"""A saved index that follows a source of vectors: filled from it, and brought up to date later."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np

from fedlab.core.typing import U64, Bool, Places
from fedlab.core.validation import not_negative, of_kind, whole_number
from fedlab.data.stores.source import ROWS, VectorSource, form_of, told
from fedlab.files.arrays import FileKind
from fedlab.files.keys import Sealer
from fedlab.index import file
from fedlab.index.file import IndexFileError, Stored
from fedlab.index.growing import GrowingIndex
from fedlab.index.table import RowTable
from fedlab.index.texts import plain
from fedlab.index.vectorindex import DType, Metric, VectorIndex

_NOTE = FileKind(b"FEDLABFW", "note of what an index follows", IndexFileError)


@dataclass(frozen=True)
class Followed:
    """What a call of `follow` did: rows that are new, that have changed, and that have gone."""

    added: int
    changed: int
    removed: int


def follow(
    source: VectorSource,
    path: str | Path,
    key: Sealer | None = None,
    *,
    metric: Metric | None = None,
    dtype: DType | None = None,
    batch: int = ROWS,
    overlap: float = 600.0,
) -> Followed:
    """Fill a saved index from a source, or bring it up to date with what has changed there.

    All keys are compared, and all rows as they would be stored; of a database with a column of
    changes (``open_vectors(..., changed=...)``) only rows that changed since the last call, and all
    of them if keys are new that don't say so. The source is never written to.

    Memory holds a batch, and of all rows their keys, labels and metadata (some 100 bytes a row
    beside text): rows may be more than it holds. What is new is put in parts, in a folder
    ``<name>.coming``; in the end the index is written anew, as one stream, and takes the old one's
    place. So the disk has to hold it up to three times. A call that was killed leaves the old index
    and is gone on with by the next, behind its last batch; what changed before that place meanwhile
    is found by the one after. A damaged part is refused; without ``<name>.coming``, rows are read
    again. A graph is left out where rows changed. A passphrase costs its derivation three times a
    batch, a key nothing.

    What is known of the source (a digest of its description, the latest change, where to go on)
    stands beside the index, in ``<name>.followed``. All files are sealed as the index is.

    Parameters
    ----------
    source : VectorSource
        See `fedlab.data.open_vectors`. A row is known by its key: name the column.
    path : path-like
        The index's file: made by this function, or not there yet. Rows that others added go.
    key : Key or Passphrase, optional
        What the files are sealed with.
    metric, dtype : str
        Of the index; of a new one, by default, the metric that the source tells, or cosine, and
        f32.
    batch : int
        Rows that are read at once.
    overlap : float
        Seconds by which times of change are read again: a transaction is seen when it ends, and
        says when it began. A change that is seen later than that is found without `changed`.

    Raises
    ------
    ValueError
        If the source can't be read, holds a key twice, or is another than the one that the index
        follows; its changes are told by text that does not sort by time; it has no row yet to tell
        a new index's dimensions; the index has another metric or dtype, or was not made by this
        function. The saved one is as it was.

    Examples
    --------
    >>> import tempfile
    >>> from fedlab.data import open_vectors
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.save(folder / "mine.npy", np.eye(3))
    >>> follow(open_vectors(folder / "mine.npy"), folder / "mine.index")
    Followed(added=3, changed=0, removed=0)
    >>> np.save(folder / "mine.npy", [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    >>> follow(open_vectors(folder / "mine.npy"), folder / "mine.index")
    Followed(added=0, changed=1, removed=1)
    """
    not_negative(overlap=overlap)
    whole_number(batch, "batch", 1)
    of_kind(source, VectorSource, "source (what open_vectors returns)")
    target, noted = Path(path), Path(f"{path}.followed")
    described = source.store.name, replace(source, changed=None).used, source.store.where
    digest = hashlib.sha256(repr(described).encode()).hexdigest()
    note: dict[str, Any] = _NOTE.read(noted, key)[0] if noted.exists() else {}
    if target.exists():
        if note.get("source") != digest:
            said = f"{target.name} does not follow {described[0]} with {described[1]} from here"
            raise ValueError(f"{said}; give another path, or remove it and its .followed")
        stored = file.read(target, key, 0, mapped=True)
        for name, wanted in (("metric", metric), ("dtype", dtype)):
            if wanted not in (None, has := getattr(stored, name)):
                said = f"{target.name} has the {name} {has!r}, and {wanted!r} was given"
                raise ValueError(f"{said}; leave it out, or give another path")
    elif not source.dimensions:
        raise ValueError(
            f"{described[0]} has no row yet to tell dimensions; call again when it has"
        )
    else:
        named: Any = metric or source.store.metric or "cosine"
        stored = VectorIndex(source.dimensions, named, dtype or "f32").stored
    if note.get("source") != digest or stored.generation < note.get("base", [0])[0]:
        note = {"source": digest}  # nothing is known, or an older index was put back
    coming = _Coming(target, key, stored, note)
    added = taken = 0
    with source.store.reading() as store:
        now = replace(source, store=store)
        keys, latest = now.all_keys()
        after, since = note["after"], note.get("mark")
        if isinstance(since, str) and form_of(since) != form_of(latest):
            since = None  # written otherwise, it does not sort among them
        elif isinstance(since, dict):
            since = datetime.fromisoformat(since["time"]) - timedelta(seconds=overlap)
        if after is None:
            note["coming"] = _mark(latest)
        while True:
            standing = coming.index.settled()
            for part in now.batches(batch, after, since):
                stood = standing.table.rows_of(part.keys)
                fresh = VectorIndex(standing.dimensions, standing.metric, standing.dtype)
                with told(store.name):
                    fresh.add(part.rows, part.keys, part.labels, part.metadata)
                rows = fresh.stored.table
                new = _differing(standing.table, rows, stood)
                added, taken = added + int((stood < 0).sum()), taken + int(new.sum())
                coming.take(replace(fresh.stored, table=rows.kept(new)), part.end)
            there = coming.index.settled().table.columns["keys"]
            if after is since is None or np.isin(keys, there).all():
                break
            after = since = None
    return Followed(added, taken - added, coming.finish(keys))


class _Coming:
    """What an index is made of: the saved one, and parts with rows that came since.

    The note tells which parts belong to it, by the call that wrote them: two never mix.
    """

    def __init__(
        self, target: Path, key: Sealer | None, stored: Stored, note: dict[str, Any]
    ) -> None:
        self._target, self._key, self._note, self._call = target, key, note, token_hex(8)
        self._aside = Path(f"{target}.coming")
        base = [stored.generation, stored.metric, stored.dtype]
        gone = note.get("parts") and not self._aside.exists()
        if gone or note.get("base") != base:  # or they are of another index
            note |= {"base": base, "after": None, "parts": {}}
        self.index = GrowingIndex(stored)
        for call, count in note["parts"].items():
            for number in range(count):
                self._take(call, number)

    def _take(self, call: str, number: int, rows: Stored | None = None) -> None:
        path = self._aside / f"{self._target.name}.{call}.{number}"
        if rows is not None:
            file.write(path, rows, self._key)
        self.index.take(file.read(path, self._key, 0, mapped=True).table)

    def take(self, rows: Stored, end: int) -> None:
        """Write some rows of a batch to a part, and note what is there, and where it ended."""
        if rows.table.rows:
            parts = self._note["parts"]
            self._aside.mkdir(exist_ok=True)
            number = parts.setdefault(self._call, 0)
            self._take(self._call, number, rows)
            parts[self._call] = number + 1
        self._note["after"] = end
        self._write()

    def _write(self) -> None:
        _NOTE.write(f"{self._target}.followed", self._note, {}, self._key)

    def finish(self, keys: U64) -> int:
        """Save the index with the rows of those keys; return how many others there were."""
        rows, done = self.index.settled().table.rows, self.index.settled(keys)
        gone = rows - done.table.rows
        if self._note["parts"] or gone or not self._target.exists():
            done = replace(done, generation=done.generation + 1)
            file.write(self._target, done, self._key)
        base = [done.generation, done.metric, done.dtype]
        self._note |= {"base": base, "mark": self._note["coming"], "after": None, "parts": {}}
        self._write()
        if self._aside.exists():
            shutil.rmtree(self._aside)
        return gone


def _differing(standing: RowTable, rows: RowTable, stood: Places) -> Bool:
    """Return which rows are not in a table as they are."""
    new: Bool = stood < 0
    if new.all():
        return new
    there, known = stood[~new], rows.kept(~new)
    other = (standing.decoded(there) != known.decoded()).any(axis=1)
    for name in known.columns.keys() - {"keys", "codes", "scales", "squares"}:
        old, now = (plain(one) for one in (standing.columns[name][there], known.columns[name]))
        other |= (old != now) & ((old == old) | (now == now))  # NaN and NaT are alike
    new[~new] = other
    return new


def _mark(latest: Any) -> Any:
    """Return the latest change as JSON keeps it: text or a number; a time as a mapping."""
    if latest is None or latest != latest:  # none is told in any row
        return None
    if hasattr(latest, "isoformat"):
        return {"time": latest.isoformat()}
    return np.asarray(latest).item()
