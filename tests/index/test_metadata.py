"""What is known of each row: in, beside the rows wherever they go, and out again."""

from __future__ import annotations

import copy
import datetime
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from fedlab.files.keys import Key
from fedlab.index.file import IndexFileError
from fedlab.index.metadata import as_metadata, metadata_in
from fedlab.index.vectorindex import VectorIndex
from tests.helpers import DTYPES, clustered, content, filled, normal
from tests.index.test_file import parts_of, sealed

MICROSECOND = np.dtype("M8[us]")


def patients(rows: int, seed: int = 0) -> pd.DataFrame:
    """A column of each type, with what may be missing missing here and there."""
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": draw.integers(0, 100, rows),
            "dose": np.where(draw.random(rows) < 0.3, np.nan, draw.normal(size=rows)),
            "smoker": draw.random(rows) < 0.5,
            "ward": draw.choice(["A", "Ärzte", ""], rows),
            "date of birth": np.datetime64("1950-01-01", "us") + draw.integers(0, 10**15, rows),
        }
    )
    frame.loc[::4, "date of birth"] = pd.NaT
    return frame


def described(rows: int = 40, *given: str, **more: Any) -> VectorIndex:
    return filled(clustered(rows, 5), *given, metadata=patients(rows), **more)


def same(found: pd.DataFrame, expected: pd.DataFrame, keys: Any = None) -> None:
    """Compare values and types, whatever text is stored as."""
    keys = found.index if keys is None else keys
    assert found.index.tolist() == list(keys)
    assert found.index.name == "key"
    expected = expected.set_axis(found.index)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_index_type=False)


# -- in and out -------------------------------------------------------------------------------


def test_a_frame_comes_back_with_the_keys_of_its_rows() -> None:
    frame = patients(30).set_index(pd.Index(list("abcdefghij") * 3))  # its own index plays no part
    index = filled(normal(30, 3), keys=np.arange(30)[::-1] * 7, metadata=frame)
    same(index.metadata, frame, np.arange(30)[::-1] * 7)
    kinds = {name: column.dtype.kind for name, column in metadata_in(index._table.columns).items()}
    assert kinds == dict(zip(frame.columns, "ifbUM", strict=True))
    same(index.metadata_of([14, 0, 14]), frame.iloc[[27, 29, 27]], [14, 0, 14])
    assert index.metadata["age"].dtype == np.int64
    assert index.metadata["date of birth"].dtype == MICROSECOND


def test_what_comes_back_is_a_copy() -> None:
    index = described()
    for frame in (index.metadata, index.metadata_of([0])):
        frame["age"] = -1
        frame.loc[0, "ward"] = "Z"
    same(index.metadata, patients(40))
    given = {"n": np.arange(3)}
    other = filled(normal(3, 2), metadata=given)
    given["n"][:] = 9
    assert other.metadata["n"].tolist() == [0, 1, 2]


