"""What messages are made of: numbers as they are, symbols and places near their entropy.

Readers know the counts, from the model and the codec's settings, so that bytes from elsewhere
can't make them allocate more; what doesn't fit raises a ValueError. Sources: Duda, "Asymmetric
numeral systems", 2013; coded by the library constriction (Bamler 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import Array

#: How symbols travel: in as few whole bits as hold each of them, or entropy-coded.
_PACKED, _CODED = b"\0", b"\1"


class Field(Protocol):
    """A part of a message: arrays of one kind, to bytes and back."""

    def pack(self, array: NDArray[Any]) -> bytes:
        """Return an array's bytes."""

    def read(self, data: bytes) -> tuple[NDArray[Any], bytes]:
        """Return the array that bytes begin with, and those after it."""


@dataclass(frozen=True)
class Raw:
    """So many numbers of a type, little-endian."""

    numbers: str | np.dtype[Any]
    count: int

    def pack(self, array: NDArray[Any]) -> bytes:
        return array.astype(self._travels).tobytes()

    def read(self, data: bytes) -> tuple[NDArray[Any], bytes]:
        end = self._travels.itemsize * self.count
        if len(data) < end:
            raise ValueError(f"a message ends after {len(data)} bytes of a part that has {end}")
        array = np.frombuffer(data[:end], self._travels)
        return array.astype(self._travels.newbyteorder("=")), data[end:]

    @property
    def _travels(self) -> np.dtype[Any]:
        return np.dtype(self.numbers).newbyteorder("<")


@dataclass(frozen=True)
class Symbols:
    """So many of the whole numbers below `alphabet`; the last part of a message.

    A byte says how they travel; entropy-coded ones come after how often each occurs, in two bytes.
    """

    alphabet: int
    count: int

    def pack(self, array: NDArray[Any]) -> bytes:
        often = np.bincount(array, minlength=self.alphabet)
        shares = often[often > 0] / max(1, self.count)
        bits = -float(shares @ np.log2(shares)) * self.count
        if bits / 8 + 2 * self.alphabet + 4 >= self._packed:
            places = np.arange(self._bits, dtype=np.uint8)
            flags = array.astype(np.uint8)[:, None] >> places & 1
            return _PACKED + np.packbits(flags, bitorder="little").tobytes()
        often = np.where(often > 0, np.maximum(1, often * 0xFFFF // self.count), 0).astype("<u2")
        return _CODED + often.tobytes() + _to_words(array, _categorical(often))

    def read(self, data: bytes) -> tuple[NDArray[Any], bytes]:
        kind, data = data[:1], data[1:]
        if kind == _PACKED and len(data) == self._packed:
            unpacked = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
            flags = unpacked[: self.count * self._bits].reshape(self.count, self._bits)
            symbols = flags @ (1 << np.arange(self._bits))
        elif kind == _CODED and len(data) > 2 * self.alphabet and any(data[: 2 * self.alphabet]):
            often = np.frombuffer(data[: 2 * self.alphabet], "<u2")
            symbols = _from_words(data[2 * self.alphabet :], _categorical(often), self.count)
        else:
            raise ValueError(f"a message of {len(data)} bytes can't hold {self.count} symbols")
        if len(symbols) and symbols.max() >= self.alphabet:
            raise ValueError(f"a message has a symbol that is not below {self.alphabet}")
        return symbols, b""

    @property
    def _bits(self) -> int:
        return max(1, (self.alphabet - 1).bit_length())

    @property
    def _packed(self) -> int:
        return -(-self.count * self._bits // 8)


@dataclass(frozen=True)
class Subset:
    """So many places, rising, among `of`; the last part of a message."""

    count: int
    of: int

    def pack(self, array: NDArray[Any]) -> bytes:
        chosen = np.zeros(self.of, np.int32)
        chosen[array] = 1
        return _to_words(chosen, self._model())

    def read(self, data: bytes) -> tuple[NDArray[Any], bytes]:
        places = np.flatnonzero(_from_words(data, self._model(), self.of))
        if len(places) != self.count:
            raise ValueError(f"a message names {len(places)} places; {self.count} are needed")
        return places, b""

    def _model(self) -> Any:
        from constriction import stream

        return stream.model.Bernoulli(self.count / self.of, perfect=False)


def _categorical(often: Array) -> Any:
    from constriction import stream

    return stream.model.Categorical(often / often.sum(dtype=np.float64), perfect=False)


def _to_words(symbols: Array, model: Any) -> bytes:
    from constriction import stream

    coder = stream.stack.AnsCoder()
    coder.encode_reverse(symbols.astype(np.int32, copy=False), model)
    return bytes(coder.get_compressed().astype("<u4").tobytes())


def _from_words(data: bytes, model: Any, count: int) -> NDArray[Any]:
    from constriction import stream

    if len(data) % 4:
        raise ValueError(f"a message's coded part has {len(data)} bytes; whole words have 4")
    coder = stream.stack.AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))
    symbols: NDArray[Any] = coder.decode(model, count)
    if not coder.is_empty():
        raise ValueError("a message goes on after its last symbol")
    return symbols
