"""A search engine over devices: its answers, and what they cost beside one index and no federation.

Rows are named over all devices by their keys, as `fedlab.spread` gives them: a row's key is its
place in the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedlab.core.typing import F32, U64, Bool
from fedlab.device.device import Device
from fedlab.index.answers import Hits
from fedlab.index.vectorindex import VectorIndex
from fedlab.search import FederatedHits, FederatedSearch, Judged, Ledger, Router, federated_recall

#: Says which hits are relevant: takes keys and the mask of the places that are filled, (q, k) each.
Judge = Callable[[U64, Bool], Judged]


def central_index(devices: Sequence[Device]) -> VectorIndex:
    """Return one index over all rows of all devices: what federating avoids, to compare with."""
    first = devices[0].index
    index = VectorIndex(first.dimensions, first.metric, first.dtype)
    for device in devices:
        index.add(device.index.vectors, keys=device.index.keys)
    return index


@dataclass(frozen=True, eq=False)
class SearchComparison:
    """What a federated search finds, beside one index over all rows and each device alone.

    Attributes
    ----------
    table : DataFrame
        A row for the central index, the federated search, the best device alone (by nDCG) and
        the mean of all devices alone; their measures, and bytes a query.
    alone : DataFrame
        The measures of each device alone, indexed by its id.
    hits : FederatedHits
        The federated answer.
    farthest : float
        The largest difference of a distance in it from the central one at the same place.
    """

    table: pd.DataFrame
    alone: pd.DataFrame
    hits: FederatedHits
    farthest: float


def compare_searches(
    devices: Sequence[Device], queries: F32, k: int, judge: Judge
) -> SearchComparison:
    """Search exactly across devices, in one index over all rows, and in each device alone.

    Parameters
    ----------
    devices : sequence of Device
        A key names one row over all of them.
    queries : (q, d) array
    k : int
    judge : callable
        (q, k) keys and the mask of filled places to `Judged`.
    """

    def measured(found: Hits | FederatedHits) -> dict[str, float]:
        return judge(found.keys, found.found).summary()

    hits = FederatedSearch(devices).search(queries, k)
    central = central_index(devices).search(queries, k, exact=True)
    alone = {d.id: measured(d.index.search(queries, k, exact=True)) for d in devices}
    by_device = pd.DataFrame.from_dict(alone, orient="index")
    best = max(alone, key=lambda device: alone[device][f"nDCG@{k}"])
    rows = {
        "one index over all rows": measured(central),
        "federated, exact": measured(hits),
        "the best device alone": alone[best],
        "a device alone, on average": dict(by_device.mean()),
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["bytes a query"] = [np.nan, _bytes_a_query(hits.ledger, len(queries)), 0.0, 0.0]
    both = hits.found & central.found
    farthest = float(np.abs(hits.distances - central.distances)[both].max(initial=0.0))
    return SearchComparison(table, by_device, hits, farthest)


def recall_against_bytes(
    devices: Sequence[Device],
    queries: F32,
    k: int,
    *,
    firsts: Sequence[int],
    asks: Sequence[int],
    types: Sequence[str],
    seed: int,
) -> pd.DataFrame:
    """Search in many ways, and count what each finds of the exact answer, and sends.

    Parameters
    ----------
    firsts : sequence of int
        k' of the exact search: hits that each device is asked for first.
    asks : sequence of int
        Devices that a router asks; each also with queries in the smallest of `types` that keeps a
        number a byte (i8), the best hits measured again.
    types : sequence of str
        In which queries travel to all devices.
    seed : int
        Of the router's centroids.

    Returns
    -------
    DataFrame
        A row a way: ``way``, ``setting``, ``recall`` (of the exact k nearest), ``bytes`` (a query),
        ``certified`` (share of the queries), ``once`` (bytes sent before any query).
    """
    truth = FederatedSearch(devices).search(queries, k)
    router = Router.learn(devices, seed=seed)
    ways: list[tuple[str, str, dict[str, Any]]] = [
        *(("exact, by k'", f"k' = {first}", {"first": first}) for first in firsts),
        *(("routed, devices asked", f"{m}", {"router": router, "ask": m}) for m in asks),
        *(("all devices, query in", name, {"query": name}) for name in types),
    ]
    both = {"router": router, "query": "i8", "rescore": k}
    ways += [("routed, and query in i8", f"{m}", both | {"ask": m}) for m in asks]
    rows = []
    for way, setting, how in ways:
        hits = FederatedSearch(devices, **how).search(queries, k)
        rows.append(_row(way, setting, hits, truth))
    return pd.DataFrame(rows)


def _row(way: str, setting: str, hits: FederatedHits, truth: FederatedHits) -> dict[str, Any]:
    once = hits.ledger.to_frame().query("round == 0")["bytes"].sum()
    return {
        "way": way,
        "setting": setting,
        "recall": federated_recall(hits, truth),
        "bytes": _bytes_a_query(hits.ledger, len(hits)),
        "certified": float(hits.certified.mean()),
        "once": int(once),
    }


def _bytes_a_query(ledger: Ledger, queries: int) -> float:
    """Return bytes in both directions a query, without what was sent before any of them."""
    return float(ledger.to_frame().query("round > 0")["bytes"].sum() / queries)
