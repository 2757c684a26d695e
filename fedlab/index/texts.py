"""Columns of text: each distinct text once, and for each row which one it has.

So a column costs by its characters, and not, as NumPy's fixed width does, by the longest of them in
every row. Characters take four bytes each, as in NumPy: an audit can look for texts of four then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import I64, Bool
from fedlab.index.encoding import Columns

#: Arrays of longer texts than this come in NumPy's `StringDType`, which has no width.
WIDEST = 1024

_ENDS, _CONTENT = "ends:", "text:"


@dataclass(frozen=True, eq=False)
class TextColumn:
    """A column of text, a value like an array.

    Attributes
    ----------
    codes : (n,) int32 array
        Which text each row has.
    ends : (t,) int64 array
        Where each text ends in `content`, the NUL that closes it included.
    content : uint32 array
        The texts' characters, one text after another. Views of a column share it, so it may hold
        texts of other rows; see `alone`.

    Examples
    --------
    >>> column = TextColumn.of(np.array(["ill", "well", "ill"]))
    >>> column.codes, column.ends
    (array([0, 1, 0], dtype=int32), array([4, 9]))
    >>> column[1:].decoded()
    array(['well', 'ill'], dtype='<U4')
    >>> column.where(lambda text: text.startswith("w"))
    array([False,  True, False])
    """

    codes: NDArray[np.int32]
    ends: I64
    content: NDArray[np.uint32]
    dtype: ClassVar[np.dtype[np.str_]] = np.dtype("U")

    @classmethod
    def of(cls, values: NDArray[Any]) -> Self:
        """Return an array of text as a column."""
        try:
            return cls._holding(values.tolist(), np.arange(len(values)))
        except SystemError as error:
            raise ValueError(f"characters beyond Unicode ({error})") from error

    @classmethod
    def _holding(cls, texts: list[str], codes: NDArray[np.integer]) -> Self:
        """Return a column of those texts alone, in memory of its own."""
        numbers: dict[str, int] = {}
        places = [numbers.setdefault(text, len(numbers)) for text in texts]
        content = _encoded("\0".join([*numbers, ""]))
        ends = np.cumsum([len(text) + 1 for text in numbers], dtype=np.int64)
        return cls(np.array(places, np.int32)[codes], ends, content)

    def __reduce__(self) -> tuple[Any, ...]:
        one = self.alone()  # to another process goes no text of somebody else's rows
        return type(self), (one.codes, one.ends, one.content)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> Self:
        return replace(self, codes=self.codes[rows])

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.ends.nbytes + self.content.nbytes

    def _used(self) -> tuple[list[str], NDArray[np.int32]]:
        """Return the texts that some row has, and for each row which."""
        one = self.alone()
        whole, ends = _decoded(one.content), one.ends.tolist()
        spans = zip([0, *ends[:-1]], ends, strict=False)
        return [whole[begin : end - 1] for begin, end in spans], one.codes

    def alone(self) -> Self:
        """Return the column in memory of its own, which holds the texts of its rows and no other.

        Somebody else's rows, or rows that are gone, may have been the only ones to have a text.
        """
        held = np.bincount(self.codes, minlength=len(self.ends)) > 0
        if held.all():
            return type(self)(self.codes.copy(), self.ends.copy(), self.content.copy())
        codes = (np.cumsum(held) - 1)[self.codes].astype(np.int32)
        sizes = np.diff(self.ends, prepend=0)
        ends = np.cumsum(sizes[held], dtype=np.int64)
        return type(self)(codes, ends, self.content[np.repeat(held, sizes)])

    def merged(self) -> Self:
        """Return the column in memory of its own, which holds each text once."""
        return self._holding(*self._used())

    def after(self, other: TextColumn) -> Self:
        """Return the column as it continues another one."""
        codes = (self.codes + len(other.ends)).astype(np.int32)
        return replace(self, codes=codes, ends=self.ends + len(other.content))

    def where(self, test: Callable[[str], Any]) -> Bool:
        """Return which rows' texts pass a test: it is made once for each text."""
        texts, codes = self._used()
        return np.array([test(text) for text in texts], np.bool_)[codes]

    def strings(self) -> NDArray[np.object_]:
        """Return (n,) the texts as Python's own."""
        texts, codes = self._used()
        return np.array(texts, np.object_)[codes]

    def decoded(self) -> NDArray[Any]:
        """Return (n,) the texts as an array, as wide as the longest; beyond 1,024 `StringDType`."""
        texts, codes = self._used()
        longest = max(map(len, texts), default=1) or 1
        halves = (self.content >> 11 == 0xD800 >> 11).any()  # of characters: no UTF-8 has them
        wide = longest > WIDEST and not halves
        kind: Any = np.dtypes.StringDType() if wide else f"<U{longest}"
        return np.array(texts, kind)[codes]

    def check(self) -> None:
        """Raise ValueError unless it is what `of` makes: a file may hold anything."""
        ends, content = self.ends, self.content
        kinds = [part.dtype.str for part in (self.codes, ends, content)]
        if kinds != ["<i4", "<i8", "<u4"]:
            raise ValueError(f"text of types {', '.join(kinds)}")
        if not self.codes.ndim == ends.ndim == content.ndim == 1:
            raise ValueError("text in more than one dimension")
        if len(self) and not 0 <= self.codes.min() <= self.codes.max() < len(ends):
            raise ValueError(f"texts {self.codes.min()} ... {self.codes.max()} of {len(ends)}")
        if ends[-1:].sum() != len(content) or (np.diff(ends, prepend=0) < 1).any():
            raise ValueError("texts that do not end where they should")
        _decoded(content)


def _encoded(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint32)


def _decoded(characters: NDArray[np.uint32]) -> str:
    return characters.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def as_texts(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns with those of text as `TextColumn`."""
    return {
        name: TextColumn.of(column)
        if isinstance(column, np.ndarray) and column.dtype.kind in "UT"
        else column
        for name, column in columns.items()
    }


def plain(column: Any) -> NDArray[Any]:
    """Return a column as an array, or as it is where it stays in a file."""
    return column.decoded() if isinstance(column, TextColumn) else column


def alone(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns whose texts are those of their rows, and no other (see `TextColumn.alone`)."""
    return {n: c.alone() if isinstance(c, TextColumn) else c for n, c in columns.items()}


def flat(columns: Mapping[str, Any]) -> Columns:
    """Return columns as arrays alone, as rooms and files hold them: three for one of text."""
    arrays: Columns = {}
    for name, column in columns.items():
        if isinstance(column, TextColumn):
            arrays[name], arrays[_ENDS + name] = column.codes, column.ends
            arrays[_CONTENT + name] = column.content
        else:
            arrays[name] = column
    return arrays


def folded(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the columns of which `flat` made arrays."""
    names = [name for name in arrays if not name.startswith((_ENDS, _CONTENT))]
    return {
        name: TextColumn(arrays[name], arrays[_ENDS + name], arrays[_CONTENT + name])
        if _CONTENT + name in arrays
        else arrays[name]
        for name in names
    }
