"""A saved index that follows a source of vectors: filled from it, and brought up to date later."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from fedlab.core.typing import Bool
from fedlab.core.validation import not_negative
from fedlab.data.stores.source import ROWS, Batch, VectorSource
from fedlab.files.arrays import FileKind
from fedlab.files.keys import Sealer
from fedlab.index.file import IndexFileError
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
    dtype: DType = "f32",
    batch: int = ROWS,
    overlap: float = 600.0,
) -> Followed:
    """Fill a saved index from a source, or bring it up to date with what has changed there.

    All keys are compared, and all rows as they would be stored; of a database with a column of
    changes (``open_vectors(..., changed=...)``) only rows that changed since the last call, and all
    of them if keys are new that don't say so. The source is never written to.

    The index is saved again and again, whole or not at all. A call that was killed is gone on with
    by the next, from the last save: after a batch, unless saving would then take more than a tenth
    of the time. What is known of the source (a digest of its description, the latest change, where
    to go on) stands beside the index, in ``<name>.followed``, sealed as the index is.

    Parameters
    ----------
    source : VectorSource
        See `fedlab.data.open_vectors`. A row is known by its key: name the column.
    path : path-like
        The index's file: made by this function, or not there yet. Rows that others added go.
    key : Key or Passphrase, optional
        What the files are sealed with.
    metric, dtype : str
        Of an index that is new; by default the metric that the source tells, or cosine.
    batch : int
        Rows that are read at once.
    overlap : float
        Seconds by which times of change are read again: a transaction is seen when it ends, and
        says when it began. A change that is seen later than that is found without `changed`.

    Raises
    ------
    ValueError
        If the source can't be read, holds a key twice, or is another than the one that the index
        follows; or the index was not made by this function. The saved one is as it was.

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
    target, noted = Path(path), Path(f"{path}.followed")
    described = source.store.name, replace(source, changed=None).used
    note: dict[str, Any] = {"source": hashlib.sha256(repr(described).encode()).hexdigest()}
    if target.exists():
        index = VectorIndex.open(target, key)
        found: dict[str, Any] = _NOTE.read(noted, key)[0] if noted.exists() else {}
        if found.get("source") != note["source"]:
            said = f"{target.name} does not follow {described[0]} with {described[1]}"
            raise ValueError(f"{said}; give another path, or remove it and its .followed")
        if index.generation >= found.get("generation", 0):  # else an older one was put back
            note = found
    else:
        told: Any = metric or source.store.metric or "cosine"
        index = VectorIndex(source.dimensions, told, dtype)
    added = changed = 0
    with source.store.reading() as store:
        now = replace(source, store=store)
        keys, latest = now.all_keys()
        after, since = note.get("after"), note.get("mark")
        if isinstance(since, dict):
            since = datetime.fromisoformat(since["time"]) - timedelta(seconds=overlap)
        if after is None:
            note["coming"] = _mark(latest)
        if not target.exists():
            _NOTE.write(noted, note, {}, key)
        began, saving, saved = time.monotonic(), 0.0, index.edits

        def save() -> None:
            if index.edits > saved or not target.exists():
                index.save(target, key)
            _NOTE.write(noted, note | {"generation": index.generation}, {}, key)

        while True:
            for part in now.batches(batch, after, since):
                new = _differing(index, part)
                labels = None if part.labels is None else part.labels[new]
                about = None if part.metadata is None else part.metadata[new]
                put = index.upsert(part.rows[new], part.keys[new], labels, about)
                added, changed = added + len(put.added), changed + len(put.replaced)
                note["after"] = part.end
                if saving <= ((start := time.monotonic()) - began) / 10:
                    save()
                    saving, saved = saving + time.monotonic() - start, index.edits
            if since is None or np.isin(keys, index.keys).all():
                break
            after = since = None
        removed = index.remove(index.keys[~np.isin(index.keys, keys)])
        note |= {"mark": note["coming"], "after": None}
        save()
    return Followed(added, changed, removed)


def _differing(index: VectorIndex, part: Batch) -> Bool:
    """Return which rows of a batch are not in the index as they would be stored."""
    new = index.rows_of(part.keys) < 0
    if new.all():
        return new
    fresh = VectorIndex(index.dimensions, index.metric, index.dtype)
    fresh.add(part.rows, part.keys, part.labels, part.metadata)
    there = part.keys[~new]
    other = (index.get(there) != fresh.get(there)).any(axis=1)
    if part.labels is not None:
        other |= index.labels_of(there) != fresh.labels_of(there)
    if part.metadata is not None:
        old, now = index.metadata_of(there), fresh.metadata_of(there)
        other |= ((old != now) & ~(old.isna() & now.isna())).any(axis=1).to_numpy()
    new[~new] = other
    return new


def _mark(latest: Any) -> Any:
    """Return the latest change as JSON keeps it: text or a number; a time as a mapping."""
    if latest is None or latest != latest:  # none is told in any row
        return None
    if hasattr(latest, "isoformat"):
        return {"time": latest.isoformat()}
    return np.asarray(latest).item()
