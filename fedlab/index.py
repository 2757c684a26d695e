"""The vector index of a device: vectors in, neighbours out.

The truth of an index is one contiguous array of its rows in their storage type, with keys and
labels beside it. Training, `get` and the exact scan read that array, decoded. USearch's graph is
derived from it, built when it is first used, and only ever proposes candidates: every distance in
an answer is measured in float64 from the stored rows, so answers agree between devices whatever
answered.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.checks import (
    KEY_LIMIT,
    as_keys,
    as_labels,
    as_lengths,
    as_vectors,
    read_only,
    whole_number,
)
from fedlab.erasure.certificate import Certificate, OldMemory, certify, content_hash
from fedlab.graph import Graph, library_version
from fedlab.hits import Hits, graph_pays
from fedlab.indexfile import INDEX, IndexFileError
from fedlab.scan import METRICS, Nearest, Probes, nearest, ranked, scan
from fedlab.sealing import Key, Sealer
from fedlab.storage import DTYPES, Columns, Table, encode

__all__ = ["VectorIndex"]

Metric = Literal["cosine", "inner", "l2sq"]
DType = Literal["f32", "f16", "bf16", "i8"]

#: Numbers held at once; to ask for more neighbours, and more than there are rows, is a mistake.
_MANY = 1 << 20


class VectorIndex:
    """Vectors with keys and labels, searched by nearness.

    Many threads may search at once; one that adds or removes rows must be alone.

    Parameters
    ----------
    dimensions : int
        Numbers in a vector.
    metric : {"cosine", "inner", "l2sq"}
        What is near. Cosine compares directions; the rows keep their lengths.
    dtype : {"f32", "f16", "bf16", "i8"}
        How rows are stored: 4, 2, 2 or 1 byte a number (i8: 4 more a row, for its scale). Keys
        and squared lengths take 12 bytes a row.
    connectivity, expansion_add, expansion_search : int
        The graph's links a node, and its candidates while building and while searching.

    Examples
    --------
    >>> index = VectorIndex(2)
    >>> rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    >>> keys = index.add(rows, labels=["east", "north", "north-east"])
    >>> hits = index.search([0.9, 0.1], k=2)
    >>> hits.keys, hits.engine
    (array([[0, 2]], dtype=uint64), 'scan')
    >>> index.labels_of(hits.keys[0])
    array(['east', 'north-east'], dtype='<U10')
    """

    def __init__(
        self,
        dimensions: int,
        metric: Metric = "cosine",
        dtype: DType = "f32",
        *,
        connectivity: int = 16,
        expansion_add: int = 128,
        expansion_search: int = 64,
    ) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric is {metric!r}; choose one of {', '.join(METRICS)}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
        self.dimensions = whole_number(dimensions, "dimensions", 1, 65_536)
        self.metric: Metric = metric
        self.dtype: DType = dtype
        self.settings = {
            "connectivity": whole_number(connectivity, "connectivity", 2, 512),
            "expansion_add": whole_number(expansion_add, "expansion_add", 1, 65_536),
            "expansion_search": whole_number(expansion_search, "expansion_search", 1, 65_536),
        }
        self._table = Table(
            {
                **encode(np.empty((0, self.dimensions), np.float32), dtype),
                "squares": np.empty(0, np.float32),
                "keys": np.empty(0, np.uint64),
            }
        )
        #: How often the index was saved, by this object and by those it was opened from.
        self.generation = 0
        self._next_key = 0
        self._edits = 0
        self._graph: Graph | None = None
        self._building = Lock()

    # -- what is in it -----------------------------------------------------------------------

    def __len__(self) -> int:
        return self._table.rows

    def __iter__(self) -> Iterator[int]:
        return iter(self._table.columns["keys"].tolist())

    def __contains__(self, key: object) -> bool:
        if (
            isinstance(key, bool)
            or not isinstance(key, int | np.integer)
            or not 0 <= key < KEY_LIMIT
        ):
            return False
        return bool(self._table.rows_of(np.array([key], np.uint64))[0] >= 0)

    def __repr__(self) -> str:
        return (
            f"VectorIndex({len(self):,} rows of {self.dimensions} in {self.dtype}, {self.metric}, "
            f"{'with' if self.has_graph else 'no'} graph, {self.nbytes:,} bytes)"
        )

    @property
    def keys(self) -> NDArray[np.uint64]:
        """(n,) keys in the order of the rows, read-only."""
        return read_only(self._table.columns["keys"])

    @property
    def labels(self) -> NDArray[Any] | None:
        """(n,) labels in the order of the rows, read-only; None if the rows have none."""
        column = self._table.columns.get("labels")
        return None if column is None else read_only(column)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(n, d) decoded rows in their order, read-only; a view where they are stored as f32."""
        return read_only(self._table.decoded())

    @property
    def edits(self) -> int:
        """How often rows were added or removed: who derives something from them compares it."""
        return self._edits

    @property
    def has_graph(self) -> bool:
        """Whether a graph stands (it may still have to take in rows that came since)."""
        return self._graph is not None

    @property
    def nbytes(self) -> int:
        """Bytes of rows, lengths, keys and labels, and of the graph if it stands."""
        graph = self._graph
        return self._table.nbytes + (graph.nbytes_beside(self._table) if graph else 0)

    def __getstate__(self) -> dict[str, Any]:
        # For copies and for other processes: USearch's graph can't go along, and is rebuilt.
        state = {**self.__dict__, "_table": self._table.slice(0, len(self)), "_graph": None}
        del state["_building"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _building=Lock())

    # -- rows in, rows out -------------------------------------------------------------------

    def add(
        self, vectors: ArrayLike, keys: ArrayLike | None = None, labels: ArrayLike | None = None
    ) -> NDArray[np.uint64]:
        """Add rows: all of them, or none if any is refused.

        Parameters
        ----------
        vectors : (n, d) array
            Finite numbers; under cosine no row of length zero.
        keys : (n,) whole numbers, optional
            Distinct, not yet in the index, below 2**64 - 1. By default the next free ones.
        labels : (n,) array, optional
            A class (whole number, text) or a number for each row. Either all rows of an index have
            labels or none.

        Returns
        -------
        (n,) uint64 array
            The rows' keys.

        Raises
        ------
        ValueError, TypeError
            If anything is refused; the index is then as it was.
        """
        rows = as_vectors(vectors, self.dimensions, "vectors")
        new_keys = self._free_keys(len(rows)) if keys is None else as_keys(keys)
        self._refuse_taken(new_keys, len(rows))
        block = {**encode(rows, self.dtype), "keys": new_keys}
        block["squares"] = as_lengths(Table(block).decoded(), self.metric, "vectors")
        if not len(rows):
            return new_keys
        block |= self._checked_labels(labels, len(rows))
        table = self._table.appended(block)
        next_key = max(self._next_key, int(new_keys.max()) + 1)
        # No call stands between these, so an interrupt can't fall there.
        self._table, self._next_key, self._edits = table, next_key, self._edits + 1
        return np.array(new_keys)

    def _free_keys(self, count: int) -> NDArray[np.uint64]:
        if self._next_key + count > KEY_LIMIT:
            raise ValueError("no keys are free above the largest one; give keys of your own")
        return np.arange(self._next_key, self._next_key + count, dtype=np.uint64)

    def _refuse_taken(self, keys: NDArray[np.uint64], rows: int) -> None:
        if len(keys) != rows:
            raise ValueError(f"{len(keys)} keys were given for {rows} rows; one a row is needed")
        distinct, counts = np.unique(keys, return_counts=True)
        if len(distinct) < len(keys):
            raise ValueError(f"keys: {_some(distinct[counts > 1])} stand twice in what was given")
        if not rows or distinct[0] >= self._next_key:
            return  # all lie above every key so far: no need to look
        taken = keys[self._table.rows_of(keys) >= 0]
        if len(taken):
            raise ValueError(
                f"keys: {_some(taken)} are in the index already; remove them first, or give others"
            )

    def _checked_labels(self, labels: ArrayLike | None, rows: int) -> Columns:
        known = self._table.columns.get("labels") if len(self) else None
        if labels is None:
            if known is not None:
                raise ValueError("the rows of this index have labels; give one for each new row")
            return {}
        if known is None and len(self):
            raise ValueError("the rows of this index have no labels; leave them out here too")
        column = as_labels(labels, rows)
        if known is not None and (known.dtype.kind == "U") != (column.dtype.kind == "U"):
            raise ValueError(
                f"labels of type {column.dtype} were given; this index has {known.dtype}"
            )
        return {"labels": column}

    def get(self, keys: ArrayLike) -> NDArray[np.float32]:
        """Return the rows of `keys`, decoded, (n, d), with the lengths that were put in.

        Raises
        ------
        KeyError
            If a key is not in the index.
        """
        return self._table.decoded(self._present(keys))

    def labels_of(self, keys: ArrayLike) -> NDArray[Any]:
        """Return the labels of `keys`, (n,).

        Raises
        ------
        KeyError
            If a key is not in the index, or its rows have no labels.
        """
        rows = self._present(keys)
        if "labels" not in self._table.columns:
            raise KeyError("the rows of this index have no labels; add them with labels=")
        return self._table.columns["labels"][rows]

    def remove(self, keys: ArrayLike) -> int:
        """Remove rows, and return how many.

        The rows' bytes leave the array, and files that are saved from now on. A graph that stands
        still holds them in memory until it is built anew; so does a view. `erase` makes sure.

        Raises
        ------
        KeyError
            If a key is not in the index; nothing is removed then.
        """
        gone = self._present(keys)
        kept = np.ones(len(self), np.bool_)
        kept[gone] = False
        if kept.all():
            return 0
        table = self._table.kept(kept)
        graph = self._graph.without(kept) if self._graph else None
        # No call stands between these, so an interrupt can't fall there.
        self._table, self._graph, self._edits = table, graph, self._edits + 1
        return int(len(kept) - table.rows)

    def erase(self, keys: ArrayLike, key: Key | None = None) -> Certificate:
        """Remove rows so that the index holds none of their bytes any more, and certify it.

        All columns are copied into memory of their own, without the rows and without room to spare;
        the graph is dropped, and built anew when it is used. Files change when the index is saved.
        `fedlab.erasure.audit_erasure` looks whether anything is left.

        Memory that others may be reading (views, arrays that were handed out) is never written
        over; `Certificate.still_held` tells where that keeps the rows. A view that erases nothing,
        ``view.erase([])``, lets go of the memory that it shared.

        Parameters
        ----------
        keys : (n,) whole numbers
        key : Key, optional
            Signs the certificate, and hides the hashes in it from others.

        Raises
        ------
        KeyError
            If a key is not in the index; nothing is erased then.
        """
        kept = np.ones(len(self), np.bool_)
        kept[self._present(keys)] = False
        erased = self.keys[~kept]
        before, memory = (len(self), content_hash(self, key)), OldMemory(self)
        table = self._table.kept(kept).tightened()
        # No call stands between these, so an interrupt can't fall there.
        self._table, self._graph, self._edits = table, None, self._edits + 1
        return certify(self, erased, before, memory, key)

    def view(self, start: int, stop: int) -> VectorIndex:
        """Return an index over rows `start` ... `stop` - 1 of this one, without a copy.

        It answers as an index that owns these rows would, bit for bit. What is later added to it or
        removed from it changes neither this index nor other views.
        """
        whole_number(start, "start", 0, len(self))
        whole_number(stop, "stop", start, len(self))
        part = VectorIndex(self.dimensions, self.metric, self.dtype, **self.settings)
        part._table = self._table.slice(start, stop)
        part._next_key = self._next_key
        return part

    def rows_of(self, keys: ArrayLike) -> NDArray[np.intp]:
        """Return in which row each key stands, -1 where it is not in the index."""
        return self._table.rows_of(as_keys(keys))

    def _present(self, keys: ArrayLike) -> NDArray[np.intp]:
        wanted = as_keys(keys)
        rows = self._table.rows_of(wanted)
        if (rows < 0).any():
            raise KeyError(f"keys {_some(wanted[rows < 0])} are not in the index")
        return rows

    # -- search ------------------------------------------------------------------------------

    def search(
        self, queries: ArrayLike, k: int, exact: bool | None = None, *, threads: int = 1
    ) -> Hits:
        """Find the k nearest rows of each query.

        Parameters
        ----------
        queries : (q, d) or (d,) array
            Finite numbers; under cosine none of length zero.
        k : int
            How many; an index with fewer rows returns all it has (see `Hits.counts`).
        exact : bool, optional
            True asks the scan (recall 1), False the graph (built now if it does not stand). By
            default sizes decide, see `graph_pays`.
        threads : int
            Threads that walk the graph; the answer does not depend on them.

        Returns
        -------
        Hits
        """
        k = whole_number(k, "k", 1, max(_MANY, len(self)))
        whole_number(threads, "threads", 1, 1024)
        probes = as_vectors(queries, self.dimensions, "queries")
        as_lengths(probes, self.metric, "queries")
        if exact is None:
            exact = not graph_pays(len(self), self.dimensions, len(probes), self.has_graph)
        engine = "scan" if exact else "graph"
        held = min(k, len(self))
        if not held or not len(probes):
            rows, distances = np.full((len(probes), 0), -1), np.empty((len(probes), 0))
        elif exact:
            rows, distances = nearest(self._table, probes, held, self.metric)
        else:
            rows, distances = self._walk(probes, held, threads)
        return self._hits(rows, distances, k, engine)

    def scan(self, probes: Probes, k: int) -> Nearest:
        """Return the k nearest rows exactly, or all there are, for queries that come ready.

        Who asks many indexes the same makes queries ready once; else see `search`.
        """
        if (probes.metric, probes.wide.shape[1]) != (self.metric, self.dimensions):
            raise ValueError(
                f"queries of {probes.wide.shape[1]} numbers for {probes.metric} were given; this "
                f"index holds {self.dimensions} for {self.metric}"
            )
        return scan(self._table, probes, min(k, len(self)))

    def _walk(
        self, probes: NDArray[np.float32], k: int, threads: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        graph = self._standing_graph()
        rows = np.empty((len(probes), k), np.int64)
        distances = np.empty((len(probes), k))
        # Twice as many candidates: what compression put out of order is put right by measuring.
        wanted = min(2 * k, len(self))
        few = max(1, _MANY // wanted)
        for start in range(0, len(probes), few):
            part = slice(start, start + few)
            near = graph.candidates(probes[part], wanted, threads)
            who, place = np.nonzero(near >= 0)
            rows[part], distances[part] = ranked(
                self._table, probes[part], who, near[who, place], k, self.metric
            )
            # Around these queries too many rows are gone for the graph to get past them.
            short = start + np.flatnonzero((near >= 0).sum(axis=1) < wanted)
            rows[short], distances[short] = nearest(self._table, probes[short], k, self.metric)
        return rows, distances

    def build_graph(self, threads: int = 1) -> None:
        """Build the graph, or bring it up to date; a search that uses it does so by itself.

        Parameters
        ----------
        threads : int
            One gives the same graph every time. Several are faster, and give another each time.
        """
        self._standing_graph(whole_number(threads, "threads", 1, 1024))

    def _standing_graph(self, threads: int = 1) -> Graph:
        with self._building:
            graph = self._graph
            if graph is None or graph.worn:
                graph = Graph(self.dimensions, self.metric, self.dtype, self.settings)
            graph.extend(self._table, threads)
            self._graph = graph
            return graph

    def _hits(
        self, rows: NDArray[np.int64], distances: NDArray[np.float64], k: int, engine: str
    ) -> Hits:
        keys = np.full((len(rows), k), KEY_LIMIT, np.uint64)
        far = np.full((len(rows), k), np.inf)
        filled = rows >= 0
        width = rows.shape[1]
        keys[:, :width][filled] = self._table.columns["keys"][rows[filled]]
        far[:, :width] = distances
        return Hits(keys, far, filled.sum(axis=1), engine)

    # -- files -------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], key: Sealer | None = None) -> None:
        """Write rows, keys, labels and the graph to one file, and count its generation up.

        A kill at any moment leaves the old file or the new one. A graph that remembers removed
        rows is left out, since it would take their bytes along; it is rebuilt when it is used.

        Parameters
        ----------
        path : path-like
        key : Key or Passphrase, optional
            What to seal the file with: all of it is then encrypted and authenticated (see
            `fedlab.sealing`). Without, anybody who can read the file can read the rows.
        """
        arrays = {name: part for name, part in self._table.columns.items() if name != "squares"}
        generation = self.generation + 1
        parameters = {
            **self._parameters(),
            "next_key": self._next_key,
            "generation": generation,
        }
        if self._graph is not None and self._graph.whole:
            arrays["graph"] = np.frombuffer(self._graph.to_bytes(), np.uint8)
            parameters["usearch"] = library_version()
        INDEX.write(path, parameters, arrays, key)
        self.generation = generation

    def _parameters(self) -> dict[str, Any]:
        return {
            "dimensions": self.dimensions,
            "metric": self.metric,
            "dtype": self.dtype,
            **self.settings,
        }

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], key: Sealer | None = None, *, at_least: int = 0
    ) -> VectorIndex:
        """Read an index that `save` wrote.

        Parameters
        ----------
        path : path-like
        key : Key or Passphrase, optional
            What the file was sealed with. With one, a file without a seal is refused.
        at_least : int
            The generation that the file must have. Somebody who puts an older file in its place,
            sealed under the same key, is noticed by whoever keeps the number elsewhere.

        Raises
        ------
        IndexFileError
            If the file is torn, altered, sealed under another key, of another kind, of a later
            version or of an older generation. Every byte is checked before any of them is used.
        OSError
            If it can't be read.

        Warns
        -----
        UserWarning
            If another version of USearch wrote the graph; it is left out, and rebuilt when used.
        """
        parameters, arrays = INDEX.read(path, key)
        try:
            index = cls._from(parameters, dict(arrays))
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise IndexFileError(
                f"{os.fspath(path)} does not hold what its header says ({error}); build it anew"
            ) from error
        if index.generation < at_least:
            raise IndexFileError(
                f"{os.fspath(path)} has generation {index.generation}, and at least {at_least} was "
                "asked for: it is an older file, put back by accident or on purpose"
            )
        return index

    @classmethod
    def _from(cls, parameters: dict[str, Any], arrays: Columns) -> VectorIndex:
        next_key = whole_number(parameters.pop("next_key"), "next_key", 0, KEY_LIMIT)
        generation = whole_number(parameters.pop("generation", 0), "generation", 0, KEY_LIMIT)
        writer, content = parameters.pop("usearch", None), arrays.pop("graph", None)
        index = cls(**parameters)
        index.generation = generation
        # Copies, so that the graph's bytes in the file don't stay in memory beside the rows.
        index._table = _checked_table(
            index, {name: np.array(array) for name, array in arrays.items()}
        )
        if len(index) and next_key <= index.keys.max():
            raise ValueError(f"next_key is {next_key}, the largest key {index.keys.max()}")
        index._next_key = next_key
        if content is None:
            return index
        if content.dtype != np.uint8 or content.ndim != 1:
            raise ValueError(f"a graph of type {content.dtype}, {content.shape}")
        if writer != library_version():
            warnings.warn(
                f"the graph was written by USearch {writer}; this is {library_version()}, so it is "
                "left out and built anew when it is used",
                stacklevel=3,
            )
            return index
        index._graph = Graph(index.dimensions, index.metric, index.dtype, index.settings)
        index._graph.load(memoryview(content))  # type: ignore[arg-type]
        if index._graph.entries > len(index):
            raise ValueError(f"a graph of {index._graph.entries} entries for {len(index)} rows")
        return index


