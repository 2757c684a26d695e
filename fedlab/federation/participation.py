"""Who took part in what: which rounds learned from a row.

Kept are the places of the devices whose updates entered each round, and of each of those the keys
that it trained on: all of them once, and afterwards only keys that came or went. That is eight
bytes for each key, and four for each update; a round costs a look at each sender. Where each round
chooses other rows, keys come and go with each.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import I64, U64, Places
from fedlab.device.device import Device
from fedlab.index.vectorindex import VectorIndex

_NONE = np.empty(0, np.uint64)


@dataclass(frozen=True)
class _Change:
    """Keys that came to a device's training rows before a round, and keys that went."""

    round: int
    came: U64
    went: U64


class Participation:
    """Updates that entered rounds, and the keys that their devices trained on.

    Examples
    --------
    >>> index = VectorIndex(2)
    >>> _ = index.add(np.eye(2), keys=[7, 8], labels=[0, 1])
    >>> device, taken = Device("ward 3", index), Participation()
    >>> taken.note(1, [0], [device])
    >>> _ = index.remove([8])
    >>> taken.note(2, [0], [device])
    >>> taken.rounds_of(0), taken.rounds_of(0, key=8)
    (array([1, 2]), array([1]))
    """

    def __init__(self) -> None:
        self._places: dict[int, NDArray[np.int32]] = {}
        self._changes: dict[int, list[_Change]] = {}
        # The keys that a device trained on when it was last looked at, and of which state of which
        # index they are.
        self._known: dict[int, U64] = {}
        self._seen: dict[int, tuple[weakref.ref[VectorIndex], int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A copy speaks of other objects: it compares each device's keys when it next takes part.
        return {**self.__dict__, "_seen": {}}

    def note(
        self,
        round: int,
        places: Sequence[int] | Places,
        devices: Sequence[Device] = (),
        keys: Sequence[U64] = (),
    ) -> None:
        """Note that the updates of some devices entered a round; again, if it is done again.

        Parameters
        ----------
        round : int
        places : (m,) ints
            The devices' places in the federation.
        devices : sequence of Device
            Those at the places, with the rows that they trained on. None where rows never change
            (see `Columnar`): the store knows them.
        keys : sequence of (r,) arrays
            Where rows are chosen, those that each device trained on, instead of `devices`.
        """
        for place, chosen in zip(np.asarray(places).tolist(), keys, strict=False):
            self._compare(round, place, chosen)
        for place, device in zip(np.asarray(places).tolist(), devices, strict=False):
            index = device.index
            seen = self._seen.get(place)
            edits = index.edits
            if seen is None or seen[1] != edits or seen[0]() is not index:
                self._compare(round, place, device.training_keys)
                self._seen[place] = weakref.ref(index), edits
        self._places[round] = np.array(places, np.int32)

    def _compare(self, round: int, place: int, keys: U64) -> None:
        known = self._known.get(place)
        keys = self._known[place] = keys.copy()  # an index's own memory is not to be held
        if known is None:  # as most are, in a round of many devices
            self._changes[place] = [_Change(round, keys, _NONE)]
            return
        if np.array_equal(keys, known):
            return
        came, went = np.setdiff1d(keys, known), np.setdiff1d(known, keys)
        if len(came) or len(went):
            self._changes[place].append(_Change(round, came, went))

    @property
    def places(self) -> list[int]:
        """The places of devices that took part in any round."""
        parts = [np.empty(0, np.int32), *self._places.values()]
        places: list[int] = np.unique(np.concatenate(parts)).tolist()
        return places

    @property
    def senders(self) -> dict[int, NDArray[np.int32]]:
        """The places of the devices whose updates entered each round."""
        return dict(self._places)

    def rounds_of(self, place: int, key: int | None = None) -> I64:
        """Return the rounds that a device's update entered; of a key, while it trained on it."""
        rounds = [round for round, places in self._places.items() if place in places]
        taken = np.array(sorted(rounds), np.int64)
        if key is None:
            return taken
        held = np.zeros(len(taken), np.bool_)
        for change in self._changes.get(place, []):
            if key in change.came or key in change.went:
                held[taken >= change.round] = key in change.came
        return taken[held]

    # -- files -------------------------------------------------------------------------------

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all of it as arrays of numbers, for a file."""
        changes = [(place, one) for place, those in self._changes.items() for one in those]
        places = list(self._places.values())
        return {
            "rounds": np.array(list(self._places), np.int64),
            "sizes": np.array([len(part) for part in places], np.int64),
            "places": np.concatenate([np.empty(0, np.int32), *places]),
            "change_places": np.array([place for place, _ in changes], np.int64),
            "change_rounds": np.array([one.round for _, one in changes], np.int64),
            "came_sizes": np.array([len(one.came) for _, one in changes], np.int64),
            "went_sizes": np.array([len(one.went) for _, one in changes], np.int64),
            "came": np.concatenate([_NONE, *(one.came for _, one in changes)]),
            "went": np.concatenate([_NONE, *(one.went for _, one in changes)]),
        }

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Participation:
        """Return the record whose `arrays` these are."""
        taken = cls()
        places = _parts(arrays["places"], arrays["sizes"])
        taken._places = dict(zip(arrays["rounds"].tolist(), places, strict=True))
        came = _parts(arrays["came"], arrays["came_sizes"])
        went = _parts(arrays["went"], arrays["went_sizes"])
        whose, rounds = arrays["change_places"].tolist(), arrays["change_rounds"].tolist()
        for place, round, new, gone in zip(whose, rounds, came, went, strict=True):
            taken._changes.setdefault(place, []).append(_Change(round, new, gone))
            known = np.setdiff1d(taken._known.get(place, _NONE), gone)
            taken._known[place] = np.union1d(known, new)
        return taken


def _parts(whole: NDArray[Any], sizes: I64) -> list[NDArray[Any]]:
    if sizes.sum() != len(whole) or (sizes < 0).any():
        raise ValueError(f"{len(whole)} entries in parts of {sizes.sum()}")
    return [np.array(part) for part in np.split(whole, np.cumsum(sizes)[:-1])][: len(sizes)]
