"""The devices' side of a round: train, report, code; and where it is done.

`reported` is what each device does with what it trained, wherever it stands. `Here` are the devices
of this process. A network has devices elsewhere: see `fedlab.deploy`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from fedlab.core.threads import one_blas_thread
from fedlab.core.typing import F64, Array, Places
from fedlab.core.validation import parts_of, shown
from fedlab.device.device import Device
from fedlab.device.dispatch import Dispatch
from fedlab.device.states import DeviceStates
from fedlab.federation.plan import Plan, rows_of
from fedlab.federation.wire import Wire
from fedlab.fleet.view import Inquiry, answered
from fedlab.metrics.scores import ScoreFunction, score
from fedlab.models.base import Model
from fedlab.training import Trained
from fedlab.training.choice import choosing
from fedlab.training.cohort import ALL, HELD, train_in_parts
from fedlab.training.trainer import Measures
from fedlab.training.validation import on_held_out
from fedlab.training.work import Phase
from fedlab.updates import Updates
from fedlab.updates.secure import SummedUnderMasks
from fedlab.updates.stages import At
from fedlab.updates.weights import normalised

Metrics = Mapping[str, str | ScoreFunction]


@dataclass(frozen=True, eq=False)
class Asked:
    """What a cohort is asked for in a round.

    Attributes
    ----------
    plan : Plan
    number : int
        The round.
    places : (m,) int array
        The cohort's, in the federation.
    devices : sequence of Device
        All of the federation.
    model : (p,) array
        The server's, as devices receive it.
    learning : tree
        What the algorithm remembers.
    phases : tuple of Phase
    order : Dispatch
    kept : DeviceStates
        What devices keep so far.
    stages : tuple of trees
        What stages remember.
    messages : dict of str to bytes, optional
        Filled with coded blocks of a single device, where they are to travel.
    """

    plan: Plan
    number: int
    places: Places
    devices: Sequence[Device]
    model: Array
    learning: Any
    phases: tuple[Phase, ...]
    order: Dispatch
    kept: DeviceStates
    stages: tuple[Any, ...]
    messages: dict[str, bytes] | None = None

    @cached_property
    def cohort(self) -> Sequence[Device]:
        """The cohort's devices, with the rows that rules choose on them."""
        mine, plan = [self.devices[place] for place in self.places.tolist()], self.plan
        at = {"seed": plan.seed, "round": self.number}
        return choosing(plan.rows, mine, plan.model, self.phases[0], **at)

    @cached_property
    def wire(self) -> Wire:
        """What of blocks travels."""
        return Wire.of(self.plan.model.layout, self.phases)


@dataclass(frozen=True, eq=False)
class Sent:
    """What came of some devices of a cohort.

    Attributes
    ----------
    updates : Updates
        As they left devices; `Updates.weights` are what they count.
    cohort : (k,) int array
        Whose they are, as places in the cohort.
    kept : DeviceStates
        What devices keep from now on.
    stages : tuple of trees
    averaged : set of str
        Numbers that the algorithm added for the server to average.
    set_aside : mapping of int to str
        Others of the cohort, and why they sent nothing.
    whole : bool
        Whether these are all of the cohort.
    hopeless : bool
        Whether every device failed.
    error : Exception, optional
    summed : SummedUnderMasks, optional
        Where devices have added their updates to a sum already, and `updates` are without blocks.
    forms : mapping of str to (int, str)
        Width and dtype of each block before it went through the stages.
    """

    updates: Updates
    cohort: Places
    kept: DeviceStates
    stages: tuple[Any, ...]
    averaged: set[str] = field(default_factory=set)
    set_aside: Mapping[int, str] = field(default_factory=dict)
    whole: bool = True
    hopeless: bool = False
    error: Exception | None = None
    summed: SummedUnderMasks | None = None
    forms: Mapping[str, tuple[int, str]] = field(default_factory=dict)


class Where(Protocol):
    """Where devices work."""

    #: Whether their rows are in this process.
    at_hand: ClassVar[bool]

    def work(self, asked: Asked, threads: int | None) -> Iterator[Sent]:
        """Yield what devices send, in the cohort's order; once at least, if of nobody."""

    def measure(
        self, plan: Plan, holding: Sequence[Device], parameters: Array, threads: int | None
    ) -> Measures:
        """Return a model's measures on each device's held-out rows, (m,); ``rows`` counts them."""

    def score(
        self, plan: Plan, holding: Sequence[Device], parameters: Array, metrics: Metrics
    ) -> list[dict[str, tuple[float, str]]]:
        """Return metrics of scores on each device's held-out rows, and why one is NaN."""

    def ask(
        self, question: Inquiry, devices: Sequence[Device], model: Model, parameters: Array
    ) -> list[F64 | str]:
        """Return each device's answer, (w,), or in words why it could give none."""


