"""A slider in JupyterLab answers, in a real browser."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workbench.building import notebook, write

pytestmark = pytest.mark.browser
TOKEN = "only-for-this-test"

#: The settings that `make lab` gives the environment.
MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
SETTINGS = re.findall(r"'(\{\"@jupyterlab.*\})' >\$@", MAKEFILE)

SLIDER = notebook(
    "# Slide\n\nDoes it answer?",
    "import numpy as np\nfrom fedlab.workbench.notebook import cells, widgets\ncells.begin()",
    "box = widgets.split_slider(np.repeat(np.arange(5), 60), devices=6, alpha=1.0, seed=0)",
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """JupyterLab on a folder with one notebook; its address."""
    write(SLIDER, tmp_path / "slide.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {"JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"}
    environment = {**os.environ, **{name: str(tmp_path / name) for name in folders}}
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        *(f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={tmp_path}"),
        "--ServerApp.kernel_spec_manager_class=fedlab.workbench.batch.jupyter.OwnKernelSpecs",
        f"--LabApp.app_settings_dir={tmp_path / 'settings'}",
    ]
    (tmp_path / "settings" / "overrides.d").mkdir(parents=True)
    (tmp_path / "settings" / "overrides.d" / "fedlab.json").write_text(*SETTINGS)
    with (tmp_path / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        _await_server(server, f"{address}/api/status?token={TOKEN}", tmp_path / "lab.log")
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def _await_server(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                json.load(answer)
            return
        except OSError:
            time.sleep(0.25)
    pytest.fail(f"JupyterLab did not answer within a minute: {log.read_text()[-2000:]}")


def test_the_slider_draws_another_split(lab: str, chromium: Any) -> None:
    page = chromium.new_context(viewport={"width": 1300, "height": 1000}).new_page()
    page.goto(f"{lab}/lab/tree/slide.ipynb?token={TOKEN}&reset")
    page.locator("p", has_text="Does it answer?").wait_for(timeout=60_000)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").wait_for(timeout=60_000)
    _run_all(page, until="alpha 1: 6 devices")
    picture = page.locator(".jp-OutputArea img, .jp-OutputArea svg").last
    before = picture.evaluate("picture => picture.src || picture.outerHTML")
    handle = page.locator(".noUi-handle")
    handle.focus()
    for _ in range(5):
        handle.press("ArrowRight")
    page.get_by_text("alpha 3.16: 6 devices").wait_for(timeout=30_000)
    assert page.get_by_text("alpha 1: 6 devices").count() == 0
    assert picture.evaluate("picture => picture.src || picture.outerHTML") != before


def test_a_newcomer_is_asked_nothing(lab: str, chromium: Any) -> None:
    page = chromium.new_context(viewport={"width": 1300, "height": 1000}).new_page()
    page.goto(f"{lab}/lab/tree/slide.ipynb?token={TOKEN}&reset")
    page.locator("p", has_text="Does it answer?").wait_for(timeout=60_000)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").wait_for(timeout=60_000)
    page.wait_for_timeout(3_000)  # the question about news comes a moment later
    assert page.locator(".Toastify__toast, .jp-Dialog").all_inner_texts() == []


def _run_all(page: Any, until: str) -> None:
    """Run all cells until a text shows.

    JupyterLab says "idle" before its connection to a fresh kernel stands, and drops what is asked
    of it in between: so ask again. A second run leaves the same output as the first.
    """
    shown = page.get_by_text(until)
    for _ in range(6):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        for _ in range(60):
            if shown.count():
                shown.first.wait_for(timeout=30_000)
                return
            page.wait_for_timeout(500)
    pytest.fail(f"{until!r} did not show; the page says: {page.inner_text('body')[-1500:]}")
