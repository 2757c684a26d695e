"""What goes together in a run, and what does not: said when it is built, with the reason."""

from __future__ import annotations

from typing import Any

from fedlab.algorithms import Algorithm, WithServer, by_name
from fedlab.algorithms.base import Stateless
from fedlab.core.validation import require, shown
from fedlab.federation.plan import Plan
from fedlab.fleet import Deadline, FedAsync, FedBuff, Roster, admit
from fedlab.updates import SGD, ChainError, ServerOptimiser, optimiser
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


def _refuse_odd_buffer(plan: Plan) -> None:
    """Say what is no schedule, or does not go together with devices that come one by one."""
    schedule, judge = plan.schedule, plan.chain.aggregator
    if not isinstance(schedule, FedBuff | FedAsync):
        raise TypeError(f"schedule is {shown(schedule)}; give a Deadline, FedBuff or FedAsync")
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
    plain = [getattr(type(plan.algorithm), n, None) is getattr(Stateless, n) for n in _PLAIN]
    if not all(plain):
        raise ValueError(
            f"{type(plan.algorithm).__name__} does more on the server than to average changes, "
            f"which those of earlier models don't suit; {name} takes FedAvg, FedProx, or an "
            f"algorithm on Stateless that leaves {', '.join(_PLAIN)} as they are"
        )
