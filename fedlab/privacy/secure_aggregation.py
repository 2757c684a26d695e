"""Sums that hide their summands though devices drop out: four rounds (Bonawitz et al., CCS 2017).

Each device makes two pairs of keys and a seed b_u. The seed and the secret mask key go to its
neighbours in shares of which t tell all, each encrypted for its holder. What it sends is

    y_u = x_u + PRG(b_u) + sum_{v > u} PRG(s_uv) - sum_{v < u} PRG(s_uv)   modulo 2**k,

with s_uv what u and v agree on. At the end a device that is still there tells, of each neighbour,
its share of the seed if that one's y came, or its share of the mask key if it didn't: never both,
as both would unmask it. From t shares of each the server takes out all that did not cancel. The sum
over the devices whose y came is exact, whoever dropped out before or after sending it; with fewer
than t shares of one it can't be told, and `ThresholdError` says so.

Neighbours are all other devices or, for many, k of them on a ring in a random order (Bell et al.,
"Secure single-server aggregation with (poly)logarithmic overhead", CCS 2020): see `few_neighbours`.
`SecureExchange` runs all of it; `SumExchange` is the server's side of it, which counts each
message's bytes, and `SummingServer` what a server sees. Between messages a device may be written to
a file (`Summand.memory`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from fedlab.core.ledger import Ledger
from fedlab.core.typing import I64
from fedlab.privacy.masks import KEY, Party, Words, agreed, keystream
from fedlab.privacy.noise import Source
from fedlab.privacy.shamir import SHARE, combine, split
from fedlab.privacy.threat_model import Protection

SECURE_AGGREGATION = Protection(
    name="secure aggregation",
    protects="each device's update from the server and other devices: only their sum is seen",
    does_not=(
        "hide sums, and what follows from several; who takes part, drops out and weighs how much; "
        "a device from t holders of its shares together with the server; notice false updates"
    ),
    assumes=(
        "a server that passes on keys and messages unaltered (there are no signatures), and fewer "
        "than t colluding holders of any device's shares"
    ),
    cost="4 rounds; with h neighbours 100 + 124 h bytes up and 152 h down, and k bits a number",
    source="Bonawitz et al., CCS 2017, figure 4 (honest but curious); Bell et al., CCS 2020",
)

#: A message that holds two shares, encrypted: 16 bytes say whether it was altered.
SEALED = 2 * SHARE + 16
_NONCE = struct.Struct("<4xQ")
Keys = tuple[bytes, bytes]
Graph = Sequence[Collection[int]]


class ThresholdError(RuntimeError):
    """Too few devices are left for the sum to be told."""


class Summand:
    """A device's part in one sum. It makes its keys, masks and tells shares once.

    Parameters
    ----------
    place : int
        Its place among the devices of the sum.
    source : callable
        Where its secrets come from; by default the operating system.
    """

    def __init__(self, place: int, source: Source = os.urandom) -> None:
        self._source, self._least, self._told = source, 0, False
        self._met, self._held = dict[int, Keys](), dict[int, bytes]()
        self._make(place, tuple(source(KEY) for _ in range(3)))

    def _make(self, place: int, secrets: tuple[bytes, ...]) -> None:
        from nacl.bindings import crypto_scalarmult_base

        self.place, self._secrets, self._keys = place, secrets, dict[int, bytes]()
        self._seal, self._mask, self._seed = secrets
        self._party = Party(place, self._mask)
        #: What all may know: the key to which others encrypt, and that of masks.
        self.publics: Keys = (crypto_scalarmult_base(self._seal), self._party.public)

    @property
    def memory(self) -> dict[str, Any]:
        """What it must remember between messages: secrets, plain values that a file can hold."""
        secrets, held = self._secrets, self._held
        return {"secrets": secrets, "met": self._met, "held": held, "least": self._least}

    @classmethod
    def recalled(cls, place: int, memory: Mapping[str, Any]) -> Summand:
        """Return the device that had a memory. Who keeps it sees that no message is sent twice."""
        one = cls(place)
        one._make(place, memory["secrets"])
        one._met, one._held, one._least = (memory[name] for name in ("met", "held", "least"))
        return one

    def share(self, met: Mapping[int, Keys], threshold: int) -> dict[int, bytes]:
        """Return what goes to each neighbour, given their public keys: two encrypted shares."""
        from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt as encrypt

        points = np.array([self.place, *met], np.uint64) + np.uint64(1)
        both = [split(s, points, threshold, self._source) for s in (self._seed, self._mask)]
        self._met, self._least = dict(met), threshold
        self._held[self.place], *others = map(bytes.__add__, *both)
        # A key serves once in each direction, which the number of the sender tells apart.
        return {
            place: encrypt(words, None, _NONCE.pack(self.place), self._key(place))
            for place, words in zip(met, others, strict=True)
        }

    def receive(self, sealed: Mapping[int, bytes]) -> None:
        """Take in what neighbours have sent, and share masks with these alone.

        An altered message raises nacl's CryptoError.

        Raises
        ------
        ThresholdError
            If so few have sent that nobody could be told apart from the sum.
        """
        from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt as decrypt

        if len(sealed) + 1 < self._least:
            few = f"{len(sealed)} neighbours sent shares"
            raise ThresholdError(f"{few}, and {self._least - 1} are needed")
        near = {place: self._met[place][1] for place in sealed}
        self._party.meet({self.place: self._party.public} | near)
        for place, message in sealed.items():
            self._held[place] = decrypt(message, None, _NONCE.pack(place), self._key(place))

    def _key(self, place: int) -> bytes:
        """Return the key under which shares go to a neighbour, and come from it."""
        if place not in self._keys:
            of = self._seal, self.publics[0], self._met[place][0]
            self._keys[place] = agreed(*of, b"fedlab shares")
        return self._keys[place]

    def masked(self, values: Sequence[Words]) -> list[Words]:
        """Return vectors that tell nothing without their masks.

        Raises
        ------
        ValueError
            If some were masked before: two under the same masks would tell their difference.
        """
        own = _streams(self._seed, values)
        others = [self._party.mask(w.shape, 0, n, w.dtype) for n, w in enumerate(values)]
        return [x + a + b for x, a, b in zip(values, own, others, strict=True)]

    def unmask(self, came: Collection[int], dropped: Collection[int]) -> dict[int, bytes]:
        """Return a share of each device's seed if its numbers came, of its mask key if they didn't.

        Raises
        ------
        ValueError
            If a device is named as both, or something was told before: both shares of t holders
            unmask a device.
        ThresholdError
            If so few of its neighbours and itself have come that their sum tells too much.
        """
        if both := sorted({*came} & {*dropped}):
            raise ValueError(f"devices {both} are said to have come and dropped out; never both")
        if len(came) < self._least:
            raise ThresholdError(f"{len(came)} neighbours came, and {self._least} are needed")
        if self._told:
            raise ValueError("this device has told its shares; it does so once in a sum")
        self._told = True
        told = {place: self._held[place][:SHARE] for place in came}
        return told | {place: self._held[place][SHARE:] for place in dropped}


class SummingServer:
    """The server's part: it passes messages on, adds up, and takes out masks that are left.

    Parameters
    ----------
    graph : sequence of int collections
        Each device's neighbours.
    threshold : int
        Shares that tell a secret.
    bits : sequence of int
        Of the numbers of each vector, at most those of their type.
    """

    def __init__(self, graph: Graph, threshold: int, bits: Sequence[int]) -> None:
        self.graph, self.threshold, self.bits = graph, threshold, bits
        self.publics: dict[int, Keys] = {}
        self.came: set[int] = set()
        self._total: list[Words] = []

    def add(self, place: int, masked: list[Words]) -> None:
        """Add a device's masked vectors to what has come."""
        before = self._total or [words * 0 for words in masked]
        self._total = [a + b for a, b in zip(before, masked, strict=True)]
        self.came.add(place)

    def finish(self, told: Mapping[int, Mapping[int, bytes]]) -> list[Words]:
        """Return the sums, given the shares that devices told.

        Raises
        ------
        ThresholdError
            If fewer shares of a secret came than tell it, or no numbers.
        """
        if not self.came:
            raise ThresholdError("no device sent its numbers")
        secrets = {
            place: self._secret(place, told)
            for place in range(len(self.graph))
            if place in self.came or self.came.intersection(self.graph[place])
        }
        # Keys of masks that did not cancel, and whether they were added.
        left = [(secrets[place], True) for place in self.came]
        for place in secrets.keys() - self.came:
            for other in self.came.intersection(self.graph[place]):
                publics = self.publics[place][1], self.publics[other][1]
                left.append((agreed(secrets[place], *publics, b"fedlab masks"), place > other))
        total = [words.copy() for words in self._total]
        for key, added in left:
            for words, stream in zip(total, _streams(key, total), strict=True):
                (np.subtract if added else np.add)(words, stream, out=words)
        return lowest(total, self.bits)

    def _secret(self, place: int, told: Mapping[int, Mapping[int, bytes]]) -> bytes:
        shares = {holder: shares[place] for holder, shares in told.items() if place in shares}
        if len(shares) < self.threshold:
            raise ThresholdError(
                f"{len(shares)} of the {len(self.graph[place]) + 1} holders of a device's shares "
                f"are left, and {self.threshold} are needed to take its masks out of the sum"
            )
        holders = sorted(shares)[: self.threshold]
        return combine(np.array(holders, np.uint64) + np.uint64(1), [shares[h] for h in holders])


