"""The file of an index: what stands in it, and what is checked before any of it is used."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.threads import share, usable_threads
from fedlab.core.validation import whole_number
from fedlab.files.arrays import FileKind
from fedlab.files.keys import Sealer
from fedlab.index import metadata as about
from fedlab.index.encoding import DTYPES, Columns, encode
from fedlab.index.engines import Engine, Proposer, engine_from, settings_of
from fedlab.index.ingest import KEY_LIMIT, as_keys, as_labels, as_lengths
from fedlab.index.scan import METRICS
from fedlab.index.table import RowTable
from fedlab.index.texts import TextColumn, alone, as_texts, flat, folded


class IndexFileError(ValueError):
    """A file is not a whole, unaltered index."""


INDEX = FileKind(b"FEDLABVX", "index", IndexFileError)

#: Numbers decoded at once.
_MANY = 1 << 18


@dataclass(frozen=True)
class Stored:
    """What makes up an index, in a file and in memory."""

    dimensions: int
    metric: Any
    dtype: Any
    engine: Engine
    table: RowTable
    graph: Proposer | None
    next_key: int
    generation: int


def empty_table(dimensions: int, dtype: str) -> RowTable:
    """Return a table without rows."""
    columns = {
        **encode(np.empty((0, dimensions), np.float32), dtype),
        "squares": np.empty(0, np.float32),
        "keys": np.empty(0, np.uint64),
    }
    return RowTable(columns, dimensions=dimensions)


def table_over(given: Mapping[str, Any], dimensions: int, dtype: str) -> RowTable:
    """Return columns as a table, where they lie; see `VectorIndex.over`."""
    empty, columns = (
        empty_table(dimensions, dtype).columns,
        {n: np.asarray(c) for n, c in given.items()},
    )
    rows = len(columns.get("keys", ()))
    for name, like in empty.items():
        if name not in columns:
            raise ValueError(f"there is no column {name!r}; {', '.join(empty)} are needed")
        column = columns[name]
        if (column.dtype, column.shape[1:]) != (like.dtype, like.shape[1:]):
            raise ValueError(
                f"{name} has {column.dtype} of shape {column.shape}; (n, ...) {like.dtype} of "
                f"shape {(rows, *like.shape[1:])} is needed"
            )
    for name in columns.keys() - empty.keys():
        kind = columns[name].dtype
        if kind.str[:2] != "<U" and kind.kind != "T" and kind not in about.BESIDE:
            raise ValueError(f"{name} has {kind.str}; give it as an index's `columns` do")
    if wrong := [name for name, column in columns.items() if len(column) != rows]:
        raise ValueError(f"{', '.join(wrong)}: of another length than the {rows} keys")
    return RowTable(as_texts(columns), dimensions=dimensions)


def write(path: str | os.PathLike[str], stored: Stored, key: Sealer | None) -> None:
    """Write an index, whole or not at all; see `VectorIndex.save`."""
    columns = flat(alone(stored.table.columns))
    arrays = {name: part for name, part in columns.items() if name != "squares"}
    parameters = {
        "dimensions": stored.dimensions,
        "metric": stored.metric,
        "dtype": stored.dtype,
        "engine": settings_of(stored.engine),
        "next_key": stored.next_key,
        "generation": stored.generation,
    }
    graph = stored.graph.to_bytes() if stored.graph is not None and stored.graph.whole else None
    if graph is not None:
        arrays["graph"] = np.frombuffer(graph, np.uint8)
        parameters["library"] = stored.engine.library()
    INDEX.write(path, parameters, arrays, key)


def read(
    path: str | os.PathLike[str], key: Sealer | None, at_least: int, mapped: bool = False
) -> Stored:
    """Read an index, its codes only where they are asked for if it is mapped.

    See `VectorIndex.open`.
    """
    whole_number(at_least, "at_least", 0)
    parameters, arrays = INDEX.read(path, key, ("codes", "graph") if mapped else ())
    try:
        stored = _checked(parameters, dict(arrays))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise IndexFileError(
            f"{os.fspath(path)} does not hold what its header says ({error}); build it anew"
        ) from error
    if stored.generation < at_least:
        raise IndexFileError(
            f"{os.fspath(path)} has generation {stored.generation}, and at least {at_least} was "
            "asked for: it is an older file, put back by accident or on purpose"
        )
    return stored


def _checked(parameters: dict[str, Any], arrays: Columns) -> Stored:
    dimensions = whole_number(parameters.pop("dimensions"), "dimensions", 1, 65_536)
    metric, dtype = str(parameters.pop("metric")), str(parameters.pop("dtype"))
    if metric not in METRICS or dtype not in DTYPES:
        raise ValueError(f"rows in {dtype!r} under {metric!r}")
    next_key = whole_number(parameters.pop("next_key"), "next_key", 0, KEY_LIMIT)
    generation = whole_number(parameters.pop("generation"), "generation", 0, KEY_LIMIT)
    engine = engine_from(parameters.pop("engine"))
    writer = parameters.pop("library", None)
    engine.suits(dimensions, metric)
    if parameters:
        raise ValueError(f"parameters called {', '.join(sorted(parameters))}")
    content = arrays.pop("graph", None)
    table = _checked_table(arrays, dimensions, metric, dtype)
    if table.rows and next_key <= table.columns["keys"].max():
        raise ValueError(f"next_key is {next_key}, the largest key {table.columns['keys'].max()}")
    kind = dimensions, metric, dtype
    if table.mapped or content is None:
        return Stored(*kind, engine, table, None, next_key, generation)
    graph = _graph(content, engine, writer, kind, table.rows)
    return Stored(*kind, engine, table, graph, next_key, generation)


def _graph(
    content: NDArray[np.generic],
    engine: Engine,
    writer: str | None,
    kind: tuple[int, str, str],
    rows: int,
) -> Proposer | None:
    if content.dtype != np.uint8 or content.ndim != 1:
        raise ValueError(f"a graph of type {content.dtype}, {content.shape}")
    if writer != engine.library():
        warnings.warn(
            f"the graph was written by {writer}; this is {engine.library()}, so it is left out and "
            "built anew when it is used",
            stacklevel=5,
        )
        return None
    graph = engine.proposer(*kind)
    graph.load(memoryview(content))  # type: ignore[arg-type]
    if graph.entries > rows:
        raise ValueError(f"a graph of {graph.entries} entries for {rows} rows")
    return graph


def _checked_table(
    arrays: Mapping[str, NDArray[np.generic]], dimensions: int, metric: str, dtype: str
) -> RowTable:
    """Return columns that were read from a file as a table, or raise ValueError."""
    expected = dict(empty_table(dimensions, dtype).columns)
    del expected["squares"]
    rows, given = len(arrays["codes"]), as_texts(folded(arrays))  # files of version 2 have arrays
    for column in given.values():
        if isinstance(column, TextColumn):
            column.check()
    metadata = about.checked(given, rows)
    columns = {name: column for name, column in given.items() if name not in metadata}
    if set(columns) - {"labels"} != set(expected) or set(arrays) - set(flat(given)):
        raise ValueError(f"arrays {', '.join(sorted(arrays))}")
    for name, column in columns.items():
        known = expected.get(name, column)
        if name == "labels" and not isinstance(column, TextColumn):
            known = as_labels(column, rows)
        if column.dtype != known.dtype or column.shape != (rows, *known.shape[1:]):
            raise ValueError(f"{name} of type {column.dtype}, {column.shape}, for {rows} rows")
    keys = as_keys(columns["keys"])
    if not (keys[1:] > keys[:-1]).all() and len(np.unique(keys)) < rows:
        raise ValueError("the same key twice")
    table = RowTable(columns, dimensions=dimensions)
    step = max(1, (16 if table.mapped else 1) * _MANY // dimensions)
    squares = np.empty(rows, np.float32)

    def measure(start: int) -> None:
        part = slice(start, start + step)
        squares[part] = as_lengths(table.decoded(part), metric, "rows")

    share(range(0, rows, step), measure, usable_threads())
    if not np.isfinite(squares).all():
        raise ValueError("rows that hold NaN or inf")
    return RowTable({**columns, **metadata, "squares": squares}, dimensions=dimensions)