def _checked_table(index: VectorIndex, arrays: Columns) -> Table:
    """Return columns that were read from a file as a table, or raise ValueError."""
    expected = {name: column for name, column in index._table.columns.items() if name != "squares"}
    if set(arrays) - {"labels"} != set(expected):
        raise ValueError(f"arrays {', '.join(sorted(arrays))}")
    rows = len(arrays["codes"])
    for name, column in arrays.items():
        known = as_labels(column, rows) if name == "labels" else expected[name]
        if column.dtype != known.dtype or column.shape != (rows, *known.shape[1:]):
            raise ValueError(f"{name} of type {column.dtype}, {column.shape}, for {rows} rows")
    keys = as_keys(arrays["keys"])
    if len(np.unique(keys)) < rows:
        raise ValueError("the same key twice")
    table = Table(arrays)
    step = max(1, _MANY // index.dimensions)
    squares = [np.empty(0, np.float32)]
    for start in range(0, rows, step):
        part = as_vectors(table.decoded(slice(start, start + step)), index.dimensions, "rows")
        squares.append(as_lengths(part, index.metric, "rows"))
    return Table({**arrays, "squares": np.concatenate(squares)})


def _some(keys: NDArray[np.uint64]) -> str:
    shown = ", ".join(str(key) for key in keys[:5].tolist())
    return shown + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
