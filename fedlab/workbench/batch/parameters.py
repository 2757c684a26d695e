"""The parameters of a notebook: read from its tagged cell, converted, checked, never executed.

papermill takes any name and guesses types from text: a misspelt name, `true` or `1e-3` changes a
run without a word. Here the annotation decides, and what doesn't fit is refused before a run.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Parameter", "ParameterError", "bind", "parse"]

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_NONE = frozenset({"none", "null"})
_ALLOWED = "int, float, bool, str, list[...], tuple[...], Literal[...], each also with `| None`"


class ParameterError(ValueError):
    """A parameter that doesn't exist, doesn't fit its annotation, or can't be read."""


@dataclass(frozen=True)
class Parameter:
    """One line of a `parameters` cell: ``name: annotation = default``."""

    name: str
    annotation: str
    default: Any

    def convert(self, value: Any) -> Any:
        """Return `value` as this parameter's annotation wants it.

        Parameters
        ----------
        value : object
            Text, as it comes from a command line, or a Python or NumPy value.

        Raises
        ------
        ParameterError
            When it doesn't fit; the message names the value and the annotation.

        Examples
        --------
        >>> Parameter("lr", "float", 0.1).convert("1e-3")
        0.001
        >>> Parameter("alphas", "list[float] | None", None).convert("0.1, 1")
        [0.1, 1.0]
        """
        try:
            return _convert(_plain(value), ast.parse(self.annotation, mode="eval").body)
        except ValueError as error:
            raise ParameterError(
                f"parameter {self.name}: {error} (it is annotated `{self.annotation}`, "
                f"default {self.default!r})"
            ) from None


def parse(source: str) -> tuple[Parameter, ...]:
    """Read a `parameters` cell without executing it.

    Parameters
    ----------
    source : str
        Lines of the form ``name: annotation = literal``; comments may stand among them.

    Raises
    ------
    ParameterError
        When a line is anything else, or a default doesn't fit its own annotation.

    Examples
    --------
    >>> [p.name for p in parse("rounds: int = 20  # of training\\nalpha: float = 0.3")]
    ['rounds', 'alpha']
    """
    try:
        lines = ast.parse(source).body
    except SyntaxError as error:
        raise ParameterError(f"the parameters cell is not Python: {error}") from None
    found = tuple(_declaration(line) for line in lines)
    names = [parameter.name for parameter in found]
    for name in names:
        if names.count(name) > 1:
            raise ParameterError(f"parameter {name} is declared {names.count(name)} times")
    return found


def bind(
    parameters: Sequence[Parameter], values: Mapping[str, Any], notebook: str
) -> dict[str, Any]:
    """Convert `values` to what `parameters` want; refuse names that aren't among them.

    Examples
    --------
    >>> bind(parse("alpha: float = 0.3"), {"alpha": "0.1"}, "04_see_non_iid")
    {'alpha': 0.1}
    >>> bind(parse("alpha: float = 0.3"), {"alfa": "0.1"}, "04")
    Traceback (most recent call last):
        ...
    fedlab.workbench.batch.parameters.ParameterError: 04 has no parameter alfa; did you mean \
alpha? It has: alpha: float = 0.3
    """
    known = {parameter.name: parameter for parameter in parameters}
    for name in values:
        if name not in known:
            raise ParameterError(_unknown(name, parameters, notebook))
    return {name: known[name].convert(value) for name, value in values.items()}


def _declaration(line: ast.stmt) -> Parameter:
    written = ast.unparse(line)
    if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
        raise ParameterError(
            f"`{written}` can't stand in the parameters cell: only `name: type = literal` can, "
            f"with one of the types {_ALLOWED}"
        )
    try:
        default = ast.literal_eval(line.value)
    except ValueError:
        raise ParameterError(
            f"`{written}`: the default must be a literal (a number, a text, True, False, None, or "
            "a list or tuple of these), because it is read and never executed"
        ) from None
    parameter = Parameter(line.target.id, ast.unparse(line.annotation), default)
    parameter.convert(default)
    return parameter


