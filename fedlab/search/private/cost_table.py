"""What private search costs beside a plain one: bytes, rounds and time on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.ledger import Ledger
from fedlab.core.threads import one_blas_thread
from fedlab.core.typing import F32
from fedlab.device.device import Device
from fedlab.index.ingest import as_vectors
from fedlab.index.scan import Queries
from fedlab.privacy.secure_sum import Session
from fedlab.search.private.knn_vote import vote
from fedlab.search.private.kth_distance import kth_distances
from fedlab.search.private.shared_index import SharedIndex

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

_VECTORS = ("queries", "shares of queries")
_HIT = 16  # a key and a distance


def costs(
    devices: Sequence[Device], queries: ArrayLike, k: int, classes: ArrayLike | None = None
) -> pd.DataFrame:
    """Run the schemes on the same devices and queries, and return what each of them costs.

    Parameters
    ----------
    devices : sequence of Device
        Two at least, of one dimension and metric.
    queries : (q, d) array
    k : int
    classes : (c,) array, optional
        If given, the masked vote is among them.

    Returns
    -------
    DataFrame
        A row a scheme; ``bytes`` a query, the ``vectors`` of the queries among them, ``rounds``
        for all queries together, ``ms`` a query, and ``setup_bytes`` and ``setup_ms`` once. Times
        are those of all parties' work one after another on this machine, without a network: with
        one, every round adds its latency.

    Examples
    --------
    >>> from fedlab import VectorIndex
    >>> devices = [Device(place, VectorIndex(4)) for place in range(3)]
    >>> for place, device in enumerate(devices):
    ...     _ = device.index.add(np.eye(4) + place)
    >>> table = costs(devices, np.ones((10, 4)), k=2)
    >>> print(table[["bytes", "vectors", "rounds"]].reset_index().to_string(index=False))
                  scheme  bytes  vectors  rounds
                   plain  144.0     48.0       1
    masked k-th distance  163.2     48.0      32
       two-server shares  416.0     64.0       2
    """
    import pandas as pd

    asked = as_vectors(queries, devices[0].index.dimensions, "queries")
    if not len(asked):
        raise ValueError("no queries were given; costs are counted a query")
    session, session_ms = _timed(lambda: Session([device.id for device in devices]))
    shared, shared_ms = _timed(lambda: SharedIndex(devices))
    shared.search(asked[:1], k)  # compiles what is not compiled yet
    runs: list[tuple[str, Callable[[], Ledger], Ledger | None, float]] = [
        ("plain", lambda: _plain(devices, asked, k), None, 0.0),
        (
            "masked k-th distance",
            lambda: kth_distances(devices, asked, k, session=session).ledger,
            session.ledger,
            session_ms,
        ),
        ("two-server shares", lambda: shared.search(asked, k).ledger, shared.setup, shared_ms),
    ]
    if classes is not None:
        voted = lambda: vote(devices, asked, k, classes, session=session).ledger  # noqa: E731
        runs.insert(2, ("masked vote", voted, session.ledger, session_ms))
    rows = []
    for scheme, run, setup, setup_ms in runs:
        ledger, ms = _timed(run)
        frame = ledger.to_frame()
        vectors = frame["bytes"][frame["what"].isin(_VECTORS)].sum()
        before = setup.bytes if setup is not None else 0
        each = [ledger.bytes / len(asked), vectors / len(asked), ledger.rounds, ms / len(asked)]
        rows.append([scheme, *each, before, setup_ms])
    names = ["scheme", "bytes", "vectors", "rounds", "ms", "setup_bytes", "setup_ms"]
    return pd.DataFrame(rows, columns=names).set_index("scheme")


def _plain(devices: Sequence[Device], asked: F32, k: int) -> Ledger:
    """Every device sends its k nearest, keys and distances, and the server merges them."""
    ledger = Ledger([device.id for device in devices])
    everyone = np.arange(len(devices))
    ready = Queries.of(asked, devices[0].index.metric)
    with one_blas_thread():
        hits = [device.index.scan(ready, k) for device in devices]
    ledger.note(1, "down", "queries", asked.nbytes, everyone)
    ledger.note(1, "up", "hits", [_HIT * hit.keys.size for hit in hits], everyone)
    distances = np.concatenate([hit.distances for hit in hits], axis=1)
    keys = np.concatenate([hit.keys for hit in hits], axis=1)
    holders = np.repeat(everyone, [hit.keys.shape[1] for hit in hits])
    # The server's merge, for the time it takes: nobody wants the hits here.
    np.lexsort((keys, np.broadcast_to(holders, keys.shape), distances), axis=1)
    return ledger


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    start = perf_counter()
    result = run()
    return result, 1e3 * (perf_counter() - start)
