"""A study's report in a real browser with its network off."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fedlab.workbench.report.study import write_study_site
from tests.conftest import Visitor
from tests.workbench.report.studies import measured, write_run, write_study
from tests.workbench.test_browser import contrast, luminance

pytestmark = pytest.mark.browser
SHOWN = "[...document.querySelectorAll('#runs tbody tr')].filter(row => !row.hidden).length"
COLUMN = """place => [...document.querySelectorAll('#runs tbody tr')]
  .filter(row => !row.hidden).map(row => row.cells[place].textContent)"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A blank in the path, because studies lie in such folders too.
    folder = write_study(tmp_path_factory.mktemp("a study"), 60)
    assert write_study_site(folder, folder / "site") == ()
    return folder / "site"


def one_run(site: Path) -> Path:
    return min((site / "runs").glob("*.html"))


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_ask_for_nothing_fit_and_complain_of_nothing(
    site: Path, visit: Visitor, width: int, scheme: str
) -> None:
    for path in (site / "index.html", one_run(site)):
        with visit(path, width=width, scheme=scheme) as seen:
            asked = [url for url in seen.requests if not url.startswith("data:")]
            assert asked == [path.resolve().as_uri()]
            assert seen.complaints == []
            root = "document.documentElement"
            seen.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert seen.page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
            style = "getComputedStyle(document.querySelector({!r}))"
            ground = seen.page.evaluate(style.format("body") + ".backgroundColor")
            assert (luminance(ground) > 0.8) == (scheme == "light")
            for part in ("body", "a[href]", "details summary", "td"):
                ink = seen.page.evaluate(style.format(part) + ".color")
                assert contrast(ink, ground) >= 4.5, (scheme, part)  # WCAG 2.2, 1.4.3


def test_search_and_filters_leave_what_fits_and_say_how_many(site: Path, visit: Visitor) -> None:
    with visit(site / "index.html") as seen:
        page, said, form = seen.page, seen.page.locator("#shown"), seen.page.locator("#filters")
        assert said.get_attribute("role") == "status"
        assert said.text_content() == "60 of 60 runs shown"
        page.fill("#words", "FEDPROX")
        assert page.evaluate(SHOWN) == 15
        assert said.text_content() == "15 of 60 runs shown"
        form.get_by_label("alpha").select_option(label="0.1")
        assert said.text_content() == "3 of 60 runs shown"
        form.get_by_label("status").select_option(label="failed")
        assert said.text_content() == "0 of 60 runs shown"
        page.click("text=Show all")
        page.wait_for_function("document.getElementById('shown').textContent.startsWith('60 of')")
        page.fill("#words", "nan round")
        assert page.evaluate(COLUMN, 1) == ["failed"]
        assert "the loss is nan" in page.locator("#runs tbody tr:visible").inner_text()


def test_text_of_parameters_is_text_in_filters(tmp_path: Path, visit: Visitor) -> None:
    evil = "<img src=x onerror=alert(1)>\"'"
    for way, seed in ((evil, 0), ("plain", 0), (evil, 1)):
        write_run(tmp_path, {"way": way, evil: seed, "seed": 0.1 * seed}, measured(0.1, seed, 3))
    write_study_site(tmp_path, tmp_path / "site")
    with visit(tmp_path / "site" / "index.html") as seen:
        form = seen.page.locator("#filters")
        form.get_by_label("way").select_option(label=evil)
        assert seen.page.locator("#shown").text_content() == "2 of 3 runs shown"
        assert evil in [label.split("\n")[0] for label in form.locator("label").all_inner_texts()]
        assert seen.page.locator("#filters img, #runs img").count() == 0
        assert seen.complaints == []


def test_a_parameter_of_many_numbers_is_filtered_by_its_ends(
    tmp_path: Path, visit: Visitor
) -> None:
    for number in range(40):
        write_run(tmp_path, {"lr": number / 7, "seed": 0}, measured(0.1, number, 3))
    write_study_site(tmp_path, tmp_path / "site")
    with visit(tmp_path / "site" / "index.html") as seen:
        seen.page.get_by_label("lr from").fill("1")
        seen.page.get_by_label("lr to").fill("2")
        assert seen.page.evaluate(SHOWN) == 8  # 7/7 to 14/7, by all their digits


