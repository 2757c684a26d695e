"""The Makefile: which Python it takes, what it makes, when it makes it anew, where it writes.

The project here is a stand-in of the same name without dependencies, so that an install takes
seconds; ``.ci/run`` runs the real one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.registry import need_registry

ROOT = Path(__file__).resolve().parent.parent
REQUIRES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "requires-python"
]
STAND_IN = {
    "pyproject.toml": f"""
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedlab-workbench"
version = "0"
requires-python = "{REQUIRES}"
optional-dependencies = {{ workbench = [], test = [] }}

[tool.hatch.build.targets.wheel]
packages = ["fedlab"]
""".lstrip(),
    "constraints.txt": "",
    "constraints-flower.txt": "",
    "fedlab/__init__.py": "",
    "fedlab/workbench/__init__.py": "",
    "fedlab/workbench/__main__.py": """
import json, os, sys
import fedlab
told = {"arguments": sys.argv[1:], "prefix": sys.prefix, "package": fedlab.__file__}
print(json.dumps(told | {"environment": dict(os.environ)}))
sys.exit("fail" in sys.argv)
""",
}
# What the `make test` around this sets, and what would change where things are written.
OURS = ("IPYTHONDIR", "JUPYTER", "MPLCONFIGDIR", "PYTHON", "XDG_", "FEDLAB")
OF_MAKE = ("MAKE", "MFLAGS", "P=", "NB=")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


@dataclass(frozen=True)
class Clone:
    folder: Path
    home: Path

    def make(self, *words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run make in the clone, as somebody with an empty home folder and none of our settings."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not f"{name}=".startswith((*OURS, *OF_MAKE))
        } | {
            "HOME": str(self.home),
            "PIP_CONFIG_FILE": _pip_configuration(),
            # pip asks rustc for its version, and where that is rustup's it writes settings.
            "RUSTUP_HOME": str(self.home.parent / "rustup"),
        }
        return subprocess.run(
            ["make", *words],
            cwd=self.folder,
            env=environment | ({"PATH": path} if path else {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def report(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.make("report", f"PYTHON={sys.executable}", *words)


def _pip_configuration() -> str:
    """The user's own file, which may say where the registry is and which an empty home lacks."""
    own = Path.home() / ".config/pip/pip.conf"
    return os.environ.get("PIP_CONFIG_FILE", str(own) if own.exists() else os.devnull)


def stand_in(under: Path) -> Clone:
    clone = Clone(under / "a clone with spaces", under / "home")
    clone.home.mkdir()
    for name, text in STAND_IN.items():
        file = clone.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    shutil.copy(ROOT / "Makefile", clone.folder)
    return clone


@pytest.fixture
def clone(tmp_path):
    return stand_in(tmp_path)


def script(file: Path, text: str) -> Path:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


# --- Without an environment -----------------------------------------------------------------------


def test_plain_make_lists_every_command(clone):
    listed = clone.make()
    assert listed.returncode == 0, listed.stderr
    (phony,) = re.findall(r"^\.PHONY: (report .*)$", (ROOT / "Makefile").read_text(), re.M)
    for target in set(phony.split()) - {"help"}:
        assert re.search(rf"^  make {target} +\S", listed.stdout, re.M), target
    assert f"Python {REQUIRES}" in listed.stdout
    assert listed.stdout == clone.make("help").stdout


def refusal(done: subprocess.CompletedProcess[str], clone: Clone) -> str:
    """The one line that make stopped with, having made nothing."""
    assert done.returncode != 0
    (line,) = (done.stdout + done.stderr).splitlines()
    assert f"Python {REQUIRES}" in line
    assert not (clone.folder / ".venv").exists()
    return line


def test_a_python_that_is_not_there_is_refused_in_one_line(clone):
    line = refusal(clone.make("report", "PYTHON=/not here/python3"), clone)
    assert "/not here/python3 does not run" in line


def test_a_python_that_is_too_old_is_refused_in_one_line(clone, tmp_path):
    old = script(tmp_path / "python", "printf 3.8")
    line = refusal(clone.make("report", f"PYTHON={old}"), clone)
    assert f"{old} is 3.8" in line


def test_a_python_without_venv_is_refused_in_one_line_that_names_the_package(clone, tmp_path):
    """Debian's python3 has the module venv without python3-venv; what it lacks is ensurepip."""
    (tmp_path / "lacks").mkdir()
    (tmp_path / "lacks/ensurepip.py").write_text("raise ModuleNotFoundError('ensurepip')\n")
    lacking = script(
        tmp_path / "python", f'PYTHONPATH="{tmp_path}/lacks" exec "{sys.executable}" "$@"'
    )
    line = refusal(clone.make("report", f"PYTHON={lacking}"), clone)
    here = f"3.{sys.version_info.minor}"
    assert f"{lacking} ({here}) has no venv" in line
    assert f"python{here}-venv" in line


@pytest.fixture
def path_with(tmp_path):
    """Make a PATH that has the tools of a recipe and the given Pythons, and nothing else."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("make", "sh", "sed", "grep"):
        (tools / tool).symlink_to(str(shutil.which(tool)))

    def path(**pythons: str) -> str:
        for name, text in pythons.items():
            script(tools / name.replace("_", "."), text)
        return str(tools)

    return path


def test_without_any_python_it_stops_in_one_line(clone, path_with):
    assert "no python3 on the path" in refusal(clone.make("report", path=path_with()), clone)


def test_it_says_what_is_wrong_with_each_python_on_the_path(clone, path_with):
    path = path_with(python3="printf 3.9", python="printf 2.7")
    line = refusal(clone.make("report", path=path), clone)
    assert "python3 is 3.9; python is 2.7" in line


def test_it_takes_the_first_that_runs_and_suits(clone, path_with):
    """A version manager's shim stands on the path and fails; another name holds an old Python."""
    runs = f'exec "{sys.executable}" "$@"'
    path = path_with(python3_13="exit 127", python3_12="printf 3.8", python3_11=runs, python3=runs)
    chosen = clone.make("python", path=path)
    assert chosen.returncode == 0, chosen.stderr
    assert chosen.stdout == "python3.11\n"


