"""Columns and files: each value exactly as it was, and all that is wrong with a table at once."""

from __future__ import annotations

import csv
import gzip
import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedlab.data import by_column, read_table, read_vectors
from fedlab.data.tables.columns import half_numbers, numbers_of, plain_column
from fedlab.data.tables.separated import read_separated
from fedlab.data.tables.targets import device_names, target_of

SNOMED = [900000000000207008, 900000000000207009, 900000000000207300]


def written(folder: Path, text: str, name: str = "wards.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def rows(count: int, row: str = "{i},{w},{a}", end: str = "\n") -> str:
    """Lines of a CSV: i alternates, w is one of three wards, a is no whole number."""
    return "".join(row.format(i=n % 2, w=n % 3, a=n + 0.5, n=n) + end for n in range(count))


# -- rows that are longer or shorter than the header ----------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "ill,ward,age\n" + rows(30, end=",\n"),
        "ill,ward,age\n" + rows(30, end=", \n"),
        "n,ill,ward,age\n" + rows(30, "{n},{i},{w},{a},"),  # its first column is distinct, too
        "ill,ward,age\n" + rows(9, end=",\n") + rows(20),
        "ill,ward,age\n" + rows(20) + rows(9, end=",\n"),
        "ill,ward,age\n" + rows(30, "{i},{w},{a},see note"),
        "ill,ward,age\n" + rows(30, "{i},{w},{a},,"),
    ],
)
def test_rows_that_end_in_a_separator_are_never_read_shifted(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"more fields in \d+ rows? \(line .*remove separators"):
        read_table(written(tmp_path, text), label="ill", device="ward")


@pytest.mark.parametrize("last", ["{a}", "NA"])
def test_row_names_as_r_writes_them_are_left_out(tmp_path: Path, last: str) -> None:
    text = "ill,ward,age,crp\n" + rows(30, '"{n}",{i},{w},{a},' + last)
    table = read_table(written(tmp_path, text), label="ill", device="ward")
    assert table.devices.tolist() == [n % 3 for n in range(30)]
    assert table.y.tolist() == [n % 2 for n in range(30)]
    assert table.frame["age"].tolist() == [n + 0.5 for n in range(30)]


def test_row_numbers_that_were_saved_along_are_no_feature(tmp_path: Path) -> None:
    frame = pd.DataFrame({"ill": [0, 1] * 15, "age": np.arange(30) + 0.5})
    frame.to_csv(tmp_path / "saved.csv")
    for given_ in (tmp_path / "saved.csv", pd.read_csv(tmp_path / "saved.csv")):
        with pytest.warns(UserWarning, match="'Unnamed: 0' has no name of its own"):
            assert read_table(given_, label="ill").numeric == ("age",)
    table = read_table(tmp_path / "saved.csv", label="ill", numeric=["Unnamed: 0"])
    assert table.numeric == ("Unnamed: 0",), "named, it is meant"


def test_headers_that_stand_twice_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="columns of the same name: ill; rename"):
        read_table(written(tmp_path, "ill,age,ill\n1,2,1\n0,3,0\n"), label="ill")
    frame = pd.DataFrame({"ill": [0, 1], "age": [1.5, 2.5], "ill.1": [0, 1]})
    with pytest.raises(ValueError, match=r"'ill.1' repeats the header 'ill'"):
        read_table(frame, label="ill")
    assert read_table(frame, label="ill", numeric=["age"]).numeric == ("age",)
    with pytest.warns(UserWarning, match=r"'age.1' repeats the header 'age'"):
        read_table(frame.rename(columns={"ill.1": "age.1"}), label="ill")


def test_short_rows_miss_their_last_fields_and_that_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, "ill,age,crp\n1,2.5,3.5\n0,3.5\n1,4.5,6.5\n")
    with pytest.warns(UserWarning, match=r"fewer fields than the 3 names in 1 row \(line 3\)"):
        assert read_table(path, label="ill").frame["crp"].isna().tolist() == [False, True, False]
    with pytest.raises(ValueError, match=r"fewer fields .*take out names"):
        read_table(written(tmp_path, "n,ill,age\n1,2.5\n0,3.5\n"), label="ill")


