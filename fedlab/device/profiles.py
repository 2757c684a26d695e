"""Profiles of many devices: drawn from distributions, or read from a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64
from fedlab.core.validation import not_negative, positive, shown, whole_number
from fedlab.device.profile import PROFILE, Profile


def sample_profiles(
    count: int,
    *,
    seed: int,
    bandwidth: float = 4.495e6,
    upload: float = 1.4025e6,
    compute: float = 1e9,
    spread: float = 0.7,
) -> dict[str, F64]:
    """Draw the hardware of devices, each number log-normal and by itself, as columns.

    The default medians are 35.96 Mbit/s down and 11.22 Mbit/s up, the world's mobile networks in
    Speedtest's Global Index of September 2020, and `Profile`'s compute. By the default spread the
    fastest twentieth is ten times as fast as the slowest: an order of magnitude, as Lai et al.
    report of phones ("Oort", OSDI 2021, section 2.2). For results that are to be compared with
    real hardware, read measured numbers (see `read_profiles`).

    Parameters
    ----------
    count : int
    seed : int
        The experiment's.
    bandwidth, upload, compute : float
        Medians of what `Profile` has.
    spread : float
        Standard deviation of the logarithms; 0 makes all alike.

    Returns
    -------
    dict of str to (count,) array
        For ``write_population(profiles=...)``, or `profiles_of`.

    Examples
    --------
    >>> columns = sample_profiles(1000, seed=0)
    >>> (np.median(columns["upload"]) / 1.4025e6).round(1)
    np.float64(1.0)
    """
    whole_number(count, "count", 0)
    medians = {"bandwidth": bandwidth, "upload": upload, "compute": compute}
    positive(**medians)
    not_negative(spread=spread)
    draw = generator(seed, Purpose.PROFILES).normal(size=(len(medians), count))
    return {
        name: median * np.exp(spread * normal)
        for (name, median), normal in zip(medians.items(), draw, strict=True)
    }


def profiles_of(
    columns: Mapping[str, ArrayLike], ids: Iterable[int | str] | None = None
) -> dict[int | str, Profile]:
    """Return the profile of each device by its id, for ``spread(profiles=...)``; ids count from 0.

    Examples
    --------
    >>> profiles_of({"availability": [0.5, 1.0]})[0].availability
    0.5
    """
    rows = zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
    said = [{n: v for n, v in zip(columns, row, strict=True) if v == v} for row in rows]  # no NaN
    made = [Profile(**given) for given in said]
    names = range(len(made)) if ids is None else ids
    return dict(zip(names, made, strict=True))


def read_profiles(path: str | os.PathLike[str]) -> dict[int | str, Profile]:
    """Read a table of devices from a CSV file: a column ``device``, and fields of `Profile`.

    Cells that are empty have the default. Ids that are all whole numbers are read as such.

    Raises
    ------
    ValueError
        If there is no ``device``, or a column that no profile has; if a device stands twice, or a
        number is none that a profile takes: lines are named.
    """
    names, rows = _read(path, ("device",), PROFILE)
    made, wrong = dict[int | str, Profile](), list[str]()
    for line, (key, row) in enumerate(zip(names, rows, strict=True), start=2):
        try:
            given: Any = {field: float(cell) for field, cell in row.items() if cell.strip()}
            if key in made:
                raise ValueError(f"device {shown(key)} stands twice")
            made[key] = Profile(**given)
        except ValueError as error:
            wrong.append(f"line {line}: {error}")
    if wrong:
        raise ValueError(f"{os.fspath(path)}: {len(wrong)} bad rows. " + "; ".join(wrong[:5]))
    return made


def read_availability(
    path: str | os.PathLike[str], profiles: Mapping[int | str, Profile] | None = None
) -> dict[int | str, Profile]:
    """Read from a CSV file when devices are online: ``device``, ``from_s``, ``until_s``.

    Each line is an interval of simulated seconds since the run began; a device may have any number.

    Parameters
    ----------
    path : path-like
    profiles : mapping of device id to Profile, optional
        Their hardware, such as `read_profiles` gives; devices that have no line are left as they
        are.

    Returns
    -------
    dict of device id to Profile
        With ``Profile.online``.

    Raises
    ------
    ValueError
        If columns are missing or others are there, or a device's intervals overlap or are none.
    """
    spans, made = dict[int | str, list[Any]](), dict(profiles or {})
    for name, row in zip(*_read(path, ("device", "from_s", "until_s")), strict=True):
        spans.setdefault(name, []).append((row["from_s"], row["until_s"]))
    for name, given in spans.items():
        try:
            online: list[tuple[float, float]] = []
            for start, end in sorted((float(start), float(end)) for start, end in given):
                first = online.pop()[0] if online and online[-1][1] == start else start
                online.append((first, end))  # one with what it goes on from
            made[name] = replace(made.get(name, Profile()), online=tuple(online))
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: device {shown(name)}: {error}") from None
    return made


def _read(
    path: str | os.PathLike[str], needed: tuple[str, ...], allowed: tuple[str, ...] = ()
) -> tuple[list[int | str], list[dict[Any, str]]]:
    """Return the ids of a table of devices, and the cells of its other columns, by line."""
    import pandas as pd

    table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    if set(needed) - set(table) or set(table) - {*needed, *allowed}:
        raise ValueError(
            f"{os.fspath(path)} has the columns {list(table)}; {', '.join(needed)} is needed"
            + (f", and {allowed} are allowed" if allowed else ", and no other is allowed")
        )
    names = table.pop("device")
    whole = names.str.fullmatch(r"\d+").all()
    return [int(name) if whole else name for name in names], table.to_dict("records")
