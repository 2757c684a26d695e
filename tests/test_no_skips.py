"""Under ``.ci/run`` a skipped test fails, however it is skipped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    "test_kinds.py": """
import pytest

@pytest.fixture
def page():
    pytest.skip("no browser")

def test_passes():
    pass

@pytest.mark.skip(reason="no browser")
def test_mark():
    pass

@pytest.mark.skipif(True, reason="no browser")
def test_condition():
    pass

def test_call():
    pytest.skip("no browser")

def test_fixture(page):
    pass

@pytest.mark.xfail(reason="a known fault, and it did run")
def test_expected_failure():
    assert False
""",
    "test_module.py": "import pytest\npytest.skip('no browser', allow_module_level=True)\n",
}


@pytest.fixture
def run_pytest(tmp_path):
    """Write the modules above, and run pytest on them in a process of its own."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name, text in MODULES.items():
        (tmp_path / name).write_text(text)

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-rA", "--continue-on-collection-errors"]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        return subprocess.run(
            [*command, *options],
            env=inherited | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_every_kind_of_skip_is_a_failure_that_says_why(run_pytest):
    strict = run_pytest("-p", "tests.no_skips")
    assert strict.returncode == 1, strict.stdout
    failed = set(re.findall(r"^(?:FAILED|ERROR) (?:test_kinds.py::)?(\S+)", strict.stdout, re.M))
    skipped = {"test_mark", "test_condition", "test_call", "test_fixture", "test_module.py"}
    assert failed == skipped
    reasons = re.findall(r"^skipped, a failure under .ci/run: .*no browser$", strict.stdout, re.M)
    assert len(reasons) == len(skipped)
    assert "1 failed, 1 passed, 1 xfailed, 4 errors" in strict.stdout


def test_elsewhere_a_skip_is_a_skip(run_pytest):
    lenient = run_pytest()
    assert lenient.returncode == 0, lenient.stdout
    assert "1 passed, 5 skipped, 1 xfailed" in lenient.stdout
