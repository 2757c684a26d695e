"""Devices that attack through their data: labels flipped, or a back door with its trigger.

Devices are returned anew, with other training rows in indexes of their own: those that were given
stay as they are, and so do rows that are held out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import Array, Bool, Places
from fedlab.core.validation import share_of_one, shown, whole_number
from fedlab.device.device import Device
from fedlab.index.vectorindex import VectorIndex

Who = float | Collection[int | str]
#: From a device's training rows, (n, d), their labels and a generator, to poisoned ones.
Poison = Callable[[Array, Array, np.random.Generator], tuple[Array, Array]]


def refuse_strangers(who: Any, devices: Iterable[Device] | None = None) -> None:
    """Raise unless `who` is a share of devices, 0 ... 1, or a collection of ids among theirs."""
    if isinstance(who, float):
        share_of_one(share=who)
    elif isinstance(who, str) or not isinstance(who, Collection):
        raise TypeError(
            f"attackers are {shown(who)}; give a share of all devices, as in 0.2, or a list of ids"
        )
    elif devices is not None and (missing := set(who) - {device.id for device in devices}):
        raise ValueError(f"attackers are named that are not here: {sorted(map(str, missing))[:5]}")


def attackers(devices: Sequence[Device], places: Places, who: Who, seed: int) -> Bool:
    """Return which of the devices at some places attack, (m,).

    Parameters
    ----------
    devices : sequence of Device
        All of the federation.
    places : (m,) int array
    who : float, or collection of ids
        Of a share, the nearest number of all devices is drawn, for good.
    seed : int
        The federation's.

    Examples
    --------
    >>> devices = [Device(n, VectorIndex(1)) for n in range(5)]
    >>> attackers(devices, np.arange(5), [3], seed=0)
    array([False, False, False,  True, False])
    >>> attackers(devices, np.arange(5), 0.4, seed=0).sum()
    np.int64(2)
    """
    if isinstance(who, float):
        order = generator(seed, Purpose.BYZANTINE).permutation(len(devices))
        return np.isin(places, order[: round(who * len(devices))])
    return np.array([devices[place].id in who for place in places.tolist()], np.bool_)


def poisoned(devices: Sequence[Device], who: Who, poison: Poison, *, seed: int) -> list[Device]:
    """Return the devices, some of them with poisoned training rows.

    Parameters
    ----------
    devices : sequence of Device
        All of the federation; they stay as they are.
    who : float, or collection of ids
        See `attackers`: with the same seed, a share means the same devices as in the stages of
        `fedlab.updates.attacks`.
    poison : LabelFlip, BackDoor, or a function of rows, labels and a generator
    seed : int
        The federation's.

    Examples
    --------
    >>> index = VectorIndex(1)
    >>> _ = index.add([[1.0], [2.0]], labels=[0, 1])
    >>> [device] = poisoned([Device(7, index)], [7], LabelFlip(classes=3), seed=0)
    >>> device.labels, index.labels
    (array([2, 1]), array([0, 1]))
    """
    refuse_strangers(who, devices)
    bad = attackers(devices, np.arange(len(devices)), who, seed)
    return [_with(d, poison, seed) if lies else d for d, lies in zip(devices, bad, strict=True)]


def _with(device: Device, poison: Poison, seed: int) -> Device:
    old, keys = device.index, device.training_keys
    draw = generator(seed, Purpose.BYZANTINE, device=device.id, part=1)
    x, y = poison(*device.training(), draw)
    index = VectorIndex(old.dimensions, old.metric, old.dtype)
    for some, rows, labels in ((keys, x, y), (device.validation_keys, *device.validation())):
        about = old.metadata_of(some) if old.metadata.shape[1] else None
        index.add(rows, keys=some, labels=labels, metadata=about)
    return Device(device.id, index, device.profile).holding_out(device.validation_keys)


@dataclass(frozen=True)
class LabelFlip:
    """Class y becomes class C - 1 - y.

    Parameters
    ----------
    classes : int
        C.

    Source: Fang et al., "Local model poisoning attacks to Byzantine-robust federated learning",
    USENIX Security 2020.

    Examples
    --------
    >>> LabelFlip(10)(np.zeros((2, 1)), np.array([1, 7]), np.random.default_rng(0))[1]
    array([8, 2])
    """

    classes: int

    def __post_init__(self) -> None:
        whole_number(self.classes, "classes", 2)

    def __call__(self, x: Array, y: Array, draw: np.random.Generator) -> tuple[Array, Array]:
        if len(y) and not 0 <= y.min() <= y.max() < self.classes:
            raise ValueError(
                f"labels from {y.min()} to {y.max()} can't be flipped within {self.classes} "
                "classes; give LabelFlip as many as there are"
            )
        return x, self.classes - 1 - y


@dataclass(frozen=True)
class BackDoor:
    """Rows with a trigger, labelled as the attackers wish: the model shall learn to obey it.

    Parameters
    ----------
    target : int
        The class of every row with the trigger.
    features : sequence of int
        Places of the trigger in a row.
    value : float
        What stands there.
    share : float
        Of an attacker's rows, those that get the trigger.

    Source: Gu, Dolan-Gavitt and Garg, "BadNets: identifying vulnerabilities in the machine learning
    model supply chain", 2017; Bagdasaryan et al., "How to backdoor federated learning", AISTATS
    2020.

    Examples
    --------
    >>> BackDoor(target=7, features=(0,), value=9.0).triggered(np.zeros((1, 3)))
    array([[9., 0., 0.]])
    """

    target: int
    features: tuple[int, ...]
    value: float = 1.0
    share: float = 0.5

    def __post_init__(self) -> None:
        whole_number(self.target, "target", 0)
        share_of_one(share=self.share)

    def triggered(self, x: Array) -> Array:
        """Return rows with the trigger, (n, d)."""
        x = np.array(x)
        x[:, list(self.features)] = self.value
        return x

    def __call__(self, x: Array, y: Array, draw: np.random.Generator) -> tuple[Array, Array]:
        chosen = draw.permutation(len(y))[: round(self.share * len(y))]
        x, y = np.array(x), np.array(y)
        x[chosen], y[chosen] = self.triggered(x[chosen]), self.target
        return x, y

    def success(self, model: Any, parameters: Array, x: Array, y: Array) -> float:
        """Return the share of other classes' rows that the model takes for the target's.

        Rows get the trigger first; `model` has `predict`.
        """
        others = self.triggered(x[y != self.target])
        if not len(others):
            raise ValueError(f"all {len(y)} rows are of class {self.target}; give others, too")
        return float((model.predict(parameters, others).argmax(axis=1) == self.target).mean())
