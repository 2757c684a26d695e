"""Who trains and measures a model: a trainer, found by the model's class.

`trainer_of` is a `functools.singledispatch`: a trainer of one's own is registered from outside,

    trainer_of.register(MyModel, lambda model, backend="auto": MyTrainer(model))

Every trainer must give what the plain loop gives (`train_device`), to float tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Literal, Protocol, TypeVar

import numpy as np

from fedlab.core.threads import T, one_blas_thread, share, usable_threads
from fedlab.core.typing import F64, I64, Array, Places
from fedlab.core.validation import one_of
from fedlab.device.device import Device
from fedlab.device.dispatch import Dispatch
from fedlab.device.rows import Rows
from fedlab.models.base import Model, measures_of
from fedlab.training.local import LocalSGD, Update, train_device
from fedlab.training.private import PrivateSGD
from fedlab.training.work import Phase

Backend = Literal["auto", "compiled", "plain"]
Measures = dict[str, F64]
Failed = dict[int, Exception]
S = TypeVar("S")

NOT_FINITE = "its update holds NaN or inf; try a lower learning rate"


@dataclass(frozen=True, eq=False)
class Ready:
    """A cohort whose devices were asked for their rows.

    Attributes
    ----------
    devices : sequence of Device
    places : (r,) int array
        Those that can train, as far as is known.
    rows : dict of int to Rows
        Theirs, by place, where the trainer wants them beforehand.
    failed : dict of int to Exception
        The others, and what they raised.
    """

    devices: Sequence[Device]
    places: Places
    rows: dict[int, Rows] = field(default_factory=dict)
    failed: Failed = field(default_factory=dict)

    @classmethod
    def of(cls, devices: Sequence[Device], ask: Callable[[Device], Rows]) -> Ready:
        """Ask each device for its rows."""
        rows, failed = asked(enumerate(devices), ask)
        return cls(devices, np.array(list(rows), np.intp), rows, failed)

    @property
    def largest(self) -> int:
        """Most rows of a device."""
        return max(map(len, self.rows.values()), default=0)


@dataclass(frozen=True, eq=False)
class Part:
    """What a phase gave on k devices; those of whom `aside` speaks hold no numbers of meaning.

    Attributes
    ----------
    changes : (k, p) array
    gradients : (k, p) array, or None
    losses : (k,) float64 array
    rows, steps : (k,) int64 arrays
    aside : dict of int to str
        By place among the k.
    error : Exception, optional
    """

    changes: Array
    gradients: Array | None
    losses: F64
    rows: I64
    steps: I64
    aside: Mapping[int, str]
    error: Exception | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """How devices train: by which steps, when and for how long, from which seed.

    Attributes
    ----------
    local : LocalSGD
    order : Dispatch
        Of these devices alone.
    seed : int
    threads : int, optional
        By default as many as the trainer likes.
    """

    local: LocalSGD
    order: Dispatch
    seed: int
    threads: int | None = None


class Trainer(Protocol):
    """A door to local training and evaluation; the plain one is the reference for all."""

    @property
    def model(self) -> Model:
        """What is trained."""

    @property
    def name(self) -> str:
        """Return "compiled", "plain", or a name of one's own: a checkpoint knows it."""

    def gather(self, devices: Sequence[Device]) -> Ready:
        """Ask devices for their rows."""

    def train(self, ready: Ready, places: Places, phase: Phase, job: Job) -> Part:
        """Train the devices at some places; `phase` and `job` are for these alone."""

    def evaluate(self, rows: Sequence[Rows], parameters: Array, threads: int | None) -> Measures:
        """Return, by measure, its mean on each set of rows, (m,).

        Parameters are one model's, (p,), or one for each, (m, p).
        """


@singledispatch
def trainer_of(model: Model, backend: Backend = "auto") -> Trainer:
    """Return the trainer of a model: the plain loop, unless another one knows its class.

    Raises
    ------
    ValueError
        If a backend is asked for that there isn't, or that can't train the model.
    """
    refuse_unknown(backend)
    if backend == "compiled":
        raise ValueError(
            f"the compiled engine does not know {type(model).__name__}; choose engine='plain' or "
            "'auto'"
        )
    return Plain(model)


def refuse_unknown(backend: str) -> None:
    """Raise a ValueError unless there is such a backend."""
    one_of(backend, ("auto", "compiled", "plain"), "engine")


