"""Search over a network: a respondent whose answers come from its node, and what the node says.

An answer's empty places don't travel, so that a message is as long as the ledger says, and
a header.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fedlab.deploy.messages import AROUND, Id, MessageError, Tree, packed, unpacked
from fedlab.index.ingest import KEY_LIMIT
from fedlab.search.commitment import Commitment
from fedlab.search.describing import Describe, Described
from fedlab.search.messages import Answer, Question, Remeasure, Remeasured, Request, Shown
from fedlab.search.queries import PackedQueries
from fedlab.search.respondent import Responding

#: Text that a device may give of one row, at most.
_TEXT = 1 << 16


class RemoteResponding:
    """A device at its node, as `fedlab.search.FederatedSearch` asks it.

    Parameters
    ----------
    id : int or str
    dimensions : int
    metric : str
    send : callable
        ``send(data)`` sends a message to the node, waits, and returns its answer.
    """

    def __init__(
        self, id: Id, dimensions: int, metric: str, send: Callable[[bytes], bytes]
    ) -> None:
        self.id, self.dimensions, self.metric, self._send = id, dimensions, metric, send

    def _sent(self, way: str, most: int, nonce: bytes, **asked: Any) -> Tree:
        told = unpacked(
            self._send(packed({"way": way, "nonce": nonce.hex(), **asked})), most + AROUND
        )
        if "failed" in told:
            raise MessageError(str(told["failed"])[:500])
        return told

    def ask(self, question: Question) -> Answer:
        count, k = len(question.sent), question.k
        asked: Tree = {"k": k, "metric": question.metric, "where": question.where}
        asked["queries"] = vars(question.sent)
        told = self._sent("ask", question.bytes_of(count * k), question.nonce, **asked)
        counts = told["counts"].astype(np.int64)
        if counts.shape != (count,) or not ((counts >= 0) & (counts <= k)).all():
            raise MessageError(f"counts of shape {counts.shape} for {count} queries")
        filled = np.arange(k) < counts[:, None]
        distances = np.full((count, k), np.inf)
        keys = np.full((count, k), KEY_LIMIT, np.uint64)
        distances[filled], keys[filled] = told["distances"], told["keys"]
        return Answer(bytes.fromhex(told["nonce"]), distances, keys, counts, told["exact"] is True)

    def show(self, request: Request) -> Shown:
        most = len(request.keys) * self.dimensions * 4
        told = self._sent("show", most, request.nonce, keys=request.keys)
        return Shown(bytes.fromhex(told["nonce"]), told["rows"])

    def measure(self, request: Remeasure) -> Remeasured:
        asked = {"queries": request.queries, "who": request.who, "keys": request.keys}
        told = self._sent("measure", 8 * len(request.keys), request.nonce, **asked)
        return Remeasured(bytes.fromhex(told["nonce"]), told["distances"])

    def describe(self, request: Describe) -> Described:
        most = len(request.keys) * len(request.columns) * _TEXT
        asked = {"keys": request.keys, "columns": list(request.columns)}
        told = self._sent("describe", most, request.nonce, **asked)
        return Described(bytes.fromhex(told["nonce"]), told["columns"])

    def commit(self) -> Commitment:
        raise ValueError(
            "a node answers each message in a process of its own, and so can't keep to what it has "
            "committed to; take check='vectors'"
        )


def answered(device: Responding, asked: Tree) -> Tree:
    """Return what a node answers to a message of a search."""
    nonce, way = bytes.fromhex(asked["nonce"]), asked["way"]
    told: Tree = {"nonce": asked["nonce"]}
    if way == "ask":
        of = PackedQueries(**asked["queries"]), asked["k"], asked["metric"], nonce
        answer = device.ask(Question(*of, asked["where"]))
        filled = np.arange(asked["k"]) < answer.counts[:, None]
        told |= {"counts": answer.counts.astype(np.uint32), "exact": answer.exact}
        told |= {"distances": answer.distances[filled], "keys": answer.keys[filled]}
    elif way == "show":
        told["rows"] = device.show(Request(asked["keys"], nonce)).rows
    elif way == "measure":
        request = Remeasure(asked["queries"], asked["who"], asked["keys"], nonce)
        told["distances"] = device.measure(request).distances
    elif way == "describe":
        given = device.describe(Describe(asked["keys"], tuple(asked["columns"]), nonce)).columns
        text = {
            n: np.asarray(c, np.str_) if c is not None and c.dtype.kind == "T" else c
            for n, c in given.items()
        }
        told["columns"] = text
    else:
        raise MessageError(f"a search has no way {way!r}")
    return told
