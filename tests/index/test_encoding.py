from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlab.index.encoding import Columns, codes_in, decode, encode, rounded
from fedlab.index.table import RowTable
from fedlab.index.texts import TextColumn
from tests.helpers import DTYPES, normal

moderate = st.floats(-65504, 65504, width=32)


def nearest_bfloat16(value: np.float32) -> int:
    """The bits of the bfloat16 nearest to a number, ties to even, by exact arithmetic."""
    low = int(value.view(np.uint32)) >> 16
    below, above = (np.uint32(bits << 16).view(np.float32) for bits in (low, low + 1))
    exact = Fraction(float(value))
    to_low, to_high = abs(exact - Fraction(float(below))), abs(Fraction(float(above)) - exact)
    if to_low == to_high:
        return low + low % 2
    return low if to_low < to_high else low + 1


@given(st.lists(st.floats(-(2.0**59), 2.0**59, width=32), min_size=1, max_size=20))
def test_bf16_rounds_to_nearest_even(values: list[float]) -> None:
    row = np.array([values], np.float32)
    assert rounded(row, "bf16")["codes"][0].tolist() == [nearest_bfloat16(x) for x in row[0]]


def test_bf16_ties_go_to_even() -> None:
    ties = np.uint32([0x3F808000, 0x3F818000, 0xBF808000, 0xBF818000]).view(np.float32)
    assert encode(ties[None], "bf16")["codes"][0].tolist() == [0x3F80, 0x3F82, 0xBF80, 0xBF82]


@given(st.lists(moderate, min_size=1, max_size=20))
def test_f16_is_numpys(values: list[float]) -> None:
    row = np.array([values], np.float32)
    codes = rounded(row, "f16")["codes"]
    np.testing.assert_array_equal(codes.view(np.uint16), row.astype(np.float16).view(np.uint16))


def test_every_finite_code_is_decoded_exactly() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    halves = bits.view(np.float16)[np.isfinite(bits.view(np.float16))]
    wide = decode(halves[None])[0]
    np.testing.assert_array_equal(wide.view(np.uint32), halves.astype(np.float32).view(np.uint32))
    brains = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(decode(bits[None])[0].view(np.uint32), brains.view(np.uint32))


@given(
    st.lists(
        st.lists(
            st.floats(-(2.0**59), 2.0**59, width=32, allow_subnormal=False), min_size=3, max_size=3
        ),
        min_size=1,
        max_size=5,
    )
)
def test_i8_errs_by_half_a_level_of_each_rows_own_scale(values: list[list[float]]) -> None:
    rows = np.array(values, np.float32)
    columns: Any = rounded(rows, "i8")
    level = np.abs(rows).max(axis=1, keepdims=True) / 127
    error = np.abs(decode(**columns).astype(np.float64) - rows)
    # Below the smallest normal number a level itself is rounded.
    assert (error <= level * 0.50001 + 200 * np.finfo(np.float32).smallest_subnormal).all()
    assert np.abs(columns["codes"].astype(int)).max() <= 127
    # Halfway between levels either neighbour is right; elsewhere the code is the rounded one.
    exact = rows.astype(np.float64) / np.where(level > 0, level, 1)
    assert (np.abs(columns["codes"] - exact)[level[:, 0] > 1e-30] <= 0.50001).all()


@given(
    st.lists(
        st.lists(st.floats(-1e6, 1e6, width=32), min_size=11, max_size=11), min_size=1, max_size=4
    )
)
def test_b1_is_the_multiple_of_signs_with_the_least_squared_error(values: list[Any]) -> None:
    rows = np.array(values, np.float32)
    columns: Any = encode(rows, "b1")
    stored = decode(**columns, dimensions=11).astype(np.float64)
    wide = rows.astype(np.float64)
    # All 2**11 patterns of signs, each with its own best factor by least squares.
    patterns = 1.0 - 2.0 * np.array(np.meshgrid(*[[0, 1]] * 11)).reshape(11, -1).T
    factors = wide @ patterns.T / 11
    best = np.square(wide).sum(axis=1) - 11 * np.square(factors).max(axis=1)
    size = np.square(wide).sum(axis=1)
    np.testing.assert_array_less(np.square(stored - wide).sum(axis=1), best + 1e-6 * size + 1e-60)
    assert (np.sign(stored) * np.sign(wide) >= 0).all()


