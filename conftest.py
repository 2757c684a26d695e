"""What tests and examples share: what is left out, with the reason, and no figure left behind.

What takes torch is left out where it is missing.
"""

import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.apart import OF_FLOWER

MISSING = find_spec("torch") is None
#: Its examples can't be looked for: it can't be imported.
OF_TORCH = ["fedlab/models/torch_language.py"] if MISSING else []
collect_ignore = [*OF_TORCH, *OF_FLOWER]


def pytest_report_header() -> str | None:
    return f"left out, as torch is not installed: {', '.join(OF_TORCH)}" if MISSING else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    without = pytest.mark.skip(reason="torch is not installed (the extra torch)")
    for item in items:
        text = item.dtest.docstring if isinstance(item, pytest.DoctestItem) else None
        if "from torch import" in (text or "") and MISSING:
            item.add_marker(without)


@pytest.fixture(autouse=True)
def no_figure_is_left() -> Iterator[None]:
    """Close what a test drew: pyplot's list of figures is the process's, which tests share."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
