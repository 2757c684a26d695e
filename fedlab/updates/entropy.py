"""What messages are made of: numbers as they are, and symbols near their entropy.

Readers know the counts, from the model and the codec's settings, so that bytes from elsewhere
can't make them allocate more; what doesn't fit raises a ValueError. Sources: Duda, "Asymmetric
numeral systems", 2013; coded by the library constriction (Bamler 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from fedlab.core.typing import Array

#: How symbols travel: in as few whole bits as hold each of them, or entropy-coded.
_PACKED, _CODED = b"\0", b"\1"


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
        coder = stream.stack.AnsCoder()
        coder.encode_reverse(array.astype(np.int32, copy=False), _model(often))
        return _CODED + often.tobytes() + bytes(coder.get_compressed().astype("<u4").tobytes())

    def read(self, data: bytes) -> tuple[NDArray[Any], bytes]:
        kind, often, coded = data[:1], data[1:][: 2 * self.alphabet], data[1:][2 * self.alphabet :]
        if kind == _PACKED and len(data) - 1 == self._packed:
            unpacked = np.unpackbits(np.frombuffer(data[1:], np.uint8), bitorder="little")
            flags = unpacked[: self.count * self._bits].reshape(self.count, self._bits)
            symbols = flags @ (1 << np.arange(self._bits))
        elif kind == _CODED and len(data) > 2 * self.alphabet and any(often) and not len(coded) % 4:
            coder = stream.stack.AnsCoder(np.frombuffer(coded, "<u4").astype(np.uint32))
            symbols = coder.decode(_model(np.frombuffer(often, "<u2")), self.count)
            if not coder.is_empty():
                raise ValueError("a message goes on after its last symbol")
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


#: A part of a message: arrays of one kind, to bytes and back.
Field = Raw | Symbols


def _model(often: Array) -> Any:
    return stream.model.Categorical(often / often.sum(dtype=np.float64), perfect=False)
