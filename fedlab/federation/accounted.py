"""How a run's noise is accounted, or why it can't be: what its parts do to a guarantee."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import Array, Places
from fedlab.device.states import DeviceStates
from fedlab.federation.guarantee import Privacy, RowPrivacy
from fedlab.federation.plan import Plan
from fedlab.federation.state import RunState
from fedlab.federation.wire import Wire
from fedlab.fleet import AtRandom, ByRows, FedCS, Poisson, Roster, RoundRobin
from fedlab.models.base import gradient_of
from fedlab.privacy.accounting import Fixed, Sampled, Sampling, Shared, Unsampled
from fedlab.training import PrivateSGD
from fedlab.training.private import clipped_sum, uncovered
from fedlab.training.work import Phase, phases_of
from fedlab.updates import ChainError, DistributedNoise, LocalNoise, PrivateMean, Updates
from fedlab.updates.stages import At

Noise = PrivateMean | LocalNoise | DistributedNoise
Accounts = TypeVar("Accounts", Privacy, RowPrivacy)
#: What devices tell of themselves anyway.
_STATS = ("rows", "epochs", "steps", "loss", "rate")
#: Rows with which a model is tried.
_TRIED = 64


def accounted(plan: Plan, fleet: Roster, changing: bool, start: Array) -> Privacy | None:
    """Return how a run's noise is accounted; None where it has none.

    Raises
    ------
    ChainError
        If the parts of the run don't go together with a guarantee: which, why, and what would.
    ImportError
        Without the extra `privacy`.
    """
    if not (parts := plan.chain.noised):
        return None
    if len(parts) > 1:
        raise ChainError(f"{len(parts)} parts noise the updates; leave one of them")
    (part,), rule = parts, plan.selection
    for wrong in _refused(plan, part, fleet, start):
        raise ChainError(_says(part, wrong))
    numbers = _numbers(part, plan, fleet, start)
    sampling: Sampling = Unsampled()
    expected = float(plan.cohort)
    if isinstance(part, PrivateMean):
        for wrong in _refused_centrally(plan, part, fleet, changing):
            raise ChainError(_says(part, wrong))
        if isinstance(rule, Poisson):
            expected = rule.rate * fleet.count
            amplified = part.adversary == "model"
            sampling = Sampled(rule.rate) if amplified else Unsampled(Sampled.adjacency)
        elif _is_subset(plan, part, fleet):
            sampling = Fixed(plan.cohort, fleet.count)
        expected = part.expected or expected
        part.counting(expected)
    if isinstance(part, DistributedNoise):
        for wrong in _refused_in_sums(plan, part):
            raise ChainError(_says(part, wrong))
        sampling = Shared(part.honest, float(part.deviation(1 / plan.cohort)), numbers)
    return _affordable(Privacy(part, sampling, expected), 1)


def _says(part: Noise | PrivateSGD, wrong: str) -> str:
    return f"{type(part).__name__} gives no epsilon with {wrong}"


def accounted_rows(plan: Plan, fleet: Roster, changing: bool, start: Array) -> RowPrivacy | None:
    """Return how noise on single rows' gradients is accounted; None where there is none.

    Raises
    ------
    ChainError
        If the parts of the run don't go together with a guarantee: which, why, and what would.
    ImportError
        Without the extra `privacy`.
    """
    if not isinstance(plan.local, PrivateSGD):
        return None
    for wrong in _refused_by_row(plan, plan.local, fleet, changing, start):
        raise ChainError(_says(plan.local, wrong))
    found = RowPrivacy(plan.local, Sampled(plan.local.share))
    return _affordable(found, plan.local.epochs * plan.local.steps)


def _affordable(found: Accounts, first: int) -> Accounts:
    """Return an account, if the accountant has one, and the budget allows for a first round."""
    part, cost = found.part, found.epsilon(first)
    if part.epsilon is not None and cost > part.epsilon:
        raise ChainError(
            f"a first round costs epsilon {cost:.4g} at noise_multiplier={part.noise_multiplier:g},"
            f" and the budget is epsilon={part.epsilon:g}; take more noise "
            "(fedlab.privacy.accounting.noise_for says how much), or a larger budget"
        )
    return found


def steps_of(plan: Plan, state: RunState, epochs: Any) -> Any:
    """Return the steps of `PrivateSGD` in a round of devices that train for so many epochs."""
    nobody = np.empty(0, np.intp)
    phases = phases_of(plan.algorithm.work(state.algorithm, state.served, nobody, state.kept))
    passes = sum(epochs if phase.epochs is None else phase.epochs for phase in phases)
    return passes * plan.local.steps  # type: ignore[attr-defined]


def spent(plan: Plan, state: RunState) -> Places:
    """Return the places of devices whose rows have no budget left for a further round."""
    accounts = plan.row_privacy
    if accounts is None or accounts.part.epsilon is None:
        return np.empty(0, np.intp)
    return accounts.spent(state.private["steps"], steps_of(plan, state, plan.local.epochs))


def _refused_by_row(
    plan: Plan, local: PrivateSGD, fleet: Roster, changing: bool, start: Array
) -> Iterator[str]:
    """Yield what of a run rules a guarantee for single rows out, why, and what would do instead."""
    rule, method = plan.selection, type(plan.algorithm).__name__
    if not isinstance(rule, Poisson | AtRandom | RoundRobin | ByRows | FedCS):
        yield f"{type(rule).__name__}, whose choice tells what rows are; take AtRandom, say"
    if callable(plan.weights.weights):
        yield 'weights by a function of a device, which may tell its rows; take "rows", say'
    if plan.rows:
        yield "rows=, by which a row decides whether others train; leave it out"
    if changing:
        yield "devices whose rows change: one that moves pays on two of them; take fixed ones"
    if "loss" in getattr(plan.algorithm, "reads", ()):
        yield f"{method}, which reads losses, without noise; take FedAvg, say"
    if (most := 1 / fleet.rows(fleet.places).max()) <= local.delta:
        yield f"delta={local.delta:g}, which lets one of {1 / most:.0f} rows go; take less"
    if getattr(plan.chain.private, "adversary", None) == "model" and local.epsilon is not None:
        yield "PrivateMean, if devices whose budget is spent stay away; leave epsilon out"
    yield from uncovered(plan.model, _of_nobody(plan, fleet, start)[0])
    yield from _mixing(plan, fleet, start)


def _mixing(plan: Plan, fleet: Roster, start: Array) -> Iterator[str]:
    """Yield why a device's rows, one by one, don't give the gradient that they give together."""
    model, draw = plan.model, generator(plan.seed, Purpose.MODEL)
    most = fleet.places[np.argmax(fleet.rows(fleet.places))]
    x, y = (part[:_TRIED] for part in fleet.devices[most].training_rows().gathered())
    try:
        model.check_labels(y)
        alone = clipped_sum(model, start, x, y, 1e300, draw=draw)[1] / len(x)
        together = gradient_of(model, start, x, y, draw)[1]
    except Exception as error:
        yield f"{type(model).__name__}, through which rows can't pass one by one: {error}"
        return
    apart = 0 if getattr(model, "stochastic", False) else np.linalg.norm(alone - together)
    if apart > 0.05 * np.linalg.norm(together):
        yield f"{type(model).__name__}, whose loss is no mean of rows' own; leave out what mixes"


def _is_subset(plan: Plan, part: PrivateMean, fleet: Roster) -> bool:
    """Whether the account counts on cohorts being drawn from more devices."""
    subset = isinstance(plan.selection, AtRandom) and plan.cohort < fleet.count
    return subset and part.adversary == "model"


def _refused(plan: Plan, part: Noise, fleet: Roster, start: Array) -> Iterator[str]:
    """Yield what of a run rules a guarantee out, why, and what would do instead."""
    rule, method = type(plan.selection).__name__, type(plan.algorithm).__name__
    if not isinstance(plan.selection, Poisson | AtRandom | RoundRobin):
        yield f"{rule}, whose choice tells what devices hold; take Poisson, AtRandom or RoundRobin"
    if plan.weights.weights != "uniform":
        yield 'weights that tell how much devices hold; give weights="uniform"'
    if plan.evaluation.record == "devices":
        yield 'record="devices", which shows losses of single devices; take record="cohort"'
    if (most := 1 / fleet.count) <= part.delta:
        yield f"delta={part.delta:g}, which lets one of {fleet.count} go; take less than {most:g}"
    for what in _unclipped(plan, fleet, start):
        yield f"{method}, which {what}; take another algorithm, such as FedAvg"


def _refused_centrally(
    plan: Plan, part: PrivateMean, fleet: Roster, changing: bool
) -> Iterator[str]:
    nobody, rule = fleet.places[:0], plan.selection
    yield from _refused_by_pace(plan)
    if plan.quorum > 1:
        yield f"quorum={plan.quorum}, which shows how many came; leave it out"
    if fleet.wait(nobody) is not None and part.adversary == "model":
        yield "hours of the day, which pass as cohorts do: leave them out of the profiles"
    if _is_subset(plan, part, fleet) and (changing or fleet.chance(nobody) is not None):
        yield "a fixed cohort of devices that come and go: others come oftener; take Poisson"
    if isinstance(rule, Poisson) and rule.rate == 0 and part.expected is None:
        yield "Poisson(0), which expects nobody; give a rate above 0"


def _refused_by_pace(plan: Plan) -> Iterator[str]:
    if plan.stragglers is not None:
        yield "stragglers: one device more changes what others do; leave them out"
    if plan.schedule is not None:
        yield "a schedule: who enters depends on how fast others are; leave it out"


def _refused_in_sums(plan: Plan, part: DistributedNoise) -> Iterator[str]:
    stages, count, how = plan.chain.stages, plan.cohort, plan.chain.secure
    yield from _refused_by_pace(plan)
    if how is None or stages.index(how) != stages.index(part) + 1:
        yield "anything but SecureSum right behind it, which sees that enough devices came"
        return
    if isinstance(plan.selection, Poisson):
        yield "Poisson, whose cohorts may have any size; take AtRandom or RoundRobin"
    (near, least), gone = how.among(count), count - part.survivors
    least = least if near is None else 1
    if not least <= part.survivors <= count:
        yield (
            f"survivors={part.survivors} of cohorts of {count}, where {how} tells no sum of fewer "
            f"than {least}; give {least} to {count}"
        )
    safe = part.colluders < how.among(part.survivors)[1]
    if how.neighbours == "few":
        safe = max(part.colluders, gone) <= count // 10
    elif near is not None and near < count - 1:  # else no two runs of a ring's half can be missing
        safe = safe and part.colluders + gone < near + near % 2
    if not safe:
        yield (
            f"colluders={part.colluders} and {gone} of {count} that may drop out: with {how} they "
            "could tell masks of others, or split the sum; take fewer, or neighbours='all'"
        )


def _unclipped(plan: Plan, fleet: Roster, start: Array) -> Iterator[str]:
    """Yield what an algorithm takes of devices past clipping and noise."""
    for name in getattr(plan.algorithm, "reads", ()):
        yield f"reads {name} besides the noised sum"
    phases, sent = _of_nobody(plan, fleet, start)
    if any(phase.tells_more for phase in phases):
        yield "sends more than how far local training moved"
    elif odd := [*sent.weighed, *(name for name in sent.stats if name not in _STATS)]:
        yield f"weighs or averages {', '.join(odd)} by what devices did"


def _numbers(part: Noise, plan: Plan, fleet: Roster, start: Array) -> int:
    """Return how many numbers of a device reach the noise.

    Raises
    ------
    ChainError
        If by a stage in front a device says more than once, or by others, what no clip bounds.
    """
    stages, why = plan.chain.stages, ""
    phases, sent = _of_nobody(plan, fleet, start)
    wire, one, kept = Wire.of(plan.model.layout, phases), np.ones(1), DeviceStates()
    rows = {n: np.ones((1, b.shape[1]), b.dtype) for n, b in sent.blocks.items()}
    blocks, buffers = wire.cut(rows)
    sent = Updates(np.zeros(1, np.intp), blocks, one, dict.fromkeys(_STATS, one))
    sent = wire.narrowed(sent, buffers)
    general = At(plan.seed, 1, fleet.devices, summed=plan.chain.secure is not None)
    before = stages if isinstance(part, PrivateMean) else stages[: stages.index(part)]
    for place, stage in enumerate(before):
        if getattr(stage, "whole", False):
            why = "by which a device changes what others send"
        else:
            at = general._replace(stage=place)
            sent, state, after = stage.apply(stage.init(len(start)), sent, kept, at)
            if state or after.names:
                why = "which remembers devices without noise"
        if why:
            raise ChainError(_says(part, f"{type(stage).__name__} before it, {why}; leave it out"))
    return sum(block.shape[1] for block in sent.blocks.values())


def _of_nobody(plan: Plan, fleet: Roster, start: Array) -> tuple[tuple[Phase, ...], Updates]:
    """Return a round's work, and what is sent of it, where nobody takes part."""
    nobody, none, kept = np.empty(0, np.intp), np.empty(0), DeviceStates()
    state = plan.algorithm.init(start, fleet.count, plan.model.layout)
    phases = phases_of(plan.algorithm.work(state, start, nobody, kept))
    blocks = {p.send: np.empty((0, len(start)), start.dtype) for p in phases if p.send is not None}
    sent = Updates(nobody, blocks, none, dict.fromkeys(_STATS, none))
    if any(phase.tells_more for phase in phases):
        return phases, sent  # which the algorithm could not read
    return phases, plan.algorithm.report(state, sent, kept)[0]
