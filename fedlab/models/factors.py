"""Recommenders: a score is the product of an item's vector with a user's.

A row is the number of an item; the user is the device. So there is one user's vector among the
parameters, which stays at home: ``FedPer(keep=("user*",))``. The last number of each vector is a
bias: with q the item's and p the user's,

    score = q_1 p_1 + ... + q_s p_s + q_(s+1) + p_(s+1) + centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F32, Array, Places
from fedlab.core.validation import not_negative, one_of, whole_number
from fedlab.models.base import Layout, refuse_other_than_classes, refuse_other_than_numbers

Parts = dict[str, Array]
_SPREAD = 0.1


@dataclass(frozen=True)
class MatrixFactorisation:
    """Each item has a vector of its own, and the device's user one.

    **The user's vector travels** like the rest, unless the algorithm keeps it on the device, as
    ``FedPer(("user*",))`` and ``PFedRec(("user*",))`` do.

    Parameters
    ----------
    items, size : int
        How many items; numbers in a vector, besides its bias.
    loss : {"logistic", "squared"}
        -log sigma(score) where the label is 1, -log(1 - sigma(score)) where it is 0; or half the
        squared error, for ratings.
    centre : float
        The mean rating, say.
    l2 : float
        Each row adds ``l2 / 2 (|q|^2 + |p|^2)`` to the loss. So the items that a user does not
        touch stay as they are.

    Source: Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems",
    IEEE Computer 2009; Chai et al., "Secure federated matrix factorization", IEEE Intelligent
    Systems 2021, for devices.

    Examples
    --------
    >>> model = MatrixFactorisation(items=3, size=2)
    >>> model.layout.shapes
    (('item_vectors', (3, 3)), ('user_vector', (3,)))
    >>> model.predict(np.arange(12.0), np.array([[0.0]]))  # 0 * 9 + 1 * 10 + 2 + 11
    array([23.])
    """

    items: int
    size: int = 16
    loss: Literal["logistic", "squared"] = "logistic"
    centre: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        whole_number(self.items, "items", 1)
        whole_number(self.size, "size", 1)
        one_of(self.loss, ("logistic", "squared"), "loss")
        not_negative(l2=self.l2)

    @cached_property
    def layout(self) -> Layout:
        return Layout((*self._of_items, ("user_vector", (self.size + 1,))))

    @property
    def inputs(self) -> int:
        return 1

    def initial(self, seed: int) -> Array:
        """Return small random vectors."""
        draw = generator(seed, Purpose.INITIAL)
        return draw.normal(0, _SPREAD, self.layout.size).astype(np.float32)

    # What differs between models: where an item's vector comes from, and its gradient goes.

    @property
    def _of_items(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return (("item_vectors", (self.items, self.size + 1)),)

    def _rows(self, parts: Parts, items: Places) -> Array:
        return parts["item_vectors"][items]

    def _back(self, parts: Parts, items: Places, gradient: Array, into: Parts) -> float:
        """Add the gradient by some items' vectors to the model's; return a further loss."""
        np.add.at(into["item_vectors"], items, gradient)
        return 0.0

    # What is common to them.

    def vectors(self, parameters: Array) -> Array:
        """Return all items' vectors, (items, size + 1)."""
        return self._rows(self.layout.views(parameters), np.arange(self.items))

    def wish(self, parameters: Array) -> Array:
        """Return the user's vector with 1 for its bias, (size + 1,): items are asked with that."""
        return np.append(self.layout.views(parameters)["user_vector"][:-1], 1)

    def check_labels(self, y: Array) -> None:
        if self.loss == "squared":
            refuse_other_than_numbers(y)
        else:
            refuse_other_than_classes(y, 2)

    def places(self, x: Array) -> Places:
        """Return the items of rows, (n,), or say what is none."""
        if len(x) and not (0 <= x.min() <= x.max() < self.items and (x == np.floor(x)).all()):
            raise ValueError(
                f"rows from {x.min():g} to {x.max():g} were given; they are numbers of items, "
                f"0 ... {self.items - 1}"
            )
        return x[:, 0].astype(np.intp)

    def predict(self, parameters: Array, x: Array) -> Array:
        """Return each row's score, (n,)."""
        parts = self.layout.views(parameters)
        return self._scores(self._rows(parts, self.places(x)), parts["user_vector"])

    def _scores(self, rows: Array, user: Array) -> Array:
        shift = user[-1] + user.dtype.type(self.centre)
        return np.asarray(rows[:, :-1] @ user[:-1] + rows[:, -1] + shift)

    def losses(self, parameters: Array, x: Array, y: Array) -> Array:
        """Return each row's loss, (n,), without what l2 adds."""
        return self._errors(self.predict(parameters, x), y)[0]

    def _errors(self, scores: Array, y: Array) -> tuple[Array, Array]:
        if self.loss == "squared":
            error = scores - y.astype(scores.dtype)
            return np.square(error) / 2, error
        share = 1 / (1 + np.exp(-np.maximum(scores, -80)))
        return np.logaddexp(0, scores) - y * scores, share - y.astype(scores.dtype)

    def loss_and_gradient(self, parameters: Array, x: Array, y: Array) -> tuple[float, Array]:
        items, parts = self.places(x), self.layout.views(parameters)
        rows, user = self._rows(parts, items), parts["user_vector"]
        losses, error = self._errors(self._scores(rows, user), y)
        error, l2 = error / len(x), self.l2 / len(x)
        gradient = np.zeros_like(parameters)
        into = self.layout.views(gradient)
        into["user_vector"][:] = np.append(error @ rows[:, :-1], error.sum()) + self.l2 * user
        toward = np.outer(error, user)
        toward[:, -1] = error
        more = self._back(parts, items, toward + l2 * rows, into)
        more += l2 / 2 * np.square(rows).sum() + self.l2 / 2 * user @ user
        return float(losses.mean() + more), gradient

    def evaluate(self, parameters: Array, x: Array, y: Array) -> dict[str, float]:
        """Return ``loss``, and ``mse`` or ``accuracy``."""
        scores = self.predict(parameters, x)
        loss = float(self._errors(scores, y)[0].mean(dtype=np.float64))
        if self.loss == "squared":
            return {"loss": loss, "mse": 2 * loss}
        return {"loss": loss, "accuracy": float(((scores > 0) == y).mean())}


