"""Who of a cohort comes through: deadlines, over-selection, and devices that drop out.

It is decided before anybody trains, from rows, epochs, the model's size, and the bytes that devices
received and sent in the round before (in the first, those of the model). So nothing is trained that
doesn't count, and it makes no difference what stages do with updates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, I64, Places
from fedlab.core.validation import number, positive
from fedlab.fleet.view import View


@dataclass(frozen=True)
class Deadline:
    """A round takes so long and no longer; more devices are chosen than are needed.

    The first updates that fill the cohort end the round, or the deadline does. Who comes too late
    is left out.

    Parameters
    ----------
    seconds : float
        Simulated, from when devices are sent the model.
    over_select : float
        How many devices are chosen for each of the cohort, at least 1.
    partial : bool
        Whether slow devices do as many whole epochs as fit, instead of all of theirs.

    Source: Bonawitz et al., "Towards federated learning at scale: system design", MLSys 2019,
    sections 2.2 and 9: 130 % of the goal are chosen, as 6 to 10 % drop out.
    """

    seconds: float
    over_select: float = 1.3
    partial: bool = False

    def __post_init__(self) -> None:
        positive(seconds=self.seconds)
        if not 1 <= number(self.over_select, "over_select") < np.inf:
            raise ValueError(f"over_select is {self.over_select}; it must be at least 1")


@dataclass(frozen=True, eq=False)
class Fates:
    """What becomes of those chosen.

    Attributes
    ----------
    places, epochs : (k,) int arrays
        Who trains to the end, and how many epochs.
    lost : (l,) int array
        The others.
    busy : (l,) array
        Simulated seconds for which each of them was at work.
    why : list of str
        For each of them.
    until : float
        How long the round lasts at least.
    measures : dict of str to float
        How many dropped out, were late, or were not needed any more; and bytes for nothing.
    """

    places: Places
    epochs: I64
    lost: Places = field(default_factory=lambda: np.empty(0, np.intp))
    busy: F64 = field(default_factory=lambda: np.empty(0))
    why: list[str] = field(default_factory=list)
    until: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)


def fates(view: View, places: Places, epochs: I64, goal: int, deadline: Deadline | None) -> Fates:
    """Return who comes through, and what becomes of the others.

    Parameters
    ----------
    view : View
    places, epochs : (m,) int arrays
        Those chosen, and how many epochs each would do.
    goal : int
        How many updates end a round that has a deadline.
    deadline : Deadline, optional
    """
    chance, limit = view.fleet.column("dropout", places), np.inf
    if deadline is None and not chance.any() and not view.fleet.online:
        return Fates(places, epochs)
    down, train, up = view.expected(places, epochs)
    if deadline is None:
        goal = len(places)
    else:
        limit = deadline.seconds
        if deadline.partial:
            fit = np.floor(np.maximum(limit - down - up, 0) * epochs / train)
            fewer = np.clip(fit, 1, epochs).astype(np.int64)
            epochs, train = fewer, train * (fewer / epochs)
    whole = down + train + up
    drops = np.zeros(len(places), np.bool_)
    for one in np.flatnonzero(chance).tolist():
        name = view.fleet.devices[places[one]].id
        draw = generator(view.seed, Purpose.DROPOUT, round=view.round, device=name).random(2)
        drops[one] = draw[0] < chance[one]
        whole[one] *= draw[1] if drops[one] else 1.0
    if view.fleet.online:
        drops |= whole > (left := np.maximum(view.fleet.stays(places), 0))
        whole = np.minimum(whole, left)
    late = ~drops & (whole > limit)
    there = np.flatnonzero(~drops & ~late)
    come = np.sort(there[np.argsort(whole[there], kind="stable")[:goal]])
    lost = np.setdiff1d(np.arange(len(places)), come)
    full = len(come) == goal
    end = whole[come].max(initial=0.0) if full else min(limit, whole[lost].max(initial=0.0))
    busy = np.minimum(whole[lost], end)
    begun, done = down[lost], (down + train)[lost]
    stage = np.select([busy < begun, busy < done], ["before", "during"], "after")
    why = []
    for one, at, seconds in zip(lost.tolist(), stage.tolist(), busy.tolist(), strict=True):
        text = "not needed any more: the cohort was full"
        if drops[one]:
            text = f"dropped out {at} training, after {seconds:.3g} s"
        elif late[one]:
            text = f"late: it needs {whole[one]:.3g} s, and the deadline is {limit:.3g} s"
        why.append(text)
    received = np.clip(busy / begun, 0, 1) * view.traffic[0]
    sent = np.clip((busy - done) / up[lost], 0, 1) * view.traffic[1]
    gone = {"dropped": drops.sum(), "late": late.sum(), "surplus": len(there) - len(come)}
    gone |= {"bytes_down_lost": received.sum(), "bytes_up_lost": sent.sum()}
    measures = {name: float(value) for name, value in gone.items()}
    return Fates(places[come], epochs[come], places[lost], busy, why, float(end), measures)
