"""What a search across devices costs, and the neighbours that are missed for less."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from fedlab.device import Device
from fedlab.search import FederatedHits, FederatedSearch
from fedlab.search.routing import Router

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["federated_recall", "plot_recall_against_bytes", "recall_against_bytes"]

_ENGINES = {"scan": True, "graph": False}


def federated_recall(found: FederatedHits, truth: FederatedHits) -> float:
    """Return the share of the true neighbours, device and key, that were found, over all queries.

    Without any true neighbour there is none to miss: 1.
    """
    same = (found.devices[:, None, :] == truth.devices[:, :, None]) & (
        found.keys[:, None, :] == truth.keys[:, :, None]
    )
    hits = (same & found.found[:, None, :]).any(axis=2) & truth.found
    return float(hits.sum() / truth.counts.sum()) if truth.counts.any() else 1.0


def recall_against_bytes(
    devices: Sequence[Device],
    queries: NDArray[np.float32],
    k: int,
    *,
    ask: Sequence[int],
    query: Sequence[str] = ("f32", "i8", "b1"),
    first: Sequence[int] | None = None,
    engines: Sequence[str] = ("scan",),
    rescore: int = 0,
    router: Router | None = None,
) -> pd.DataFrame:
    """Measure every combination of savings against the exact answer over all devices.

    Parameters
    ----------
    devices : sequence of Device
    queries : (q, d) array
    k : int
    ask : sequence of int
        How many devices are asked, m.
    query : sequence of {"f32", "f16", "bf16", "i8", "b1"}
        How queries travel.
    first : sequence of int, optional
        How many hits devices are asked for first, k'; k alone by default, which saves a second
        round and not bytes.
    engines : sequence of {"scan", "graph"}
        Who answers on a device; graphs are built before the clock starts.
    rescore : int
        How many hits of queries in fewer bits are measured again (see `FederatedSearch`).
    router : Router, optional
        Learned now, with its defaults, if none is given.

    Returns
    -------
    DataFrame
        A row for each combination: ``engine``, ``query``, ``first``, ``ask``; and measured:
        ``recall``, ``bytes`` (a query, down and up, without the set-up), ``devices`` (asked, a
        query), ``ms`` (a query: one batch, one thread, devices one after another).
    """
    router = router or Router.learn(devices)
    truth = FederatedSearch(devices).search(queries, k)
    if "graph" in engines:
        for device in devices:
            device.index.build_graph()
    measured = []
    for engine, sent, few, m in itertools.product(engines, query, first or (k,), ask):
        search = FederatedSearch(
            devices,
            first=few,
            exact=_ENGINES[engine],
            threads=1,
            router=router,
            ask=m,
            query=sent,
            rescore=0 if sent == "f32" else rescore,
        )
        began = time.perf_counter()
        found = search.search(queries, k)
        seconds = time.perf_counter() - began
        measured.append(
            {
                "engine": engine,
                "query": sent,
                "first": few,
                "ask": m,
                "recall": federated_recall(found, truth),
                "bytes": (found.ledger.bytes - router.nbytes) / len(queries),
                "devices": router.choose(queries, m).sum() / len(queries),
                "ms": 1e3 * seconds / len(queries),
            }
        )
    return pd.DataFrame(measured)


def plot_recall_against_bytes(
    frame: pd.DataFrame, ax: Axes | None = None
) -> tuple[Figure, Axes, pd.DataFrame]:
    """Draw recall against bytes a query: a line for each way to send a query, a point for each m.

    Parameters
    ----------
    frame : DataFrame
        From `recall_against_bytes`, of one engine and one `first`.
    """
    if len(frame[["engine", "first"]].drop_duplicates()) != 1:
        raise ValueError(
            "the frame is of several engines or first rounds; choose one of each to draw"
        )
    figure, ax = pyplot.subplots() if ax is None else (ax.figure, ax)
    for name, line in frame.groupby("query", sort=False):
        ax.plot(line.bytes / 1e3, line.recall, "o-", label=str(name))
    above = frame[frame["query"] == frame["query"].iloc[0]]
    for kilobytes, recall, m in zip(above.bytes / 1e3, above.recall, above.ask, strict=True):
        ax.annotate(str(m), (kilobytes, recall), (0, -16), textcoords="offset points", ha="center")
    ax.set(xscale="log", ylim=(0, 1.04), ylabel="recall")
    ax.set_xlabel("bytes a query (kB); numbers are devices asked")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda kilobytes, _: f"{kilobytes:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(title="query sent as", loc="lower right")
    return figure, ax, frame  # type: ignore[return-value]
