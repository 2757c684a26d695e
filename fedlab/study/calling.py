"""What the process of a function's run does: call it, and keep what it returns."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from fedlab.study.parameters import bind, parameters_of
from fedlab.study.records import Failure
from fedlab.study.results import keep, record


def call(path: str, values: str, folder: str) -> None:
    """Call ``"module:function"`` with values written as JSON, and keep what it returns.

    Raises
    ------
    SystemExit
        With 1 if the function raised; what it was stands in the folder then.
    """
    module, _, name = path.partition(":")
    try:
        function: Any = import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
        returned = function(**bind(parameters_of(function), json.loads(values), path))
        for part in returned if isinstance(returned, list | tuple) else [returned]:
            if isinstance(part, Mapping):
                record(**part)
            elif part is not None:
                keep(part)
    except Exception as error:
        traceback.print_exc()
        failure = Failure(type(error).__name__, str(error))
        (Path(folder) / "failure.json").write_text(json.dumps(asdict(failure)), encoding="utf-8")
        raise SystemExit(1) from None
