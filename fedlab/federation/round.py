"""The round, readable from top to bottom: select, train, send, aggregate, step, measure.

`play` is a function of a plan and a state: it returns the next state, and changes nothing.

What devices do in it stands in `fedlab.federation.on_devices`.

Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
AISTATS 2017, algorithm 1.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedlab.core.threads import one_blas_thread
from fedlab.core.typing import F64, I64, U64, Array, Bool, Places
from fedlab.core.validation import parts_of, read_only
from fedlab.device.device import Device
from fedlab.device.dispatch import Dispatch
from fedlab.device.states import DeviceStates
from fedlab.federation.accounted import spent, steps_of
from fedlab.federation.downlink import sent_down
from fedlab.federation.evaluation import evaluated
from fedlab.federation.history import SERVER, Report
from fedlab.federation.nodes import Nodes
from fedlab.federation.on_devices import Asked, Sent, Where, reported
from fedlab.federation.plan import Plan
from fedlab.federation.selecting import Selected, selected
from fedlab.federation.state import RunState
from fedlab.fleet import Roster, View, round_seconds
from fedlab.fleet.asynchronous import Landing
from fedlab.fleet.deadline import Fates
from fedlab.privacy.secure_aggregation import ThresholdError
from fedlab.training.cohort import train_in_parts
from fedlab.training.work import phases_of
from fedlab.updates import Chain
from fedlab.updates.mean import Means, client_drift
from fedlab.updates.secure import SummedUnderMasks, told_of
from fedlab.updates.stages import At, squares_of

Remarks = list[tuple[object, str]]
#: Names of columns that hold the weights of other ones.
_WEIGHT = "weight of "
#: Names of measures: the bytes of single blocks, where devices send several.
_BYTES = "bytes_up_"
#: What devices tell of themselves anyway, and a rule of selection may read.
_TOLD = ("rows", "loss")


@dataclass
class _Came:
    """What has come from a cohort so far: sums of blocks, and columns of single devices' numbers.

    Columns stand in the cohort's order; `at` holds places in the federation.
    """

    kept: DeviceStates
    stages: tuple[Any, ...]
    asked: Asked
    sums: dict[str, Any] = field(default_factory=dict)
    at: list[Places] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    set_aside: dict[int, str] = field(default_factory=dict)
    error: Exception | None = None
    averaged: set[str] = field(default_factory=set)
    hopeless: bool = True
    in_parts: bool = False
    secure: SummedUnderMasks | None = None
    told: dict[str, float] = field(default_factory=dict)
    landing: Landing | None = None

    def note(self, places: Places, **columns: Any) -> None:
        self.at.append(places)
        for name, column in columns.items():
            self.columns.setdefault(name, []).append(column)

    def column(self, name: str) -> F64:
        parts: list[F64] = self.columns.get(name, [])
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0), *parts])

    @property
    def places(self) -> Places:
        return self.at[0] if len(self.at) == 1 else np.concatenate([np.empty(0, np.intp), *self.at])

    @property
    def nbytes(self) -> Any:
        return self.column("nbytes") if self.secure is None else self.secure.nbytes(self.places)


def play(
    plan: Plan, fleet: Roster, state: RunState, threads: int | None, where: Where
) -> tuple[RunState, Report]:
    """Return the state after a further round, and what the round gave.

    Parameters
    ----------
    plan : Plan
    fleet : Roster
        The devices of this round.
    state : RunState
        It stays as it is, and good to go on from.
    threads : int, optional
        Devices that train at once.
    where : Where
        Where devices work.

    Raises
    ------
    RuntimeError
        If no device has ever trained and none could now: a model or data at fault.
    """
    began, number = time.perf_counter(), state.round + 1
    with one_blas_thread():
        drawn = selected(plan, fleet, state, where)
        view, asked, remarks = drawn.view, drawn.fate.places, drawn.remarks
        private, gone = _paid(plan, view, state, drawn.fate)
        remarks += gone
        state, spared = sent_down(plan, state, asked)
        if isinstance(nodes := drawn.landing, Nodes):
            spared += state.parameters.nbytes * (1 - nodes.copies)
        secure: SummedUnderMasks | None = None
        there: Any = slice(None)
        if plan.chain.secure is not None and where.at_hand:
            secure, there, few = _opened(plan, drawn.fate, number)
            fate = replace(drawn.fate, places=asked[there], epochs=drawn.fate.epochs[there])
            drawn, remarks = replace(drawn, fate=fate), remarks + few
        came, down = _trained(plan, state, fleet, drawn, spared[there], secure, threads, where)
        _refuse_hopeless(state, came)
        cohort = came.asked.cohort
        remarks += [(cohort[p].id, f"left out: {why}") for p, why in came.set_aside.items()]
        after, moves, skipped = _stepped(plan, state, came)
        seconds, received = _seconds(plan, view, came), _received(view, asked, down - spared)
        if isinstance(nodes, Nodes):
            how = plan.schedule, state, drawn.fate, came.places, seconds
            nodes, fate = nodes.ended(*how, step=not skipped)
            drawn = replace(drawn, landing=nodes, fate=fate)
        # A step that was skipped has been looked at all the same.
        private, cost = {**after.private, **private}, dict[str, float]()
        for accounts in (plan.privacy, plan.row_privacy):
            cost |= {} if accounts is None else accounts.measures(private)
        due = number % plan.evaluation.every == 0
        worth = evaluated(plan, fleet, after.parameters, threads, where) if due else {}
        measures = {
            **_cost(drawn, came, seconds, received.sum()),
            **_summary(came),
            **moves,
            **cost,
            **worth,
        }
        told: dict[str, Any] = {n: came.column(n) for n in plan.selection.reads if n in _TOLD}
        told |= {"places": came.places, "seconds": seconds}
        rule = plan.selection.observe(drawn.chosen.state, view, told)
        measures |= view.measures(measures)
        remarks += [(fleet.devices[place].id, why) for place, why in view.remarks]
    senders = came.places[:0] if skipped else came.places
    report = Report(
        number,
        measures,
        _of_devices(fleet, came, plan) if plan.evaluation.record == "devices" else {},
        (*remarks, *skipped),
        senders,
        _keys(came, drawn.fate.places, senders) if plan.rows and where.at_hand else (),
        time.perf_counter() - began,
    )
    after = replace(
        after,
        round=number,
        has_trained=state.has_trained or len(came.places) > 0,
        selection=rule,
        chosen=drawn.why,
        flight=state.flight if drawn.landing is None else drawn.landing.flight,
        private=private,
        clock=state.clock + measures["seconds"],
        traffic=(float(down - spared.mean()), np.mean(came.nbytes))
        if len(came.places)
        else state.traffic,
        history=state.history.and_then(report),
    )
    return after, report


def _paid(plan: Plan, view: View, state: RunState, fate: Fates) -> tuple[dict[str, Any], Remarks]:
    """Return what a round costs in privacy, whatever becomes of it, and whose budget it ends."""
    private = dict[str, Any]()
    if plan.privacy is not None:
        private["releases"] = state.private["releases"] + 1
    if plan.row_privacy is None:
        return private, []
    steps = private["steps"] = state.private["steps"].copy()
    steps[fate.places] += steps_of(plan, state, fate.epochs)
    steps[fate.lost] += steps_of(plan, state, plan.local.epochs)  # the server may have it all
    before, devices = spent(plan, state), view.fleet.devices
    after = spent(plan, replace(state, private={**state.private, **private}))
    if not len(before) and len(after) >= view.fleet.count:  # nobody is left out of any round
        return private, []
    gone = np.setdiff1d(after, before)
    return private, [(devices[p].id, "its rows' budget is spent") for p in gone.tolist()]


def _opened(plan: Plan, fate: Fates, number: int) -> tuple[SummedUnderMasks | None, Bool, Remarks]:
    """Return the cohort's sum under masks, if it takes one, and who is there to train for it."""
    places = fate.places
    try:
        secure = plan.chain.open(places, At(plan.seed, number), fate.lost.tolist())
    except ThresholdError as error:
        return None, np.zeros(len(places), np.bool_), [(SERVER, f"no secure sum: {error}")]
    return secure, ~np.isin(places, () if secure is None else secure.absent), []