def test_rows_without_metadata_have_no_columns() -> None:
    index = filled(normal(3, 2))
    assert index.metadata.shape == (3, 0)
    assert index.metadata.index.tolist() == [0, 1, 2]
    assert VectorIndex(2).metadata.shape == (0, 0)
    with pytest.raises(KeyError, match="no metadata; add them with metadata="):
        index.metadata_of([0])
    with pytest.raises(KeyError, match="keys 9 are not in the index"):
        filled(normal(3, 2), metadata={"n": [1, 2, 3]}).metadata_of([9])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.uint8([3, 250]), np.int64([3, 250])),
        (np.float32([0.5, np.nan]), np.float64([0.5, np.nan])),
        ([0.5, np.inf], np.float64([0.5, np.inf])),
        ([True, False], np.bool_([True, False])),
        (pd.Series(["a", "bc"]), np.array(["a", "bc"])),
        (pd.Categorical(["a", "b"]), np.array(["a", "b"])),
        (pd.Series([1, 2], dtype="Int64"), np.int64([1, 2])),
        (pd.Series([True, False], dtype="boolean"), np.bool_([True, False])),
        (np.array(["2024-01-01", "NaT"], "M8[D]"), np.array(["2024-01-01", "NaT"], "M8[us]")),
        (np.array([1_000, -3_000], "M8[ns]"), np.array([1, -3], "M8[us]")),
        (pd.to_datetime(["2024-01-01", None]), np.array(["2024-01-01", "NaT"], "M8[us]")),
        ([datetime.date(2024, 1, 1)] * 2, np.array(["2024-01-01"] * 2, "M8[us]")),
        ([datetime.datetime(2024, 1, 1, 5)] * 2, np.array(["2024-01-01T05"] * 2, "M8[us]")),
        ([pd.Timestamp("2024-01-01T05")] * 2, np.array(["2024-01-01T05"] * 2, "M8[us]")),
    ],
)
def test_types_that_are_known(values: Any, expected: NDArray[Any]) -> None:
    column = as_metadata({"x": values}, 2)["x"]
    assert column.dtype == expected.dtype
    np.testing.assert_array_equal(column, expected)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "list": ([1, 2], TypeError, "metadata of type list were given; a DataFrame"),
    "series": (pd.Series([1, 2]), TypeError, "metadata of type Series"),
    "short": ({"x": [1]}, ValueError, r"'x' of shape \(1,\) was given for 2 rows"),
    "scalar": ({"x": 1}, ValueError, r"'x' of shape \(\) was given"),
    "two-dimensional": ({"x": np.eye(2)}, ValueError, "one value a row"),
    "complex": ({"x": [1j, 2]}, TypeError, "'x' of type complex128 was given; numbers"),
    "bytes": ({"x": [b"a", b"b"]}, TypeError, "numbers, truth values, text or dates"),
    "durations": ({"x": np.array([1, 2], "m8[s]")}, TypeError, "are needed"),
    "None in text": ({"x": ["a", None]}, TypeError, "holds None in row 1"),
    "missing text": (pd.DataFrame({"x": ["a", None]}), TypeError, "say what is missing"),
    "missing whole": ({"x": [1, None]}, TypeError, "by NaN among floats"),
    "lists": ({"x": np.array([[1], [2, 3]], object)}, TypeError, "row 0"),
    "large": ({"x": np.array([2**63, 1], np.uint64)}, ValueError, "lie below 2\\*\\*63"),
    "NUL": ({"x": np.array(["a\0", "b"], object)}, ValueError, "NUL"),
    "nanoseconds": ({"x": np.array([1, 2], "M8[ns]")}, ValueError, "no whole microseconds"),
    "far future": ({"x": np.array([10**15, 1], "M8[D]")}, ValueError, "out of their range"),
    "time zone": (
        pd.DataFrame({"x": pd.to_datetime(["2024-01-01"] * 2).tz_localize("CET")}),
        ValueError,
        "time zone; convert",
    ),
    "name a number": ({3: [1, 2]}, TypeError, "a column is named 3; names are text"),
    "name empty": ({"": [1, 2]}, ValueError, "1 ... 64 printable"),
    "name long": ({"x" * 65: [1, 2]}, ValueError, "1 ... 64 printable"),
    "name unprintable": ({"a\nb": [1, 2]}, ValueError, "printable characters"),
    "name a surrogate": ({"a\ud800": [1, 2]}, ValueError, "printable characters"),
    "name quoted": ({"a`b": [1, 2]}, ValueError, "other than `"),
    "name label": ({"label": [1, 2]}, ValueError, "mean the rows' own"),
    "name key": ({"key": [1, 2]}, ValueError, "mean the rows' own"),
    "names twice": (pd.DataFrame([[1, 2]] * 2, columns=["x", "x"]), ValueError, "stands twice"),
    "too many": ({f"x{n}": [1, 2] for n in range(257)}, ValueError, "257 columns were given"),
}


