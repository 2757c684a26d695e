"""Executed notebooks and their records as HTML that opens anywhere, offline, from one file.

A page makes no request, and its content policy forbids any: formulas are MathML, figures inside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from jupyter_core.paths import ENV_JUPYTER_PATH, SYSTEM_JUPYTER_PATH, jupyter_data_dir
from markupsafe import Markup, escape
from nbconvert.exporters.html import HTMLExporter
from nbconvert.filters import markdown_mistune, strip_ansi
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

from fedlab.study.records import RunRecord
from fedlab.study.scrub import scrub
from fedlab.workbench.batch.notebooks import headline
from fedlab.workbench.batch.records import Record
from fedlab.workbench.report import outputs
from fedlab.workbench.report.mathml import FormulaError, mathml
from fedlab.workbench.report.measured import short
from fedlab.workbench.report.pictures import PICTURES, Pictures, data_url
from fedlab.workbench.report.tables import boxed_tables

#: Where pages' templates, style and script lie.
TEMPLATES = Path(__file__).with_name("templates")
#: Of a figure in two kinds, the index takes the pixels: a cell makes them small for it.
_SMALL = ("image/png", "image/svg+xml")
_WIDGET = "application/vnd.jupyter.widget-view+json"
_CONTROL = '<p class="control">In the live notebook a control stands here{}</p>'
_PRIORITY = ["text/html", "text/markdown", *PICTURES, "text/latex", "text/plain"]

_ELSEWHERE = re.compile(r"[a-z]+:|#|//", re.I)
_NOTEBOOK_LINK = re.compile(r"(?:\./)?([\w-]+)\.ipynb([#?].*)?")
_HELD = re.compile(r"[(\[]?<math(?! [^>]*block)[^>]*>(?:(?!</math>).)*</math>[)\].,;:?!]*", re.S)
_DATA_URL = re.compile(r'("data:image/[^"]*")')


@dataclass(frozen=True)
class Page:
    """A page's HTML, and the formulas in it that had to be shown as code."""

    html: str
    failed_formulas: tuple[str, ...] = ()


