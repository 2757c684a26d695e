"""Codecs: stages whose blocks travel as bytes; what both ends know besides them, and keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from fedlab.core.randomness import Purpose, address_of, generator
from fedlab.core.threads import share, usable_threads
from fedlab.core.typing import I64, Array, Places
from fedlab.core.validation import number, of_kind, whole_number
from fedlab.device.states import DeviceStates
from fedlab.models.base import Layout
from fedlab.updates.entropy import Field
from fedlab.updates.sent import Updates
from fedlab.updates.stages import At, Rowwise, State

#: Numbers of a cohort from which its rows are coded by several threads.
_WORTH_THREADS = 1 << 17


@dataclass(frozen=True, eq=False)
class Context:
    """What a device and the server both know of a message, so that it does not travel.

    Attributes
    ----------
    size : int
        Numbers of the row.
    numbers : dtype
    seed, round, device, part : int
        Where its draws stand (see `fedlab.core.randomness`): the device's place, and a word for the
        block and the stage.
    layout : Layout, optional
        Names and shapes within the row, where it is of a model.
    start : array, optional
        What the device kept for this codec since its last message.
    """

    size: int
    numbers: np.dtype[Any]
    seed: int = 0
    round: int = 0
    device: int = 0
    part: int = 0
    layout: Layout | None = None
    start: Array | None = None

    def draw(self, *, shared: bool = False) -> np.random.Generator:
        """Return the generator of this row, or of all rows of its round."""
        device: int | str = "all" if shared else self.device
        return generator(self.seed, Purpose.CODEC, round=self.round, device=device, part=self.part)


class Coding(Rowwise):
    """What passes named blocks on as they are decoded, and counts their bytes."""

    #: By default all that are as wide as the model.
    blocks: tuple[str, ...] | None

    def passed(
        self, name: str, rows: Array, places: Places, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Array, I64, DeviceStates]:
        """Return a block's rows as they are decoded, their bytes, and what devices keep.

        Where messages are added up, rows are the messages instead.
        """
        raise NotImplementedError

    def reader(self, name: str, rows: Array, sent: Updates, at: At) -> Callable[[Array], Array]:
        """Return what decodes a sum of messages of a block."""
        raise NotImplementedError

    def apply(
        self, state: State, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Updates, State, DeviceStates]:
        blocks, sizes, coded = dict(sent.blocks), dict(sent.sizes), dict(sent.coded)
        wide = set(self.blocks or ()) or ({"change"} | sent.layouts.keys())
        if self.blocks and (missing := wide - sent.blocks.keys()):
            named = f"{type(self).__name__} codes the blocks {', '.join(sorted(missing))}"
            raise ValueError(f"{named}; {', '.join(sent.blocks)} are sent")
        for name in [name for name in sent.blocks if name in wide]:
            # What a device does not send (of a cluster that is not its own, say) stays so.
            # Zeros of such devices go into a sum, which must not tell them apart.
            some = np.flatnonzero(np.ones(len(sent)) if at.summed else sent.nbytes_of(name))
            rows = blocks[name] if len(some) == len(sent) else blocks[name][some]
            if at.summed:
                coded[name] = (*coded.get(name, ()), self.reader(name, rows, sent, at))
            passed = self.passed(name, rows, sent.places[some], sent, kept, at)
            blocks[name], sizes[name], kept = passed
            if len(some) < len(sent):
                blocks[name], sizes[name] = sent.blocks[name].copy(), np.zeros(len(sent), np.int64)
                blocks[name][some], sizes[name][some], _ = passed
        return replace(sent, blocks=blocks, sizes=sizes, coded=coded), state, kept


@dataclass(frozen=True)
class Codec(Coding):
    """A stage that codes rows: one of your own says which `parts` a message has, and codes them.

    `encode` and `decode` are made of these three; `apply` passes on what `decode` would return, and
    counts what `encode` would.

    Parameters
    ----------
    blocks : tuple of str, optional
        What is coded; by default all that is as wide as the model: changes, control variates.
        Other blocks travel whole: a few class means are no place to save, and a variance that an
        error made negative is none.
    """

    blocks: tuple[str, ...] | None = field(default=None, kw_only=True)

    #: Whether the error is less than what is coded, as feedback needs: ``|C(v) - v| < |v|``, at
    #: least in the mean.
    contracts: ClassVar[bool] = True
    #: Whether messages of one round, each of one part, may be added up before they are decoded.
    additive: ClassVar[bool] = False

    @property
    def takes(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"integer"} if self.additive else {"integer", "additive"})

    def parts(self, at: Context) -> tuple[Field, ...]:
        """Return what a message consists of."""
        raise NotImplementedError

    def code(self, row: Array, at: Context) -> tuple[Array, ...]:
        """Return a row, (n,), of numbers that are `fitted`, as the arrays of a message's parts."""
        raise NotImplementedError

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        """Return the row, (n,), that arrays stand for."""
        raise NotImplementedError

    def keeps(self, at: Context) -> int:
        """Return how many numbers a device keeps for its next message: the last ones of this."""
        return 0

    def encode(self, row: Array, at: Context) -> bytes:
        """Return a device's row as it travels."""
        return self._packed(self.code(fitted(row, row.dtype), at), at)

    def decode(self, data: bytes, at: Context) -> Array:
        """Return the row that was sent.

        Raises
        ------
        ValueError
            If it is no message of this codec and context.
        """
        arrays = []
        for part in self.parts(at):
            array, data = part.read(data)
            arrays.append(array)
        if data:
            raise ValueError(f"{len(data)} bytes follow a message's last part")
        with np.errstate(all="ignore"):
            row = self.expand(tuple(arrays), at)
        if not np.isfinite(row).all():
            raise ValueError("a message decodes to NaN or inf")
        return row

    def passed(
        self, name: str, rows: Array, places: Places, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Array, I64, DeviceStates]:
        general = self.context(name, rows, sent, at)
        keeps, memory = self.keeps(general), f"coding {name} at {at.stage}"
        starts = kept.rows(memory, places, np.zeros(keeps, rows.dtype))
        width = self.parts(general)[0].count if at.summed else rows.shape[1]
        passed, sizes = np.empty((len(rows), width), rows.dtype), np.empty(len(rows), np.int64)

        def one(row: int) -> None:
            here = replace(general, device=int(places[row]), start=starts[row])
            arrays = self.code(fitted(rows[row], rows.dtype), here)
            message = self._packed(arrays, here)
            sizes[row] = len(message)
            if at.messages is not None:
                at.messages[name] = message
            passed[row] = arrays[0] if at.summed else self.expand(arrays, here)
            if keeps:
                starts[row] = arrays[-1][-keeps:]

        share(range(len(rows)), one, usable_threads() if rows.size >= _WORTH_THREADS else 1)
        return passed, sizes, kept.put(memory, places, starts) if keeps else kept

    def reader(self, name: str, rows: Array, sent: Updates, at: At) -> Callable[[Array], Array]:
        exact = replace(self.context(name, rows, sent, at), numbers=np.dtype(np.float64))
        return lambda total: self.expand((total,), exact)

    def context(self, name: str, rows: Array, sent: Updates, at: At) -> Context:
        """Return what is known of messages of a block; a device is yet to be put in."""
        part, layout = address_of(f"{name} at {at.stage}"), sent.layouts.get(name)
        return Context(rows.shape[1], rows.dtype, at.seed, at.round, 0, part, layout)

    def _packed(self, arrays: tuple[Array, ...], at: Context) -> bytes:
        return b"".join(p.pack(a) for p, a in zip(self.parts(at), arrays, strict=True))