@pytest.mark.parametrize(("given", "error", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_metadata_is_refused_and_changes_nothing(
    given: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    index = VectorIndex(3)
    before = content(index, tmp_path)
    with pytest.raises(error, match=message):
        index.add(normal(2, 3), metadata=given)
    assert content(index, tmp_path) == before


UNLIKE: dict[str, tuple[Any, str]] = {
    "none": (None, "the rows of this index have 'n', 'f', 't', 'b', 'd'; given were no metadata"),
    "one missing": ({"n": [1], "f": [1.0], "t": ["a"], "b": [True]}, "all rows have the same"),
    "one more": ({"z": [1]}, "given were 'n', 'f', 't', 'b', 'd', 'z'"),
    "text": ({"n": ["a"]}, "'n' was given as text; in this index it holds whole numbers"),
    "number": ({"t": [1]}, "'t' was given as whole numbers; in this index it holds text"),
    "truth": ({"n": [True]}, "'n' was given as truth values"),
    "no truth": ({"b": [1]}, "'b' was given as whole numbers; .* truth values"),
    "no date": ({"d": ["2024-01-01"]}, "'d' was given as text; .* dates"),
    "rounded": ({"f": [2**53 + 1]}, "whole numbers beyond 2\\*\\*53, which floats would round"),
    "rounds": ({"n": [0.5]}, "whole numbers beyond 2\\*\\*53, which floats would round"),
}


@pytest.mark.parametrize(("given", "message"), UNLIKE.values(), ids=UNLIKE)
@pytest.mark.parametrize("graph", [False, True])
def test_rows_that_are_described_otherwise_are_refused(
    given: Any, message: str, graph: bool, tmp_path: Path
) -> None:
    day = np.array(["2024-01-01"], "M8[D]")
    fitting = {"n": [-(2**60)], "f": [0.5], "t": ["a"], "b": [True], "d": day}
    index = filled(normal(1, 3), metadata=fitting)
    if graph:
        index.build_graph()
    before = content(index, tmp_path)
    partial = given is None or len(given) > 1
    with pytest.raises(ValueError, match=message):
        index.add(normal(1, 3), metadata=given if partial else {**fitting, **given})
    assert content(index, tmp_path) == before
    index.add(normal(1, 3), metadata=dict(reversed(fitting.items())))
    assert list(index.metadata) == list(fitting)


def test_an_index_without_metadata_takes_none() -> None:
    index = filled(normal(2, 3))
    with pytest.raises(ValueError, match="have no metadata; given were 'n'"):
        index.add(normal(1, 3), metadata={"n": [1]})
    index.remove(index.keys)
    index.add(normal(1, 3), metadata={"n": [1]})
    assert index.metadata["n"].tolist() == [1]
    index.remove(index.keys)
    index.add(normal(1, 3))
    assert index.metadata.shape == (1, 0)


def test_text_widens_and_whole_numbers_become_floats_beside_floats() -> None:
    index = filled(normal(2, 3), metadata={"t": ["a", "b"], "n": [1, 2], "f": [0.5, np.nan]})
    early = index.view(0, 2)
    index.add(normal(1, 3), metadata={"t": ["a long name"], "n": [0.5], "f": [7]})
    assert index.metadata["t"].tolist() == ["a", "b", "a long name"]
    assert index.metadata["n"].tolist() == [1.0, 2.0, 0.5]
    np.testing.assert_array_equal(index.metadata["f"], [0.5, np.nan, 7.0])
    assert early.metadata["n"].dtype == np.int64


# -- beside the rows wherever they go ---------------------------------------------------------

COLUMN = st.sampled_from(["i", "f", "b", "t", "d"])
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)


def drawn(kind: str, rows: int, draw: st.DrawFn) -> Any:
    elements: dict[str, Callable[[], Any]] = {
        "i": lambda: arrays.arrays(np.int64, rows, elements=st.integers(-(2**53), 2**53)),
        "f": lambda: arrays.arrays(np.float64, rows),
        "b": lambda: arrays.arrays(np.bool_, rows),
        "t": lambda: st.lists(TEXT, min_size=rows, max_size=rows),
        "d": lambda: arrays.arrays("M8[us]", rows),
    }
    return draw(elements[kind]())


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_metadata_stay_with_their_rows(data: st.DataObject) -> None:
    kinds = data.draw(st.dictionaries(st.text("abé _", min_size=1, max_size=3), COLUMN, max_size=4))
    index, expected = VectorIndex(2), {}
    for _ in range(data.draw(st.integers(1, 4))):
        count = data.draw(st.integers(1, 4))
        block = {name: drawn(kind, count, data.draw) for name, kind in kinds.items()}
        keys = index.add(normal(count, 2), metadata=block if kinds else None)
        for place, key in enumerate(keys.tolist()):
            expected[key] = {name: block[name][place] for name in kinds}
        gone = data.draw(st.lists(st.sampled_from(sorted(expected)), unique=True, max_size=3))
        if len(gone) < len(expected):
            index.remove(gone)
            for key in gone:
                del expected[key]
    start = data.draw(st.integers(0, len(index)))
    stop = data.draw(st.integers(start, len(index)))
    sent = pickle.loads(pickle.dumps(index))
    for part in (index, copy.deepcopy(index), sent, index.view(start, stop)):
        columns = metadata_in(part.columns)
        assert list(columns) == list(kinds)
        for name in kinds:
            wanted = np.array([expected[key][name] for key in part], columns[name].dtype)
            np.testing.assert_array_equal(columns[name], wanted)


def test_nbytes_counts_metadata() -> None:
    plain, more = filled(normal(10, 4)), filled(normal(10, 4), metadata={"t": ["abc"] * 10})
    assert more.nbytes == plain.nbytes + 10 * 4 + 8 + 4 * len("abc\0")


# -- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", [None, Key(bytes(range(32)))], ids=["plain", "sealed"])
def test_metadata_are_saved_and_opened(dtype: str, key: Any, tmp_path: Path) -> None:
    index = described(40, "l2sq", dtype, labels=np.arange(40) % 3)
    index.build_graph()
    index.save(tmp_path / "saved.index", key)
    opened = VectorIndex.open(tmp_path / "saved.index", key)
    pd.testing.assert_frame_equal(opened.metadata, index.metadata)
    assert content(opened, tmp_path) == content(index, tmp_path)
    for where in ("age > 50 and ward != 'A'", "`date of birth` < '1970-01-01' or dose > 0"):
        assert opened.passing(where).tolist() == index.passing(where).tolist()
    opened.add(clustered(3, 5), labels=[0, 1, 2], metadata=patients(3))
    assert len(opened.metadata) == 43


def test_metadata_are_sealed_with_the_rows(tmp_path: Path) -> None:
    secret = "a rare diagnosis"
    index = filled(normal(3, 4), metadata={"told in confidence": [secret] * 3})
    index.save(tmp_path / "open.index")
    index.save(tmp_path / "sealed.index", Key(bytes(range(32))))
    for name, shown in (("open.index", True), ("sealed.index", False)):
        written = (tmp_path / name).read_bytes()
        assert (secret.encode("utf-32-le") in written) == shown
        assert (b"told in confidence" in written) == shown


def test_removed_metadata_leave_the_file(tmp_path: Path) -> None:
    index = filled(normal(3, 4), metadata={"t": ["kept", "forgotten", "kept"]})
    index.remove([1])
    assert "forgotten".encode("utf-32-le") not in content(index, tmp_path)


def edited(file: bytes, change: Callable[[Any, bytearray], None]) -> bytes:
    """The file with another header or body, under a right digest."""
    header, body = parts_of(file)
    altered = bytearray(body)
    change(header, altered)
    return sealed(header, bytes(altered))


def described_as(name: str, /, **said: Any) -> Callable[[Any, bytearray], None]:
    def change(header: Any, _: bytearray) -> None:
        next(a for a in header["arrays"] if a["name"] == f"meta:{name}").update(said)

    return change


def with_bytes(name: str, content: bytes) -> Callable[[Any, bytearray], None]:
    def change(header: Any, body: bytearray) -> None:
        start = 0
        for array in header["arrays"]:
            if array["name"] == f"meta:{name}":
                body[start : start + len(content)] = content
                return
            start += int(np.prod(array["shape"])) * np.dtype(array["type"]).itemsize
        raise AssertionError(f"no column {name}")

    return change


ALTERED = {
    "two of a name": described_as("whole", name="meta:float"),
    "name reserved": described_as("whole", name="meta:key"),
    "name empty": described_as("whole", name="meta:"),
    "name long": described_as("whole", name="meta:" + "x" * 65),
    "name unprintable": described_as("whole", name="meta:a\x1b[2J"),
    "name a surrogate": described_as("whole", name="meta:\ud800"),
    "no metadata": described_as("whole", name="whole"),
    "another type": described_as("whole", type="<u8"),
    "a smaller float": described_as("whole", type="<f4", shape=[4]),
    "dates in other units": described_as("date", type="<M8[s]"),
    "durations": described_as("date", type="<m8[us]"),
    "dates in another order": described_as("date", type=">M8[us]"),
    "truth as numbers": described_as("truth", type="|u1"),
    "wide truth": described_as("truth", type="<b4", shape=[1]),
    "two-dimensional": described_as("whole", shape=[2, 1]),
    "fewer rows": described_as("text", shape=[1]),
    "truth of two": with_bytes("truth", b"\x02"),
    "text beyond Unicode": with_bytes("text", b"\xff\xff\xff\x7f"),
}


@pytest.mark.parametrize("change", ALTERED.values(), ids=ALTERED)
def test_metadata_in_a_file_are_checked(
    change: Callable[[Any, bytearray], None], tmp_path: Path
) -> None:
    index = filled(
        normal(2, 4),
        metadata={
            "whole": [1, 2],
            "float": [0.5, np.nan],
            "truth": [True, False],
            "text": ["ab", "c"],
            "date": np.array(["2024-01-01", "NaT"], "M8[D]"),
        },
    )
    path = tmp_path / "saved.index"
    index.save(path)
    whole = path.read_bytes()
    path.write_bytes(edited(whole, lambda header, body: None))
    VectorIndex.open(path)
    path.write_bytes(edited(whole, change))
    with pytest.raises(IndexFileError):
        VectorIndex.open(path)


def test_a_file_from_before_there_were_metadata_opens(tmp_path: Path) -> None:
    index = filled(normal(4, 3), labels=[0, 1, 2, 3])
    index.save(tmp_path / "saved.index")
    header, _ = parts_of((tmp_path / "saved.index").read_bytes())
    assert [array["name"] for array in header["arrays"]] == ["codes", "keys", "labels"]
    assert "meta" not in json.dumps(header)
    assert VectorIndex.open(tmp_path / "saved.index").metadata.shape == (4, 0)
