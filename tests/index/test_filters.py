"""The language of filters against pandas' own, what it refuses, and searches under a filter."""

from __future__ import annotations

import ast
import builtins
import operator
import re
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any
from unicodedata import normalize

import numpy as np
import pandas as pd
import pytest
import usearch.index
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlab.device.device import Device
from fedlab.index import scan as scan_module
from fedlab.index import vectorindex as index_module
from fedlab.index.filters import FilterError, passing
from fedlab.index.planner import SCAN_LIMIT, filtered_graph_pays, to_fetch
from fedlab.index.vectorindex import VectorIndex
from tests.helpers import DTYPES, METRICS, clustered, distances, filled, normal

ROWS = 60
DRAW = np.random.default_rng(7)
COLUMNS: dict[str, NDArray[Any]] = {
    "key": np.arange(ROWS, dtype=np.uint64) * 3,
    "label": DRAW.integers(0, 4, ROWS),
    "age": DRAW.integers(-5, 90, ROWS),
    "dose": np.where(DRAW.random(ROWS) < 0.2, np.nan, np.round(DRAW.normal(size=ROWS) * 3, 1)),
    "ward": DRAW.choice(["", "A", "B", "Ä", "a b", "it's", "B\\2"], ROWS),
    "smoker": DRAW.random(ROWS) < 0.4,
    "on leave": DRAW.random(ROWS) < 0.5,
    "été": DRAW.integers(0, 3, ROWS),
    "seen": np.datetime64("2024-01-30T12:00", "us")
    + DRAW.integers(0, 80, ROWS) * 12 * 3_600 * 10**6,
}
COLUMNS["seen"][::9] = np.datetime64("NaT")
COLUMNS["seen"][1:3] = np.array(["2024-02-10", "2024-02-11T12:00"], "M8[us]")
FRAME = pd.DataFrame({**COLUMNS, "key": COLUMNS["key"].astype(np.int64)})


def ours(text: str) -> list[bool]:
    return list(passing(text, COLUMNS, ROWS).tolist())


def theirs(text: str) -> list[bool]:
    """Which rows pass by pandas' own query."""
    found = FRAME.query(text, engine="python").index
    return [row in found for row in range(ROWS)]


# -- pandas answers alike ---------------------------------------------------------------------


def joined(*parts: st.SearchStrategy[str] | str) -> st.SearchStrategy[str]:
    """Words with some space between them."""
    strategies = [st.just(part) if isinstance(part, str) else part for part in parts]
    space = st.sampled_from([" ", "  "])
    return st.tuples(space, *strategies).map(lambda drawn: drawn[0].join(drawn[1:]))


ORDERS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
EQUAL = st.sampled_from(["==", "!="])
AMONG = st.sampled_from(["in", "not in"])
NUMBER = st.one_of(
    st.integers(-20, 100).map(str),
    st.floats(-9, 9).map(lambda value: repr(round(value, 1))),
    st.sampled_from(["1e1", ".5", "2.", "0"]),
)
NUMBERS = st.recursive(
    st.sampled_from(["age", "dose", "label", "key", "été", "`age`"]),
    lambda inner: st.one_of(
        joined(inner, st.sampled_from("+-*/"), st.one_of(NUMBER, inner)),
        joined("(", NUMBER, st.sampled_from("+-*"), inner, ")"),
        joined("-", inner).map(lambda text: f"({text})"),
    ),
    max_leaves=4,
)
TEXT = st.sampled_from(["'A'", '"B"', "'Ä'", '""', "'a b'", '"it\'s"', "'it\\'s'", "'B\\\\2'"])
DATE = st.sampled_from(
    ["'2024-02-10'", '"2024-02-10T12:00"', "'2024-03-01 00:00:00'", "'2024-02-29T12:00:00.5'"]
)