# -- decoding and splitting ------------------------------------------------------------------------

TOWNS = "ill,town,age\n1,Köln,3.5\n0,Bonn,4.5\n"


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_an_encoding_is_named_where_it_is_needed(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path, TOWNS, encoding=encoding)
    with pytest.raises(ValueError, match=f"can't be read as utf-8 .*encoding='{encoding}'"):
        read_table(path, label="ill", device="town")
    table = read_table(path, label="ill", device="town", encoding=encoding)
    assert table.devices.tolist() == ["Köln", "Bonn"]
    with pytest.raises(ValueError, match="encoding is 'klingon', which is none"):
        read_table(path, label="ill", device="town", encoding="klingon")


def test_a_separator_is_named_where_it_is_needed(tmp_path: Path) -> None:
    for sep in (";", "\t", "|"):
        path = written(tmp_path, TOWNS.replace(",", sep))
        with pytest.raises(ValueError, match=r"one column.*sep=") as told:
            read_table(path, label="ill", device="town")
        assert repr(sep) in str(told.value)
        assert read_table(path, label="ill", device="town", sep=sep).numeric == ("age",)
    with pytest.raises(ValueError, match="sep is ';;'; it takes one character"):
        read_table(path, label="ill", sep=";;")


@pytest.mark.parametrize("name", ["w.csv.gz", "w.CSV.GZ", "W.CSV", "w.Csv"])
def test_suffixes_are_known_in_any_case(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = ("\ufeff" + TOWNS).encode()
    path.write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    assert read_table(path, label="ill", device="town").devices.tolist() == ["Köln", "Bonn"]
    pd.DataFrame({"ill": [0, 1], "age": [1.5, 2]}).to_parquet(tmp_path / "W.PARQUET")
    assert len(read_table(tmp_path / "W.PARQUET", label="ill")) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.csv", b"", "is empty; its first row names"),
        ("w.csv", b'ill,age\n1,"2\n0,3\n', "w.csv, line 3: unexpected end of data; a quote"),
        ("w.csv.gz", b"ill,age\n1,2\n", "can't be unpacked"),
        ("w.csv.gz", gzip.compress(b"ill,age\n" * 99)[:-9], "can't be unpacked"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / name, label="ill")


# -- values stay what they are ---------------------------------------------------------------------


def test_codes_with_leading_zeros_stay_text(tmp_path: Path) -> None:
    names = ["007", "7", "1e5", "100000", "-1", "1"]
    text = "ill,ward,post,age\n" + "".join(
        f"{n % 2},{name},{'01067' if n else '99999'},{n}.5\n" for n, name in enumerate(names)
    )
    table = read_table(written(tmp_path, text), label="ill", device="ward")
    assert table.devices.tolist() == names
    assert table.frame["post"].tolist() == ["99999", *["01067"] * 5]
    assert table.numeric == ("age",)


CELL = st.one_of(
    st.none(),
    st.integers(-(10**20), 10**20).map(str),
    st.from_regex(r"0{1,3}[0-9]{1,5}", fullmatch=True),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CELL, min_size=2, max_size=12), st.booleans())
def test_different_fields_never_become_the_same_value(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str | None], name: bool
) -> None:
    text = "ill,cell\n" + "".join(f"{n % 2},{cell or ''}\n" for n, cell in enumerate(cells))
    path = written(tmp_path_factory.getbasetemp(), text, "cells.csv")
    (frame,), _ = read_separated([path], {"cell"} if name else set(), ",", "utf-8")
    column = plain_column(frame["cell"], "cell")
    assert column.isna().tolist() == [cell is None for cell in cells]
    there = [cell for cell in cells if cell is not None]
    values = column.dropna().tolist()
    if any(isinstance(value, str) for value in values):
        assert values == there
    elif name or not any(set(cell) & set(".e") for cell in there):
        assert [int(value) for value in values] == [int(c.removesuffix(".0")) for c in there]
    else:  # they are numbers, as floats are
        assert values == pytest.approx([float(cell) for cell in there], rel=1e-14)


