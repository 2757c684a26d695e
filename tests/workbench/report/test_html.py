"""Pages: everything inside, everything escaped that isn't the author's, nothing of this machine."""

from __future__ import annotations

import html as entities
import itertools
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import nbformat
import pytest
from bs4 import BeautifulSoup

from fedlab.workbench.batch import notebooks, runner
from fedlab.workbench.batch.notebooks import ROOT
from fedlab.workbench.report import html, pages
from tests.workbench.building import Memory, notebook, settings, text, write
from tests.workbench.conftest import Batch

PAGES = ("index", "00_index", "01_say", "02_fail", "03_types")


def soup(batch: Batch, name: str) -> BeautifulSoup:
    return BeautifulSoup((batch.folder / f"{name}.html").read_text(), "html.parser")


def page(*cells: Any, site: str | None = ".") -> html.Page:
    return html.notebook_page(notebook(*cells), Path(), None, site)


# What is shown


def test_the_question_the_answer_and_the_run_come_first(batch: Batch) -> None:
    made = soup(batch, "01_say")
    assert made.html is not None
    assert made.html["lang"] == "en"
    assert [h.text for h in made.select("h1")] == ["Say it all"]
    assert made.title is not None
    assert made.title.text == "Say it all"
    header = made.select_one("header.run")
    assert header is not None
    assert "5 rounds" in header.text
    assert "digits, scikit-learn, 1797 rows" in header.text
    assert "python -m fedlab.workbench run" in header.text
    table = header.select("table")[0]
    rows = {row.th.text: row.td.text for row in table.select("tr")}  # type: ignore[union-attr]
    assert rows == {"rounds": "5", "alpha": "0.3", "note": "<b>&"}


def test_formulas_are_mathml_and_code_is_left_alone(batch: Batch) -> None:
    made = soup(batch, "01_say")
    assert len(made.select('math[display="block"]')) == 2
    assert len(made.select("math")) == 7
    assert "$not$" in [code.text for code in made.select("code")]
    assert not [p.text for p in made.select("p, td") if "$" in p.text and not p.code]


def test_figures_have_their_words(batch: Batch) -> None:
    pictures = soup(batch, "01_say").select("img")
    assert [picture["alt"] for picture in pictures] == [
        "One line; it falls.",
        "A cloud of <20,000> points & more.",
    ]
    assert [str(picture["src"])[:18] for picture in pictures] == [
        "data:image/svg+xml",
        "data:image/png;bas",
    ]


def test_code_is_folded_and_what_it_shows_is_not(batch: Batch) -> None:
    made = soup(batch, "01_say")
    folds = made.select("details.source")
    assert len(folds) == 10
    assert not any(fold.has_attr("open") for fold in folds)
    assert not made.select("details img, details.source table")
    assert not [code for code in made.select(".highlight") if not code.find_parent("details")]


def test_controls_leave_a_word(batch: Batch) -> None:
    assert len(soup(batch, "01_say").select(".control")) == 1


def test_links_lead_to_pages(batch: Batch) -> None:
    links = [a["href"] for a in soup(batch, "01_say").select(".prose a")]
    assert links == [
        "./02_fail.html#why",
        "https://example.org/a.ipynb",
        "https://example.org/a.png",
    ]


def test_a_page_alone_has_no_dead_links() -> None:
    made = page("# A\n\nSee [the next](02_b.ipynb).", site=None).html
    assert "See the next." in made
    assert "index.html" not in made


def test_every_link_inside_the_report_leads_somewhere(batch: Batch) -> None:
    for name in PAGES:
        for link in soup(batch, name).select("a[href]"):
            target, _, anchor = str(link["href"]).partition("#")
            if target.startswith("http"):
                continue
            there = batch.folder / target if target else batch.folder / f"{name}.html"
            assert there.is_file(), (name, target)
            if anchor == "content":
                assert soup(batch, there.stem).select("#content")