def test_columns_are_sorted_by_keyboard_and_say_so(site: Path, visit: Visitor) -> None:
    with visit(site / "index.html") as seen:
        page = seen.page
        head = page.locator("#runs thead th", has_text="alpha")
        assert head.get_attribute("aria-sort") == "none"
        head.get_by_role("button").focus()
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        up = [float(text) for text in page.evaluate(COLUMN, 2)]
        assert up == sorted(up)
        page.keyboard.press("Space")
        assert head.get_attribute("aria-sort") == "descending"
        assert [float(text) for text in page.evaluate(COLUMN, 2)] == up[::-1]
        assert page.locator("#shown").text_content() == "60 of 60 runs shown, by alpha, descending"
        # Numbers by all their digits; what has none stays at the end, whichever way.
        metric = page.locator("#runs thead th", has_text="test_accuracy")
        for _ in range(2):
            metric.get_by_role("button").click()
            assert page.evaluate(COLUMN, 5)[-1] == ""
        exact = page.evaluate(
            "[...document.querySelectorAll('#runs tbody tr')].map(r => +r.cells[5].dataset.v)"
        )[:-1]
        assert exact == sorted(exact, reverse=True)
        assert page.locator("[aria-sort=descending]").count() == 1


def test_the_keyboard_goes_from_the_search_to_a_run_and_back(site: Path, visit: Visitor) -> None:
    with visit(site / "index.html") as seen:
        page = seen.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.locator("#runs tbody a").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/runs/*.html")
        page.click("text=All runs")
        page.wait_for_url("**/index.html")


def test_a_figure_s_data_can_be_downloaded(site: Path, visit: Visitor) -> None:
    for path, name in ((site / "index.html", "rounds.csv"), (one_run(site), None)):
        with visit(path) as seen:
            seen.page.locator("details.data summary").first.click()
            with seen.page.expect_download() as waiting:
                seen.page.locator("a[download]").first.click()
            found = waiting.value
            assert name in (None, found.suggested_filename)
            assert found.path().read_text().startswith("round,")


def test_without_scripts_the_whole_table_is_there(site: Path, chromium: object) -> None:
    context = chromium.new_context(offline=True, java_script_enabled=False)  # type: ignore[attr-defined]
    page = context.new_page()
    page.goto((site / "index.html").resolve().as_uri())
    assert page.locator("#runs tbody tr:visible").count() == 60
    assert not page.locator("#filters").is_visible()
    context.close()


def test_print_folds_nothing_away(site: Path, visit: Visitor) -> None:
    with visit(site / "index.html", scheme="dark") as seen:
        assert not seen.page.locator("details.data td").first.is_visible()
        seen.page.emulate_media(media="print")
        assert seen.page.locator("details.data td").first.is_visible()
        assert not seen.page.locator("#filters").is_visible()
        box = "getComputedStyle(document.querySelector('#runs').parentElement)"
        assert seen.page.evaluate(f"{box}.maxHeight") == "none"
        ink = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert luminance(ink) > 0.99


def test_the_index_of_a_thousand_runs_opens_at_once(
    tmp_path: Path, visit: Visitor, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_study(tmp_path / "study", 1000)
    began = time.perf_counter()
    assert write_study_site(folder, tmp_path / "site") == ()
    wrote = time.perf_counter() - began
    path = tmp_path / "site" / "index.html"
    assert path.stat().st_size < 2_000_000
    with visit(path) as seen:
        opened = seen.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        began = time.perf_counter()
        seen.page.fill("#words", "scaffold")
        filtered = time.perf_counter() - began
        assert seen.page.evaluate(SHOWN) == 250
    with capsys.disabled():
        print(
            f"\n1,000 runs: written in {wrote:.0f} s, {path.stat().st_size / 1e3:.0f} kB, "
            f"opens in {opened / 1e3:.2f} s, filtered in {filtered:.2f} s"
        )
    assert opened < 5_000
