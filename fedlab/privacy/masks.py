"""Sums that hide their summands: pairwise masks that cancel when all devices have answered.

Each pair of devices agrees on a secret (X25519) and stretches it to a stream of words (ChaCha20).
One of the two adds the stream to what it sends, the other subtracts it, modulo 2**64, or less where
sums are small. A masked vector alone is uniformly distributed; the sum of all is exact (Bonawitz et
al., "Practical secure aggregation for privacy-preserving machine learning", CCS 2017, section 4).

Devices that drop out are not recovered: a round that one of them leaves fails, and is begun again
in a new session without it. Recovery takes shares of a fresh secret between all pairs for each sum,
which for the many short sums of a search is more than to begin again. For the one long sum of a
round of learning it isn't: see `fedlab.privacy.secure_aggregation`.

`MASKED_SUMS` says what this protects and what it does not. It costs each device 32 bytes up and 32
down for every other device, once a session, and no byte more a sum than the plain numbers take.
Time grows with the square of the number of devices: .1 ms a pair for keys.
"""

from __future__ import annotations

import hmac
import math
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.validation import whole_number
from fedlab.privacy.threat_model import Protection

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
    cost="once 32 D bytes a device for keys; a sum: one round, no byte more than plain numbers",
    source="Bonawitz et al., CCS 2017, section 4",
)

KEY = 32  # bytes of a key, secret or public
_NONCE = struct.Struct("<IQ")  # purpose, round: 12 bytes, as ChaCha20 (RFC 8439) takes them


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


def hkdf(material: bytes, info: bytes) -> bytes:
    """Return a key of 32 bytes made of secret bytes that need not be uniform.

    Source: HKDF-SHA256 (RFC 5869) without a salt; one block is all of its output that is needed.
    """
    extracted = hmac.digest(bytes(KEY), material, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def agreed(secret: bytes, public: bytes, theirs: bytes, purpose: bytes) -> bytes:
    """Return the key that two devices agree on, each by its own secret and the other's public key.

    X25519 (RFC 7748), then `hkdf`. The key is bound to both public keys and to a purpose.
    """
    from nacl.bindings import crypto_scalarmult

    return hkdf(crypto_scalarmult(secret, theirs), purpose + b"".join(sorted((public, theirs))))


class Party:
    """A device's part in a session: a secret of its own, and one with each other device.

    Parameters
    ----------
    place : int
        The device's place among those of the session.
    secret : bytes, optional
        Its secret key; by default the operating system draws one.

    Examples
    --------
    >>> parties = [Party(place) for place in range(3)]
    >>> for party in parties:
    ...     party.meet([other.public for other in parties])
    >>> sent = [party.masked(np.uint64([5, 7]), round=1) for party in parties]
    >>> sum(sent)
    array([15, 21], dtype=uint64)
    """

    def __init__(self, place: int, secret: bytes | None = None) -> None:
        from nacl.bindings import crypto_scalarmult_base

        self.place = whole_number(place, "place", 0)
        self._secret = secret or os.urandom(KEY)
        #: What the others need, 32 bytes.
        self.public: bytes = crypto_scalarmult_base(self._secret)
        self._shared: dict[int, bytes] = {}
        self._used: set[tuple[int, int]] = set()

    def meet(self, publics: Sequence[bytes] | Mapping[int, bytes]) -> None:
        """Agree with each other device on a secret, given the public keys of all in their order.

        Those of some, and its own, come by place.

        Raises
        ------
        ValueError
            If the place is not this party's, there is nobody else, or a key stands twice.
        """
        met = publics if isinstance(publics, Mapping) else dict(enumerate(publics))
        if len(met) < 2:
            raise ValueError("one device was given; a sum hides its parts from two on")
        if len(set(met.values())) < len(met):
            raise ValueError("a public key stands twice; each device makes its own")
        if met.get(self.place) != self.public:
            raise ValueError(f"public key {self.place} is not this device's; keep their order")
        self._shared = {
            place: agreed(self._secret, self.public, public, b"fedlab masks")
            for place, public in met.items()
            if place != self.place
        }

    def mask(
        self, shape: tuple[int, ...], round: int, purpose: int = 0, dtype: Any = np.uint64
    ) -> Words:
        """Return the sum of this device's masks, which cancels against those of all others.

        Parameters
        ----------
        shape : tuple of int
        round, purpose : int
            The address, the same for all devices: below 2**64 and 2**32.
        dtype : unsigned integer type
            Of b bits: masks, and what they are added to, are modulo 2**b. The true sum must be
            smaller.

        Raises
        ------
        ValueError
            If the mask at this address was given before: two answers under the same masks would
            tell their difference.
        """
        if np.dtype(dtype).kind != "u":
            raise TypeError(f"values of type {np.dtype(dtype)} were given; unsigned is needed")
        if not self._shared:
            raise ValueError("this party has met no others; call meet() with all public keys")
        if (round, purpose) in self._used:
            raise ValueError(
                f"round {round} with purpose {purpose} was answered before; masks serve once: "
                "take the next round"
            )
        self._used.add((round, purpose))
        total = np.zeros(math.prod(shape), dtype)
        for place, key in self._shared.items():
            words = keystream(key, purpose, round, total.size, dtype)
            if place > self.place:
                total += words
            else:
                total -= words
        return total.reshape(shape)

    def masked(self, values: Words, round: int, purpose: int = 0) -> Words:
        """Return values that tell nothing until those of all devices are added (see `mask`)."""
        return values + self.mask(values.shape, round, purpose, values.dtype)
