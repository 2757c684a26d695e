"""The file of an index."""

from __future__ import annotations

from fedlab.arrayfile import FileKind

__all__ = ["INDEX", "IndexFileError"]


class IndexFileError(ValueError):
    """A file is not a whole, unaltered index."""


INDEX = FileKind(b"FEDLABVX", "index", IndexFileError)
