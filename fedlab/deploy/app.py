"""What Flower runs: at each node the app that answers, at the server the one that passes on.

The bundle that Flower hands out names these two, and holds nothing else: fedlab, the device and the
experiment are at the node already. At the server the app passes messages between Flower's grid and
the process that holds the `fedlab.deploy.flower.FlowerLink`; that one decides everything.
"""

from __future__ import annotations

import json
import time
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedlab.deploy.messages import LARGEST
from fedlab.deploy.node import Node
from fedlab.files.keys import Key

#: Seconds between two looks at what has come.
_POLL = 0.05
_WAYS = {"train": "train", "measure": "evaluate"}

client, server = ClientApp(), ServerApp()


@client.train()  # type: ignore[untyped-decorator]
@client.evaluate()  # type: ignore[untyped-decorator]
@client.query()  # type: ignore[untyped-decorator]
def answer(message: Message, context: Context) -> Message:
    """Answer a message for this node's device."""
    key = Key.from_file(str(context.node_config["key-file"]))
    node = Node(str(context.node_config["folder"]), key)
    said = node.answer(message.metadata.group_id, content_of(message))
    return Message(content=record_of(said), reply_to=message)


def record_of(data: bytes) -> RecordDict:
    """Return bytes as Flower carries them: in chunks, and opened by nobody."""
    array = Array("uint8", (len(data),), "fedlab", data)
    return RecordDict({"said": ArrayRecord({"bytes": array})})


def content_of(message: Message) -> bytes:
    """Return the bytes of a message, or raise a ValueError that says why there are none."""
    if message.has_error():
        raise ValueError(f"Flower says: {message.error.reason or message.error.code}")
    [record] = message.content.array_records.values()
    [array] = record.values()
    if len(array.data) > LARGEST:
        raise ValueError(f"a message of {len(array.data):,} bytes came; {LARGEST:,} are the most")
    return bytes(array.data)


@server.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Pass messages on, until the process that asked for it closes the connection."""
    told = json.loads(Path(str(context.run_config["door"])).read_text(encoding="utf-8"))
    waiting = dict[str, tuple[int, float]]()  # by Flower's id: our number, and the end
    with Client(tuple(told["address"]), authkey=bytes.fromhex(told["key"])) as door:
        while True:
            try:
                while door.poll(0 if waiting else 1.0):
                    _push(grid, door, waiting)
            except (EOFError, OSError):
                return
            for reply in grid.pull_messages(list(waiting)) if waiting else ():
                number, _ = waiting.pop(reply.metadata.reply_to_message_id)
                try:
                    data = content_of(reply)
                    _say(door, number=number)
                    door.send_bytes(data)
                except ValueError as error:
                    _say(door, number=number, failed=str(error)[:500])
            for name in [n for n, (_, end) in waiting.items() if end < time.monotonic()]:
                _say(door, number=waiting.pop(name)[0], failed="no answer in time")
            time.sleep(_POLL)


def _push(grid: Grid, door: Connection, waiting: dict[str, tuple[int, float]]) -> None:
    """Push a message that came through the door, or say who is there."""
    asked = json.loads(door.recv_bytes())
    kind, number = asked["kind"], asked["number"]
    if kind == "nodes":
        return _say(door, number=number, nodes=[str(node) for node in grid.get_node_ids()])
    record, ttl = record_of(door.recv_bytes(LARGEST)), float(asked["patience"])
    to = int(asked["node"]), _WAYS.get(kind, "query")
    [name] = grid.push_messages([Message(record, *to, ttl=ttl, group_id=kind)])
    if name is None:
        return _say(door, number=number, failed="Flower takes no message for this node")
    waiting[name] = number, time.monotonic() + ttl
    return None


def _say(door: Connection, **told: Any) -> None:
    door.send_bytes(json.dumps(told).encode())
