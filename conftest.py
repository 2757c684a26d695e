"""What takes torch is left out where it is missing, and the reason is said."""

from importlib.util import find_spec

import pytest

MISSING = find_spec("torch") is None
#: Its examples can't be looked for: it can't be imported.
OF_TORCH = ["fedlab/models/torch_language.py"] if MISSING else []
#: What runs where Flower is, in an environment of its own.
OF_FLOWER = [f"fedlab/deploy/{name}.py" for name in ("app", "keys", "superlink")]
collect_ignore = [*OF_TORCH, *OF_FLOWER]


def pytest_report_header() -> str | None:
    return f"left out, as torch is not installed: {', '.join(OF_TORCH)}" if MISSING else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    without = pytest.mark.skip(reason="torch is not installed (the extra torch)")
    for item in items:
        text = item.dtest.docstring if isinstance(item, pytest.DoctestItem) else None
        if "from torch import" in (text or "") and MISSING:
            item.add_marker(without)
