"""CSV files: as many fields a row as the header names, or it is said which rows differ."""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedlab.data.tables.columns import EXACT, rows_text, typed

if TYPE_CHECKING:
    import pandas as pd


class _Shape(NamedTuple):
    """Columns ("" for row names), each row's line, columns with leading zeros, and remarks."""

    columns: list[str]
    lines: pd.Index[Any]
    codes: set[str]
    remarks: list[str]


def read_separated(
    paths: Sequence[Path], names: set[str], sep: str, encoding: str
) -> tuple[list[pd.DataFrame], list[str]]:
    """Read CSV files of one table, packed by gzip or not, by line; and what is odd about them.

    Columns are typed as pandas does, over all files, but for codes, which stay text: those with
    leading zeros, and `names` (of devices, of rows) unless all are plain whole numbers. Whole
    numbers beside missing ones pass through no float.

    A header of one name fewer than the rows have fields belongs to a file with row names, as R's
    ``write.table`` makes it: they are left out. Rows that end in a separator look the same; they
    are told apart by what stands in the first field, and in the last.

    Raises
    ------
    ValueError
        If one can't be decoded, has a quote that doesn't end, rows that are longer than the header,
        or a name twice. The message says in which lines, and what to do.
    """
    import pandas as pd
    from pandas.api.types import is_string_dtype

    shapes = []
    for path in paths:
        with _opened(path, encoding) as file:
            shapes.append(_shape_of(file, path.name, sep))

    def read(texts: set[str]) -> list[pd.DataFrame]:
        frames = []
        for path, (columns, lines, *_) in zip(paths, shapes, strict=True):
            known = dict.fromkeys(texts.intersection(columns), str)
            settings: Any = {"header": 0, "names": columns, "index_col": False, "dtype": known}
            with _opened(path, encoding) as file:
                frame = pd.read_csv(file, sep=sep, low_memory=False, **settings)
            frames.append(frame.set_axis(lines).drop(columns=[""], errors="ignore"))
        return frames

    codes = set[str]().union(*(shape.codes for shape in shapes))
    frames = read(codes | names)
    text = [{str(c) for c in frame if is_string_dtype(frame[c])} for frame in frames]
    unsure = text[0].union(*text) - text[0].intersection(*text)
    for frame in frames:
        floats = frame.select_dtypes(float)
        unsure |= {str(c) for c in floats if floats[c].abs().max() > EXACT}
    if unsure:
        frames = read(codes | names | unsure)
    whole, ends = pd.concat(frames), np.cumsum([len(frame) for frame in frames])
    for column in (unsure | names).difference(codes).intersection(map(str, whole)):
        whole[column] = typed(whole[column], name=column in names)
    parts = zip(ends, frames, strict=True)
    frames = [whole.iloc[end - len(frame) : end][frame.columns] for end, frame in parts]
    return frames, [remark for shape in shapes for remark in shape.remarks]


@contextmanager
def _opened(path: Path, encoding: str) -> Iterator[IO[str]]:
    """Open a file for reading, and say what to do if it can't be read."""
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        known = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    except LookupError as error:
        raise ValueError(f"encoding is {encoding!r}, which is none; 'utf-8' is one") from error
    try:
        with opener(path, "rt", encoding=known, newline="") as file:
            yield file
    except UnicodeError as error:
        begin = getattr(error, "object", b"")[:2]
        likely = "utf-16" if begin in (b"\xff\xfe", b"\xfe\xff") else "cp1252"
        raise ValueError(
            f"{path.name} can't be read as {encoding} ({error}); name its encoding, as in "
            f"encoding={likely!r}"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path.name} can't be unpacked ({error}); get the file anew") from error


def _records(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank, with the line in which it begins."""
    line = 1
    for row in reader:
        if len(row) > 1 or (row and row[0].strip()):
            yield line, row
        line = reader.line_num + 1


def _shape_of(file: IO[str], name: str, sep: str) -> _Shape:
    import pandas as pd

    if len(sep) != 1:
        raise ValueError(f"sep is {sep!r}; it takes one character")
    reader = csv.reader(file, delimiter=sep, strict=True)
    lines, counts, ends, first = list[int](), list[int](), set[str](), list[str]()
    zeros, coded = re.compile(rf"{re.escape(sep)}\s*[+-]?0\d"), set[int]()
    try:
        _, header = next(records := _records(reader), (0, []))
        for line, row in records:
            lines.append(line)
            counts.append(len(row))
            if zeros.search(sep + sep.join(row)):  # a search a row costs less than one a field
                coded |= {place for place, field in enumerate(row) if zeros.match(sep + field)}
            if len(row) > len(header):
                first.append(row[0])
                ends.add(row[-1].strip())
    except csv.Error as error:
        raise ValueError(
            f"{name}, line {reader.line_num}: {error}; a quote doesn't end there, or ends too early"
        ) from error
    columns = [column.strip() or f"Unnamed: {place}" for place, column in enumerate(header)]
    if not header:
        raise ValueError(f"{name} is empty; its first row names the columns")
    if len(columns) == 1:
        likely = next((mark for mark in ";\t|," if mark in header[0]), ";")
        raise ValueError(
            f"{name} has one column, {header[0]!r}, by the separator {sep!r}; name another, as in "
            f"sep={likely!r}"
        )
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise ValueError(f"{name} has columns of the same name: {', '.join(twice)}; rename them")
    fields, of_row, many = np.array(counts), pd.Index(lines, name="line"), len(columns)
    named = bool(lines) and (fields == many + 1).all() and len(set(first)) == len(first)
    if (fields > many).any() and not (named and ends != {""}):
        raise ValueError(
            f"{name} names {many} columns, and has more fields in "
            f"{rows_text(of_row[fields > many])}: remove separators at the ends of rows (or name "
            "that column, too), and quote fields that hold one"
        )
    short = of_row[fields < many]
    fewer = f"there are fewer fields than the {many} names in {rows_text(short)}"
    if 0 < len(short) == len(lines):
        raise ValueError(f"{name}: {fewer}; take out names that have no column")
    remarks = [f"{fewer}: the last ones are missing"] if len(short) else []
    columns = [""] * int(named) + columns
    return _Shape(columns, of_row, {columns[place] for place in coded} - {""}, remarks)
