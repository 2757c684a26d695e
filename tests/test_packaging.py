"""The files that describe the package agree, and what they describe can be installed and works."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import packages_distributions, requires, version
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import fedlab
from tests.apart import OF_FLOWER
from tests.registry import need_registry

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BASE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {
    extra: [Requirement(line) for line in lines]
    for extra, lines in PROJECT["optional-dependencies"].items()
}


def pins_in(file: str) -> list[Requirement]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return [Requirement(n) for line in lines if (n := line.partition("#")[0].strip())]


PINS, FLOWER_PINS = pins_in("constraints.txt"), pins_in("constraints-flower.txt")
#: Flower does not go with some of the other pins: it has an environment of its own.
FLOWER = EXTRAS.pop("flower")
CUDA = re.compile("nvidia-|cuda-|triton")
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
PIP_SECTION = next(entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))


def name_of(requirement: Requirement) -> str:
    return canonicalize_name(requirement.name)


def names(requirements: list[Requirement]) -> list[str]:
    return sorted(name_of(requirement) for requirement in requirements)


def closure(name: str, extras: frozenset[str]) -> set[str]:
    """The distributions that ``name[extras]`` needs in this environment, itself left out."""
    found: set[str] = set()
    asked = {(canonicalize_name(name), extra) for extra in extras | {""}}
    done: set[tuple[str, str]] = set()
    while asked:
        current, extra = asked.pop()
        done.add((current, extra))
        for needed in map(Requirement, requires(current) or ()):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                found.add(name_of(needed))
                asked |= {(name_of(needed), e) for e in needed.extras | {""}} - done
    return found


# --- The files agree ------------------------------------------------------------------------------


@pytest.mark.parametrize("pins", [PINS, FLOWER_PINS], ids=["all", "flower"])
def test_every_pin_is_one_exact_version(pins):
    for pin in pins:
        (only,) = pin.specifier
        assert only.operator == "==", pin
        assert "*" not in only.version, pin
        assert pin.url is None, pin
        assert not pin.extras, pin
    assert len(set(names(pins))) == len(pins)


def test_flower_has_the_versions_on_which_bits_depend():
    ours = {name_of(pin): str(pin.specifier) for pin in PINS}
    flower = {name_of(pin): str(pin.specifier) for pin in FLOWER_PINS}
    for requirement in BASE:
        assert flower[name_of(requirement)] == ours[name_of(requirement)]
    for requirement in FLOWER:
        (pin,) = [pin for pin in FLOWER_PINS if name_of(pin) == name_of(requirement)]
        assert requirement.specifier.contains(next(iter(pin.specifier)).version)


def test_both_files_of_pins_are_made_by_make():
    for file in ("constraints.txt", "constraints-flower.txt"):
        assert "make pins" in (ROOT / file).read_text(encoding="utf-8").splitlines()[1]
    said = subprocess.run(["make", "-n", "pins"], cwd=ROOT, capture_output=True, text=True).stdout
    (ours,) = [line for line in said.splitlines() if "--output-file constraints.txt" in line]
    assert re.findall(r"--extra (\S+)", ours) == list(EXTRAS)
    (flower,) = [line for line in said.splitlines() if "--extra flower" in line]
    assert "--constraint .cache/base.txt" in flower
    (base,) = re.findall(r"'\^\((.*)\)=='", said)
    assert base.split("|") == [requirement.name for requirement in BASE]


def test_every_package_that_pyproject_names_is_pinned_within_its_bounds():
    pinned = {name_of(pin): pin for pin in PINS}
    for requirement in [*BASE, *(one for extra in EXTRAS.values() for one in extra)]:
        (pin,) = pinned[name_of(requirement)].specifier
        assert requirement.specifier.contains(pin.version), requirement
        assert pinned[name_of(requirement)].marker is None, requirement


def test_the_pins_are_the_full_closure_as_it_is_installed_here():
    pinned = {
        name_of(pin): next(iter(pin.specifier)).version
        for pin in PINS
        if pin.marker is None or pin.marker.evaluate()
    }
    # Annoy takes a compiler, and torch much room: .ci/run brings them, elsewhere they may lack.
    extras, further = {"workbench", "test"}, {"annoy": "annoy", "torch": "torch", "llm": "peft"}
    extras |= {name for name, module in further.items() if find_spec(module) is not None}
    needed = closure(PROJECT["name"], frozenset(extras))
    # The build of torch that computes on processors alone brings no CUDA; its version says so.
    assert {n for n in needed - pinned.keys() if not CUDA.match(n)} == set()
    if extras >= further.keys() or "FEDLAB_CI" in os.environ:
        assert {n for n in pinned.keys() - needed if not CUDA.match(n)} == set()
    found = {n: version(n).partition("+")[0] for n in needed & pinned.keys()}
    assert found == {name: pinned[name] for name in found}


def test_no_file_names_a_registry():
    for file in (
        *("pyproject.toml", "constraints.txt", "constraints-flower.txt", "environment.yml"),
        *("Makefile", ".ci/run"),
    ):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not re.search(r"index-url|find-links|https?://", text), file


def test_the_environment_names_the_packages_and_then_the_constraints_and_the_project():
    *packages, constraints, project = PIP_SECTION
    assert constraints == "-c constraints.txt"
    assert project == "-e .[workbench]"
    assert sorted(map(canonicalize_name, packages)) == names([*BASE, *EXTRAS["workbench"]])


def test_conda_gives_the_python_that_pyproject_asks_for_and_pip():
    python, pip, _ = ENVIRONMENT["dependencies"]
    word, range_ = python.split()
    assert word == "python"
    assert SpecifierSet(range_) == SpecifierSet(PROJECT["requires-python"])
    assert pip == "pip"


def test_the_package_says_the_version_that_is_installed():
    assert version(PROJECT["name"]) == fedlab.__version__


def test_the_range_of_pythons_is_the_one_that_the_classifiers_list():
    allowed = SpecifierSet(PROJECT["requires-python"])
    listed = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: 3." in line}
    assert {f"3.{minor}" for minor in range(30) if f"3.{minor}" in allowed} == listed


def test_jupyter_is_in_the_workbench_alone():
    """No package that the base needs brings Jupyter, IPython or torch with it."""
    base = closure(PROJECT["name"], frozenset())
    assert not [name for name in base if re.match(r"jupyter|ipy|papermill|notebook|torch", name)]
    assert "jupyterlab" in closure(PROJECT["name"], frozenset({"workbench"}))


def imports(file: Path) -> tuple[set[str], set[str]]:
    """The top-level names that a module imports when it is loaded, and those it imports at all."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    checked = [
        n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)
    ]
    for_types = {id(node) for block in checked for node in ast.walk(block)}

    def names_in(nodes: Iterable[ast.AST]) -> set[str]:
        found: set[str] = set()
        for node in nodes:
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
        return found - sys.stdlib_module_names - {"fedlab"}

    return names_in(tree.body), names_in(n for n in ast.walk(tree) if id(n) not in for_types)


