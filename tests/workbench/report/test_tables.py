"""Data frames on a page: each column stands on the side on which it is read."""

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from fedlab.workbench.report.tables import boxed_tables

TREES = pd.DataFrame(
    {
        "height": [1.5, np.nan],
        "share": ["3 of 5", "-"],
        "interval": ["-0.02 (-0.13 to +0.15)", "\u22120.1"],
        "kind": ["oak", "2nd elm"],
        "found": ["A sentence of more than thirty letters, which has to wrap", "<b>"],
    }
)
SIDES = ["number", "number", "number", "words", "long"]
WAYS = {"frame": pd.DataFrame.to_html, "styler": lambda frame: frame.style.to_html()}

each_way = pytest.mark.parametrize("written", WAYS.values(), ids=WAYS)


def parsed(markup):
    return BeautifulSoup(boxed_tables(markup), "html.parser")


def sides(cells):
    return [cell["class"][-1] for cell in cells]


@each_way
def test_a_column_and_its_head_have_one_side(written):
    page = parsed(written(TREES))
    assert [sides(row.find_all("td")) for row in page.select("tbody tr")] == [SIDES, SIDES]
    assert sides(page.select("thead th")[-5:]) == SIDES


@each_way
def test_all_headers_but_the_first_level_s_are_inner(written):
    index = pd.MultiIndex.from_tuples([("a", "p"), ("a", "q"), ("b", "q")], names=["x", "y"])
    page = parsed(written(pd.DataFrame({"n": [1, 2, 3]}, index=index)))
    inner = [th.get_text() for th in page.select("tbody th.inner")]
    outer = [th.get_text() for th in page.select("tbody th:not(.inner)")]
    assert (outer, inner) == (["a", "b"], ["p", "q", "q"])


@each_way
def test_nothing_that_is_said_changes(written):
    markup = written(TREES)
    plain = BeautifulSoup(markup, "html.parser")
    assert parsed(markup).get_text() == plain.get_text()
    assert len(parsed(markup).select("div.scroll > table")) == 1


def test_other_tables_are_only_boxed():
    table = "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>"
    assert (
        boxed_tables(f"<p>{table}</p>") == f'<p><div class="scroll" tabindex="0">{table}</div></p>'
    )


@each_way
def test_a_table_without_rows_or_columns_stays_one(written):
    for frame in (TREES.iloc[:0], TREES[[]], pd.DataFrame()):
        assert parsed(written(frame)).find("table") is not None
