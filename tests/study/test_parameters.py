"""Parameters: types from annotations, values from command lines, and nothing executed."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import numpy as np
import pytest
import yaml
from annotated_types import Ge, Lt, MinLen
from hypothesis import given
from hypothesis import strategies as st
from papermill.cli import _resolve_type
from pydantic import Field

from fedlab.study.parameters import Parameter, ParameterError, bind, parameters_of, parse
from fedlab.workbench.batch import cli
from fedlab.workbench.batch.commands import papermill_line, papermill_options, workbench_line


def convert(annotation: str, default: str, value: Any) -> Any:
    return bind(parse(f"x: {annotation} = {default}"), {"x": value}, "nb")["x"]


@pytest.mark.parametrize(
    ("annotation", "default", "value", "expected"),
    [
        ("bool", "False", "true", True),
        ("bool", "True", "FALSE", False),
        ("bool", "True", "0", False),
        ("bool", "True", np.bool_(False), False),
        ("float", "0.3", "1e-3", 0.001),
        ("float", "0.3", "1", 1.0),
        ("float", "0.3", 2, 2.0),
        ("float", "0.3", np.float32(0.5), 0.5),
        ("int", "1", "007", 7),
        ("int", "1", "-3", -3),
        ("int", "1", "1_000", 1000),
        ("int", "1", np.int64(12), 12),
        ("str", "''", "007", "007"),
        ("str", "''", "true", "true"),
        ("str", "'a'", "", ""),
        ("list[float]", "[1.0]", "0.1, 1", [0.1, 1.0]),
        ("list[float]", "[1.0]", "[0.1, 1]", [0.1, 1.0]),
        ("list[int]", "[]", np.array([1, 2]), [1, 2]),
        ("list[int]", "[]", "3", [3]),
        ("list[int]", "[1]", "", []),
        ("list[bool]", "[]", "[true, false]", [True, False]),
        ("list[str]", "[]", "heart,digits", ["heart", "digits"]),
        ("list[str]", "[]", "1,2", ["1", "2"]),
        ("list[str]", "[]", "[1, 2]", ["1", "2"]),
        ("list[str]", "[]", "1.50,007", ["1.50", "007"]),
        ("list[str]", "[]", "['a,b', c-1]", ["a,b", "c-1"]),
        ("list[str]", "[]", "it's,-a", ["it's", "-a"]),
        ("list[list[str]]", "[]", "[[1, 2], ['3']]", [["1", "2"], ["3"]]),
        ("tuple[str, int]", "('a', 1)", "1,2", ("1", 2)),
        ("list[bool]", "[]", "[True, 'no']", [True, False]),
        ("list[int]", "[]", "-1,2", [-1, 2]),
        ("Annotated[int, Ge(1)]", "3", "5", 5),
        ("Annotated[int, Ge(1)] | None", "None", "none", None),
        ("Annotated[list[int], MinLen(1)]", "[1]", "2", [2]),
        ("'Annotated[float, Gt(0), Lt(1)]'", "0.5", ".25", 0.25),
        ("list[Annotated[int, Field(ge=0, le=9)]]", "[]", "0,9", [0, 9]),
        ("list[list[int]]", "[]", "[[1, 2], [3]]", [[1, 2], [3]]),
        ("tuple[int, ...]", "()", "1,2,3", (1, 2, 3)),
        ("tuple[str, float]", "('a', 1.0)", "b,2", ("b", 2.0)),
        ("int | None", "None", "none", None),
        ("int | None", "None", "5", 5),
        ("str | None", "None", "None", None),
        ("Optional[float]", "None", "0.5", 0.5),
        ("Literal['f16', 'f32']", "'f32'", "f16", "f16"),
        ("Literal[1, 2]", "1", "2", 2),
        ("'float'", "0.3", "0.5", 0.5),
    ],
)
def test_values_are_converted(annotation: str, default: str, value: Any, expected: Any) -> None:
    found = convert(annotation, default, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "default", "value"),
    [
        ("int", "1", "1.5"),
        ("int", "1", "1e3"),
        ("int", "1", 1.0),
        ("int", "1", True),
        ("int", "1", None),
        ("float", "1.0", "fast"),
        ("float", "1.0", "nan"),
        ("float", "1.0", "inf"),
        ("float", "1.0", False),
        ("bool", "True", "maybe"),
        ("bool", "True", 1),
        ("str", "''", 7),
        ("list[int]", "[1]", "1,b"),
        ("list[int]", "[1]", 5),
        ("tuple[int, int]", "(1, 2)", "1,2,3"),
        ("Literal['f16', 'f32']", "'f32'", "f8"),
        ("int | None", "None", "x"),
        ("Annotated[int, Ge(1)]", "3", "0"),
        ("Annotated[int, Ge(1)]", "3", "-1"),
        ("Annotated[int, Ge(1)] | None", "None", "0"),
        ("Annotated[float, Gt(0), Lt(1)]", "0.5", "1"),
        ("Annotated[str, MinLen(1)]", "'a'", ""),
        ("Annotated[tuple[int, ...], MinLen(1)]", "(1,)", ""),
        ("list[Annotated[int, Field(ge=0, le=9)]]", "[]", "3,10"),
    ],
)
def test_what_does_not_fit_is_refused(annotation: str, default: str, value: Any) -> None:
    with pytest.raises(ParameterError) as caught:
        convert(annotation, default, value)
    assert f"`{annotation}`" in str(caught.value)
    assert "parameter x" in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "x = 3",
        "x: int",
        "x: int = y",
        "x: int = int('3')",
        "x: int = 'a'",
        "x: dict = {}",
        "x: complex = 1j",
        "import os",
        "x: int = 1\nx: int = 2",
        "x: int = (",
        "x: int = __import__('os').system('true')",
        "x: Annotated[int, Ge(1)] = 0",
        "x: Annotated[int, AfterValidator(print)] = 1",
        "x: Annotated[int, Field(default_factory=print)] = 1",
        "x: Annotated[int, Field(**{'ge': 1})] = 1",
        "x: Annotated[int, Ge(__import__('os').system('true'))] = 1",
        "x: Annotated[int, Ge('a')] = 1",
        "x: Annotated[int] = 1",
        "x: list[...] = [1]",
        "x: list[int, str] = [1]",
        "x: tuple[..., int] = (1,)",
        "x: ... = 1",
        "from os import system",
        "from .typing import Annotated",
    ],
)
def test_a_cell_that_can_not_be_trusted_is_refused(source: str) -> None:
    with pytest.raises(ParameterError):
        parse(source)


def test_reading_executes_nothing(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    with pytest.raises(ParameterError):
        parse(f"x: int = open({str(trap)!r}, 'w').write('a')")
    assert not trap.exists()


def test_what_annotations_name_may_be_imported_in_the_cell() -> None:
    source = "from typing import Annotated\nfrom annotated_types import Ge, MinLen\n"
    source += "seeds: Annotated[list[int], MinLen(1)] = [0]\nk: Annotated[int, Ge(1)] = 3"
    names: dict[str, Any] = {}
    exec(source, names)  # as the kernel does
    assert [(p.name, p.default) for p in parse(source)] == [("seeds", names["seeds"]), ("k", 3)]


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    declared = parse("alpha: float = 0.3\nrounds: int = 20")
    with pytest.raises(ParameterError) as caught:
        bind(declared, {"alhpa": 0.1}, "04_see_non_iid")
    message = str(caught.value)
    assert "did you mean alpha?" in message
    assert "rounds: int = 20" in message
    assert "04_see_non_iid" in message


def test_a_notebook_without_a_tagged_cell_takes_none() -> None:
    with pytest.raises(ParameterError, match="takes no parameters"):
        bind((), {"alpha": 0.1}, "00_index")


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=12),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4),
    st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6), max_size=4),
    st.none(),
)


def as_papermill_reads(options: list[str]) -> dict[str, Any]:
    """What papermill's own command line makes of options."""
    found: dict[str, Any] = {}
    words = iter(options)
    for flag in words:
        if flag == "-y":
            found.update(yaml.safe_load(next(words)))
        else:
            name, value = next(words), next(words)
            found[name] = value if flag == "-r" else _resolve_type(value)
    return found


