"""One batch of small notebooks, run once for all tests of this folder that only look at results."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedlab.workbench.batch import notebooks, runner
from fedlab.workbench.batch.records import Record
from fedlab.workbench.report import pages
from tests.workbench.building import Memory, notebook, settings, write

FIGURE = """
figure, axes = pyplot.subplots()
axes.plot(range(rounds), [0.9 ** round for round in range(rounds)])
axes.set(xlabel="round", ylabel="squared error (mg²/dl²)")
cells.show(figure, alt="One line; it falls.", main=True)
"""
POINTS = """
figure, axes = pyplot.subplots()
axes.scatter(*np.random.default_rng(0).normal(size=(2, 20_000)), s=1)
cells.show(figure, alt="A cloud of <20,000> points & more.")
"""
TABLE = """
pd.DataFrame(np.arange(60).reshape(3, 20), columns=[f"a long column {i}" for i in range(20)])
"""
ORIGIN = """
class Origin:
    def describe(self): return "digits, scikit-learn, 1797 rows"
cells.provenance(Origin(), Origin())
"""
IMPORTS = """
import numpy as np
import pandas as pd
from matplotlib import pyplot
from fedlab.workbench.notebook import cells
cells.begin()
"""
GOOD = notebook(
    "# Say it all\n\nDoes a page show *everything*,\nwith $\\alpha$?\n\nReading time: 1 minute",
    IMPORTS,
    "## Formulas\n\nInline $w_{t+1}$, and `$not$` in code.\n\n"
    "$$\\mathbf{w} = \\sum_{k=1}^{K} \\frac{n_k}{n} \\mathbf{w}_k$$\n\n"
    "\\begin{aligned} a &= b \\\\ c &= d \\end{aligned}\n\n"
    "| a | b |\n|---|---|\n| 1 | $x^2$ |\n\n"
    "See [the other](02_fail.ipynb#why) and [elsewhere](https://example.org/a.ipynb).\n\n"
    "![a picture from elsewhere](https://example.org/a.png)",
    FIGURE,
    "## More",
    POINTS,
    TABLE,
    ORIGIN,
    "print('x' * 400)",
    "import ipywidgets\nipywidgets.IntSlider()",
    "cells.answer('first')\ncells.record(share=0.25)",
    "cells.answer(f'Yes: **{rounds} rounds**, $\\\\alpha = {alpha}$.')",
    parameters="rounds: int = 5\nalpha: float = 0.3\nnote: str = '<b>&'",
)
FAILING = notebook(
    "# Fail\n\nWhat happens when a cell fails?",
    "print('before')",
    "## Why",
    "import os, sys\nfrom fedlab.study import parameters\n"
    "parameters.bind((), {'<script>alert(1)</script>': 1}, ' '.join(\n"
    "    [os.getcwd(), sys.prefix, os.path.expanduser('~'), parameters.__file__]))",
    "print('never')",
)

TYPES = notebook(
    "# Types\n\nWhich?",
    "from fedlab.workbench.notebook import cells\ncells.answer(repr([a, b, c, d, e]))\n"
    "assert f == (0, 1), f",
    parameters="a: int = 1\nb: bool = True\nc: list[float] = [1.0]\nd: str = ''\n"
    "e: float | None = None\nf: tuple[int, ...] = ()",
)
VALUES = {"a": "007", "b": "false", "c": "1e-3,2", "d": "1e-3", "e": "0.5", "f": "0,1"}


@dataclass(frozen=True)
class Batch:
    """A finished batch: its folder, its records by name, and what its progress was told."""

    folder: Path
    records: dict[str, Record]
    memory: Memory

    @property
    def executed(self) -> Path:
        return self.folder / "out"


@pytest.fixture(scope="session")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    # A blank in the path, because clones lie in such folders too.
    folder = tmp_path_factory.mktemp("a clone")
    write(GOOD, folder / "notebooks" / "01_say.ipynb")
    write(FAILING, folder / "notebooks" / "02_fail.ipynb")
    write(notebook("# Map\n\nWhere is what?"), folder / "notebooks" / "00_index.ipynb")
    memory = Memory()
    write(TYPES, folder / "notebooks" / "03_types.ipynb")
    given = {"03_types": VALUES}
    found = notebooks.numbered(folder / "notebooks")
    runs = [runner.Run.of(notebook, given.get(notebook.name)) for notebook in found]
    recorded = runner.execute(runs, settings(folder), memory)
    wrong = pages.write_report(recorded, folder / "out", folder / "notebooks", folder)
    assert wrong == ()
    return Batch(folder, {record.name: record for record in recorded}, memory)


@pytest.fixture
def foreign_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose `python3` kernel and IPython profile would break every notebook."""
    home = tmp_path / "home"
    for kernels in (home / ".local/share/jupyter/kernels", tmp_path / "shared/kernels"):
        (kernels / "python3").mkdir(parents=True)
        (kernels / "python3" / "kernel.json").write_text(
            '{"argv": ["false"], "display_name": "Python 3", "language": "python"}'
        )
    startup = home / ".ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "00-trap.py").write_text("import os; os._exit(9)")
    monkeypatch.setenv("PYTHONSTARTUP", str(startup / "00-trap.py"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "shared"))
    for name in [name for name in os.environ if name.startswith(("JUPYTER_", "IPYTHON", "XDG_"))]:
        if name != "JUPYTER_PATH":
            monkeypatch.delenv(name)
    return home