def test_b1_packs_eight_numbers_into_a_byte_the_first_on_top() -> None:
    rows = np.float32([[1, -1, 1, 1, -1, -1, -1, 1, -1, 1]])
    columns: Any = encode(rows, "b1")
    assert columns["codes"].tolist() == [[0b10110001, 0b01000000]]
    assert columns["codes"].dtype == np.uint8
    np.testing.assert_array_equal(decode(**columns, dimensions=10), rows)
    for dimensions in (1, 7, 8, 9, 64):
        wide = normal(5, dimensions)
        packed: Any = encode(wide, "b1")
        assert packed["codes"].shape == (5, codes_in(dimensions, "b1")) == (5, -(-dimensions // 8))
        values = decode(**packed, dimensions=dimensions)
        np.testing.assert_array_equal(values > 0, wide > 0)
        means = [np.abs(wide).mean(axis=1)] * dimensions
        np.testing.assert_allclose(np.abs(values).T, means, rtol=1e-6)


def test_a_table_of_bits_knows_its_dimensions_whatever_is_done_to_it() -> None:
    rows = normal(30, 11)

    def part(start: int, stop: int) -> Columns:
        keys = np.arange(start, stop, dtype=np.uint64)
        return {**encode(rows[start:stop], "b1"), "keys": keys}

    columns: Any = encode(rows, "b1")
    expected = decode(**columns, dimensions=11)
    table = RowTable(part(0, 0), dimensions=11)
    for start in range(0, 30, 10):
        table = table.appended(part(start, start + 10))
    np.testing.assert_array_equal(table.decoded(), expected)
    np.testing.assert_array_equal(table.slice(5, 9).decoded(), expected[5:9])
    np.testing.assert_array_equal(table.decoded(np.array([7, 7, 0])), expected[[7, 7, 0]])
    odd = np.arange(30) % 2 == 1
    np.testing.assert_array_equal(table.kept(odd).appended(part(0, 2)).decoded()[-2:], expected[:2])
    with pytest.raises(AssertionError, match="how many numbers"):
        RowTable(part(0, 5)).decoded()


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_rows_and_no_rows_stand(dtype: str) -> None:
    columns: Any = encode(np.zeros((2, 3), np.float32), dtype)
    assert decode(**columns, dimensions=3).tolist() == [[0] * 3] * 2
    empty: Any = encode(np.empty((0, 3), np.float32), dtype)
    assert decode(**empty, dimensions=3).shape == (0, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_encoding_what_was_decoded_changes_nothing(dtype: str) -> None:
    columns: Any = encode(normal(50, 8), dtype)
    again: Any = encode(decode(**columns, dimensions=8), dtype)
    np.testing.assert_array_equal(again["codes"], columns["codes"])


def test_values_beyond_a_type_are_refused() -> None:
    assert np.isfinite(encode(np.float32([[65504]]), "f16")["codes"]).all()
    with pytest.raises(ValueError, match=r"65505 was given; f16 .* at most 65504: .* use bf16"):
        encode(np.float32([[0, -65505]]), "f16")
    for dtype in ("f32", "bf16", "i8", "b1"):
        with pytest.raises(ValueError, match=r"scale the vectors$"):
            encode(np.float32([[2e18]]), dtype)


def block(values: Any, first_key: int = 0, **more: NDArray[Any]) -> Columns:
    codes = np.array(values, np.float32).reshape(-1, 1)
    keys = np.arange(first_key, first_key + len(codes), dtype=np.uint64)
    return {"codes": codes, "keys": keys, **more}


@settings(max_examples=50)
@given(st.lists(st.integers(0, 9), max_size=12))
def test_growing_in_parts_is_growing_at_once(sizes: list[int]) -> None:
    table = RowTable(block([]))
    values = np.arange(sum(sizes))
    start = 0
    for size in sizes:
        table = table.appended(block(values[start : start + size], start))
        start += size
    assert table.columns["codes"][:, 0].tolist() == values.tolist()
    assert table.columns["keys"].tolist() == values.tolist()


def test_tables_that_grow_out_of_one_table_do_not_disturb_each_other() -> None:
    root = RowTable(block([])).appended(block([1])).appended(block([2, 3], 1))
    left = root.appended(block([4], 3))
    right = root.appended(block([5], 3))
    part = root.slice(0, 2)
    grown = part.appended(block([6], 3))
    rows = [table.columns["codes"][:, 0].tolist() for table in (root, left, right, part, grown)]
    assert rows == [[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 5], [1, 2], [1, 2, 6]]


def test_small_additions_do_not_copy_what_stands() -> None:
    table = RowTable(block([])).appended(block(range(10)))
    copies = 0
    for key in range(10, 1000):
        grown = table.appended(block([key], key))
        copies += not np.may_share_memory(grown.columns["codes"], table.columns["codes"])
        table = grown
    assert copies <= 8


def test_a_slice_is_the_same_memory_and_what_is_kept_is_not() -> None:
    table = RowTable(block(range(5)))
    part, kept = table.slice(1, 3), table.kept(np.array([True, False, True, False, True]))
    assert np.may_share_memory(part.columns["codes"], table.columns["codes"])
    assert not np.may_share_memory(kept.columns["codes"], table.columns["codes"])
    assert kept.columns["codes"][:, 0].tolist() == [0, 2, 4]


@given(st.lists(st.integers(0, 2**64 - 2), unique=True, max_size=30), st.integers(0, 2**64 - 2))
def test_rows_are_found_by_their_keys(keys: list[int], other: int) -> None:
    known = np.array(keys, np.uint64)
    table = RowTable({"codes": np.zeros((len(known), 1), np.float32), "keys": known})
    assert table.rows_of(known).tolist() == list(range(len(known)))
    expected = keys.index(other) if other in keys else -1
    assert table.rows_of(np.array([other], np.uint64)).tolist() == [expected]


def test_labels_take_the_wider_type() -> None:
    table = RowTable(block([1], labels=np.array([1]))).appended(
        block([2], 1, labels=np.array([0.5]))
    )
    assert table.columns["labels"].tolist() == [1.0, 0.5]
    text, longer = (TextColumn.of(np.array([one])) for one in ("a", "longer"))
    words = RowTable(block([1], labels=text)).appended(block([2], 1, labels=longer))
    assert words.columns["labels"].decoded().tolist() == ["a", "longer"]


@pytest.mark.parametrize(
    ("dtype", "least"),
    [("f16", 2.0**-14), ("bf16", 2.0**-110), ("i8", 2.0**-110), ("b1", 2.0**-110)],
)
@pytest.mark.parametrize("width", [1, 7, 3_000])
def test_rows_below_the_range_of_a_type_are_refused_and_not_stored_as_zeros(
    dtype: str, least: float, width: int
) -> None:
    rows = np.zeros((4, width), np.float32)
    rows[1, 0], rows[2, -1] = least, np.nextafter(np.float32(least), np.float32(0))
    with pytest.raises(ValueError, match=f"row 2 is .* {dtype} keeps rows .* scale the vectors"):
        encode(rows, dtype)
    # What is at the edge keeps its digits (b1: signs and the mean), and rows of zeros are taken.
    rows[2] = 0
    kept = decode(**encode(rows, dtype), dimensions=width)
    mean = np.abs(rows).mean(axis=1) if dtype == "b1" else np.abs(rows).max(axis=1)
    np.testing.assert_allclose(np.abs(kept).max(axis=1), mean, rtol=1e-2)
    assert kept[0].max() == 0
