"""What the studies of `benchmarks.studies` run, and the process that runs such a study."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from fedlab.federation.history import History
from fedlab.study import Study, grid

TABLES = 10
_IMPORTS = """import numpy as np
import pandas as pd
from matplotlib import pyplot
from fedlab import Federation, SoftmaxRegression, spread
from fedlab.data import iid, load_digits
from fedlab.workbench.notebook import cells
cells.begin()"""
_WORK = """rows = np.loadtxt(table)
digits = load_digits()
devices = spread(digits, iid(len(digits), 10, seed=n))
federation = Federation(devices, SoftmaxRegression(64, 10), seed=n)
federation.run(3)
figure, axes = pyplot.subplots()
axes.plot(federation.history.series("train_loss"))
cells.show(figure, alt="The loss falls.")
cells.record(loss=federation.history.last("train_loss"), total=float(rows.sum()))"""


def train(table: str = "", n: int = 0, seconds: float = 0.06) -> History:
    """Read a table, and take a while over it."""
    rows, history = np.loadtxt(table), History()
    random = np.random.default_rng(n)
    for number in range(1, 4):
        history.record(number, "server", loss=float(rows.sum() + random.normal()))
        time.sleep(seconds / 3)
    return history


def tables(folder: Path) -> list[Path]:
    """Return the inputs in a folder, made where they are not there."""
    found = [folder / f"table-{number}.txt" for number in range(TABLES)]
    for number, path in enumerate(found):
        if not path.exists():
            np.savetxt(path, np.arange(20.0) + number)
    return found


def notebook(folder: Path) -> Path:
    """Return a small notebook, with the imports that a notebook has, and three rounds."""
    # Here, since it takes longer to import than all else, and functions don't need it.
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    path = folder / "small.ipynb"
    if not path.exists():
        parameters = new_code_cell('table: str = ""\nn: int = 0', metadata={"tags": ["parameters"]})
        cells = [
            new_markdown_cell("# Small\n\nHow fast?"),
            *(parameters, new_code_cell(_IMPORTS), new_code_cell(_WORK)),
        ]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def study(inputs: Path, folder: Path, runs: int, notebooks: bool = False) -> Study:
    """Return a study of so many runs, which read the tables in `inputs` in turn."""
    target: Any = train
    if notebooks:
        from fedlab.workbench.batch.target import notebook_target

        target = notebook_target(notebook(inputs))
    points = grid(n=range(-(-runs // TABLES)), table=[*map(str, tables(inputs))])
    return Study(target, folder, points[:runs])


if __name__ == "__main__":
    # Under its own name the function is found by the runs' processes.
    from benchmarks import studied

    inputs, folder, how = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    workers = how.pop("workers")
    studied.study(inputs, folder, **how).run(workers=workers)
