"""CSV files: as many fields a row as the header names, or it is said which rows differ."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedlab.data.tables.columns import EXACT, refuse_twice, rows_text, typed

if TYPE_CHECKING:
    import pandas as pd


class _Csv(NamedTuple):
    """A file in UTF-8: columns ("" for row names), each row's line, columns with leading zeros."""

    source: Path | bytes
    sep: str
    columns: list[str]
    lines: pd.Index[Any]
    codes: set[str]

    def read(self, texts: set[str], **some: Any) -> pd.DataFrame:
        import pandas as pd

        some |= {"names": self.columns, "index_col": False}
        some["dtype"] = dict.fromkeys(texts.intersection(self.columns), str)
        source = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source
        with warnings.catch_warnings(action="ignore", category=pd.errors.DtypeWarning):
            frame: pd.DataFrame = pd.read_csv(source, sep=self.sep, header=0, **some)
        frame.index = self.lines
        return frame.drop(columns=[""]) if "" in frame else frame


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
    from pandas.api.types import infer_dtype, is_string_dtype

    if len(sep.encode()) != 1 or sep in '"\r\n':
        raise ValueError(f"sep is {sep!r}; it takes one character of ASCII, no quote nor line end")
    remarks = list[str]()
    files = [_looked_at(path, sep, encoding, remarks) for path in paths]
    codes = set[str]().union(*(file.codes for file in files))
    frames = [file.read(codes | names) for file in files]
    text = [{str(c) for c in frame if is_string_dtype(frame[c])} for frame in frames]
    unsure = text[0].union(*text) - text[0].intersection(*text)
    for frame in frames:  # pandas types a long file part by part, and parts may differ
        objects = [c for c in frame if frame[c].dtype.kind == "O"]
        unsure.update(str(c) for c in objects if infer_dtype(frame[c]).startswith("mixed"))
        floats = frame.select_dtypes(float).abs().max()
        unsure.update(floats.index[floats > EXACT])
    for frame, file in zip(frames, files, strict=True):
        if again := unsure.intersection(frame):
            frame[[*again]] = file.read(again, usecols=[*again])[[*again]]
    for column in (unsure | names) - codes:
        if having := [frame for frame in frames if column in frame]:
            values = typed(pd.concat([f[column] for f in having]), name=column in names)
            for frame in having:
                frame[column], values = values.iloc[: len(frame)], values.iloc[len(frame) :]
    return frames, remarks


def _content_of(path: Path, encoding: str) -> bytes:
    """Return a file's text in UTF-8, or say what to do if it can't be read."""
    content = path.read_bytes()
    try:
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
        if codecs.lookup(encoding).name != "utf-8":
            content = content.decode(encoding).encode()
        elif not content.isascii():
            content.decode()
        return content.removeprefix(codecs.BOM_UTF8)
    except LookupError as error:
        raise ValueError(f"encoding is {encoding!r}, which is none; 'utf-8' is one") from error
    except UnicodeError as error:
        likely = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "cp1252"
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


def _looked_at(path: Path, sep: str, encoding: str, remarks: list[str]) -> _Csv:
    import pandas as pd

    content, name = _content_of(path, encoding), path.name
    reader = csv.reader(io.StringIO(content.decode(), newline=""), delimiter=sep, strict=True)
    zeros, coded = re.compile(rf"{re.escape(sep)}\s*[+-]?0\d"), set[int]()
    starts, counts = list[int](), list[int]()
    try:
        _, header = next(records := _records(reader), (0, []))
        for line, row in records:
            starts.append(line)
            counts.append(len(row))
            if zeros.search(sep + sep.join(row)):  # a search a row costs less than one a field
                coded |= {place for place, field in enumerate(row) if zeros.match(sep + field)}
    except csv.Error as error:
        raise ValueError(
            f"{name}, line {reader.line_num}: {error}; a quote doesn't end there, or ends too early"
        ) from error
    if not header:
        raise ValueError(f"{name} is empty; its first row names the columns")
    columns = [column.strip() or f"Unnamed: {place}" for place, column in enumerate(header)]
    if len(columns) == 1:
        likely = next((mark for mark in ";\t|," if mark in header[0]), ";")
        raise ValueError(
            f"{name} has one column, {header[0]!r}, by the separator {sep!r}; name another, as in "
            f"sep={likely!r}"
        )
    refuse_twice(columns, f"{name} has columns of the same name", "; rename them")
    lines, fields = pd.Index(starts, name="line", dtype=np.int64), np.array(counts, np.int64)
    # What pandas can read from the file itself, it reads faster from there.
    plain = path.suffix.lower() != ".gz" and codecs.lookup(encoding).name == "utf-8"
    source = path if plain else content
    many, long = len(columns), lines[fields > len(columns)]
    if len(long):
        if named := bool((fields == many + 1).all()):
            file = _Csv(source, sep, [*map(str, range(many + 1))], lines, set())
            outer = file.read({"0", str(many)}, usecols=["0", str(many)], keep_default_na=False)
            named = outer["0"].is_unique and bool(outer[str(many)].str.strip().ne("").any())
        if not named:
            raise ValueError(
                f"{name} names {many} columns, and has more fields in {rows_text(long)}: remove "
                "separators at the ends of rows (or name that column, too), and quote fields that "
                "hold one"
            )
        columns = ["", *columns]
    if len(short := lines[fields < many]):
        fewer = f"there are fewer fields than the {many} names in {rows_text(short)}"
        if len(short) == len(lines):
            raise ValueError(f"{name}: {fewer}; take out names that have no column")
        remarks.append(f"{fewer}: the last ones are missing")
    codes = {columns[place] for place in coded} - {""}
    return _Csv(source, sep, columns, lines, codes)
