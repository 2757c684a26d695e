"""Randomness with an address: every draw is named by (seed, purpose, round, device, part).

A generator that is *consumed* makes results depend on who drew first, and so on threads, order and
resuming. Here nothing is consumed: the address is the key and the counter of a counter-based
generator (Philox4x64-10; Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), so
the same address gives the same stream wherever, whenever and in whatever order it is asked for.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np

from fedlab.core.validation import whole_number

_LARGEST = 2**64 - 1


class Purpose(IntEnum):
    """What a draw is for. Numbers are part of every published result: never renumber, only add."""

    PARTITION = 1
    INITIAL = 2
    COHORT = 3
    BATCHES = 4
    VALIDATION = 5
    RESAMPLING = 6
    BUILD = 7
    STRAGGLERS = 8
    FEATURE_NOISE = 9
    SYNTHETIC = 10
    PROJECTION = 11
    ROUTING = 12
    RELEASE = 14
    ATTACK = 15
    PROTECTION = 16
    CODEBOOK = 17
    MODEL = 18
    UNSEEN = 19
    ROWS = 20
    BYZANTINE = 21
    CODEC = 22
    REACHABLE = 30
    DROPOUT = 31
    PROFILES = 32
    SECURE_SUM = 40
    SIMULATED_NOISE = 50
    PRIVATE_ROWS = 60
    GRAPH = 70
    STUDY = 80
    VALIDATORS = 90
    FEDEX = 91
    CANDIDATES = 92


def address_of(name: int | str) -> int:
    """Return the 64-bit word by which a device's name enters an address.

    Integers stand for themselves; text is hashed with BLAKE2b (never Python's ``hash``, which is
    salted anew in each process).

    Examples
    --------
    >>> address_of(7)
    7
    >>> address_of("Cleveland") == address_of("Cleveland") != address_of("Hungary")
    True
    """
    if isinstance(name, str):
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    if type(name) is int and 0 <= name <= _LARGEST:
        return name
    return whole_number(name, "device", 0, _LARGEST)


def generator(
    seed: int, purpose: Purpose, *, round: int = 0, device: int | str = 0, part: int = 0
) -> np.random.Generator:
    """Return the generator that stands at an address.

    Parameters
    ----------
    seed : int
        The experiment's seed, 0 ... 2**64 - 1.
    purpose : Purpose
        What the draw is for; two purposes never share a stream.
    round, part : int
        Round of training, and a part within it (an epoch, a fold), each 0 ... 2**64 - 1.
    device : int or str
        The device's identifier.

    Raises
    ------
    ValueError, TypeError
        If a number lies outside 0 ... 2**64 - 1, or is no whole number.

    Examples
    --------
    >>> a = generator(0, Purpose.BATCHES, round=3, device="Cleveland").permutation(5)
    >>> b = generator(0, Purpose.BATCHES, round=3, device="Cleveland").permutation(5)
    >>> (a == b).all()
    np.True_
    """
    # Philox counts in the lowest word of the counter, so the address stands in the upper three.
    counter = [
        0,
        whole_number(part, "part", 0, _LARGEST),
        address_of(device),
        whole_number(round, "round", 0, _LARGEST),
    ]
    key = [whole_number(seed, "seed", 0, _LARGEST), Purpose(purpose)]
    philox = np.random.Philox(
        counter=np.array(counter, dtype=np.uint64), key=np.array(key, dtype=np.uint64)
    )
    return np.random.Generator(philox)
