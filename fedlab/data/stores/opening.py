"""The door to all formats: which reader a file takes, by its content and its suffix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlab.core.validation import distinct_names
from fedlab.data.stores.arrow import read_arrow, read_hdf5
from fedlab.data.stores.raw import SAFE, read_idx, read_npy, read_npz, read_usearch, read_vecs
from fedlab.data.stores.source import Store, VectorSource, told
from fedlab.data.stores.sql import read_sql

#: By suffix, where the first bytes tell nothing; and by these.
_SUFFIXES = {**dict.fromkeys((".fvecs", ".bvecs", ".ivecs"), read_vecs), ".usearch": read_usearch}
_MAGIC = (b"\x93NUMPY", b"PK\3\4", b"\x89HDF\r\n\x1a\n", b"PAR1", b"ARROW1", b"\x1f\x8b", b"\0\0")
_READERS = (read_npy, read_npz, read_hdf5, read_arrow, read_arrow, read_idx, read_idx)


def open_vectors(
    where: Any,
    *,
    vectors: str | None = None,
    labels: str | None = None,
    key: str | None = None,
    metadata: Sequence[str] = (),
    changed: str | None = None,
    table: str | None = None,
    schema: str | None = None,
) -> VectorSource:
    """Open vectors where they are: a file of many formats, or a table of a database.

    Nothing is read yet but what tells types and shapes.

    Parameters
    ----------
    where : path, or the address of a database
        A file: ``.npy``, ``.npz``, ``.fvecs``, ``.bvecs``, ``.ivecs``, HDF5, Parquet, Arrow
        (Feather 2), IDX images (gzip or not), ``.usearch``. A database: an address such as
        ``postgresql://user:password@host/name`` or ``sqlite:///file.db``, or an engine of
        SQLAlchemy's.
    vectors : str, optional
        The column (array, dataset) of vectors: (n, d) numbers, lists of numbers, in a database
        arrays or pgvector's types. By default the only one there is, or ``"train"``.
    labels, metadata : str and sequence of str, optional
        Columns of single values.
    key : str, optional
        The column of keys: whole numbers, each once. Without it, a row of a file has its place as
        key, from 0 on, and a row of a ``.usearch`` file its own.
    changed : str, optional
        The column of the time, or number, of each row's last change (see
        `fedlab.device.following.follow`). Times as text are of ISO 8601, in one form and one zone.
    table, schema : str, optional
        The table or view of a database; it takes `vectors` and `key`, too.

    Raises
    ------
    ValueError
        If the file is of no format that is read, not whole, or one that may run code (a pickle); a
        column is missing or does not fit; or the database refuses. No password is told.
    FileNotFoundError, ImportError
        If there is no such file, or no library to read it.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> path = Path(tempfile.mkdtemp()) / "mine.npz"
    >>> np.savez(path, x=np.eye(3), y=["a", "b", "a"])
    >>> source = open_vectors(path, labels="y")
    >>> source
    VectorSource('mine.npz': 3 rows of 3 in float64)
    >>> [batch.keys.tolist() for batch in source.batches(size=2)]
    [[0, 1], [2]]
    """
    if table is None:
        store = _file(Path(where))
    else:
        if key is None or vectors is None:
            raise TypeError("name the columns: open_vectors(..., table=..., vectors=..., key=...)")
        with told(f"table {table!r}"):
            store = read_sql(where, table, schema, key, vectors)
    if vectors is None:
        found = [one for one, column in store.columns.items() if len(column.shape) == 2]
        vectors = found[0] if len(found) == 1 else "train"
        if vectors not in store.columns:
            there = {name: column.shape for name, column in store.columns.items()}
            said = f"name the column of vectors: vectors=...; there are {there}"
            raise ValueError(f"{store.name}: {said}")
    about = distinct_names(metadata, "metadata")
    return VectorSource(store, vectors, labels, key or store.key, about, changed)


def values_in(values: Any) -> Any:
    """Return what was given, or, of a path, the values of a ``.npy`` or IDX file."""
    if not isinstance(values, str | Path):
        return values
    store = _file(Path(values))
    with told(store.name):
        return store.columns["values"][:]


def _file(path: Path) -> Store:
    name, suffix = repr(path.name), path.suffix.lower()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {name}; of a database, name the table=")
    with told(name), path.open("rb") as file:
        head = file.read(8)
        begun = (one for magic, one in zip(_MAGIC, _READERS, strict=True) if head.startswith(magic))
        if (reader := _SUFFIXES.get(suffix) or next(begun, None)) is None:
            known = ".npy, .npz, .fvecs, .bvecs, .ivecs, HDF5, Parquet, Arrow, IDX and .usearch"
            raise ValueError(f"it begins with {head!r}; {known} are read. Of a pickle{SAFE}")
        return replace(reader(path, name), where=str(path.resolve()))
