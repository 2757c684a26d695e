"""Takes this machine's paths out of what is handed on: the clone, the environment, the home."""

from __future__ import annotations

import html
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from urllib.parse import quote

#: The clone that this package was imported from.
ROOT = Path(__file__).resolve().parents[2]
_END = r"(?![\w.-])"
# In words, not in HTML: two folders deep, and no address on the web.
_QUOTED = re.compile(r"""(?<=(['"]))(?:~|temporary)?(?:/[^/'",\n]+){2,}/?(?=\1)""")
_BARE = re.compile(r"""(?<![\w.:/~<-])(?:~|temporary)?(?:/[^\s/'"<>:|,;()]+){2,}/?""")


def scrub(text: str) -> str:
    """Replace folders of this machine in `text` by short names.

    A path in the clone, or in the working directory, becomes relative to it; the environment,
    Python's library, the home and the folder for temporary files become `environment`, `python`,
    `~` and `temporary`. Works on plain text, HTML and URLs.

    Examples
    --------
    >>> scrub(f"File {ROOT}/fedlab/index/vectorindex.py, line 3")
    'File fedlab/index/vectorindex.py, line 3'
    """
    for pattern, name in _patterns(_here()):
        text = pattern.sub(name, text)
    return text


def without_paths(text: str) -> str:
    """Do as `scrub` does, and leave only the last name of a path elsewhere; for plain text.

    Examples
    --------
    >>> without_paths("no such file: '/mnt/ward 3/patients.csv' (see https://a.org/b/c)")
    "no such file: 'patients.csv' (see https://a.org/b/c)"
    """
    text = scrub(text)
    for pattern in (_QUOTED, _BARE):
        text = pattern.sub(lambda found: found[0].rstrip("/").rpartition("/")[2], text)
    return text


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:  # somebody has removed it
        return Path()


@cache
def _patterns(here: Path) -> list[tuple[re.Pattern[str], str]]:
    home = Path.home()
    folders = {
        Path(sys.prefix): "environment",
        Path(sysconfig.get_path("stdlib")): "python",
        Path(sys.base_prefix) / "lib": "python",
        ROOT: ".",
        Path(tempfile.gettempdir()): "temporary",
        home: "~",
    }
    if not any(map(here.is_relative_to, folders)):
        folders[here] = "."
    # Longest first: an environment lies in the clone, and the clone in the home.
    ordered = sorted(folders.items(), key=lambda item: -len(str(item[0])))
    found = []
    for folder, name in ordered:
        # A folder as short as `/` would match everything, and says nothing of this machine.
        written = [form for form in _forms(folder, home) if len(form) > 2]
        alternatives = "|".join(map(re.escape, sorted(written, key=len, reverse=True)))
        if name == "." and written:
            found.append((re.compile(rf"(?:{alternatives})/(?=[\w.])"), ""))
        if written:
            found.append((re.compile(rf"(?:{alternatives}){_END}"), name))
    found.append((re.compile(r"temporary/ipykernel_\d+/\d+\.py"), "cell"))
    return found


def _forms(folder: Path, home: Path) -> set[str]:
    """Each way a folder may be written: as it is, resolved, from `~`, in HTML, in a URL."""
    paths: Iterable[Path] = {folder, folder.resolve()}
    plain = {str(path) for path in paths}
    # IPython shortens the home by itself.
    plain |= {f"~/{p.relative_to(home)}" for p in paths if p != home and p.is_relative_to(home)}
    return {form for text in plain for form in (text, html.escape(text), quote(text, safe="/~"))}
