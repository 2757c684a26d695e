"""A scikit-learn estimator as a model: it starts from given parameters and steps by itself."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import Array
from fedlab.core.validation import one_of, shown, whole_number
from fedlab.models.base import Layout, refuse_other_than_classes, refuse_other_than_numbers

#: The estimators that are known, and the losses that are measured as they minimise them.
_LOSSES = {
    "SGDClassifier": "log_loss",
    "SGDRegressor": "squared_error",
    "MLPClassifier": "log_loss",
    "MLPRegressor": "squared_error",
}


@dataclass(frozen=True, eq=False)
class SklearnModel:
    """An estimator with ``partial_fit``, as a model.

    Devices start each round from the server's parameters, and call ``partial_fit`` on each batch.
    The step size is that of `fedlab.LocalSGD`, and constant; all else (penalty, momentum) is the
    estimator's. It draws nothing: batches come in an order from the run's seed.

    Parameters
    ----------
    estimator : SGDClassifier, SGDRegressor, MLPClassifier or MLPRegressor
        Only its settings are taken.
    inputs : int
        Numbers in a row.
    classes : int, optional
        For a classifier: labels are 0 ... classes - 1.

    Examples
    --------
    >>> from sklearn.linear_model import SGDClassifier
    >>> SklearnModel(SGDClassifier(loss="log_loss"), inputs=4, classes=3).layout.shapes
    (('coef_', (3, 4)), ('intercept_', (3,)))
    """

    estimator: Any
    inputs: int
    classes: int | None = None

    def __post_init__(self) -> None:
        from sklearn.base import clone

        name, settings = type(self.estimator).__name__, vars(self.estimator)
        if name not in _LOSSES:
            given = shown(self.estimator)
            raise TypeError(f"estimator is {given}; give an object of {', '.join(_LOSSES)}")
        whole_number(self.inputs, "inputs", 1)
        if name.endswith("Classifier"):
            whole_number(self.classes, "classes", 2)
        elif self.classes is not None:
            raise ValueError(f"classes is {self.classes}; {name} predicts numbers")
        one_of(settings.get("loss"), (_LOSSES[name],), f"the loss of {name}")
        one_of(settings.get("solver", "sgd"), ("sgd", "adam"), f"the solver of {name}")
        for setting in ("early_stopping", "average"):
            one_of(settings.get(setting, False), (False,), f"{setting} of {name}")
        fixed = {"shuffle": False, "random_state": 0, "learning_rate": "constant"}
        fixed |= {"batch_size": "auto"} if "batch_size" in settings else {}
        object.__setattr__(self, "estimator", clone(self.estimator).set_params(**fixed))

    @cached_property
    def _begun(self) -> Any:
        """An estimator that has seen rows, so that it has all its attributes."""
        y = np.arange(self.classes or 2)
        begun, x = copy.deepcopy(self.estimator), np.zeros((len(y), self.inputs), np.float32)
        begun.partial_fit(x, y, **({} if self.classes is None else {"classes": y}))
        vars(begun).pop("_optimizer", None)  # made anew, with momenta of zero
        return begun

    @cached_property
    def layout(self) -> Layout:
        return Layout(tuple((name, array.shape) for name, array in _arrays(self._begun).items()))

    def at(self, parameters: Array, rate: float = 1.0) -> Any:
        """Return an estimator that stands at parameters, and steps from there."""
        estimator = copy.deepcopy(self._begun)
        steps = {"learning_rate_init" if hasattr(estimator, "coefs_") else "eta0": rate}
        parts = [part.copy() for part in self.layout.views(np.array(parameters)).values()]
        if hasattr(estimator, "coefs_"):
            estimator.coefs_, estimator.intercepts_ = parts[::2], parts[1::2]
        else:
            estimator.coef_, estimator.intercept_ = parts
        return estimator.set_params(**steps)

    def parameters_of(self, estimator: Any) -> Array:
        """Return where an estimator stands, (p,)."""
        return np.concatenate([array.ravel() for array in _arrays(estimator).values()])

    def check_labels(self, y: Array) -> None:
        if self.classes is not None:
            refuse_other_than_classes(y, self.classes)
        else:
            refuse_other_than_numbers(y)

    def initial(self, seed: int) -> Array:
        """Return zeros; for an MLP, numbers as the estimator itself would draw them, float32.

        Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
        networks", AISTATS 2010, eq. 16.
        """
        vector, draw = np.zeros(self.layout.size, np.float32), generator(seed, Purpose.INITIAL)
        if hasattr(self._begun, "coefs_"):
            parts = list(self.layout.views(vector).values())
            factor = 2 if self.estimator.activation == "logistic" else 6
            for weights, bias in zip(parts[::2], parts[1::2], strict=True):
                bound = np.sqrt(factor / sum(weights.shape))
                for part in (weights, bias):
                    part[...] = draw.uniform(-bound, bound, part.shape)
        return vector

    def loss_and_gradient(self, parameters: Array, x: Array, y: Array) -> tuple[float, Array]:
        raise TypeError(
            f"{type(self.estimator).__name__} steps by its own partial_fit and gives no gradient: "
            "FedAvg trains it; a TorchModel of the same network takes any algorithm"
        )

    def predict(self, parameters: Array, x: Array) -> Array:
        """Return class probabilities, (n, classes), or the numbers predicted, (n,)."""
        estimator = self.at(parameters)
        return np.asarray(
            estimator.predict(x) if self.classes is None else estimator.predict_proba(x)
        )

    def evaluate(self, parameters: Array, x: Array, y: Array) -> dict[str, float]:
        """Return ``loss``, and ``accuracy`` or ``mse`` (see `measures`)."""
        return self.measures(self.at(parameters), x, y)

    def measures(self, estimator: Any, x: Array, y: Array) -> dict[str, float]:
        """Return what an estimator is worth on rows.

        The loss is half the squared error of numbers, or the cross-entropy of classes.
        """
        if self.classes is None:
            mse = float(np.square(estimator.predict(x) - y, dtype=np.float64).mean())
            return {"loss": mse / 2, "mse": mse}
        shares = np.asarray(estimator.predict_proba(x), np.float64)
        loss = -np.log(np.maximum(shares[np.arange(len(y)), y], 1e-15))
        accuracy = (shares.argmax(axis=1) == y).mean()
        return {"loss": float(loss.mean()), "accuracy": float(accuracy)}


def _arrays(estimator: Any) -> dict[str, Array]:
    if not hasattr(estimator, "coefs_"):
        return {name: getattr(estimator, name) for name in ("coef_", "intercept_")}
    pairs = zip(estimator.coefs_, estimator.intercepts_, strict=True)
    return {
        f"{name}{layer}": array
        for layer, pair in enumerate(pairs)
        for name, array in zip(("coefs_", "intercepts_"), pair, strict=True)
    }
