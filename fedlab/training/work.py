"""What a round asks of its devices, and what comes back: plain data, so that one loop serves all.

An algorithm never runs on a device. It describes local work: where to start, and what is added to
the gradient g at the point y,

    g + mu (y - anchor) + offset,

which carries proximal terms, control variates and dynamic regularisation through the same loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedlab.core.typing import Array, Bool, Places

__all__ = ["Work"]


@dataclass(frozen=True)
class Work:
    """Local work of a cohort of m devices on p parameters.

    Attributes
    ----------
    start : (p,) or (m, p) array
        Where local training begins: the server's model, or one point for each device.
    mu : float
        Strength of the pull towards `anchor`.
    anchor : (p,) or (m, p) array, optional
        By default the start.
    offset : (p,) or (m, p) array, optional
        Added to every gradient.
    trained : (p,) mask, optional
        Parameters that train; the others stay at the start. By default all.
    gradient : bool
        Whether devices also return the gradient of their whole loss at the start.
    """

    start: Array
    mu: float = 0.0
    anchor: Array | None = None
    offset: Array | None = None
    trained: Bool | None = None
    gradient: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes that each device receives: the start, and what is added to its gradients.

        What a device keeps from round to round (its own control variate) does not travel.
        """
        sent = [self.start, self.anchor, self.offset]
        return sum(array.shape[-1] * array.itemsize for array in sent if array is not None)

    def of(self, place: int) -> Work:
        """Return the work of the device at a place in the cohort: one point, anchor, offset."""

        def one(array: Array | None) -> Array | None:
            return array if array is None or array.ndim == 1 else array[place]

        start = one(self.start)
        assert start is not None
        return replace(self, start=start, anchor=one(self.anchor), offset=one(self.offset))

    def some(self, places: Places) -> Work:
        """Return the work of some devices of the cohort."""

        def those(array: Array | None) -> Array | None:
            return array if array is None or array.ndim == 1 else array[places]

        start = those(self.start)
        assert start is not None
        return replace(self, start=start, anchor=those(self.anchor), offset=those(self.offset))
