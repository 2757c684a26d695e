"""Sliders and the map of vectors answer in JupyterLab, in a real browser."""

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

from tests.conftest import launched
from tests.workbench.building import notebook, write

pytestmark = pytest.mark.browser
TOKEN = "only-for-this-test"

#: The settings that `make lab` gives the environment.
MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
SETTINGS = re.findall(r"'(\{\"@jupyterlab.*\})' >\$@", MAKEFILE)

SLIDER = notebook(
    "# Slide\n\nDoes it answer?",
    "import numpy as np\n"
    "from fedlab.workbench.notebook import cells, split_explorer\ncells.begin()",
    "split_explorer(np.repeat(np.arange(5), 60), devices=6, alpha=1.0, seed=0)",
)
#: Two devices with vectors about two corners each: label 0 left, label 1 right.
MAP = notebook(
    "# Map\n\nDoes it answer?",
    "import numpy as np\nfrom fedlab import Device, VectorIndex\n"
    "from fedlab.workbench.notebook import cells, vector_map\ncells.begin()",
    "def device(name, seed):\n    y, draw = np.repeat([0, 1], 500), np.random.default_rng(seed)\n"
    "    index = VectorIndex(4, 'l2sq')\n"
    "    index.add(draw.normal(size=(1000, 4)) + 9 * np.eye(4)[0] * y[:, None], labels=y)\n"
    "    return Device(name, index)",
    "chart = vector_map([device('ward <i>1</i>', 1), device('ward 2', 2)])\nchart",
    "print({name: len(keys) for name, keys in chart.selected.items()})",
)
#: A browser on a machine without graphics.
WITHOUT_WEBGL = ("--disable-gpu", "--disable-webgl", "--disable-webgl2", "--disable-3d-apis")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """JupyterLab on a folder with two notebooks; its address."""
    write(SLIDER, tmp_path / "slide.ipynb")
    write(MAP, tmp_path / "map.ipynb")
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


def _opened(browser: Any, lab: str, name: str) -> Any:
    page = browser.new_context(viewport={"width": 1300, "height": 1100}).new_page()
    page.goto(f"{lab}/lab/tree/{name}?token={TOKEN}&reset")
    page.locator("p", has_text="Does it answer?").wait_for(timeout=60_000)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").wait_for(timeout=60_000)
    return page


def test_the_slider_draws_another_split(lab: str, chromium: Any) -> None:
    page = _opened(chromium, lab, "slide.ipynb")
    _run_all(page, until="Dirichlet(1) label skew over 6 devices")
    picture = page.locator(".jp-RenderedImage img")
    before = picture.evaluate("picture => picture.src || picture.outerHTML")
    assert page.locator(".noUi-handle").count() == 3  # shown once
    handle = page.locator(".noUi-handle").nth(1)
    handle.focus()
    for _ in range(5):
        handle.press("ArrowRight")
    page.get_by_text("Dirichlet(3.16228) label skew over 6 devices").wait_for(timeout=30_000)
    assert page.get_by_text("Dirichlet(1) label skew").count() == 0
    assert picture.evaluate("picture => picture.src || picture.outerHTML") != before


def test_a_lasso_on_the_map_selects(lab: str, chromium: Any) -> None:
    page = _opened(chromium, lab, "map.ipynb")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    _run_all(page, until="Lasso some points")
    assert not page.get_by_text("no WebGL").is_visible()
    page.get_by_title("Activate lasso selection").click()
    box = page.locator(".fedlab-plot canvas").first.bounding_box()
    at = lambda x, y: (box["x"] + x * box["width"], box["y"] + y * box["height"])  # noqa: E731
    page.mouse.move(*at(0.5, 0.02))
    page.mouse.down()
    for corner in [(0.98, 0.02), (0.98, 0.98), (0.5, 0.98), (0.5, 0.5)]:
        page.mouse.move(*at(*corner), steps=12)
    page.mouse.up()
    page.get_by_text("500 of device ward <i>1</i>; 500 of device ward 2").wait_for(timeout=30_000)
    outside = [url for url in asked if not url.startswith((lab, "data:", "blob:"))]
    assert outside == []


def test_without_webgl_the_map_is_a_picture(lab: str, chromium: Any) -> None:
    with launched(chromium.browser_type, *WITHOUT_WEBGL) as browser:
        page = _opened(browser, lab, "map.ipynb")
        _run_all(page, until="A picture: this browser has no WebGL.")
        picture = page.get_by_alt_text("2,000 of 2,000 vectors of 2 devices, by label")
        assert picture.evaluate("picture => picture.naturalWidth") > 600
        assert not page.locator(".fedlab-plot").is_visible()


def test_a_newcomer_is_asked_nothing(lab: str, chromium: Any) -> None:
    page = _opened(chromium, lab, "slide.ipynb")
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