def notebook_page(
    node: NotebookNode,
    folder: Path,
    record: Record | RunRecord | None,
    site: str | None,
    *,
    home: tuple[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Page:
    """Make the page of an executed notebook.

    Parameters
    ----------
    node : NotebookNode
        The executed notebook.
    folder : Path
        Where the notebook's source lies; pictures that its text names are read from there.
    record : Record, RunRecord or None
        What is known of the run, for the page's header.
    site : str or None
        Address of the folder of the report's other pages, relative to this one; None where there
        are none, and links to notebooks become plain text.
    home : (address, words), optional
        The page that lists this one among others.
    notes : sequence of str
        What else is to be said of the run.

    Returns
    -------
    Page
        Errors and parameters escaped, paths of this machine replaced by short names. The notebook's
        own HTML is trusted.
    """
    exporter = _Exporter(site, folder)
    prepared = _prepared(node)
    title, _ = headline(prepared)
    title = title or getattr(record, "title", "Notebook")
    report = {
        "title": f"{title}: run {record.id}" if isinstance(record, RunRecord) else title,
        "home": home or (site and (f"{site}/index.html", "All notebooks")),
        "record": record,
        "notes": notes,
        "answer": outputs.answer(node),
        "provenance": outputs.provenance(node),
    }
    body, _ = exporter.from_notebook_node(prepared, {"report": report})
    return Page(scrubbed(body), tuple(exporter.failed_formulas))


def note(title: str, text: str) -> NotebookNode:
    """A notebook of one cell that says `text` as it is."""
    said = f"# {title}\n\n<pre class=message>{escape(text)}</pre>"
    made: NotebookNode = new_notebook(cells=[new_markdown_cell(said)])  # type: ignore[no-untyped-call]
    return made


@dataclass(frozen=True)
class Entry:
    """One run in the index.

    `link` is the address of its page; `kept` is the record of the last run that completed, where
    this one failed: its page stands under the notebook's own name.
    """

    record: Record
    node: NotebookNode
    link: str
    kept: Record | None = None

    @property
    def figure(self) -> dict[str, str] | None:
        """Address and words of the main figure, small; None if there is none."""
        return _thumbnail(self.node)


def index_page(entries: Sequence[Entry], docs: str | None = None) -> Page:
    """Make the index of a set of runs, in their order.

    Parameters
    ----------
    entries : sequence of Entry
    docs : str, optional
        The address of the how-to pages, where they have been made.
    """
    template, failed_formulas = escaping("overview.html.j2")
    failed_formulas.clear()
    failed = sum(entry.record.error is not None for entry in entries)
    body = template.render(rows=entries, failed=failed, docs=docs)
    return Page(scrubbed(body), tuple(failed_formulas))


@cache
def escaping(name: str) -> tuple[Template, list[str]]:
    """Return a template that escapes what it is given, and where it notes lost formulas."""
    exporter = _Exporter(".", Path())
    environment = exporter.environment.overlay(
        autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name), exporter.failed_formulas


class _Renderer(markdown_mistune.IPythonRenderer):
    """Markdown with formulas as MathML, and links to pages."""

    def __init__(self, failed: list[str], site: str | None) -> None:
        super().__init__(escape=False, exclude_anchor_links=True)
        self._failed, self._site = failed, site

    def block_math(self, body: str) -> str:
        return self._formula(body, "block")

    def inline_math(self, body: str) -> str:
        return self._formula(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        return self._formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        other = _NOTEBOOK_LINK.fullmatch(url)
        # Beside a page without a site stands nothing.
        if self._site is None and not _ELSEWHERE.match(url):
            return text
        address = f"{self._site}/{other[1]}.html{other[2] or ''}" if other else url
        return str(super().link(text, address, title))

    def _embed_image_or_attachment(self, src: str) -> str:
        return src  # `Pictures` finds it, and the loss of one isn't the loss of the page

    def _formula(self, body: str, display: str) -> str:
        try:
            formula = mathml(body, display)
        except FormulaError as error:
            self._failed.append(str(error))
            return f'<code class="formula">{self.escape_html(body.strip())}</code>'
        return f'<span class="display">{formula}</span>' if display == "block" else formula


class _Exporter(HTMLExporter):
    def __init__(self, site: str | None, folder: Path) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            template_name="report", extra_template_basedirs=[str(TEMPLATES)]
        )
        self._site, self._folder = site, folder
        self.failed_formulas: list[str] = []

    @property
    def default_config(self) -> Any:
        config = super().default_config
        config.NbConvertBase.display_data_priority = _PRIORITY
        return config

    def get_prefix_root_dirs(self) -> list[str]:
        """Where nbconvert's own templates are: JUPYTER_PATH may lead to others of their names."""
        places = (*ENV_JUPYTER_PATH, *SYSTEM_JUPYTER_PATH, jupyter_data_dir())
        return [place for place in places if Path(place, "nbconvert/templates/base").is_dir()][:1]

    def markdown(self, text: str, attachments: Any = None) -> Markup:
        renderer = _Renderer(self.failed_formulas, self._site)
        markup = markdown_mistune.MarkdownWithMath(renderer=renderer).render(text)
        # A line may otherwise end between a bracket and the formula inside it.
        return self.finished(_HELD.sub(r'<span class="held">\g<0></span>', markup), attachments)

    def finished(self, markup: str, attachments: Any = None) -> Markup:
        """With its pictures inside, and its tables in boxes."""
        return Markup(boxed_tables(Pictures(self._folder, attachments or {}).inlined(markup)))

    def default_filters(self) -> Any:
        yield from super().default_filters()  # type: ignore[no-untyped-call]
        yield ("markdown2html", self.markdown)
        yield ("inline", lambda text: _unwrapped(self.markdown(text)))
        yield ("plain", strip_ansi)
        yield ("seconds", _seconds)
        yield ("short", short)
        yield ("data_url", data_url)
        yield ("alt", outputs.alternative_text)
        yield ("finished", self.finished)


def _prepared(node: NotebookNode) -> NotebookNode:
    """A copy without marks for the record, and a word where a control stands when it is live."""
    copy = outputs.without_banners(node)
    for cell in copy.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if not outputs.is_record(output)]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if _WIDGET in data and not any(kind in data for kind in _PRIORITY[:-1]):
                said = data.get("text/plain", "")
                shown = f'<pre class="output" tabindex="0">{escape(said)}</pre>' if said else ""
                control = _CONTROL.format(", in words:" if said else ".")
                output.data = {"text/html": control + shown}
    return copy


def scrubbed(body: str) -> str:
    """Take this machine's paths out of a page."""
    # Not inside pictures: their letters are random enough to look like a short path now and then.
    parts = _DATA_URL.split(body)
    return "".join(part if i % 2 else scrub(part) for i, part in enumerate(parts))


def _thumbnail(node: NotebookNode) -> dict[str, str] | None:
    figure = outputs.main_figure(node)
    if figure is None or not (kinds := [kind for kind in _SMALL if kind in figure.data]):
        return None
    url = data_url(figure.data[kinds[0]], kinds[0])
    return {"url": url, "alt": outputs.alternative_text(figure)}


def _unwrapped(markup: Markup) -> Markup:
    match = re.fullmatch(r"\s*<p>(.*)</p>\s*", markup, flags=re.S)
    return Markup(match[1]) if match and "<p>" not in match[1] else markup


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{int(value) // 60} min {int(value) % 60} s"
