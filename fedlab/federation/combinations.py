"""What goes together in a run, and what does not: said when it is built, with the reason."""

from __future__ import annotations

from typing import Any

from fedlab.algorithms import Algorithm, WithServer, by_name
from fedlab.algorithms.base import Stateless
from fedlab.core.validation import require, shown
from fedlab.federation.plan import Plan
from fedlab.fleet import Deadline, FedAsync, FedBuff, Gossip, Roster, Topology, admit
from fedlab.updates import SGD, ChainError, Mean, ServerOptimiser, optimiser
from fedlab.updates.codecs import Coding
from fedlab.updates.weights import Weights

#: What an algorithm may not have of its own where devices come one by one.
_PLAIN = ("init", "report", "learn")


def with_server(
    algorithm: Algorithm | WithServer | str, server: ServerOptimiser | str | None
) -> tuple[Algorithm, ServerOptimiser]:
    """Return the algorithm and the server optimiser, whichever way they were given."""
    if isinstance(algorithm, str):
        algorithm = by_name(algorithm)
    if isinstance(algorithm, WithServer):
        if server is not None:
            raise ValueError(
                f"the algorithm brings {algorithm.server} for the server, and {server} was given; "
                "name one of them"
            )
        return algorithm.algorithm, algorithm.server
    require(algorithm, "algorithm", "check", "init", "work", "report", "learn")
    server = SGD() if server is None else server
    server = optimiser(server) if isinstance(server, str) else server
    require(server, "server", "init", "step")
    return algorithm, server


def own_weights(given: Weights | None, *parts: Any) -> Weights:
    """Return the weights: those given, unless the algorithm or the aggregator has its own."""
    for part in parts:
        own: Weights | None = getattr(part, "weights", None)
        if own is not None and given is not None and given != own:
            raise ValueError(
                f"{type(part).__name__} weighs devices by {own!r}, and weights={given!r} was "
                "given; leave it out"
            )
        given = given or own
    return given or "rows"


def refuse_odd(plan: Plan, fleet: Roster) -> None:
    """Say what of a run's parts does not go together.

    Raises
    ------
    ChainError, ValueError, TypeError
        Which parts, why, and what would do instead.
    """
    passed, method = plan.chain, type(plan.algorithm).__name__
    require(plan.selection, "selection (such as AtRandom())", "reads", "init", "choose", "observe")
    read = [name for name in getattr(plan.algorithm, "reads", ()) if name != "parameters"]
    for part, numbers, instead in (
        (type(plan.selection).__name__, plan.selection.reads, "a rule, such as AtRandom()"),
        (method, read, "an algorithm, such as FedAvg()"),
    ):
        if numbers and not passed.shows_rows:
            raise ChainError(
                f"{part} reads {', '.join(numbers)} of each device, which the stages of updates= "
                f"hide; leave those out, or take {instead} that reads nothing of the kind"
            )
    if plan.evaluation.record == "devices" and passed.secure is not None:
        raise ChainError("SecureSum hides single devices' numbers; take record='cohort'")
    if plan.schedule is not None and not isinstance(plan.schedule, Deadline):
        _refuse_odd_models(plan, fleet)
    if plan.cohort < passed.least:
        raise ChainError(
            f"{passed.aggregator} needs {passed.least} devices in a round, and the cohort has "
            f"{plan.cohort}; take more, or a smaller f"
        )
    if (root := getattr(passed.aggregator, "root", None)) is not None:
        admit([root], plan.model)
    for stage in passed.stages:
        if hasattr(stage, "check"):
            stage.check(fleet.devices)


def _refuse_odd_models(plan: Plan, fleet: Roster) -> None:
    """Say what is no schedule, or does not go with one under which devices have several models."""
    schedule, judge, method = plan.schedule, plan.chain.aggregator, type(plan.algorithm)
    if not isinstance(schedule, FedBuff | FedAsync | Topology):
        ways = "a Deadline, FedBuff or FedAsync, or Hierarchy or Gossip"
        raise TypeError(f"schedule is {shown(schedule)}; give {ways}")
    coded = isinstance(schedule, Gossip) and any(isinstance(s, Coding) for s in plan.chain.stages)
    if nodes := isinstance(schedule, Topology):
        schedule.begin(fleet.devices, plan.seed)
        does, odd = "adds up each node's updates", type(judge) is not Mean
    else:
        does, odd = "weighs each update by its staleness", hasattr(judge, "root")
        odd = odd or getattr(judge, "weights", None) == "uniform"
        if not plan.quorum <= schedule.buffer <= plan.cohort:
            raise ValueError(
                f"a buffer of {schedule.buffer} was given, with cohorts of {plan.cohort} and a "
                f"quorum of {plan.quorum}; it must lie between those two"
            )
    steps = nodes and plan.server != SGD(getattr(plan.server, "rate", 1.0))
    asks, own = nodes and plan.selection.reads, (*_PLAIN, "serve") if nodes else _PLAIN
    plain = all(getattr(method, n, None) is getattr(Stateless, n, None) for n in own)
    more = (
        f"{method.__name__} does more on the server than to average changes, which those of other "
        "models don't suit; take FedAvg, FedProx, or an algorithm on Stateless that leaves "
        f"{', '.join(own)} as they are"
    )
    for wrong, what in (
        (not plan.chain.shows_rows, "stages of updates= hide single ones; leave those out"),
        (coded, "sends models, which codecs of updates= don't suit; leave those out"),
        (plan.down, "down= codes one model, from which all devices start; leave down= out"),
        (odd, f"{judge} does not, or counts all alike; take Mean()"),
        (steps, f"{plan.server} remembers the steps of one model; take SGD(rate)"),
        (asks, f"{type(plan.selection).__name__} asks about one model; take AtRandom()"),
        (not plain, more),
    ):
        if wrong:
            raise ChainError(f"{type(schedule).__name__} {does}, and {what}, or take a Deadline")
