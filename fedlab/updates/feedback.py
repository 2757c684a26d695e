"""What a codec left out, sent later: error feedback, and EF21."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlab.core.typing import I64, Array, Places
from fedlab.core.validation import of_kind
from fedlab.device.states import DeviceStates
from fedlab.updates.codecs import Codec, Coding, fitted
from fedlab.updates.sent import Updates
from fedlab.updates.stages import At


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

    def passed(
        self, name: str, rows: Array, places: Places, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Array, I64, DeviceStates]:
        memory = f"{type(self).__name__} of {name} at {at.stage}"
        old = kept.rows(memory, places, np.zeros(rows.shape[1], rows.dtype))
        with np.errstate(over="ignore"):
            whole = fitted(rows + old if self._owes else rows - old, rows.dtype)
            coded, sizes, kept = self.codec.passed(name, whole, places, sent, kept, at)
            new = fitted(whole - coded if self._owes else old + coded, rows.dtype)
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
    >>> from fedlab.updates.sparse import TopK
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
    the device; a server keeps all of its own.

    Parameters
    ----------
    codec : Codec
        Its error must be less than what it codes.

    Source: Richtarik, Sokolov and Fatkhullin, "EF21: a new, simpler, theoretically better, and
    practically faster error feedback", NeurIPS 2021, algorithm 2.
    """

    _owes: ClassVar[bool] = False
