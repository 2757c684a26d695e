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
from fedlab.fleet.deadline import Fates
from fedlab.updates import Mean, ServerOptimiser, Updates


@dataclass(frozen=True, eq=False)
class Nodes(Landing):
    """Devices that train on the models of their nodes.

    Attributes
    ----------
    flight : dict
        ``of``, the node of each device of the federation, (n,); the nodes' ``models``, (N, p); the
        ``weight`` of what came to each since they last mixed, and its ``clock``, (N,) both.
    sums : dict
        By node, the blocks that came and the sum of their weights.
    made : dict
        What the nodes step to: it holds if the round is not skipped.
    """

    sums: dict[int, tuple[dict[str, Any], float]] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, schedule: Any, devices: Any, state: RunState, places: Places) -> Nodes:
        """Return where devices start in a round."""
        flight = state.flight
        if not flight:  # at first, and wherever parameters were assigned
            of = schedule.nodes(devices)
            count = int(of.max()) + 1
            models, clock = np.tile(state.parameters, (count, 1)), np.full(count, state.clock)
            flight = {"of": of, "models": models, "weight": np.zeros(count), "clock": clock}
        starts = flight["models"][flight["of"][places]]
        return cls(starts, np.zeros(len(places)), np.full(len(places), state.round + 1), flight)

    def counted(self, schedule: Any, sent: Updates, gap: Array, rows: Places) -> Updates:
        """Add updates to the sums of their nodes."""
        at = self.flight["of"][sent.places]
        for node in np.unique(at).tolist():
            mine = at == node
            sums, share = self.sums.get(node, ({}, 0.0))
            for name, block in sent.blocks.items():
                held = sums[name] if name in sums else Mean().begin(block.shape[1])
                sums[name] = Mean().add(held, block[mine], sent.weights_of(name)[mine])
            self.sums[node] = sums, share + float(sent.weights[mine].sum())
        return sent

    def stepped(self, schedule: Any, server: ServerOptimiser, wire: Wire, state: RunState) -> F64:
        """Let nodes step along what came to them, and mix; return the mean of their models."""
        models, weight = self.flight["models"].copy(), self.flight["weight"].copy()
        for node, (sums, share) in sorted(self.sums.items()):
            if share > 0:
                means = {name: Mean().done(total, share) for name, total in sums.items()}
                change = wire.widened(means)[CHANGE]
                after, _ = server.step({}, read_only(models[node]), change)
                with np.errstate(over="ignore"):
                    models[node] = wire.moved(after, models[node], means)
                weight[node] += share
        shares = schedule.shares(weight)
        mean: F64 = _mixed(shares[None], models)[0]
        matrix = schedule.mixing(state.round + 1, shares)
        if matrix is not None:
            weight, models = np.zeros(len(weight)), _mixed(matrix, models).astype(models.dtype)
        self.made.update(models=models, weight=weight, shares=shares, matrix=matrix)
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
        matrix, shares = made.get("matrix"), made.get("shares", flight["weight"])
        pause, cost = schedule.cost(matrix is not None, shares, before.parameters.nbytes)
        if matrix is not None:
            with_whom = (matrix > 0) | np.eye(len(matrix), dtype=np.bool_)
            clock = np.where(with_whom, clock, 0.0).max(axis=1) + pause
        kept = {name: made.get(name, flight[name]) for name in ("of", "models", "weight")}
        apart = kept["models"] - _mixed(np.full((1, len(clock)), 1 / len(clock)), kept["models"])
        cost["consensus_distance"] = float(np.sqrt(np.square(apart).sum(axis=1).mean()))
        until = max(float(clock.max()) - before.clock, 0.0)
        after = replace(self, flight={**kept, "clock": clock})
        return after, replace(fate, until=until, measures={**fate.measures, **cost})


def _mixed(matrix: F64, models: Array) -> F64:
    """Return matrix @ models in float64, by what is not zero; each row's bits are its own."""
    return np.array([row[row > 0] @ models[row > 0].astype(np.float64) for row in matrix])


def own_models(state: RunState, places: Places) -> Array:
    """Return the models of devices' nodes, (m, p); of strangers, who lie beyond, the mean."""
    own, flight = np.tile(state.parameters, (len(places), 1)), state.flight
    if flight:
        known = places < len(flight["of"])
        own[known] = flight["models"][flight["of"][places[known]]]
    return own