def reason(error: Exception) -> str:
    """Return in words what a device's training raised."""
    return f"{type(error).__name__}: {error}"


def asked(of: Iterable[tuple[int, S]], ask: Callable[[S], T]) -> tuple[dict[int, T], Failed]:
    """Return, by place, what is given by those that are asked, and what the others raise."""
    given, failed = dict[int, T](), Failed()
    for place, one in of:
        try:
            given[place] = ask(one)
        except Exception as error:
            failed[place] = error
    return given, failed


def trainer_for(model: Model, local: LocalSGD, backend: Backend = "auto") -> Trainer:
    """Return who trains a model by some steps: those of `PrivateSGD` are the plain loop's alone."""
    found = trainer_of(model, backend)
    if not isinstance(local, PrivateSGD):
        return found
    if backend == "compiled":
        raise ValueError("the compiled loops have no PrivateSGD; choose engine='auto' or 'plain'")
    return Plain(model, pooled=getattr(found, "pooled", True))


@dataclass(frozen=True)
class Plain:
    """The loop of `train_device`, device by device; for any model.

    Parameters
    ----------
    model : Model
    name : str
    loop : callable
        What trains a device, and must give what `train_device` gives.
    pooled : bool
        Whether devices take all processors by default. Else they take one thread, unless several
        are asked for: a model's own code need not be made for them.
    """

    model: Model
    name: str = "plain"
    loop: Callable[..., Update] = train_device
    pooled: bool = False

    def gather(self, devices: Sequence[Device]) -> Ready:
        """Leave the devices as they are: each is asked when its turn comes."""
        return Ready(devices, np.arange(len(devices)))

    def train(self, ready: Ready, places: Places, phase: Phase, job: Job) -> Part:
        assert phase.start is not None
        errors, order = dict[int, Exception](), job.order

        def train(one: int) -> Update | str:
            try:
                update = self.loop(
                    *(ready.devices[places[one]], self.model, phase.some(one), job.local),
                    seed=job.seed,
                    round=int(order.rounds[one]),
                    epochs=int(order.epochs[one]),
                    rate=float(order.rates[one]),
                    begun=int(order.begun[one]),
                )
            except Exception as error:
                errors[one] = error
                return reason(error)
            return _complaint(update, phase.start.shape[-1]) or update  # type: ignore[union-attr]

        results = self._shared(train, range(len(places)), job.threads)
        made = np.zeros((len(places), phase.start.shape[-1]), phase.start.dtype)
        part = Part(
            made,
            np.zeros_like(made) if phase.gradient else None,
            np.zeros(len(places)),
            np.zeros(len(places), np.int64),
            np.zeros(len(places), np.int64),
            {one: why for one, why in enumerate(results) if isinstance(why, str)},
            errors[min(errors)] if errors else None,
        )
        for one, update in enumerate(results):
            if isinstance(update, Update):
                part.changes[one], part.losses[one] = update.change, update.loss
                part.rows[one], part.steps[one] = update.rows, update.steps
                if part.gradients is not None:
                    part.gradients[one] = update.blocks["gradient"]
        return part

    def evaluate(self, rows: Sequence[Rows], parameters: Array, threads: int | None) -> Measures:
        for part in rows:
            self.model.check_labels(part.y)
        each = np.broadcast_to(parameters, (len(rows), parameters.shape[-1]))

        def measured(one: int) -> dict[str, float]:
            return measures_of(self.model, each[one], *rows[one].gathered())

        found = self._shared(measured, range(len(rows)), threads)
        return {name: np.array([measures[name] for measures in found]) for name in found[0]}

    def _shared(self, do: Callable[[int], T], what: range, threads: int | None) -> list[T]:
        """Return what each gives, in order, from as many threads as are asked for."""
        done: dict[int, T] = {}

        def one(number: int) -> None:
            done[number] = do(number)

        with one_blas_thread():
            share(what, one, threads or (usable_threads() if self.pooled else 1))
        return [done[number] for number in what]


def _complaint(update: Update, size: int) -> str | None:
    """Return why an update can't be averaged, or None."""
    for name, block in {"change": update.change, **update.blocks}.items():
        if block.shape != (size,):
            return f"its {name} has shape {block.shape}; ({size},) is needed"
        if not np.isfinite(block).all():
            return NOT_FINITE
    return None