# -- train, and send ------------------------------------------------------------------------------


def _trained(
    plan: Plan,
    state: RunState,
    fleet: Roster,
    drawn: Selected,
    spared: I64,
    secure: SummedUnderMasks | None,
    threads: int | None,
    where: Where,
) -> tuple[_Came, int]:
    """Let the cohort work, part by part; return what came of it, and the bytes that go to each.

    Fewer by `spared` for each device.
    """
    number, places, landing = state.round + 1, drawn.fate.places, drawn.landing
    given = read_only(state.served)
    phases = phases_of(plan.algorithm.work(state.algorithm, given, places, state.kept))
    order = Dispatch.alike(len(places), number, plan.local.rate(number), drawn.fate.epochs)
    if landing is not None:
        phases = tuple(landing.begun(phase, given) for phase in phases)
        rates = np.array([plan.local.rate(sent) for sent in landing.sent_in.tolist()], np.float64)
        order = replace(order, rounds=landing.sent_in, rates=rates)
    asked = Asked(
        *(plan, number, places, fleet.devices, given, state.algorithm),
        *(phases, order, state.kept, state.stages),
    )
    came = _Came(state.kept, state.stages, asked, secure=secure, landing=landing)
    signals = *plan.rows, plan.weights.weights  # queries, say
    down = sum(getattr(part, "nbytes", 0) for part in (*phases, *signals))
    received = _received(drawn.view, places, down - spared)
    for sent in where.work(asked, threads):
        came.set_aside |= sent.set_aside
        came.error = came.error or sent.error
        came.hopeless &= sent.hopeless
        came.in_parts = not sent.whole
        # Noise without updates is a release, too: it takes blocks of the right names and lengths.
        if len(sent.cohort) or (plan.chain.private is not None and not came.sums):
            _take(plan, state, came, sent, received[sent.cohort])
    if (root := getattr(plan.chain.aggregator, "root", None)) is not None:
        came.sums["own"] = _own(plan, state, came, root, threads)
    return came, down


