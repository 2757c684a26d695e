"""Files of named arrays: a header, the arrays, and a digest over every byte.

Layout, little-endian::

    8 bytes  magic        of the kind: an index, a checkpoint
    4        version      of this layout
    4        header size  at most 1 MiB
    8        body size
    ...      header       JSON: parameters, and name, type, shape of each array
    ...      body         the arrays, one after another
    32       digest       BLAKE2b over all that stands before it

Nothing is interpreted before the sizes add up to the file's own and the digest is right. The digest
tells accidents (a torn write, a flipped bit, another kind of file). It is no protection against
somebody who edits the file on purpose and writes a new digest: only a key is, with which all of
this is sealed (see `fedlab.files.sealing`). Who gives a key is never handed a file without a seal.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import re
import stat
import struct
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.validation import whole_number
from fedlab.files.atomic import replacing
from fedlab.files.keys import Sealer
from fedlab.files.sealing import SealError, is_sealed, sealed, unsealed

Arrays = Mapping[str, NDArray[np.generic]]

_VERSION = 1
_PRELUDE = struct.Struct("<8sIIQ")
_LARGEST_HEADER = 1 << 20
_DIGEST = 32
# Text of the other byte order: fedlab once wrote it as it was given.
_KIND = re.compile(r"[<|][fiuU][1-9]\d{0,8}|\|b1|<M8\[us\]|>U[1-9]\d{0,8}", re.ASCII)


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Parameters
    ----------
    magic : bytes
        Its first eight.
    noun : str
        What a file of it is: "index".
    error : type
        Raised for a file that is not whole and unaltered.
    """

    magic: bytes
    noun: str
    error: type[ValueError]

    def write(
        self,
        path: str | os.PathLike[str],
        parameters: Mapping[str, Any],
        arrays: Arrays,
        sealer: Sealer | None = None,
    ) -> None:
        """Write a file, whole or not at all; sealed, if there is what to seal it with."""
        described = [
            {"name": name, "type": array.dtype.str, "shape": array.shape}
            for name, array in arrays.items()
        ]
        header = json.dumps({"parameters": parameters, "arrays": described}).encode()
        size = sum(array.nbytes for array in arrays.values())
        digest = hashlib.blake2b(digest_size=_DIGEST)
        prelude = _PRELUDE.pack(self.magic, _VERSION, len(header), size)
        parts: list[bytes | memoryview] = [prelude, header, *map(_bytes_of, arrays.values())]
        with (
            replacing(path, mode=0o600) as file,
            sealed(file, sealer) if sealer else nullcontext(file) as out,
        ):
            for part in parts:
                digest.update(part)
                out.write(part)
            out.write(digest.digest())

    def read(
        self, path: str | os.PathLike[str], sealer: Sealer | None = None
    ) -> tuple[dict[str, Any], dict[str, NDArray[np.generic]]]:
        """Read a file: its parameters, and its arrays as read-only views of one buffer.

        Raises
        ------
        error
            If the file is torn, altered, of another kind or of a later version.
        OSError
            If it can't be read.
        """
        name = Path(path).name
        # Looked at before it is opened: opening a pipe would wait for a writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise self.error(f"{name} is no regular file; give the path of a saved {self.noun}")
        content = self._content(path, sealer, name)
        version, header_size = self._check_sizes(content[: _PRELUDE.size], len(content), name)
        body = memoryview(content)[:-_DIGEST]
        digest = hashlib.blake2b(body, digest_size=_DIGEST).digest()
        if not hmac.compare_digest(digest, content[-_DIGEST:]):
            raise self.error(
                f"{name} is altered: its digest does not fit its content; restore it from a copy, "
                "or build it anew"
            )
        if version != _VERSION:
            raise self.error(
                f"{name} has version {version}; this library reads version {_VERSION}: open it "
                "with the version that wrote it"
            )
        start = _PRELUDE.size + header_size
        try:
            header = json.loads(bytes(body[_PRELUDE.size : start]))
            return dict(header["parameters"]), _arrays(header["arrays"], body[start:])
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise self.error(
                f"{name} has a header that describes no {self.noun} ({error}); build it anew"
            ) from error

    def _content(
        self, path: str | os.PathLike[str], sealer: Sealer | None, name: str
    ) -> bytes | bytearray:
        if sealer is not None:
            try:
                return unsealed(path, sealer)
            except SealError as error:
                raise self.error(str(error)) from error
        if is_sealed(path):
            raise self.error(f"{name} is sealed; give the key that it was sealed under")
        with open(path, "rb") as file:
            # Before it is read: a file's size may be anything.
            self._check_sizes(file.read(_PRELUDE.size), os.fstat(file.fileno()).st_size, name)
            file.seek(0)
            return file.read()

    def _check_sizes(self, prelude: bytes | bytearray, size: int, name: str) -> tuple[int, int]:
        """Return version and header size, if the sizes add up to that of the file."""
        if prelude[:8] != self.magic:
            raise self.error(
                f"{name} is no {self.noun} of this library (it begins with {prelude[:8]!r}, "
                f"not {self.magic!r})"
            )
        if size < _PRELUDE.size + _DIGEST:
            raise self.error(f"{name} is torn: it ends after {size} bytes")
        _, version, header_size, body_size = _PRELUDE.unpack(prelude)
        expected = _PRELUDE.size + header_size + body_size + _DIGEST
        if header_size > _LARGEST_HEADER or expected != size:
            raise self.error(
                f"{name} is torn or altered: its header announces {expected} bytes, it has {size}; "
                "restore it from a copy, or build it anew"
            )
        return version, header_size


def _bytes_of(array: NDArray[np.generic]) -> memoryview:
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _arrays(described: list[dict[str, Any]], body: memoryview) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {}
    start = 0
    for entry in described:
        name, kind = str(entry["name"]), str(entry["type"])
        if not _KIND.fullmatch(kind):
            raise ValueError(f"an array of type {kind!r}, which no such file has")
        dtype = np.dtype(kind)
        shape = tuple(whole_number(side, "a side", 0) for side in entry["shape"])
        stop = start + math.prod(shape) * dtype.itemsize
        if stop > len(body):
            raise ValueError(f"the array {name!r} reaches beyond the file")
        if name in arrays:
            raise ValueError(f"two arrays named {name!r}")
        array = np.frombuffer(body[start:stop], dtype).reshape(shape)
        arrays[name] = array.astype(dtype.newbyteorder("="), copy=False)
        start = stop
    if start != len(body):
        raise ValueError(f"{len(body) - start} bytes belong to no array")
    return arrays
