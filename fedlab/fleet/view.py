"""What a rule of selection sees, what it may ask devices, and what it gives.

A rule chooses by columns: rows, hardware, who can be reached. What it needs to know beside that it
asks of single devices, and the bytes and seconds of that are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64, I64, Array, Places
from fedlab.core.validation import read_only
from fedlab.device.device import Device
from fedlab.fleet.clock import FORWARD, round_seconds
from fedlab.fleet.roster import Roster
from fedlab.models.base import Model

State = Any
#: Bytes of a number that a device tells.
_NUMBER = 8


class Inquiry(Protocol):
    """What the server asks single devices, besides to train; it is answered on the device.

    Attributes
    ----------
    sends_model : bool
        Whether devices receive the model for it.
    """

    sends_model: ClassVar[bool]

    def answer(self, device: Device, model: Model, parameters: Array) -> ArrayLike:
        """Return one number, or some."""

    def operations(self, rows: I64, model: Model) -> F64:
        """Return the floating-point operations that it takes devices of so many rows, (m,)."""


def answered(
    question: Inquiry, devices: Iterable[Device], model: Model, parameters: Array
) -> list[F64 | str]:
    """Return each device's answer, (w,), or in words why it could give none."""
    answers: list[F64 | str] = []
    for device in devices:
        try:
            given = question.answer(device, model, parameters)
            answers.append(np.atleast_1d(np.asarray(given, np.float64)))
        except Exception as error:  # a device's own trouble: it is not chosen
            answers.append(f"{type(error).__name__}: {error}")
    return answers


@dataclass(frozen=True, eq=False)
class Cohort:
    """A cohort, and why it is that one.

    Attributes
    ----------
    places : (m,) int array
        Those chosen, in any order.
    state : tree
        What the rule remembers from here on.
    reason : str, or (m,) array of str
        An array, where nobody else was considered.
    considered : (k,) int array, optional
        Of whom `numbers` speak, if not of those chosen alone.
    numbers : mapping of str to (k,) arrays
        What the rule chose by.
    """

    places: Places
    state: State
    reason: Any
    considered: Places | None = None
    numbers: Mapping[str, F64] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """Return who was considered, and why chosen or not, as columns that a checkpoint holds."""
        if self.considered is None:
            places, chosen = self.places, np.ones(len(self.places), np.bool_)
            reasons = np.full(len(places), self.reason)
        else:
            places, chosen = self.considered, np.isin(self.considered, self.places)
            reasons = np.full(len(places), "others came before it", object)
            reasons[chosen] = self.reason
        numbers = {name: np.asarray(column) for name, column in self.numbers.items()}
        columns = {"place": places, "chosen": chosen, "reason": reasons.astype(np.str_)}
        return {**columns, **numbers}