class SumExchange:
    """A server's side of a sum: what it passes on to devices, and every message's bytes.

    Parameters
    ----------
    graph : sequence of int collections
        Each device's neighbours (see `ring`).
    threshold : int
        Shares that tell a secret: at least two, and more than half of a device's holders, which
        are its neighbours and itself; so no two parts of them can be told different stories.
    bits : sequence of int
        Of the numbers of each vector, at most those of their type; sums are modulo 2**bits.

    Attributes
    ----------
    server : SummingServer
    ledger : Ledger
        Every message, by place.
    silent : list of int
        Those of which numbers came, and no shares.
    """

    def __init__(self, graph: Graph, threshold: int, bits: Sequence[int]) -> None:
        self.silent = list[int]()
        holders = min((len(near) + 1 for near in graph), default=0)
        if not max(holders / 2, 1) < threshold <= holders:
            raise ThresholdError(
                f"the threshold is {threshold}, of {holders} holders of a device's shares; it must "
                "be more than half of them, and two (a sum over one device hides nothing)"
            )
        self.server, self.ledger = SummingServer(graph, threshold, bits), Ledger(range(len(graph)))

    def met(self, publics: Mapping[int, Keys]) -> dict[int, dict[int, Keys]]:
        """Return which public keys each device is told: those of its neighbours."""
        self.server.publics = dict(publics)
        near = {place: self.server.graph[place] for place in publics}
        self._note(1, "public keys", 2 * KEY, 2 * KEY * _lengths(near), [*near])
        return {place: {other: publics[other] for other in of} for place, of in near.items()}

    def shared(self, sent: Mapping[int, Mapping[int, bytes]]) -> dict[int, dict[int, bytes]]:
        """Return which shares each device receives; who sent none takes part no longer."""
        graph = self.server.graph
        near = [[p for p in of if p in sent] if n in sent else [] for n, of in enumerate(graph)]
        self.server.graph = near
        up, down = _lengths(sent), np.array([len(near[place]) for place in sent], np.int64)
        self._note(2, "encrypted shares", SEALED * up, SEALED * down, [*sent])
        return {place: {other: sent[other][place] for other in near[place]} for place in sent}

    def add(self, place: int, masked: list[Words]) -> None:
        """Add a device's masked vectors to what has come."""
        size = sum(-(-len(w) * k // 8) for w, k in zip(masked, self.server.bits, strict=True))
        self.ledger.note(3, "up", "masked numbers", size, place)
        self.server.add(place, masked)

    def asked(self, gone: Collection[int] = ()) -> dict[int, tuple[set[int], set[int]]]:
        """Return of whom each device is to tell a share: of which seeds, and of which mask keys."""
        came, graph = self.server.came, self.server.graph
        left = {place: {place, *graph[place]} for place in sorted(came - {*gone})}
        return {place: (near & came, near - came) for place, near in left.items()}

    def told(self, shares: Mapping[int, Mapping[int, bytes]]) -> list[Words]:
        """Return the sums, given the shares that devices told.

        Raises
        ------
        ThresholdError
            If too few are left.
        """
        counts = _lengths(shares)
        self._note(4, "shares", SHARE * counts, -(-counts // 8), [*shares])  # down: a bit for each
        return self.server.finish(shares)

    def _note(self, round: int, what: str, up: Any, down: Any, places: Sequence[int]) -> None:
        self.ledger.note(round, "up", what, up, places)
        self.ledger.note(round, "down", what, down, places)


class SecureExchange(SumExchange):
    """All of a sum: devices, the server, and what travels between them.

    Parameters
    ----------
    graph, threshold, bits
        See `SumExchange`.
    source : callable
        Where secrets come from.

    Examples
    --------
    >>> exchange = SecureExchange(ring(5), threshold=3, bits=[32])
    >>> for place in (0, 1, 3, 4):  # the third drops out before it sends, the last one after
    ...     masked = exchange.send(place, [np.uint32([place, 10])])
    >>> exchange.finish(gone=[4])
    [array([ 8, 40], dtype=uint32)]
    """

    def __init__(
        self, graph: Graph, threshold: int, bits: Sequence[int], source: Source = os.urandom
    ) -> None:
        super().__init__(graph, threshold, bits)
        self.members = [Summand(place, source) for place in range(len(graph))]
        met = self.met({m.place: m.publics for m in self.members})
        sent = {m.place: m.share(met[m.place], threshold) for m in self.members}
        for place, sealed in self.shared(sent).items():
            self.members[place].receive(sealed)

    def send(self, place: int, values: Sequence[Words]) -> list[Words]:
        """Let a device mask its vectors and send them; return what the server is given."""
        masked = lowest(self.members[place].masked(values), self.server.bits)
        self.add(place, masked)
        return masked

    def finish(self, gone: Collection[int] = ()) -> list[Words]:
        """Let those that sent numbers, but for some that are gone since, tell shares; return sums.

        Raises
        ------
        ThresholdError
            If too few are left.
        """
        asked = self.asked(gone).items()
        return self.told({place: self.members[place].unmask(*who) for place, who in asked})


def ring(
    devices: int, neighbours: int | None = None, order: Sequence[int] | None = None
) -> list[list[int]]:
    """Return each device's neighbours: those next to it on a ring, half on each side, or all.

    Parameters
    ----------
    devices : int
    neighbours : int, optional
        How many, rounded up to an even number; by default all others.
    order : permutation of the devices, optional
        Around the ring: drawn at random, unless all are neighbours.

    Examples
    --------
    >>> ring(5, 2, [0, 2, 4, 1, 3])
    [[2, 3], [3, 4], [0, 4], [0, 1], [1, 2]]
    """
    around = range(devices) if order is None else order
    side = devices // 2 if neighbours is None else min(-(-neighbours // 2), devices // 2)
    near = {
        place: {around[(at + step) % devices] for step in range(-side, side + 1)} - {place}
        for at, place in enumerate(around)
    }
    return [sorted(near[place]) for place in range(devices)]


def few_neighbours(
    devices: int, colluding: float = 0.1, dropping: float = 0.1, security: int = 40
) -> tuple[int, int]:
    """Return how many neighbours, O(log n), and which threshold keep a sum safe and told.

    On a ring in a random order, all but with a chance of 2**-security:

    - no device has as many colluding neighbours as the threshold (hypergeometric tail);
    - the honest devices that stay are connected, as no k/2 devices in a row collude or drop out:
      at most n (colluding + dropping)**(k/2);

    and all but with a chance of 2**-30 each device keeps a threshold of holders. The threshold is
    more than half of them. Each is a union bound over the devices.

    Parameters
    ----------
    devices : int
    colluding, dropping : float
        Shares of the devices that may do so, below one together.
    security : int

    Returns
    -------
    (neighbours, threshold)

    Source: Bell et al., CCS 2020, section 3.

    Examples
    --------
    >>> [few_neighbours(n)[0] for n in (100, 1_000, 10_000, 1_000_000)]
    [42, 52, 60, 70]
    """
    from scipy.stats import hypergeom

    others, chance = devices - 1, 2.0**-security / devices
    bad, lost = np.ceil(colluding * devices), np.ceil(dropping * devices)
    for near in range(2, others, 2):
        least = np.arange(near // 2 + 1, near + 1)
        safe = hypergeom.sf(least - 1, others, bad, near) <= chance
        told = hypergeom.cdf(least - 1, others, others - lost, near) <= 2.0**-30 / devices
        if (safe & told).any() and (colluding + dropping) ** (near / 2) <= chance:
            return near, int(least[np.argmax(safe & told)])
    return others, -(-2 * devices // 3)


def lowest(vectors: Sequence[Words], bits: Sequence[int]) -> list[Words]:
    """Return vectors modulo 2**bits, each modulo its own."""
    return [w & w.dtype.type(2**width - 1) for w, width in zip(vectors, bits, strict=True)]


def _lengths(of: Mapping[int, Collection[Any]]) -> I64:
    return np.array([len(one) for one in of.values()], np.int64)


def _streams(key: bytes, vectors: Sequence[Words]) -> list[Words]:
    # Addressed like the masks of pairs.
    return [keystream(key, n, 0, len(words), words.dtype) for n, words in enumerate(vectors)]