def test_the_index_has_all_of_each_run(batch: Batch) -> None:
    entries = soup(batch, "index").select(".entry")
    assert [entry.h2.text for entry in entries] == ["Map", "Say it all", "Fail", "Types"]  # type: ignore[union-attr]
    say = entries[1]
    assert "Does a page show everything, with" in say.text
    assert "Yes: 5 rounds" in say.text
    picture = say.select_one(".thumbnail img")
    assert picture is not None
    assert picture["alt"] == "One line; it falls."
    assert say.select_one(".thumbnail")["href"] == "01_say.html"  # type: ignore[index]
    commands = [command.text.strip() for command in entries[3].select("pre.command")]
    record = batch.records["03_types"]
    assert commands == [record.command, record.papermill]
    assert "-p a 7" in commands[0]
    assert "e = 0.5" in entries[3].text
    assert f"{record.seconds:.1f} s" in entries[3].text


def test_the_index_shows_what_failed(batch: Batch) -> None:
    made = soup(batch, "index")
    failed = made.select(".entry .failed")
    assert len(failed) == 1
    assert "cell 2" in failed[0].text
    assert "ParameterError" in failed[0].text
    assert "1 failed" in made.text


# What isn't


def test_text_of_errors_and_parameters_is_escaped(batch: Batch) -> None:
    for name in ("index", "02_fail"):
        made = soup(batch, name)
        assert made.select("script") == []
        assert "<script>alert(1)</script>" in made.text
    assert soup(batch, "01_say").select("td b") == []


def test_no_path_of_this_machine(batch: Batch) -> None:
    home = str(Path.home())
    for name in PAGES:
        made = re.sub(r'"data:image/[^"]*"', "", (batch.folder / f"{name}.html").read_text())
        for path in (str(ROOT), sys.prefix, str(batch.folder), f"{home}/"):
            assert path not in made, name
            assert entities.escape(path) not in made
    assert "fedlab/study/parameters.py" in soup(batch, "02_fail").text


def test_nothing_is_loaded_from_anywhere(batch: Batch) -> None:
    class Loads(HTMLParser):
        found: list[str] = []  # noqa: RUF012 - one parser, one list

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            given = dict(attrs)
            loaded = given.get("src") or (given.get("href") if tag == "link" else None)
            if tag in ("script", "iframe", "object") or (loaded and not loaded.startswith("data:")):
                self.found.append(f"{tag} {loaded}")

    loads = Loads()
    for name in PAGES:
        loads.feed((batch.folder / f"{name}.html").read_text())
    assert loads.found == []


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_small_and_well_formed(name: str, batch: Batch) -> None:
    written = (batch.folder / f"{name}.html").read_text()
    assert len(written) < 300_000
    made = BeautifulSoup(written, "html.parser")
    assert len(made.select("h1")) == 1
    assert len(made.select("main#content")) == 1
    identifiers = [element["id"] for element in made.select("[id]")]
    assert len(identifiers) == len(set(map(str, identifiers)))
    levels = [int(heading.name[1]) for heading in made.select("main h1, main h2, main h3, main h4")]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_a_formula_that_can_not_be_shown_is_told_and_shown_as_code() -> None:
    made = page("# A\n\nB?", text(r"What is $\nosuch{<x>}$?"))
    assert len(made.failed_formulas) == 1
    assert r"\nosuch" in made.failed_formulas[0]
    assert r'<code class="formula">\nosuch{&lt;x&gt;}</code>' in made.html


def test_a_page_of_plain_papermill_s_failure_keeps_its_title() -> None:
    banner = text("<span>An Exception was encountered</span>")
    banner.metadata["tags"] = ["papermill-error-cell-tag"]
    made = page(banner, "# The title\n\nB?").html
    assert "<title>The title</title>" in made
    assert "An Exception was" not in made


def test_an_attached_picture_is_inside() -> None:
    cell = text("![dot](attachment:dot.png)")
    cell["attachments"] = {"dot.png": {"image/png": "AAAA"}}
    assert 'src="data:image/png;base64,AAAA"' in page("# A\n\nB?", cell).html


