"""What tests of several folders share: a real browser, offline, that remembers its requests.

A test that takes `browser` carries the marker `browser`, and is skipped by name where there is no
Chromium or no playwright.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# One commit, one verdict: under .ci/run examples are the same each time. Elsewhere each run tries
# others, which is how the rare ones are found.
settings.register_profile("ci", derandomize=True)
if "FEDLAB_CI" in os.environ:
    settings.load_profile("ci")

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = (
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@dataclass
class Visit:
    """An open page, what it asked for, and what it complained of."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


Visitor = Callable[..., AbstractContextManager[Visit]]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium, for tests that drive it themselves."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright, launched(playwright.chromium) as browser:
        yield browser


@contextmanager
def launched(kind: Any, *switches: str) -> Iterator[Any]:
    """A headless Chromium of its own, with further switches."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(CHROMIUM)} is on the path")
    # Chromium's sandbox can't be had by root, which is who CI's containers run as.
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    more = [*switches, *(["--no-sandbox"] if root else [])]
    browser = kind.launch(executable_path=found, args=[*SWITCHES, *more])
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Visitor:
    """Open a file in a browser whose network is off: ``with visit(path, width=360) as visit:``."""

    @contextmanager
    def opened(path: Path, width: int = 1280, scheme: str = "light") -> Iterator[Visit]:
        context = chromium.new_context(
            offline=True, viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        visit = Visit(context.new_page())
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.on(
            "console",
            lambda message: (
                visit.complaints.append(message.text)
                if message.type in ("error", "warning")
                else None
            ),
        )
        visit.page.goto(path.resolve().as_uri(), wait_until="load")
        try:
            yield visit
        finally:
            context.close()

    return opened
