"""The vector index of a device: vectors in, neighbours out.

The truth of an index is one contiguous array of its rows in their storage type, with keys, labels
and metadata beside it. Training, `get` and the exact scan read that array, decoded. An engine's
search structure (by default USearch's graph) is derived from it, built when it is first used, and
only ever proposes candidates: every distance in an answer is measured in float64 from the stored
rows, so answers agree between devices whatever answered.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.threads import ReadWriteLock, spare_threads
from fedlab.core.typing import F32, U64, Bool, Places
from fedlab.core.validation import one_of, read_only, require, whole_number, whole_or_none
from fedlab.files import atomic
from fedlab.files.atomic import Linked
from fedlab.files.blocks import FileArray
from fedlab.files.keys import Key, Sealer
from fedlab.index import file
from fedlab.index import metadata as about
from fedlab.index.answers import Hits, Neighbourhoods
from fedlab.index.certificate import Certificate, Holder, OldMemory, certify, content_hash
from fedlab.index.encoding import DTYPES, Columns, encode
from fedlab.index.engines import HNSW, Engine, Proposer
from fedlab.index.ingest import KEY_LIMIT, as_keys, as_lengths, as_vectors
from fedlab.index.planner import Lookup
from fedlab.index.radius import as_radius, within
from fedlab.index.scan import METRICS, Nearest, Queries, scan
from fedlab.index.state import State, Upserted
from fedlab.index.table import RowTable
from fedlab.index.texts import plain

if TYPE_CHECKING:
    import pandas as pd

Metric = Literal["cosine", "inner", "l2sq"]
DType = Literal["f32", "f16", "bf16", "i8", "b1"]

#: Numbers held at once; to ask for more neighbours, and more than there are rows, is a mistake.
_MANY = 1 << 20
#: Fewer queries than this are answered before another thread has woken up.
_QUERIES_A_THREAD = 8


class VectorIndex(Holder):
    """Vectors with keys, labels and metadata, searched by nearness.

    Many threads may search, read and write at once. Each call works on the rows as they are between
    two writes, whatever others write meanwhile; `view` keeps them so for several calls. Writes wait
    for one another, and for a graph that is being built.

    Parameters
    ----------
    dimensions : int
        Numbers in a vector.
    metric : {"cosine", "inner", "l2sq"}
        What is near. Cosine compares directions; the rows keep their lengths.
    dtype : {"f32", "f16", "bf16", "i8", "b1"}
        How rows are stored: 4, 2, 2 or 1 byte a number, or one bit (i8 and b1: 4 bytes more a row,
        for its scale). Keys and squared lengths take 12 bytes a row.
    engine : Engine
        Who proposes candidates where the scan doesn't answer (see `fedlab.index.engines`).

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
    >>> index.search([0.9, 0.1], k=2, where="label != 'east'").keys
    array([[2, 1]], dtype=uint64)
    """

    def __init__(
        self,
        dimensions: int,
        metric: Metric = "cosine",
        dtype: DType = "f32",
        engine: Engine = HNSW(),  # noqa: B008 (a frozen value)
    ) -> None:
        one_of(metric, METRICS, "metric")
        one_of(dtype, DTYPES, "dtype")
        self.dimensions = whole_number(dimensions, "dimensions", 1, 65_536)
        self.metric: Metric = metric
        self.dtype: DType = dtype
        require(engine, "engine", "name", "searching", "suits", "proposer", "library")
        engine.suits(self.dimensions, metric)
        self.engine: Engine = engine
        self._state = State(file.empty_table(self.dimensions, dtype))
        #: How often the index was saved, by this object and by those it was opened from.
        self.generation = 0
        #: Files that had other names when this object was saved over them.
        self.linked: tuple[Linked, ...] = ()
        self._make_locks()

    def _make_locks(self) -> None:
        # Held by who assigns a state; by who saves; and of the engine's library's own memory, by
        # who reads it and by who extends it.
        self._assigning, self._saving, self._library = RLock(), Lock(), ReadWriteLock()

    def _writing(self) -> AbstractContextManager[Any]:
        if self.mapped:
            path = self._table.columns["codes"].path
            raise ValueError(
                f"this index is mapped: its rows are read from {path}, "
                "and it can't be changed, searched by a graph (exact=False) or copied to another "
                "process; open the file without mapped=True, or take rows into memory by "
                "view(start, stop)"
            )
        return self._assigning

    @property
    def _table(self) -> RowTable:
        return self._state.table

    @property
    def _graph(self) -> Proposer | None:
        return self._state.graph

    # -- what is in it -----------------------------------------------------------------------

    def __len__(self) -> int:
        return self._table.rows

    def __iter__(self) -> Iterator[int]:
        return iter(self._table.columns["keys"].tolist())

    def __contains__(self, key: object) -> bool:
        if isinstance(key, bool) or not isinstance(key, int | np.integer):
            return False
        there = 0 <= key < KEY_LIMIT and self._table.rows_of(np.array([key], np.uint64))[0] >= 0
        return bool(there)

    def __repr__(self) -> str:
        return (
            f"VectorIndex({len(self):,} rows of {self.dimensions} in {self.dtype}, {self.metric}, "
            f"{'with' if self.has_graph else 'no'} graph, {self.nbytes:,} bytes)"
        )

    @property
    def keys(self) -> U64:
        """(n,) keys in the order of the rows, read-only."""
        return read_only(self._table.columns["keys"])

    @property
    def labels(self) -> NDArray[Any] | None:
        """(n,) labels in the order of the rows, read-only; None if the rows have none.

        Text is as wide as its longest; with one beyond 1,024 characters, NumPy's `StringDType`.
        """
        column = self._table.columns.get("labels")
        return None if column is None else read_only(plain(column))

    @property
    def metadata(self) -> pd.DataFrame:
        """Metadata in the order of the rows, with their keys as index; a copy.

        It has no columns if the rows have no metadata.
        """
        columns = self._table.columns
        return about.frame_of(columns["keys"], about.metadata_in(columns))

    @property
    def vectors(self) -> F32:
        """(n, d) decoded rows in their order, read-only; a view where they are stored as f32.

        Of a mapped index all rows are read.
        """
        return read_only(self._table.decoded())

    @property
    def columns(self) -> Columns:
        """Rows as they are stored, with keys, labels and metadata, each (n, ...) and read-only.

        Of a mapped index, ``codes`` is a `fedlab.files.blocks.FileArray`: it reads what is asked
        of it, such as ``codes[:100]``.
        """
        columns = {name: plain(column) for name, column in self._table.columns.items()}
        return {n: c if isinstance(c, FileArray) else read_only(c) for n, c in columns.items()}

    def buffers(self) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Yield every array that the index keeps alive, by name: columns, room to spare beside
        them, and what the graph borrowed. An array may come twice, or be part of another.
        """
        for name, array in self.memory():
            yield f"the buffer of {name}", array
        for array in graph.borrowed if (graph := self._graph) else ():
            yield "a buffer that the graph borrowed", array

    def memory(self) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Yield the arrays of each column, by its name: three for one of text."""
        return self._table.buffers()

    def graph_bytes(self) -> bytes | None:
        """Return the graph as bytes; None if there is none, or if its engine can't tell them."""
        with self._library.reading():
            graph = self._graph
            return graph.to_bytes() if graph else None

    @property
    def edits(self) -> int:
        """How often rows came, changed or went: who derives something from them compares it."""
        return self._state.edits

    @property
    def mapped(self) -> bool:
        """Whether its rows stay in a file (see `open`)."""
        return self._table.mapped

    @property
    def has_graph(self) -> bool:
        """Whether the engine's graph stands (or its lists, or trees, as the engine may be).

        It may still have to take in rows that came since.
        """
        return self._graph is not None

    @property
    def nbytes(self) -> int:
        """Bytes of rows, lengths, keys, labels, metadata, and of the graph if it stands."""
        table, graph = self._state[:2]
        return table.nbytes + (graph.nbytes_beside(table) if graph else 0)

    def __getstate__(self) -> dict[str, Any]:
        # For copies and for other processes: a graph can't go along, and is rebuilt.
        with self._writing():
            table, _, *others = self._state
        state = State(table.slice(0, table.rows), None, *others)
        return vars(self) | {"_state": state, "_assigning": 0, "_saving": 0, "_library": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_locks()

    # -- rows in, rows out -------------------------------------------------------------------

    def add(
        self,
        vectors: ArrayLike,
        keys: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        metadata: pd.DataFrame | Mapping[str, ArrayLike] | None = None,
    ) -> U64:
        """Add rows: all of them, or none if any is refused.

        Parameters
        ----------
        vectors : (n, d) array
            Finite numbers; under cosine no row of length zero.
        keys : (n,) whole numbers, optional
            Distinct, not yet in the index, below 2**64 - 1. By default the next free ones.
        labels : (n,) array, optional
            A class (whole number, text) or a number for each row. Either all rows of an index have
            labels or none. Among whole numbers, floats must be whole, and are kept as such.
        metadata : DataFrame, or mapping of str to (n,) arrays, optional
            What else is known of each row, for filters: numbers, truth values, text, dates. A
            missing number is NaN, a missing date NaT. All rows of an index have the same columns,
            of the same types; a DataFrame's own index plays no part.

        Returns
        -------
        (n,) uint64 array
            The rows' keys.

        Raises
        ------
        ValueError, TypeError
            If anything is refused; the index is then as it was.
        """
        return self._put(vectors, keys, labels, metadata, replacing=False)[0]

    def upsert(
        self,
        vectors: ArrayLike,
        keys: ArrayLike,
        labels: ArrayLike | None = None,
        metadata: pd.DataFrame | Mapping[str, ArrayLike] | None = None,
    ) -> Upserted:
        """Add rows, in the place of those that have their keys: all of them, or none.

        The index is then as if those had been removed (see `remove`, also for what a graph still
        holds) and all rows been added, at once: they stand last, in the order given. A device that
        holds a key out goes on doing so.

        Parameters
        ----------
        vectors, keys, labels, metadata
            As for `add`; keys may be in the index.

        Returns
        -------
        Upserted
            Which keys were new, and which rows were replaced.

        Raises
        ------
        ValueError, TypeError
            If anything is refused; the index is then as it was.

        Examples
        --------
        >>> index = VectorIndex(2)
        >>> keys = index.add([[1.0, 0.0], [0.0, 1.0]])
        >>> index.upsert([[3.0, 4.0], [5.0, 6.0]], keys=[0, 7])
        Upserted(added=array([7], dtype=uint64), replaced=array([0], dtype=uint64))
        >>> index.keys, index.get([0])
        (array([1, 0, 7], dtype=uint64), array([[3., 4.]], dtype=float32))
        """
        new, stood = self._put(vectors, as_keys(keys), labels, metadata, replacing=True)
        return Upserted(new[stood < 0], new[stood >= 0])

    def _put(self, vectors: ArrayLike, *beside: Any, replacing: bool) -> tuple[U64, Places]:
        rows = as_vectors(vectors, self.dimensions, "vectors")
        block = encode(rows, self.dtype)
        decoded = RowTable(block, dimensions=self.dimensions).decoded()
        block["squares"] = as_lengths(decoded, self.metric, "vectors", beside[0])
        with self._writing():
            self._state, new, stood = self._state.put(block, beside, replacing)
        return np.array(new), stood

    def get(self, keys: ArrayLike) -> F32:
        """Return the rows of `keys`, decoded, (n, d): as near to what was put in as `dtype` allows.

        Raises
        ------
        KeyError
            If a key is not in the index.
        """
        state = self._state
        return state.table.decoded(state.places(keys))

    def labels_of(self, keys: ArrayLike) -> NDArray[Any]:
        """Return the labels of `keys`, (n,).

        Raises
        ------
        KeyError
            If a key is not in the index, or its rows have no labels.
        """
        state = self._state
        rows = state.places(keys)
        if "labels" not in state.table.columns:
            raise KeyError("the rows of this index have no labels; add them with labels=")
        return plain(state.table.columns["labels"][rows])

    def metadata_of(self, keys: ArrayLike) -> pd.DataFrame:
        """Return the metadata of `keys`, a row a key, with the keys as index.

        Raises
        ------
        KeyError
            If a key is not in the index, or its rows have no metadata.
        """
        state = self._state
        rows, stored = state.places(keys), state.table.columns
        columns = about.metadata_in(stored)
        if not columns:
            raise KeyError("the rows of this index have no metadata; add them with metadata=")
        return about.frame_of(stored["keys"][rows], {n: part[rows] for n, part in columns.items()})

    def remove(self, keys: ArrayLike) -> int:
        """Remove rows, and return how many.

        The rows' bytes leave the array, and files that are saved from now on. A graph that stands
        still holds them in memory until it is built anew; so does a view. `erase` makes sure.

        Raises
        ------
        KeyError
            If a key is not in the index; nothing is removed then.
        """
        with self._writing():
            gone = self._state.places(keys)
            if len(gone):
                self._state = self._state.without(gone)
        return len(np.unique(gone))

    def erase(self, keys: ArrayLike, key: Key | None = None) -> Certificate:
        """Remove rows so that the index holds none of their bytes any more, and certify it.

        All columns are copied into memory of their own, without the rows and without room to spare;
        the graph is dropped, and built anew when it is used. Files change when the index is saved.
        `fedlab.erasure.audit_erasure` looks whether anything is left.

        Memory that others may be reading (views, arrays that were handed out) is never written
        over; `Certificate.still_held` tells who keeps the rows so. `let_go` ends that; for devices,
        `fedlab.erasure.erase_across` does all of it.

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
        with self._writing():
            gone = np.unique(self._state.places(keys))
            erased = self.keys[gone]
            before, memory = (len(self), content_hash(self, key)), OldMemory(self)
            self._state = self._state._replace(graph=None).without(gone)
            return certify(self, erased, before, memory, key)

    def let_go(self) -> None:
        """Move the rows into memory of the index's own, and so let go of what it shared."""
        with self._writing():
            self._state = self._state._replace(graph=None).without(np.empty(0, np.intp))

    def view(self, start: int = 0, stop: int | None = None) -> VectorIndex:
        """Return an index over rows `start` ... `stop` - 1 of this one, without a copy.

        It answers as an index that owns these rows would, bit for bit. What is later added to it or
        removed from it changes neither this index nor other views, nor does what others write to
        this index change the view. By default it is a view of all rows as they are now.
        """
        state = self._state
        whole_number(start, "start", 0, state.table.rows)
        stop = state.table.rows if stop is None else stop
        whole_number(stop, "stop", start, state.table.rows)
        rows = State(state.table.slice(start, stop), next_key=state.next_key)
        part = VectorIndex.__new__(VectorIndex)  # all that its own checks would look at stands
        part.__setstate__(vars(self) | {"_state": rows, "generation": 0, "linked": ()})
        return part

    @classmethod
    def over(
        cls,
        columns: Columns,
        dimensions: int,
        metric: Metric = "cosine",
        dtype: DType = "f32",
        engine: Engine = HNSW(),  # noqa: B008 (a frozen value)
        *,
        next_key: int = 0,
    ) -> VectorIndex:
        """Return an index over rows that are encoded already, where they lie, without a copy.

        Nobody may write to them from then on. What is added to the index, or removed from it, moves
        into memory of its own.

        Parameters
        ----------
        columns : mapping of str to (n, ...) arrays
            As `columns` gives them: ``codes``, ``keys`` (distinct) and ``squares`` (squared lengths
            of the decoded rows), and perhaps ``scales``, ``labels`` and metadata. Only their sizes
            and types are checked.
        dimensions, metric, dtype, engine
            See `VectorIndex`.
        next_key : int
            The least key that a row gets which is added without one; above all keys in any case.

        Raises
        ------
        ValueError
            If a column is missing, or one has another size or type than `dtype` asks for.

        Examples
        --------
        >>> index = VectorIndex(2)
        >>> keys = index.add([[1.0, 0.0], [0.0, 1.0]])
        >>> VectorIndex.over(index.columns, 2).search([0.9, 0.1], k=1).keys
        array([[0]], dtype=uint64)
        """
        index = cls(dimensions, metric, dtype, engine)
        table = file.table_over(columns, index.dimensions, dtype)
        largest = int(table.columns["keys"].max(initial=0)) + 1 if table.rows else 0
        index._state = State(table, next_key=max(whole_number(next_key, "next_key", 0), largest))
        return index

    def rows_of(self, keys: ArrayLike) -> Places:
        """Return in which row each key stands, -1 where it is not in the index."""
        return self._table.rows_of(as_keys(keys))

    # -- search ------------------------------------------------------------------------------

    def search(
        self,
        queries: ArrayLike,
        k: int,
        exact: bool | None = None,
        *,
        where: ArrayLike | str | None = None,
        threads: int | None = None,
    ) -> Hits:
        """Find the k nearest rows of each query, among all rows or those that pass a filter.

        Parameters
        ----------
        queries : (q, d) or (d,) array
            Finite numbers; under cosine none of length zero.
        k : int
            How many; an index with fewer rows returns all it has (see `Hits.counts`).
        exact : bool, optional
            True asks the scan (recall 1), False the engine (whose graph is built now if it does
            not stand). By default sizes decide (`fedlab.index.planner.graph_pays`): the engine
            answers if there is much to scan, and its graph stands or pays within this call.
        where : (n,) bool array or str, optional
            Which rows may be found: a mask, or a condition on ``key``, ``label`` and metadata such
            as ``"age >= 65 and label != 'well'"`` (see `fedlab.index.filters`). The scan measures
            those alone. The engine is asked for more candidates (`fedlab.index.planner.to_fetch`);
            where too few of them pass, as may be if the filter has to do with the vectors, the scan
            answers after all (see `Hits.rescued`).
        threads : int, optional
            Threads that share the queries; the answer does not depend on them. By default all
            processors, or its share of them where others search. A graph that must be built is
            built by one thread (see `build_graph`).

        Returns
        -------
        Hits

        Raises
        ------
        ValueError, TypeError
            If something is refused: a query, a number, a filter (`FilterError`).
        """
        k = whole_number(k, "k", 1, max(_MANY, len(self)))
        asked = self._checked(queries)
        if threads is None:
            threads = spare_threads(len(asked) // _QUERIES_A_THREAD)
        whole_number(threads, "threads", 1, 1024)
        state = self._state

        def lookup(table: RowTable) -> Lookup:
            chosen = None if where is None else np.flatnonzero(_passing(table, where))
            if chosen is not None and len(chosen) == table.rows:
                chosen = None
            return Lookup(table, self.engine, self.metric, asked, k, chosen, threads)

        found = lookup(state.table)
        if exact or (exact is None and not found.graph_pays(state.graph)):
            return found.scanned()
        if found.empty:
            return found.unanswered(self.engine.name)
        with self._with_graph() as (table, graph):
            return (found if table is state.table else lookup(table)).walked(graph)

    def within(
        self,
        queries: ArrayLike,
        radius: float,
        *,
        where: ArrayLike | str | None = None,
        limit: int | None = None,
    ) -> Neighbourhoods:
        """Find all rows whose distance to a query is at most `radius`, exactly.

        A graph has no part in it: rows are scanned, and those that can't be told from the radius in
        float32 are decided by their distance in float64.

        Parameters
        ----------
        queries : (q, d) or (d,) array
            Finite numbers; under cosine none of length zero.
        radius : float
            The largest distance, in the metric's own measure (see `Hits.distances`): under l2sq
            that is a *squared* length.
        where : (n,) bool array or str, optional
            Which rows may be found, as in `search`.
        limit : int, optional
            At most so many are kept for a query, the nearest; `Neighbourhoods.cut` says for which
            queries there were more.

        Returns
        -------
        Neighbourhoods

        Raises
        ------
        ValueError, TypeError
            If something is refused, or more than 2**26 neighbours would be returned.

        Examples
        --------
        >>> index = VectorIndex(1, "l2sq")
        >>> keys = index.add([[0.0], [1.0], [2.0], [3.0]])
        >>> near = index.within([[0.0], [9.0]], radius=4.0)
        >>> near.counts, near.keys
        (array([3, 0]), array([0, 1, 2], dtype=uint64))
        """
        radius = as_radius(radius, self.metric)
        limit = whole_or_none(limit, "limit", 1)
        asked = self._checked(queries)
        table = self._table
        chosen = np.arange(table.rows) if where is None else np.flatnonzero(_passing(table, where))
        totals, counts, rows, distances = within(table, chosen, asked, radius, limit, self.metric)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return Neighbourhoods(offsets, table.columns["keys"][rows], distances, totals)

    def passing(self, where: ArrayLike | str) -> Bool:
        """Return which rows pass a filter, (n,), as `search` takes it.

        Raises
        ------
        FilterError
            If a text is no filter over ``key``, ``label`` and the metadata of this index.
        ValueError, TypeError
            If a mask has another length or type.
        """
        return _passing(self._table, where)

    def _checked(self, queries: ArrayLike) -> F32:
        asked = as_vectors(queries, self.dimensions, "queries")
        as_lengths(asked, self.metric, "queries")
        return asked

    def scan(self, queries: Queries, k: int) -> Nearest:
        """Return the k nearest rows exactly, or all there are, for queries that come ready.

        Who asks many indexes the same makes queries ready once; else see `search`.
        """
        if (queries.metric, queries.wide.shape[1]) != (self.metric, self.dimensions):
            raise ValueError(
                f"queries of {queries.wide.shape[1]} numbers for {queries.metric} were given; this "
                f"index holds {self.dimensions} for {self.metric}"
            )
        table = self._table
        return scan(table, queries, min(k, table.rows))

    def build_graph(self, threads: int = 1) -> None:
        """Build the graph, or bring it up to date; a search that uses it does so by itself.

        Parameters
        ----------
        threads : int
            One gives the same graph every time. Several are faster, and may give another each time.

        Raises
        ------
        ValueError
            If the engine learns from rows, and there are too few of them.
        ImportError
            If the engine's library is not installed.
        """
        with self._writing():
            self._extend_graph(whole_number(threads, "threads", 1, 1024))

    def tune(self, **settings: int) -> None:
        """Change those settings of the engine that a search reads, and build nothing anew.

        Parameters
        ----------
        **settings : int
            `Engine.searching` names them: ``expansion_search`` of a graph, ``probes`` of inverted
            lists, and so on. More find better, and take longer.

        Examples
        --------
        >>> index = VectorIndex(2)
        >>> index.tune(expansion_search=200)
        >>> index.engine
        HNSW(connectivity=16, expansion_add=128, expansion_search=200, dtype=None, rescored=None)
        """
        engine: Any = self.engine
        if other := sorted(settings.keys() - set(engine.searching)):
            raise ValueError(
                f"{', '.join(other)} is nothing that a search of {engine.name} reads; it reads "
                f"{', '.join(engine.searching) or 'no setting'}: make another index for the rest"
            )
        engine = replace(engine, **settings)
        with self._writing(), self._library.writing():
            if self._graph is not None:
                self._graph.tune(engine)
            self.engine = engine

    @contextmanager
    def _with_graph(self) -> Iterator[tuple[RowTable, Proposer]]:
        """Yield rows and a graph that has all of them; nobody extends that in the block."""
        with ExitStack() as held:
            held.enter_context(self._library.reading())
            if not (state := self._state).ready:
                held.close()
                with self._writing():
                    self._extend_graph()
                    state = self._state
                    held.enter_context(self._library.reading())
            assert state.graph is not None
            yield state.table, state.graph

    def _extend_graph(self, threads: int = 1) -> None:
        """Build a graph over all rows, or bring it up to date; for who may write."""
        table, graph = self._state[:2]
        if graph is None or graph.worn:
            graph = self.engine.proposer(self.dimensions, self.metric, self.dtype)
            graph.extend(table, threads)
        elif graph.missing(table):
            with self._library.writing():
                graph.extend(table, threads)
        self._state = self._state._replace(graph=graph)

    # -- files -------------------------------------------------------------------------------

    def save(
        self, path: str | os.PathLike[str], key: Sealer | None = None, *, rebuild: bool = False
    ) -> None:
        """Write rows, keys, labels, metadata and graph to one file, and count its generation up.

        A kill at any moment leaves the old file or the new one. Of a link, the real file is
        replaced; other names of the old file (hard links) keep it, and are kept in `linked` for
        the audit of an erasure. A graph that remembers removed rows is left out, since it would
        take their bytes along, and so is what an engine can't turn into bytes; it is rebuilt when
        it is used, or now with `rebuild`. A mapped index that is saved over its own file reads that
        from then on, and leaves a graph out.

        Parameters
        ----------
        path : path-like
        key : Key or Passphrase, optional
            What to seal the file with: all of it is then encrypted and authenticated (see
            `fedlab.files.sealing`). Without, anybody who can read the file can read the rows.
        rebuild : bool
            Whether to build the graph anew, before the file is written, where it remembers removed
            rows or isn't there: whoever opens the file then need not. It shows its progress.
        """
        with self._saving:
            if rebuild:
                with self._writing():
                    if self._graph is not None and not self._graph.whole:
                        self._state = self._state._replace(graph=None)
                    self._extend_graph()
            linked = atomic.linked(path)
            with self._library.reading():
                stored = replace(self.stored, generation=self.generation + 1)
                file.write(path, stored, key)
            self.generation, self.linked = stored.generation, self.linked + linked
            table = stored.table
            if table.mapped and os.path.realpath(path) == table.columns["codes"].path:
                table = file.read(path, key, stored.generation, mapped=True).table
                self._state = State(table, next_key=stored.next_key)

    @property
    def stored(self) -> file.Stored:
        """What makes it up now: what a file holds of it."""
        table, graph, next_key, _ = self._state
        kind = self.dimensions, self.metric, self.dtype, self.engine
        return file.Stored(*kind, table, graph, next_key, self.generation)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        key: Sealer | None = None,
        *,
        at_least: int = 0,
        mapped: bool = False,
    ) -> VectorIndex:
        """Read an index that `save` wrote.

        Parameters
        ----------
        path : path-like
        key : Key or Passphrase, optional
            What the file was sealed with. With one, a file without a seal is refused.
        at_least : int
            The generation that the file must have at least: `generation` counts how often an index
            was saved. Somebody who puts an older file in its place,
            sealed under the same key, is noticed by whoever keeps the number elsewhere.
        mapped : bool
            Whether rows stay in the file, which may then be larger than memory (see below).

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
            If another version of the engine's library wrote the graph; it is left out, and rebuilt
            when used.

        Notes
        -----
        A mapped file is read twice, in constant memory: every byte is checked as always, and rows
        are measured. In memory stay keys and squared lengths (12 bytes a row), scales of i8 and b1
        (4), labels and metadata. Rows are read when they are asked for, in blocks of 1 MiB, and
        every block is checked again, by its digest or by its seal: a file that was altered, cut
        short, replaced or removed meanwhile raises `IndexFileError`. A search holds 64 MB of rows
        at a time, and keeps none; of a sealed file nothing is ever written in the clear.

        The exact scan, `within`, filters, `get` and `save` answer with the bits of an index in
        memory, from any number of threads. `vectors` reads all rows, and so does a device that
        trains on them, in each round anew: meanwhile it holds one copy of them in float32 (where
        no compiled loop trains and rows are held out, a second one of those that train). `view`
        reads a part into an index in memory that may be changed. The mapped index may not, and has
        no graph: the one in the file is left there.

        Examples
        --------
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "ward.index")
        >>> index = VectorIndex(2)
        >>> keys = index.add([[1.0, 0.0], [0.0, 1.0]])
        >>> index.save(path)
        >>> mapped = VectorIndex.open(path, mapped=True)
        >>> mapped.search([0.9, 0.1], k=1).keys
        array([[0]], dtype=uint64)
        >>> mapped.view().add([[1.0, 1.0]])
        array([2], dtype=uint64)
        """
        stored = file.read(path, key, at_least, mapped)
        index = cls(stored.dimensions, stored.metric, stored.dtype, stored.engine)
        index.generation = stored.generation
        index._state = State(stored.table, stored.graph, stored.next_key)
        return index


def _passing(table: RowTable, where: ArrayLike | str) -> Bool:
    from fedlab.index import filters

    stored = table.columns
    label = {"label": stored["labels"]} if "labels" in stored else {}
    columns = {"key": stored["keys"], **label, **about.metadata_in(stored)}
    return np.array(filters.passing(where, columns, table.rows))