def test_a_picture_beside_the_notebook_is_inside(tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(b"\0\0\0")
    node = notebook("# A\n\nB?", text("![dot](dot.png)"))
    assert "data:image/png;base64,AAAA" in html.notebook_page(node, tmp_path, None, None).html


NUMBERED = ("01_good", "02_broken")
NAMES = ("a b.png", "über.png", "100%.png", "50%20off.png", "a'b.png", "a&b.png", "x.PNG")


def in_markdown(name: str) -> str:
    return f"![dot](<{name}>)" if "%" not in name else f"![dot]({quote(name)})"


def in_html(name: str) -> str:
    return f'<p>see <img alt="dot" src="{entities.escape(name)}"> <b>here</b></p>'


@pytest.mark.parametrize("written", [in_markdown, in_html])
@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_found_by_any_name(
    name: str, written: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"\0\0\0")
    beside = notebook("# A\n\nB?", text(written(name)))
    attached = notebook("# A\n\nB?", text(written(f"attachment:{name}")))
    attached.cells[1]["attachments"] = {name: {"image/png": "AAAA"}}
    for node, folder in ((beside, tmp_path), (attached, tmp_path / "elsewhere")):
        made = BeautifulSoup(html.notebook_page(node, folder, None, None).html, "html.parser")
        assert [(p["alt"], p["src"]) for p in made.select("img")] == [
            ("dot", "data:image/png;base64,AAAA")
        ]


LOST = (
    "![a dot](gone.png)",
    "![a dot](attachment:gone.png)",
    "![a dot](folder)",
    "![a dot](../secret.png)",
    "![a dot](key.pem)",
    f"![a dot]({'x' * 300}.png)",
    "![a dot](%00.png)",
    "<img src='gone.png' alt='a dot'>",
    "<div>\n<img alt='a dot'\nsrc=gone.png />\n</div>",
)


@pytest.mark.parametrize("written", LOST)
def test_a_lost_picture_costs_itself_and_says_so(written: str, tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    (folder / "folder").mkdir(parents=True)
    for path in (tmp_path / "secret.png", folder / "key.pem"):
        path.write_bytes(b"secret")
    shown = nbformat.v4.new_code_cell("1")
    shown.outputs = [nbformat.v4.new_output("display_data", {"text/html": written})]
    node = notebook("# A\n\nB?", text(f"{written}\n\nafter"), shown)
    made = BeautifulSoup(html.notebook_page(node, folder, None, None).html, "html.parser")
    lost = [said.text for said in made.select(".lost")]
    assert lost == ["A picture is missing: a dot"] * (2 if written.startswith("<") else 1)
    assert made.select("img") == []
    assert "after" in made.text


def test_a_picture_elsewhere_is_a_link() -> None:
    made = page("# A\n\nB?", text('<img src="https://example.org/a.png" alt="a <b>">'))
    assert '<a href="https://example.org/a.png">a &lt;b&gt;</a>' in made.html


def test_html_inside_a_line_is_left_as_it_is() -> None:
    assert "is <b>bold</b> here" in page("# A\n\nB?", text("This is <b>bold</b> here.")).html


def test_an_attached_drawing_may_be_text() -> None:
    cell = text("![dot](attachment:dot.svg)")
    cell["attachments"] = {"dot.svg": {"image/svg+xml": "<svg a='1'></svg>"}}
    made = BeautifulSoup(page("# A\n\nB?", cell).html, "html.parser")
    assert unquote(str(made.select("img")[0]["src"])) == "data:image/svg+xml,<svg a='1'></svg>"


def test_a_widget_s_words_are_shown_where_there_is_nothing_better() -> None:
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "a"}}
    cell = nbformat.v4.new_code_cell("1")
    made = nbformat.v4.new_output
    cell.outputs = [
        made("display_data", {**view, "text/plain": "IntSlider(value=<3>)"}),
        made("display_data", {**view, "text/plain": "Bars()", "text/html": "<i>drawn</i>"}),
        made("display_data", view),
    ]
    shown = BeautifulSoup(page("# A\n\nB?", cell).html, "html.parser")
    assert [said.text for said in shown.select("pre.output")] == ["IntSlider(value=<3>)"]
    assert shown.select("i")
    assert "Bars()" not in shown.text
    assert len(shown.select(".control")) == 2