def _own(plan: Plan, state: RunState, came: _Came, root: Device, threads: int | None) -> Any:
    """Return the blocks that a device would send that had rows of the server's own."""
    places, number = np.array([len(came.asked.devices)]), state.round + 1
    work = plan.algorithm.work(state.algorithm, came.asked.model, places, state.kept)
    order = Dispatch.alike(1, number, plan.local.rate(number), plan.local.epochs)
    how = ([root], plan.trainer, work, plan.local, order)
    [part] = train_in_parts(*how, seed=plan.seed, threads=threads)
    if part.set_aside:
        raise RuntimeError(f"the server's rows can't train: {part.set_aside[0]}") from part.error
    plain = replace(plan, chain=Chain())
    asked = replace(came.asked, plan=plain, places=places, order=order, stages=())
    own = _Came(state.kept, (), asked)
    _take(plain, state, own, reported(asked, part, np.ones(1)), np.zeros(1))
    return own.sums


def _keys(came: _Came, places: Places, senders: Places) -> tuple[U64, ...]:
    """Return the keys of the rows that each sender trained on."""
    shown = dict(zip(places.tolist(), came.asked.cohort, strict=True))
    return tuple(np.unique(shown[place].training_keys) for place in senders.tolist())


def _take(plan: Plan, state: RunState, came: _Came, of: Sent, down: F64) -> None:
    """Take updates as they come: count them, and add them to the sums."""
    sent, came.stages, came.kept = of.updates, of.stages, of.kept
    if (landing := came.landing) is not None:
        gap = landing.starts[of.cohort] - state.parameters
        travels = came.asked.wire.travels("change")
        gap = gap if travels is None else gap[:, travels]
        sent = landing.counted(plan.schedule, sent, gap, of.cohort)
    if plan.chain.private is not None:
        sent = plan.chain.private.bounded(state.private["clip"], sent)
    columns = {name: np.asarray(column, np.float64) for name, column in sent.stats.items()}
    for name in of.averaged:
        columns[_WEIGHT + name] = sent.weights_of(name)
        came.averaged.add(name)
    if of.summed is not None:
        came.secure = of.summed
    elif came.secure is not None:
        secure = came.secure
        secure.add(sent, told_of(sent, sorted(came.averaged), secure.count))
    if came.secure is not None:
        # Of single devices, the simulated clock alone reads what no server sees.
        hidden = {name: columns[name] for name in ("rows", "epochs")}
        came.note(sent.places, weight=sent.weights, **hidden, down=down)
        return
    plan.chain.fold(came.sums, sent)
    if plan.chain.drifts and "change" in sent.blocks:
        columns["entering"] = sent.weights_of("change")
        columns["square"] = squares_of([sent.blocks["change"]], len(sent))
    if len(sent.blocks) > 1:
        columns |= {_BYTES + name: sent.nbytes_of(name).astype(np.float64) for name in sent.blocks}
    columns |= {"nbytes": sent.nbytes.astype(np.float64), "down": down.astype(np.float64)}
    came.note(sent.places, weight=sent.weights, **columns)