@given(VALUES)
def test_plain_papermill_gets_the_same_value(value: Any) -> None:
    found = as_papermill_reads(papermill_options({"x": value}))["x"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["007", "1e-3", "True", "nan", "inf", "1_000", "None", "a b", "'"])
def test_a_text_stays_a_text_for_plain_papermill(text: str) -> None:
    assert as_papermill_reads(papermill_options({"x": text})) == {"x": text}


FINITE = st.floats(allow_nan=False, allow_infinity=False)
# A list's items lose the space around them: it is how people write lists.
WORDS = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=9)


@given(
    st.one_of(
        st.tuples(st.just("int"), st.integers()),
        st.tuples(st.just("float"), FINITE),
        st.tuples(st.just("str"), WORDS),
        st.tuples(st.just("list[float]"), st.lists(FINITE, max_size=5)),
        st.tuples(st.just("list[str]"), st.lists(WORDS, max_size=4)),
        st.tuples(st.just("list[list[int]]"), st.lists(st.lists(st.integers()), max_size=3)),
    )
)
def test_the_workbench_reads_its_own_line_back(pair: tuple[str, Any]) -> None:
    annotation, value = pair
    words = shlex.split(workbench_line("04.ipynb", {"x": value}))[3:]
    [(name, text)] = cli._parser().parse_args(cli._joined(words)).parameter
    declared = [Parameter("x", annotation, None)]
    assert bind(declared, {name: text}, "nb")["x"] == value


