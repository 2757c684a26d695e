"""Splits of devices: whole devices that are never seen, and groups that no split may break."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.randomness import Purpose, generator
from fedlab.core.validation import proportion, whole_number
from fedlab.device.device import Device
from fedlab.metrics.folds import refuse_broken


def hold_out_devices(
    devices: Sequence[Device], many: int | float, seed: int
) -> tuple[list[Device], list[Device]]:
    """Split devices into those that take part and those that no training ever sees.

    How a model does on the second ones is what a device may expect that comes later. They are
    small and large like the others: of the devices by number of rows, cut into as many stretches as
    are held out, one is drawn from each.

    Parameters
    ----------
    devices : sequence of Device
    many : int or float
        How many are held out: a number, or a share (then at least one).
    seed : int
        The experiment's. The order of `devices` makes no other split.

    Returns
    -------
    taking part, unseen : list of Device
        In the order given.

    Raises
    ------
    ValueError, TypeError
        If no device, or every device, would be held out.

    Source: unseen clients as in Yuan et al., "What do we mean by generalization in federated
    learning?", ICLR 2022, and Chen et al., "pFL-Bench", NeurIPS 2022.

    Examples
    --------
    >>> from fedlab import spread
    >>> from fedlab.data import iid, load_digits
    >>> digits = load_digits()
    >>> parts, unseen = hold_out_devices(spread(digits, iid(len(digits), 10, seed=0)), 0.2, seed=0)
    >>> len(parts), len(unseen)
    (8, 2)
    """
    if isinstance(many, float):
        proportion(many=many)
        many = max(1, round(many * len(devices)))
    whole_number(many, "many", 1, len(devices) - 1)
    rows = [len(device.index) for device in devices]
    by_size = sorted(
        range(len(devices)),
        key=lambda place: (rows[place], isinstance(devices[place].id, str), devices[place].id),
    )
    draw = generator(seed, Purpose.UNSEEN)
    unseen = {int(draw.choice(stretch)) for stretch in np.array_split(by_size, many)}
    parts = [d for place, d in enumerate(devices) if place not in unseen]
    return parts, [devices[place] for place in sorted(unseen)]


def audit_groups(devices: Sequence[Device], groups: str | Mapping[Any, ArrayLike]) -> None:
    """Refuse devices that train on some rows of a group and hold others of it out.

    Parameters
    ----------
    devices : sequence of Device
    groups : str, or mapping of device id to (n,) array
        The column of metadata that tells each row's group, or the groups of each device's rows.

    Raises
    ------
    ValueError
        If a device breaks a group; device and group are named.

    Warns
    -----
    UserWarning
        If a group stands on several devices. Where it is one patient, who is trained on here and
        held out there, the split is broken all the same.

    Examples
    --------
    >>> from fedlab.index import VectorIndex
    >>> index = VectorIndex(2)
    >>> keys = index.add(np.ones((4, 2)), labels=[0, 1, 0, 1])
    >>> ward = Device("ward 3", index).holding_out(keys[:1])
    >>> audit_groups([ward], {"ward 3": ["ann", "ann", "bo", "bo"]})
    Traceback (most recent call last):
    ValueError: device 'ward 3' breaks 1 of 2 groups: rows of 'ann' are held out, and others are \
trained on; hold out whole groups, as with groups=
    """
    where: dict[Any, list[tuple[int | str, bool]]] = {}
    for device in devices:
        of_row = device.groups(groups if isinstance(groups, str) else groups[device.id])
        aside = np.isin(device.index.keys, device.validation_keys)
        refuse_broken(of_row, aside, f"device {device.id!r}")
        held = set(of_row[aside].tolist())
        for name in np.unique(of_row).tolist():
            where.setdefault(name, []).append((device.id, name in held))
    if shared := {name: those for name, those in where.items() if len(those) > 1}:
        apart = [name for name, those in shared.items() if len({held for _, held in those}) > 1]
        name = [*apart, *shared][0]
        warnings.warn(
            f"{len(shared)} groups stand on several devices, {len(apart)} of them held out on one "
            f"and trained on by another, such as {name!r} on "
            f"{', '.join(repr(device) for device, _ in shared[name][:5])}. If they are the same, "
            "hold out the same groups on all devices; if not, name them apart",
            stacklevel=2,
        )