def listed(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    inside = st.lists(items, min_size=1, max_size=4).map(", ".join)
    return st.one_of(inside.map("[{}]".format), inside.map("({},)".format))


SIMPLE = st.one_of(
    joined(NUMBERS, ORDERS, st.one_of(NUMBER, NUMBERS)),
    joined(NUMBER, ORDERS, NUMBERS, ORDERS, st.one_of(NUMBER, NUMBERS)),
    joined(st.sampled_from(["age", "label", "dose"]), AMONG, listed(NUMBER)),
    joined("ward", ORDERS, TEXT),
    joined(TEXT, ORDERS, "ward"),
    joined("ward", AMONG, listed(TEXT)),
    joined("seen", st.sampled_from(["<", "<=", ">", ">="]), DATE),
    joined(DATE, "<=", "seen", "<", DATE),
    st.sampled_from(["smoker", "`on leave`", "(smoker)"]),
    joined(st.sampled_from(["smoker", "`on leave`"]), EQUAL, st.sampled_from(["True", "False"])),
    joined("smoker", EQUAL, "`on leave`"),
)
CONDITIONS = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        joined(inner, st.sampled_from(["and", "or", "&", "|"]), inner),
        joined(st.sampled_from(["not", "~"]), "(", inner, ")"),
        joined("not", inner),
        joined("(", inner, ")"),
    ),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(CONDITIONS)
@example("smoker and age + 0 / 0 == 0")
def test_pandas_lets_the_same_rows_pass(text: str) -> None:
    try:
        expected = theirs(text)
    except ZeroDivisionError:  # of two constants; of a column it is infinite
        with pytest.raises(FilterError, match="no value"):
            ours(text)
        return
    assert ours(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "age > 40 & ward == 'A' | smoker",
        "age > 40 | ward == 'A' & smoker",
        "~smoker & ~`on leave`",
        "not smoker and not `on leave`",
        "not age > 40 and smoker",
        "-5 < age <= 40 < key",
        "1 / dose > 0 or 1 / -dose > 0",
        "age / 0 > 1",
        "dose != dose",
        "seen == seen",
        "age in [17, 17.0, 23]",
        "ward not in ()",
        "key in [9]\n  or key in [12]",
        "'A' 'B' != ward",
    ],
)
def test_pandas_binds_words_alike(text: str) -> None:
    assert ours(text) == theirs(text.replace("\n", " "))


def test_dates_are_equal_to_the_text_of_the_same_moment() -> None:
    # pandas' query finds no date equal to a text; pandas itself does.
    seen, one, other = FRAME["seen"], "2024-02-10", "2024-02-11T12:00"
    for text, expected in (
        (f"seen == '{one}'", seen == pd.Timestamp(one)),
        (f"'{other}' != seen", seen != pd.Timestamp(other)),
        (f"seen in ['{one}', '{other}']", seen.isin([pd.Timestamp(one), pd.Timestamp(other)])),
        (f"seen not in ['{one}']", ~seen.isin([pd.Timestamp(one)])),
    ):
        assert ours(text) == expected.tolist()
        assert 0 < sum(expected) < ROWS


@pytest.mark.parametrize("part", ["A", "", "Ä", " b", "B\\", ".", "it's", "zz"])
@pytest.mark.parametrize("way", ["contains", "startswith"])
def test_a_text_stands_in_a_column_as_pandas_finds_it(way: str, part: str) -> None:
    literal = {"regex": False} if way == "contains" else {}
    expected = getattr(FRAME["ward"].str, way)(part, **literal)
    quoted = '"' + part.replace("\\", "\\\\") + '"'
    assert ours(f"ward.str.{way}({quoted})") == expected.tolist()
    assert ours(f"not ward.str.{way}({quoted})") == (~expected).tolist()
    assert (
        ours(f"~ `ward` . str.{way}({quoted}) and age > 3")
        == (~expected & (FRAME["age"] > 3)).tolist()
    )


@pytest.mark.parametrize("name", [*COLUMNS])
def test_missing_values_are_told_as_pandas_tells_them(name: str) -> None:
    expected = FRAME[name].isna()
    assert ours(f"`{name}`.isnull()") == expected.tolist()
    assert ours(f"not `{name}`.isnull() or smoker") == (~expected | FRAME["smoker"]).tolist()
    assert expected.any() == (name in ("dose", "seen"))


#: Letters that Python would spell in another way, and what it would make of them.
RESPELLED = {
    letter: normalize("NFKC", letter)
    for letter in map(chr, range(0x80, sys.maxunicode + 1))
    if re.fullmatch(r"[^\W\d]", letter) and normalize("NFKC", letter) != letter
}