def test_lines_survive_a_shell() -> None:
    line = papermill_line("notebooks/a b.ipynb", {"note": "it's $HOME"})
    assert shlex.split(line)[-1] == "it's $HOME"
    assert math.isclose(float(shlex.split(papermill_line("a.ipynb", {"x": 1e-7}))[-1]), 1e-7)


@pytest.mark.parametrize(
    ("annotation", "written", "default"),
    [
        (int, "int", 1),
        ("int", "int", 1),
        (float | None, "float | None", None),
        (Optional[float], "float | None", 0.5),  # noqa: UP045
        (list[int], "list[int]", [1]),
        (tuple[int, ...], "tuple[int, ...]", (1,)),
        (list["int | None"], "list[int | None]", [None]),
        (Literal["a", 1], "Literal['a', 1]", "a"),
        (Annotated[int, Ge(1), Lt(9)], "Annotated[int, Ge(1), Lt(9)]", 3),
        (Annotated[int | None, Field(ge=1)], "Annotated[int | None, Ge(1)]", 3),
        (Annotated[list[str], MinLen(1)], "Annotated[list[str], MinLen(1)]", ["a"]),
        ("Annotated[float, Field(gt=0)]", "Annotated[float, Field(gt=0)]", 0.5),
    ],
)
def test_a_signature_reads_like_a_cell(annotation, written, default):
    def study(x=default): ...

    study.__annotations__ = {"x": annotation}
    assert parameters_of(study) == (Parameter("x", written, default),)
    assert parameters_of(study) == parse(f"x: {written} = {default!r}")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("*x: int", "`*x: int` can't be set by name"),
        ("**x: int", "can't be set by name"),
        ("x: int = 1, /", "can't be set by name"),
        ("x=1", "`x=1` has no annotation"),
        ("x: int", "`x: int` has no default; write `x: type = default`"),
        ("x: int = 'a'", "'a' is not a whole number"),
        ("x: dict = {}", "the annotation `dict` is none of"),
        ("x: np.float64 = 1.0", "the annotation `float64` is none of"),
        ("x: Annotated[int, Ge(2)] = 1", "1 is not greater than or equal to 2"),
        ("x: Annotated[int, print] = 1", "parameter x"),
    ],
)
def test_a_signature_that_can_not_be_set_is_refused(declared, said):
    made = {"np": np, "Annotated": Annotated, "Ge": Ge}
    exec(compile(f"def study({declared}): ...", "", "exec", dont_inherit=True), made)
    with pytest.raises(ParameterError) as caught:
        parameters_of(made["study"])
    assert said in str(caught.value)
