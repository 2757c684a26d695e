"""What searching costs on this machine: seconds, bytes, and the neighbours that are missed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from fedlab.core.randomness import Purpose, generator
from fedlab.core.threads import one_blas_thread
from fedlab.core.typing import F32
from fedlab.index.file import IndexFileError
from fedlab.index.vectorindex import DType, Metric, VectorIndex
from fedlab.metrics.retrieval import recall
from fedlab.workbench.experiments.timing import seconds_in_turn


def _seconds(call: Callable[[], object], times: int = 1) -> float:
    return float(np.median(seconds_in_turn({"": call}, times)[""]))


def _seconds_a_query(
    index: VectorIndex, queries: F32, k: int, exact: bool, batch: int | None = None
) -> float:
    size = batch or len(queries)

    def ask() -> None:
        for start in range(0, len(queries), size):
            index.search(queries[start : start + size], k, exact=exact)

    # The graph walks on one thread; a scan that took all of them would be compared with unlike.
    with one_blas_thread():
        return _seconds(ask, times=3) / len(queries)


def scan_against_graph(indexes: Sequence[VectorIndex], queries: F32, k: int) -> pd.DataFrame:
    """Measure both engines on indexes of several sizes; their graphs are built by it.

    Returns
    -------
    DataFrame
        A row for each index: ``rows``, ``build`` (seconds to build the graph), ``scan`` and
        ``graph`` (seconds a query, one at a time), ``scan batch`` and ``graph batch`` (seconds a
        query, all in one batch), ``recall`` (of the graph, against the scan). One thread, medians
        of three.
    """
    measured = []
    for index in indexes:
        costs = {"rows": len(index), "build": _seconds(index.build_graph)}
        for name, exact in (("scan", True), ("graph", False)):
            costs[name] = _seconds_a_query(index, queries, k, exact, batch=1)
            costs[f"{name} batch"] = _seconds_a_query(index, queries, k, exact)
        measured.append({**costs, "recall": _recall_of(index, queries, k)})
    return pd.DataFrame(measured)


def storage_types(
    index: VectorIndex, queries: F32, k: int, dtypes: Sequence[DType]
) -> pd.DataFrame:
    """Measure what each storage type costs and keeps, against the exact answers of `index`.

    Returns
    -------
    DataFrame
        Indexed by type: ``bytes`` of a vector (row, key, and links in the graph), ``scan recall``
        and ``recall`` (of scan and graph), ``speed`` (the graph's queries a second in one batch).
    """
    truth = index.search(queries, k, exact=True).keys
    indexes = [index if dtype == index.dtype else _stored_as(index, dtype) for dtype in dtypes]
    # One thread a graph keeps each repeatable; several graphs can be built at once.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(VectorIndex.build_graph, indexes))
    measured = {}
    for dtype, stored in zip(dtypes, indexes, strict=True):
        scanned, walked = (stored.search(queries, k, exact=exact).keys for exact in (True, False))
        labels = stored.labels
        measured[dtype] = {
            "bytes": (stored.nbytes - (0 if labels is None else labels.nbytes)) / len(stored),
            "scan recall": recall(scanned, truth),
            "recall": recall(walked, truth),
            "speed": 1 / _seconds_a_query(stored, queries, k, exact=False),
        }
    return pd.DataFrame(measured).T


def _stored_as(index: VectorIndex, dtype: DType) -> VectorIndex:
    stored = VectorIndex(index.dimensions, index.metric, dtype, index.engine)
    stored.add(index.vectors, keys=index.keys, labels=index.labels)
    return stored


def churn(
    rows: F32,
    queries: F32,
    *,
    metric: Metric = "cosine",
    dtypes: Sequence[DType] = ("f32", "f16", "bf16", "i8"),
    rounds: int = 20,
    share: float = 0.1,
    every: int = 5,
    k: int = 10,
) -> pd.DataFrame:
    """Replace rows of an index round by round, and hold its graph against one that is built anew.

    Parameters
    ----------
    rows : (n, d) float32 array
        The first n / (1 + rounds x share) stand in the index at first; the others come in later, in
        their order, each time in the place of as many that are drawn among those that stand.
    queries : (q, d) float32 array
    metric, dtypes
        Of the indexes (see `VectorIndex`).
    rounds, share
        How often, and which share of the rows is replaced.
    every : int
        Measured is after so many rounds, and so on.
    k : int
        Neighbours of a query.

    Returns
    -------
    DataFrame
        ``dtype``, ``round``, ``recall`` (of the graph that went through it all, against the scan),
        ``fresh`` (of one built from the same rows at once), ``removed`` (share of the graph's
        entries whose row is gone: it is built anew above .2).
    """
    standing = int(len(rows) / (1 + rounds * share) + 1e-9)
    replaced = int(share * standing)
    measured = []
    for dtype in dtypes:
        index = VectorIndex(rows.shape[1], metric, dtype)
        index.add(rows[:standing])
        index.build_graph()
        draw = generator(0, Purpose.RESAMPLING)
        for number in range(1, rounds + 1):
            index.remove(draw.choice(index.keys, replaced, replace=False))
            start = standing + (number - 1) * replaced
            index.add(rows[start : start + replaced])
            index.build_graph()
            if number % every == 0:
                graph, fresh = index._graph, _stored_as(index, dtype)
                assert graph is not None
                recalls = [_recall_of(one, queries, k) for one in (index, fresh)]
                measured.append((dtype, number, *recalls, graph.removed / graph.entries))
    return pd.DataFrame(measured, columns=["dtype", "round", "recall", "fresh", "removed"])


def _recall_of(index: VectorIndex, queries: F32, k: int) -> float:
    truth = index.search(queries, k, exact=True).keys
    return recall(index.search(queries, k, exact=False).keys, truth)


def save_and_open(index: VectorIndex, queries: F32, k: int) -> pd.Series[str]:
    """Save an index, open it again, flip one bit of the file, and tell what happened."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "device.index"
        saving = _seconds(lambda: index.save(path))
        opening = _seconds(lambda: VectorIndex.open(path))
        before, after = (one.search(queries, k) for one in (index, VectorIndex.open(path)))
        same = (before.keys == after.keys).all() and (before.distances == after.distances).all()
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        try:
            VectorIndex.open(path)
            flipped = "opened"
        except IndexFileError as error:
            flipped = str(error).partition(";")[0]
    return pd.Series(
        {
            "size of the file": f"{len(content) / 1e6:.1f} MB",
            "time to save": f"{saving:.2f} s",
            "time to open": f"{opening:.2f} s",
            "same answers, to the last bit": "yes" if same else "no",
            "after one flipped bit": flipped,
        },
        name="measured",
    )
