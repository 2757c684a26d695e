"""Devices at their nodes, as a round has them.

What a round needs of a device travels in one message each way. Sums are taken in the cohort's
order, and draws have addresses, so the parameters are those of a simulation, bit for bit. What
devices keep stays at their nodes; the server's state knows under which name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from fedlab.core.typing import F64, Array
from fedlab.core.validation import shown
from fedlab.deploy.messages import (
    OTHER_FORM,
    Id,
    MessageError,
    Tree,
    block_in,
    digest,
    form_in,
    packed,
    refuse_aside,
    unpacked,
)
from fedlab.deploy.summing import summed
from fedlab.device.device import Device
from fedlab.device.states import DeviceStates
from fedlab.federation.on_devices import Asked, Metrics, Sent, weights_of
from fedlab.federation.plan import Plan
from fedlab.fleet.view import Inquiry
from fedlab.metrics.scores import OF_CLASSES, OF_NUMBERS
from fedlab.models.base import Model
from fedlab.training.trainer import NOT_FINITE, Measures
from fedlab.updates import Updates
from fedlab.updates.stages import At

#: Under which names devices keep, at their nodes, what they keep.
_AT_NODES = "kept at nodes"
_TOLD = {"rows", "epochs", "steps", "loss", "rate"}


class Link(Protocol):
    """What carries messages to nodes, and their answers back."""

    @property
    def devices(self) -> Sequence[Id]:
        """Ids of the devices that have a node."""

    def send(self, device: Id, kind: str, data: bytes) -> Future[bytes]:
        """Send a message; the future is the answer, or an error that says why there is none."""


class Carried(NamedTuple):
    """A message and its answer: bytes without what the network adds, none if none came."""

    kind: str
    device: Id
    sent: int
    received: int
    seconds: float


class Elsewhere:
    """Devices at their nodes.

    Parameters
    ----------
    link : Link
    ids : list
        The devices' ids, in their order.
    base : dict
        What each message says of the experiment.
    patience : float
        Seconds that the nodes of a cohort have together.

    Attributes
    ----------
    patience : float
    traffic : list of Carried
    """

    at_hand: ClassVar[bool] = False

    def __init__(self, link: Link, ids: list[Id], base: Tree, patience: float) -> None:
        self._link, self._ids, self._base, self.patience = link, ids, base, patience
        self.traffic: list[Carried] = []

    def asked(self, kind: str, messages: Mapping[Id, Tree]) -> dict[Id, Tree | str]:
        """Return what devices answer, or in words why there is no answer to believe."""
        sent, answers = {}, dict[Id, Tree | str]()
        for device, said in messages.items():
            nonce = os.urandom(16).hex()
            who = {"place": self._ids.index(device), "count": len(self._ids), "nonce": nonce}
            data = packed({**self._base, **said, **who})
            began = time.monotonic()
            sent[device] = nonce, len(data), began, self._link.send(device, kind, data)
        # What a link takes to send at all is no node's time.
        until = time.monotonic() + self.patience
        for device, (nonce, size, began, future) in sent.items():
            data = b""
            try:
                data = future.result(max(0.0, until - time.monotonic()))
                answers[device] = _believed(unpacked(data), nonce)
            except Late:
                answers[device] = f"no answer within {self.patience:g} seconds"
            except Exception as error:  # whatever came of it, the others go on
                answers[device] = f"{type(error).__name__}: {error}"[:500]
            took = time.monotonic() - began
            self.traffic.append(Carried(kind, device, size, len(data), took))
        return answers

    def work(self, asked: Asked, threads: int | None) -> Iterator[Sent]:
        plan, places, order = asked.plan, asked.places, asked.order
        cohort = [asked.devices[place] for place in places.tolist()]
        before = asked.kept.rows(_AT_NODES, places, np.zeros(16, np.uint8))
        plan_is = digest(sorted(plan.words().items()))
        alike = {"round": asked.number, "plan": plan_is, "learning": asked.learning}
        alike["model"], messages, names = np.asarray(asked.model), dict[Id, Tree](), list[str]()
        for at, device in enumerate(cohort):
            kept = before[at].tobytes().hex() if before[at].any() else ""
            names.append(digest(plan_is, kept, asked.number))
            own = {"rate": float(order.rates[at]), "epochs": int(order.epochs[at])}
            messages[device.id] = {**alike, **own, "kept": kept, "keep": names[at]}
        answers = dict(enumerate(self.asked("train", messages).values()))
        if plan.chain.secure is not None:

            def again(kind: str, told: dict[int, Tree]) -> dict[int, Tree | str]:
                got = self.asked(kind, {cohort[at].id: message for at, message in told.items()})
                return dict(zip(told, got.values(), strict=True))

            sent, keep = summed(again, asked, answers)
            yield replace(sent, kept=_noted(asked, keep, names))
            return
        rows, forms, aside = dict[int, Updates](), dict[int, Any](), dict[int, str]()
        hopeless = True
        for at, answer in answers.items():
            try:
                rows[at], forms[at] = _row(asked, answer, at)
            except Exception as why:  # an answer may say anything
                aside[at] = str(why)[:500]
                hopeless &= isinstance(answer, dict) and answer.get("hopeless") is True
        usual: Any = max(forms.values(), key=list(forms.values()).count, default=([],))
        odd = [at for at, form in forms.items() if form[:-1] != usual[:-1]]
        aside |= dict.fromkeys(odd, OTHER_FORM)
        here = np.array([at for at in rows if at not in odd], np.intp)
        updates = _joined([rows[at] for at in here.tolist()] or [_nothing(asked)])
        weights = weights_of(plan, cohort, here, updates.stats["rows"])
        weighed = {name: weights * column for name, column in updates.weighed.items()}
        updates = replace(updates, weights=weights, weighed=weighed)
        states = _noted(asked, [at for at in here.tolist() if forms[at][-1]], names)
        none = aside, True, hopeless and not rows
        yield Sent(updates, here, states, asked.stages, set(usual[0]), *none)

    def measure(
        self, plan: Plan, holding: Sequence[Device], parameters: Array, threads: int | None
    ) -> Measures:
        answers = self.asked("measure", _models(holding, parameters)).values()
        told = [answer["measures"] if isinstance(answer, dict) else {} for answer in answers]
        names = dict.fromkeys([*(name for one in told for name in one), "rows"])
        found = {n: np.array([one.get(n, np.nan) for one in told], np.float64) for n in names}
        return {**found, "rows": np.nan_to_num(found["rows"])}

    def score(
        self, plan: Plan, holding: Sequence[Device], parameters: Array, metrics: Metrics
    ) -> list[dict[str, tuple[float, str]]]:
        if own := [name for name, metric in metrics.items() if not isinstance(metric, str)]:
            raise ValueError(
                f"metric {own[0]!r} is a function, which does not travel; over a network take one "
                f"of {', '.join((*OF_CLASSES, *OF_NUMBERS))}"
            )
        answers = self.asked("score", _models(holding, parameters, metrics=dict(metrics)))
        return [_scored(told, metrics) for told in answers.values()]

    def ask(
        self, question: Inquiry, devices: Sequence[Device], model: Model, parameters: Array
    ) -> list[F64 | str]:
        # What is asked stands in the plan, which a node has; the model it has no longer.
        told = self.asked("ask", _models(devices, parameters)).values()
        return [a if isinstance(a, str) else _finite(a["answer"]) for a in told]


def _models(devices: Sequence[Device], parameters: Array, **more: Any) -> dict[Id, Tree]:
    """Return messages that hold one model, (p,), or each device's, (m, p)."""
    models = np.broadcast_to(parameters, (len(devices), parameters.shape[-1]))
    return {d.id: {"model": own, **more} for d, own in zip(devices, models, strict=True)}


