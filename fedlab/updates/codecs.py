"""Codecs: stages whose blocks travel as bytes, and what both ends know besides them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from fedlab.core.randomness import Purpose, address_of, generator
from fedlab.core.typing import F64, I64, Array, Places
from fedlab.core.validation import number, whole_number
from fedlab.device.states import DeviceStates
from fedlab.models.base import Layout
from fedlab.updates.entropy import Field
from fedlab.updates.sent import Updates
from fedlab.updates.stages import At, Rowwise, State


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
        """Return a block's rows as they are decoded, their bytes, and what devices keep."""
        raise NotImplementedError

    def apply(
        self, state: State, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Updates, State, DeviceStates]:
        blocks, sizes = dict(sent.blocks), dict(sent.sizes)
        wide = set(self.blocks or ()) or ({"change"} | sent.layouts.keys())
        if self.blocks and (missing := wide - sent.blocks.keys()):
            named = f"{type(self).__name__} codes the blocks {', '.join(sorted(missing))}"
            raise ValueError(f"{named}; {', '.join(sent.blocks)} are sent")
        for name in [name for name in sent.blocks if name in wide]:
            # What a device does not send (of a cluster that is not its own, say) stays so.
            some = np.flatnonzero(sent.nbytes_of(name))
            passed = self.passed(name, blocks[name][some], sent.places[some], sent, kept, at)
            coded, nbytes, kept = passed
            blocks[name], sizes[name] = blocks[name].copy(), np.zeros(len(sent), np.int64)
            blocks[name][some], sizes[name][some] = coded, nbytes
        return replace(sent, blocks=blocks, sizes=sizes), state, kept


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

    #: Whether the error is less than what is coded, as feedback needs: |C(v) - v| < |v|, or so in
    #: the mean.
    contracts: ClassVar[bool] = True
    #: Whether messages of one round may be added up before they are decoded.
    additive: ClassVar[bool] = False

    @property
    def takes(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"integer"} if self.additive else {"integer", "additive"})

    def parts(self, at: Context) -> tuple[Field, ...]:
        """Return what a message consists of."""
        raise NotImplementedError

    def code(self, row: Array, at: Context) -> tuple[Array, ...]:
        """Return a row, (n,) of finite numbers, as the arrays of a message's parts."""
        raise NotImplementedError

    def expand(self, arrays: tuple[Array, ...], at: Context) -> Array:
        """Return the row, (n,), that arrays stand for."""
        raise NotImplementedError

    def keeps(self, at: Context) -> int:
        """Return how many numbers a device keeps for its next message: the last ones of this."""
        return 0

    def encode(self, row: Array, at: Context) -> bytes:
        """Return a device's row as it travels."""
        return self._packed(self.code(row, at), at)

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
        part, layout = address_of(f"{name} at {at.stage}"), sent.layouts.get(name)
        general = Context(rows.shape[1], rows.dtype, at.seed, at.round, 0, part, layout)
        keeps, memory = self.keeps(general), f"coding {name} at {at.stage}"
        starts = kept.rows(memory, places, np.zeros(keeps, rows.dtype))
        decoded, sizes = np.empty_like(rows), np.empty(len(rows), np.int64)
        for row, place in enumerate(places.tolist()):
            here = replace(general, device=place, start=starts[row])
            arrays = self.code(rows[row], here)
            sizes[row] = len(self._packed(arrays, here))
            decoded[row] = self.expand(arrays, here)
            if keeps:
                starts[row] = arrays[-1][-keeps:]
        return decoded, sizes, kept.put(memory, places, starts) if keeps else kept

    def _packed(self, arrays: tuple[Array, ...], at: Context) -> bytes:
        return b"".join(p.pack(a) for p, a in zip(self.parts(at), arrays, strict=True))


def fitted(numbers: Array, kind: np.dtype[Any]) -> Array:
    """Return numbers in a type; what is too large becomes the largest."""
    largest = np.finfo(kind).max
    return np.asarray(np.clip(numbers, -largest, largest).astype(kind))


def scaled_by(row: Array) -> tuple[F64, float]:
    """Return a row over its largest magnitude, and that: squares then neither vanish nor flow over.

    Examples
    --------
    >>> scaled_by(np.array([3e-300, -4e-300]))
    (array([ 0.75, -1.  ]), 4e-300)
    """
    peak = float(np.max(np.abs(row), initial=0.0))
    return np.divide(row, peak or 1.0, dtype=np.float64), peak


def counted(share: Any, size: int) -> int:
    """Return how many of `size` a whole number, or a share, asks for; at least one if there is one.

    Examples
    --------
    >>> counted(0.1, 50), counted(7, 5), counted(1e-9, 50)
    (5, 5, 1)
    """
    count = round(share * size) if isinstance(share, float) else int(share)
    return min(size, max(1, count))


def refuse_share(value: Any, name: str) -> None:
    """Raise unless a value is a whole number from 1, or a share in (0, 1]."""
    if not isinstance(value, float):
        whole_number(value, name, 1)
    elif not 0 < number(value, name) <= 1:
        raise ValueError(f"{name} is {value}; give a share above 0, up to 1.0, or a whole number")