@dataclass(eq=False)
class View:
    """What a rule sees of a round.

    Attributes
    ----------
    fleet : Roster
        The devices; `Roster.places` are those that have rows to train on.
    size : int
        How many to choose.
    seed, round : int
    model : Model
    parameters : (p,) array
        The server's model now.
    epochs : int
        Passes over its rows that a device is asked for.
    traffic : (float, float)
        Bytes that a device received and sent in the round before; in the first, the model's.
    asked : int
        How many answers were asked for so far.
    bytes_down, bytes_up, seconds : float
        What they cost.
    holding : (k,) int array
        Who was sent the model for a question.
    asking : callable
        Brings a question to devices, and their answers back, as `answered` does where they are.
    remarks : list of (place, text)
        Who could not answer, and why.
    """

    fleet: Roster
    size: int
    seed: int
    round: int
    model: Any = None
    parameters: Any = None
    epochs: int = 1
    traffic: tuple[float, float] = (1.0, 1.0)
    asked: int = 0
    bytes_down: float = 0.0
    bytes_up: float = 0.0
    seconds: float = 0.0
    holding: Places = field(default_factory=lambda: np.empty(0, np.intp))
    asking: Callable[..., list[F64 | str]] = answered
    remarks: list[tuple[int, str]] = field(default_factory=list)

    def draw(self, part: int = 0) -> np.random.Generator:
        """Return the chance of this round; a rule that draws twice names another part."""
        return generator(self.seed, Purpose.COHORT, round=self.round, part=part)

    @cached_property
    def reachable(self) -> Places:
        """Places of all that can be reached now, by id. It takes time by the population."""
        places = self.fleet.places
        chance = self.fleet.chance(places)
        if chance is None:
            return places
        draw = generator(self.seed, Purpose.REACHABLE, round=self.round)
        return places[draw.random(len(places)) < chance]

    def sample(self, places: Places, size: int, weights: ArrayLike | None = None) -> Places:
        """Draw some of the places one after another, each with a chance by its weight.

        They come in the order in which they were given. Give them by rising id, as `reachable` has
        them, so that the draw doesn't depend on where devices stand in a store.

        Source: Efraimidis & Spirakis, "Weighted random sampling with a reservoir", 2006.

        Examples
        --------
        >>> View(Roster([], np.arange(0), {}, []), 1, seed=0, round=1).sample(
        ...     np.array([3, 5]), 1, weights=[0.0, 1.0]
        ... )
        array([5])
        """
        w = np.ones(len(places)) if weights is None else np.asarray(weights, np.float64)
        able = np.flatnonzero(w > 0)
        times = self.draw(1).exponential(size=len(places))[able] / w[able]
        first = np.argpartition(times, size)[:size] if size < len(times) else np.arange(len(times))
        return places[np.sort(able[first])]

    def expected_seconds(self, places: Places) -> F64:
        """Return what a round would take devices, (m,): see `expected`."""
        return np.asarray(sum(self.expected(places, self.epochs)))

    def expected(self, places: Places, epochs: I64 | int) -> tuple[F64, F64, F64]:
        """Return the seconds in which devices would receive, train so many epochs, and send."""
        hardware, size = self.fleet.hardware(places), self.model.layout.size
        down, up = self.traffic
        received = round_seconds(hardware, down, 0, size, 0)
        trained = round_seconds(hardware, 0, 0, size, epochs * self.fleet.rows(places))
        return received, trained, round_seconds(hardware, 0, up, size, 0)

    def ask(self, question: Inquiry, places: Places) -> F64:
        """Return what devices answer, (m, w), with NaN for those that could not; it is counted."""
        devices = [self.fleet.devices[place] for place in places.tolist()]
        answers = self.asking(question, devices, self.model, read_only(self.parameters))
        why = [(p, a) for p, a in zip(places.tolist(), answers, strict=True) if isinstance(a, str)]
        self.remarks.extend((place, f"no answer: {said}") for place, said in why)
        width = max((len(one) for one in answers if not isinstance(one, str)), default=1)
        table = np.array([np.full(width, np.nan) if isinstance(a, str) else a for a in answers])
        down = self.parameters.nbytes if question.sends_model else 0
        if question.sends_model:
            self.holding = np.union1d(self.holding, places)
        hardware = self.fleet.hardware(places)
        operations = question.operations(self.fleet.rows(places), self.model)
        seconds = round_seconds(hardware, down, _NUMBER * width, 0, 0)
        self.asked += len(places)
        self.bytes_down += float(down * len(places))
        self.bytes_up += float(_NUMBER * width * len(places))
        self.seconds += float((seconds + operations / hardware.compute).max(initial=0.0))
        return table.reshape(len(places), width)

    def measures(self, round: Mapping[str, float]) -> dict[str, float]:
        """Return a round's cost with that of the questions, and theirs alone; {} if none was asked.

        Questions come before the round's work, so that seconds add up.
        """
        if not self.asked:
            return {}
        cost = {name: getattr(self, name) for name in ("bytes_down", "bytes_up", "seconds")}
        asking = {f"{name}_asking": more for name, more in cost.items()}
        return {name: round[name] + more for name, more in cost.items()} | asking


class Selection(Protocol):
    """A rule that chooses who takes part: a frozen dataclass with these methods.

    ``reads = ("loss",)`` says that the server must know these numbers of single devices; a run
    whose stages hide them is refused. Without, it needs columns alone. Where devices are at
    nodes of a network, a rule that asks them (see `View.ask`) says what in a property ``asks``.
    """

    reads: ClassVar[tuple[str, ...]]

    def init(self, devices: int, size: int) -> State:
        """Return what the rule remembers before the first round; a checkpoint holds it.

        Raises
        ------
        ValueError
            If it can't choose cohorts of such a size.
        """

    def choose(self, state: State, view: View) -> Cohort:
        """Return a round's cohort: places among ``view.fleet.places``, none twice."""

    def observe(self, state: State, view: View, told: Mapping[str, Array]) -> State:
        """Return what the rule remembers after a round.

        Parameters
        ----------
        state : tree
        view : View
            That by which it chose.
        told : mapping of str to (k,) arrays
            Of those whose updates came: ``places``, ``seconds``, and what the rule reads of
            ``rows`` and ``loss``.
        """


class Plainly:
    """A rule that reads nothing of single devices, and remembers nothing."""

    reads: ClassVar[tuple[str, ...]] = ()

    def init(self, devices: int, size: int) -> State:
        return {}

    def observe(self, state: State, view: View, told: Mapping[str, Array]) -> State:
        return state


@dataclass(frozen=True)
class MeanLoss:
    """The mean loss of the model on a device's training rows: one pass forward."""

    sends_model: ClassVar[bool] = True

    def answer(self, device: Device, model: Model, parameters: Array) -> float:
        x, y = device.training()
        model.check_labels(y)
        return float(model.evaluate(parameters, x, y)["loss"])

    def operations(self, rows: I64, model: Model) -> F64:
        return np.asarray(FORWARD * model.layout.size * rows, np.float64)