def _scored(answer: Tree | str, names: Iterable[str]) -> dict[str, tuple[float, str]]:
    """Return the values of metrics, and why one is NaN, as a device tells them."""
    try:
        told: Any = answer["scores"] if isinstance(answer, dict) else dict[str, Any]()
        return {name: (float(told[name][0]), str(told[name][1])[:500]) for name in names}
    except Exception as error:  # an answer may say anything
        why = answer if isinstance(answer, str) else f"{type(error).__name__}: {error}"[:500]
        return dict.fromkeys(names, (np.nan, why))


def _finite(answer: object) -> F64 | str:
    numbers = np.asarray(answer)
    if numbers.ndim == 1 and numbers.dtype == np.float64 and np.isfinite(numbers).all():
        return numbers
    return f"it answers {shown(answer)}; finite numbers are needed"


def _noted(asked: Asked, keep: list[int], names: Sequence[str]) -> DeviceStates:
    """Return what devices keep: of some of the cohort, from now on, a file of a new name."""
    if not keep:
        return asked.kept
    new = np.array([list(bytes.fromhex(names[at])) for at in keep], np.uint8)
    return asked.kept.put(_AT_NODES, asked.places[keep], new)


def _believed(told: Tree, nonce: str) -> Tree:
    if "failed" in told:
        raise MessageError(str(told["failed"]))
    if told.get("nonce") != nonce:
        raise MessageError("it answers another message than the one that was sent")
    return told


