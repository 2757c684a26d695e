"""What a filter costs a graph: recall@10 and time, for filters of chance and of place.

A filter of chance has nothing to do with the vectors. One of place lets those rows pass that lie
farthest along one axis: the hard case, since about most queries few of the nearest rows pass. Each
is asked for by exact=False (the graph, with the scan's help where it finds too little), by
exact=True (the scan of the rows that pass), and by the index's own choice.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.index.answers import Hits
from fedlab.index.vectorindex import VectorIndex
from fedlab.metrics.retrieval import recall

K = 10
SHARES = (0.5, 0.1, 0.01)
_TOPICS = 200

Rows = NDArray[np.float32]


def measure(rows: int, dimensions: int, queries: int, threads: int = 1) -> pd.DataFrame:
    """Return a tidy frame, a row a filter.

    Columns are filter, share (of the rows, that pass), recall (of the graph), rescued (share of the
    queries that the scan answered after all), graph_ms and scan_ms (a query), and chosen (who
    answers if it is left to the index).
    """
    vectors = _topical(rows + queries, dimensions)
    stored, asked = vectors[:rows], vectors[rows:]
    draw = np.random.default_rng(1)
    chance, along = draw.random(rows), stored @ draw.normal(size=dimensions)
    index = VectorIndex(dimensions, "cosine")
    index.add(stored, metadata={"chance": chance, "along": along})
    index.build_graph(threads)
    filters: list[tuple[str, float, str | None]] = [("none", 1.0, None)]
    for share in SHARES:
        filters.append(("chance", share, f"chance < {share}"))
        filters.append(("place", share, f"along > {np.quantile(along, 1 - share):.17g}"))
    answers = [_asked(index, asked, where) for *_, where in filters]
    named = pd.DataFrame([(name, share) for name, share, _ in filters], columns=["filter", "share"])
    return named.join(pd.DataFrame(answers))


def _topical(rows: int, dimensions: int) -> Rows:
    """Rows around topics of unlike size, as texts' vectors lie."""
    draw = np.random.default_rng(0)
    topics = draw.normal(size=(_TOPICS, dimensions))
    sizes = draw.dirichlet(np.full(_TOPICS, 0.5))
    of_row = draw.choice(_TOPICS, rows, p=sizes)
    return (topics[of_row] + draw.normal(size=(rows, dimensions))).astype(np.float32)


def _asked(index: VectorIndex, queries: Rows, where: str | None) -> dict[str, float | str]:
    exact, scan = _timed(index, queries, True, where)
    found, graph = _timed(index, queries, False, where)
    return {
        "recall": recall(found.keys, exact.keys),
        "rescued": len(found.rescued) / len(queries),
        "graph_ms": graph,
        "scan_ms": scan,
        "chosen": index.search(queries, K, where=where).engine,
    }


def _timed(index: VectorIndex, queries: Rows, exact: bool, where: str | None) -> tuple[Hits, float]:
    """Return an answer, and the milliseconds that it took for a query."""
    began = time.perf_counter()
    hits = index.search(queries, K, exact, where=where)
    return hits, 1000 * (time.perf_counter() - began) / len(queries)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks filtered", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=96)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1, help="threads that build the graph (1)")
    given = parser.parse_args(list(arguments))
    if min(given.rows, given.dimensions, given.queries, given.threads) < 1 or given.rows < 1000:
        raise ValueError("--rows takes whole numbers from 1000, other options from 1")
    frame = measure(given.rows, given.dimensions, given.queries, given.threads)
    print(frame.to_string(index=False, float_format=lambda number: f"{number:.3f}"))
    return 0
