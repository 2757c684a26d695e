"""How rows are stored: five encodings, and the table that is the truth of an index.

A table holds one contiguous array of encoded rows, with a key and perhaps a label for each.
Everything else (a search graph, an order of the keys) is derived from it. Training, `get` and the
exact scan read its rows *decoded*: what compression lost is lost for all of them alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.validation import read_only

__all__ = ["DTYPES", "LARGEST", "Columns", "Table", "codes_in", "decode", "encode"]

Float = NDArray[np.float32]
Columns = dict[str, NDArray[np.generic]]

#: Storage types by name, and the NumPy type of their codes (it has no bfloat16: bits are kept).
DTYPES: dict[str, np.dtype[np.generic]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),
    "i8": np.dtype(np.int8),
    "b1": np.dtype(np.uint8),  # eight numbers a code
}

#: The largest number that each holds, or that keeps squared lengths within float32.
LARGEST = {"f32": 1e18, "f16": 65504.0, "bf16": 1e18, "i8": 1e18, "b1": 1e18}

#: The numbers that the eight bits of a code stand for, but for the row's scale.
_SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * np.float32(2) - 1


def codes_in(dimensions: int, dtype: str) -> int:
    """Return how many codes a row takes.

    Examples
    --------
    >>> codes_in(20, "f16"), codes_in(20, "b1")
    (20, 3)
    """
    return -(-dimensions // 8) if dtype == "b1" else dimensions


def encode(vectors: Float, dtype: str) -> Columns:
    """Encode rows: ``codes``, and for i8 and b1 the ``scales`` that undo it.

    Parameters
    ----------
    vectors : (n, d) float32 array
        Finite rows.
    dtype : {"f32", "f16", "bf16", "i8", "b1"}
        f16 and bf16 round to nearest even. i8 keeps round(127 x / max|x|) and the row's own
        scale max|x| / 127, so that norms survive and every row uses all 255 levels. b1 keeps the
        sign of each number, a bit, and the row's scale mean|x|, for which scale * sign has the
        least squared error (Rastegari et al., "XNOR-Net", ECCV 2016, eq. 6).

    Returns
    -------
    dict
        ``codes`` (n, d), under b1 (n, d / 8 rounded up), the first number in a byte's highest bit;
        and under i8 and b1 ``scales`` (n,) float32. f32 codes are `vectors` itself.

    Raises
    ------
    ValueError
        If a value is too large for the type.

    Examples
    --------
    >>> encode(np.float32([[1.0, -2.0]]), "i8")["codes"]
    array([[  64, -127]], dtype=int8)
    """
    largest = max(float(vectors.max(initial=0.0)), -float(vectors.min(initial=0.0)))
    if largest > LARGEST[dtype]:
        instead = ", or use bf16" if dtype == "f16" else ""
        raise ValueError(
            f"a value of size {largest:.6g} was given; {dtype} rows hold at most "
            f"{LARGEST[dtype]:.6g}: scale the vectors{instead}"
        )
    if dtype == "f32":
        return {"codes": vectors}
    if dtype == "f16":
        return {"codes": vectors.astype(np.float16)}
    if dtype == "bf16":
        bits = np.ascontiguousarray(vectors).view(np.uint32)
        return {"codes": ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)}
    if dtype == "b1":
        means = np.abs(vectors).mean(axis=1, dtype=np.float64)
        return {"codes": np.packbits(vectors >= 0, axis=1), "scales": means.astype(np.float32)}
    scales = (np.abs(vectors).max(axis=1, initial=0.0) / np.float32(127)).astype(np.float32)
    divisors = np.where(scales > 0, scales, np.float32(1))[:, None]
    return {
        "codes": np.clip(np.rint(vectors / divisors), -127, 127).astype(np.int8),
        "scales": scales,
    }


def decode(
    codes: NDArray[np.generic], scales: Float | None = None, dimensions: int | None = None
) -> Float:
    """Decode rows to float32; f32 codes are returned as they are, without a copy.

    Parameters
    ----------
    codes : array
        See `encode`.
    scales : (n,) float32 array
        For i8 and b1.
    dimensions : int
        Numbers in a row; for b1, whose codes say it to a multiple of eight only.

    Examples
    --------
    >>> decode(**encode(np.float32([[1.5, -3.0]]), "bf16"))
    array([[ 1.5, -3. ]], dtype=float32)
    >>> decode(**encode(np.float32([[1.5, -3.0]]), "b1"), dimensions=2)
    array([[ 2.25, -2.25]], dtype=float32)
    """
    if codes.dtype == np.float32:
        return codes  # type: ignore[return-value]
    if codes.dtype == np.uint16:
        bits: NDArray[np.uint32] = np.left_shift(codes, 16, dtype=np.uint32)
        return bits.view(np.float32)
    if codes.dtype == np.float16:
        return _widen(codes)
    assert scales is not None, "i8 and b1 codes mean nothing without their scales"
    if codes.dtype == np.uint8:
        assert dimensions is not None, "b1 codes don't say how many numbers they hold"
        codes = _SIGNS[codes].reshape(len(codes), 8 * codes.shape[1])[:, :dimensions]
    values: Float = np.multiply(codes, scales[:, None], dtype=np.float32)
    return values


def _widen(codes: NDArray[np.generic]) -> Float:
    """Return finite float16 numbers as float32, exactly; NumPy's own cast takes four times longer.

    Sign, exponent and fraction are moved to their places in a float32, whose exponent then is too
    small by the difference of the biases, 127 - 15 (subnormal numbers included).
    """
    bits = codes.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(~0x70001FFF)  # clears what the sign was copied into, and what was shifted in
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)
    return values


@dataclass(eq=False)
class _Room:
    """Buffers with space at the end, filled up to `used` rows."""

    buffers: Columns
    used: int


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length: a value, like a tuple. What changes it returns another table.

    A column is a slice of a buffer that may have room to spare, so that many small additions cost
    what one large one does. Rows that stand are never written again: who holds a column (a view,
    a graph, a search that is under way) may rely on it. A table over somebody else's arrays has no
    room, so it copies them before it grows. `dimensions` is what `decode` needs of b1.
    """

    columns: Columns
    _room: _Room | None = field(default=None, repr=False)
    dimensions: int | None = field(default=None, kw_only=True)

    @property
    def rows(self) -> int:
        return len(self.columns["codes"])

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())

    @property
    def squares(self) -> Float:
        """(n,) squared length of each decoded row."""
        return self.columns["squares"]  # type: ignore[return-value]

    @cached_property
    def stored(self) -> tuple[Any, ...]:
        """What compiled loops read: see `fedlab.scankernels`."""
        codes, none = self.columns["codes"], np.empty(0, np.float32)
        typed = codes.view(np.uint16) if codes.dtype == np.float16 else codes
        kinds = np.float32, np.uint16, np.int8, np.uint8
        return (
            list(DTYPES.values()).index(codes.dtype),
            *(
                read_only(typed if typed.dtype == kind else np.empty((0, 0), kind))
                for kind in kinds
            ),
            *(read_only(self.columns.get(name, none)) for name in ("scales", "keys", "squares")),
        )

    def decoded(self, rows: slice | NDArray[np.integer] = slice(None)) -> Float:
        """Return rows as float32, (n, d); under f32 a slice is a view."""
        scales = self.columns.get("scales")
        part = None if scales is None else scales[rows]
        codes = self.columns["codes"][rows]
        return decode(codes, part, self.dimensions)  # type: ignore[arg-type]

    def slice(self, start: int, stop: int) -> Table:
        """Return rows `start` ... `stop` - 1 as a table over the same memory."""
        columns = {name: column[start:stop] for name, column in self.columns.items()}
        return Table(columns, dimensions=self.dimensions)

    def appended(self, block: Columns) -> Table:
        """Return the table with rows added at the end."""
        total = self.rows + len(block["codes"])
        types = {name: self._common_type(name, added) for name, added in block.items()}
        room = self._room
        if room is None or not self._fits(room, types, total):
            room = self._more_room(block, types, total)
        for name, added in block.items():
            room.buffers[name][self.rows : total] = added
        room.used = total
        columns = {name: buffer[:total] for name, buffer in room.buffers.items()}
        return Table(columns, room, dimensions=self.dimensions)

    def _common_type(self, name: str, added: NDArray[np.generic]) -> np.dtype[np.generic]:
        return np.result_type(self.columns[name].dtype, added.dtype) if self.rows else added.dtype

    def _fits(self, room: _Room, types: dict[str, np.dtype[np.generic]], total: int) -> bool:
        # Another table that grew out of this one may have taken the space: then `used` is more.
        return (
            room.used == self.rows
            and len(room.buffers["codes"]) >= total
            and {name: buffer.dtype for name, buffer in room.buffers.items()} == types
        )

    def _more_room(
        self, block: Columns, types: dict[str, np.dtype[np.generic]], total: int
    ) -> _Room:
        # The first block fits exactly; later ones leave room for as much again.
        size = 2 * total if self.rows else total
        buffers = {}
        for name, added in block.items():
            # Zeros: memory that was freed may still hold rows that were erased.
            buffers[name] = np.zeros((size, *added.shape[1:]), types[name])
            if self.rows:
                buffers[name][: self.rows] = self.columns[name]
        return _Room(buffers, self.rows)

    def kept(self, mask: NDArray[np.bool_]) -> Table:
        """Return the rows where `mask` is true, in fresh arrays."""
        columns = {name: column[mask] for name, column in self.columns.items()}
        return Table(columns, dimensions=self.dimensions)

    def tightened(self) -> Table:
        """Return the table with texts no wider than the longest: a width tells of a row that went.

        Columns that need no narrowing are shared.
        """
        columns = {name: _narrow(column) for name, column in self.columns.items()}
        return replace(self, columns=columns, _room=None)

    @cached_property
    def _order(self) -> NDArray[np.intp]:
        return np.argsort(self.columns["keys"], kind="stable")

    def rows_of(self, keys: NDArray[np.uint64]) -> NDArray[np.intp]:
        """Return the row in which each key stands, -1 where none does."""
        known = self.columns["keys"]
        if not len(known):
            return np.full(len(keys), -1, np.intp)
        place = np.searchsorted(known, keys, sorter=self._order)
        rows = self._order[np.minimum(place, len(known) - 1)]
        return np.where(known[rows] == keys, rows, -1)


def _narrow(column: NDArray[np.generic]) -> NDArray[np.generic]:
    if column.dtype.kind != "U":
        return column
    longest = int(np.char.str_len(column).max(initial=1))  # type: ignore[arg-type]
    return column.astype(f"<U{max(longest, 1)}", copy=False)
