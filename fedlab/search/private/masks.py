"""Sums that hide their summands: pairwise masks that cancel when all devices have answered.

Each pair of devices agrees on a secret (X25519) and stretches it to a stream of words (ChaCha20).
One of the two adds the stream to what it sends, the other subtracts it, modulo 2**32 or 2**64. A
masked vector alone is uniformly distributed; the sum of all is exact (Bonawitz et al., "Practical
secure aggregation for privacy-preserving machine learning", CCS 2017, section 4, without the
recovery of devices that drop out: a round that one of them leaves fails, and is begun again in a
new session without it).

`MASKED_SUMS` says what this protects and what it does not. It costs each device 32 bytes up and 32
down for every other device, once a session, and no byte more a sum than the plain numbers take.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.checks import whole_number
from fedlab.search.ledger import Ledger
from fedlab.search.private.protection import Protection

__all__ = ["MASKED_SUMS", "MissingDeviceError", "Party", "Session", "keystream"]

Words = NDArray[np.unsignedinteger[Any]]

MASKED_SUMS = Protection(
    name="masked sums",
    protects="each device's numbers from the server and from other devices: only their sum is seen",
    does_not=(
        "hide the sum itself, nor what follows from several sums; hide a device from all others "
        "together with the server; notice a device that answers falsely, or replays; go on when "
        "a device drops out (the round fails)"
    ),
    assumes=(
        "a server that passes on public keys unaltered (else it can stand in the middle), and at "
        "least two devices that keep their keys from it"
    ),
    source="Bonawitz et al., CCS 2017, section 4",
)

_KEY = 32
_NONCE = struct.Struct("<IQ")  # purpose, round: 12 bytes, as ChaCha20 (RFC 8439) takes them


class MissingDeviceError(ConnectionError):
    """Devices did not answer, so the masks that they share with others did not cancel.

    Attributes
    ----------
    devices : tuple of int or str
        Their ids.
    """

    def __init__(self, devices: Sequence[int | str], asked: int) -> None:
        self.devices = tuple(devices)
        names = ", ".join(repr(device) for device in self.devices[:5])
        more = f" and {len(self.devices) - 5} more" if len(self.devices) > 5 else ""
        super().__init__(
            f"{len(self.devices)} of {asked} devices did not answer ({names}{more}), and masks "
            "cancel only when all do; begin again without them: session.without(error.devices)"
        )


def keystream(key: bytes, purpose: int, round: int, count: int, dtype: Any = np.uint64) -> Words:
    """Stretch a key to words that nobody without it can tell from uniform ones.

    The same address gives the same words: for two secrets under one key, never use one twice.

    Parameters
    ----------
    key : bytes
        32 of them.
    purpose, round : int
        The address: below 2**32 and 2**64.
    count : int
        Words.
    dtype : unsigned integer type

    Returns
    -------
    (count,) array

    Examples
    --------
    >>> a, b = (keystream(bytes(32), 1, round, 3) for round in (1, 2))
    >>> (a == b).any(), (a == keystream(bytes(32), 1, 1, 3)).all()
    (np.False_, np.True_)
    """
    from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt as encrypt

    kind = np.dtype(dtype).newbyteorder("<")
    # PyNaCl has no bare ChaCha20: zeros encrypted are its stream, with a tag at the end.
    stream = encrypt(bytes(count * kind.itemsize), None, _NONCE.pack(purpose, round), key)
    return np.frombuffer(stream, kind, count).astype(dtype, copy=False)


class Party:
    """A device's part in a session: a secret of its own, and one with each other device.

    Parameters
    ----------
    place : int
        The device's place among those of the session.

    Examples
    --------
    >>> parties = [Party(place) for place in range(3)]
    >>> for party in parties:
    ...     party.meet([other.public for other in parties])
    >>> sent = [party.masked(np.uint64([5, 7]), round=1) for party in parties]
    >>> sum(sent)
    array([15, 21], dtype=uint64)
    """

    def __init__(self, place: int) -> None:
        from nacl.bindings import crypto_scalarmult_base
        from nacl.utils import random

        self.place = whole_number(place, "place", 0)
        self._secret = random(_KEY)
        #: What the others need, 32 bytes.
        self.public: bytes = crypto_scalarmult_base(self._secret)
        self._shared: dict[int, bytes] = {}
        self._used: set[tuple[int, int]] = set()

    def meet(self, publics: Sequence[bytes]) -> None:
        """Agree with each other device on a secret, given the public keys of all in their order.

        Raises
        ------
        ValueError
            If the place is not this party's, there is nobody else, or a key stands twice.
        """
        if len(publics) < 2:
            raise ValueError("one device was given; a sum hides its parts from two on")
        if len(set(publics)) < len(publics):
            raise ValueError("a public key stands twice; each device makes its own")
        if not self.place < len(publics) or publics[self.place] != self.public:
            raise ValueError(f"public key {self.place} is not this device's; keep their order")
        self._shared = {
            place: self._agreed(public)
            for place, public in enumerate(publics)
            if place != self.place
        }

    def _agreed(self, public: bytes) -> bytes:
        from nacl.bindings import crypto_scalarmult

        # The agreed point is not uniform, and must be bound to the two that agreed on it.
        state = hashlib.blake2b(digest_size=_KEY, person=b"fedlab masks")
        for part in (crypto_scalarmult(self._secret, public), *sorted((public, self.public))):
            state.update(part)
        return state.digest()

    def masked(self, values: Words, round: int, purpose: int = 0) -> Words:
        """Return values that tell nothing until those of all devices are added.

        Parameters
        ----------
        values : uint32 or uint64 array
            Of one shape for all devices. Sums are modulo 2**32 or 2**64.
        round, purpose : int
            The sum's address, the same for all devices: below 2**64 and 2**32.

        Raises
        ------
        ValueError
            If a sum was answered at this address before: two answers under the same masks would
            tell their difference.
        TypeError
            If values are not unsigned.
        """
        if values.dtype not in (np.uint32, np.uint64):
            raise TypeError(f"values of type {values.dtype} were given; uint32 or uint64 is needed")
        if not self._shared:
            raise ValueError("this party has met no others; call meet() with all public keys")
        if (round, purpose) in self._used:
            raise ValueError(
                f"round {round} with purpose {purpose} was answered before; masks serve once: "
                "take the next round"
            )
        self._used.add((round, purpose))
        total = values.ravel().copy()
        for place, key in self._shared.items():
            mask = keystream(key, purpose, round, total.size, total.dtype)
            if place > self.place:
                total += mask
            else:
                total -= mask
        return total.reshape(values.shape)


class Session:
    """Devices that have exchanged keys, and sums over them.

    Parameters
    ----------
    devices : sequence of int or str
        Their ids, two at least, each once.

    Attributes
    ----------
    ledger : Ledger
        The bytes of the key exchange.
    rounds : int
        Sums asked for so far.

    Examples
    --------
    >>> session = Session(["ward 3", "ward 7"])
    >>> session.sum(lambda place: np.uint64([place, 10]))
    array([ 1, 20], dtype=uint64)
    >>> session.ledger.bytes
    128
    """

    def __init__(self, devices: Sequence[int | str]) -> None:
        self.devices = tuple(devices)
        if len(self.devices) < 2 or len(set(self.devices)) < len(self.devices):
            raise ValueError(
                f"devices {self.devices[:5]!r} were given; at least two are needed (a sum over one "
                "hides nothing), each id once"
            )
        self.ledger = Ledger(self.devices)
        self.rounds = 0
        everyone = np.arange(len(self.devices))
        self._parties = [Party(place) for place in everyone.tolist()]
        publics = [party.public for party in self._parties]
        self.ledger.note(1, "up", "public keys", _KEY, everyone)
        self.ledger.note(1, "down", "public keys", _KEY * (len(publics) - 1), everyone)
        for party in self._parties:
            party.meet(publics)

    def sum(self, answer: Callable[[int], Words], purpose: int = 0) -> Words:
        """Ask every device for its numbers, masked, and return the sum of them.

        Parameters
        ----------
        answer : callable
            Given a device's place, what that device would say: uint32 or uint64, of one shape and
            type for all. It is masked before anything else sees it. A ConnectionError or
            TimeoutError says that the device is not there.
        purpose : int
            Tells apart what sums are for.

        Raises
        ------
        MissingDeviceError
            If a device is not there; what the others sent is of no use then.
        """
        self.rounds += 1
        sent: dict[int, Words] = {}
        for place, party in enumerate(self._parties):
            try:
                values = answer(place)
            except (ConnectionError, TimeoutError):
                continue  # noticed below, together with all others that are not there
            sent[place] = party.masked(values, self.rounds, purpose)
        return self._total(sent)

    def _total(self, sent: Mapping[int, Words]) -> Words:
        """Add up what came; this is all that the server does and sees."""
        missing = [id for place, id in enumerate(self.devices) if place not in sent]
        if missing:
            raise MissingDeviceError(missing, len(self.devices))
        kinds = {(values.dtype, values.shape) for values in sent.values()}
        if len(kinds) > 1:
            raise ValueError(f"devices answered with {sorted(map(str, kinds))}; one kind is needed")
        total = np.zeros_like(sent[0])
        for values in sent.values():
            total += values
        return total

    def without(self, devices: Sequence[int | str]) -> Session:
        """Return a session, with new keys, of all devices but these."""
        gone = set(devices)
        return Session([device for device in self.devices if device not in gone])