WAYS: list[Any] = [
    lambda codes: np.array(codes),
    lambda codes: pd.array([*codes], "Int64"),
    lambda codes: pd.array([*codes], "UInt64"),
    lambda codes: np.array(codes, ">i8"),
    lambda codes: [Decimal(code) for code in codes],
    lambda codes: np.array(codes, object),
    lambda codes: pd.array([*codes], pd.ArrowDtype(__import__("pyarrow").int64())),
]


@pytest.mark.parametrize("way", WAYS)
def test_codes_of_18_digits_are_told_apart(way: Any) -> None:
    frame = pd.DataFrame({"code": way(SNOMED * 4), "age": np.arange(12) / 7})
    table = read_table(frame, label="code")
    assert table.classes == tuple(SNOMED)
    assert table.y.tolist() == [0, 1, 2] * 4
    assert sorted(by_column(frame["code"]).names) == SNOMED


def test_codes_of_18_digits_beside_missing_values_are_told_apart(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "ill": [0, 1] * 3,
            "code": pd.array([*SNOMED, None, *SNOMED[:2]], "Int64"),
            "age": np.arange(6) / 7,
        }
    )
    frame.to_csv(tmp_path / "w.csv", index=False)
    frame.to_parquet(tmp_path / "w.parquet")
    expected = ["" if pd.isna(code) else str(code) for code in frame["code"]]
    for source in (frame, tmp_path / "w.csv", tmp_path / "w.parquet"):
        table = read_table(source, label="ill", numeric=["age"], metadata=["code"])
        assert table.metadata is not None
        assert table.metadata["code"].tolist() == expected
        with pytest.raises(ValueError, match=r"key column 'code' is missing"):
            read_table(source, label="ill", key="code")


def test_many_large_codes_are_classes_and_floats_that_merge_them_are_refused() -> None:
    many = pd.Series(SNOMED[0] + np.arange(50))
    assert target_of(many, "code").classes == tuple(many)
    with pytest.raises(ValueError, match=r"floats beyond 2\*\*53 in 3 rows"):
        target_of(pd.Series(np.add(np.array(SNOMED, float), [0, 1000, 2000])), "code", "class")
    with pytest.raises(ValueError, match=r"floats beyond 2\*\*53"):
        device_names(pd.Series([2.0**63, 2.0**64]), "ward")
    unsigned = np.array([2**63 + 1, 2**63 + 2], np.uint64)
    assert device_names(pd.Series(unsigned), "ward").tolist() == list(map(str, unsigned.tolist()))


def arrow(kind: str) -> pd.ArrowDtype:
    pa = pytest.importorskip("pyarrow")
    return pd.ArrowDtype(getattr(pa, kind)())


def test_types_are_what_they_mean() -> None:
    frame = pd.DataFrame(
        {
            "price": [Decimal(n) / 3 for n in range(6)],
            "big": np.arange(6).astype(">f4") / 3,
            "small": pd.array([1.5, None] * 3, "Float32"),
            "town": np.array([b"Bonn", "Köln".encode()] * 3),
            "drug": pd.array(["a", "b"] * 3, arrow("large_string")),
            "ill": [True, False] * 3,
        }
    )
    table = read_table(frame, label="ill")
    assert (table.numeric, table.categorical) == (("price", "big", "small"), ("town", "drug"))
    assert table.classes == (False, True)
    assert all(isinstance(name, bool) for name in table.classes or ())
    assert table.frame["town"].tolist() == ["Bonn", "Köln"] * 3
    assert table.frame["price"].tolist() == [float(Decimal(n) / 3) for n in range(6)]
    with pytest.raises(ValueError, match="bytes that are no UTF-8"):
        plain_column(pd.Series([b"\xff"]), "town")
    with pytest.raises(ValueError, match="holds complex"):
        plain_column(pd.Series([1j]), "z")


