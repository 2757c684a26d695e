"""Studies as files: a notebook or a function, the points that it takes, and how to run it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import Any, TextIO

import yaml

from fedlab.study import Range, Study, Tuning, drawn, grid
from fedlab.study.points import Space
from fedlab.study.records import RunRecord
from fedlab.study.running import Told
from fedlab.workbench.batch.notebooks import ROOT
from fedlab.workbench.batch.target import notebook_target
from fedlab.workbench.batch.terminal import say

_POINTS = ("grid", "list", "random", "tune")
_KEYS = ("notebook", "function", "fixed", "seeds", "inputs", "folder", "workers", "limit", *_POINTS)
_WIDE = 160
_RANDOM = {"space", "count", "seed"}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Plain values only, and no name twice: YAML itself would keep the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := sorted({str(name) for name in names if names.count(name) > 1}):
            raise yaml.constructor.ConstructorError(
                None, None, f"{', '.join(twice)} stands twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_study(
    study: Path | Mapping[str, Any], beside: str | os.PathLike[str] = "."
) -> tuple[Study, dict[str, Any]]:
    """Read a study from a YAML file; return it, and how it is to be run.

    Parameters
    ----------
    study : Path, or what such a file holds
        With ``notebook`` (a number, a name, or a path from the file's folder) or ``function``
        ("module:name", with a module beside the file, or one that is installed); one of ``grid``
        (lists by name), ``list`` (points), ``random`` (``space``, ``count``, ``seed``) and ``tune``
        (what `fedlab.study.Tuning` takes); and perhaps ``fixed`` (values for all points),
        ``seeds``, ``inputs``, ``folder``, ``workers`` and ``limit``. A range is written
        ``{low: 0.01, high: 1, log: true}``.
    beside : path-like
        Of a mapping, the folder that its paths are seen from.

    Raises
    ------
    ValueError
        If something in it is not known, or doesn't fit; nothing has been run then.
    """
    path = study if isinstance(study, Path) else Path(beside, "this study")
    given = study if isinstance(study, Mapping) else _read(path)
    _refuse_unknown(given, _KEYS, path.name)
    if ("notebook" in given) == ("function" in given):
        raise ValueError(f"{path.name} must name a notebook or a function, and not both")
    ways = [name for name in _POINTS if name in given]
    if len(ways) > 1:
        raise ValueError(f"{path.name} has {' and '.join(ways)}: give one of them")
    folder = path.resolve().parent
    home = ROOT if folder.is_relative_to(ROOT) else folder
    place = folder / (given.get("folder") or home / "reports" / "studies" / path.stem)
    target, inputs = _target(given, folder), given.get("inputs")
    about: dict[str, Any] = {
        "seeds": given.get("seeds"),
        "inputs": inputs and [folder / one for one in inputs],
    }
    how = {name: given[name] for name in ("workers", "limit") if name in given}
    fixed = given.get("fixed", {})
    if ways == ["tune"]:
        tune = dict(given["tune"])
        held: dict[str, Any] = {name: [value] for name, value in fixed.items()}
        space = {**held, **_space(tune.pop("space", {}))}
        try:
            return Tuning(target, place, space, **tune, **about), how
        except TypeError as error:
            raise ValueError(f"{path}: tune: {error}") from None
    points = _points(ways[0], given[ways[0]]) if ways else [{}]
    if ways == ["grid"] and (twice := set(fixed).intersection(*points[:1])):
        raise ValueError(f"{path.name} fixes {', '.join(sorted(twice))}, and varies it as well")
    return Study(target, place, [{**fixed, **point} for point in points], **about), how


def _read(path: Path) -> Mapping[str, Any]:
    try:
        given = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path} holds no study: give `notebook:` or `function:`, and `grid:`")
    return given


def _target(given: Mapping[str, Any], folder: Path) -> Any:
    if "notebook" in given:
        named = str(given["notebook"])
        return notebook_target(folder / named if (folder / named).is_file() else named)
    module, _, name = str(given["function"]).partition(":")
    sys.path.insert(0, str(folder))
    try:
        function: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"function {given['function']!r} can't be imported: {error}") from None
    return function


def _points(way: str, given: Any) -> list[Mapping[str, Any]]:
    if way == "list":
        if not isinstance(given, list) or not all(isinstance(point, dict) for point in given):
            raise ValueError("list: give a list of points, each with values by name")
        return given
    if not isinstance(given, dict):
        raise ValueError(f"{way}: give values by name")
    if way == "grid":
        return grid(**given)
    _refuse_unknown(given, _RANDOM, "random")
    if lacking := {"space", "count"} - set(given):
        raise ValueError(f"random: {', '.join(sorted(lacking))} is missing")
    return drawn(_space(given["space"]), given["count"], given.get("seed", 0))


def _space(given: Any) -> Space:
    if not isinstance(given, dict):
        raise ValueError("space: give ranges and lists by name")
    found: dict[str, Any] = {}
    for name, values in given.items():
        if isinstance(values, dict):
            _refuse_unknown(values, ("low", "high", "log"), f"the range of {name}")
            ends = {end: _number(values.get(end), f"{name}: {end}") for end in ("low", "high")}
            values = Range(**ends, log=bool(values.get("log", False)))
        found[name] = values
    return found


def _number(value: Any, name: str) -> Any:
    if isinstance(value, str):  # to YAML, 1e-3 is a text
        with suppress(ValueError):
            return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}; give a number")
    return value


def _refuse_unknown(given: Mapping[str, Any], known: Any, where: str) -> None:
    if unknown := set(given) - set(known):
        raise ValueError(
            f"{where} has {', '.join(map(repr, sorted(map(str, unknown))))}; allowed are: "
            f"{', '.join(sorted(known))}"
        )


def told_in(stream: TextIO) -> Told:
    """Return what prints a line for each run that ends."""

    def tell(counts: Mapping[str, int], record: RunRecord | None) -> None:
        if record is None:
            return
        total = sum(counts.values())
        ended = counts["done"] + counts["failed"]
        how = f"FAILED: {record.error}" if record.error else f"done in {record.seconds:.1f} s"
        say(f"[{ended}/{total}] {record.id} {shorten(how, _WIDE, placeholder=' ...')}\n", stream)

    return tell
