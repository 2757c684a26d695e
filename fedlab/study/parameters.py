"""The parameters of a notebook: read from its tagged cell, converted, checked, never executed.

papermill takes any name and guesses types from text: a misspelt name, `true` or `1e-3` changes a
run without a word. Here the annotation decides, and what doesn't fit is refused before a run.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import EllipsisType, GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AllowInfNan, BeforeValidator, Field, Strict, TypeAdapter, ValidationError

_NONE = {"none": None, "null": None}
_BOUNDS = {"Ge": "ge", "Gt": "gt", "Le": "le", "Lt": "lt", "MinLen": "min_length"}
_ALLOWED = (
    "int, float, bool, str, list[...], tuple[...], Literal[...], each also with `| None`, and "
    f"Annotated[..., bound] with {', '.join(_BOUNDS)} or Field(ge=...)"
)
# Where the names in annotations come from: the cell is read here, but the kernel executes it.
_IMPORTED = ("__future__", "typing", "annotated_types", "pydantic")


class ParameterError(ValueError):
    """A parameter that doesn't exist, doesn't fit its annotation, or can't be read."""


@dataclass(frozen=True)
class Parameter:
    """One line of a `parameters` cell: ``name: annotation = default``."""

    name: str
    annotation: str
    default: Any

    @property
    def kind(self) -> tuple[Any, dict[str, Any]]:
        """The type without its bounds, and these by name.

        Examples
        --------
        >>> Parameter("share", "Annotated[float, Gt(0), Le(1)]", 0.5).kind
        (<class 'float'>, {'gt': 0, 'le': 1})
        """
        plain, *said = get_args(_type(ast.parse(self.annotation, mode="eval").body))
        held = [bound for part in said for bound in getattr(part, "metadata", ())]
        names = _BOUNDS.values()
        return plain, {n: getattr(one, n) for one in held for n in names if hasattr(one, n)}

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
            wanted = TypeAdapter[Any](_type(ast.parse(self.annotation, mode="eval").body))
            return wanted.validate_python(_plain(value))
        except ValidationError as error:
            told = "; ".join(map(_reason, error.errors()))
        except (ValueError, SyntaxError, TypeError) as error:  # a bound that its type can't have
            told = str(error)
        raise ParameterError(
            f"parameter {self.name}: {told} (it is annotated `{self.annotation}`, "
            f"default {self.default!r})"
        )


def parse(source: str) -> tuple[Parameter, ...]:
    """Read a `parameters` cell without executing it.

    Parameters
    ----------
    source : str
        Lines of the form ``name: annotation = literal``; comments may stand among them, and
        imports of what annotations name (``from annotated_types import Ge``).

    Raises
    ------
    ParameterError
        When a line is anything else, or a default doesn't fit its own annotation.

    Examples
    --------
    >>> [p.name for p in parse("rounds: int = 20  # of training\\nalpha: float = 0.3")]
    ['rounds', 'alpha']
    >>> parse("seeds: Annotated[int, Ge(1)] = 3")[0].convert("0")
    Traceback (most recent call last):
        ...
    fedlab.study.parameters.ParameterError: parameter seeds: '0' is not greater than or \
equal to 1 (it is annotated `Annotated[int, Ge(1)]`, default 3)
    """
    try:
        lines = [line for line in ast.parse(source).body if not _names_types(line)]
    except SyntaxError as error:
        raise ParameterError(f"the parameters cell is not Python: {error}") from None
    found = tuple(_declaration(line) for line in lines)
    names = [parameter.name for parameter in found]
    for name in names:
        if names.count(name) > 1:
            raise ParameterError(f"parameter {name} is declared {names.count(name)} times")
    return found


