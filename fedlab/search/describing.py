"""What server and devices say to each other of labels and metadata, once hits are certain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import U64
from fedlab.index.metadata import BESIDE

_COUNT, _NONCE = 4, 16
_LARGEST_CODE = 0x10FFFF


@dataclass(frozen=True, eq=False)
class Describe:
    """What do these columns say of the rows of these keys?

    Attributes
    ----------
    keys : (m,) uint64 array
    columns : tuple of str
        "label", or names of metadata.
    nonce : bytes
    """

    keys: U64
    columns: tuple[str, ...]
    nonce: bytes

    @property
    def nbytes(self) -> int:
        """Bytes of keys and nonce, and of the names, each after its length."""
        names = sum(_COUNT + len(name.encode()) for name in self.columns)
        return self.keys.nbytes + names + _NONCE


@dataclass(frozen=True, eq=False)
class Described:
    """Labels and metadata of rows, as far as the device gives them away.

    Attributes
    ----------
    nonce : bytes
        The request's.
    columns : mapping of str to (m,) array or None
        Every column that was asked for: int64, float64, bool, datetime64[us] or text; None where
        the device declines.
    """

    nonce: bytes
    columns: Mapping[str, NDArray[Any] | None]

    @property
    def nbytes(self) -> int:
        """Bytes of the nonce and of each column: one for its type, or that there is none; values.

        Texts travel in UTF-8, each after its length.
        """
        return _NONCE + sum(1 + _bytes_in(column) for column in self.columns.values())


def _bytes_in(column: NDArray[Any] | None) -> int:
    if column is None or column.dtype.kind not in "UT":
        return 0 if column is None else column.nbytes
    return sum(_COUNT + len(text.encode("utf-8", "surrogatepass")) for text in column.tolist())


def believed(described: Any, request: Describe) -> str | Described:
    """Judge labels and metadata that were given, and return a copy that no other can change."""
    if type(described) is not Described:
        return f"described rows with a {type(described).__name__}"
    if type(described.nonce) is not bytes or described.nonce != request.nonce:
        return "described rows for another request (a replay)"
    given = described.columns
    if type(given) is not dict or set(given) != set(request.columns):
        return f"did not say of each of {', '.join(request.columns)} what it gives"
    columns: dict[str, NDArray[Any] | None] = dict.fromkeys(request.columns)
    for name in request.columns:
        if (column := given[name]) is None:
            continue
        if type(column) is not np.ndarray or column.shape != request.keys.shape:
            return f"gave {name!r} not as one value a row"
        mine = columns[name] = np.array(column)
        if mine.dtype not in BESIDE and not _is_text(mine):
            return f"gave {name!r} as {mine.dtype}, or text that is none"
    return Described(described.nonce, columns)


def _is_text(column: NDArray[Any]) -> bool:
    """Return whether a column is text, and each of its characters one."""
    if column.dtype.kind != "U":
        return column.dtype.kind == "T"
    codes = np.ascontiguousarray(column).view(np.uint32)
    return bool(codes.max(initial=0) <= _LARGEST_CODE)