def test_a_filter_reads_the_column_of_that_very_name() -> None:
    mask, other = np.array([True, False]), np.array([False, True])
    columns = {"µmol": np.array([1, 2]), "μmol": np.array([2, 1])}
    assert passing("µmol == 1 and (μmol) > 1", columns, 2).tolist() == [True, False]
    assert len(RESPELLED) > 1000
    for letter, spelled in RESPELLED.items():
        for before in ("", "x"):
            columns = {before + letter: mask, before + spelled: other}
            for text in (f"{before}{letter}", f"`{before}{letter}`"):
                np.testing.assert_array_equal(passing(text, columns, 2), mask, text)
    with pytest.raises(FilterError, match=r"'µmol' is no column; there is μmol"):
        passing("µmol == 1", {"μmol": mask}, 2)


def test_whole_numbers_are_compared_as_such() -> None:
    big = {"n": np.array([2**53, 2**53 + 1, -(2**63)]), "key": np.array([0, 1, 2**64 - 2], "u8")}
    assert passing(f"n == {2**53 + 1}", big, 3).tolist() == [False, True, False]
    assert passing(f"n in [{2**53 + 1}, {2**64 - 1}]", big, 3).tolist() == [False, True, False]
    assert passing(f"n == -{2**63}", big, 3).tolist() == [False, False, True]
    assert passing(f"key == {2**64 - 2}", big, 3).tolist() == [False, False, True]
    assert passing("key > -1 and key > n", big, 3).tolist() == [False, False, True]
    with pytest.raises(FilterError, match="beyond whole numbers"):
        passing("n * 1024 > 0", big, 3)
    with pytest.raises(FilterError, match="beyond whole numbers"):
        passing("key - 1 > 0", big, 3)
    assert passing("n * 1024.0 > 0", big, 3).tolist() == [True, True, False]


# -- what is no filter ------------------------------------------------------------------------

