"""Rounds that don't wait for all: the server steps whenever enough updates have arrived.

Devices are sent the model when one of the `cohort` is free, and train on what they were sent,
however old it is when they are done. A round is a step of the server. When a device arrives is
settled when it is sent out, by the bytes of the round before. It trains when it has arrived, so
that devices with any mix of models train in one call, and a checkpoint holds no updates: who is on
the way, since when, and the models that somebody still trains on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import F64, I64, Array, Places
from fedlab.core.validation import (
    not_negative,
    one_of,
    positive,
    share_of_one,
    whole_number,
    whole_or_none,
)
from fedlab.fleet.deadline import Deadline, Fates
from fedlab.fleet.topology import Topology
from fedlab.fleet.view import View
from fedlab.updates.sent import Updates

_COLUMNS = ("places", "version", "epochs", "arrival")


@dataclass(frozen=True, kw_only=True)
class _Async:
    staleness: Literal["constant", "hinge", "polynomial"] = "polynomial"
    a: float = 0.5
    b: float = 4.0
    most: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        one_of(self.staleness, ("constant", "hinge", "polynomial"), "staleness")
        not_negative(a=self.a, b=self.b)
        whole_or_none(self.most, "most", 0)
        if self.seconds is not None:
            positive(seconds=self.seconds)

    def weight(self, staleness: ArrayLike) -> F64:
        """Return how much updates count of which the server made so many steps meanwhile, (m,).

        Examples
        --------
        >>> FedBuff(3).weight([0, 3]), FedBuff(3, staleness="hinge", a=1, b=2).weight([2, 3])
        (array([1. , 0.5]), array([1. , 0.5]))
        """
        tau = np.asarray(staleness, np.float64)
        if self.staleness == "constant":
            return np.ones(tau.shape)
        if self.staleness == "polynomial":
            return np.asarray((tau + 1) ** -self.a)
        return np.asarray(1 / (self.a * np.maximum(tau - self.b, 0) + 1))


@dataclass(frozen=True)
class FedBuff(_Async):
    """The server steps along the mean of every K updates, the stale ones counting less.

    Parameters
    ----------
    buffer : int
        K, at most the cohort: the devices at work at once.
    staleness : {"polynomial", "hinge", "constant"}
        (1 + t)^-a; or 1 up to t = b and 1 / (a (t - b) + 1) beyond; or 1. Staleness t is how many
        steps the server has made since the device was sent the model.
    a, b : float
    most : int, optional
        Updates that are staler are left out.
    seconds : float, optional
        The server steps after so many simulated seconds, too, with what has arrived by then:
        semi-synchronous rounds.

    Source: Nguyen et al., "Federated learning with buffered asynchronous aggregation", AISTATS
    2022, algorithm 1.
    """

    buffer: int

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number(self.buffer, "buffer", 1)


@dataclass(frozen=True)
class FedAsync(_Async):
    """The server moves towards each device's model when it arrives: w + alpha s(t) (w_k - w).

    Parameters
    ----------
    alpha : float
        Above 0, at most 1.
    staleness, a, b, most, seconds
        See `FedBuff`. A device that was sent the newest model has staleness 0.

    Source: Xie, Koyejo & Gupta, "Asynchronous federated optimization", 2019, algorithm 1 and
    section 5.2.
    """

    alpha: float = 0.6
    buffer = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(alpha=self.alpha)
        share_of_one(alpha=self.alpha)


Schedule = Deadline | FedBuff | FedAsync | Topology


def no_flight() -> dict[str, Any]:
    """Return nobody on the way: what a run begins with."""
    whole = {name: np.empty(0, np.int64) for name in _COLUMNS}
    return {**whole, "arrival": np.empty(0), "models": {}}


@dataclass(frozen=True, eq=False)
class Landing:
    """Who has arrived, and who is on the way.

    Attributes
    ----------
    starts : (k, p) array
        The models that those who arrived were sent.
    staleness : (k,) array
        Steps of the server since.
    sent_in : (k,) int array
        The rounds in which they were sent out: their draws stand there.
    flight : dict
        The others, as a checkpoint holds them.
    """

    starts: Array
    staleness: F64
    sent_in: I64
    flight: dict[str, Any]

    def begun(self, phase: Any, now: Array) -> Any:
        """Return a phase from the models that devices were sent, instead of the newest one."""
        own = {name: self.starts for name in ("start", "anchor") if getattr(phase, name) is now}
        if "start" not in own and phase.start is not None:
            raise ValueError(
                "the algorithm starts devices elsewhere than from the server's model, so that "
                "they can't be sent other ones; leave schedule= out, or give a Deadline"
            )
        return replace(phase, **own)

    def counted(self, schedule: Any, sent: Updates, gap: Array, rows: Places) -> Updates:
        """Return the updates of some rows as they count for the server.

        Parameters
        ----------
        schedule : FedBuff or FedAsync
        sent : Updates
        gap : (m, n) array
            The models that devices were sent, less the newest one.
        rows : (m,) int array
        """
        change, weight = sent.blocks["change"], schedule.weight(self.staleness[rows])
        if isinstance(schedule, FedAsync):
            change, weight = gap + change, schedule.alpha * weight
        counted = np.asarray(change * weight[:, None].astype(change.dtype))
        return replace(sent, blocks={**sent.blocks, "change": counted})


def land(schedule: Any, flight: dict[str, Any], view: View, fate: Fates) -> tuple[Landing, Fates]:
    """Send out those who come through, and let time pass until enough have arrived."""
    now, clock = view.round - 1, view.fleet.clock
    news = {
        "places": fate.places,
        "version": np.full(len(fate.places), now),
        "epochs": fate.epochs,
        "arrival": clock + sum(view.expected(fate.places, fate.epochs)),
    }
    them = {name: np.append(flight[name], news[name]) for name in _COLUMNS}
    models = {**flight["models"], now: view.parameters}
    order = np.lexsort((them["places"], them["arrival"]))  # of equal times, by place
    first, end = order[: schedule.buffer], clock
    if schedule.seconds is not None:
        first = first[them["arrival"][first] <= clock + schedule.seconds]
        end = clock + schedule.seconds if len(first) < min(schedule.buffer, len(order)) else clock
    end = them["arrival"][first].max(initial=end)
    rest = np.setdiff1d(np.arange(len(order)), first)
    kept: dict[str, Any] = {name: them[name][rest] for name in _COLUMNS}
    kept["models"] = {v: models[v] for v in np.unique(kept["version"]).tolist()}
    stale = now - them["version"][first]
    old = first[stale > (np.inf if schedule.most is None else schedule.most)]
    first = first[np.argsort(them["places"][first])]
    first = first[~np.isin(first, old)]
    first = first[np.searchsorted(them["places"][first], view.fleet.in_turn(them["places"][first]))]
    version = them["version"][first]
    starts = np.array([models[v] for v in version.tolist()], view.parameters.dtype)
    why = [
        f"stale by {now - v} steps; at most {schedule.most} are allowed"
        for v in them["version"][old].tolist()
    ]
    measures = {**fate.measures, "in_flight": float(len(rest)), "stale": float(len(old))}
    for name, nbytes in zip(("bytes_down_lost", "bytes_up_lost"), view.traffic, strict=True):
        measures[name] = measures.get(name, 0.0) + nbytes * len(old)
    spent = sum(view.expected(them["places"][old], them["epochs"][old]))
    if len(first):
        measures["staleness"] = float((now - version).mean())
    lost = np.append(fate.lost, them["places"][old])
    until = float(end - clock) if len(order) else fate.until
    gone = (lost, np.append(fate.busy, spent), [*fate.why, *why], until, measures)
    after = Fates(them["places"][first], them["epochs"][first], *gone)
    starts = starts.reshape(len(first), len(view.parameters))
    return Landing(starts, (now - version).astype(np.float64), version + 1, kept), after