def test_a_column_that_turns_into_text_late_in_a_long_file_is_text_all_along(
    tmp_path: Path,
) -> None:
    cells = [*(f"{n}.50" for n in range(60_000)), "<0.1", *map(str, range(1, 60_000))]
    codes = [*range(60_000), SNOMED[1], *range(1, 60_000)]
    lines = (
        f"{n % 2},{cell},{code}\n" for n, (cell, code) in enumerate(zip(cells, codes, strict=True))
    )
    path = written(tmp_path, "ill,crp,code\n" + "".join(lines))
    (frame,), _ = read_separated([path], set(), ",", "utf-8")
    assert frame["crp"].tolist() == cells
    assert frame["code"].tolist() == codes


LINES = st.sampled_from(["\n", "\r\n", "\r"])
FIELD = st.text(st.sampled_from('a0 1,"\n\r\té-'), max_size=5)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(FIELD, FIELD, st.integers(0, 99)), min_size=1), LINES)
def test_rows_and_lines_are_those_of_the_csv_module(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str, int]], end: str
) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([["p", "q", "r"], *table])
    path = tmp_path_factory.getbasetemp() / "lines.csv"
    path.write_bytes(out.getvalue().encode())
    reader, lines, line = csv.reader(io.StringIO(out.getvalue(), newline="")), [], 1
    for _ in reader:
        lines.append(line)
        line = reader.line_num + 1
    (frame,), _ = read_separated([path], {"p", "q"}, ",", "utf-8")
    assert frame.index.tolist() == lines[1:]
    assert frame["r"].tolist() == [row[2] for row in table]


def test_truth_values_of_a_file_are_truth_values(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "ill,age\nTrue,1.5\nFalse,2.5\n"), label="ill")
    assert table.classes == (False, True)


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_missing_texts_are_no_class(missing: Any) -> None:
    texts = ["a", missing, "b"]
    for refused in (
        lambda: read_vectors(np.eye(3), texts),
        lambda: read_vectors(np.eye(3), [0, 1, 0], device=texts),
        lambda: by_column(texts),
    ):
        with pytest.raises(ValueError, match=r"missing in 1 row \(1\)"):
            refused()
    with pytest.raises(ValueError, match="vectors: a masked value"):
        read_vectors(np.ma.array(np.eye(3), mask=np.eye(3)), ["a", "b", "a"])


# -- what is odd, and what is wrong ----------------------------------------------------------------


def test_laboratory_values_are_listed_as_what_they_are(tmp_path: Path) -> None:
    values = ["0.3", "<0.1", "pending", "0.4", "0.5"] * 40
    text = "ill,crp\n" + "".join(f"{n % 2},{value}\n" for n, value in enumerate(values))
    path = written(tmp_path, text)
    with pytest.warns(UserWarning, match=r"'crp' is taken for text.*'<0.1' in 40 rows \(line 3"):
        read_table(path, label="ill")
    with pytest.raises(ValueError, match=r"'<0.1' in 40 rows .*'pending' in 40 rows"):
        read_table(path, label="ill", numeric=["crp"])
    many = [f"{n}.5" for n in range(150)] + ["<0.1", "pending"]
    frame = pd.DataFrame({"ill": np.arange(152) % 2, "crp": many})
    with pytest.raises(ValueError, match=r"152 different values.*numbers, and '<0.1' in 1 row"):
        read_table(frame, label="ill")
    assert half_numbers(pd.Series(["1,5", "2,25"])) is not None
    assert "decimal commas ('1,5') in 2 rows" in str(half_numbers(pd.Series(["1,5", "2,25"])))
    assert half_numbers(pd.Series(["dry", "wet", "3"])) is None
    assert numbers_of(pd.Series(["1.5", " 2e3", None]), "x").tolist()[:2] == [1.5, 2000]


def test_identifiers_are_told(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"ill": [0, 1] * 20, "patient": np.arange(40) + 1000, "age": [50, 60, 70, 80] * 10}
    )
    with pytest.warns(UserWarning, match="'patient' has 40 different values in 40 rows") as told:
        read_table(frame, label="ill")
    assert "'age'" not in str(told[0].message)
    read_table(frame, label="ill", key="patient")  # a warning would fail here


