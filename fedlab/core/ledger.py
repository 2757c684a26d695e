"""What travels between devices and server: every message's bytes, by step and by device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import I64

if TYPE_CHECKING:
    import pandas as pd

Direction = Literal["down", "up"]


class Ledger:
    """Bytes that went down to devices and came up from them.

    Counted is what a message says (vectors, keys, distances, masked numbers) in the types in which
    it would travel, without a transport's own headers.

    Parameters
    ----------
    devices : sequence of int or str
        The devices' ids; below, a device is named by its place in them.

    Examples
    --------
    >>> ledger = Ledger(["ward 3", "ward 7"])
    >>> ledger.note(1, "down", "queries", 1536, [0, 1])
    >>> ledger.note(1, "up", "hits", [120, 36], [0, 1])
    >>> ledger.down, ledger.up, ledger.rounds
    (3072, 156, 1)
    """

    def __init__(self, devices: Sequence[int | str]) -> None:
        self.devices = tuple(devices)
        self._entries: list[tuple[int, Direction, str, I64, I64]] = []

    def note(
        self, round: int, direction: Direction, what: str, bytes: ArrayLike, devices: ArrayLike
    ) -> None:
        """Note messages of one kind.

        Parameters
        ----------
        round : int
            Which exchange between server and devices, from 1.
        direction : {"down", "up"}
            From the server to devices, or from them.
        what : str
            What the messages hold: "queries", "hits".
        bytes : int or (m,) ints
            Of all messages alike, or of each.
        devices : (m,) ints
            The other end of each message: a device's place.
        """
        places = np.atleast_1d(np.asarray(devices, np.int64))
        sizes = np.broadcast_to(np.asarray(bytes, np.int64), places.shape)
        self._entries.append((round, direction, what, places, sizes))

    @property
    def down(self) -> int:
        """Bytes from the server to all devices."""
        return self._sum("down")

    @property
    def up(self) -> int:
        """Bytes from all devices to the server."""
        return self._sum("up")

    @property
    def bytes(self) -> int:
        """Bytes in both directions."""
        return self.down + self.up

    @property
    def rounds(self) -> int:
        """Exchanges between server and devices, one after another."""
        return max((entry[0] for entry in self._entries), default=0)

    def of_devices(self) -> I64:
        """Return each device's bytes, in both directions, (m,)."""
        total = np.zeros(len(self.devices), np.int64)
        for *_, places, sizes in self._entries:
            np.add.at(total, places, sizes)
        return total

    def to_frame(self) -> pd.DataFrame:
        """Return a tidy frame: round, direction, what, device, bytes; a row a message."""
        import pandas as pd

        rows = [
            (round, direction, what, self.devices[place], size)
            for round, direction, what, places, sizes in self._entries
            for place, size in zip(places.tolist(), sizes.tolist(), strict=True)
        ]
        return pd.DataFrame(rows, columns=["round", "direction", "what", "device", "bytes"])

    def _sum(self, direction: Direction) -> int:
        return sum(int(sizes.sum()) for _, way, _, _, sizes in self._entries if way == direction)
