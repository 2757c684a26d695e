"""One network, by whichever library is asked for."""

from __future__ import annotations

from fedlab.core.extras import imported
from fedlab.core.validation import known
from fedlab.models import MLP, Model, SklearnModel, TorchModel


def network(library: str, inputs: int, hidden: int, classes: int) -> Model:
    """Return a perceptron of one hidden layer with ReLU, for classes.

    Parameters
    ----------
    library : {"fedlab", "torch", "scikit-learn"}
        "torch" takes the extra of its name. scikit-learn's trains by ``partial_fit``: no algorithm
        can add to its gradients.
    inputs, hidden, classes : int

    Examples
    --------
    >>> network("scikit-learn", 64, 32, 10).layout.size == network("fedlab", 64, 32, 10).layout.size
    True
    """
    library = known(library, ("fedlab", "torch", "scikit-learn"), "library")
    if library == "fedlab":
        return MLP(inputs, (hidden,), classes)
    if library == "scikit-learn":
        from sklearn.neural_network import MLPClassifier

        own = {"solver": "sgd", "alpha": 0.0, "momentum": 0.0}
        return SklearnModel(MLPClassifier((hidden,), **own), inputs, classes)
    nn = imported("torch", "torch", "this network").nn
    layers = nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    return TorchModel(nn.Sequential(*layers), nn.CrossEntropyLoss(), inputs)
