"""The report in a real browser with its network off."""

from __future__ import annotations

import pytest

from tests.conftest import Visitor
from tests.workbench.conftest import Batch

pytestmark = pytest.mark.browser
PAGES = ("index", "00_index", "01_say", "02_fail", "03_types")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [1280, 360])
def test_a_page_asks_for_nothing_and_fits(
    name: str, width: int, batch: Batch, visit: Visitor
) -> None:
    path = batch.folder / f"{name}.html"
    with visit(path, width=width) as seen:
        asked = [url for url in seen.requests if not url.startswith("data:")]
        assert asked == [path.resolve().as_uri()]
        assert seen.complaints == []
        root = "document.documentElement"
        assert seen.page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
        # Unfolded, it still fits.
        seen.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert seen.page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")


def test_formulas_are_drawn(batch: Batch, visit: Visitor) -> None:
    with visit(batch.folder / "01_say.html") as seen:
        boxes = seen.page.evaluate(
            "[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect())"
            ".map(box => [box.width, box.height])"
        )
        assert len(boxes) == 7
        assert all(width > 5 and height > 5 for width, height in boxes)
        fraction = seen.page.locator("mfrac").first.bounding_box()
        letter = seen.page.locator("mfrac mi").first.bounding_box()
        assert fraction["height"] > 1.5 * letter["height"]


def test_figures_are_drawn_with_their_words(batch: Batch, visit: Visitor) -> None:
    for name, count in (("01_say", 2), ("index", 1)):
        with visit(batch.folder / f"{name}.html") as seen:
            pictures = seen.page.evaluate(
                "Promise.all([...document.images].map(async picture => {"
                " await picture.decode();"
                " return [picture.naturalWidth, picture.naturalHeight, picture.alt]}))"
            )
            assert len(pictures) == count
            assert all(width > 300 and height > 150 and alt for width, height, alt in pictures)


def luminance(colour: str) -> float:
    channels = [float(part) / 255 for part in colour[4:-1].split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_light_and_dark(batch: Batch, visit: Visitor) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        with visit(batch.folder / "02_fail.html", scheme=scheme) as seen:
            style = "getComputedStyle(document.querySelector({!r}))"
            ground = seen.page.evaluate(style.format("body") + ".backgroundColor")
            grounds.append(luminance(ground))
            # WCAG 2.2, 1.4.3: at least 4.5 for text.
            for part in ("body", "a[href$='index.html']", "details summary"):
                ink = seen.page.evaluate(style.format(part) + ".color")
                assert contrast(ink, ground) >= 4.5, (scheme, part)
    assert grounds[0] > 0.8
    assert grounds[1] < 0.05


def test_figures_stand_on_paper_in_the_dark(batch: Batch, visit: Visitor) -> None:
    with visit(batch.folder / "01_say.html", scheme="dark") as seen:
        paper = seen.page.evaluate("getComputedStyle(document.images[0]).backgroundColor")
        assert luminance(paper) > 0.7


def test_all_code_unfolds_at_once(batch: Batch, visit: Visitor) -> None:
    with visit(batch.folder / "01_say.html") as seen:
        code = seen.page.locator("details.source .highlight").first
        assert not code.is_visible()
        seen.page.check("#unfold")
        assert code.is_visible()


def test_the_keyboard_reaches_content_first(batch: Batch, visit: Visitor) -> None:
    with visit(batch.folder / "01_say.html") as seen:
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("document.activeElement.className") == "skip"
        assert seen.page.locator(".skip").bounding_box()["x"] >= 0
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_url(lambda url: url.endswith("#content"))


def test_links_between_pages_work(batch: Batch, visit: Visitor) -> None:
    with visit(batch.folder / "index.html") as seen:
        seen.page.click("text=Say it all")
        assert seen.page.url.endswith("/01_say.html")
        seen.page.click("text=the other")
        assert "/02_fail.html" in seen.page.url
        seen.page.click("text=All notebooks")
        assert seen.page.url.endswith("/index.html")


def test_print_leaves_code_and_controls_out(batch: Batch, visit: Visitor) -> None:
    with visit(batch.folder / "01_say.html", scheme="dark") as seen:
        seen.page.emulate_media(media="print")
        assert not seen.page.locator(".top").is_visible()
        assert not seen.page.locator("details.source").first.is_visible()
