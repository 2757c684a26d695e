"""Select: who takes part in a round, who comes through, and whose update arrives in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedlab.core.typing import I64, Places
from fedlab.core.validation import of_kind
from fedlab.device.profile import DAY
from fedlab.federation.accounted import spent
from fedlab.federation.history import SERVER
from fedlab.federation.nodes import Nodes
from fedlab.federation.on_devices import Where
from fedlab.federation.plan import Plan
from fedlab.federation.state import RunState
from fedlab.fleet import AtRandom, Cohort, Deadline, FedAsync, FedBuff, Roster, Topology, View
from fedlab.fleet.asynchronous import Landing, land
from fedlab.fleet.deadline import Fates, fates


@dataclass(frozen=True, eq=False)
class Selected:
    """A round's cohort.

    Attributes
    ----------
    view : View
        What the rule of selection saw.
    chosen : Cohort
    why : dict of str to (k,) arrays
        Whom the rule considered.
    fate : Fates
        Who trains, and what became of the others.
    landing : Landing, optional
        Where devices train on models of several rounds, or of several nodes.
    remarks : list of (who, text)
    """

    view: View
    chosen: Cohort
    why: dict[str, Any]
    fate: Fates
    landing: Landing | None
    remarks: list[tuple[object, str]]


def selected(plan: Plan, fleet: Roster, state: RunState, where: Where) -> Selected:
    """Choose a round's cohort, and tell who of it comes through."""
    schedule, size = plan.schedule, plan.cohort
    busy = state.flight.get("places", np.empty(0, np.intp))
    if isinstance(schedule, Deadline):
        size = min(math.ceil(schedule.over_select * size), fleet.count)
    away = busy if plan.row_privacy is None else np.union1d(busy, spent(plan, state))
    now = replace(fleet, clock=state.clock, busy=away)
    view = View(
        *(now, size - len(busy), plan.seed, state.round + 1),
        *(plan.model, state.parameters, plan.local.epochs, state.traffic),
        asking=where.ask,
    )
    chosen, why = _chosen(plan, state, view)
    fate, remarks = _sent_out(plan, view, chosen.places)
    landing = None
    if isinstance(schedule, FedBuff | FedAsync):
        landing, fate = land(schedule, state.flight, view, fate)
        remarks = [] if len(fate.places) or len(busy) else remarks
    elif isinstance(schedule, Topology):
        landing = Nodes.of(plan, view.fleet.devices, state, fate.places)
    lost = [view.fleet.devices[place].id for place in fate.lost.tolist()]
    remarks += [(name, f"left out: {text}") for name, text in zip(lost, fate.why, strict=True)]
    return Selected(view, chosen, why, fate, landing, remarks)


def _chosen(plan: Plan, state: RunState, view: View) -> tuple[Cohort, dict[str, Any]]:
    """Let the rule of selection choose and say why, or say what is no cohort."""
    if view.size < 1:  # all are at work
        return Cohort(np.empty(0, np.intp), state.selection, ""), state.chosen
    chosen = plan.selection.choose(state.selection, view)
    who = f"{type(plan.selection).__name__}.choose"
    of_kind(chosen, Cohort, f"what {who} gave")
    places, count = np.asarray(chosen.places), len(view.fleet.devices)
    whole = places.ndim == 1 and (places.dtype.kind in "iu" or not len(places))
    within = whole and (not len(places) or 0 <= places.min() <= places.max() < count)
    if not within or len(set(places.tolist())) < len(places):
        raise ValueError(f"{who} gave {places}; places of {count} devices are needed, none twice")
    places = view.fleet.in_turn(places.astype(np.intp))
    some = view.fleet.count < len(view.fleet.devices)
    if some and len(idle := places[view.fleet.rows(places) == 0]):
        raise ValueError(f"{who} gave {idle}, which have no rows; see view.fleet.places")
    return replace(chosen, places=places), chosen.told()


def _sent_out(plan: Plan, view: View, places: Places) -> tuple[Fates, list[tuple[object, str]]]:
    """Return who trains, and how many epochs each does; or a remark why nobody does."""
    if not len(places):
        there = "reachable" if isinstance(plan.selection, AtRandom) else "chosen"
        # A server that finds all asleep waits for the first to wake.
        wait = view.fleet.wait(view.fleet.places)
        until = 0.0 if wait is None else float(wait.min(initial=DAY))
        nobody = Fates(places, np.empty(0, np.int64), until=until)
        return nobody, [(SERVER, f"no device was {there}")]
    epochs = np.full(len(places), plan.local.epochs)
    if plan.stragglers is not None:
        places, epochs = _in_time(plan, places, view.round)
        if not len(places):
            why = "all of the cohort straggled, and was dropped"
            return Fates(places, epochs), [(SERVER, why)]
    deadline = plan.schedule if isinstance(plan.schedule, Deadline) else None
    return fates(view, places, epochs, plan.cohort, deadline), []


def _in_time(plan: Plan, places: Places, number: int) -> tuple[Places, I64]:
    """Return who of the cohort does any epochs, and how many."""
    assert plan.stragglers is not None
    full = plan.local.epochs
    epochs = np.asarray(plan.stragglers.epochs(len(places), full, plan.seed, number))
    if np.shape(epochs) != (len(places),) or np.min(epochs) < 0:
        who = type(plan.stragglers).__name__
        raise ValueError(f"{who}.epochs gave {epochs}; {len(places)} whole numbers are needed")
    return places[epochs > 0], epochs[epochs > 0]