def test_all_problems_are_told_at_once_by_the_rows_of_the_file(tmp_path: Path) -> None:
    text = "ill,ward,age,crp\n1,a,inf,x\n\n,b,4,y\n0,,5,z\n"
    with pytest.raises(ValueError, match=r"5 problems in wards\.csv") as told:
        read_table(
            written(tmp_path, text), label="ill", device="ward", numeric=["age", "crp"], key="no"
        )
    for part in (
        "no column 'no'",
        "'age' is infinite in 1 row (line 2)",
        "'x' in 1 row (line 2)",
        "'ward' is missing in 1 row (line 5)",
        "'ill' is missing in 1 row (line 4)",
    ):
        assert part in str(told.value)
    frame = pd.DataFrame(
        {"ill": [1, None, 0], "age": [1.5, 2.5, 3.5]}, pd.Index(["p1", "p2", "p3"])
    )
    with pytest.raises(ValueError, match=r"missing in 1 row \(p2\)"):
        read_table(frame, label="ill")


def test_names_that_differ_by_spaces_or_composition_are_one_device() -> None:
    names = ["A", "A ", "Mu\u0308nchen", "M\u00fcnchen"]
    with pytest.warns(UserWarning, match="are one device") as told:
        assert by_column(names).names == ("A", "M\u00fcnchen")
    assert [str(one.message).count("are one device") for one in told] == [1, 1]
    assert "'A' and 'A '" in str(told[0].message)


def test_a_hospital_without_rows_is_remarked_on() -> None:
    ward = pd.Categorical(["A", "B"] * 3, categories=["A", "B", "C"])
    frame = pd.DataFrame({"ill": [0, 1] * 3, "age": np.arange(6) / 7, "ward": ward})
    with pytest.warns(UserWarning, match="'C' has no rows"):
        assert set(read_table(frame, label="ill", device="ward").devices) == {"A", "B"}


# -- keys, metadata, files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([1, 2, 2, 4], r"a key twice on one device, in 2 rows \(1, 2\)"),
        ([1, -2, 3, 4], r"outside 0 \.\.\. 2\*\*64 - 2 in 1 row \(1\)"),
        ([1.0, 2.0, 2.0**60, 4], r"outside 0 \.\.\. 2\*\*64 - 2 in 1 row \(2\)"),
        ([1.5, 2.0, 3.0, 4.0], "keys are whole numbers"),
        (["P1", "P2", "P3", "P4"], r"holds \['P1'\]; keys are whole numbers"),
        ([True, False, True, False], "keys are whole numbers"),
    ],
)
def test_keys_are_checked(keys: list[Any], message: str) -> None:
    frame = pd.DataFrame({"ill": [0, 1] * 2, "age": np.arange(4) / 7, "key_": keys})
    with pytest.raises(ValueError, match=message):
        read_table(frame, label="ill", key="key_", numeric=["age"])


def test_keys_may_stand_on_two_devices() -> None:
    frame = pd.DataFrame({"ill": [0, 1] * 2, "age": np.arange(4) / 7, "ward": [1, 1, 2, 2]})
    table = read_table(
        frame.assign(patient=[8, 9, 8, 9]), label="ill", device="ward", key="patient"
    )
    assert table.keys is not None
    assert table.take(np.array([3, 0])).keys.tolist() == [9, 8]  # type: ignore[union-attr]
    assert table.numeric == ("age",)
    frame["ward"] = [1, None, 2, 2]
    with pytest.raises(ValueError, match=r"^device column 'ward' is missing in 1 row \(1\)"):
        read_table(frame.assign(patient=[8, 9, 8, 9]), label="ill", device="ward", key="patient")


def test_metadata_are_features_only_if_they_can_be() -> None:
    frame = pd.DataFrame(
        {
            "ill": [0, 1] * 30,
            "age": np.tile([50.5, np.nan, 70.5], 20),
            "name": [f"patient {n}" for n in range(60)],
            "seen": pd.date_range("2024-01-01", periods=60),
            "smokes": pd.array([True, None] * 30, "boolean"),
        }
    )
    table = read_table(frame, label="ill", metadata=["age", "name", "seen", "smokes"])
    assert (table.numeric, table.categorical) == (("age",), ("smokes",))
    assert table.metadata is not None
    assert [table.metadata[c].dtype.kind for c in ("age", "seen")] == ["f", "M"]
    assert table.metadata["smokes"].tolist() == ["True", ""] * 30
    assert table.take(np.array([59])).metadata["name"].tolist() == ["patient 59"]  # type: ignore[index]


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    written(tmp_path, "ill,age,post\n0,1.5,99999\n1,2.5,99999\n", "north.csv")
    written(tmp_path, "post,ill,age\n01067,1,3.5\n01067,,4.5\n", "south.csv")
    written(tmp_path, "ill,age,post\n", "west.csv")
    written(tmp_path, "ill,old,post\n1,2,3\n", "east.csv")
    return tmp_path