def _row(asked: Asked, answer: Tree | str, at: int) -> tuple[Updates, tuple[Any, ...]]:
    """Return what a device sent, checked by itself; and the form, with what is averaged first.

    Whether it keeps something comes last.
    """
    if isinstance(answer, str):
        raise ValueError(answer)
    refuse_aside(asked, answer)
    forms = {name: (told["width"], told["type"]) for name, told in answer["blocks"].items()}
    like, rows = form_in(asked, asked.places[at : at + 1], forms), dict[str, Array]()
    for name, told in answer["blocks"].items():
        rows[name] = block_in(asked.plan, name, told, like, At(asked.plan.seed, asked.number))[None]
        if not 0 <= told["size"] <= 2 * rows[name].nbytes + 64:
            raise ValueError(f"{told['size']} bytes for {rows[name].size} numbers")
    stats, weighed = (
        {n: np.array([v]) for n, v in answer[w].items()} for w in ("stats", "weighed")
    )
    for part in (rows, stats, weighed):
        if not all(np.isfinite(numbers).all() for numbers in part.values()):
            raise ValueError(NOT_FINITE)
    if not stats.keys() >= _TOLD or stats["rows"] < 1:
        raise ValueError(f"it tells {', '.join(stats)}; {', '.join(sorted(_TOLD))} are needed")
    sizes = {name: np.array([told["size"]]) for name, told in answer["blocks"].items()}
    form = [(name, row.shape, row.dtype) for name, row in rows.items()], list(stats), list(weighed)
    row = replace(like, blocks=rows, stats=stats, weighed=weighed, sizes=sizes)
    return row, (answer["averaged"], *form, answer["keeps"] is True)


def _nothing(asked: Asked) -> Updates:
    """Return the updates of nobody: noise without updates is a release, too."""
    size, kind, blocks = asked.plan.model.layout.size, asked.model.dtype, dict[str, Array]()
    for name in (phase.send for phase in asked.phases if phase.send is not None):
        travels = asked.wire.travels(name)
        blocks[name] = np.empty((0, size if travels is None else np.count_nonzero(travels)), kind)
    return Updates(asked.places[:0], blocks, np.empty(0), dict.fromkeys(_TOLD, np.empty(0)))


def _joined(rows: Sequence[Updates]) -> Updates:
    """Return the updates of single devices as those of a cohort; weights are yet to come."""
    parts = dict[str, Any]()
    for part in ("blocks", "stats", "weighed", "sizes"):
        each = [getattr(row, part) for row in rows]
        parts[part] = {name: np.concatenate([one[name] for one in each]) for name in each[0]}
    places = np.concatenate([row.places for row in rows])
    return Updates(places, weights=np.ones(len(places)), layouts=rows[0].layouts, **parts)
