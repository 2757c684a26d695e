"""CSV files as text: as many fields a row as the header names, or it is said which rows differ."""

from __future__ import annotations

import codecs
import csv
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fedlab.data.tables.columns import rows_text

if TYPE_CHECKING:
    import pandas as pd

_SEPARATORS = {";": "';'", "\t": r"'\t'", "|": "'|'", ",": "','"}


@dataclass(frozen=True)
class _Shape:
    """Names of the columns, with the line of each row, and how many fields it has."""

    columns: list[str]
    lines: list[int]
    remarks: list[str]


def read_separated(path: Path, sep: str, encoding: str) -> tuple[pd.DataFrame, list[str]]:
    """Read a CSV, packed by gzip or not, into a frame of text by line; and what is odd about it.

    A header of one name fewer than the rows have fields belongs to a file with row names, as R's
    ``write.table`` makes it: they are left out. Rows that end in a separator look the same; they
    are told apart by what stands in the first field, and in the last.

    Raises
    ------
    ValueError
        If it can't be decoded, has a quote that doesn't end, rows that are longer than the header,
        or a name twice. The message says in which lines, and what to do.
    """
    import pandas as pd

    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise ValueError(f"encoding is {encoding!r}, which is none; 'utf-8' is one") from error
    try:
        with _opened(path, encoding) as file:
            shape = _shape_of(file, path.name, sep)
        with _opened(path, encoding) as file:
            frame = pd.read_csv(
                file, sep=sep, dtype=str, header=0, names=shape.columns, index_col=False
            )
    except UnicodeError as error:
        with path.open("rb") as begin:
            likely = "utf-16" if begin.read(2) in (b"\xff\xfe", b"\xfe\xff") else "cp1252"
        raise ValueError(
            f"{path.name} can't be read as {encoding} ({error}); name its encoding, as in "
            f"encoding={likely!r}"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path.name} can't be unpacked ({error}); get the file anew") from error
    frame.index = pd.Index(shape.lines, name="line")
    return frame.drop(columns=[""], errors="ignore"), shape.remarks


def _opened(path: Path, encoding: str) -> IO[str]:
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    known = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    file: IO[str] = opener(path, "rt", encoding=known, newline="")
    return file


def _records(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank, with the line in which it begins."""
    line = 1
    for row in reader:
        if len(row) > 1 or (row and row[0].strip()):
            yield line, row
        line = reader.line_num + 1


def _shape_of(file: IO[str], name: str, sep: str) -> _Shape:
    if len(sep) != 1:
        raise ValueError(f"sep is {sep!r}; it takes one character")
    reader = csv.reader(file, delimiter=sep, strict=True)
    lines, counts, ends, first = list[int](), list[int](), set[str](), list[str]()
    try:
        _, header = next(records := _records(reader), (0, []))
        for line, row in records:
            lines.append(line)
            counts.append(len(row))
            if len(row) > len(header):
                first.append(row[0])
                ends.add(row[-1].strip())
    except csv.Error as error:
        raise ValueError(
            f"{name}, line {reader.line_num}: {error}; a quote doesn't end there, or ends too early"
        ) from error
    if not header:
        raise ValueError(f"{name} is empty; its first row names the columns")
    columns = [column.strip() or f"Unnamed: {place}" for place, column in enumerate(header)]
    if len(columns) < 2:
        likely = next(
            (said for mark, said in _SEPARATORS.items() if mark in "".join(header)), "';'"
        )
        raise ValueError(
            f"{name} has one column, {''.join(header)!r}, by the separator {sep!r}; name another, "
            f"as in sep={likely}"
        )
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise ValueError(f"{name} has columns of the same name: {', '.join(twice)}; rename them")
    fields, line_of = np.array(counts, np.int64), np.array(lines, np.int64)
    long = fields > len(columns)
    names_rows = long.all() and len(lines) and (fields == len(columns) + 1).all()
    if long.any() and not (names_rows and ends != {""} and len(set(first)) == len(first)):
        raise ValueError(
            f"{name} names {len(columns)} columns, and has more fields in "
            f"{_lines(line_of[long])}: remove separators at the ends of rows (or name that column, "
            "too), and quote fields that hold one"
        )
    short = fields < len(columns)
    fewer = f"there are fewer fields than the {len(columns)} names in {_lines(line_of[short])}"
    if len(lines) and short.all():
        raise ValueError(f"{name}: {fewer}; take out names that have no column")
    remarks = [f"{fewer}: the last ones are missing"] if short.any() else []
    return _Shape([""] * bool(names_rows) + columns, lines, remarks)


def _lines(lines: Any) -> str:
    import pandas as pd

    return rows_text(pd.Index(lines, name="line"))
