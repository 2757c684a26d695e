"""A model tried out before it is trained: does it give what is asked, and is its gradient right?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import Array
from fedlab.core.validation import read_only, require
from fedlab.models.base import MEMBERS, Model, gradient_of, measures_of


def check_model(model: Model, x: ArrayLike, y: ArrayLike, seed: int = 0) -> None:
    """Try a model of one's own on some rows; raise where it is not what training asks for.

    Its gradient is compared with central differences of its loss, one array of the layout at a
    time, at a point near the start; and its loss must be a mean over rows.

    Parameters
    ----------
    model : Model
    x : (n, inputs) array
    y : (n,) array
    seed : int
        Of the start, and of the directions that are tried.

    Raises
    ------
    TypeError, ValueError
        Naming the member that is missing or wrong.

    Examples
    --------
    >>> from fedlab.models import SoftmaxRegression
    >>> check_model(SoftmaxRegression(inputs=2, classes=2), np.eye(2), [0, 1])
    """
    require(model, "model", *MEMBERS)
    name, labels = type(model).__name__, read_only(np.asarray(y))
    rows = read_only(np.asarray(x, np.float64))
    if rows.ndim != 2 or rows.shape != (len(labels), model.inputs):
        raise ValueError(
            f"rows of shape {rows.shape} with {len(labels)} labels were given; "
            f"(n, {model.inputs}) with n labels are needed"
        )
    model.check_labels(labels)
    start, again = (np.asarray(model.initial(seed)) for _ in range(2))
    if start.shape != (model.layout.size,) or not np.isfinite(start).all():
        raise ValueError(
            f"{name}.initial gave shape {start.shape}; its layout has {model.layout.size} numbers, "
            "and all must be finite"
        )
    if not np.array_equal(start, again):
        raise ValueError(f"{name}.initial gives another start each time; draw it from its seed")
    draw = generator(seed, Purpose.INITIAL, part=1)
    point = start + 0.1 * draw.standard_normal(len(start))

    def loss_at(parameters: Array, times: int = 1) -> tuple[float, Array]:
        chance = generator(seed, Purpose.MODEL)  # the same for all points
        many, theirs = np.tile(rows, (times, 1)), np.tile(labels, times)
        return gradient_of(model, parameters, read_only(many), read_only(theirs), chance)

    loss, gradient = loss_at(point)
    exact = gradient.dtype == np.float64
    step, allowed = (1e-5, 1e-4) if exact else (1e-2, 2e-2)
    for part, places in model.layout.views(np.arange(len(point))).items():
        if part in model.layout.buffers:  # no gradient moves these
            continue
        along = np.zeros_like(point)
        along[places.ravel()] = draw.standard_normal(places.size) / np.sqrt(places.size)
        ahead, behind = (loss_at(point + way * step * along)[0] for way in (1, -1))
        found, told = (ahead - behind) / (2 * step), float(gradient @ along)
        if abs(found - told) > allowed * max(abs(found), abs(told), allowed):
            raise ValueError(
                f"{name}.loss_and_gradient gives a wrong gradient of {part!r}: along a direction "
                f"it says {told:.6g}, and the loss changes by {found:.6g}"
            )
    if not getattr(model, "stochastic", False):
        twice = loss_at(point, times=2)[0]
        if not np.isclose(twice, loss, rtol=1e-3):
            raise ValueError(
                f"{name}.loss_and_gradient gives {loss:.6g}, and {twice:.6g} where each row stands "
                "twice; the loss must be a mean over rows"
            )
    measures_of(model, point.astype(start.dtype), rows, labels)
