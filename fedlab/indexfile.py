"""The file of an index: a header, named arrays, and a digest over every byte.

Layout, little-endian::

    8 bytes  magic        b"FEDLABVX"
    4        version      of this layout
    4        header size  at most 1 MiB
    8        body size
    ...      header       JSON: the index's parameters, and name, type, shape of each array
    ...      body         the arrays, one after another
    32       digest       BLAKE2b over all that stands before it

Nothing is interpreted before the sizes add up to the file's own and the digest is right. The digest
tells accidents (a torn write, a flipped bit, another kind of file). It is no protection against
somebody who edits the file on purpose and writes a new digest: only a key can be.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.files import replacing

__all__ = ["IndexFileError", "read", "write"]

Arrays = Mapping[str, NDArray[np.generic]]

_MAGIC = b"FEDLABVX"
_VERSION = 1
_PRELUDE = struct.Struct("<8sIIQ")
_LARGEST_HEADER = 1 << 20
_DIGEST = 32


class IndexFileError(ValueError):
    """A file is not a whole, unaltered index."""


def write(path: str | os.PathLike[str], parameters: Mapping[str, Any], arrays: Arrays) -> None:
    """Write an index file, whole or not at all."""
    described = [
        {"name": name, "type": array.dtype.str, "shape": array.shape}
        for name, array in arrays.items()
    ]
    header = json.dumps({"parameters": parameters, "arrays": described}).encode()
    size = sum(array.nbytes for array in arrays.values())
    digest = hashlib.blake2b(digest_size=_DIGEST)
    with replacing(path, mode=0o600) as file:
        prelude = _PRELUDE.pack(_MAGIC, _VERSION, len(header), size)
        for part in (prelude, header, *map(_bytes_of, arrays.values())):
            digest.update(part)
            file.write(part)
        file.write(digest.digest())


def _bytes_of(array: NDArray[np.generic]) -> memoryview:
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, NDArray[np.generic]]]:
    """Read an index file: its parameters, and its arrays as read-only views of one buffer.

    Raises
    ------
    IndexFileError
        If the file is torn, altered, of another kind or of a later version.
    OSError
        If it can't be read.
    """
    name = Path(path).name
    # Looked at before it is opened: opening a pipe would wait for a writer.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise IndexFileError(f"{name} is no regular file; give the path of a saved index")
    content = Path(path).read_bytes()
    if content[:8] != _MAGIC:
        raise IndexFileError(
            f"{name} is not an index of this library (it begins with {content[:8]!r}, not {_MAGIC!r})"
        )
    if len(content) < _PRELUDE.size + _DIGEST:
        raise IndexFileError(f"{name} is torn: it ends after {len(content)} bytes")
    _, version, header_size, body_size = _PRELUDE.unpack_from(content)
    expected = _PRELUDE.size + header_size + body_size + _DIGEST
    if header_size > _LARGEST_HEADER or expected != len(content):
        raise IndexFileError(
            f"{name} is torn or altered: its header announces {expected} bytes, it has {len(content)}; "
            "restore it from a copy, or build it anew"
        )
    body = memoryview(content)[:-_DIGEST]
    if not hmac.compare_digest(
        hashlib.blake2b(body, digest_size=_DIGEST).digest(), content[-_DIGEST:]
    ):
        raise IndexFileError(
            f"{name} is altered: its digest does not fit its content; restore it from a copy, or build "
            "it anew"
        )
    if version != _VERSION:
        raise IndexFileError(
            f"{name} has version {version}; this library reads version {_VERSION}: open it with the "
            "version that wrote it"
        )
    start = _PRELUDE.size + header_size
    header = json.loads(content[_PRELUDE.size : start])
    return header["parameters"], _arrays(header["arrays"], body[start:], name)


def _arrays(
    described: list[dict[str, Any]], body: memoryview, file: str
) -> dict[str, NDArray[np.generic]]:
    arrays = {}
    start = 0
    for entry in described:
        dtype = np.dtype(entry["type"])
        if dtype.kind not in "fiuU":
            raise IndexFileError(f"{file} holds an array of type {dtype}, which an index never has")
        shape = tuple(int(side) for side in entry["shape"])
        stop = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
        if min(shape, default=0) < 0 or stop > len(body):
            raise IndexFileError(f"{file}: the array {entry['name']!r} does not fit into the file")
        arrays[entry["name"]] = np.frombuffer(body[start:stop], dtype).reshape(shape)
        start = stop
    return arrays