def _refuse_hopeless(state: RunState, came: _Came) -> None:
    """Raise where nobody has ever trained and nobody could now: a model or data at fault."""
    if came.set_aside and came.hopeless and not state.has_trained:
        why = next(iter(came.set_aside.values()))
        raise RuntimeError(
            f"none of the {len(came.set_aside)} devices of the first cohort could train. "
            f"The first one: {why}"
        ) from came.error


# -- aggregate, and step --------------------------------------------------------------------------


def _stepped(
    plan: Plan, state: RunState, came: _Came
) -> tuple[RunState, dict[str, float], Remarks]:
    """Let the algorithm learn from what came, and the server step, if enough did."""
    still = {"update_norm": 0.0, **({"drift": 0.0} if plan.chain.drifts else {})}
    private, usable = plan.chain.private, len(came.places)
    if private is None and usable < plan.quorum:
        few = {0: "no usable update", 1: "1 usable update"}
        told = few.get(usable, f"{usable} usable updates")
        return state, still, [(SERVER, f"skipped: {told}; the quorum is {plan.quorum}")]
    if usable < plan.chain.least:
        needs = f"{plan.chain.aggregator} needs {plan.chain.least}"
        return state, still, [(SERVER, f"skipped: {usable} usable updates; {needs}")]
    weights = came.column("weight")
    if private is None and not weights.any():
        return state, still, [(SERVER, "skipped: all weights are zero")]
    # Weights of those that came sum to one, unless some were missing of many parts.
    share = float(weights.sum()) if came.in_parts and came.set_aside else 1.0
    if came.secure is not None:
        try:
            came.sums, came.told = came.secure.done()
        except ThresholdError as error:
            return state, still, [(SERVER, f"skipped: {error}")]
    expected: Any = usable
    if private is None or plan.privacy is None:
        sums, stages = plan.chain.done(came.sums, share, came.stages)
    else:
        at, expected = At(plan.seed, state.round + 1), plan.privacy.expected
        sums, clip = private.release(state.private["clip"], came.sums, expected, at)
        stages, state = came.stages, replace(state, private={**state.private, "clip": clip})
    means = Means(came.asked.wire.widened(sums))
    for name in came.averaged:
        total = came.told.get(name, came.column(_WEIGHT + name) @ came.column(name))
        means[name] = np.asarray(total / share)
    for name in getattr(plan.algorithm, "reads", ()):
        other = {"places": came.places, "parameters": state.parameters}
        means[name] = np.asarray(other[name] if name in other else came.column(name), np.float64)
    learnt = plan.algorithm.learn(state.algorithm, means, expected)
    change, algorithm = _fitting(learnt, plan.algorithm, "learn", "a change", state)
    # Read-only, since what is written to it in place would count as no step at all.
    given = plan.server.step(state.server, read_only(state.parameters), change)
    stepped, server = _fitting(given, plan.server, "step", "parameters", state)
    stepped = came.asked.wire.moved(stepped, state.served, sums)
    if isinstance(came.landing, Nodes):
        stepped = came.landing.stepped(plan.schedule, plan.server, came.asked.wire, state)
    with np.errstate(over="ignore"):
        moved: Array = np.asarray(stepped, state.parameters.dtype)
    if not np.isfinite(moved).all():
        why = "skipped: the server's step gives NaN or inf; try lower rates"
        return state, still, [(SERVER, why)]
    moves = {"update_norm": float(np.linalg.norm(stepped - state.parameters))}
    if "square" in came.columns and came.column("entering").any():
        entering = came.column("entering")  # an algorithm's weights need not sum to one
        average = means["change"] * (share / entering.sum())
        moves["drift"] = client_drift(came.column("square"), entering, average)
    learned = {"algorithm": algorithm, "server": server, "stages": stages, "kept": came.kept}
    return replace(state, parameters=moved, **learned), moves, []


