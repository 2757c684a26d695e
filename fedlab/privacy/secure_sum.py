"""Devices that have exchanged keys, and the masked sums that a server asks them for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedlab.core.ledger import Ledger
from fedlab.privacy.masks import KEY, Party, Words


class MissingDeviceError(ConnectionError):
    """Devices did not answer, so the masks that they share with others did not cancel.

    Attributes
    ----------
    devices : tuple of int or str
        Their ids.
    """

    def __init__(self, devices: Sequence[int | str], asked: int) -> None:
        self.devices = tuple(devices)
        names = ", ".join(repr(device) for device in self.devices[:5])
        more = f" and {len(self.devices) - 5} more" if len(self.devices) > 5 else ""
        super().__init__(
            f"{len(self.devices)} of {asked} devices did not answer ({names}{more}), and masks "
            "cancel only when all do; begin again with the others"
        )


class Session:
    """Devices that have exchanged keys, and sums over them.

    Parameters
    ----------
    devices : sequence of int or str
        Their ids, two at least, each once.

    Attributes
    ----------
    ledger : Ledger
        The bytes of the key exchange.
    rounds : int
        Sums asked for so far.

    Examples
    --------
    >>> session = Session(["ward 3", "ward 7"])
    >>> session.sum(lambda place: np.uint64([place, 10]))
    array([ 1, 20], dtype=uint64)
    >>> session.ledger.bytes
    128
    """

    def __init__(self, devices: Sequence[int | str]) -> None:
        self.devices = tuple(devices)
        if len(self.devices) < 2 or len(set(self.devices)) < len(self.devices):
            raise ValueError(
                f"devices {self.devices[:5]!r} were given; at least two are needed (a sum over one "
                "hides nothing), each id once"
            )
        self.ledger = Ledger(self.devices)
        self.rounds = 0
        everyone = np.arange(len(self.devices))
        self._parties = [Party(place) for place in everyone.tolist()]
        publics = [party.public for party in self._parties]
        self.ledger.note(1, "up", "public keys", KEY, everyone)
        self.ledger.note(1, "down", "public keys", KEY * (len(publics) - 1), everyone)
        for party in self._parties:
            party.meet(publics)

    @classmethod
    def of(cls, devices: Sequence[int | str], given: Session | None) -> Session:
        """Return a session of these devices: a new one, unless one was given."""
        if given is not None and list(given.devices) != list(devices):
            raise ValueError("the session is one of other devices, or in another order")
        return given or cls(devices)

    def sum(self, answer: Callable[[int], Words], purpose: int = 0) -> Words:
        """Ask every device for its numbers, masked, and return the sum of them.

        Parameters
        ----------
        answer : callable
            Given a device's place, what that device would say: unsigned numbers, of one shape
            and type for all. It is masked before anything else sees it. A ConnectionError or
            TimeoutError says that the device is not there.
        purpose : int
            Tells apart what sums are for.

        Raises
        ------
        MissingDeviceError
            If a device is not there; what the others sent is of no use then.
        """
        self.rounds += 1
        round = self.rounds
        return self._total(
            answer, lambda place, values: self._parties[place].masked(values, round, purpose)
        )

    def series(self, sums: int, size: int, dtype: Any = np.uint64, purpose: int = 0) -> Series:
        """Make masks ahead for sums of `size` numbers: many short ones cost what a long one does.

        Examples
        --------
        >>> series = Session(["ward 3", "ward 7"]).series(sums=2, size=1)
        >>> [series.sum(lambda place: np.uint64([place + step])) for step in (1, 2)]
        [array([3], dtype=uint64), array([5], dtype=uint64)]
        """
        self.rounds += 1
        shape = (sums, size)
        masks = [party.mask(shape, self.rounds, purpose, dtype) for party in self._parties]
        return Series(self, masks)

    def _total(
        self, answer: Callable[[int], Words], masked: Callable[[int, Words], Words]
    ) -> Words:
        sent: dict[int, Words] = {}
        for place in range(len(self.devices)):
            try:
                values = answer(place)
            except (ConnectionError, TimeoutError):
                continue  # noticed below, together with all others that are not there
            sent[place] = masked(place, values)
        return self._added(sent)

    def _added(self, sent: Mapping[int, Words]) -> Words:
        """Add up what came; this is all that the server does and sees."""
        missing = [id for place, id in enumerate(self.devices) if place not in sent]
        if missing:
            raise MissingDeviceError(missing, len(self.devices))
        kinds = {(values.dtype, values.shape) for values in sent.values()}
        if len(kinds) > 1:
            raise ValueError(f"devices answered with {sorted(map(str, kinds))}; one kind is needed")
        total = np.zeros_like(sent[0])
        for values in sent.values():
            total += values
        return total


class Series:
    """Sums of one size and type whose masks were made ahead (see `Session.series`)."""

    def __init__(self, session: Session, masks: Sequence[Words]) -> None:
        self._session, self._masks = session, masks
        self._next = 0

    def sum(self, answer: Callable[[int], Words]) -> Words:
        """Return the next sum, as `Session.sum` does.

        Raises
        ------
        ValueError
            If all masks were used, or an answer has another size or type.
        MissingDeviceError
            If a device is not there.
        """
        step = self._next
        if step == len(self._masks[0]):
            raise ValueError(f"all {step} sums were made; masks serve once: begin another series")
        self._next += 1
        return self._session._total(answer, lambda place, values: self._masked(place, step, values))

    def _masked(self, place: int, step: int, values: Words) -> Words:
        mask = self._masks[place][step]
        if values.dtype != mask.dtype or values.shape != mask.shape:
            raise ValueError(
                f"device {self._session.devices[place]!r} answered with {values.dtype}, "
                f"{values.shape}; this series is of {mask.dtype}, {mask.shape}"
            )
        masked: Words = values + mask
        return masked