def test_one_file_a_hospital(hospitals: Path) -> None:
    north, south, west, east = (hospitals / f"{n}.csv" for n in ("north", "south", "west", "east"))
    with pytest.raises(ValueError, match=r"'ill' is missing in 1 row \(south.csv line 3\)"):
        read_table([north, south], label="ill")
    south.write_text(south.read_text().replace(",,", ",0,"))
    table = read_table([north, south], label="ill")
    assert (table.device, table.devices.tolist()) == ("device", ["north"] * 2 + ["south"] * 2)
    assert table.frame["post"].tolist() == ["99999"] * 2 + ["01067"] * 2
    named = read_table({1: north, 2: south}, label="ill", device="hospital")
    assert (named.device, named.devices.tolist()) == ("hospital", [1, 1, 2, 2])
    assert named.y.tolist() == table.y.tolist() == [0, 1, 1, 0]
    with pytest.warns(UserWarning, match="'west' has no rows"):
        read_table([north, south, west], label="ill")
    with pytest.raises(
        ValueError, match=r"east.csv and north.csv differ in columns: \['age', 'old'\]"
    ):
        read_table([north, east], label="ill")
    with pytest.raises(ValueError, match="2 files of 1 names"):
        read_table([north, north], label="ill")
    with pytest.raises(ValueError, match="has a column 'post', and files are one a device"):
        read_table({"n": north}, label="ill", device="post")
    assert read_table([north, south], label="ill", device="post").devices.tolist() == [
        *["99999"] * 2,
        *["01067"] * 2,
    ]


def test_files_give_the_same_table_as_their_rows_in_one(hospitals: Path) -> None:
    parts = {
        name: pd.DataFrame(
            {"ill": [0, 1, 1], "age": np.arange(3) / 7 + place, "sex": ["f", "m", None]}
        )
        for place, name in enumerate("ab")
    }
    whole = pd.concat([part.assign(device=name) for name, part in parts.items()])
    one, other = read_table(parts, label="ill"), read_table(whole, label="ill", device="device")
    pd.testing.assert_frame_equal(one.frame, other.frame)
    assert one.categorical == other.categorical == ("sex",)


def test_numbers_that_are_written_as_text_are_told_and_codes_are_not() -> None:
    frame = pd.DataFrame({"ill": [0, 1, 0, 1], "age": ["61", "50", "44", "70"]})
    frame["ward"], frame["post"] = ["a", "a", "b", "b"], ["01067", "10115", "01067", "80331"]
    with pytest.warns(UserWarning, match="'age' is taken for text: it holds numbers alone") as told:
        read_table(frame, label="ill", device="ward")
    assert not any("post" in str(one.message) for one in told)


def test_decimal_commas_come_with_a_way_out_that_leads_out(tmp_path: Path) -> None:
    cells = [f'"{n},{n}"' if n % 3 else f"{n}.5" for n in range(150)]
    rows = [f"{n % 2},{cell},{n % 5:03d}\n" for n, cell in enumerate(cells)]
    path = written(tmp_path, "ill,crp,code\n" + "".join(rows))
    with pytest.raises(ValueError, match=r"decimal commas .*str.replace\(',', '.'\)"):
        read_table(path, label="ill")
    frame = pd.read_csv(path, dtype={"crp": str, "code": str})
    frame["crp"] = pd.to_numeric(frame["crp"].str.replace(",", "."))
    table = read_table(frame, label="ill")
    assert table.numeric == ("crp",)
    assert table.categorical == ("code",)