def refuse_stretching(codec: Codec, what: str) -> None:
    """Raise unless a codec's error is less than what it codes."""
    of_kind(codec, Codec, what)
    if not codec.contracts:
        raise ValueError(
            f"{what} is {codec}, whose error may be more than what it codes, so that what is owed "
            "would grow; take TopK, RandomK, LowRank, Sign, Cast, or Eden(unbiased=False)"
        )


@dataclass(frozen=True)
class _Remembering(Coding):
    """A codec, and a vector that each device keeps of each block."""

    codec: Codec

    needs: ClassVar[frozenset[str]] = frozenset({"rows", "fresh"})
    #: Whether what is kept is what the server lacks, or what it knows.
    _owes: ClassVar[bool]

    def __post_init__(self) -> None:
        refuse_stretching(self.codec, "codec")

    @property
    def blocks(self) -> tuple[str, ...] | None:  # type: ignore[override]
        return self.codec.blocks

    @property
    def takes(self) -> frozenset[str]:  # type: ignore[override]
        return self.codec.takes | {"fresh"}

    def reader(self, name: str, rows: Array, sent: Updates, at: At) -> Callable[[Array], Array]:
        return self.codec.reader(name, rows, sent, at)

    def passed(
        self, name: str, rows: Array, places: Places, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Array, I64, DeviceStates]:
        memory = f"{type(self).__name__} of {name} at {at.stage}"
        old = kept.rows(memory, places, np.zeros(rows.shape[1], rows.dtype))
        with np.errstate(over="ignore"):  # what flows over becomes the largest
            whole = rows + old if self._owes else rows - old
            coded, sizes, kept = self.codec.passed(name, whole, places, sent, kept, at)
            read = coded
            if at.summed:
                each = self.reader(name, rows, sent, at)
                read = np.array([each(row) for row in coded]).reshape(whole.shape)
            new = np.subtract(whole, read, whole) if self._owes else np.add(old, read, old)
        new = fitted(new, rows.dtype, out=new)
        return coded if self._owes else new, sizes, kept.put(memory, places, new)


