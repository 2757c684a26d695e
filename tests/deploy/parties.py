"""Nodes that tests share: sealed indexes in folders, and the same devices in this process."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from fedlab import Device, VectorIndex
from fedlab.deploy import Node
from fedlab.device import Profile
from fedlab.files.keys import Key


class Direct:
    """Nodes in this process: the same messages without a network."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = {node.device.id: node for node in nodes}

    @property
    def devices(self) -> list[int | str]:
        return list(self._nodes)

    def send(self, device: int | str, kind: str, data: bytes) -> Future[bytes]:
        answer: Future[bytes] = Future()
        answer.set_result(self._nodes[device].answer(kind, data))
        return answer


#: Of the slowest: simulated seconds follow from it.
PROFILES: dict[int | str, Profile] = {7: Profile(bandwidth=2e4, compute=1e8)}
IDS: list[int | str] = ["ward 1", 7, "ward 2"]
EXPERIMENT = Path(__file__).parent / "experiment.py"


def folders(root: Path, ids: list[int | str] = IDS) -> dict[int | str, tuple[Path, Key]]:
    """Make a folder for each device: digits, uneven shares, sealed."""
    x, y = load_digits(return_X_y=True)
    draw = np.random.default_rng(5)
    order, made = draw.permutation(600), {}
    for at, (id, rows) in enumerate(zip(ids, np.array_split(order, len(ids)), strict=True)):
        folder, key = root / f"node{at}", Key.generate()
        folder.mkdir(parents=True)
        index = VectorIndex(64, "l2sq")
        index.add((x[rows[at * 20 :]] / 16).astype(np.float32), labels=y[rows[at * 20 :]])
        index.save(folder / "index.fedlab", key)
        told = {"id": id, "gives": ["label"], "profile": asdict(PROFILES.get(id, Profile()))}
        (folder / "device.json").write_text(json.dumps(told))
        (folder / "experiment.py").write_bytes(EXPERIMENT.read_bytes())
        made[id] = folder, key
    return made


def here(made: dict[int | str, tuple[Path, Key]]) -> list[Device]:
    """Return the devices, for a simulation."""
    opened = {i: VectorIndex.open(f / "index.fedlab", k) for i, (f, k) in made.items()}
    return [Device(i, index, PROFILES.get(i, Profile())) for i, index in opened.items()]


def nodes(made: dict[int | str, tuple[Path, Key]]) -> list[Node]:
    return [Node(folder, key) for folder, key in made.values()]
