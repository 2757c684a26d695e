"""Which of its rows a device trains on: rules that choose on the device (see `rules`).

`Federation(rows=...)` takes one rule, or several of which each chooses among what the one before it
left. Trainers see a device that shows only those rows, so they need no change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import U64, Array, Places
from fedlab.core.validation import read_only, require
from fedlab.device.device import Device
from fedlab.device.rows import Rows
from fedlab.models.base import Model
from fedlab.training.work import Phase


class Given(NamedTuple):
    """What a rule chooses by, besides the device's rows.

    Attributes
    ----------
    model : Model
    parameters : (p,) array, or None
        Where the device's training starts; None for a fixed rule, and where the device is yet to
        choose one of several models.
    draw : Generator
        The chance of this seed, round and device; for a fixed rule that of the seed and device.
    """

    model: Model
    parameters: Array | None
    draw: np.random.Generator


class RowChoice(Protocol):
    """A rule by which a device chooses rows. It runs on the device: no row leaves it.

    A rule of one's own is a frozen dataclass with `choose`. Where what it chooses follows from the
    device's rows and the seed, ``fixed = True`` lets it be asked once; ``nbytes`` are the bytes
    that each device receives for it in each round, such as queries.
    """

    def choose(self, device: Device, given: Given) -> Places | Rows | None:
        """Return places among the device's training rows, (r,); they may repeat. None for all.

        Or rows to train on instead, such as its own with others that it has drawn (`Negatives`).

        The device shows what rules before this one have left.
        """


class Chosen(Device):
    """A device that shows those of its training rows which a rule chose, when it is asked."""

    # Device's own __init__ is not called: it takes an index, which a stored device makes late.
    def __init__(self, device: Device, rule: RowChoice, *given: Any) -> None:
        self.id, self._of, self._rule, self._given = device.id, device, rule, given
        self._held_out, self._places, self._known = device._held_out, None, None
        self._found: tuple[int, Places | Rows | None] | None = None

    def __getattr__(self, name: str) -> Any:
        if name not in ("index", "profile"):
            raise AttributeError(name)
        return getattr(self._of, name)

    @property
    def rows(self) -> int:
        """Rows that were chosen."""
        return len(self.training_rows())

    @property
    def training_keys(self) -> U64:
        """(r,) keys of the rows that were chosen, in the order of `training`, read-only.

        Where others are shown instead, of those that it would have trained on.
        """
        chosen = self.training_rows().chosen
        if self._found is not None and isinstance(self._found[1], Rows):
            return self._of.training_keys
        return self.index.keys if chosen is None else read_only(self.index.keys[chosen])

    def training_rows(self) -> Rows:
        """Return the rows that were chosen, or are shown instead."""
        held, edits = self._of.training_rows(), self.index.edits
        if self._found is None or self._found[0] != edits:
            self._found = edits, self._asked(len(held)) if len(held) else None
        places = self._found[1]
        if places is None:
            return held
        if isinstance(places, Rows):
            return places
        return Rows(held.x, held.y, places if held.chosen is None else held.chosen[places])

    def _asked(self, rows: int) -> Places | Rows | None:
        model, parameters, address = self._given
        draw = generator(purpose=Purpose.ROWS, device=self.id, **address)
        given = self._rule.choose(self._of, Given(model, parameters, draw))
        if given is None or isinstance(given, Rows):
            return given
        places = np.asarray(given)
        whole = places.ndim == 1 and places.dtype.kind in "iu" and len(places) > 0
        if not whole or not 0 <= places.min() <= places.max() < rows:
            raise ValueError(
                f"{type(self._rule).__name__}.choose gave {np.array2string(places, threshold=8)}; "
                f"places among {rows} rows, one at least, are needed, or None for all of them"
            )
        return places.astype(np.intp)


def choosing(
    rules: Sequence[RowChoice], devices: Sequence[Device], model: Model, phase: Phase, **at: int
) -> Sequence[Device]:
    """Return the devices of a cohort as they show the rows that rules choose in a round.

    Parameters
    ----------
    rules : sequence of RowChoice
        In turn; without any, the devices are returned as they are.
    devices : sequence of Device
    model : Model
    phase : Phase
        The cohort's first one, which says where training starts.
    **at : int
        The `seed` and `round`.
    """
    if not rules:
        return devices
    size, starts = model.layout.size, phase.start
    if starts is not None:  # of models side by side, the first is the one that all learn
        starts = np.broadcast_to(starts[..., :size], (len(devices), size))

    cohort = []
    for place, device in enumerate(devices):
        start = None if starts is None else starts[place]
        for part, rule in enumerate(rules):
            if getattr(rule, "fixed", False):
                device = _kept(device, rule, model, {"seed": at["seed"], "part": part})
            else:
                device = Chosen(device, rule, model, start, {**at, "part": part})
        cohort.append(device)
    return cohort


def _kept(device: Device, rule: RowChoice, model: Model, address: dict[str, int]) -> Device:
    """Return what a fixed rule shows: found once, and kept with the device."""
    view = device._view
    if view is None or view[0] is not rule or view[1] != address:
        device._view = view = rule, address, Chosen(device, rule, model, None, address)
    return view[2]


def checked_rules(given: RowChoice | Sequence[RowChoice] | None) -> tuple[RowChoice, ...]:
    """Return rules as a tuple, or say what is none."""
    rules = () if given is None else given if isinstance(given, list | tuple) else (given,)
    for rule in rules:
        require(rule, "a rule of rows=, such as Uniform(0.5),", "choose")
    return tuple(rules)
