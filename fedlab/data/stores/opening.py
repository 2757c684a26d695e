"""The door to all formats: which reader a file takes, by its content and its suffix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedlab.core.validation import distinct_names
from fedlab.data.stores.arrow import read_arrow, read_hdf5
from fedlab.data.stores.raw import SAFE, read_idx, read_npy, read_npz, read_usearch, read_vecs
from fedlab.data.stores.source import ROWS, Store, VectorSource, told
from fedlab.data.stores.sql import read_sql

#: By suffix, where the first bytes tell nothing; and by these.
_SUFFIXES = {**dict.fromkeys((".fvecs", ".bvecs", ".ivecs"), read_vecs), ".usearch": read_usearch}
_BEGINNINGS = {
    **{b"\x93NUMPY": read_npy, b"PK\x03\x04": read_npz, b"\x89HDF\r\n\x1a\n": read_hdf5},
    **{b"PAR1": read_arrow, b"ARROW1": read_arrow, b"\x1f\x8b": read_idx, b"\0\0": read_idx},
}
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib")


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
        `fedlab.device.following.follow`).
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
    elif key is None or vectors is None:
        raise TypeError("name the columns: open_vectors(..., table=..., vectors=..., key=...)")
    else:
        with told(name := f"table {table!r}"):
            store = read_sql(where, table, schema, key, vectors, name)
    if vectors is None:
        found = [one for one, column in store.columns.items() if len(column.shape) == 2]
        vectors = found[0] if len(found) == 1 else "train"
    named = distinct_names(metadata, "metadata")
    return VectorSource(store, vectors, labels, key or store.key, named, changed)


def values_in(values: Any) -> Any:
    """Return what was given, or, of a path, the values of a file that holds one for each row."""
    if not isinstance(values, str | Path):
        return values
    store = _file(Path(values))
    (name, column), *others = store.columns.items()
    with told(store.name):
        if others or len(column.shape) != 1:
            raise ValueError("it holds more than one value a row")
        parts = [some[name] for _, some in store.read([name], ROWS, None, None)]
        return np.concatenate(parts) if parts else np.empty(0)


def _file(path: Path) -> Store:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path.name!r}; of a database, name the table=")
    with told(repr(path.name)):
        store: Store = _reader(path)(path, repr(path.name))
        return store


def _reader(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(8)
    suffix = path.suffix.lower()
    if suffix in _PICKLES or (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5"):
        raise ValueError(f"it is a pickle, or may be one{SAFE}")
    begun = (reader for start, reader in _BEGINNINGS.items() if head.startswith(start))
    if reader := _SUFFIXES.get(suffix) or next(begun, None):
        return reader
    raise ValueError(
        f"it begins with {head!r}; .npy, .npz, .fvecs, .bvecs, .ivecs, HDF5, Parquet, Arrow, IDX, "
        ".usearch and tables of databases are read; of texts, fedlab.data.embed makes vectors"
    )