class Here:
    """Devices of this process."""

    at_hand: ClassVar[bool] = True

    def work(self, asked: Asked, threads: int | None) -> Iterator[Sent]:
        plan, sent = asked.plan, None
        weights: F64 | None = None
        for part in trained(asked, threads):
            if weights is None:
                weights = np.zeros(len(asked.places))
                # Where parts are to come, nobody knows who of them will be set aside.
                told = part.places, part.rows
                if not _whole(asked, part):
                    told = np.arange(len(weights)), rows_of(asked.cohort)
                weights[told[0]] = weights_of(plan, asked.cohort, *told)
            if sent is not None:
                asked = replace(asked, kept=sent.kept, stages=sent.stages)
            sent = reported(asked, part, weights[part.places])
            yield sent

    def measure(
        self, plan: Plan, holding: Sequence[Device], parameters: Array, threads: int | None
    ) -> Measures:
        return on_held_out(holding, plan.trainer, parameters, threads)

    def score(
        self, plan: Plan, holding: Sequence[Device], parameters: Array, metrics: Metrics
    ) -> list[dict[str, tuple[float, str]]]:
        each, told = np.broadcast_to(parameters, (len(holding), parameters.shape[-1])), []
        for device, own in zip(holding, each, strict=True):
            x, y = device.validation()
            with one_blas_thread(), np.errstate(all="ignore"):
                scores = np.asarray(plan.model.predict(own, x))  # type: ignore[attr-defined]
            told.append({name: score(metric, y, scores) for name, metric in metrics.items()})
        return told

    ask = staticmethod(answered)


def trained(asked: Asked, threads: int | None) -> Iterator[Trained]:
    """Let a cohort train; yield what came of it, in parts."""
    plan, held = asked.plan, ALL if asked.plan.chain.whole else HELD
    how = asked.cohort, plan.trainer, asked.phases, plan.local, asked.order
    return train_in_parts(*how, seed=plan.seed, threads=threads, held=held)


def reported(asked: Asked, part: Trained, weights: F64) -> Sent:
    """Let devices report what they trained, and send it through the stages.

    Parameters
    ----------
    asked : Asked
    part : Trained
        Of some devices of the cohort.
    weights : (k,) array
        What they count.
    """
    plan, mine = asked.plan, asked.places[part.places]
    none = part.set_aside, _whole(asked, part), part.none_could, part.error
    if not len(mine) and plan.chain.private is None:
        return Sent(Updates(mine, {}, weights, {}), mine, asked.kept, asked.stages, set(), *none)
    stats = {
        "rows": part.rows,
        "epochs": part.epochs,
        "steps": part.steps,
        "loss": part.losses,
        "rate": asked.order.rates[part.places],
        **part.stats,
    }
    kept = asked.kept
    for name, rows in part.kept.items():
        kept = kept.put(name, mine, rows)
    blocks, buffers = asked.wire.cut(part.blocks)
    sent = Updates(mine, blocks, weights, stats)
    who = f"{type(plan.algorithm).__name__}.report"
    given = plan.algorithm.report(asked.learning, sent, kept)
    sent, kept = parts_of(given, "updates, what devices keep", who)
    if not isinstance(sent, Updates):
        raise TypeError(f"{who} gave {shown(sent)} as updates; give what it got, or a changed copy")
    at = At(plan.seed, asked.number, asked.devices, messages=asked.messages)
    sent = asked.wire.narrowed(sent, buffers)
    forms = {name: (block.shape[1], block.dtype.str) for name, block in sent.blocks.items()}
    sent, stages, kept = plan.chain.apply(asked.stages, sent, kept, at)
    averaged = sent.stats.keys() - stats.keys()  # what the algorithm added is averaged for it
    return Sent(sent, part.places, kept, stages, set(averaged), *none, forms=forms)


def _whole(asked: Asked, part: Trained) -> bool:
    """Return whether a part is all of the cohort."""
    return len(part.places) + len(part.set_aside) == len(asked.places)


def weights_of(plan: Plan, cohort: Sequence[Device], places: Places, rows: Array) -> F64:
    """Return the weights of those of a cohort whose updates came, (k,): their sum is one, or 0."""
    senders = cohort if len(places) == len(cohort) else [cohort[place] for place in places]
    raw = plan.weights(senders, rows)
    return normalised(raw, len(senders)) if raw.any() else np.zeros(len(senders))