def test_what_was_recorded_stands_at_one_place(batch: Batch) -> None:
    made = soup(batch, "01_say")
    assert "recorded: share" not in made.text
    tables = {table.caption.text: table for table in made.select("table:has(caption)")}  # type: ignore[union-attr]
    assert "share" in tables["Recorded by this run"].text
    assert "0.25" in tables["Recorded by this run"].text


def test_a_broken_page_costs_not_the_report(tmp_path: Path) -> None:
    for name in NUMBERED:
        write(notebook(f"# {name}\n\nB?", "display(1)"), tmp_path / f"{name}.ipynb")
    runs = [runner.Run.of(found) for found in notebooks.numbered(tmp_path)]
    recorded = runner.execute(runs, settings(tmp_path), Memory())
    broken = tmp_path / "out" / "02_broken.ipynb"
    broken.write_text(broken.read_text().replace('"text/plain"', '"image/png": 3, "text/plain"'))
    [said] = pages.write_report(recorded, tmp_path / "out", tmp_path, tmp_path)
    assert said.startswith("02_broken: the page can't be shown: ")
    made = {name: (tmp_path / f"{name}.html").read_text() for name in ("index", *NUMBERED)}
    assert "the page can't be shown" in entities.unescape(made["02_broken"])
    assert len(BeautifulSoup(made["index"], "html.parser").select(".entry")) == 2
    assert "<h1>01_good</h1>" in made["01_good"]


def test_a_figure_without_a_picture_has_no_thumbnail() -> None:
    marks = {"fedlab": {"role": "figure", "main": True, "alt": "a"}}
    cell = nbformat.v4.new_code_cell("1")
    cell.outputs = [nbformat.v4.new_output("display_data", {"text/plain": "a"}, metadata=marks)]
    assert html._thumbnail(notebook("# A", cell)) is None


def test_templates_of_the_user_s_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = page("# A\n\nB?", "1").html
    for name in ("base", "report", "lab"):
        folder = tmp_path / "nbconvert" / "templates" / name
        folder.mkdir(parents=True)
        for file in ("display_priority.j2", "null.j2", "index.html.j2"):
            (folder / file).write_text("{{ 1 / 0 }}")
        (folder / "conf.json").write_text('{"base_template": "base", "preprocessors": {"x": {}}}')
    (tmp_path / "jupyter_nbconvert_config.py").write_text("1 / 0")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    assert page("# A\n\nB?", "1").html == before


def test_output_of_each_kind_is_shown() -> None:
    cell = nbformat.v4.new_code_cell("1")
    made = nbformat.v4.new_output
    cell.outputs = [
        made("stream", name="stderr", text="\x1b[31mred <&>\x1b[0m"),
        made("execute_result", {"text/plain": "plain <&>"}, execution_count=1),
        made("display_data", {"text/latex": "$x^2$", "text/plain": "x"}),
        made("display_data", {"image/jpeg": "AAAA"}),
        made("display_data", {"application/javascript": "alert(1)", "text/plain": "js"}),
    ]
    shown = page("# A\n\nB?", cell).html
    assert "red &lt;&amp;&gt;" in shown
    assert "\x1b" not in shown
    assert "plain &lt;&amp;&gt;" in shown
    assert "<msup>" in shown
    assert "data:image/jpeg;base64,AAAA" in shown
    assert "alert" not in shown


def test_the_index_links_to_the_how_to_pages_where_they_stand(batch: Batch, tmp_path: Path) -> None:
    def links() -> list[str]:
        pages.write_report((), batch.executed, batch.folder, tmp_path)
        made = BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser")
        return [str(link["href"]) for link in made.select("main a")]

    assert links() == []
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.html").write_text("")
    assert links() == ["docs/index.html"]