def test_words_are_handed_on_and_a_notebook_is_asked_for(clone):
    planned = clone.make("--dry-run", "run", "NB=04", "P=-p alpha 0.1", f"PYTHON={sys.executable}")
    assert planned.stdout.splitlines()[-1].endswith("fedlab.workbench run 04 -p alpha 0.1")
    asked = clone.make("run", f"PYTHON={sys.executable}", "--dry-run")
    assert asked.returncode != 0
    assert "make run NB=04" in asked.stderr


def test_docs_are_made_strictly(clone):
    words = ("--dry-run", f"PYTHON={sys.executable}")
    assert re.search(r"sphinx .*-W .*docs reports/docs$", clone.make(*words, "docs").stdout, re.M)


def test_only_ci_takes_a_skip_for_a_failure(clone):
    words = ("--dry-run", "test", f"PYTHON={sys.executable}")
    assert "-p tests.no_skips" not in clone.make(*words).stdout
    assert "-p tests.no_skips" in clone.make(*words, "FEDLAB_CI=1").stdout


def test_clean_leaves_the_data_the_environment_and_what_git_has(clone):
    stay = (
        "data/sources.toml",
        "data/heart/heart.csv",
        "reports/README.md",
        ".venv/x/__pycache__/y",
    )
    go = ("reports/index.html", "reports/01/x.ipynb", ".cache/a", "fedlab/__pycache__/b")
    for name in (*stay, *go):
        file = clone.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    done = clone.make("clean")
    assert done.returncode == 0, done.stderr
    assert all((clone.folder / name).exists() for name in (*stay, *STAND_IN))
    assert not any((clone.folder / name).exists() for name in go)


# --- With one -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A clone after its first `make report`, with what that printed."""
    need_registry()
    clone = stand_in(tmp_path_factory.mktemp("made"))
    first = clone.report("P=--some 'two words'")
    assert first.returncode == 0, first.stdout + first.stderr
    return clone, first


def told(done: subprocess.CompletedProcess[str]) -> dict:
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.network
@pytest.mark.slow
class TestReport:
    def test_it_runs_the_report_in_the_environment_of_the_clone(self, made):
        clone, first = made
        assert told(first)["arguments"] == ["report", "--some", "two words"]
        assert Path(told(first)["prefix"]) == clone.folder / ".venv"
        assert clone.folder in Path(told(first)["package"]).parents
        assert "Making .venv" in first.stdout
        assert "Installing" in first.stdout

    def test_what_would_be_written_at_home_is_written_in_the_clone(self, made):
        clone, first = made
        environment = told(first)["environment"]
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            assert clone.folder in Path(environment[name]).parents
        for name in ("IPYTHONDIR", "MPLCONFIGDIR"):
            assert clone.folder in Path(environment[name]).parents
        assert environment["JUPYTER_PREFER_ENV_PATH"] == "1"
        written = {path.relative_to(clone.home).parts[:2] for path in clone.home.rglob("*")}
        assert written <= {(".cache",), (".cache", "pip")}

    def test_a_second_call_installs_nothing(self, made):
        second = made[0].report()
        assert second.returncode == 0, second.stderr
        assert "Making" not in second.stdout
        assert "Installing" not in second.stdout

    def test_its_failure_is_the_failure_of_the_command(self, made):
        assert made[0].report("P=fail").returncode != 0

    def test_what_the_user_has_for_jupyter_and_python_stays_out(self, made):
        clone, _ = made
        theirs = ("JUPYTER_PATH", "JUPYTER_CONFIG_PATH", "PYTHONPATH")
        done = subprocess.run(
            ["make", "--silent", "report"],
            cwd=clone.folder,
            env=os.environ | dict.fromkeys(theirs, "/somewhere") | {"HOME": str(clone.home)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert not told(done)["environment"].keys() & set(theirs)

    def test_an_install_that_failed_is_done_again(self, made):
        clone, _ = made
        project = clone.folder / "pyproject.toml"
        time.sleep(1.1)  # make 3.81, which macOS has, tells times by the second
        project.write_text(STAND_IN["pyproject.toml"].replace('version = "0"', "version = 0"))
        assert clone.report().returncode != 0
        assert not (clone.folder / ".venv/.workbench").exists()
        project.write_text(STAND_IN["pyproject.toml"])
        again = clone.report()
        assert again.returncode == 0, again.stderr
        assert "Installing" in again.stdout
        assert "Making" not in again.stdout

    def test_in_a_folder_that_was_moved_the_environment_is_made_anew(self, made, tmp_path):
        """An environment and an editable install hold absolute paths."""
        clone, _ = made
        moved = Clone(tmp_path / "moved", clone.home)
        shutil.copytree(clone.folder, moved.folder, symlinks=True)
        done = moved.report()
        assert done.returncode == 0, done.stderr
        assert Path(told(done)["prefix"]) == moved.folder / ".venv"
        assert moved.folder in Path(told(done)["package"]).parents
