"""What a trained model, or a device's change of it, tells of the rows that it learned from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import F64, Array, Bool
from fedlab.device.states import DeviceStates
from fedlab.leaks.attacks import separation
from fedlab.models.base import Model
from fedlab.updates.sent import Updates
from fedlab.updates.stages import At, Rowwise, State

Rows = tuple[Array, Array]


class Overheard(Rowwise):
    """A stage of ``updates=`` that keeps what the server reads of each device at its place.

    Attributes
    ----------
    changes : dict of place to (p,) array
        What each device sent last.

    Examples
    --------
    >>> ear = Overheard()
    >>> sent = Updates(np.array([7]), {"change": np.ones((1, 2))}, np.ones(1), {})
    >>> _ = ear.apply({}, sent, DeviceStates(), At(0, 1))
    >>> ear.changes
    {7: array([1., 1.])}
    """

    def __init__(self) -> None:
        self.changes = dict[int, Array]()

    def init(self, size: int) -> State:
        self.changes.clear()  # of another run, or of a look at what goes together
        return {}

    def apply(
        self, state: State, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Updates, State, DeviceStates]:
        rows = sent.blocks["change"].copy()
        self.changes.update(zip(sent.places.tolist(), rows, strict=True))
        return sent, state, kept


def membership_auc(
    model: Model,
    parameters: Array,
    inside: Iterable[Rows],
    outside: Iterable[Rows],
    reference: Array | None = None,
) -> float:
    """Return how well a loss tells who was trained on from who was not: AUC, 0.5 by chance.

    The attacker has the model and candidates, and takes those of less loss for members.

    Parameters
    ----------
    model : Model
    parameters : (p,) array
    inside, outside : iterables of (x, y)
        Candidates: single rows, (1, d) and (1,), or all rows of a device.
    reference : (p,) array, optional
        A model that the attacker has trained on others: losses count less those under it, so that
        easy candidates don't pass for members. It is the stronger attack.

    Source: Yeom et al., "Privacy risk in machine learning: analyzing the connection to
    overfitting", CSF 2018; Watson et al., "On the importance of difficulty calibration in
    membership inference attacks", ICLR 2022.

    Examples
    --------
    >>> from fedlab import LinearRegression
    >>> x = np.ones((1, 1))
    >>> membership_auc(LinearRegression(1), np.array([1.0, 0.0]), [(x, [1.0])], [(x, [3.0])])
    1.0
    """
    members = list(inside)
    rows = [*members, *outside]

    def losses(of: Array) -> F64:
        return np.array([model.evaluate(of, x, np.asarray(y))["loss"] for x, y in rows])

    harder = 0.0 if reference is None else losses(reference)
    return separation(harder - losses(parameters), len(members))


def chosen_auc(
    vectors: Array, chosen: ArrayLike, expected: ArrayLike = 0.0, among: Bool | None = None
) -> float:
    """Return how well the change of items' vectors tells which a user chose: AUC, 0.5 by chance.

    In a step, the bias of an item that was chosen rises, that of one drawn as a negative falls, and
    those of all others stay: negatives are no cover. Of a sum over users, what is told is what
    rises more than expected.

    Parameters
    ----------
    vectors : (items, n) array
        Their change, biases last (see `fedlab.models.MatrixFactorisation`).
    chosen : (c,) ints
        Items of the user who is attacked.
    expected : (items,) array, optional
        How much the biases would move without that user: by other rounds, say.
    among : (items,) mask, optional
        The candidates; by default all items.

    Source: Chai et al., "Secure federated matrix factorization", IEEE Intelligent Systems 2021,
    for what gradients tell of ratings; Yuan et al., "Interaction-level membership inference attack
    against federated recommender systems", WWW 2023.

    Examples
    --------
    >>> chosen_auc(np.array([[0.0, 0.0], [0.1, 0.3], [0.2, -0.2]]), chosen=[1])
    1.0
    """
    rises = np.asarray(vectors, np.float64)[:, -1] - np.asarray(expected, np.float64)
    candidates = np.ones(len(rises), np.bool_) if among is None else among
    members = np.zeros(len(rises), np.bool_)
    members[np.asarray(chosen)] = True
    inside, outside = rises[members & candidates], rises[~members & candidates]
    return separation(np.concatenate([inside, outside]), len(inside))


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
