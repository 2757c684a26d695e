"""Whether packages can be had, for the tests that install something."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import cache

import pytest


def need_registry() -> None:
    """Skip the test where no package registry answers."""
    if reason := _unreachable():
        pytest.skip(f"no package registry: {reason}")


@cache
def _unreachable() -> str:
    """Ask for one small package; return why it can't be had, or nothing."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    with tempfile.TemporaryDirectory() as folder:
        asked = subprocess.run(
            [*command, "--dest", folder, "iniconfig"], capture_output=True, text=True, timeout=600
        )
    return (asked.stderr.strip() or "no reason given").splitlines()[-1] if asked.returncode else ""