REFUSED = {
    "": "an empty filter",
    "  ": "an empty filter",
    "height > 3": r"at character 1: 'height' is no column; there is key, label, age, .*`on leave`",
    "age > `wide`": "at character 7: 'wide' is no column",
    "age >": "at character 5: this is no condition",
    "age > 3 3": "at character 9",
    "(age > 3": "at character 1: this is no condition",
    "age > 3)": "at character 8",
    "age > 3) and (age > 2": "at character 8",
    "age = 3": "at character 5: '=' has no meaning here; equality is ==",
    "age": "at character 1: this is a number, where a condition is needed",
    "smoker and age": "at character 12: this is a number",
    "not age": "at character 5: this is a number",
    "smoker + 1 > 1": "at character 1: this is a truth value, where a number is needed",
    "ward + 'x' == 'Ax'": "at character 1: this is a text",
    "seen - seen == 0": "at character 1: this is a date",
    "1 < 2": "this asks for no column",
    "True": "this asks for no column",
    "age > 'A'": "at character 7: text beside number: these never compare",
    "ward == 3": "at character 9",
    "smoker == 1": "at character 11",
    "smoker < True": "truth values have no order",
    "age in [1, 'A']": "at character 12",
    "age in 3": "after in stands a list",
    "age in label": "after in stands a list",
    "'A' in ward": "after in stands a list",
    "age in [label]": "a list holds constants only",
    "age == [3]": "at character 8: a list stands only after in",
    "[3] == age": "at character 1: a list stands only after in",
    "[1] in [1]": "at character 1: a list stands only after in",
    "age is 3": "filters compare by",
    "age is not None": "filters have no such thing",
    "seen > '2024'": "at character 8: '2024' is no date; write 2024-05-31",
    "seen > '2024-02-30'": "is no date",
    "seen > 'now'": "is no date",
    "seen < 2025-01-01": "put dates in quotes: '2025-01-01'",
    "seen < 2025-11-12": "number beside date: .*put dates in quotes",
    "seen < 2025-01-01T14:30": "put dates in quotes: '2025-01-01T14:30'",
    "2025-11-12 < seen": "put dates in quotes",
    "seen > '2024-01-01T00:00+01:00'": "is no date",
    "ward == 'A": "at character 9: ' is not closed",
    "ward == 'A\\d'": "at character 9: ' is not closed",
    "`age > 3": "at character 1: ` is not closed",
    "age > 3x": "at character 7: this is no number",
    "age > 0777": "at character 7",
    "age > 1j": "this is no number",
    "age > 1_000": "this is no number",
    "age > 0x10": "this is no number",
    "1 / 0 > age": "this has no value",
    f"age > {2**64}": "whole numbers lie below 2\\*\\*64",
    "age ** 2 > 3": "at character 6",
    "age // 2 > 3": "at character 6",
    "age % 2 == 0": "'%' has no meaning",
    "age > 3; age": "';' has no meaning",
    "age\0 > 3": "has no meaning",
    "*age > 3": "this is no condition",
    "f'{age}' == 'a'": "at character 2",
    # What would run code somewhere else.
    "__import__('os')": "filters have no such thing",
    "age.values > 3": "filters have no such thing; give a mask",
    "ward.str.__class__('A')": "at character 1: filters have no such thing; they ask ward.str.con",
    "ward.contains('A')": r"they ask ward\.str\.contains\('A'\)",
    "contains(ward, 'A')": "filters have no such thing; they ask",
    "ward.str.contains(ward)": "filters have no such thing; they ask",
    "ward.str.contains('A', regex=True)": "at character 29: '=' has no meaning",
    "ward.str.contains()": "filters have no such thing",
    "smoker and age.str.contains('1')": "at character 12: this is a number, where a column of text",
    "seen.str.startswith('2024')": "at character 1: this is a date",
    "wide.isnull()": "'wide' is no column",
    "(age + 1).isnull()": "filters have no such thing; they ask",
    "age.isnull": "filters have no such thing; give a mask",
    "age.isnull() > 3": "number beside truth value",
    "'A'.isnull()": "filters have no such thing",
    "@exit()": "'@' has no meaning here",
    "index > 3": "'index' is no column",
    "abs(age) > 3": "filters have no such thing",
    "age[0] > 3": "filters have no such thing",
    "lambda: 3": "':' has no meaning here",
    "(age := 3) > 2": "':' has no meaning here",
    "[age for age in age] > 3": "filters have no such thing",
    "(age for age in [1]) > 3": "filters have no such thing",
    "smoker if smoker else smoker": "filters have no such thing",
    "(yield) > 3": "filters have no such thing",
    "await smoker": "filters have no such thing",
    "{age}": "'{' has no meaning",
    "None": "filters have no such thing",
    "print": "'print' is no column",
    # What would take a parser or an evaluator to its limits.
    "(" * 900 + "smoker" + ")" * 900: "nested",
    "~" * 1_900 + "smoker": "nested more than 50 deep",
    "not " * 400 + "smoker": "nested more than 50 deep",
    "-" * 60 + "age > 1": "nested more than 50 deep",
    "1+" * 900 + "age > 1": "nested more than 50 deep",
    "smoker == (" * 60 + "smoker" + ")" * 60: "nested more than 50 deep",
    "smoker and " * 200 + "smoker": "at most 2,000 are read",
    "1" * 1_900 + " < age": "whole numbers lie below",
    "age > " + "*".join(["9999999999999999999"] * 40): "has no value|beyond|can't be compared",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=lambda text: repr(text)[:30])
def test_what_is_refused_says_where_and_why(text: str, message: str) -> None:
    with pytest.raises(FilterError, match=message) as caught:
        ours(text)
    assert len(str(caught.value)) < 400


def test_the_caret_stands_under_the_place() -> None:
    with pytest.raises(FilterError) as caught:
        ours("smoker and\n\theight > 3")
    said, shown, caret = str(caught.value).split("\n")
    assert "character 13" in said
    assert shown[caret.index("^") :].startswith("height")


SCRAPS = [
    *("age", "smoker", "ward", "`on leave`", "1", "'A'", "(", ")", "[", "]", ",", "==", "<", "in"),
    *("not", "and", "or", "&", "|", "~", "-", "+", "*", "/", "for", "if", "else", "lambda", "is"),
    *("None", "await", "yield", "f", "import", ".", "@", "=", ":", "__import__", "exec"),
]


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(max_size=30),
        st.lists(st.sampled_from(SCRAPS), max_size=12).map(" ".join),
    )
)
def test_any_text_is_a_filter_or_is_refused(text: str) -> None:
    try:
        found = passing(text, COLUMNS, ROWS)
    except FilterError:
        return
    assert found.shape == (ROWS,)
    assert found.dtype == np.bool_
    assert ours(f"({text})") == found.tolist()


