"""How Sphinx makes the pages: `make docs` writes them to reports/docs."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes

import fedlab

project = "fedlab workbench"
version = release = fedlab.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
html_theme = "furo"
html_title = project
# Pages are opened from disk, where a browser lets no script read another page.
html_show_search_summary = False
html_copy_source = False
html_show_copyright = False
exclude_patterns = ["README.md"]
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

default_role = "py:obj"
myst_heading_anchors = 3
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]
# Types stand in the docstrings, with shapes; signatures stay short.
autodoc_typehints = "none"
autodoc_class_signature = "mixed"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
# A name that two rooms have is linked to the first.
suppress_warnings = ["ref.python"]

#: Backticked in a page: `VectorIndex`, `Device.erase`, `spread(data, partition)`.
NAME = re.compile(r"((?:fedlab(?:\.\w+)*\.)?[A-Za-z]\w*(?:\.\w+)*)(?:\(.*\))?")
PUBLIC = {"fedlab", *fedlab.__all__}


def link_names(app: Any, doctree: nodes.document) -> None:
    """Turn backticked names into links to the reference, in docstrings and in pages."""
    for link in doctree.findall(addnodes.pending_xref):
        if link.get("refdomain") == "py" and link.get("reftype") == "obj":
            link["refspecific"] = True  # found by its last parts, wherever it is documented
    for code in list(doctree.findall(nodes.literal)):
        found = NAME.fullmatch(code.astext())
        inside = isinstance(code.parent, nodes.reference | addnodes.pending_xref | nodes.title)
        if found is None or inside:
            continue
        first = found[1].split(".")[0]
        if first not in PUBLIC and not first[0].isupper():
            continue
        link = addnodes.pending_xref(
            "", refdomain="py", reftype="obj", reftarget=found[1], refspecific=True, refwarn=False
        )
        code.replace_self(link)
        link += code


def give_sources_a_section(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Let "Source: ..." end the section before it, which it would count as a parameter of."""
    for place in reversed(range(len(lines))):
        if found := re.match(r"Sources?: ", lines[place]):
            rest = lines[place].removeprefix(found[0])
            lines[place : place + 1] = ["References", "----------", rest]


#: First lines of attributes by name, from before napoleon takes "rows: those that train" apart.
_whole: dict[str, str] = {}


def keep_first_line(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Keep what stands before a colon, which napoleon would take for a type."""
    if what in ("attribute", "data", "property") and lines and ":" in lines[0]:
        _whole[name] = lines[0]


def put_first_line_back(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Undo what napoleon did to it."""
    if name in _whole:
        lines[:] = [_whole.pop(name), *(line for line in lines[1:] if line[:6] != ":type:")]


def setup(app: Any) -> None:
    app.connect("doctree-read", link_names)
    app.connect("autodoc-process-docstring", give_sources_a_section, priority=100)
    app.connect("autodoc-process-docstring", keep_first_line, priority=100)
    app.connect("autodoc-process-docstring", put_first_line_back, priority=900)