@dataclass(frozen=True)
class AdditiveFactorisation(MatrixFactorisation):
    """An item's vector is c + d: c is shared by all, d is the user's own view of it.

    Each row adds ``(mu |c|_1 - lam |d - c|^2) / (size + 1)`` to the loss: shared vectors are to be
    sparse, and views to differ from them.

    Parameters
    ----------
    items, size, loss, centre, l2
        See `MatrixFactorisation`.
    lam, mu : float

    Source: Li, Long and Zhou, "Federated recommendation with additive personalization", ICLR 2024
    (FedRAP), with constant weights, and by rows as in the authors' code.
    """

    lam: float = 0.0
    mu: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(lam=self.lam, mu=self.mu)

    @property
    def _of_items(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        shape = self.items, self.size + 1
        return ("item_vectors", shape), ("user_views", shape)

    def _rows(self, parts: Parts, items: Places) -> Array:
        return np.asarray(parts["item_vectors"][items] + parts["user_views"][items])

    def _back(self, parts: Parts, items: Places, gradient: Array, into: Parts) -> float:
        shared = parts["item_vectors"][items]
        apart, each = parts["user_views"][items] - shared, 1 / shared.size
        away = gradient.dtype.type(2 * self.lam * each) * apart
        sparse = gradient.dtype.type(self.mu * each) * np.sign(shared)
        np.add.at(into["item_vectors"], items, gradient + away + sparse)
        np.add.at(into["user_views"], items, gradient - away)
        return float(self.mu * np.abs(shared).sum() - self.lam * np.square(apart).sum()) * each


@dataclass(frozen=True, eq=False)
class TwoTower(MatrixFactorisation):
    """An item's vector is made of what is known of it, so that new items have one, and of its own.

    Content alone can't tell a popular item from others of its kind: with a bias of its own for each
    item it can, and with a vector of its own the model is a factorisation that knows content.
    Negatives that are drawn uniformly, as `fedlab.training.negatives.Negatives` draws them, need no
    correction of scores by how likely an item is drawn (Yi et al., RecSys 2019): it is the same for
    all.

    Parameters
    ----------
    items, size, loss, centre, l2
        See `MatrixFactorisation`.
    content : (items, c) array
        What is publicly known of each item. It does not travel.
    own : int
        To how many numbers of an item's vector, the last ones, something of its own is added: 1 for
        its bias, size + 1 for all, 0 for none. What travels is c (size + 1) + items * own numbers.

    Source: Covington, Adams and Sargin, "Deep neural networks for YouTube recommendations", RecSys
    2016; Kula, "Metadata embeddings for user and item cold-start recommendations", CBRecSys 2015,
    for sums of embeddings. Here with one linear layer for items, and a free vector for the user.

    Examples
    --------
    >>> TwoTower(items=2, size=1, content=np.array([[1.0], [3.0]])).layout.shapes
    (('tower', (1, 2)), ('item_own', (2, 1)), ('user_vector', (2,)))
    """

    content: F32 | None = None
    own: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number(self.own, "own", 0, self.size + 1)
        if self.content is None or self.content.ndim != 2 or len(self.content) != self.items:
            raise ValueError(f"give content of {self.items} items, a row each")

    @property
    def _of_items(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        made = ("tower", (self._known.shape[1], self.size + 1))
        return made, ("item_own", (self.items, self.own))

    @cached_property
    def _known(self) -> F32:
        return np.asarray(self.content, np.float32)

    def _rows(self, parts: Parts, items: Places) -> Array:
        rows = self._known[items] @ parts["tower"]
        rows[:, self.size + 1 - self.own :] += parts["item_own"][items]
        return np.asarray(rows)

    def _back(self, parts: Parts, items: Places, gradient: Array, into: Parts) -> float:
        into["tower"][:] = self._known[items].T @ gradient
        np.add.at(into["item_own"], items, gradient[:, self.size + 1 - self.own :])
        return 0.0
