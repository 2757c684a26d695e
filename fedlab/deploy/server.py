"""The server's side: a federation whose devices work at their nodes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from fedlab.core.validation import positive
from fedlab.deploy.elsewhere import Elsewhere, Link
from fedlab.deploy.messages import Id, Tree, differing, versions
from fedlab.deploy.node import experiment_digest, experiment_of
from fedlab.deploy.remote import Remote
from fedlab.deploy.searching import RemoteResponding
from fedlab.device.device import Device
from fedlab.device.profile import Profile
from fedlab.federation import Federation
from fedlab.federation.plan import Plan
from fedlab.fleet.roster import in_order
from fedlab.updates import ChainError
from fedlab.updates.attacks import Forgery


def deployed(
    link: Link, experiment: str | os.PathLike[str], *, patience: float = 120.0, **parameters: Any
) -> Federation:
    """Return an experiment's federation whose devices work at their nodes.

    Every node is asked what it is. One that has another experiment, plan or version than the server
    is left out: a warning and the history say so, by name.

    Parameters
    ----------
    link : Link
    experiment : path-like
        Its file: see `fedlab.deploy.node.experiment_of`.
    patience : float
        Seconds in which the devices of a round have to answer.
    **parameters
        What the experiment's function takes besides devices: numbers, text, lists.

    Raises
    ------
    RuntimeError
        If no node can take part.
    ChainError, ValueError
        If the plan has something that no network carries here, with the reason.
    """
    positive(patience=patience)
    of = {"digest": experiment_digest(experiment), "parameters": parameters}
    ids, refused = _ordered(link.devices), dict[Id, str]()
    while ids:
        where = Elsewhere(link, ids, {"experiment": of, "versions": versions()}, patience)
        answers = where.asked("hello", {id: {} for id in ids})
        bad, found = dict[Id, str](), dict[Id, Tree]()
        for id, told in answers.items():
            if isinstance(told, str):
                bad[id] = told
            elif told["id"] != id:
                bad[id] = f"its node says that it is {told['id']!r}"
            else:
                found[id] = told
        if not bad:
            federation = experiment_of(experiment)(
                [_remote(t) for t in found.values()], **parameters
            )
            refuse_odd(federation.plan)
            mine = federation.plan.words()
            odd = {id: differing(told["plan"], mine) for id, told in found.items()}
            bad = {id: f"another plan: {how}" for id, how in odd.items() if how}
        if not bad:
            federation.where = where
            for id, why in refused.items():
                federation.history.remark(0, id, f"left out: {why}")
            if refused:
                warnings.warn(f"devices are left out: {refused}", stacklevel=2)
            return federation
        refused |= bad
        ids = [id for id in ids if id not in bad]
    raise RuntimeError(f"no node can take part: {refused}")


def _ordered(ids: Sequence[Id]) -> list[Id]:
    return [d.id for d in in_order([Remote(id, rows=1, dimensions=1, metric="") for id in ids])]


def _remote(told: Tree) -> Remote:
    facts = {n: told[n] for n in ("rows", "validation_rows", "dimensions", "metric", "contents")}
    return Remote(told["id"], profile=Profile(**told["profile"]), **facts)


def refuse_odd(plan: Plan) -> None:
    """Say what of a plan no network carries here.

    Raises
    ------
    ChainError
        Which part, why, and what would do instead.
    """
    stages, chain, reads = plan.chain.stages, plan.chain, getattr(plan.algorithm, "reads", ())
    seeded = any(getattr(part, "simulated", False) for part in (*chain.noised, plan.local))
    method = type(plan.algorithm).__name__
    for wrong, why in (
        (chain.secure and any(chain.secure.drops), "who drops out is seen; leave out drops="),
        (plan.schedule, "a schedule is of simulated time; leave it out, and set patience="),
        (
            isinstance(plan.weights.weights, Mapping),
            "nodes do not know each other's ids; give weights= a function of the device",
        ),
        (plan.down, "the model travels whole; leave out down="),
        ("places" in reads, f"{method} would tell each device of others; take FedAvg()"),
        (
            any(isinstance(s, Forgery) for s in stages),
            "attacks are for simulations; leave them out",
        ),
        (chain.whole and not chain.joint, "no stage sees a whole cohort; leave it out"),
        (any(chain.init(1)[: len(stages)]), "stages remember nothing at the server; leave it out"),
        (seeded, "noise that follows from a seed protects nobody; leave out simulated=True"),
    ):
        if wrong:
            raise ChainError(f"over a network: {why}")


def respondents(
    link: Link, federation: Federation, patience: float = 60.0
) -> list[RemoteResponding]:
    """Return the devices of a deployed federation as `fedlab.search.FederatedSearch` takes them."""

    def one(device: Device) -> RemoteResponding:
        def send(data: bytes) -> bytes:
            return link.send(device.id, "search", data).result(patience)

        return RemoteResponding(device.id, device.index.dimensions, device.index.metric, send)

    return [one(device) for device in federation.devices]