def parameters_of(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Read the parameters of a function from its signature, without calling it.

    Parameters
    ----------
    function : callable
        Each of its parameters has one of the annotations that a `parameters` cell may have, as a
        type or as text, and a default.

    Raises
    ------
    ParameterError
        When one has no annotation, no default or one that doesn't fit, or can't be given by name.

    Examples
    --------
    >>> def study(alpha: float = 0.3, engine: Literal["flat", "graph"] = "flat"): ...
    >>> parameters_of(study)[1]
    Parameter(name='engine', annotation="Literal['flat', 'graph']", default='flat')
    """
    return tuple(map(_given_by_name, inspect.signature(function).parameters.values()))


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
    fedlab.study.parameters.ParameterError: 04 has no parameter alfa; did you mean \
alpha? It has: alpha: float = 0.3
    """
    known = {parameter.name: parameter for parameter in parameters}
    for name in values:
        if name not in known:
            raise ParameterError(_unknown(name, parameters, notebook))
    return {name: known[name].convert(value) for name, value in values.items()}


def _names_types(line: ast.stmt) -> bool:
    return isinstance(line, ast.ImportFrom) and not line.level and line.module in _IMPORTED


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


def _given_by_name(taken: inspect.Parameter) -> Parameter:
    if taken.kind not in (taken.POSITIONAL_OR_KEYWORD, taken.KEYWORD_ONLY):
        raise ParameterError(f"`{taken}` can't be set by name; write `name: type = default`")
    for part in ("annotation", "default"):
        if getattr(taken, part) is taken.empty:
            raise ParameterError(f"`{taken}` has no {part}; write `{taken.name}: type = default`")
    parameter = Parameter(taken.name, _as_text(taken.annotation), taken.default)
    parameter.convert(taken.default)
    return parameter


def _as_text(kind: Any) -> str:
    """An annotation as a cell would have it; what can't stand there, as Python shows it."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " | ".join(map(_as_text, parts))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, parts))}]"
    if origin is Annotated:
        # A `Field` holds its bounds as `Ge(ge=1)`, which is how annotated_types has them alone.
        bounds = [bound for part in parts[1:] for bound in getattr(part, "metadata", [part])]
        return f"Annotated[{', '.join([_as_text(parts[0]), *map(_bound_as_text, bounds)])}]"
    if origin in (list, tuple):
        return f"{origin.__name__}[{', '.join(map(_as_text, parts))}]"
    if kind in (None, NoneType, ...):
        return "..." if kind is ... else "None"
    return kind if isinstance(kind, str) else getattr(kind, "__name__", repr(kind))


def _bound_as_text(bound: Any) -> str:
    name = type(bound).__name__
    return f"{name}({getattr(bound, _BOUNDS[name])!r})" if name in _BOUNDS else repr(bound)


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
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _reason(error: Any) -> str:
    told = error["msg"].replace("a valid integer", "a whole number").replace("a valid", "a")
    return f"{error['input']!r}: {told}".replace(": Input should be", " is not")


def _read(read: Callable[[str], Any]) -> BeforeValidator:
    """Text goes through `read`; what that can't take is left for the type to refuse."""

    def before(value: Any) -> Any:
        try:
            return read(value.strip()) if isinstance(value, str) else value
        except (ValueError, KeyError):
            return value

    return BeforeValidator(before)


_SCALARS: dict[str, Any] = {
    "bool": Annotated[bool, Strict(), _read(TypeAdapter(bool).validate_python)],
    "int": Annotated[int, Strict(), _read(int)],
    "float": Annotated[float, Strict(), AllowInfNan(False), _read(float)],
    "str": Annotated[str, Strict()],
}


def _type(written: ast.expr) -> Any:
    """The type that an annotation names: built from its tree, so that none of it is executed."""
    match written:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _first_that_fits(left, right)
        case ast.Subscript(value=ast.Name(id=name), slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            match name, parts:
                case "Optional", [kind]:
                    return _first_that_fits(kind, ast.Constant(None))
                case "Literal", _:
                    texts = {str(option): option for option in map(ast.literal_eval, parts)}
                    return Annotated[Literal[tuple(texts.values())], _read(texts.__getitem__)]
                case "tuple", [kind, ast.Constant(value=EllipsisType())]:
                    return Annotated[GenericAlias(tuple, (_type(kind), ...)), _read(_parts)]
                case ("list", [_]) | ("tuple", _):
                    kinds = tuple(map(_type, parts))
                    made = GenericAlias(list if name == "list" else tuple, kinds)
                    return Annotated[made, _read(_parts)]
                case "Annotated", [kind, *bounds]:
                    return Annotated[(_type(kind), *map(_bound, bounds))]
        case ast.Constant(value=None):
            return Annotated[None, _read(lambda text: _NONE[text.lower()])]
        case ast.Constant(value=str() as quoted):
            return _type(ast.parse(quoted, mode="eval").body)
        case ast.Name(id=name) if name in _SCALARS:
            return _SCALARS[name]
    raise ValueError(f"the annotation `{ast.unparse(written)}` is none of: {_ALLOWED}")


def _bound(written: ast.expr) -> Any:
    """What ``Ge(1)`` or ``Field(ge=1)`` asks for."""
    match written:
        case ast.Call(func=ast.Name(id=name), args=[value], keywords=[]) if name in _BOUNDS:
            return Field(**{_BOUNDS[name]: ast.literal_eval(value)})
        case ast.Call(func=ast.Name(id="Field"), args=[], keywords=given):
            asked = {str(each.arg): ast.literal_eval(each.value) for each in given}
            if asked.keys() <= set(_BOUNDS.values()):
                return Field(**asked)
    raise ValueError(f"`{ast.unparse(written)}` is no bound; allowed are: {_ALLOWED}")


def _first_that_fits(*kinds: ast.expr) -> Any:
    # None first: the text "None" would otherwise satisfy `str`.
    first, second = map(_type, sorted(kinds, key=lambda kind: not isinstance(kind, ast.Constant)))
    return Annotated[first | second, Field(union_mode="left_to_right")]


def _parts(text: str) -> Sequence[str]:
    """The items of a list, each as it is written: its own type reads it."""
    inner = text[1:-1] if text[:1] + text[-1:] in ("[]", "()") else text
    if set(inner) & set("[('\""):  # a comma may stand inside an item
        with suppress(SyntaxError):
            tree = ast.parse(text, mode="eval").body
            if isinstance(tree, ast.List | ast.Tuple):
                return [_as_written(item, text) for item in tree.elts]
    return [part.strip() for part in inner.split(",") if part.strip()]


def _as_written(item: ast.expr, text: str) -> str:
    said = getattr(item, "value", None)
    return said if isinstance(said, str) else ast.get_source_segment(text, item) or ""
