"""Sealed files: encrypted and authenticated, so that nothing of them is used before all is checked.

Layout, little-endian::

    8 bytes  magic        b"FEDLABSL"
    4        version      of this layout
    4        header size  at most 4 KiB
    ...      header       JSON: the key's id; for a passphrase, how the key is derived from it
    24       stream       libsodium's secretstream header
    ...      chunks       of 1 MiB, 17 bytes longer each; the last one says that it is the last

The construction is libsodium's secretstream (XChaCha20-Poly1305) through PyNaCl: an edited,
exchanged, repeated or missing chunk does not open, nor does one under another header, which goes
into every chunk's tag. What it does not protect: memory, a running process, the size of the file,
and an older file put in the place of a newer one (see `VectorIndex.open`).
"""

from __future__ import annotations

import hmac
import json
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fedlab.files.atomic import replacing
from fedlab.files.keys import KEY_SIZE, Key, Passphrase, Sealer, require_sealer

MAGIC = b"FEDLABSL"
_VERSION = 1
_PRELUDE = struct.Struct("<8sII")
_LARGEST_HEADER = 4096
_STREAM, _MORE, _CHUNK = 24, 17, 1 << 20
#: Argon2id's passes and bytes, at most: a header must not decide how long opening takes.
_PASSES, _MEMORY = 16, 1 << 30


class SealError(ValueError):
    """A sealed file does not open: altered, torn, or under another key."""


