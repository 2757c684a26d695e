"""Keys: made, kept in files of their owner alone, derived from what a person types."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from unicodedata import normalize

from fedlab.files.atomic import write_bytes

#: Bytes of a key.
KEY_SIZE = 32


class KeyProblem(ValueError):
    """A key can't be read, or is none."""


@dataclass(frozen=True)
class Key:
    """A key of 32 random bytes. Keep it away from the files that it seals.

    Examples
    --------
    >>> key = Key.generate()
    >>> key
    Key(id=...)
    >>> key == Key(key.secret), key == Key.generate()
    (True, False)
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.secret, bytes) or len(self.secret) != KEY_SIZE:
            raise KeyProblem(
                f"a key is {KEY_SIZE} bytes; use Key.generate, or read one that it made"
            )

    def __repr__(self) -> str:
        return f"Key(id={self.id})"

    @property
    def id(self) -> str:
        """Eight bytes that tell keys apart and say nothing of them."""
        return hashlib.blake2b(self.secret, digest_size=8, person=b"fedlab key").hexdigest()

    @classmethod
    def generate(cls) -> Key:
        """Return a new random key."""
        return cls(os.urandom(KEY_SIZE))

    @classmethod
    def from_environment(cls, name: str = "FEDLAB_KEY") -> Key:
        """Read a key, 64 hexadecimal digits, from an environment variable.

        Raises
        ------
        KeyProblem
            If the variable is not there or holds something else; its content is never shown.
        """
        if name not in os.environ:
            raise KeyProblem(f"the environment has no {name}; set it to a key's 64 hex digits")
        return cls._of_text(os.environ[name], name)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Key:
        """Read a key from a file that only its owner can read.

        Raises
        ------
        KeyProblem
            If others may read it, or if it holds something else.
        OSError
            If it can't be read.
        """
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise KeyProblem(f"{os.fspath(path)} is no regular file")
            if os.name != "nt" and stat.S_IMODE(mode) & 0o077:
                raise KeyProblem(
                    f"{os.fspath(path)} has the mode {stat.S_IMODE(mode):o}: others may read the "
                    "key; chmod 600 it, or better make a new one and seal again"
                )
            return cls._of_text(file.read(4 * KEY_SIZE).decode("latin-1"), os.fspath(path))

    @classmethod
    def _of_text(cls, text: str, where: str) -> Key:
        try:
            return cls(bytes.fromhex(text.strip()))
        except ValueError:
            raise KeyProblem(
                f"{where} holds no key: {2 * KEY_SIZE} hex digits are needed"
            ) from None

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the key to a file of mode 600, as `from_file` reads it."""
        if os.path.lexists(path):
            raise FileExistsError(f"{os.fspath(path)} exists; a key is never written over")
        write_bytes(path, self.secret.hex().encode() + b"\n", mode=0o600)


@dataclass(frozen=True)
class Passphrase:
    """What a person types; the key is derived from it by Argon2id, with a salt for each file.

    Parameters
    ----------
    text : str
        At least 12 characters. Never put one into a notebook: use ``getpass.getpass()``. How a
        keyboard composes its letters (é as one or as e and an accent) makes no difference.
    """

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or any("\ud800" <= one <= "\udfff" for one in self.text):
            raise KeyProblem("a passphrase is text, of whole characters")
        length = len(normalize("NFC", self.text))
        if length < 12:
            raise KeyProblem(f"a passphrase of {length} characters; at least 12 are needed")

    @property
    def forms(self) -> tuple[bytes, ...]:
        """In which ways it may be composed: first that of new files, then those of older ones."""
        ways = (normalize("NFC", self.text), self.text, normalize("NFD", self.text))
        return tuple(dict.fromkeys(way.encode() for way in ways))


Sealer = Key | Passphrase


def require_sealer(sealer: object) -> None:
    """Refuse what is neither a key nor a passphrase: a path or a text, say.

    Raises
    ------
    TypeError
    """
    if not isinstance(sealer, Sealer):
        raise TypeError(
            f"key is a {type(sealer).__name__}; give a Key (Key.from_file(path), "
            "Key.from_environment()) or a Passphrase"
        )