def _fitting(given: Any, part: object, method: str, what: str, state: RunState) -> tuple[Any, Any]:
    """Return a vector and a state, or say what somebody's method should have given."""
    who = f"{type(part).__name__}.{method}"
    vector, after = parts_of(given, f"{what.removeprefix('a ')}, state", who)
    if np.shape(vector) != state.parameters.shape:
        raise ValueError(
            f"{who} gave {what} of shape {np.shape(vector)}; {state.parameters.shape} is needed"
        )
    return vector, after


# -- measure --------------------------------------------------------------------------------------


def _cost(drawn: Selected, came: _Came, seconds: F64, received: float) -> dict[str, float]:
    """Return what the round cost: bytes, and the simulated seconds of its slowest device."""
    view, fate, lost = drawn.view, drawn.fate, drawn.fate.measures
    energy, up = {}, came.column("nbytes").sum()
    if "watts" in view.fleet.profiles:  # an estimate: power times time
        joules = view.fleet.column("watts", came.places) @ seconds
        joules += view.fleet.column("watts", fate.lost) @ fate.busy
        energy = {"joules_estimate": float(joules)}
    if came.secure is not None:
        ledger, dropped = came.secure.exchange.ledger, len(came.secure.absent)
        dropped += len(came.secure.gone)
        received, up = received + ledger.down, ledger.up
        lost = {**lost, "dropped": lost.get("dropped", 0.0) + dropped}
    return {
        "bytes_down": float(received) + lost.get("bytes_down_lost", 0.0),
        "bytes_up": float(up) + lost.get("bytes_up_lost", 0.0),
        **{
            name: float(came.column(name).sum()) for name in came.columns if name.startswith(_BYTES)
        },
        "seconds": float(seconds.max(initial=fate.until) if drawn.landing is None else fate.until),
        **lost,
        **energy,
    }


def _received(view: View, places: Places, down: I64) -> F64:
    """Return the bytes that devices receive: those that hold the model are not sent it again."""
    model = 0
    if len(view.holding):
        model = view.parameters.nbytes * np.isin(places, view.holding)
    return np.asarray(np.maximum(down - model, 0), np.float64)


def _seconds(plan: Plan, view: View, came: _Came) -> F64:
    hardware, rows = view.fleet.hardware(came.places), came.column("rows") * came.column("epochs")
    size, down = plan.model.layout.size, came.column("down")
    return np.asarray(round_seconds(hardware, down, came.nbytes, size, rows))


def _summary(came: _Came) -> dict[str, float]:
    if came.secure is not None:
        told = came.told
        summed = {"rows": told["rows"], "train_loss": told["loss"] / told["rows"]} if told else {}
        return {"devices": float(len(came.places)), **summed}
    rows = came.column("rows")
    summary = {"devices": float(len(rows)), "rows": float(rows.sum())}
    if len(rows):
        summary["train_loss"] = float((came.column("loss") * rows).sum() / rows.sum())
    return summary


def _of_devices(fleet: Roster, came: _Came, plan: Plan) -> dict[str, Any]:
    """Return the columns of single devices, where those are recorded."""
    if not len(came.places):
        return {}
    told = {"train_loss": "loss", "bytes_up": "nbytes", "bytes_down": "down"}
    names = {name: name for name in ("rows", "epochs", "steps")} | told
    ids = np.array([fleet.devices[place].id for place in came.places], object)
    return {"id": ids, **{name: came.column(column) for name, column in names.items()}}
