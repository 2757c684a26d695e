"""Several models in one run: edges below a cloud, each of which averages devices of its own.

A *node* has a model: its devices train on that one, and it moves along the mean of what they send.
Then nodes mix. What is measured is the nodes' mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlab.core.typing import F64, I64
from fedlab.core.validation import of_kind, whole_number
from fedlab.device.device import Device
from fedlab.device.profile import Profile
from fedlab.fleet.clock import round_seconds


@dataclass(frozen=True)
class Hierarchy:
    """Edges average their devices in every round, and a cloud averages the edges in some.

    An edge counts by the weights of the updates that came to it since the cloud last averaged: with
    all devices in each round, by those of its devices, as in the paper. Edges don't wait for one
    another, but where the cloud averages.

    Parameters
    ----------
    edges : mapping of str to sequence of device ids
        Each device at one of them.
    every : int
        The paper's kappa_2: the cloud averages in each round whose number this divides.
    link : Profile
        What the connection between the cloud and an edge can do.

    Source: Liu, Zhang, Song & Letaief, "Client-edge-cloud hierarchical federated learning", ICC
    2020, algorithm 1 (HierFAVG).

    Examples
    --------
    >>> from fedlab import VectorIndex
    >>> devices = [Device(number, VectorIndex(2)) for number in range(3)]
    >>> Hierarchy({"north": [0, 2], "south": [1]}, every=5).nodes(devices)
    array([0, 1, 0])
    """

    edges: Mapping[str, Sequence[int | str]]
    every: int = 1
    link: Profile = Profile()  # noqa: RUF009 (a frozen value)

    def __post_init__(self) -> None:
        of_kind(self.edges, Mapping, "edges")
        whole_number(self.every, "every", 1)
        of_kind(self.link, Profile, "link")

    def nodes(self, devices: Sequence[Device]) -> I64:
        """Return the place of each device's edge, (n,); refuse devices of none, or of two."""
        named = [(one, place) for place, ids in enumerate(self.edges.values()) for one in ids]
        edge = dict(named)
        if len(edge) < len(named):
            raise ValueError("two edges name the same device, or one names it twice; once is right")
        if missing := [device.id for device in devices if device.id not in edge]:
            raise ValueError(f"no edge names the devices {missing[:5]}; each needs one")
        return np.array([edge[device.id] for device in devices], np.int64)

    def shares(self, weight: F64) -> F64:
        """Return how much each edge's model counts in the mean, (N,)."""
        return np.asarray(weight / weight.sum())

    def mixing(self, round: int, shares: F64) -> F64 | None:
        """Return by how much of others' models each one is replaced, (N, N); None by nothing."""
        return None if round % self.every else np.tile(shares, (len(shares), 1))

    def cost(self, mixes: bool, shares: F64, nbytes: int) -> tuple[float, dict[str, float]]:
        """Return the seconds and bytes between edges and the cloud; an edge that is new sends."""
        up, down = (nbytes * int(mixes) * count for count in (np.sum(shares > 0), len(shares)))
        seconds: Any = round_seconds(self.link, nbytes, nbytes, 0, 0)
        cost = {"cloud_bytes_up": float(up), "cloud_bytes_down": float(down)}
        return float(seconds) * mixes, cost
