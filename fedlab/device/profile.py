"""What a device's hardware can do, and when it is there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from fedlab.core.typing import F64
from fedlab.core.validation import not_negative, positive, share_of_one

#: Seconds of an hour, and of a day.
HOUR, DAY = 3600.0, 86400.0


@dataclass(frozen=True)
class Profile:
    """What a device's hardware can do; simulated seconds follow from it.

    Parameters
    ----------
    bandwidth : float
        Bytes a second that it receives, and sends unless `upload` says otherwise. The default is
        10 Mbit/s.
    compute : float
        Floating-point operations a second. The default is a small processor's 1 GFLOP/s.
    availability : float
        Probability of being reachable in a round, 0 ... 1.
    upload : float, optional
        Bytes a second that it sends.
    online_from, online_until : float
        Hours of the day, 0 ... 24, between which it can be reached at all: 22 and 6 are a night.
        Runs begin at midnight. By default all day.
    dropout : float
        Probability of dropping out of a round that it was chosen for, 0 ... 1.
    watts : float
        Power that it draws while it takes part, for an estimate of energy.
    online : tuple of (from, until)
        Simulated seconds since the run began between which it can be reached at all, in order; it
        drops out of a round that lasts longer. By default always. See `read_availability`.
    """

    bandwidth: float = 1.25e6
    compute: float = 1e9
    availability: float = 1.0
    upload: float | None = None
    online_from: float = 0.0
    online_until: float = 24.0
    dropout: float = 0.0
    watts: float = 0.0
    online: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        positive(bandwidth=self.bandwidth, compute=self.compute)
        if self.upload is not None:
            positive(upload=self.upload)
        share_of_one(availability=self.availability, dropout=self.dropout)
        not_negative(online_from=self.online_from, online_until=self.online_until, watts=self.watts)
        if max(self.online_from, self.online_until) > 24:
            raise ValueError(
                f"online_from is {self.online_from}, online_until {self.online_until}; they must "
                "lie in 0 ... 24"
            )
        ends = np.array(self.online, np.float64).reshape(-1, 2).ravel()
        if not ((ends >= 0).all() and (np.diff(ends) > 0).all()):
            raise ValueError(f"online is {self.online}; intervals rise, from 0, and lie apart")


#: The columns of many profiles, without intervals; in that of `upload`, NaN stands for None.
PROFILE = tuple(part.name for part in fields(Profile) if part.name != "online")
_MOST = {"availability": 1, "dropout": 1, "online_from": 24, "online_until": 24, "watts": np.inf}


def column_of(profiles: Iterable[Profile], name: str) -> F64:
    """Return one field of many profiles."""
    return np.array([getattr(profile, name) for profile in profiles], np.float64)


def is_default(name: str, column: F64) -> bool:
    """Return whether a column says nothing that `Profile()` doesn't."""
    default = np.array(getattr(Profile(), name), np.float64)
    return bool(((column == default) | (np.isnan(default) & np.isnan(column))).all())


def refuse_odd_profile(name: str, values: F64, error: type[ValueError] = ValueError) -> None:
    """Refuse a column of what `Profile` would refuse."""
    good, needed = (values > 0) & np.isfinite(values), "be a positive number"
    if name in _MOST:
        most = _MOST[name]
        good = (values >= 0) & (values <= most) & np.isfinite(values)
        needed = "be zero or positive" if most == np.inf else f"lie in 0 ... {most}"
    elif name == "upload":
        good |= np.isnan(values)
    if not good.all():
        place = int(np.flatnonzero(~good)[0])
        raise error(f"{name} of device {place} is {values[place]}; it must {needed}")
