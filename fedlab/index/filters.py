"""Which rows pass a filter: a small part of pandas' query language, that can't do more.

A filter is a comparison of columns, or several joined by ``and``, ``or``, ``not``::

    age >= 65 and ward in ["A", "B"] and not `on leave`
    "2024-01-01" <= admitted < "2024-07-01" | label == 1
    diagnosis.str.contains("asthma") and not dose.isnull()

Known are ``==  !=  <  <=  >  >=`` (also chained), ``in`` and ``not in`` with lists of constants,
``and or not & | ~``, ``+ - * /`` on numbers, parentheses, numbers, text in quotes, ``True`` and
``False``, dates as ISO text beside a column of dates, and columns by name (in backticks where the
name is no word). Of a column of text, ``.str.contains("...")`` and ``.str.startswith("...")`` say
whether a text stands in it, or at its beginning, letter by letter (it is no pattern); of any
column, ``.isnull()`` says whether a number or a date is missing.

As in pandas, ``&`` and ``|`` bind as ``and`` and ``or`` do, and a comparison with a missing number
or date is false (``!=``: true), so that `DataFrame.query` answers alike. (But pandas' ``contains``
reads a pattern, and to ``==`` between dates and text its query answers that none is equal, even
where one is.)

The text is cut into words here, and Python's parser says how they belong together; each node is
then worked out by this module, or refused. Nothing is ever compiled, called or looked up elsewhere.
"""

from __future__ import annotations

import ast
import datetime
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import Bool
from fedlab.core.validation import plain_array
from fedlab.index.texts import TextColumn, as_texts

_LONGEST = 2_000
_DEEPEST = 50
_TOO_DEEP = f"conditions are nested more than {_DEEPEST} deep"
_WORDS = re.compile(
    r"""(?P<space>\s+)
    |(?P<column>`[^`]*`)
    |(?P<text>"(?:[^"\\\n]|\\[\\"'])*"|'(?:[^'\\\n]|\\[\\"'])*')
    |(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?!\w))
    |(?P<name>[^\W\d]\w*)
    |(?P<sign><=|>=|==|!=|[<>()\[\],&|~+\-*/.])""",
    re.VERBOSE,
)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)?", re.ASCII)
_SPELLED = {"&": "and", "|": "or"}

_KINDS = {"i": "number", "u": "number", "f": "number", "b": "truth value", "U": "text", "M": "date"}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_RECKON: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SEARCH: dict[str, Callable[[str, str], bool]] = {
    "contains": operator.contains,
    "startswith": str.startswith,
}


class FilterError(ValueError):
    """A text is no filter over the columns there are; the message shows the place."""


def passing(where: Any, columns: Mapping[str, NDArray[Any]], rows: int) -> Bool:
    """Return which rows pass a filter, as a mask.

    Parameters
    ----------
    where : (n,) bool array or str
        A mask, which is returned as it is, or a filter as this module describes.
    columns : mapping of str to (n,) array
        What a filter may name.
    rows : int
        n.

    Raises
    ------
    FilterError
        If a text is no filter over these columns; it shows the place. At most 2,000 characters are
        read, nested at most 50 deep.
    TypeError, ValueError
        If a mask has another type or length.

    Examples
    --------
    >>> columns = {"age": np.array([31, 52]), "ward": np.array(["A", "A"])}
    >>> passing("age > 40 & ward != 'B'", columns, rows=2)
    array([False,  True])
    """
    if isinstance(where, str):
        read = _Filter(where, columns)
        return read.mask() if rows else np.empty(0, np.bool_)  # without rows no column is known
    mask = plain_array(where, "where")
    if mask.dtype != np.bool_:
        raise TypeError(
            f"where is an array of type {mask.dtype}; a mask of truth values is needed, or text"
            if mask.ndim
            else f"where is {where!r}; a mask of truth values is needed, or text: 'age > 40'"
        )
    if mask.shape != (rows,):
        raise ValueError(f"where is a mask of shape {mask.shape}; ({rows},) is needed, one a row")
    return mask


@dataclass(frozen=True)
class _Word:
    text: str
    place: int


