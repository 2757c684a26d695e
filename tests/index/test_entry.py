"""What `add` takes, `save` writes and `open` reads: each value as it was given, or refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlab.device.device import Device
from fedlab.erasure import Fingerprints
from fedlab.index.file import INDEX
from fedlab.index.ingest import as_keys, as_labels
from fedlab.index.metadata import as_metadata
from fedlab.index.vectorindex import VectorIndex
from tests.helpers import clustered, filled

WHOLE = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
FLOATS = ("f2", "f4", "f8")
TIMES = ("M8[s]", "M8[ms]", "M8[us]", "M8[D]")
REFUSED = ("c8", "S3", "m8[s]", "V4")
#: What each part of an index takes.
TAKEN = {
    "keys": WHOLE,
    "labels": ("?", *WHOLE, *FLOATS, "U3"),
    "metadata": ("?", *WHOLE, *FLOATS, "U3", *TIMES),
    "vectors": (*WHOLE, *FLOATS),
}


def values_of(kind: str, rows: int, seed: int) -> NDArray[Any]:
    draw = np.random.default_rng(seed)
    if kind[0] == "U":
        return np.array(["", "é", "日本", "x🙂y"])[draw.integers(0, 4, rows)].astype(kind)
    return draw.permutation(np.arange(1, rows + 1)).astype(kind)


def laid_out(values: NDArray[Any], how: str) -> NDArray[Any]:
    if how == "strided":
        return np.repeat(values, 2, axis=0)[::2]
    if how == "reversed":
        return np.ascontiguousarray(values[::-1])[::-1]
    if how == "by column":
        return np.asfortranarray(values)
    values.flags.writeable = how != "read-only"
    return values


@given(
    part=st.sampled_from(sorted(TAKEN)),
    kind=st.sampled_from([*TAKEN["metadata"], *REFUSED, "O"]),
    order=st.sampled_from("<>"),
    layout=st.sampled_from(["plain", "strided", "reversed", "by column", "read-only"]),
    masked=st.sampled_from(["not", "nothing", "one"]),
    rows=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=600, deadline=None)
def test_what_is_taken_is_read_again_as_it_was_given(
    part: str, kind: str, order: str, layout: str, masked: str, rows: int, seed: int
) -> None:
    values = values_of(kind, rows * (2 if part == "vectors" else 1), seed)
    values = values.reshape(rows, 2) if part == "vectors" else values
    column = laid_out(values.astype(values.dtype.newbyteorder(order)), layout)
    if masked != "not":
        mask = np.zeros(column.shape, np.bool_)
        mask.flat[0] = masked == "one"
        column = np.ma.array(column, mask=mask)
    index = VectorIndex(2)
    given = {
        "vectors": np.eye(2)[np.arange(rows) % 2],
        part: {"about": column} if part == "metadata" else column,
    }
    missing = part == "metadata" and kind[0] in "fM" and masked == "one"
    if kind not in TAKEN[part] or (masked == "one" and not missing):
        with pytest.raises((TypeError, ValueError)):
            index.add(**given)
        assert len(index) == 0
        return
    index.add(**given)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ward.index")
        index.save(path)
        opened = VectorIndex.open(path)
    for name, stored in index.columns.items():
        assert stored.dtype.isnative
        assert stored.flags.c_contiguous
        np.testing.assert_array_equal(opened.columns[name], stored)
        assert opened.columns[name].dtype == stored.dtype
    name = {"metadata": "meta:about", "vectors": "codes"}.get(part, part)
    found, wanted = opened.columns[name].tolist(), values.astype(index.columns[name].dtype).tolist()
    if missing:
        assert np.isnat(opened.columns[name][0]) if kind[0] == "M" else np.isnan(found[0])
        found, wanted = found[1:], wanted[1:]
    assert found == wanted


MASKED = np.ma.array([1, 999], mask=[False, True])


@pytest.mark.parametrize(
    "values", [MASKED, [1, np.ma.masked], [MASKED[0], MASKED[1]], (MASKED, MASKED)], ids=repr
)
@pytest.mark.filterwarnings("error")
def test_a_masked_value_is_refused_wherever_it_comes_in(values: Any) -> None:
    index = filled(clustered(2, 2), labels=[0, 1])
    doors = {
        "keys": lambda: index.add(np.eye(2), keys=values),
        "labels": lambda: index.add(np.eye(2), labels=values),
        "vectors": lambda: index.add(values, labels=[1, 2]),
        "queries": lambda: index.search(values, 1),
        "where": lambda: index.search([1.0, 0.0], 1, where=values),
        "get": lambda: index.get(values),
        "held out": lambda: Device(0, index).holding_out(values),
        "fingerprints": lambda: Fingerprints.of_rows(values, [0, 1]),
        "metadata": lambda: as_metadata({"age": values}, 2),
    }
    for name, door in doors.items():
        with pytest.raises(ValueError, match="masked") as told:
            door()
        assert "999" not in str(told.value), name
    assert len(index) == 2


BIG = 900_000_000_000_207_008


def test_large_whole_numbers_stay_apart(tmp_path: Path) -> None:
    codes = [BIG * 8, BIG * 8 + 1, -BIG, 3]
    index = VectorIndex(2)
    index.add(clustered(4, 2), keys=[1, 2**63, 2**64 - 2, 2**53 + 1], labels=codes)
    index.save(tmp_path / "ward")
    opened = VectorIndex.open(tmp_path / "ward")
    assert opened.keys.tolist() == [1, 2**63, 2**64 - 2, 2**53 + 1]
    assert opened.labels is not None
    assert opened.labels.tolist() == codes
    assert opened.passing(f"label == {BIG * 8 + 1}").tolist() == [False, True, False, False]
    assert opened.passing(f"key in [{2**63}]").tolist() == [False, True, False, False]
    assert set(Device("ward", opened).class_counts()) == set(codes)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (["ill", 1], TypeError),
        (["ill", float("nan")], TypeError),
        (["1", True], TypeError),
        (["ill", "ill\0"], ValueError),
        (pd.Series(["ill", "ill\0"]), ValueError),
        ([2**53 + 1, 0.5], TypeError),
        ([-(2**53) - 1, 0.5], TypeError),
        ([-1, 2**63], TypeError),
        ([1, 2**63], ValueError),
        (np.array([1, 2], np.longdouble) * (np.finfo(np.longdouble).max / 4), ValueError),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_label_that_would_become_another_is_refused(values: Any, error: Any) -> None:
    with pytest.raises(error, match="labels"):
        as_labels(values, 2)


def test_a_list_of_whole_numbers_of_any_types_stays_whole() -> None:
    assert as_keys([0, np.uint64(7)]).tolist() == [0, 7]
    assert as_labels([np.uint64(7), BIG * 8 + 1, -1], 3).tolist() == [7, BIG * 8 + 1, -1]


@pytest.mark.parametrize(("first", "second"), [([BIG], [0.5]), ([0.5], [BIG])])
def test_labels_that_floats_would_merge_are_refused(first: Any, second: Any) -> None:
    index = VectorIndex(2)
    index.add([[1.0, 0.0]], labels=first)
    with pytest.raises(ValueError, match=r"labels: .* beyond 2\*\*53"):
        index.add([[1.0, 0.0]], labels=second)
    assert len(index) == 1


def test_a_file_that_an_older_version_wrote_in_another_byte_order_is_opened(tmp_path: Path) -> None:
    index = VectorIndex(2)
    index.add(np.eye(2), labels=["a", "b"])
    _, path = index.save(tmp_path / "ward"), tmp_path / "ward"
    parameters, arrays = INDEX.read(path)
    arrays = {name: part for name, part in arrays.items() if not name.endswith(":labels")}
    INDEX.write(path, parameters, {**arrays, "labels": np.array(["a", "b"], ">U1")})
    labels = VectorIndex.open(path).labels
    assert labels is not None
    assert labels.tolist() == ["a", "b"]


@pytest.mark.parametrize("kind", [">U1", ">i8", "<i4", "O", "M8[s]"])
def test_columns_of_another_form_are_refused_where_rows_lie(kind: str, tmp_path: Path) -> None:
    index = filled(clustered(2, 2), labels=[1, 2])
    columns = {**index.columns, "labels": index.columns["labels"].astype(kind)}
    with pytest.raises(ValueError, match=r"labels has .*as an index's `columns` do"):
        VectorIndex.over(columns, 2)
    if kind not in (">U1", "<i4"):
        with pytest.raises(TypeError, match="'labels' is of type"):
            INDEX.write(tmp_path / "odd", {}, columns)
        assert not list(tmp_path.iterdir())
