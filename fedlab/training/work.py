"""What a round asks of its devices: plain data, so that one loop serves all algorithms.

An algorithm never runs on a device. It describes local work as one or several phases, each with a
start and what is added to the gradient g at the point y,

    g + mu (y - anchor) + offset,

which carries proximal terms, control variates and dynamic regularisation through the same loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import Array, Bool, Places
from fedlab.core.validation import not_negative, shown, whole_number


@dataclass(frozen=True, eq=False)
class Phase:
    """One of the things that m devices do in turn, on p parameters.

    Attributes
    ----------
    start : (p,) or (m, p) array, optional
        Where local training begins: the server's model, or one point for each device. Without,
        where the phase before ended.
    mu : float
        Strength of the pull towards `anchor`.
    anchor : (p,) or (m, p) array, optional
        By default the start.
    offset : (p,) or (m, p) array, optional
        Added to every gradient.
    trained : (p,) mask, optional
        Parameters that train; the others stay at the start. By default all.
    epochs : int, optional
        Passes over a device's rows, if not those of the local training.
    gradient : bool
        Whether devices also send the gradient of their whole loss at the start, as the block
        ``gradient``.
    send : str or None
        The block in which the change over this phase travels.
    keep : str, optional
        The name under which a device keeps where the phase ended (see
        `fedlab.device.states.DeviceStates`).
    """

    start: Array | None = None
    mu: float = 0.0
    anchor: Array | None = None
    offset: Array | None = None
    trained: Bool | None = None
    epochs: int | None = None
    gradient: bool = False
    send: str | None = "change"
    keep: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that each device receives: the start, and what is added to its gradients.

        What a device keeps from round to round (its own control variate) does not travel.
        """
        sent = [self.start, self.anchor, self.offset]
        return sum(array.shape[-1] * array.itemsize for array in sent if array is not None)

    def of(self, place: int) -> Phase:
        """Return the work of the device at a place in the cohort: one point, anchor, offset."""
        return self._each(lambda array: array[place])

    def some(self, places: Places | slice) -> Phase:
        """Return the work of some devices of the cohort."""
        return self._each(lambda array: array[places])

    def checked(self, devices: int, size: int, numbers: np.dtype[Any]) -> Phase:
        """Return the work with arrays in one type, or say what does not fit such devices.

        Whoever made it: compiled loops read these arrays without looking at their shapes.
        """
        arrays: dict[str, Any] = {}
        for name in ("start", "anchor", "offset"):
            if (given := getattr(self, name)) is not None:
                fitting = checked_parameters(given, f"a phase's {name}", devices, size)
                arrays[name] = fitting.astype(numbers, copy=False)
        if self.trained is not None:
            mask = np.asarray(self.trained)
            if mask.shape != (size,) or mask.dtype != np.bool_:
                raise ValueError(
                    f"a phase's mask of what trains is {mask.dtype} of shape {mask.shape}; truth "
                    f"values of shape {(size,)} are needed"
                )
        not_negative(**{"a phase's mu": self.mu})
        if self.epochs is not None:
            whole_number(self.epochs, "a phase's epochs", 1)
        return replace(self, **arrays)

    def _each(self, taken: Callable[[Array], Array]) -> Phase:
        def those(array: Array | None) -> Array | None:
            return array if array is None or array.ndim == 1 else taken(array)

        return replace(
            self, start=those(self.start), anchor=those(self.anchor), offset=those(self.offset)
        )


def checked_parameters(given: ArrayLike, name: str, devices: int, size: int) -> Array:
    """Return one model's parameters, (p,), or each device's, (m, p), or say what fits neither."""
    array, shapes = np.asarray(given), ((size,), (devices, size))
    if array.shape not in shapes or array.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} is {array.dtype} of shape {array.shape}; {devices} devices with {size} "
            f"parameters take numbers of shape {shapes[0]} or {shapes[1]}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or inf")
    return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)


Work = Phase | tuple[Phase, ...]


def phases_of(work: Work | Array) -> tuple[Phase, ...]:
    """Return work as its phases; plain parameters just start there."""
    phases = work if isinstance(work, tuple) else (work,)
    if isinstance(work, np.ndarray):
        phases = (Phase(work),)
    if not phases or not all(isinstance(phase, Phase) for phase in phases):
        raise TypeError(f"work is {shown(work)}; give a Phase, or a tuple of them")
    return phases  # type: ignore[return-value]