def is_sealed(path: str | os.PathLike[str]) -> bool:
    """Return whether a file says that it is sealed."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


# -- sealing --------------------------------------------------------------------------------------


class _Writer:
    """Cuts what is written into chunks; one is held back, since the last must say so."""

    def __init__(self, file: BinaryIO, key: Key, before: bytes) -> None:
        from nacl import bindings

        self._sodium, self._file = bindings, file
        self._state = bindings.crypto_secretstream_xchacha20poly1305_state()
        head = bindings.crypto_secretstream_xchacha20poly1305_init_push(self._state, key.secret)
        self._held, self._before = bytearray(), before
        file.write(before)
        file.write(head)

    def write(self, part: bytes | bytearray | memoryview) -> None:
        for start in range(0, len(part), _CHUNK):
            self._held += part[start : start + _CHUNK]
            while len(self._held) > _CHUNK:
                self._push(bytes(self._held[:_CHUNK]), last=False)
                del self._held[:_CHUNK]

    def finish(self) -> None:
        self._push(bytes(self._held), last=True)

    def _push(self, chunk: bytes, last: bool) -> None:
        sodium = self._sodium
        final = sodium.crypto_secretstream_xchacha20poly1305_TAG_FINAL
        tag = final if last else sodium.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
        push = sodium.crypto_secretstream_xchacha20poly1305_push
        self._file.write(push(self._state, chunk, self._before, tag))


@contextmanager
def sealed(file: BinaryIO, sealer: Sealer) -> Iterator[_Writer]:
    """Seal what is written in the block into an open file."""
    key, header = _for_writing(sealer)
    content = json.dumps(header).encode()
    writer = _Writer(file, key, _PRELUDE.pack(MAGIC, _VERSION, len(content)) + content)
    yield writer
    writer.finish()


def _for_writing(sealer: Sealer) -> tuple[Key, dict[str, Any]]:
    require_sealer(sealer)
    if isinstance(sealer, Key):
        return sealer, {"key": sealer.id}
    from nacl.pwhash import argon2id

    derived = {
        "salt": os.urandom(argon2id.SALTBYTES).hex(),
        "passes": argon2id.OPSLIMIT_MODERATE,
        "memory": argon2id.MEMLIMIT_MODERATE,
        "form": "NFC",
    }
    key = _derived(sealer.forms[0], derived)
    return key, {"key": key.id, "argon2id": derived}


def _derived(passphrase: bytes, how: dict[str, Any]) -> Key:
    from nacl.pwhash import argon2id

    passes, memory, salt = int(how["passes"]), int(how["memory"]), bytes.fromhex(how["salt"])
    if not 1 <= passes <= _PASSES or not argon2id.MEMLIMIT_MIN <= memory <= _MEMORY:
        raise ValueError(f"{passes} passes over {memory} bytes are asked for")
    return Key(argon2id.kdf(KEY_SIZE, passphrase, salt, opslimit=passes, memlimit=memory))


def reseal(path: str | os.PathLike[str], old: Sealer, new: Sealer) -> None:
    """Seal a file under another key; a kill leaves it under the old one or under the new.

    Raises
    ------
    SealError
        If it does not open with `old`; it is then as it was.
    """
    content = unsealed(path, old)
    with replacing(path, mode=0o600) as file, sealed(file, new) as out:
        out.write(content)


# -- opening --------------------------------------------------------------------------------------


def unsealed(path: str | os.PathLike[str], sealer: Sealer) -> bytearray:
    """Return what a sealed file holds, after all of it was authenticated.

    Raises
    ------
    SealError
        If the file is altered, torn, not sealed, or sealed under another key.
    OSError
        If it can't be read.
    """
    with open(path, "rb") as file:
        return bytearray().join(_chunks(file, *_begun(file, sealer, Path(path).name)))


class Unsealed:
    """What a sealed file holds, to be read from its beginning; each chunk is authenticated first.

    That what was read is whole does not say that all is: `finish` does.

    Parameters
    ----------
    file : binary file
        Open.
    sealer : Key or Passphrase
    name : str
        What errors call the file.
    again : bool
        Whether chunks may be asked for again: then 52 bytes are kept of each.

    Attributes
    ----------
    size : int
        Bytes that it holds, if it is whole.
    """

    def __init__(self, file: BinaryIO, sealer: Sealer, name: str, again: bool = False) -> None:
        self._before, _, self._name = begun = _begun(file, sealer, name)
        stream = os.fstat(file.fileno()).st_size - len(self._before) - _STREAM
        self.size = stream - _MORE * -(-stream // (_CHUNK + _MORE))
        self._states: list[bytes] | None = [] if again else None
        self._chunks = _chunks(file, *begun, self._states)
        self._at_hand = memoryview(b"")

    def readinto(self, buffer: memoryview) -> int:
        """Read what there is of a chunk, or as much as there is room for; nothing at the end."""
        if not len(self._at_hand):
            self._at_hand = memoryview(next(self._chunks, b""))
        count = min(len(buffer), len(self._at_hand))
        buffer[:count], self._at_hand = self._at_hand[:count], self._at_hand[count:]
        return count

    def finish(self) -> None:
        """Raise SealError unless all was read, and the file ends there."""
        if len(self._at_hand) or any(map(len, self._chunks)):
            raise SealError("a sealed file holds more than it says")

    def again(self, number: int, read: Callable[[int, int], bytes]) -> bytes:
        """Return a chunk that was read before, by itself: `read` takes a place and a size.

        A chunk opens in the state that the stream had before it, and in no other.
        """
        from nacl import bindings as sodium

        assert self._states is not None, "no state was kept"
        state = sodium.crypto_secretstream_xchacha20poly1305_state()
        unused = bytes(_STREAM), bytes(KEY_SIZE)  # both are part of the state that follows
        sodium.crypto_secretstream_xchacha20poly1305_init_pull(state, *unused)
        state.statebuf[0 : len(state.statebuf)] = self._states[number]  # type: ignore[index]
        size = _CHUNK + _MORE
        chunk = read(len(self._before) + _STREAM + number * size, size)
        return _opened(state, chunk, self._before, self._name)[0]


def unsealed_chunks(path: str | os.PathLike[str], sealer: Sealer) -> Iterator[bytes]:
    """Yield a sealed file's chunks one after another, each as soon as it is authenticated.

    For an audit, which wants to see what a torn file still gives away. Whoever uses what a file
    says needs `unsealed`: that this part is whole does not say that all of it is.

    Raises
    ------
    SealError, OSError
        As `unsealed`, after those chunks that open.
    """
    with open(path, "rb") as file:
        yield from _chunks(file, *_begun(file, sealer, Path(path).name))


def _begun(file: BinaryIO, sealer: Sealer, name: str) -> tuple[bytes, Key, str]:
    """Read what stands before the stream, and find the key; return both, and the file's name."""
    require_sealer(sealer)
    size = os.fstat(file.fileno()).st_size
    try:
        before, header = _header(file, size, name)
        return before, _for_reading(sealer, header, name), name
    except SealError:
        raise
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise SealError(f"{name} has a header that describes no seal ({error})") from error


