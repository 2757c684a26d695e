"""How a run's noise is accounted, or why it can't be: what its parts do to a guarantee."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fedlab.core.typing import Array
from fedlab.device.states import DeviceStates
from fedlab.federation.guarantee import Privacy
from fedlab.federation.plan import Plan
from fedlab.federation.wire import Wire
from fedlab.fleet import AtRandom, Poisson, Roster, RoundRobin
from fedlab.privacy.accounting import Fixed, Sampled, Sampling, Unsampled
from fedlab.training.work import Phase, phases_of
from fedlab.updates import ChainError, LocalNoise, PrivateMean, Stage, Updates
from fedlab.updates.stages import At

#: What devices tell of themselves anyway.
_STATS = ("rows", "epochs", "steps", "loss", "rate")


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
        raise ChainError(f"{type(part).__name__} gives no epsilon with {wrong}")
    sampling: Sampling = Unsampled()
    expected = float(plan.cohort)
    if isinstance(part, PrivateMean):
        for wrong in _refused_centrally(plan, part, fleet, changing):
            raise ChainError(f"PrivateMean gives no epsilon with {wrong}")
        if isinstance(rule, Poisson):
            expected = rule.rate * fleet.count
            amplified = part.adversary == "model"
            sampling = Sampled(rule.rate) if amplified else Unsampled(Sampled.adjacency)
        elif _is_subset(plan, part, fleet):
            sampling = Fixed(plan.cohort, fleet.count)
        expected = part.expected or expected
        part.counting(expected)
    found = Privacy(part, sampling, expected)
    found.epsilon(1)  # what the accountant doesn't have is said now
    return found


def _is_subset(plan: Plan, part: PrivateMean, fleet: Roster) -> bool:
    """Whether the account counts on cohorts being drawn from more devices."""
    subset = isinstance(plan.selection, AtRandom) and plan.cohort < fleet.count
    return subset and part.adversary == "model"


def _refused(
    plan: Plan, part: PrivateMean | LocalNoise, fleet: Roster, start: Array
) -> Iterator[str]:
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
    stages = plan.chain.stages
    before = stages if isinstance(part, PrivateMean) else stages[: stages.index(part)]
    yield from _unbounded(before, plan, fleet, start)


def _refused_centrally(
    plan: Plan, part: PrivateMean, fleet: Roster, changing: bool
) -> Iterator[str]:
    nobody, rule = fleet.places[:0], plan.selection
    if plan.stragglers is not None:
        yield "stragglers: one device more changes what others do; leave them out"
    if plan.schedule is not None:
        yield "a schedule: who enters depends on how fast others are; leave it out"
    if plan.quorum > 1:
        yield f"quorum={plan.quorum}, which shows how many came; leave it out"
    if fleet.wait(nobody) is not None and part.adversary == "model":
        yield "hours of the day, which pass as cohorts do: leave them out of the profiles"
    if _is_subset(plan, part, fleet) and (changing or fleet.chance(nobody) is not None):
        yield "a fixed cohort of devices that come and go: others come oftener; take Poisson"
    if isinstance(rule, Poisson) and rule.rate == 0 and part.expected is None:
        yield "Poisson(0), which expects nobody; give a rate above 0"


def _unclipped(plan: Plan, fleet: Roster, start: Array) -> Iterator[str]:
    """Yield what an algorithm takes of devices past clipping and noise."""
    for name in getattr(plan.algorithm, "reads", ()):
        yield f"reads {name} besides the noised sum"
    phases, sent = _of_nobody(plan, fleet, start)
    if any(p.observe is not None or p.choose is not None or p.gradient for p in phases):
        yield "sends more than how far local training moved"
    elif odd := [*sent.weighed, *(name for name in sent.stats if name not in _STATS)]:
        yield f"weighs or averages {', '.join(odd)} by what devices did"


def _unbounded(stages: Sequence[Stage], plan: Plan, fleet: Roster, start: Array) -> Iterator[str]:
    """Yield by which stages a device says more than once, or by others, what no clip bounds."""
    phases, sent = _of_nobody(plan, fleet, start)
    wire, one, kept = Wire.of(plan.model.layout, phases), np.ones(1), DeviceStates()
    rows = {n: np.ones((1, b.shape[1]), b.dtype) for n, b in sent.blocks.items()}
    blocks, buffers = wire.cut(rows)
    sent = Updates(np.zeros(1, np.intp), blocks, one, dict.fromkeys(_STATS, one))
    sent = wire.narrowed(sent, buffers)
    for place, stage in enumerate(stages):
        name, at = f"{type(stage).__name__} before it", At(plan.seed, 1, fleet.devices, place)
        if getattr(stage, "whole", False):
            yield f"{name}, by which a device changes what others send; leave it out"
        sent, state, after = stage.apply(stage.init(len(start)), sent, kept, at)
        if state or after.names:
            yield f"{name}, which remembers devices without noise; leave it out"


def _of_nobody(plan: Plan, fleet: Roster, start: Array) -> tuple[tuple[Phase, ...], Updates]:
    """Return a round's work, and what is sent of it, where nobody takes part."""
    nobody, none, kept = np.empty(0, np.intp), np.empty(0), DeviceStates()
    state = plan.algorithm.init(start, fleet.count, plan.model.layout)
    phases = phases_of(plan.algorithm.work(state, start, nobody, kept))
    blocks = {p.send: np.empty((0, len(start)), start.dtype) for p in phases if p.send is not None}
    sent = Updates(nobody, blocks, none, dict.fromkeys(_STATS, none))
    if any(p.observe is not None or p.choose is not None or p.gradient for p in phases):
        return phases, sent  # which the algorithm could not read
    return phases, plan.algorithm.report(state, sent, kept)[0]
