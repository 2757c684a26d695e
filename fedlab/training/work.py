"""What a round asks of its devices: plain data, so that one loop serves all algorithms.

An algorithm never runs on a device. It describes local work as one or several phases, each with a
start and what is added to the gradient g at the point y,

    g + mu (y - anchor) + offset,

which carries proximal terms, control variates and dynamic regularisation through the same loop. A
loss of another kind is an `Objective`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import Array, Bool
from fedlab.core.validation import not_negative, positive, shown, whole_or_none
from fedlab.models.base import Model

#: What a device computes of its rows: of a model, the start and the end of a phase, (p,) each, and
#: its rows and labels. Numbers become stats that it tells, arrays of one axis blocks that it sends.
Observe = Callable[[Model, Array, Array, Array, Array], Mapping[str, Any]]


class Objective(Protocol):
    """What devices minimise in a phase, instead of their model's loss. It runs in the plain loop.

    Attributes
    ----------
    vectors : int
        How many vectors of parameters stand side by side and train together; the phase's start has
        as many. What is sent is the change of the first; what is kept are the others.
    nbytes : int
        What each device receives for it.
    """

    @property
    def vectors(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def some(self, places: Any) -> Objective:
        """Return it for some devices of the cohort, or for a single one."""

    def loss_and_gradient(
        self, model: Model, parameters: Array, x: Array, y: Array, **chance: Any
    ) -> tuple[float, Array]:
        """Return what `Model.loss_and_gradient` does; `chance` is passed on to the model."""


@dataclass(frozen=True, eq=False)
class Phase:
    """One of the things that m devices do in turn, on p parameters.

    Attributes
    ----------
    start : (p,) or (m, p) array, optional
        Where local training begins: the server's model, or one point for each device. Without,
        where the phase before ended.
    own : bool
        Whether the start is the device's own: then it does not travel.
    choose : (k, p) array, optional
        Models of which each device starts from the one that has the least loss on its rows; it
        tells which one as the stat ``choice``.
    mu : float
        Strength of the pull towards `anchor`.
    anchor : (p,) or (m, p) array, optional
        By default the start.
    offset : (p,) or (m, p) array, optional
        Added to every gradient.
    trained : (p,) mask, optional
        Parameters that train; the others stay at the start. By default all.
    stays : (p,) mask, optional
        Parameters that never leave the device: their change is not sent.
    objective : Objective, optional
        What is minimised, if not the model's loss.
    epochs : int or (m,) array, optional
        Passes over a device's rows, if not those of the local training; 0 trains nothing (and is
        for all devices).
    rate : float or (m,) array
        Times the step size of the local training.
    gradient : bool
        Whether devices also send the gradient of their whole loss at the start, as the block
        ``gradient``.
    send : str or None
        The block in which the change over this phase travels.
    keep : str, optional
        The name under which a device keeps where the phase ended (see
        `fedlab.device.states.DeviceStates`): of what stays, if anything does; else all of it.
    observe : Observe, optional
        What a device computes of its training rows after the phase, to be sent.
    held_out : bool
        Whether it computes that of the rows that it holds out instead.
    received : int, optional
        Bytes that each device receives, where not all of the arrays above travel.
    """

    start: Array | None = None
    own: bool = False
    choose: Array | None = None
    mu: float = 0.0
    anchor: Array | None = None
    offset: Array | None = None
    trained: Bool | None = None
    stays: Bool | None = None
    objective: Objective | None = None
    epochs: int | Any = None
    rate: float | Any = 1.0
    gradient: bool = False
    send: str | None = "change"
    keep: str | None = None
    observe: Observe | None = None
    held_out: bool = False
    received: int | None = None

    @property
    def vectors(self) -> int:
        """How many vectors of parameters train side by side."""
        return 1 if self.objective is None else self.objective.vectors

    @property
    def nbytes(self) -> int:
        """Bytes that each device receives: the start, and what is added to its gradients.

        What a device keeps from round to round (its own control variate) does not travel.
        """
        if self.received is not None:
            return self.received
        sent = [None if self.own else self.start, self.anchor, self.offset]
        # Of vectors side by side, the first is the server's.
        total = sum(
            array.shape[-1] // self.vectors * array.itemsize for array in sent if array is not None
        )
        total += 0 if self.choose is None else self.choose.nbytes
        return int(total) + (0 if self.objective is None else self.objective.nbytes)

    def checked(self, devices: int, size: int, numbers: np.dtype[Any]) -> Phase:
        """Return the work with arrays in one type, or say what does not fit such devices.

        Whoever made it: compiled loops read these arrays without looking at their shapes.
        """
        arrays: dict[str, Any] = {}
        for name in ("start", "anchor", "offset"):
            if (given := getattr(self, name)) is not None:
                width = size * self.vectors
                fitting = checked_parameters(given, f"a phase's {name}", devices, width)
                arrays[name] = fitting.astype(numbers, copy=False)
        if self.choose is not None:
            models = np.asarray(self.choose)
            fitting = checked_parameters(models, "what a phase chooses from", len(models), size)
            arrays["choose"] = np.atleast_2d(fitting).astype(numbers, copy=False)
        for name, what in (("trained", "trains"), ("stays", "stays")):
            if (given := getattr(self, name)) is not None:
                if self.vectors > 1:
                    raise ValueError(
                        f"a phase that trains {self.vectors} vectors side by side has no mask"
                    )
                mask = np.asarray(given)
                if mask.shape != (size,) or mask.dtype != np.bool_:
                    raise ValueError(
                        f"a phase's mask of what {what} is {mask.dtype} of shape {mask.shape}; "
                        f"truth values of shape {(size,)} are needed"
                    )
        not_negative(**{"a phase's mu": self.mu})
        for rate in np.atleast_1d(self.rate).tolist():
            positive(**{"a phase's rate": rate})
        for passes in np.atleast_1d(self.epochs).tolist():
            whole_or_none(passes, "a phase's epochs", min(np.ndim(self.epochs), 1))
        return replace(self, **arrays)

    @property
    def tells_more(self) -> bool:
        """Whether devices tell more of their rows than how far training moved."""
        return self.gradient or self.observe is not None or self.choose is not None

    def some(self, places: Any) -> Phase:
        """Return the work of some devices of the cohort, or of a single one."""

        def those(array: Array | None) -> Array | None:
            return array if array is None or array.ndim == 1 else array[places]

        objective = self.objective
        own = {n: c[places] for n in ("epochs", "rate") if np.ndim(c := getattr(self, n))}
        return replace(
            self,
            **own,
            start=those(self.start),
            anchor=those(self.anchor),
            offset=those(self.offset),
            objective=None if objective is None else objective.some(places),
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
