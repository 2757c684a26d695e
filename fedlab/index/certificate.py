"""A certificate: which rows were erased, when, from what, and what an audit found afterwards."""

from __future__ import annotations

import gc
import hashlib
import hmac
import json
import os
import platform
import weakref
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlab._version import __version__
from fedlab.core.typing import U64
from fedlab.files.arrays import pieces
from fedlab.files.atomic import write_bytes
from fedlab.files.keys import Key
from fedlab.index.engines import ENGINES, settings_of
from fedlab.index.engines.hnsw import library_version
from fedlab.index.texts import TextColumn, flat

#: A `VectorIndex`, whose module imports this one.
_Index = Any


class _Audit(Protocol):
    """What a certificate wants of an audit (`fedlab.erasure.Audit`)."""

    @property
    def keys(self) -> Collection[int]: ...

    def as_dict(self) -> dict[str, Any]: ...


class CertificateError(ValueError):
    """A certificate was edited, was signed under another key, or isn't one."""


@dataclass(frozen=True)
class Certificate:
    """What was erased, and what is known of it. No byte of a row is in it.

    Attributes
    ----------
    keys : tuple of int
        Of the erased rows.
    erased : str
        When, in UTC.
    generation : int
        The index's generation when they were erased: files up to it may hold the rows.
    rows_before, rows_after : int
    hash_before, hash_after : str
        BLAKE2b of the index's content (see `content_hash`), under the key if there was one. Without
        a key, `hash_before` lets somebody who has the kept rows test a guess at the erased ones.
    still_held : tuple of str
        Who still holds the columns' old memory, and which: other devices and indexes by name (views
        of one store, as `spread` makes them, or devices that share an index), the `Population`
        whose store on disk they read, "something else" for an array that `vectors` or `labels`
        gave. Rows that stand are never written over, so that their bytes stay until it lets them
        go; `fedlab.erasure.erase_across` makes devices do so.
    versions : mapping of str to str
        Python and libraries.
    audit : mapping, optional
        What `Audit.as_dict` says.
    tag : str, optional
        By which the owner of the key sees that nothing was edited (BLAKE2b under the key).

    Examples
    --------
    >>> from fedlab.index.vectorindex import VectorIndex
    >>> index, key = VectorIndex(8), Key.generate()
    >>> _ = index.add(np.random.default_rng(0).normal(size=(10, 8)))
    >>> certificate = index.erase([3], key)
    >>> certificate.keys, certificate.rows_after, certificate.still_held
    ((3,), 9, ())
    >>> certificate.verify(key)
    >>> replace(certificate, keys=(4,)).verify(key)
    Traceback (most recent call last):
    fedlab.index.certificate.CertificateError: the certificate was edited, or signed under ...
    """

    keys: tuple[int, ...]
    erased: str
    generation: int
    rows_before: int
    rows_after: int
    hash_before: str
    hash_after: str
    still_held: tuple[str, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    audit: Mapping[str, Any] | None = None
    tag: str | None = None

    def with_audit(self, audit: _Audit, key: Key | None = None) -> Certificate:
        """Return the certificate with an audit's result, signed anew if it was signed.

        Raises
        ------
        CertificateError
            If it was signed, and not under this key.
        ValueError
            If the audit looked for other rows.
        """
        if set(audit.keys) != set(self.keys):
            raise ValueError("the audit looked for other rows than those of the certificate")
        if self.tag is not None:
            if key is None:
                raise CertificateError("the certificate is signed; give the key to sign it anew")
            self.verify(key)
        told = replace(self, audit=audit.as_dict(), tag=None)
        return told if key is None else told.signed(key)

    def signed(self, key: Key) -> Certificate:
        """Return the certificate with a tag under a key."""
        return replace(self, tag=self._tag(key))

    def verify(self, key: Key) -> None:
        """Raise CertificateError unless it is as it was signed under this key."""
        if self.tag is None:
            raise CertificateError("the certificate has no tag: it was never signed")
        if not hmac.compare_digest(self.tag.encode(), self._tag(key).encode()):
            raise CertificateError("the certificate was edited, or signed under another key")

    def _tag(self, key: Key) -> str:
        said = json.dumps(asdict(replace(self, tag=None)), sort_keys=True)
        secret = _derived(key, b"fedlab signing")
        return hashlib.blake2b(said.encode(), digest_size=32, key=secret).hexdigest()

    def to_json(self) -> str:
        """Return it as text, one line for each attribute."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, as `read` reads it."""
        write_bytes(path, self.to_json().encode(), mode=0o600)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Certificate:
        """Read a file that `write` wrote. `verify` says whether it is as it was.

        Raises
        ------
        CertificateError
            If it holds no certificate.
        """
        with open(path, "rb") as file:
            content = file.read()
        try:
            said = dict(json.loads(content))
            if set(said) != {one.name for one in fields(cls)}:
                raise ValueError(f"it has {', '.join(sorted(said))}")
            keys = tuple(int(key) for key in said.pop("keys"))
            held = tuple(str(name) for name in said.pop("still_held"))
            return cls(keys=keys, still_held=held, **said)
        except (RecursionError, TypeError, ValueError) as error:
            raise CertificateError(f"{os.fspath(path)} is no certificate ({error})") from error


def content_hash(index: _Index, key: Key | None = None) -> str:
    """Return BLAKE2b of an index's parameters, keys, rows and labels, as hex digits.

    It is the same for an index and for the file it was saved to, opened again, with a graph or
    without. Under a key it tells nothing to who hasn't got that key.
    """
    columns = {n: c for n, c in sorted(index.columns.items()) if n != "squares"}
    described = {name: [column.dtype.str, column.shape] for name, column in columns.items()}
    kind = [index.dimensions, index.metric, index.dtype, _told(index.engine)]
    secret = b"" if key is None else _derived(key, b"fedlab content")
    digest = hashlib.blake2b(digest_size=32, key=secret)
    digest.update(json.dumps([kind, described], sort_keys=True).encode())
    for column in columns.values():
        # Text that has no width goes by its characters.
        parts = (
            [*flat({"": TextColumn.of(column)}).values()] if column.dtype.kind == "T" else [column]
        )
        for part in parts:
            for piece in pieces(part):
                digest.update(piece)
    return digest.hexdigest()


def _told(engine: Any) -> Any:
    # One of somebody's own, which no file could name, is told by its class.
    own = ENGINES.get(engine.name) is not type(engine)
    return f"{type(engine).__module__}.{type(engine).__qualname__}" if own else settings_of(engine)


def _derived(key: Key, purpose: bytes) -> bytes:
    if not isinstance(key, Key):
        raise TypeError(f"key is a {type(key).__name__}; a certificate takes a Key")
    return hashlib.blake2b(key.secret, digest_size=32, person=purpose).digest()


class Holder:
    """What holds rows' memory as long as it lives, and shows it: an index, a device."""

    def buffers(self) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Yield every array that is kept alive, by name."""
        raise NotImplementedError


class OldMemory:
    """The memory of an index's columns, watched without being held."""

    def __init__(self, index: _Index) -> None:
        self._watched = [(name, weakref.ref(owner_of(part))) for name, part in index.memory()]

    def held_by(self, holder: Holder) -> tuple[str, ...]:
        """Return the columns whose memory somebody holds."""
        held = {id(owner_of(array)) for _, array in holder.buffers()}
        return tuple(sorted({name for name, one in self._watched if id(one()) in held}))

    def still_held(self) -> tuple[str, ...]:
        """Return who still holds memory, and of which columns."""
        if any(reference() is not None for _, reference in self._watched):
            gc.collect()  # what is held by a ring of garbage alone is held by nobody
        left = {name for name, one in self._watched if one() is not None}
        if not left:
            return ()
        holders = [one for one in gc.get_objects() if issubclass(type(one), Holder)]
        within = {id(vars(one).get("index")) for one in holders}  # told by their devices
        who = {one: self.held_by(one) for one in holders if id(one) not in within}
        told = [f"{one!r}: {', '.join(names)}" for one, names in who.items() if names]
        if unclaimed := left.difference(*who.values()):
            told.append(f"something else: {', '.join(sorted(unclaimed))}")
        return tuple(sorted(told))


def certify(
    index: _Index, keys: U64, before: tuple[int, str], memory: OldMemory, key: Key | None
) -> Certificate:
    """Return the certificate of an erasure that was just done."""
    certificate = Certificate(
        keys=tuple(keys.tolist()),
        erased=datetime.now(UTC).isoformat(timespec="seconds"),
        generation=index.generation,
        rows_before=before[0],
        rows_after=len(index),
        hash_before=before[1],
        hash_after=content_hash(index, key),
        still_held=memory.still_held(),
        versions={
            "python": platform.python_version(),
            "fedlab": __version__,
            "numpy": np.__version__,
            "usearch": library_version(),
        },
    )
    return certificate if key is None else certificate.signed(key)


def owner_of(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array whose memory this one is a part of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