@dataclass(frozen=True)
class ErrorFeedback(_Remembering):
    """A device adds what it owes to its row, and owes from then on what the codec left out.

    c = C(v + e) travels, and e <- v + e - c.

    Parameters
    ----------
    codec : Codec
        Its error must be less than what it codes.

    Source: Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", NeurIPS 2018, algorithm 1;
    Karimireddy et al., "Error feedback fixes SignSGD", ICML 2019.

    Examples
    --------
    >>> from fedlab.updates import TopK
    >>> sent = Updates(np.zeros(1, int), {"change": np.array([[3.0, 2.0]])}, np.ones(1), {})
    >>> stage, kept = ErrorFeedback(TopK(1)), DeviceStates()
    >>> for _ in range(2):
    ...     coded, _, kept = stage.apply({}, sent, kept, At(0, 1))
    ...     print(coded.blocks["change"])
    [[3. 0.]]
    [[0. 4.]]
    """

    _owes: ClassVar[bool] = True


@dataclass(frozen=True)
class EF21(_Remembering):
    """Both ends keep what the server knows of a device's row; the coded difference moves it.

    c = C(v - g) travels, g <- g + c, and g enters the aggregate. In a simulation g lies once, with
    the device; a server keeps all of its own. So it goes behind no mask.

    Parameters
    ----------
    codec : Codec
        Its error must be less than what it codes.

    Source: Richtarik, Sokolov and Fatkhullin, "EF21: a new, simpler, theoretically better, and
    practically faster error feedback", NeurIPS 2021, algorithm 2.
    """

    _owes: ClassVar[bool] = False

    @property
    def takes(self) -> frozenset[str]:  # type: ignore[override]
        return super().takes | {"additive"}  # a server that sees sums knows nobody's g


def fitted(numbers: Array, kind: np.dtype[Any], out: Array | None = None) -> Array:
    """Return numbers in a type; what is too large becomes the largest, 1e100 at most.

    So squares, and sums of them, are finite in float64.
    """
    largest = min(float(np.finfo(kind).max), 1e100)
    return np.asarray(np.clip(numbers, -largest, largest, out).astype(kind, copy=False))


def counted(asked: Any, size: int) -> int:
    """Return how many of `size` a whole number, or a share, asks for; at least one if there is one.

    Examples
    --------
    >>> counted(0.1, 50), counted(7, 5), counted(1e-9, 50)
    (5, 5, 1)
    """
    count = round(asked * size) if isinstance(asked, float) else int(asked)
    return min(size, max(1, count))


def refuse_share(value: Any, name: str) -> None:
    """Raise unless a value is a whole number from 1, or a share in (0, 1]."""
    if not isinstance(value, float):
        whole_number(value, name, 1)
    elif not 0 < number(value, name) <= 1:
        raise ValueError(f"{name} is {value}; give a share above 0, up to 1.0, or a whole number")
