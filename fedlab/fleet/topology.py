"""Several models in one run: edges below a cloud, or devices with neighbours and no server.

A *node* has a model: an edge, or a device. Its devices train on that one, and it moves along the
mean of what they send. Then nodes mix. What is measured is the nodes' mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, Bool
from fedlab.core.validation import of_kind, one_of, whole_number
from fedlab.device.device import Device
from fedlab.device.profile import Profile


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
    >>> Hierarchy({"north": [0, 2], "south": [1]}, every=5).begin(devices, seed=0)
    {'of': array([0, 1, 0])}
    """

    edges: Mapping[str, Sequence[int | str]]
    every: int = 1
    link: Profile = Profile()  # noqa: RUF009 (a frozen value)

    def __post_init__(self) -> None:
        of_kind(self.edges, Mapping, "edges")
        whole_number(self.every, "every", 1)
        of_kind(self.link, Profile, "link")

    def begin(self, devices: Sequence[Device], seed: int) -> dict[str, Any]:
        """Return the place of each device's edge, (n,); refuse devices of none, or of two."""
        named = [(one, place) for place, ids in enumerate(self.edges.values()) for one in ids]
        edge = dict(named)
        if len(edge) < len(named):
            raise ValueError("two edges name the same device, or one names it twice; once is right")
        if strange := sorted(map(str, edge.keys() - {device.id for device in devices})):
            raise ValueError(f"edges name {strange[:5]}, which no device is called; leave them out")
        if missing := [device.id for device in devices if device.id not in edge]:
            raise ValueError(f"no edge names the devices {missing[:5]}; each needs one")
        return {"of": np.array([edge[device.id] for device in devices], np.intp)}

    def mixing(self, round: int, flight: Mapping[str, Any], weight: F64) -> tuple[F64, F64 | None]:
        """Return how much nodes count in the mean, (N,), and by what they mix, (N, N), if now."""
        shares = weight / weight.sum()
        return shares, None if round % self.every else np.tile(shares, (len(shares), 1))


@dataclass(frozen=True)
class Gossip:
    """No server: each device has a model, trains it, and averages it with those of its neighbours.

    x_i <- sum_j W_ij (x_j + D_j), with D_j what device j's training changed. W has Metropolis-
    Hastings weights, W_ij = 1 / (1 + max(d_i, d_j)) of neighbours with d_i and d_j neighbours, so
    that it is doubly stochastic, and the devices' mean moves by the mean change. Who takes no part
    in a round is no neighbour in it, and keeps its model. A device waits for its neighbours alone.

    Parameters
    ----------
    graph : {"ring", "torus", "regular", "complete"}
        "regular" is drawn: rings through all devices, each in an order of its own, that share no
        link.
    rings : int
        Half of how many neighbours each device has in a "regular" graph: 1 ... 4.

    Sources: Lian et al., "Can decentralized algorithms outperform centralized algorithms?", NeurIPS
    2017, algorithm 1 (D-PSGD, here with whole local training before each mixing); Xiao, Boyd & Kim,
    "Distributed average consensus with least-mean-square deviation", 2007, section 5.2, for W.

    Examples
    --------
    >>> metropolis(Gossip("ring").links(4, seed=0))[0].round(3)
    array([0.333, 0.333, 0.   , 0.333])
    """

    graph: Literal["ring", "torus", "regular", "complete"] = "ring"
    rings: int = 2
    weights: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        one_of(self.graph, ("ring", "torus", "regular", "complete"), "graph")
        whole_number(self.rings, "rings", 1, 4)

    def links(self, count: int, seed: int) -> Bool:
        """Return who is whose neighbour among so many devices, (n, n)."""
        least = 4 * self.rings + 1 if self.graph == "regular" else 1
        whole_number(count, f"the number of devices in a {self.graph} graph", least, 10_000)
        one, there = np.arange(count), np.zeros((count, count), np.bool_)
        if self.graph == "regular":
            draw = generator(seed, Purpose.GRAPH)
            while there.sum() < 2 * self.rings * count:
                turn, ring = draw.permutation(count), np.zeros_like(there)
                ring[turn, np.roll(turn, 1)] = ring[np.roll(turn, 1), turn] = True
                there |= ring & ~(ring & there).any()  # one that has none of the links so far
            return there
        wide = next(w for w in range(int(count**0.5), 0, -1) if count % w == 0)
        if self.graph == "torus" and wide == 1:
            raise ValueError(f"{count} devices make no torus; take a ring, or another number")
        long = count // wide if self.graph == "torus" else count
        there[one, one // long * long + (one + 1) % long] = there[one, (one + long) % count] = True
        there |= there.T | (self.graph == "complete")
        return np.asarray(there & (one != one[:, None]))

    def begin(self, devices: Sequence[Device], seed: int) -> dict[str, Any]:
        """Return each device as a node of its own, (n,), and the links between them, (n, n)."""
        return {"of": np.arange(len(devices)), "links": self.links(len(devices), seed)}

    def mixing(self, round: int, flight: Mapping[str, Any], weight: F64) -> tuple[F64, F64]:
        """Return that nodes count alike, (N,), and by what those mix that took part, (N, N)."""
        there = np.outer(weight > 0, weight > 0)
        return np.full(len(weight), 1 / len(weight)), metropolis(flight["links"] & there)


def metropolis(links: Bool) -> F64:
    """Return Metropolis-Hastings weights on a graph, (n, n): symmetric, and rows sum to one."""
    degree = links.sum(axis=1)
    weights = links / (1.0 + np.maximum.outer(degree, degree))
    np.fill_diagonal(weights, 1 - weights.sum(axis=1))
    return np.asarray(weights)


#: Schedules under which several nodes have models.
Topology = Hierarchy | Gossip
