"""Stages: what happens to updates on their way to the server, each a frozen dataclass.

A stage maps the updates of some devices to other ones, row by row, with a state of its own and
what each device keeps. It says what it needs of what comes in, and what it changes about it, so
that a chain that makes no sense is refused when it is built (see `fedlab.updates.chain`):

    rows      each device's blocks can be read, as numbers
    linear    a weighted sum of the blocks means what it would without the stage
    integer   blocks hold whole numbers
    hidden    only a sum over devices can be read
    fresh     changes are as they were trained: not clipped, nor is anything owed added to them
    additive  what travels may be added up before it is decoded, as it must be behind a mask
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from fedlab.core.typing import F64, Array
from fedlab.core.validation import positive
from fedlab.device.device import Device
from fedlab.device.states import DeviceStates
from fedlab.updates.sent import Updates

State = Any


class At(NamedTuple):
    """Where a stage's draws stand (see `fedlab.core.randomness`), among whom, and its place.

    `devices` are all of the federation: `Updates.places` point there. `summed` tells codecs that
    messages are added up, and decoded after that. Codecs put messages of a single device into
    `messages`, by the block's name, where they are to travel.
    """

    seed: int
    round: int
    devices: Sequence[Device] = ()
    stage: int | str = 0
    summed: bool = False
    messages: dict[str, bytes] | None = None


class Stage(Protocol):
    """What happens to updates on their way, with what it needs and what it changes."""

    #: What must hold of the updates that come in.
    @property
    def needs(self) -> frozenset[str]: ...

    #: What holds of those that go out, and did not before.
    @property
    def gives(self) -> frozenset[str]: ...

    #: What no longer holds.
    @property
    def takes(self) -> frozenset[str]: ...

    def init(self, size: int) -> State:
        """Return the state before the first round, for `size` parameters."""

    def apply(
        self, state: State, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Updates, State, DeviceStates]:
        """Return what goes on, the next state, and what devices keep; nothing in place."""


def squares_of(blocks: Iterable[Array], count: int) -> F64:
    """Return devices' squared lengths over all their blocks, (m,); each row's bits are its own.

    (Those of `numpy.einsum` depend on how many rows there are.)
    """
    from fedlab.updates import kernels

    total, one = np.zeros(count), np.empty(count)
    for block in blocks:
        kernels.squares(block, one)
        total += one
    return total


def shortening(lengths: F64, most: float) -> F64:
    """Return by what to multiply vectors so that none is longer than `most`, (m,)."""
    return most / np.maximum(lengths, most)


class Rowwise:
    """A stage that looks at numbers of single devices, and remembers nothing."""

    needs: ClassVar[frozenset[str]] = frozenset({"rows"})
    gives: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[frozenset[str]] = frozenset()

    def init(self, size: int) -> State:
        return {}


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

    takes: ClassVar[frozenset[str]] = frozenset({"integer", "fresh"})

    def __post_init__(self) -> None:
        positive(norm=self.norm)

    def apply(
        self, state: State, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Updates, State, DeviceStates]:
        lengths = np.sqrt(squares_of(sent.blocks.values(), len(sent)))
        shorter = shortening(lengths, self.norm)
        blocks = {
            name: block * shorter[:, None].astype(block.dtype)
            for name, block in sent.blocks.items()
        }
        return replace(sent, blocks=blocks), state, kept
