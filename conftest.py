"""Docstrings whose examples take torch are skipped, with the reason, where it is missing."""

from importlib.util import find_spec

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    without = pytest.mark.skip(reason="torch is not installed (the extra torch)")
    for item in items:
        text = item.dtest.docstring if isinstance(item, pytest.DoctestItem) else None
        if "from torch import" in (text or "") and find_spec("torch") is None:
            item.add_marker(without)
