"""The site that `make docs` makes: strict, whole, and of use without a network."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from inspect import isclass, isroutine
from pathlib import Path
from pkgutil import resolve_name
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup

from tests.conftest import Visitor

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, made as `make docs` makes them: a warning is an error."""
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    # A blank in the path, because clones lie in such folders too.
    folder = tmp_path_factory.mktemp("a clone")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
    done = subprocess.run(
        [*command, "-d", folder / "doctrees", ROOT / "docs", folder / "docs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return folder / "docs"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, BeautifulSoup]:
    found = [*site.glob("*.html"), *site.glob("reference/*.html")]
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in found}


def anchors(page: BeautifulSoup) -> set[str]:
    return {str(tag["id"]) for tag in page.find_all(id=True)}


def faces() -> dict[str, list[str]]:
    """The names that packages publish, by package."""
    found = {}
    for path in sorted((ROOT / "fedlab").rglob("__init__.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                found[".".join(path.parent.relative_to(ROOT).parts)] = ast.literal_eval(node.value)
    return found


def test_every_public_name_is_in_the_reference(pages: dict[Path, BeautifulSoup]) -> None:
    documented = {anchor.rpartition(".")[2] for page in pages.values() for anchor in anchors(page)}
    for face, names in faces().items():
        # Constants are told of in the text of their module.
        found = {name: resolve_name(f"{face}:{name}") for name in names}
        wanted = {n for n, what in found.items() if isclass(what) or isroutine(what)}
        assert wanted <= documented, face


def test_no_private_name_is_in_the_reference(pages: dict[Path, BeautifulSoup]) -> None:
    named = {anchor for page in pages.values() for anchor in anchors(page) if "fedlab." in anchor}
    assert not [name for name in named if re.search(r"\._[a-z]", name)]


def test_a_sentence_with_a_colon_stays_whole(pages: dict[Path, BeautifulSoup], site: Path) -> None:
    bytes_sent = pages[site / "reference" / "updates.html"].find(id="fedlab.updates.Updates.nbytes")
    said = bytes_sent.find_next("dd").text  # type: ignore[union-attr]
    assert said.strip().startswith("(m,) bytes that leave each device: its blocks")


def test_no_page_names_a_folder_of_this_machine(pages: dict[Path, BeautifulSoup]) -> None:
    assert not [path.name for path, page in pages.items() if str(ROOT) in str(page)]


def test_every_link_leads_somewhere_inside(pages: dict[Path, BeautifulSoup], site: Path) -> None:
    there = {path: anchors(page) for path, page in pages.items()}
    for path, page in pages.items():
        for link in page.find_all("a", href=True):
            file, _, anchor = unquote(str(link["href"])).partition("#")
            if re.match(r"\w+:", file):
                continue
            target = (path.parent / file).resolve() if file else path
            assert target.is_file(), f"{path.name}: {link['href']}"
            if anchor and target in pages:
                assert anchor in there[target], f"{path.name}: {link['href']}"


def test_names_in_pages_link_to_the_reference(pages: dict[Path, BeautifulSoup], site: Path) -> None:
    page = pages[site / "bring_your_data.html"]
    linked = {str(link["href"]) for link in page.select("article a.reference.internal")}
    assert "reference/federations.html#fedlab.federation.Federation" in linked


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
@pytest.mark.parametrize("name", ["index", "own_engine", "reference/vectors", "speed"])
def test_a_page_asks_for_nothing_outside_and_fits(
    name: str, width: int, scheme: str, site: Path, visit: Visitor
) -> None:
    with visit(site / f"{name}.html", width=width, scheme=scheme) as seen:
        assert all(url.startswith((site.as_uri(), "data:")) for url in seen.requests)
        assert seen.complaints == []
        root = "document.documentElement"
        assert seen.page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
        paper = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 384) == (scheme == "dark")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("dirichlet", "fedlab.data.dirichlet"),
        ("erase", "fedlab.device.Device.erase"),
        ("papermill", "run_in_batch.html"),
    ],
)
def test_the_search_finds_names_and_words(
    asked: str, wanted: str, site: Path, visit: Visitor
) -> None:
    with visit(site / "index.html") as seen:
        seen.page.get_by_role("textbox", name="Search").first.fill(asked)
        seen.page.keyboard.press("Enter")
        hits = seen.page.locator("ul.search li a")
        hits.first.wait_for()
        seen.page.wait_for_function("document.querySelector('.search-summary').innerText.length")
        links = [str(hit.get_attribute("href")) for hit in hits.all()]
        assert any(wanted in link for link in links), links
        assert all(url.startswith((site.as_uri(), "data:")) for url in seen.requests)
        assert seen.complaints == []
