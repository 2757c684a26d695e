"""The house: rooms on floors, imports that only run down, no circle, no loose module.

Imports inside of functions and under TYPE_CHECKING count like any other: what a room knows, it
knows.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "fedlab"
#: From the ground up. Rooms of one floor don't know each other.
FLOORS = (
    {"core"},
    {"files", "metrics", "models"},
    {"index", "data"},
    {"device", "erasure"},
    {"privacy"},
    {"updates"},
    {"search", "training", "fleet"},
    {"algorithms"},
    {"federation"},
    {"leaks", "study", "deploy"},
    {"workbench"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of fedlab that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("fedlab"))
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)} imports relatively"
            if (node.module or "").split(".")[0] == "fedlab":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    yield whole if whole in NAMES else str(node.module)


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_no_module_stands_loose() -> None:
    loose = {path.name for path in PACKAGE.glob("*.py")}
    assert loose == {"__init__.py", "_version.py"}
    assert set(ROOMS) == set(FLOOR)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_only_run_down(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for module in imported(path):
            other = room_of(module)
            assert module != "fedlab", f"{name_of(path)} imports the front door"
            if other not in (room, "_version"):
                assert FLOOR[other] < FLOOR[room], f"{name_of(path)} imports {module}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    after = {name: set(imported(path)) - {name} for name, path in NAMES.items()}
    while True:
        known = set().union(*after.values()) if after else set()
        ends = [n for n, those in after.items() if not those & after.keys() or n not in known]
        if not ends:
            break
        for name in ends:
            del after[name]
    assert not after, f"these import each other: {sorted(after)}"


def test_no_module_is_shadowed_by_a_name_of_its_package() -> None:
    for name, path in NAMES.items():
        if path.name == "__init__.py":
            taken = {
                alias.asname or alias.name
                for node in ast.parse(path.read_text(encoding="utf-8")).body
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
                if f"{node.module}.{alias.name}" not in NAMES
            }
            beside = {other.stem for other in path.parent.glob("*.py")}
            beside |= {other.name for other in path.parent.iterdir() if other.is_dir()}
            assert not taken & beside, f"{name}: {taken & beside}"


def test_public_names_mean_one_thing() -> None:
    """No two rooms publish different things under one name."""
    homes: dict[str, set[str]] = {}
    for name, path in NAMES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, set()).add(name)
    twice = {name: sorted(where) for name, where in homes.items() if len(where) > 1}
    assert not twice