def _unknown(name: str, parameters: Sequence[Parameter], notebook: str) -> str:
    if not parameters:
        return (
            f"{notebook} takes no parameters, so {name} can't be set; tag a cell `parameters` "
            "and declare it there as `name: type = literal`"
        )
    close = difflib.get_close_matches(name, [parameter.name for parameter in parameters], n=1)
    guess = f"; did you mean {close[0]}?" if close else "."
    declared = ", ".join(f"{p.name}: {p.annotation} = {p.default!r}" for p in parameters)
    return f"{notebook} has no parameter {name}{guess} It has: {declared}"


def _plain(value: Any) -> Any:
    """Turn NumPy scalars and arrays into Python's own, without importing NumPy."""
    for method in ("tolist", "item"):
        if type(value).__module__ == "numpy" and hasattr(value, method):
            return getattr(value, method)()
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _convert(value: Any, kind: ast.expr) -> Any:
    match kind:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _first_that_fits(value, [left, right])
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return _first_that_fits(value, [inner, ast.Constant(None)])
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return _choice(value, ast.literal_eval(inner))
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return [_convert(part, inner) for part in _parts(value)]
        case ast.Subscript(value=ast.Name(id="tuple"), slice=inner):
            return _tuple(_parts(value), inner.elts if isinstance(inner, ast.Tuple) else [inner])
        case ast.Constant(value=None):
            if value is None or (isinstance(value, str) and value.strip().lower() in _NONE):
                return None
            raise ValueError(f"{value!r} is not None")
        case ast.Constant(value=str() as quoted):
            return _convert(value, ast.parse(quoted, mode="eval").body)
        case ast.Name(id=name) if name in _SCALARS:
            return _SCALARS[name](value)
    raise ValueError(f"the annotation `{ast.unparse(kind)}` is none of: {_ALLOWED}")


def _first_that_fits(value: Any, kinds: Sequence[ast.expr]) -> Any:
    # None first: the text "None" would otherwise satisfy `str`.
    ordered = sorted(kinds, key=lambda kind: not isinstance(kind, ast.Constant))
    reasons = []
    for kind in ordered:
        try:
            return _convert(value, kind)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError("; ".join(reasons))


def _choice(value: Any, allowed: Any) -> Any:
    options = allowed if isinstance(allowed, tuple) else (allowed,)
    for option in options:
        if value == option or (isinstance(value, str) and value == str(option)):
            return option
    raise ValueError(f"{value!r} is none of {', '.join(map(repr, options))}")


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, list | tuple):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no sequence: write it as 0.1,1 or [0.1, 1]")
    text = value.strip()
    try:
        literal = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        literal = None
    if isinstance(literal, list | tuple):
        return literal
    if text[:1] in "[(" and text[-1:] in "])":
        text = text[1:-1]
    return [part.strip() for part in text.split(",") if part.strip()]


def _tuple(parts: Sequence[Any], kinds: Sequence[ast.expr]) -> tuple[Any, ...]:
    if len(kinds) == 2 and isinstance(kinds[1], ast.Constant) and kinds[1].value is Ellipsis:
        return tuple(_convert(part, kinds[0]) for part in parts)
    if len(parts) != len(kinds):
        raise ValueError(f"{len(parts)} values were given, {len(kinds)} are wanted")
    return tuple(_convert(part, kind) for part, kind in zip(parts, kinds, strict=True))


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in _TRUE | _FALSE:
        return word in _TRUE
    raise ValueError(f"{value!r} is not a bool: write true or false")


def _int(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    raise ValueError(f"{value!r} is not a whole number")


def _float(value: Any) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a number") from None
    if isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
        raise ValueError(f"{value!r} is not finite")
    raise ValueError(f"{value!r} is not a number")


def _str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r} is not a text")


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": _str,
}
