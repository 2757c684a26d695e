"""What a trained model, or a device's change of it, tells of the rows that it learned from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fedlab.core.typing import F64, Array
from fedlab.leaks.attacks import separation
from fedlab.models.base import Model

Rows = tuple[Array, Array]


def membership_auc(
    model: Model, parameters: Array, inside: Iterable[Rows], outside: Iterable[Rows]
) -> float:
    """Return how well a loss tells who was trained on from who was not: AUC, 0.5 by chance.

    The attacker has the model and candidates, and takes those of less loss for members.

    Parameters
    ----------
    model : Model
    parameters : (p,) array
    inside, outside : iterables of (x, y)
        Candidates: single rows, (1, d) and (1,), or all rows of a device.

    Source: Yeom et al., "Privacy risk in machine learning: analyzing the connection to
    overfitting", CSF 2018.

    Examples
    --------
    >>> from fedlab import LinearRegression
    >>> x = np.ones((1, 1))
    >>> membership_auc(LinearRegression(1), np.array([1.0, 0.0]), [(x, [1.0])], [(x, [3.0])])
    1.0
    """
    losses = [
        np.array([model.evaluate(parameters, x, np.asarray(y))["loss"] for x, y in rows])
        for rows in (inside, outside)
    ]
    return separation(-np.concatenate(losses), len(losses[0]))


def row_from_change(weights: Array, bias: Array) -> F64:
    """Return the row on which a layer took one step, from its change: exactly, up to rounding.

    A dense layer's gradient on one row is x times the error at its outputs, that of its bias the
    error itself, so that their quotient is x: for softmax regression, and a network's first layer.
    Learning rates and clipping cancel out.

    Parameters
    ----------
    weights : (d, n) array
        Change, or gradient, of the weights.
    bias : (n,) array
        Of the bias.

    Raises
    ------
    ValueError
        If the bias has not changed: nothing is told then.

    Source: Phong et al., "Privacy-preserving deep learning via additively homomorphic encryption",
    IEEE TIFS 2018, section 3; Zhu et al., "Deep leakage from gradients", NeurIPS 2019.

    Examples
    --------
    >>> row_from_change(np.outer([2.0, 3.0], [0.5, -0.5]), np.array([0.5, -0.5]))
    array([2., 3.])
    """
    error = np.asarray(bias, np.float64)
    most = int(np.argmax(np.abs(error)))
    if not error[most]:
        raise ValueError("the bias has not changed, so the change tells no row")
    return np.asarray(np.asarray(weights, np.float64)[:, most] / error[most])