class _Filter:
    """One filter over one set of columns."""

    def __init__(self, text: str, columns: Mapping[str, NDArray[Any]]) -> None:
        self._text, self._columns = text, columns
        if len(text) > _LONGEST:
            raise FilterError(
                f"where: a filter of {len(text):,} characters was given; at most {_LONGEST:,} are "
                "read: give a mask instead"
            )
        self._words = self._cut()
        self._root = self._parsed()

    def mask(self) -> Bool:
        value = self._truth(self._root, 0)
        if not isinstance(value, np.ndarray):
            raise self._error(0, f"this asks for no column; there is {_listed(self._columns)}")
        return value

    # -- words, and how they belong together -------------------------------------------------

    def _cut(self) -> list[_Word]:
        words, place = [], 0
        while place < len(self._text):
            match = _WORDS.match(self._text, place)
            if match is None:
                raise self._error(place, self._why_no_word(place))
            if match.lastgroup != "space":
                words.append(_Word(match.group(), place))
            place = match.end()
        if not words:
            raise FilterError("where: an empty filter was given; leave it out, or give a condition")
        return words

    def _why_no_word(self, place: int) -> str:
        letter = self._text[place]
        if letter in "\"'`":
            return f"{letter} is not closed (in text, \\ stands only before \\ and quotes)"
        if letter.isdigit():
            return "this is no number" + self._date_hint(place)
        return f"{letter!r} has no meaning here" + ("; equality is ==" if letter == "=" else "")

    def _date_hint(self, place: int) -> str:
        """Return what to do about a date that stands there without quotes, if one does."""
        dates = (m for m in _DATE.finditer(self._text) if m.start() <= place < m.end())
        return "".join(f"; put dates in quotes: '{date.group()}'" for date in dates)

    def _parsed(self) -> ast.expr:
        words = ("_" if _is_own(w.text) else _SPELLED.get(w.text, w.text) for w in self._words)
        try:
            # A word a line, so that a node's line says which word it begins with.
            return ast.parse(" \\\n".join(words), mode="eval").body
        except SyntaxError as error:
            word = self._words[min(max((error.lineno or 1) - 1, 0), len(self._words) - 1)]
            why = self._date_hint(word.place) or f" ({error.msg})"
            raise self._error(word.place, f"this is no condition{why}") from None
        except (MemoryError, RecursionError, ValueError):
            raise self._error(0, _TOO_DEEP) from None

    # -- what they say -----------------------------------------------------------------------

    def _value(self, node: ast.expr, depth: int) -> Any:
        if depth > _DEEPEST:
            raise self._at(node, _TOO_DEEP)
        match node:
            case ast.Name():
                return self._column(node)
            case ast.Constant(value=bool() | int() | float() | str() as constant):
                if type(constant) is int and constant >= 2**64:
                    raise self._at(node, "whole numbers lie below 2**64")
                return constant
            case ast.BoolOp(op=ast.And(), values=values):
                return reduce(operator.and_, [self._truth(value, depth + 1) for value in values])
            case ast.BoolOp(op=ast.Or(), values=values):
                return reduce(operator.or_, [self._truth(value, depth + 1) for value in values])
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return self._truth(operand, depth + 1) ^ True
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._reckoned(node, ast.Mult, -1, self._number(operand, depth + 1))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._number(operand, depth + 1)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _RECKON:
                numbers = self._number(left, depth + 1), self._number(right, depth + 1)
                return self._reckoned(node, type(op), *numbers)
            case ast.Compare():
                return self._compared(node, depth)
            case ast.Call(func=ast.Attribute(ast.Name() as of, "isnull"), args=[], keywords=[]):
                column = self._column(of)
                missing = np.zeros(len(column), np.bool_)
                # Numbers and dates that are missing don't equal themselves.
                return column != column if column.dtype.kind in "fM" else missing
            case ast.Call(
                func=ast.Attribute(ast.Attribute(ast.Name() as of, "str"), name),
                args=[ast.Constant(value=str() as part)],
                keywords=[],
            ) if name in _SEARCH:
                column = self._of_kind("text", "a column of text", of, depth)
                return column.where(lambda text: _SEARCH[name](text, part))
            case ast.Call():
                known = "ward.str.contains('A'), ward.str.startswith('A'), age.isnull()"
                raise self._at(node, f"filters have no such thing; they ask {known}")
            case ast.List() | ast.Tuple():
                raise self._at(node, "a list stands only after in and not in")
        raise self._at(node, "filters have no such thing; give a mask for what they can't say")

    def _truth(self, node: ast.expr, depth: int) -> Any:
        return self._of_kind("truth value", "a condition", node, depth)

    def _number(self, node: ast.expr, depth: int) -> Any:
        return self._of_kind("number", "a number", node, depth)

    def _of_kind(self, kind: str, needed: str, node: ast.expr, depth: int) -> Any:
        value = self._value(node, depth)
        if _kind(value) != kind:
            raise self._at(node, f"this is a {_kind(value)}, where {needed} is needed")
        return value

    def _column(self, node: ast.Name) -> Any:
        word = self._words[node.lineno - 1].text
        name = word[1:-1] if word[0] == "`" else word
        if name not in self._columns:
            raise self._at(node, f"{name!r} is no column; there is {_listed(self._columns)}")
        column = self._columns[name]
        if column.dtype == np.uint64 and column.max(initial=0) < 2**63:
            return column.view(np.int64)  # so that whole numbers are of one type
        return as_texts({name: column})[name]

    def _reckoned(self, node: ast.expr, op: type[ast.operator], a: Any, b: Any) -> Any:
        if op is not ast.Div and _is_whole(a) and _is_whole(b):
            ends = [_RECKON[op](x, y) for x, y in product(_ends(a), _ends(b))]
            if min(ends) < -(2**63) or max(ends) >= 2**63 or _is_unsigned(a) or _is_unsigned(b):
                raise self._at(node, "this goes beyond whole numbers of 64 bits; make them floats")
        try:
            with np.errstate(all="ignore"):
                return _RECKON[op](a, b)
        except (OverflowError, ZeroDivisionError) as error:
            raise self._at(node, f"this has no value ({error})") from None

    def _compared(self, node: ast.Compare, depth: int) -> Any:
        nodes = [node.left, *node.comparators]
        sides = [
            (side, None if isinstance(side, ast.List | ast.Tuple) else self._value(side, depth + 1))
            for side in nodes
        ]
        answers = []
        for op, (left, right) in zip(node.ops, pairwise(sides), strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                among = self._among(left, right[0], depth)
                answers.append(among if isinstance(op, ast.In) else among ^ True)
            else:
                answers.append(self._related(op, left, right))
        return reduce(operator.and_, answers)

    def _among(self, left: tuple[ast.expr, Any], right: ast.expr, depth: int) -> Any:
        if not isinstance(right, ast.List | ast.Tuple):
            raise self._at(right, "after in stands a list of constants: ward in ['A', 'B']")
        items = [(item, self._value(item, depth + 1)) for item in right.elts]
        for item, value in items:
            if isinstance(value, np.ndarray | TextColumn):
                raise self._at(item, "a list holds constants only")
        if left[1] is None:
            raise self._at(left[0], "a list stands only after in and not in")
        never = np.zeros(np.shape(left[1]), np.bool_) if np.shape(left[1]) else False
        return reduce(operator.or_, [self._related(ast.Eq(), left, item) for item in items], never)

    def _related(
        self, op: ast.cmpop, left: tuple[ast.expr, Any], right: tuple[ast.expr, Any]
    ) -> Any:
        for node, value in (left, right):
            if value is None:
                raise self._at(node, "a list stands only after in and not in")
        if type(op) not in _COMPARE:
            raise self._at(right[0], "filters compare by == != < <= > >= in")
        a, b = self._dated(left, right[1]), self._dated(right, left[1])
        if _kind(a) != _kind(b):
            dated = {_kind(a), _kind(b)} == {"date", "number"}
            hint = "; put dates in quotes: '2024-05-31'" if dated else ""
            raise self._at(right[0], f"{_kind(b)} beside {_kind(a)}: these never compare{hint}")
        if _kind(a) == "truth value" and not isinstance(op, ast.Eq | ast.NotEq):
            raise self._at(right[0], "truth values have no order; compare them by == or !=")
        try:
            return _related(_COMPARE[type(op)], a, b)
        except OverflowError as error:
            raise self._at(right[0], f"this can't be compared ({error})") from None

    def _dated(self, side: tuple[ast.expr, Any], other: Any) -> Any:
        """Return a side of a comparison; text as the date that it is, if the other is a date."""
        node, value = side
        if not isinstance(value, str) or _kind(other) != "date":
            return value
        try:
            if not _DATE.fullmatch(value):
                raise ValueError
            return np.datetime64(datetime.datetime.fromisoformat(value), "us")
        except ValueError:
            said = f"{value!r} is no date; write 2024-05-31 or 2024-05-31T14:30:00"
            raise self._at(node, said) from None

    # -- errors ------------------------------------------------------------------------------

    def _at(self, node: ast.expr, said: str) -> FilterError:
        return self._error(self._words[node.lineno - 1].place, said)

    def _error(self, place: int, said: str) -> FilterError:
        start = max(0, place - 60)
        shown = re.sub(r"\s", " ", self._text[start : place + 40])
        pointer = " " * (place - start) + "^"
        return FilterError(f"where, at character {place + 1}: {said}\n  {shown}\n  {pointer}")


def _is_own(word: str) -> bool:
    """Return whether a word names a column in letters of its own, which Python would spell anew.

    To its parser, a micro sign is a Greek mu, and a ligature two letters (NFKC).
    """
    return word[0] == "`" or not (word.isascii() or word[0] in "\"'" or word[0].isdecimal())


def _related(compare: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    if isinstance(a, TextColumn) and isinstance(b, TextColumn):
        return compare(a.strings(), b.strings()).astype(np.bool_)
    if isinstance(a, TextColumn):
        return a.where(lambda text: compare(text, b))
    if isinstance(b, TextColumn):
        return b.where(lambda text: compare(a, text))
    return compare(a, b)


def _kind(value: Any) -> str:
    return "text" if isinstance(value, TextColumn) else _KINDS[np.asarray(value).dtype.kind]


def _is_whole(value: Any) -> bool:
    return value.dtype.kind in "iu" if isinstance(value, np.ndarray) else isinstance(value, int)


def _is_unsigned(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "u"


def _ends(value: Any) -> tuple[int, int]:
    if not isinstance(value, np.ndarray):
        return value, value
    return (int(value.min()), int(value.max())) if len(value) else (0, 0)


def _listed(columns: Mapping[str, Any]) -> str:
    names = [name if name.isidentifier() else f"`{name}`" for name in columns]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more
