"""Compiled functions: kept on disk where that can be, and compiled in memory where it can't."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from fedlab.core import jit

SOURCE = """
from fedlab.core.jit import compiled
import helper

@compiled(sources=[helper])
def twice(x):
    return x * helper.FACTOR
"""

SEARCH = """
import numpy as np
from fedlab import VectorIndex
x = np.eye(8, dtype=np.float32)
index = VectorIndex(8)
index.add(x)
print(index.search(x[3], 1, exact=True).keys[0, 0])
"""


def _module(path: Path, name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _fresh(folder: Path, factor: int) -> types.ModuleType:
    (folder / "helper.py").write_text(f"FACTOR = {factor}\n")
    os.utime(folder / "helper.py", (10**9 + factor, 10**9 + factor))
    _module(folder / "helper.py", "helper")
    return _module(folder / "kernel.py", "kernel")


def test_what_is_compiled_is_kept_until_a_source_changes(tmp_path, monkeypatch):
    from numba.core import config

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "kernel.py").write_text(SOURCE)
    first, again = _fresh(tmp_path, 2), _fresh(tmp_path, 2)
    assert first.twice(2.0) == again.twice(2.0) == 4.0
    assert not first.twice.stats.cache_hits
    assert again.twice.stats.cache_hits
    # A module that numba doesn't watch: its constants are compiled in. Older is changed, too.
    other = _fresh(tmp_path, 1)
    assert other.twice(2.0) == 2.0
    assert not other.twice.stats.cache_hits


def test_a_disk_that_fills_up_costs_the_copy_alone(tmp_path, monkeypatch, capsys):
    from numba.core import config
    from numba.core.caching import IndexDataCacheFile

    def full(self, name, data):
        raise OSError(28, "No space left on device")

    jit._say_unkept.cache_clear()
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(IndexDataCacheFile, "_save_data", full)
    (tmp_path / "kernel.py").write_text(SOURCE)
    assert _fresh(tmp_path, 3).twice(2.0) == 6.0
    assert "No space left" in capsys.readouterr().err


def test_without_a_folder_functions_are_compiled_in_memory(monkeypatch, capsys):
    from numba.core.caching import CompileResultCacheImpl

    jit._say_unkept.cache_clear()
    monkeypatch.setattr(CompileResultCacheImpl, "_locator_classes", [])

    @jit.compiled()
    def thrice(x):
        return x * 3

    assert thrice(2.0) == 6.0
    assert "NUMBA_CACHE_DIR" in capsys.readouterr().err


def test_another_error_of_numba_is_told(monkeypatch):
    from numba.core.caching import CompileResultCacheImpl

    def broken(self, function):
        raise RuntimeError("something else")

    monkeypatch.setattr(CompileResultCacheImpl, "__init__", broken)
    with pytest.raises(RuntimeError, match="something else"):
        jit.compiled()(lambda x: x)


def test_a_read_only_installation_searches_and_is_left_as_it_is(tmp_path):
    """numba finds no folder: neither the package's, nor a home's, nor one of its own."""
    blocked = tmp_path / "a file"  # in which not even root can make a folder
    blocked.write_text("")
    code = (
        "from numba.core.caching import CompileResultCacheImpl as impl\n"
        "impl._locator_classes = impl._locator_classes[:1]\n" + SEARCH
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(blocked / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "3", done.stderr
    assert done.stderr.count("NUMBA_CACHE_DIR") == 1
