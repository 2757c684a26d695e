"""What goes together in a run, and what does not: said when it is built, with the reason."""

from __future__ import annotations

from typing import Any

from fedlab.algorithms import Algorithm, WithServer, by_name
from fedlab.algorithms.base import Stateless
from fedlab.core.validation import require, shown
from fedlab.federation.plan import Plan
from fedlab.fleet import Deadline, FedAsync, FedBuff, Hierarchy, Roster, admit
from fedlab.updates import SGD, ChainError, Mean, ServerOptimiser, optimiser
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
    if isinstance(plan.schedule, Hierarchy):
        _refuse_odd_nodes(plan, fleet)
    elif plan.schedule is not None and not isinstance(plan.schedule, Deadline):
        _refuse_odd_buffer(plan)
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


def _refuse_odd_nodes(plan: Plan, fleet: Roster) -> None:
    """Say what does not go together with several models, each of which is averaged and steps."""
    schedule: Any = plan.schedule
    schedule.nodes(fleet.devices)
    name, method, judge = type(schedule).__name__, plan.algorithm, plan.chain.aggregator
    for wrong, what in (
        (not plan.chain.shows_rows, "stages that hide single updates: leave those out"),
        (plan.down, "down=, which codes one model for all devices: leave it out"),
        (type(judge) is not Mean, f"{judge}: nodes add up what is theirs; leave aggregator= out"),
        (
            plan.server != SGD(getattr(plan.server, "rate", 1.0)),
            f"{plan.server}, which remembers steps of one model: take SGD(rate)",
        ),
        (
            plan.selection.reads,
            f"{type(plan.selection).__name__}, which reads what devices tell of "
            "one model: take a rule that reads nothing, such as AtRandom()",
        ),
        (
            not _is_plain(method) or hasattr(method, "serve"),
            f"{type(method).__name__}, which does "
            "more than to average changes: take FedAvg, FedProx",
        ),
    ):
        if wrong:
            raise ChainError(f"{name} keeps several models, and does not go with {what}")


def _is_plain(algorithm: Algorithm) -> bool:
    """Whether the server does no more than to average changes."""
    return all(getattr(type(algorithm), n, None) is getattr(Stateless, n) for n in _PLAIN)


def _refuse_odd_buffer(plan: Plan) -> None:
    """Say what is no schedule, or does not go together with devices that come one by one."""
    schedule, judge = plan.schedule, plan.chain.aggregator
    if not isinstance(schedule, FedBuff | FedAsync):
        raise TypeError(
            f"schedule is {shown(schedule)}; give a Deadline, FedBuff or FedAsync, or a Hierarchy"
        )
    name = type(schedule).__name__
    if not plan.quorum <= schedule.buffer <= plan.cohort:
        raise ValueError(
            f"a buffer of {schedule.buffer} was given, with cohorts of {plan.cohort} and a quorum "
            f"of {plan.quorum}; it must lie between those two"
        )
    if not plan.chain.shows_rows:
        raise ChainError(
            f"{name} weighs each update by its staleness, and stages of updates= hide single "
            "updates; leave those out, or take a Deadline"
        )
    if plan.down:
        raise ChainError(
            f"down= codes the model that all devices of a round start from, and under {name} each "
            "has its own; leave down= out, or take a Deadline"
        )
    if getattr(judge, "weights", None) == "uniform" or hasattr(judge, "root"):
        raise ChainError(
            f"{name} weighs each update by its staleness, and {judge} counts all alike; take a "
            "Deadline, or an aggregator with weights, such as Mean() or GeometricMedian()"
        )
    if not _is_plain(plan.algorithm):
        raise ValueError(
            f"{type(plan.algorithm).__name__} does more on the server than to average changes, "
            f"which those of earlier models don't suit; {name} takes FedAvg, FedProx, or an "
            f"algorithm on Stateless that leaves {', '.join(_PLAIN)} as they are"
        )
