"""IFCA: several models, each for the devices that it fits best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fedlab.algorithms.base import Reported, State, Stateless
from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, Array, Places
from fedlab.core.validation import positive, whole_number
from fedlab.device.states import DeviceStates
from fedlab.models.base import Layout
from fedlab.training.work import Phase, Work
from fedlab.updates.sent import Updates


@dataclass(frozen=True)
class IFCA(Stateless):
    """The server keeps k models; a device trains the one that has the least loss on its rows.

    Each model moves by the weighted mean of those that chose it. All k are sent to each device of
    the cohort. The server optimiser moves the server's own model only, which is the mean of the k
    by the weight of those that chose them. Buffers are the server's, the same in all.

    Parameters
    ----------
    clusters : int
        k.
    spread : float
        Models begin at the start plus N(0, spread^2): they must differ for devices to choose.

    Source: Ghosh et al., "An efficient framework for clustered federated learning", NeurIPS 2020,
    algorithm 1 (model averaging).

    Examples
    --------
    >>> IFCA(clusters=3)
    IFCA(clusters=3, spread=0.1)
    """

    clusters: int = 2
    spread: float = 0.1

    reads: ClassVar[tuple[str, ...]] = ("parameters",)

    def __post_init__(self) -> None:
        whole_number(self.clusters, "clusters", 1)
        positive(spread=self.spread)

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        noise = generator(0, Purpose.INITIAL, part=1).standard_normal(
            (self.clusters, len(parameters))
        )
        buffered = np.zeros(len(parameters), np.bool_)
        if layout.buffered is not None:
            buffered |= layout.buffered
        return {"models": parameters + self.spread * noise, "buffered": buffered}

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Phase:
        models = np.where(state["buffered"], parameters, state["models"])
        return Phase(choose=models.astype(parameters.dtype))

    def report(self, state: State, sent: Updates, kept: DeviceStates) -> Reported:
        change = sent.blocks["change"]
        chose = sent.stats["choice"][:, None] == np.arange(self.clusters)
        blocks, weighed, sizes = dict(sent.blocks), dict(sent.weighed), dict(sent.sizes)
        del blocks["change"]
        nbytes = np.count_nonzero(~state["buffered"]) * change.itemsize
        for cluster in range(self.clusters):  # one of these travels: that of the model it chose
            name = f"change {cluster}"
            blocks[name], weighed[name] = change, sent.weights * chose[:, cluster]
            sizes[name] = chose[:, cluster] * nbytes
        blocks["members"] = chose.astype(change.dtype)
        return replace(sent, blocks=blocks, weighed=weighed, sizes=sizes), kept

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        members, models = means["members"], state["models"].copy()
        for cluster in np.flatnonzero(members):
            models[cluster] += means[f"change {cluster}"] / members[cluster]
        return members / members.sum() @ models - means["parameters"], {**state, "models": models}

    def serve(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        """Return the choice of the model with the least loss on the device's training rows."""
        return replace(self.work(state, parameters, places, kept), epochs=0)
