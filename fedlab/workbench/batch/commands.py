"""The exact lines that reproduce a run, for the workbench and for plain papermill."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

import yaml


def workbench_line(path: str, values: Mapping[str, Any]) -> str:
    """Return the line that runs the notebook at `path` with exactly these values.

    Examples
    --------
    >>> workbench_line("notebooks/04_see_non_iid.ipynb", {"seeds": [0, 1]})
    "python -m fedlab.workbench run notebooks/04_see_non_iid.ipynb -p seeds '[0, 1]'"
    """
    words = ["python", "-m", "fedlab.workbench", "run", path]
    for name, value in values.items():
        words += ["-p", name, str(value)]
    return shlex.join(words)


def papermill_line(path: str, values: Mapping[str, Any]) -> str:
    """Return the line that does the same without the workbench, into `out.ipynb`.

    Examples
    --------
    >>> papermill_line("notebooks/04_see_non_iid.ipynb", {"alpha": 0.1})
    'papermill notebooks/04_see_non_iid.ipynb out.ipynb -k python3 -p alpha 0.1'
    """
    return shlex.join(["papermill", path, "out.ipynb", "-k", "python3", *papermill_options(values)])


def papermill_options(values: Mapping[str, Any]) -> list[str]:
    """Options that make plain papermill set exactly these values.

    Its ``-p`` guesses types from text: a string goes with ``-r``, which leaves it alone, and a
    list with ``-y``.

    Examples
    --------
    >>> papermill_options({"alpha": 0.1, "tag": "007", "seeds": [0, 1]})
    ['-p', 'alpha', '0.1', '-r', 'tag', '007', '-y', '{seeds: [0, 1]}']
    """
    options: list[str] = []
    for name, value in values.items():
        if isinstance(value, list | tuple):
            written = yaml.safe_dump({name: value}, default_flow_style=True, width=math.inf)
            options += ["-y", written.rstrip("\n")]
        elif isinstance(value, str):
            options += ["-r", name, value]
        else:
            options += ["-p", name, str(value)]
    return options
