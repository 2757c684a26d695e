from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedlab.core.validation import whole_number
from fedlab.index.ingest import as_keys, as_labels, as_lengths, as_vectors


@pytest.mark.parametrize(
    "values",
    [
        [[1, 2], [3, 4]],
        np.array([[1, 2], [3, 4]], np.uint8),
        np.array([[1, 2], [3, 4]], np.int8),
        np.array([[1, 3], [2, 4]], np.float64).T,
        np.array([[1, 0, 2, 0], [3, 0, 4, 0]], np.float16)[:, ::2],
        np.array([[1, 2], [3, 4]], ">f4"),
        pd.DataFrame({"a": [1, 3], "b": [2, 4]}),
    ],
)
def test_numbers_of_any_type_and_order_become_the_same_rows(values: Any) -> None:
    rows = as_vectors(values, 2, "vectors")
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    np.testing.assert_array_equal(rows, [[1, 2], [3, 4]])


@pytest.mark.parametrize("values", [[], np.empty((0, 3)), np.empty((0, 3), np.uint8)])
def test_no_rows_are_rows(values: Any) -> None:
    assert as_vectors(values, 3, "vectors").shape == (0, 3)


class Sparse:
    def toarray(self) -> None:
        raise AssertionError("never made dense without being asked")


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([[1.0, np.nan]], ValueError, "1 of 1 rows hold NaN"),
        ([[0.0, 1.0], [np.inf, 0.0]], ValueError, "the first is row 1"),
        ([[1e39, 0.0]], ValueError, "beyond float32"),
        ([[1.0, 2.0, 3.0]], ValueError, r"shape \(1, 3\) was given; \(rows, 2\) is needed"),
        ([1.0, 2.0, 3.0], ValueError, r"\(2,\) for a single one"),
        (3.0, ValueError, "shape"),
        (np.ones((2, 2, 2)), ValueError, "shape"),
        (np.ones((0, 5)), ValueError, "shape"),
        ([[1.0, 2.0], [3.0]], ValueError, "no array can be made"),
        ([["a", "b"]], TypeError, r"fedlab\.data\.embed makes vectors of texts"),
        (np.array(["a", "b"], object), TypeError, r"fedlab\.data\.embed makes vectors of texts"),
        ([[True, False]], TypeError, r"bool.*\.astype\(float\)"),
        ([[1j, 2.0]], TypeError, "complex.*two columns"),
        (np.array([["2026-01-01"]], "M8[D]"), TypeError, "days since a date"),
        (np.array([["2026"]], "M8[Y]") - np.array([["2025"]], "M8[Y]"), TypeError, "spans of time"),
        (np.array([(1.0, 2.0)], [("a", "f4"), ("b", "f4")]), TypeError, "columns of a record"),
        ([[None, 1.0]], TypeError, r"object.*read_table and Preparation"),
        ([{"a": 1.0}], TypeError, r"object.*an encoder of your own"),
        (Sparse(), TypeError, r"a sparse Sparse was given.*Projection\.fitted or \.random"),
        (np.ma.masked_array([[1.0, 2.0]], [[False, True]]), ValueError, "masked"),
    ],
)
def test_what_is_no_rows_is_refused(values: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_vectors(values, 2, "vectors")


def test_lengths_are_those_of_a_wider_type() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    squares = as_lengths(rows, "cosine", "rows")
    np.testing.assert_allclose(squares, (rows.astype(np.longdouble) ** 2).sum(axis=1), rtol=1e-7)


def test_lengths_with_which_a_metric_is_not_defined_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has length 0"):
        as_lengths(np.float32([[1, 0], [0, 0]]), "cosine", "rows")
    with pytest.raises(ValueError, match="at least 1e-18"):
        as_lengths(np.float32([[1e-19, 0]]), "cosine", "rows")
    with pytest.raises(ValueError, match=r"row 0 .* at most 1e\+18"):
        as_lengths(np.float32([[1e18, 1e18]]), "l2sq", "rows")
    assert as_lengths(np.float32([[0, 0]]), "l2sq", "rows") == [0]
    assert as_lengths(np.float32([[0, 0]]), "inner", "rows") == [0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (3, [3]),
        ([], []),
        (range(3), [0, 1, 2]),
        (np.array([1, 2], np.int8), [1, 2]),
        ([2**64 - 2], [2**64 - 2]),
        ([1, 2**63, 2**64 - 2], [1, 2**63, 2**64 - 2]),
        (pd.Series([4, 5]), [4, 5]),
    ],
)
def test_whole_numbers_are_keys(values: Any, expected: list[int]) -> None:
    keys = as_keys(values)
    assert keys.dtype == np.uint64
    assert keys.tolist() == expected


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (-1, ValueError),
        ([0, -1], ValueError),
        ([2**64 - 1], ValueError),
        (np.array([2**64 - 1], np.uint64), ValueError),
        ([1, 2**64 - 1], ValueError),
        ([2**64], (TypeError, ValueError)),
        ([-1, 2**63], (TypeError, ValueError)),
        (1.5, TypeError),
        ([1.0], TypeError),
        ([1, 1.5], TypeError),
        ([True], TypeError),
        ([1.5, 2**63], TypeError),
        (["a"], TypeError),
        ([b"a"], TypeError),
        ([None], TypeError),
        ([[1, 2]], TypeError),
        ([[]], TypeError),
        ([[1], [2, 3]], ValueError),
    ],
)
def test_what_is_no_key_is_refused(values: Any, error: Any) -> None:
    with pytest.raises(error, match=r"keys: .*given"):
        as_keys(values)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([1, 2], "int64", [1, 2]),
        ([True, False], "int64", [1, 0]),
        (np.array([1, 2], np.uint8), "int64", [1, 2]),
        ([0.5, 1], "float64", [0.5, 1]),
        (np.float32([0.5, 1]), "float64", [0.5, 1]),
        (["ill", "well"], "<U4", ["ill", "well"]),
        (pd.Series(["ill", "well"]), "<U4", ["ill", "well"]),
        (np.array(["é", "日本"], object), "<U2", ["é", "日本"]),
    ],
)
def test_classes_numbers_and_text_are_labels(values: Any, dtype: str, expected: list[Any]) -> None:
    labels = as_labels(values, 2)
    assert labels.dtype == dtype
    assert labels.tolist() == expected


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1], ValueError, r"shape \(1,\) were given for 2 rows"),
        ([[1], [2]], ValueError, "shape"),
        (1, ValueError, "shape"),
        ([1.0, np.nan], ValueError, "1 of 2 are NaN"),
        ([1.0, np.inf], ValueError, "leave out"),
        (["a", None], TypeError, "object"),
        ([b"a", b"b"], TypeError, "S1"),
        ([1j, 2], TypeError, "complex"),
        (np.array(["2020-01-01", "NaT"], "datetime64[D]"), TypeError, "datetime"),
        (np.array([1, 2**63], np.uint64), ValueError, "below 2\\*\\*63"),
        ([[1, 2], [3]], ValueError, "no array can be made"),
    ],
)
def test_what_is_no_label_is_refused(values: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_labels(values, 2)


def test_whole_number_takes_whole_numbers_within_bounds_only() -> None:
    assert whole_number(np.uint8(7), "k", 1, 7) == 7
    for value in (True, np.True_, 1.0, "1", None, np.float32(1)):
        with pytest.raises(TypeError, match=r"k is .*; it must be a whole number of at least 1"):
            whole_number(value, "k", 1)
    for value in (0, -1, 8):
        with pytest.raises(ValueError, match=f"k is {value}; .* and at most 7"):
            whole_number(value, "k", 1, 7)
