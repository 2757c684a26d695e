"""Rounds in which several nodes have models of their own (see `fedlab.fleet.topology`).

All devices of a cohort train in one call, whatever their nodes are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedlab.core.typing import F64, Array, Places
from fedlab.core.validation import read_only
from fedlab.federation.state import RunState
from fedlab.federation.wire import CHANGE, Wire
from fedlab.fleet.asynchronous import Landing
from fedlab.fleet.clock import round_seconds
from fedlab.fleet.deadline import Fates
from fedlab.fleet.topology import Hierarchy
from fedlab.updates import ServerOptimiser, Updates


@dataclass(frozen=True, eq=False)
class Nodes(Landing):
    """Devices that train on the models of their nodes.

    Attributes
    ----------
    flight : dict
        ``of``, the node of each device of the federation, (n,); the nodes' ``models``, (N, p); the
        ``weight`` of what came to each since they last mixed, and its ``clock``, (N,) both; and
        ``links`` between nodes, (N, N).
    copies : (k,) int array
        How many models each device receives and sends.
    sums : dict
        What came to each node, by block, (N, n), and the sums of its ``weight``, (N,).
    made : dict
        What the nodes step to: it holds if the round is not skipped.
    """

    copies: Places
    sums: dict[str, F64] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Any, devices: Any, state: RunState, places: Places) -> Nodes:
        """Return where devices start in a round."""
        flight = state.flight
        if not flight:  # at first, and wherever parameters were assigned
            flight = plan.schedule.begin(devices, plan.seed)
            count = int(flight["of"].max()) + 1
            models, clock = np.tile(state.parameters, (count, 1)), np.full(count, state.clock)
            flight |= {"models": models, "weight": np.zeros(count), "clock": clock}
        starts, copies = flight["models"][flight["of"][places]], np.ones(len(places), np.int64)
        if "links" in flight:  # to neighbours that take part
            copies = flight["links"][np.ix_(places, places)].sum(axis=1)
        when = np.zeros(len(places)), np.full(len(places), state.round + 1)
        return cls(starts, *when, flight, copies)

    def counted(self, schedule: Any, sent: Updates, gap: Array, rows: Places) -> Updates:
        """Add updates to the sums of their nodes."""
        weights = {name: sent.weights_of(name) for name in sent.blocks}
        count, at = len(self.flight["clock"]), self.flight["of"][sent.places].tolist()
        for name, block in {**sent.blocks, "weight": np.ones((len(sent), 1))}.items():
            total = self.sums.setdefault(name, np.zeros((count, block.shape[1])))
            for node, w, row in zip(at, weights.get(name, sent.weights), block, strict=True):
                total[node] += np.multiply(row, w, dtype=np.float64)
        sizes = {name: sent.nbytes_of(name) * self.copies[rows] for name in sent.blocks}
        return replace(sent, sizes=sizes)

    @np.errstate(over="ignore", invalid="ignore")  # what is not finite is skipped
    def stepped(self, schedule: Any, server: ServerOptimiser, wire: Wire, state: RunState) -> F64:
        """Let nodes step along what came to them, and mix; return the mean of their models."""
        models, weight = self.flight["models"].copy(), self.flight["weight"].copy()
        sums, share = self.sums, self.sums["weight"][:, 0]
        for node in np.flatnonzero(share).tolist():
            means = {name: total[node] / share[node] for name, total in sums.items()}
            after, _ = server.step({}, read_only(models[node]), wire.widened(means)[CHANGE])
            models[node] = wire.moved(after, models[node], means)
        weight += share
        shares, matrix = schedule.mixing(state.round + 1, self.flight, weight)
        mean: F64 = _mixed(shares[None], models)[0]
        if matrix is not None:
            self.made.update(matrix=matrix, mixes=np.count_nonzero(weight))
            weight, models = np.zeros(len(weight)), _mixed(matrix, models).astype(models.dtype)
        self.made.update(models=models, weight=weight)
        return mean

    def ended(
        self, schedule: Any, before: RunState, fate: Fates, places: Places, seconds: F64, step: bool
    ) -> tuple[Nodes, Fates]:
        """Let time pass: nodes wait for those of their own, and for those that they mix with."""
        flight, of = self.flight, self.flight["of"]
        clock, made = flight["clock"].copy(), self.made if step else {}
        for who, took in ((places, seconds), (fate.lost, fate.busy)):
            np.maximum.at(clock, of[who], flight["clock"][of[who]] + took)
        if not len(places):
            clock = np.maximum(clock, before.clock + fate.until)
        cost, mixes, nbytes = {}, made.get("mixes", 0), before.parameters.nbytes
        if (matrix := made.get("matrix")) is not None:
            with_whom = (matrix > 0) | np.eye(len(matrix), dtype=np.bool_)
            clock = np.where(with_whom, clock, 0.0).max(axis=1)
        if isinstance(schedule, Hierarchy):
            down = nbytes * len(clock) * (mixes > 0)
            cost = {"cloud_bytes_up": float(nbytes * mixes), "cloud_bytes_down": float(down)}
            clock += round_seconds(schedule.link, nbytes, nbytes, 0, 0) * (mixes > 0)
        kept = {name: made.get(name, was) for name, was in flight.items()}
        apart = kept["models"] - _mixed(np.full((1, len(clock)), 1 / len(clock)), kept["models"])
        cost["consensus_distance"] = float(np.sqrt(np.square(apart).sum(axis=1).mean()))
        until = max(float(clock.max()) - before.clock, 0.0)
        after = replace(self, flight={**kept, "clock": clock})
        return after, replace(fate, until=until, measures={**fate.measures, **cost})


def _mixed(matrix: F64, models: Array) -> F64:
    """Return matrix @ models in float64, by what is not zero; each row's bits are its own."""
    wide = models.astype(np.float64)
    return np.array([row[row > 0] @ wide[row > 0] for row in matrix])


def own_models(state: RunState, places: Places) -> Array:
    """Return the models of devices' nodes, (m, p); of strangers, who lie beyond, the mean."""
    of, models = state.flight.get("of", np.zeros(1, np.intp)), state.flight.get("models")
    models = state.parameters[None] if models is None else models
    node = np.where(places < len(of), of[places % len(of)], len(models))
    return np.vstack([models, state.parameters])[node]