def _header(file: BinaryIO, size: int, name: str) -> tuple[bytes, dict[str, Any]]:
    """Return what stands before the stream, and its header, which nothing vouches for yet."""
    prelude = file.read(_PRELUDE.size)
    if prelude[: len(MAGIC)] != MAGIC:
        raise SealError(f"{name} is not sealed; with a key only sealed files are opened")
    if size < _PRELUDE.size + _STREAM + _MORE:
        raise SealError(f"{name} is torn: it ends after {size} bytes")
    _, version, header_size = _PRELUDE.unpack(prelude)
    if version != _VERSION:
        raise SealError(
            f"{name} has version {version} of a seal; this library opens {_VERSION}: open it with "
            "the version that wrote it, unless it is altered"
        )
    if header_size > _LARGEST_HEADER or _PRELUDE.size + header_size + _STREAM + _MORE > size:
        raise SealError(f"{name} is torn or altered: its header would take {header_size} bytes")
    header = file.read(header_size)
    return prelude + header, dict(json.loads(header))


def _for_reading(sealer: Sealer, header: dict[str, Any], name: str) -> Key:
    typed = "argon2id" in header
    if typed != isinstance(sealer, Passphrase):
        needed = "a passphrase" if typed else "a key"
        raise SealError(f"{name} is sealed under {needed}; that is what is needed")
    keys = [sealer] if isinstance(sealer, Key) else _ways(sealer, dict(header["argon2id"]))
    for key in keys:
        if hmac.compare_digest(str(header["key"]).encode(), key.id.encode()):
            return key
    what = "another passphrase" if typed else f"the key {header['key']}, not {key.id}"
    raise SealError(f"{name} is sealed under {what}, or its header is altered")


def _ways(passphrase: Passphrase, how: dict[str, Any]) -> Iterator[Key]:
    """Yield the keys that a passphrase may have meant: files were once sealed as it was typed."""
    forms = passphrase.forms[:1] if how.get("form") == "NFC" else passphrase.forms
    return (_derived(form, how) for form in forms)


def _opened(state: Any, chunk: bytes, before: bytes, name: str) -> tuple[bytes, int]:
    from nacl import bindings as sodium

    try:
        return sodium.crypto_secretstream_xchacha20poly1305_pull(state, chunk, before)
    except Exception as error:  # PyNaCl's own kinds, which differ from version to version
        raise SealError(
            f"{name} is altered or torn: a chunk does not open; restore it from a copy"
        ) from error


def _chunks(
    file: BinaryIO, before: bytes, key: Key, name: str, states: list[bytes] | None = None
) -> Iterator[bytes]:
    """Yield a stream's chunks as they open; raise SealError at the first one that doesn't.

    What the stream's state was before each chunk goes to `states`.
    """
    from nacl import bindings as sodium

    state = sodium.crypto_secretstream_xchacha20poly1305_state()
    head = file.read(_STREAM)
    sodium.crypto_secretstream_xchacha20poly1305_init_pull(state, head, key.secret)
    last, chunk = False, file.read(_CHUNK + _MORE)
    while chunk:
        if last:
            raise SealError(f"{name} is altered: something stands behind its end")
        if states is not None:
            states.append(bytes(state.statebuf))
        part, tag = _opened(state, chunk, before, name)
        last = tag == sodium.crypto_secretstream_xchacha20poly1305_TAG_FINAL
        yield part
        chunk = file.read(_CHUNK + _MORE)
    if not last:
        raise SealError(f"{name} is torn: its last chunks are missing; restore it from a copy")
