"""The monitor and the form in JupyterLab, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedlab import Federation
from tests.workbench.building import notebook, write
from tests.workbench.test_lab import TOKEN, _run_all, lab

pytestmark = pytest.mark.browser
__all__ = ["lab"]

DEVICES = """
import time
import numpy as np
from fedlab import Device, Federation, SoftmaxRegression, VectorIndex
draw, devices = np.random.default_rng(3), []
for number in range(6):
    index = VectorIndex(3)
    index.add(draw.normal(size=(20, 3)), labels=draw.integers(0, 3, 20))
    devices.append(Device(f"ward {number}", index).hold_out(0.2, seed=0))
federation = Federation(devices, SoftmaxRegression(3, 3), cohort=3, engine="plain")
"""
RUN = """
from fedlab.workbench.notebook import cells
from fedlab.workbench.notebook.monitor import monitor
cells.begin()
at_once = Federation.round
def slow(self):
    time.sleep(0.05)
    return at_once(self)
Federation.round = slow
watched = monitor(federation, 240, "run")
"""
FREE = """
from matplotlib import pyplot
pyplot.plot([0, watched.federation.round_number])
print("the kernel is free:", 6 * 7)
"""
FORM = """
from typing import Annotated, Literal
from annotated_types import Ge, Le
from fedlab.workbench.notebook.form import experiment_form
def study(rounds: Annotated[int, Ge(1), Le(50)] = 20, lr: float = 0.1, iid: bool = False,
          engine: Literal["flat", "graph"] = "flat", alphas: list[float] = [0.1, 1.0]):
    print("learned with", rounds, engine, alphas)
    raise KeyError("a bug of my own")
form = experiment_form("{path}", run=study)
"""
PARAMETERS = """
from typing import Annotated, Literal
from annotated_types import Ge, Le
rounds: Annotated[int, Ge(1), Le(50)] = 20
lr: float = 0.1
iid: bool = False
engine: Literal["flat", "graph"] = "flat"
alphas: list[float] = [0.1, 1.0]
"""


def opened(lab: str, chromium: Any, name: str, question: str) -> Any:
    page = chromium.new_context(viewport={"width": 1300, "height": 1100}).new_page()
    page.goto(f"{lab}/lab/tree/{name}?token={TOKEN}&reset")
    page.locator("p", has_text=question).wait_for(timeout=60_000)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").wait_for(timeout=60_000)
    return page


def press(page: Any, name: str) -> None:
    page.locator(f".jupyter-button[title='{name}']").click(timeout=30_000)


def test_the_monitor_runs_behind_the_cells(lab: str, chromium: Any, tmp_path: Path) -> None:
    write(notebook("# Watch\n\nDoes it run?", DEVICES, RUN, FREE), tmp_path / "watch.ipynb")
    page = opened(lab, chromium, "watch.ipynb", "Does it run?")
    _run_all(page, until="the kernel is free: 42")
    page.get_by_text("runs: round").wait_for(timeout=30_000)
    picture = page.locator("img[alt^='round ']")
    picture.wait_for(timeout=30_000)
    page.wait_for_timeout(3000)
    press(page, "pause")
    page.get_by_text("paused: round").wait_for(timeout=30_000)
    press(page, "continue")
    page.get_by_text("runs: round").wait_for(timeout=30_000)
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.locator("[data-command='kernelmenu:restart']").click()
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").wait_for(timeout=60_000)
    _run_all(page, until="stopped: round")
    press(page, "continue")
    page.get_by_text("done: round 240 of 240").wait_for(timeout=60_000)
    here: dict[str, Any] = {}
    exec(DEVICES, here)
    whole: Federation = here["federation"]
    whole.run(240)
    exec(DEVICES, here)
    here["federation"].load(tmp_path / "run" / "run.checkpoint")
    assert (here["federation"].parameters == whole.parameters).all()


def test_the_form_checks_and_copies(lab: str, chromium: Any, tmp_path: Path) -> None:
    path = write(notebook("# Aim\n\nWhat?", parameters=PARAMETERS), tmp_path / "aim.ipynb")
    write(notebook("# Fill\n\nWhich?", FORM.format(path=path.name)), tmp_path / "fill.ipynb")
    page = opened(lab, chromium, "fill.ipynb", "Which?")
    _run_all(page, until="copy as a sweep")
    field = page.get_by_label("alphas")
    field.fill("0.1, many")
    page.get_by_text("'many' is not a number").wait_for(timeout=30_000)
    field.fill("0.1, 2")
    page.get_by_text("'many' is not a number").wait_for(state="detached", timeout=30_000)
    press(page, "copy as a command")
    text = page.locator("textarea[readonly]")
    text.wait_for(timeout=30_000)
    assert "-p alphas '[0.1, 2.0]'" in text.input_value()
    text.click()
    assert page.evaluate("getSelection().toString()") == text.input_value()
    press(page, "copy as a sweep")
    page.get_by_text("workers: 2").wait_for(timeout=30_000)
    press(page, "run")
    page.get_by_text("KeyError: 'a bug of my own'").wait_for(timeout=30_000)
