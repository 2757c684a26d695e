"""Data of one's own: what comes in as it should, and what is refused, and how."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.data import read_table, read_vectors
from fedlab.data.tables.targets import target_of


def visits(**changes: Any) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "age": [61.0, None, 48.0, 70.0],
        "beds": [1, 2, 3, 4],
        "smokes": [True, False, False, True],
        "cough": ["dry", None, "wet", "dry"],
        "ward": ["north", "south", "south", "north"],
        "ill": ["yes", "no", "no", "yes"],
    }
    return pd.DataFrame({**columns, **changes})


def test_columns_find_their_kind() -> None:
    table = read_table(visits(), label="ill", device="ward")
    assert table.numeric == ("age", "beds")
    assert table.categorical == ("smokes", "cough")
    assert (table.classes, table.y.tolist()) == (("no", "yes"), [1, 0, 0, 1])
    assert table.devices.tolist() == ["north", "south", "south", "north"]
    assert table.frame["smokes"].tolist() == ["True", "False", "False", "True"]
    assert table.frame["cough"].isna().tolist() == [False, True, False, False]
    assert table.frame["age"].isna().sum() == 1


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_a_file_reads_as_its_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"visits of 2024.x{suffix}"
    if suffix == ".parquet":
        visits().to_parquet(path, index=False)
    else:
        visits().to_csv(path, index=False)
    table = read_table(path, label="ill", device="ward")
    expected = read_table(visits(), label="ill", device="ward")
    pd.testing.assert_frame_equal(table.frame, expected.frame, check_dtype=False)
    assert table.numeric == expected.numeric
    assert table.origin.source == path.name  # never the machine's path
    assert (table.origin.rows, len(table.origin.sha256)) == (4, 64)


def test_the_frame_is_copied_and_its_index_does_not_matter() -> None:
    frame = visits().set_index(pd.Index([7, 7, 7, 7]))
    table = read_table(frame, label="ill", device="ward")
    frame.loc[:, "beds"] = 0
    assert table.frame["beds"].tolist() == [1, 2, 3, 4]
    assert table.frame.index.tolist() == [0, 1, 2, 3]


def test_the_hash_tells_frames_apart() -> None:
    one = read_table(visits(), label="ill").origin.sha256
    assert one == read_table(visits(), label="ill").origin.sha256
    assert one != read_table(visits(beds=[1, 2, 3, 5]), label="ill").origin.sha256
    assert one != read_table(visits().rename(columns={"beds": "cots"}), label="ill").origin.sha256


def test_lists_that_are_given_stand_as_they_are() -> None:
    table = read_table(visits(), label="ill", numeric=["age"], categorical=())
    assert (table.numeric, table.categorical, table.device) == (("age",), (), None)
    assert set(table.frame.columns) == {"age", "ill"}
    table = read_table(visits(), label="ill", device="ward", categorical=["beds"])
    assert (table.numeric, table.categorical) == (("age",), ("beds",))
    assert table.frame["beds"].tolist() == ["1", "2", "3", "4"]


def test_pandas_own_missing_values_are_read() -> None:
    frame = visits(
        beds=pd.array([1, None, 3, 4], "Int64"), smokes=pd.array([True, None, False, True])
    )
    table = read_table(frame, label="ill")
    assert table.frame["beds"].isna().tolist() == [False, True, False, False]
    assert table.frame["smokes"].isna().tolist() == [False, True, False, False]
    assert table.categorical == ("smokes", "cough", "ward")


def test_categories_of_pandas_are_text() -> None:
    frame = visits(
        cough=pd.Categorical(["dry", None, "wet", "dry"], categories=["wet", "dry", "none"])
    )
    assert read_table(frame, label="ill", categorical=["cough"]).frame["cough"].tolist()[::2] == [
        "dry",
        "wet",
    ]


REFUSALS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"label": "il"}, r"no column 'il'; there are \['age'.*Did you mean 'ill'\?"),
    ({}, {"device": "Ward"}, r"no column 'Ward'.*Did you mean 'ward'\?"),
    ({}, {"numeric": ["agge"]}, r"no column 'agge'.*Did you mean 'age'\?"),
    ({}, {"device": "ill"}, "named for two uses: ill"),
    ({}, {"numeric": ["age", "age"]}, "named for two uses: age"),
    ({}, {"numeric": ["cough"]}, "'cough' takes numbers, and holds 'dry' in 2 rows .*'wet' in 1"),
    ({}, {"numeric": (), "categorical": ()}, "there are no features"),
    ({"ill": ["yes", None, "no", None]}, {}, r"'ill' is missing in 2 rows \(1, 3\)"),
    ({"ill": ["yes"] * 4}, {}, "label 'ill' is 'yes' in all 4 rows"),
    ({"ill": ["yes", 1, "no", 0]}, {}, r"column 'ill' mixes types: text \('yes'\), number \(1\)"),
    ({"ill": [0.5, 1, 2, np.inf]}, {}, r"label 'ill' is infinite in 1 row \(3\)"),
    ({"ill": [0.5, 1, 2, 3]}, {"target": "class"}, r"not whole in 1 row \(0\)"),
    ({}, {"target": "number"}, "not numbers; use target='class'"),
    ({}, {"target": "klass"}, "target is 'klass'; choose one of None, class"),
    ({"ward": ["north", None, "south", "north"]}, {}, r"'ward' is missing in 1 row \(1\)"),
    ({"ward": ["north", 2, "south", "north"]}, {}, "column 'ward' mixes types"),
    ({"cough": ["dry", 2, None, True]}, {}, "column 'cough' mixes types: text .*number.*boolean"),
    ({"cough": [[1], [2], [3], [4]]}, {}, r"column 'cough' holds list \(\[1\]\)"),
    ({"age": [1.0, 2.0, np.inf, -np.inf]}, {}, r"column 'age' is infinite in 2 rows \(2, 3\)"),
    ({"cough": pd.date_range("2024", periods=4)}, {}, r"Timestamp .*type datetime64.*numeric="),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "arguments", "message"), REFUSALS)
def test_what_can_not_be_used_is_refused_with_its_reason(
    columns: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_table(visits(**columns), **{"label": "ill", "device": "ward", **arguments})


def test_no_rows_and_twin_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 0 rows and 6 columns"):
        read_table(visits().iloc[:0], label="ill")
    twins = visits().set_axis(["age", "age", "smokes", "cough", "ward", "ill"], axis=1)
    with pytest.raises(ValueError, match="columns of the same name: age"):
        read_table(twins, label="ill")


def test_an_identifier_is_not_taken_for_a_category() -> None:
    frame = pd.DataFrame(
        {"id": [f"p{i}" for i in range(200)], "age": range(200), "ill": [0, 1] * 100}
    )
    with pytest.raises(
        ValueError, match="'id' has 200 different values in 200 rows: an identifier"
    ):
        read_table(frame, label="ill")
    frame["age"] //= 4
    assert read_table(frame, label="ill", categorical=()).numeric == ("age",)
    assert read_table(frame, label="ill", categorical=["id"]).categorical == ("id",)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suffix '\.pkl'; it takes \.csv, \.csv\.gz or \.parquet"):
        read_table(tmp_path / "visits.pkl", label="ill")
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "visits.csv", label="ill")


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits().to_parquet(tmp_path / "visits.parquet")
    for name in ("pyarrow", "pyarrow.parquet"):  # another test may have imported either
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"fedlab-workbench\[workbench\]"):
        read_table(tmp_path / "visits.parquet", label="ill")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, 1, 0], "class"),
        ([0.0, 1.0, 2.0], "class"),
        (list(range(20)), "class"),
        (list(range(21)), "number"),
        ([0.5, 1.0], "number"),
        ([True, False], "class"),
        (["a", "b"], "class"),
        (pd.array([1, 2], "Int64"), "class"),
        (pd.Series([1, 2.5, 3], dtype=object), "number"),
        (pd.Categorical([3, 1, 3]), "class"),
    ],
)
def test_the_kind_of_target_follows_the_documented_rule(values: Any, kind: str) -> None:
    assert target_of(pd.Series(values), "y").kind == kind


@given(st.lists(st.integers(-50, 50), min_size=2).filter(lambda ys: len(set(ys)) > 1))
def test_classes_decode_to_the_labels(labels: list[int]) -> None:
    target = target_of(pd.Series(labels), "y", "class")
    assert target.classes is not None
    assert [target.classes[code] for code in target.y] == labels
    assert list(target.classes) == sorted(set(labels))
    number = target_of(pd.Series(labels), "y", "number")
    assert number.y.tolist() == labels


def test_vectors_come_from_arrays_or_files(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5, 3))
    y = np.array(["cat", "dog", "cat", "emu", "dog"])
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    for vectors, labels in ((x, y), (tmp_path / "x.npy", str(tmp_path / "y.npy"))):
        data = read_vectors(vectors, labels, device=[1, 1, 2, 2, 2])
        np.testing.assert_array_equal(data.x, x.astype(np.float32))
        assert [data.classes[code] for code in data.y] == y.tolist()  # type: ignore[index]
        assert data.device is not None
        assert data.device.tolist() == [1, 1, 2, 2, 2]
    assert data.origin.source == "x.npy"


class Boom:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was run",))


def test_a_pickle_inside_npy_is_never_run(tmp_path: Path) -> None:
    np.save(tmp_path / "boom.npy", np.array([Boom(), Boom()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"'boom\.npy' can't be read.*Python objects"):
        read_vectors(tmp_path / "boom.npy", [0, 1])
    with pytest.raises(ValueError, match="can't be read"):
        read_vectors(np.eye(2), tmp_path / "boom.npy")


def test_a_cut_or_foreign_npy_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((100, 10)))
    whole = (tmp_path / "x.npy").read_bytes()
    for length in (0, 5, 60, 128, len(whole) - 1):
        (tmp_path / "x.npy").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="can't be read"):
            read_vectors(tmp_path / "x.npy", [0, 1] * 50)
    (tmp_path / "x.txt").write_text("0 1 2")
    with pytest.raises(ValueError, match=r"'x\.txt' can't be read \(it begins with b'0 1 2'"):
        read_vectors(tmp_path / "x.txt", [0, 1])


@pytest.mark.parametrize(
    ("vectors", "labels", "device", "message"),
    [
        ([1.0, 2.0], [0, 1], None, r"vectors have shape \(2,\)"),
        ([["a"], ["b"]], [0, 1], None, "they take numbers"),
        (np.empty((0, 3)), [], None, r"vectors have shape \(0, 3\)"),
        (np.eye(2), [0, 1, 2], None, "2 vectors but 3 labels"),
        (np.eye(2), [0, 1], [1], "2 vectors but 1 device"),
        (np.eye(2), [0, None], None, r"missing in 1 row \(1\)"),
        (np.eye(2), [0, 1], ["a", None], r"device column 'device' is missing in 1 row \(1\)"),
        (np.ma.array(np.eye(2), mask=np.eye(2)), [0, 1], None, "vectors: a masked value"),
        (np.eye(2), [1, 1], None, "constant"),
        ([[1, np.nan], [0, 0]], [0, 1], None, r"NaN.*\[0\]"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    vectors: Any, labels: Any, device: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_vectors(vectors, labels, device)
