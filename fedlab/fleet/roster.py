"""Who can take part: devices, and their profiles as arrays, so that a round never loops over all.

A population of a million devices is asked for its columns and for the devices of a cohort only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from fedlab.core.settings import described
from fedlab.core.typing import F64, I64, Places
from fedlab.device.device import Device
from fedlab.device.profile import DAY, HOUR, PROFILE, Profile, column_of, is_default

_DEFAULT = Profile()
_ALWAYS = np.zeros(1)


@runtime_checkable
class Changing(Protocol):
    """Devices whose rows change from round to round."""

    def at(self, round: int) -> Sequence[Device]:
        """Return the devices of a round: the same ids in the same order for every round."""


@runtime_checkable
class Columnar(Protocol):
    """Devices that know their numbers as columns: those of `Profile` that are not the default.

    `order` holds their places by rising id (see `in_order`); None where they stand so.
    """

    @property
    def dimensions(self) -> int: ...

    @property
    def order(self) -> I64 | None: ...

    @property
    def rows(self) -> I64: ...

    @property
    def digest(self) -> str:
        """Of all names, rows and labels."""

    @property
    def profiles(self) -> Mapping[str, F64]: ...


@dataclass(frozen=True)
class Hardware:
    """Bandwidth, compute and upload of some devices, as `Profile` has them, (m,) each."""

    bandwidth: F64
    compute: F64
    upload: F64 | None = None


@dataclass(frozen=True, eq=False)
class Roster:
    """Devices by rising id, those among them that have rows to train on, and their profiles.

    Attributes
    ----------
    devices : sequence of Device
    places : (a,) int array
        Those of the devices that have rows, by rising id.
    profiles : mapping of str to (n,) array
        Columns of `Profile`, without those where all have the default.
    holding : list of Device
        Those that hold rows out.
    clock : float
        Simulated seconds since the run began, at midnight.
    busy : (k,) int array
        Places of devices that can't be reached, as they are at work.
    online : mapping of place to (2s,) array
        The ends of the intervals in which devices can be reached, of those that have such.
    """

    devices: Sequence[Device]
    places: Places
    profiles: Mapping[str, F64]
    holding: list[Device]
    clock: float = 0.0
    busy: Places = field(default_factory=lambda: np.empty(0, np.intp))
    online: Mapping[int, F64] = field(default_factory=dict)

    @classmethod
    def of(cls, devices: Sequence[Device]) -> Roster:
        """Look at all devices once; at columns alone where the devices have them."""
        if isinstance(devices, Columnar):
            order = np.arange(len(devices)) if devices.order is None else devices.order
            able = np.asarray(order[devices.rows[order] > 0], np.intp)
            return cls(devices, able, devices.profiles, [])
        devices = in_order(devices)
        columns = {name: column_of([d.profile for d in devices], name) for name in PROFILE}
        profiles = {n: column for n, column in columns.items() if not is_default(n, column)}
        holding = [device for device in devices if device.validation_rows]
        spans = {at: np.ravel(d.profile.online) for at, d in enumerate(devices) if d.profile.online}
        able = np.flatnonzero([device.rows for device in devices])
        return cls(devices, able, profiles, holding, online=spans)

    @property
    def count(self) -> int:
        """Devices that have rows to train on."""
        return len(self.places)

    def in_turn(self, places: Places) -> Places:
        """Return places by rising id of their devices, the order in which sums are taken."""
        if getattr(self.devices, "order", None) is not None:  # Columnar, asked in every round
            ids = [self.devices[place].id for place in places.tolist()]
            return places[np.argsort(np.array(ids), kind="stable")]
        return np.sort(places)

    def rows(self, places: Places) -> I64:
        """Return how many rows the devices at some places train on, (m,)."""
        if isinstance(self.devices, Columnar):
            return self.devices.rows[places]
        return np.array([self.devices[place].rows for place in places.tolist()], np.int64)

    def chance(self, places: Places) -> F64 | None:
        """Return how likely devices are to be reachable now, (m,); None where all always are."""
        wait = self.wait(places)
        if wait is None and not len(self.busy) and "availability" not in self.profiles:
            return None
        gone = np.isin(places, self.busy) | (False if wait is None else wait > 0)
        return np.where(gone, 0.0, self.column("availability", places))

    def wait(self, places: Places) -> F64 | None:
        """Return the seconds until devices can be reached, by their hours and intervals, (m,).

        None if all ever can.
        """
        if not {"online_from", "online_until"} & self.profiles.keys() and not self.online:
            return None
        since = (self.clock - HOUR * self.column("online_from", places)) % DAY
        length = HOUR * (self.column("online_until", places) - self.column("online_from", places))
        length = np.where(length < 0, length + DAY, length)
        asleep = np.where(since < length, 0.0, DAY - since)
        return np.maximum(asleep, -self.stays(places)) if self.online else asleep

    def stays(self, places: Places) -> F64:
        """Return the seconds until devices' intervals end, (m,); negative, until one begins."""
        ends = [self.online.get(place, _ALWAYS) for place in places.tolist()]
        passed = [int(np.searchsorted(one, self.clock, side="right")) for one in ends]
        left = [np.append(one, np.inf)[k] - self.clock for one, k in zip(ends, passed, strict=True)]
        return np.array(left) * (2.0 * (np.array(passed) % 2) - 1)

    def column(self, name: str, places: Places) -> F64:
        """Return what the profiles of devices say, (m,)."""
        if name in self.profiles:
            return self.profiles[name][places]
        return np.full(len(places), getattr(_DEFAULT, name), np.float64)

    @cached_property
    def description(self) -> str:
        """What devices there are, in words: how many, and a digest of their names and rows.

        It looks at every row, so it takes time, once.
        """
        if isinstance(self.devices, Columnar):
            digest = self.devices.digest
        else:
            digest = described(np.array([device.contents for device in self.devices]))
        return f"{len(self.devices)} (names and rows {digest})"

    def hardware(self, places: Places) -> Hardware:
        """Return what the devices at some places can do."""
        bandwidth, upload = self.column("bandwidth", places), None
        if "upload" in self.profiles:
            upload = self.column("upload", places)
            upload = np.where(np.isnan(upload), bandwidth, upload)
        return Hardware(bandwidth, self.column("compute", places), upload)


def in_order(devices: Sequence[Device]) -> list[Device]:
    """Return devices by rising id, numbers before text.

    Cohorts, sums over devices, and what devices keep follow this order: the one in which a list
    was given makes no other run.

    Examples
    --------
    >>> from fedlab.index import VectorIndex
    >>> [device.id for device in in_order([Device(n, VectorIndex(2)) for n in ("b", 10, "a", 9)])]
    [9, 10, 'a', 'b']
    """
    return sorted(devices, key=lambda device: (isinstance(device.id, str), device.id))
