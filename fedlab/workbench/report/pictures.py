"""Pictures that a notebook's text names, put into its page: a page makes no request.

A picture that isn't here costs itself, and says so in its place.
"""

from __future__ import annotations

import base64
import mimetypes
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from markupsafe import escape

from fedlab.workbench.batch.notebooks import ROOT

SVG = "image/svg+xml"
#: Kinds, the best first.
PICTURES = (SVG, "image/png", "image/jpeg")
# An address on the web: a link is made of it.
_ELSEWHERE = re.compile(r"(https?:)?//", re.I)
_LOST = '<span class="lost">A picture is missing: {}</span>'
_IMG = re.compile(r"""<img\b(?:"[^"]*"|'[^']*'|[^'">])*>""", re.I)
# What may stand as it is in a data URL inside a double-quoted attribute.
_URL_SAFE = " !$'()*+,-./:;=?@_~"


@dataclass(frozen=True)
class Pictures:
    """Those that a cell can name: attached to it, or beside its notebook.

    Parameters
    ----------
    folder : Path
        Of the notebook's source. What lies outside of it, and of the clone, is not taken.
    attachments : mapping
        Names to contents by kind, as a cell carries them.
    """

    folder: Path
    attachments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def find(self, address: str) -> str | None:
        """Return a picture's data URL; None if there is none at `address`.

        An address may be written with percent signs, as Markdown does it, and so may a file's name.
        """
        if address.startswith("data:"):
            return address
        bare = re.sub(r"[?#].*", "", address)
        for name in dict.fromkeys((address, unquote(address), unquote(bare))):
            attached = self.attachments.get(name.removeprefix("attachment:"))
            if attached and name.startswith("attachment:"):
                kind = next((kind for kind in PICTURES if kind in attached), min(attached))
                return data_url(attached[kind], kind)
            with suppress(OSError, ValueError):  # no file, or a name that no file can have
                return self._read(Path(os.path.abspath(self.folder / name)))
        return None

    def inlined(self, markup: str) -> str:
        """Put the pictures that HTML names into it."""
        return _IMG.sub(self._inlined, markup)

    def _read(self, path: Path) -> str:
        kind = mimetypes.guess_type(path.name)[0] or f"image/{path.suffix[1:]}"
        bases = (ROOT, Path(os.path.abspath(self.folder)))
        if not kind.startswith("image/") or not any(map(path.is_relative_to, bases)):
            raise ValueError(f"{path} is not taken for a picture of this notebook")
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

    def _inlined(self, found: re.Match[str]) -> str:
        from bs4 import BeautifulSoup

        tag = BeautifulSoup(found[0], "html.parser").img
        if tag is None:
            return found[0]
        source, said = (str(tag.get(name) or "") for name in ("src", "alt"))
        if _ELSEWHERE.match(source):
            return f'<a href="{escape(source)}">{escape(said or source)}</a>'
        inside = self.find(source)
        if inside is None:
            return _LOST.format(escape(unquote(said or source)))
        tag["src"] = inside
        return str(tag)


def data_url(content: str, kind: str) -> str:
    """Return the URL that holds a picture: base64, or an SVG's own text."""
    if kind == SVG and "<" in content:
        return f"data:{kind},{quote(_smaller(content), safe=_URL_SAFE)}"
    return f"data:{kind};base64,{''.join(content.split())}"


def _smaller(svg: str) -> str:
    """The same picture without its prologue, its metadata and the space between its elements."""
    svg = re.sub(
        r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.S
    )
    svg = re.sub(r">\s+<", "><", svg.strip())
    svg = re.sub(r"\s*\n\s*", " ", svg)
    return svg if "'" in svg else svg.replace('"', "'")