@pytest.mark.parametrize("part", ["base", "workbench"])
def test_what_is_imported_is_named(part):
    """The base loads what it names, and uses what extras name; the workbench what is its own."""
    owners = packages_distributions()
    extras = [one for name, extra in EXTRAS.items() if name != "test" for one in extra]
    extras += FLOWER
    base, everything = set(names(BASE)), set(names([*BASE, *extras]))
    workbench = ROOT / "fedlab/workbench"
    files = [
        f for f in (ROOT / "fedlab").rglob("*.py") if (workbench in f.parents) == (part != "base")
    ]
    assert files
    # Torch's own classes, and what runs where Flower is: these are imported where used.
    apart = {"fedlab/models/torch_language.py": "torch", **OF_FLOWER}
    for file in files:
        loaded, used = imports(file)
        loaded.discard(apart.get(file.relative_to(ROOT).as_posix(), ""))
        for module in loaded | used:
            # What is not installed here has a distribution of its own name.
            (owner,) = set(map(canonicalize_name, owners.get(module, [module])))
            at_once = part == "base" and module in loaded
            assert owner in (base if at_once else everything), f"{file}: {module}"


# --- What they describe can be had ----------------------------------------------------------------


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command as somebody without our settings would, and return what it printed."""
    inherited = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME"}}
    done = subprocess.run(
        command, cwd=cwd, env=inherited, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def fresh_environment(folder: Path) -> Path:
    """Make a virtual environment with pip and nothing else; return its interpreter."""
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(python: Path, *what: str | Path, cwd: Path) -> None:
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", *what, cwd=cwd)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    need_registry()
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.network
def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        assert (
            archive.read("fedlab/data/loading/sources.toml")
            == (ROOT / "data/sources.toml").read_bytes()
        )
    metadata = {name for name in held if ".dist-info/" in name}
    source = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "fedlab").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held - metadata == source | {"fedlab/data/loading/sources.toml"}
    for suffix in (".py", ".mplstyle", ".j2", ".typed"):
        assert [name for name in source if name.endswith(suffix)], suffix
    assert [name for name in metadata if name.endswith("licenses/LICENSE")]


@pytest.mark.network
@pytest.mark.slow
def test_the_base_alone_runs_a_round_without_jupyter_torch_or_a_network(wheel, tmp_path):
    python = fresh_environment(tmp_path / "environment")
    install(python, "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    shutil.copy(ROOT / "tests/base_round.py", tmp_path)
    result = json.loads(run(python, "-I", "base_round.py", cwd=tmp_path))
    assert tmp_path in Path(result["fedlab"]).parents
    expected = closure(PROJECT["name"], frozenset()) | {PROJECT["name"]}
    installed = set(map(canonicalize_name, result["distributions"]))
    assert installed - {"pip", "setuptools"} == expected
    assert result["accuracy"] > 0.6  # guessing gives 0.1
    assert result["found themselves"] == 20


@pytest.mark.network
@pytest.mark.slow
def test_the_pip_section_of_the_environment_installs_into_a_fresh_one(tmp_path):
    """As conda does it: a requirements file beside environment.yml, pip started in that folder."""
    need_registry()
    clone = tmp_path / "a clone"
    clone.mkdir()
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    for name in ("fedlab", "data"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "condaenv.requirements.txt").write_text("\n".join(PIP_SECTION))
    python = fresh_environment(tmp_path / "environment")
    install(python, "-U", "-r", "condaenv.requirements.txt", cwd=clone)
    run(python, "-m", "pip", "check", cwd=clone)
    assert "python3" in run(python, "-m", "jupyter", "kernelspec", "list", cwd=tmp_path)
    found = run(python, "-c", "import fedlab.workbench; print(fedlab.__file__)", cwd=tmp_path)
    assert clone in Path(found.strip()).parents