def test_nothing_is_compiled_or_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("code was run")

    for name in ("eval", "exec"):
        monkeypatch.setattr(builtins, name, forbidden)
    monkeypatch.setattr(pd, "eval", forbidden)
    monkeypatch.setattr(ast, "literal_eval", forbidden)
    assert sum(ours("age > 40 and ward in ['A', 'B'] and not `on leave`")) > 0


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ([True, False], ValueError, r"mask of shape \(2,\); \(60,\) is needed"),
        (np.ones((ROWS, 1), bool), ValueError, "mask of shape"),
        (np.arange(ROWS), TypeError, "array of type int64; a mask"),
        (3, TypeError, "where is 3; a mask"),
        (b"age > 3", TypeError, "where is b'age > 3'"),
        (lambda row: True, TypeError, "a mask of truth values is needed"),
    ],
)
def test_masks_are_checked(where: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        passing(where, COLUMNS, ROWS)


def test_a_mask_may_be_a_series_or_a_list() -> None:
    index = filled(normal(4, 2))
    for mask in (pd.Series([True, False] * 2, index=list("wxyz")), [True, False, True, False]):
        assert index.passing(mask).tolist() == [True, False, True, False]
        assert sorted(index.search([1, 1], 4, where=mask).keys[0, :2].tolist()) == [0, 2]


# -- searches under a filter ------------------------------------------------------------------


def described(rows: NDArray[np.float32], *given: str, **more: Any) -> VectorIndex:
    """An index with a label, an age, a ward and a date for each row."""
    draw = np.random.default_rng(len(rows))
    metadata = {
        "age": draw.integers(0, 100, len(rows)),
        "ward": draw.choice(["A", "B", "C"], len(rows)),
        "seen": np.datetime64("2024-01-01") + draw.integers(0, 300, len(rows)),
    }
    labels = draw.integers(0, 3, len(rows))
    return filled(rows, *given, labels=labels, metadata=metadata, **more)


def brute(index: VectorIndex, mask: NDArray[np.bool_], queries: Any, k: int) -> list[list[int]]:
    """Keys of the k nearest rows that pass, in extended precision, ties by key."""
    rows = np.flatnonzero(mask)
    far = distances(index.vectors[rows], queries, index.metric)
    return [index.keys[rows[np.lexsort((index.keys[rows], d))[:k]]].tolist() for d in far]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exact", [True, False])
def test_the_nearest_rows_that_pass(metric: str, dtype: str, exact: bool) -> None:
    index = described(clustered(700, 12), metric, dtype, keys=np.arange(700)[::-1] * 5)
    queries, k = normal(20, 12, seed=1), 6
    frame = index.metadata.assign(label=index.labels)
    for text in ("age < 50", "ward == 'A' and label != 1", "seen >= '2024-10-20'", "age < 0"):
        mask = (frame.index.isin(frame.query(text).index)) & np.ones(700, bool)
        expected = brute(index, mask, queries, k)
        for where in (text, mask):
            hits = index.search(queries, k, exact=exact, where=where)
            found = [keys[:count].tolist() for keys, count in zip(hits.keys, hits.counts)]  # noqa: B905
            if dtype == "b1" and exact:  # many rows in one direction: rounding decides their order
                far = np.sort(distances(index.vectors[mask], queries, metric), axis=1)[:, :k]
                assert np.allclose(hits.distances[:, : far.shape[1]], far.astype(float), atol=1e-12)
            elif dtype != "b1":
                agree = sum(len(set(a) & set(b)) for a, b in zip(found, expected, strict=True))
                assert agree >= (1 if exact else 0.97) * sum(map(len, expected))
            assert hits.counts.tolist() == [min(k, mask.sum())] * 20
            assert (hits.keys[~hits.found] == 2**64 - 1).all()
            assert set(hits.keys[hits.found].tolist()) <= set(index.keys[mask].tolist())
            assert hits.engine == ("scan" if exact else "graph")


def test_usearch_itself_takes_no_filter_and_ours_holds_to_it() -> None:
    rows = clustered(500, 8)
    theirs = usearch.index.Index(ndim=8, metric="cos", dtype="f32")
    theirs.add(np.arange(500, dtype=np.uint64), rows)
    with pytest.raises(TypeError, match="unexpected keyword"):
        theirs.search(rows[:1], 10, filter=lambda key: key < 100)
    index = filled(rows)
    for exact in (True, False):
        hits = index.search(rows[400:420], 10, exact=exact, where="key < 100")
        assert hits.keys.max() < 100
        assert hits.counts.tolist() == [10] * 20


@pytest.mark.parametrize("metric", METRICS)
def test_a_filtered_scan_is_that_of_an_index_of_those_rows(metric: str) -> None:
    index = described(clustered(3000, 10), metric)
    mask = index.passing("age < 30")
    alone = filled(index.vectors[mask], metric, keys=index.keys[mask])
    queries = normal(30, 10, seed=2)
    one, other = index.search(queries, 9, True, where=mask), alone.search(queries, 9, True)
    np.testing.assert_array_equal(one.keys, other.keys)
    np.testing.assert_array_equal(one.distances, other.distances)


def test_rows_gathered_in_parts_answer_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    index, queries = described(np.repeat(clustered(300, 6), 4, axis=0), "l2sq"), normal(9, 6)
    whole = index.search(queries, 50, True, where="age < 50")
    for size in (6, 100, 600):
        monkeypatch.setattr(scan_module, "_GATHERED", size)
        parts = index.search(queries, 50, True, where="age < 50")
        np.testing.assert_array_equal(parts.keys, whole.keys)
        np.testing.assert_array_equal(parts.distances, whole.distances)


def test_gathered_rows_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "_GATHERED", 1 << 18)
    index = filled(normal(100_000, 64))
    mask = np.arange(100_000) % 2 == 0
    tracemalloc.start()
    index.search(normal(4, 64), 5, True, where=mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6 < index.vectors[mask].nbytes


def test_a_filter_that_all_rows_pass_is_none() -> None:
    index = described(clustered(400, 5))
    for exact in (True, False):
        one = index.search(normal(5, 5), 7, exact, where="age >= 0")
        other = index.search(normal(5, 5), 7, exact)
        np.testing.assert_array_equal(one.keys, other.keys)
        np.testing.assert_array_equal(one.distances, other.distances)


def test_queries_that_the_graph_finds_too_little_for_are_rescued_and_named() -> None:
    centres = np.float32([[100, 0], [0, 100], [-100, -100]])
    rows = np.repeat(centres, 400, axis=0) + normal(1200, 2)
    index = filled(rows, "l2sq", labels=np.repeat([0, 1, 2], 400))
    hits = index.search(centres, 5, exact=False, where="label == 1")
    assert hits.rescued.tolist() == [0, 2]
    assert hits.keys.tolist() == brute(index, index.passing("label == 1"), centres, 5)
    assert index.search(centres, 5, exact=False).rescued.tolist() == []
    assert index.search(centres, 5, exact=True, where="label == 1").rescued.tolist() == []


def test_parts_of_a_batch_are_rescued_by_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.repeat(np.float32([[100, 0], [0, 100]]), 500, axis=0) + normal(1000, 2)
    index = filled(rows, "l2sq", labels=np.repeat([0, 1], 500))
    queries = rows[[0, 600, 1, 2, 700, 3, 4]]
    whole = index.search(queries, 5, exact=False, where="label == 1")
    monkeypatch.setattr(index_module, "_MANY", 40)
    parts = index.search(queries, 5, exact=False, where="label == 1")
    assert whole.rescued.tolist() == parts.rescued.tolist() == [0, 2, 3, 5, 6]
    np.testing.assert_array_equal(whole.keys, parts.keys)


def test_filters_follow_rows_that_come_and_go() -> None:
    index = described(clustered(600, 6))
    queries = normal(10, 6, seed=3)
    index.build_graph()
    index.remove(index.keys[:100])
    index.add(
        clustered(50, 6, seed=9),
        labels=[7] * 50,
        metadata={"age": [101] * 50, "ward": ["new ward"] * 50, "seen": ["2025-01-01"] * 50}
        | {"seen": np.full(50, "2025-01-01", "M8[D]")},
    )
    for exact in (True, False):
        hits = index.search(queries, 5, exact, where="ward == 'new ward' and label == 7")
        assert hits.keys.tolist() == brute(index, index.passing("age > 100"), queries, 5)
    assert index.view(500, 550).passing("age > 100").all()


def test_an_empty_index_lets_no_row_pass_and_reads_the_filter_still() -> None:
    index = VectorIndex(2)
    assert index.search([1, 2], 3, where="age > 3").counts.tolist() == [0]
    assert index.within([1, 2], 1, where="age > 3").counts.tolist() == [0]
    with pytest.raises(FilterError, match="no condition"):
        index.search([1, 2], 3, where="age >")


@pytest.mark.parametrize("where", ["height > 3", [True], "age > 'A'"])
def test_searches_refuse_what_is_no_filter(where: Any) -> None:
    index = described(clustered(50, 3))
    calls: list[Callable[[], Any]] = [
        lambda: index.search([1, 2, 3], 2, where=where),
        lambda: index.within([1, 2, 3], 2, where=where),
        lambda: Device(1, index).most_similar([1, 2, 3], 2, where=where),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="where"):
            call()


def test_a_device_finds_its_rows_that_pass() -> None:
    index = described(clustered(80, 3))
    hits = Device("ward 3", index).most_similar([1, 2, 3], 4, where="label == 2")
    assert set(index.labels_of(hits.keys[0])) == {2}


# -- who answers ------------------------------------------------------------------------------


def test_sizes_decide_who_answers_a_filtered_search(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = SCAN_LIMIT // 10
    assert filtered_graph_pays(128, 10 * rows, 10, 1, missing=0)
    assert not filtered_graph_pays(128, 10 * rows, 10, 1, missing=10 * rows)
    assert not filtered_graph_pays(128, rows, 10, 1, missing=0)  # a quick scan
    assert not filtered_graph_pays(10**4, 10**5, 100, 1, missing=0)  # a long walk
    index = described(clustered(4000, 4))
    index.build_graph()
    monkeypatch.setattr("fedlab.index.planner.SCAN_LIMIT", 100)
    assert index.search([1, 1, 1, 1], 1, where="age < 80").engine == "graph"
    assert index.search([1, 1, 1, 1], 1, where="age < 20").engine == "scan"
    assert index.search([1, 1, 1, 1], 500, where="age < 80").engine == "scan"


def test_a_walk_fetches_enough_and_not_more_than_there_are() -> None:
    assert to_fetch(20, 10**6, 10**6, 64) == 64
    assert to_fetch(200, 10**6, 10**6, 64) == 300
    assert to_fetch(20, 10**6, 10**5, 64) == 640
    assert to_fetch(20, 100, 1, 64) == 100
    assert to_fetch(20, 10**9, 1, 64) == 1 << 12
    assert to_fetch(2 * 10**5, 10**6, 10, 64) == 2 * 10**5


SHARES = (0.5, 0.1, 0.01)


def recalls(index: VectorIndex, queries: NDArray[np.float32], where: Any) -> tuple[float, float]:
    """Recall@10 of the filtered graph, and the share of queries that had to be rescued."""
    exact = index.search(queries, 10, exact=True, where=where)
    found = index.search(queries, 10, exact=False, where=where)
    hits = operator.truediv(
        sum(len(np.intersect1d(a, b)) for a, b in zip(exact.keys, found.keys, strict=True)),
        exact.keys.size,
    )
    return hits, len(found.rescued) / len(queries)


@pytest.mark.parametrize("share", SHARES)
def test_recall_holds_under_filters_of_chance_and_of_place(share: float) -> None:
    rows, queries = clustered(8000, 24), clustered(100, 24, seed=1)
    index = filled(rows, "l2sq", metadata={"chance": np.random.default_rng(2).random(8000)})
    plain, _ = recalls(index, queries, None)
    by_chance, rescued = recalls(index, queries, f"chance < {share}")
    assert by_chance >= plain
    assert rescued < 0.05
    # The rows that are farthest along one axis: about most queries too few of them are found.
    along = rows @ normal(1, 24, seed=3)[0]
    by_place, rescued = recalls(index, queries, along > np.quantile(along, 1 - share))
    assert by_place >= plain
    assert rescued > 0 or share == 0.01  # where half of all rows are fetched
