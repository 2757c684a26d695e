"""Tables of a page: numbers to the right, words to the left, and a box that scrolls.

A data frame's HTML doesn't say which of its columns hold words, nor which of its row headers
stand at the left edge when the one before them spans several rows.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bs4.element import Tag

_TABLE = re.compile(r"<table\b.*?</table>", re.S)
_FRAME = re.compile(r'<table\b[^>]*(class="dataframe"|id="T_)')
# A count, a share, a mean with its interval, "3 of 5", NaN: what is read by comparing digits.
_NUMBER = re.compile(r"[-+\u2212<>≤≥±~]?\s*(\d|\.\d|(nan|inf)$)", re.I)
_NOTHING = {"", "-"}
_LONG = 28


def boxed_tables(markup: str) -> str:
    """Put each table in a box of its own that scrolls, so that the page doesn't.

    In a data frame's table, columns of numbers get the class ``number``, columns of long texts
    ``long``, and row headers that are not at the left edge ``inner``.

    Examples
    --------
    >>> print(boxed_tables("<table><tr><td>1</td></tr></table>"))
    <div class="scroll" tabindex="0"><table><tr><td>1</td></tr></table></div>
    """
    return _TABLE.sub(lambda found: _boxed(found[0]), markup)


def _boxed(table: str) -> str:
    if _FRAME.match(table):
        table = _marked(table)
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _marked(markup: str) -> str:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(markup, "html.parser")
    rows = soup.select("tbody > tr")
    _mark(soup.select("table"), "frame")
    levels = max((len(row.find_all("th")) for row in rows), default=0)
    for row in rows:
        headers = row.find_all("th")
        _mark(headers[1:] if len(headers) == levels else headers, "inner")
    columns = list(zip(*(row.find_all("td") for row in rows), strict=False))
    heads = [row.find_all("th")[-len(columns) :] for row in soup.select("thead > tr")]
    for place, column in enumerate(columns):
        cells = [*column, *(head[place] for head in heads if len(head) == len(columns))]
        _mark(cells, _kind([cell.get_text().strip() for cell in column]))
    return str(soup)


def _kind(texts: list[str]) -> str:
    said = [text for text in texts if text not in _NOTHING]
    if all(_NUMBER.match(text) and len(text) <= _LONG for text in said):
        return "number"
    return "long" if max(map(len, said)) > _LONG else "words"


def _mark(cells: list[Tag], kind: str) -> None:
    for cell in cells:
        cell["class"] = " ".join([*filter(None, cell.get_attribute_list("class")), kind])
