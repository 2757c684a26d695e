"""Stages: what happens to updates on their way to the server, each a frozen dataclass.

A stage maps the updates of some devices to other ones, row by row, with a state of its own and
what each device keeps. It says what it needs of what comes in, and what it changes about it, so
that a chain that makes no sense is refused when it is built (see `fedlab.updates.chain`):

    rows      each device's blocks can be read, as numbers
    linear    a weighted sum of the blocks means what it would without the stage
    integer   blocks hold whole numbers
    hidden    only a sum over devices can be read
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from fedlab.core.typing import Array
from fedlab.core.validation import positive
from fedlab.device.states import DeviceStates
from fedlab.updates.sent import Updates

State = Any


class At(NamedTuple):
    """Where a stage's draws stand: see `fedlab.core.randomness`."""

    seed: int
    round: int


class Stage(Protocol):
    """What happens to updates on their way, with what it needs and what it changes."""

    #: What must hold of the updates that come in.
    needs: ClassVar[frozenset[str]]
    #: What holds of those that go out, and did not before.
    gives: ClassVar[frozenset[str]]
    #: What no longer holds.
    takes: ClassVar[frozenset[str]]

    def init(self, size: int) -> State:
        """Return the state before the first round, for `size` parameters."""

    def apply(
        self, state: State, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Updates, State, DeviceStates]:
        """Return what goes on, the next state, and what devices keep; nothing in place."""


class Rowwise:
    """A stage that looks at numbers of single devices, and remembers nothing."""

    needs: ClassVar[frozenset[str]] = frozenset({"rows"})
    gives: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[frozenset[str]] = frozenset()

    def init(self, size: int) -> State:
        return {}


@dataclass(frozen=True)
class Cast(Rowwise):
    """Blocks travel in fewer bits, rounded to nearest; what is too large becomes the largest.

    Parameters
    ----------
    dtype : {"f16"}

    Examples
    --------
    >>> sent = Updates(np.zeros(1, int), {"change": np.array([[0.1]], "f4")}, np.ones(1), {})
    >>> coded, _, _ = Cast().apply({}, sent, DeviceStates(), At(0, 1))
    >>> coded.blocks["change"], coded.nbytes - sent.nbytes
    (array([[0.09997559]], dtype=float32), array([-2]))
    """

    dtype: Literal["f16"] = "f16"

    takes: ClassVar[frozenset[str]] = frozenset({"integer"})

    def __post_init__(self) -> None:
        if self.dtype != "f16":
            raise ValueError(f"dtype is {self.dtype!r}; choose 'f16'")

    def encode(self, row: Array) -> bytes:
        """Return a device's block, (n,), as it travels: little-endian."""
        return self._cast(row).astype("<f2").tobytes()

    def decode(self, sent: bytes, numbers: np.dtype[Any]) -> Array:
        """Return the block that was sent."""
        return np.frombuffer(sent, "<f2").astype(numbers)

    def apply(
        self, state: State, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Updates, State, DeviceStates]:
        blocks = {name: self._cast(b).astype(b.dtype) for name, b in sent.blocks.items()}
        sizes = {
            name: np.full(len(sent), 2 * block.shape[1], np.int64) for name, block in blocks.items()
        }
        return replace(sent, blocks=blocks, sizes=sizes), state, kept

    def _cast(self, block: Array) -> Array:
        largest = np.finfo(np.float16).max
        return np.asarray(np.clip(block, -largest, largest).astype(np.float16))


@dataclass(frozen=True)
class ClipNorm(Rowwise):
    """No update is longer than `norm` (Euclidean, over all its blocks): longer ones are shortened.

    Parameters
    ----------
    norm : float

    Source: McMahan et al., "Learning differentially private recurrent language models", ICLR 2018,
    algorithm 1 (flat clipping).

    Examples
    --------
    >>> sent = Updates(np.zeros(1, int), {"change": np.array([[3.0, 4.0]])}, np.ones(1), {})
    >>> ClipNorm(1.0).apply({}, sent, DeviceStates(), At(0, 1))[0].blocks["change"]
    array([[0.6, 0.8]])
    """

    norm: float

    takes: ClassVar[frozenset[str]] = frozenset({"integer"})

    def __post_init__(self) -> None:
        positive(norm=self.norm)

    def apply(
        self, state: State, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Updates, State, DeviceStates]:
        squares = np.zeros(len(sent))
        for block in sent.blocks.values():
            squares += np.einsum("mn,mn->m", block, block, dtype=np.float64)
        shorter = np.minimum(1.0, self.norm / np.maximum(np.sqrt(squares), self.norm))
        blocks = {
            name: block * shorter[:, None].astype(block.dtype)
            for name, block in sent.blocks.items()
        }
        return replace(sent, blocks=blocks), state, kept
