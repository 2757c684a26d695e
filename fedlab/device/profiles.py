"""Profiles of many devices: drawn from distributions, or read from a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

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
    import pandas as pd

    table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    others = [name for name in table if name not in ("device", *PROFILE)]
    if "device" not in table or others:
        raise ValueError(
            f"{os.fspath(path)} has the columns {list(table)}; device is needed, and {PROFILE} are "
            "allowed"
        )
    names = table.pop("device")
    whole = names.str.fullmatch(r"\d+").all()
    made, wrong = dict[int | str, Profile](), list[str]()
    for line, (name, row) in enumerate(zip(names, table.to_dict("records"), strict=True), start=2):
        try:
            given = {str(field): float(cell) for field, cell in row.items() if cell.strip()}
            if (key := int(name) if whole else name) in made:
                raise ValueError(f"device {shown(key)} stands twice")
            made[key] = Profile(**given)
        except ValueError as error:
            wrong.append(f"line {line}: {error}")
    if wrong:
        raise ValueError(f"{os.fspath(path)}: {len(wrong)} bad rows. " + "; ".join(wrong[:5]))
    return made
