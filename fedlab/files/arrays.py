"""Files of named arrays: a header, the arrays, and digests over every byte.

Layout, little-endian::

    8 bytes  magic        of the kind: an index, a checkpoint
    4        version      of this layout
    4        header size  at most 1 MiB
    8        body size
    ...      header       JSON: parameters, and name, type, shape of each array
    32       digest       SHA-256 of all that stands before it
    ...      body         the arrays, one after another
    32       digest       SHA-256 of the first digest and of those of all pieces of the arrays: of
                          each array its pieces of 1 MiB, the last one shorter

Versions 1 and 2 are still read. In both, text is as wide as its longest value in every row (since
3 an index keeps each text once, see `fedlab.index.texts`); in version 1, no digest stands behind
the header, and at the end BLAKE2b over all that stands before it.

Nothing is interpreted before its digest is right, and the sizes add up to the file's own. The
digests tell accidents (a torn write, a flipped bit, another kind of file). They are no protection
against somebody who edits the file on purpose and writes new ones: only a key is, with which all of
this is sealed (see `fedlab.files.sealing`); of what a seal vouches for the second digest is not
looked at. Who gives a key is never handed a file without a seal.
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
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlab.core.threads import share, usable_threads
from fedlab.core.validation import read_only, whole_number
from fedlab.files.atomic import replacing
from fedlab.files.blocks import BLOCK, ChosenRows, FileArray, OpenFile
from fedlab.files.keys import Sealer
from fedlab.files.sealing import SealError, Unsealed, is_sealed, sealed

Arrays = Mapping[str, NDArray[np.generic] | FileArray | ChosenRows]

_VERSION = 3
_PRELUDE = struct.Struct("<8sIIQ")
_LARGEST_HEADER = 1 << 20
_DIGEST = 32
_PIECE = BLOCK
#: Bytes are read by one thread at a time; so many are enough to take digests meanwhile.
_THREADS = 4
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
        """Write a file, whole or not at all; sealed, if there is what to seal it with.

        Raises
        ------
        TypeError
            If an array is of a type that `read` refuses.
        """
        head = self._head(parameters, arrays)
        with (
            replacing(path, mode=0o600) as file,
            sealed(file, sealer) if sealer else nullcontext(file) as out,
        ):
            _write(out, head, arrays)

    def to_bytes(self, parameters: Mapping[str, Any], arrays: Arrays) -> bytes:
        """Return what `write` writes, for a message."""
        out, head = BytesIO(), self._head(parameters, arrays)
        _write(out, head, arrays)
        return out.getvalue()

    def from_bytes(self, data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what `read` would of a file with this content; arrays are as large as it is."""
        try:
            return self._read(BytesIO(data), len(data), f"a {self.noun}", (), None)
        except EOFError as error:
            raise self.error(f"a {self.noun} is torn") from error

    def _head(self, parameters: Mapping[str, Any], arrays: Arrays) -> bytes:
        for name, array in arrays.items():
            if not _KIND.fullmatch(array.dtype.str):
                raise TypeError(f"{name!r} is of type {array.dtype.str}, which no such file holds")
        described = [
            {"name": name, "type": array.dtype.str, "shape": array.shape}
            for name, array in arrays.items()
        ]
        header = json.dumps({"parameters": parameters, "arrays": described}).encode()
        size = sum(array.nbytes for array in arrays.values())
        return _PRELUDE.pack(self.magic, _VERSION, len(header), size) + header

    def read(
        self,
        path: str | os.PathLike[str],
        sealer: Sealer | None = None,
        left: Collection[str] = (),
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a file: its parameters, and its arrays, each in memory of its own, read-only.

        Parameters
        ----------
        path : path-like
        sealer : Key or Passphrase, optional
        left : names
            Of arrays that stay in the file: each comes as a `FileArray`. They are checked, too.

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
        if sealer is None and is_sealed(path):
            raise self.error(f"{name} is sealed; give the key that it was sealed under")
        try:
            with open(path, "rb") as file:
                known = OpenFile(file, path, self.error) if left else None
                if sealer is None:
                    size = os.fstat(file.fileno()).st_size
                    return self._read(file, size, name, left, known)
                source = Unsealed(file, sealer, name, again=bool(left))
                found = self._read(source, source.size, name, left, known)
                source.finish()
                return found
        except SealError as error:
            raise self.error(str(error)) from error
        except EOFError as error:
            raise self.error(f"{name} is torn: it ended while it was read") from error

    def _read(
        self, source: _Source, size: int, name: str, left: Collection[str], known: OpenFile | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        hashed = not isinstance(source, Unsealed)
        prelude = _bytes_from(source, min(_PRELUDE.size, size))
        version, header_size, body_size = self._check_sizes(prelude, size, name)
        head = prelude + _bytes_from(source, header_size)
        first = hashlib.sha256(head).digest()
        if version > 1:
            self._check(_bytes_from(source, _DIGEST), first, name)
        else:
            body = _bytes_from(source, body_size)
            whole = hashlib.blake2b(head, digest_size=_DIGEST)
            whole.update(body)
            self._check(_bytes_from(source, _DIGEST), whole.digest(), name)
            source = BytesIO(body)
        if not 1 <= version <= _VERSION:
            raise self.error(
                f"{name} has version {version}; this library reads versions 1 ... {_VERSION}: open "
                "it with the version that wrote it"
            )
        try:
            header = json.loads(head[_PRELUDE.size :])
            parameters = dict(header["parameters"])
            arrays = _empty(header["arrays"], body_size, left)
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise self.error(
                f"{name} has a header that describes no {self.noun} ({error}); build it anew"
            ) from error
        if left and version == 1:
            raise self.error(f"{name} has version 1, which is read whole only; save it anew")
        rooms = [room for array in arrays.values() for room in _rooms(array)]
        digests = _filled(source, rooms, hashed and version > 1)
        if version > 1:
            wanted, found = _bytes_from(source, _DIGEST), first + b"".join(digests)
            self._check(wanted, hashlib.sha256(found).digest() if hashed else wanted, name)
        start, place = len(head) + _DIGEST, 0
        for what, array in arrays.items():
            stop = place + -(-array.nbytes // _PIECE)
            if isinstance(array, FileArray) and known:
                array.left_in(known, start, digests[place:stop] if hashed else source)
            else:
                native = array.astype(array.dtype.newbyteorder("="), copy=False)
                arrays[what] = read_only(native)
            start, place = start + array.nbytes, stop
        return parameters, arrays

    def _check(self, said: bytes, found: bytes, name: str) -> None:
        if not hmac.compare_digest(said, found):
            raise self.error(
                f"{name} is altered: its digest does not fit its content; restore it from a copy, "
                "or build it anew"
            )

    def _check_sizes(self, prelude: bytes, size: int, name: str) -> tuple[int, int, int]:
        """Return version, header size and body size, if they add up to the size of the file."""
        if prelude[:8] != self.magic:
            raise self.error(
                f"{name} is no {self.noun} of this library (it begins with {prelude[:8]!r}, "
                f"not {self.magic!r})"
            )
        if size < _PRELUDE.size + _DIGEST:
            raise self.error(f"{name} is torn: it ends after {size} bytes")
        _, version, header_size, body_size = _PRELUDE.unpack(prelude)
        digests = 2 * _DIGEST if version > 1 else _DIGEST
        expected = _PRELUDE.size + header_size + body_size + digests
        if header_size > _LARGEST_HEADER or expected != size:
            raise self.error(
                f"{name} is torn or altered: its header announces {expected} bytes, it has {size}; "
                "restore it from a copy, or build it anew"
            )
        return version, header_size, body_size


def _write(out: Any, head: bytes, arrays: Arrays) -> None:
    first = hashlib.sha256(head).digest()
    digests = hashlib.sha256(first)
    out.write(head + first)
    for piece in (piece for array in arrays.values() for piece in pieces(array)):
        digests.update(hashlib.sha256(piece).digest())
        out.write(piece)
    out.write(digests.digest())


class _Source(Protocol):
    """Bytes, one after another."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


def _read_into(source: _Source, view: memoryview) -> None:
    while len(view):
        if not (count := source.readinto(view)):
            raise EOFError
        view = view[count:]


def _bytes_from(source: _Source, count: int) -> bytes:
    content = bytearray(count)
    _read_into(source, memoryview(content))
    return bytes(content)


def pieces(array: NDArray[np.generic] | FileArray | ChosenRows) -> Iterator[memoryview]:
    """Yield an array's bytes, 1 MiB at a time."""
    if isinstance(array, FileArray | ChosenRows):
        return array.pieces()
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return (content[start : start + _PIECE] for start in range(0, len(content), _PIECE))


def _rooms(array: NDArray[np.generic] | FileArray) -> Iterator[memoryview | int]:
    """Return where an array's pieces are to be read to; of one that is left, how long they are."""
    if isinstance(array, FileArray):
        size = array.nbytes
        return (min(_PIECE, size - start) for start in range(0, size, _PIECE))
    return pieces(array)


def _filled(source: _Source, rooms: list[memoryview | int], hashed: bool) -> list[bytes]:
    """Fill pieces from a source, and return the digest of each, if asked for."""
    digests = [b""] * len(rooms)
    waiting, turn = iter(enumerate(rooms)), Lock()

    def fill(_: memoryview | int) -> None:
        with turn:
            place, room = next(waiting)
            piece = memoryview(bytearray(room)) if isinstance(room, int) else room
            _read_into(source, piece)
        if hashed:
            digests[place] = hashlib.sha256(piece).digest()

    share(rooms, fill, min(usable_threads(), _THREADS) if hashed else 1)
    return digests


def _empty(described: list[dict[str, Any]], size: int, left: Collection[str]) -> dict[str, Any]:
    """Return arrays to be filled, as a header describes them, of `size` bytes together."""
    kinds: dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]] = {}
    for entry in described:
        name, kind = str(entry["name"]), str(entry["type"])
        if not _KIND.fullmatch(kind):
            raise ValueError(f"an array of type {kind!r}, which no such file has")
        if name in kinds:
            raise ValueError(f"two arrays named {name!r}")
        shape = tuple(whole_number(side, "a side", 0) for side in entry["shape"])
        kinds[name] = np.dtype(kind), shape
    total = sum(math.prod(shape) * dtype.itemsize for dtype, shape in kinds.values())
    if total != size:
        raise ValueError(f"arrays of {total} bytes, where there are {size}")
    return {
        name: FileArray(dtype, shape) if name in left else np.empty(shape, dtype)
        for name, (dtype, shape) in kinds.items()
    }
