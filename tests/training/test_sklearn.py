"""Estimators as models: from the server's parameters, by partial_fit, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor

from fedlab import Federation, LocalSGD
from fedlab.algorithms import FedProx
from fedlab.core.settings import described
from fedlab.models import SklearnModel
from fedlab.training import Phase, train_cohort, trainer_of
from tests.federations import class_device, regression_device

DRAW = np.random.default_rng(1)
DEVICES = [class_device(n, DRAW.integers(0, 3, 20 + 9 * n).tolist(), seed=n) for n in range(3)]
TWO = [class_device(n, DRAW.integers(0, 2, 20 + 9 * n).tolist(), seed=n) for n in range(3)]
NUMBERS = [regression_device(name, 22 + name, 4, seed=0) for name in range(3)]
LOCAL = LocalSGD(epochs=1, batch_size=8, learning_rate=0.02)
CLASSIFIERS = {
    "log": SGDClassifier(loss="log_loss", alpha=0.01),
    "l1": SGDClassifier(loss="log_loss", penalty="l1"),
    "MLP": MLPClassifier((6, 5), solver="sgd", alpha=0.1),
    "Adam": MLPClassifier((6,)),
}
CASES = {
    **{name: (SklearnModel(one, 4, 3), DEVICES) for name, one in CLASSIFIERS.items()},
    **{f"{name} of two": (SklearnModel(one, 4, 2), TWO) for name, one in CLASSIFIERS.items()},
    "line": (SklearnModel(SGDRegressor(), 4), NUMBERS),
    "MLP of numbers": (SklearnModel(MLPRegressor(hidden_layer_sizes=(6,)), 4), NUMBERS),
}


@pytest.mark.parametrize("name", CASES)
def test_no_step_leaves_the_parameters_as_given(name):
    model, devices = CASES[name]
    start = DRAW.normal(size=model.layout.size).astype(np.float32)
    np.testing.assert_array_equal(model.parameters_of(model.at(start)), start)
    idle = train_cohort(devices, model, Phase(start, epochs=0), LOCAL, seed=0, round=1)
    np.testing.assert_array_equal(idle.changes, 0)


def by_hand(model, device, start, round):
    """An estimator made by scikit-learn alone, its parameters set, and partial_fit by batches."""
    settings = {"learning_rate": "constant", "shuffle": False, "random_state": 3}
    deep = hasattr(model.estimator, "hidden_layer_sizes")
    rate = {"learning_rate_init" if deep else "eta0": 0.02}
    made = type(model.estimator)(**{**model.estimator.get_params(), **settings, **rate})
    x, y = device.training()
    classes = {} if model.classes is None else {"classes": np.arange(model.classes)}
    first = True
    for rows in LOCAL.batches(len(x), 0, round, device.id):
        if first:  # a fit of one row makes the attributes; then they are set
            kept = made.get_params()
            made.partial_fit(x[:1], y[:1], **classes)
            made.set_params(**kept)
            parts = list(model.layout.views(start.copy()).values())
            if deep:
                made.coefs_, made.intercepts_ = list(parts[::2]), list(parts[1::2])
                del made._optimizer
            else:
                made.coef_, made.intercept_ = parts
            first = False
        made.batch_size = len(x[rows])
        made.partial_fit(x[rows], y[rows])
    parts = [*zip(made.coefs_, made.intercepts_, strict=True)] if deep else [
        (made.coef_, made.intercept_)
    ]  # fmt: skip
    return np.concatenate([array.ravel() for pair in parts for array in pair])


@pytest.mark.parametrize("name", CASES)
def test_two_rounds_are_the_loop_by_hand(name):
    model, devices = CASES[name]
    run = Federation(devices, model, local=LOCAL, seed=0)
    start = model.initial(0)
    run.run(rounds=2)
    rows = np.array([len(device.training()[1]) for device in devices], float)
    shares = rows / rows.sum()
    for round in (1, 2):
        ends = [by_hand(model, device, start, round) for device in devices]
        start = (start + shares @ (np.array(ends) - start)).astype(np.float32)
    np.testing.assert_allclose(run.parameters, start, atol=1e-6)
    assert np.abs(start - model.initial(0)).max() > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_it_learns_and_is_measured(name):
    model, devices = CASES[name]
    x, y = devices[0].training()
    run = Federation(devices[:1], model, local=replace(LOCAL, epochs=5), seed=0)
    before = model.evaluate(model.initial(0), x, y)
    run.run(rounds=10)
    after = model.evaluate(run.parameters, x, y)
    assert after["loss"] < before["loss"]
    if model.classes is not None:
        shares = model.predict(run.parameters, x)
        right = shares[np.arange(len(y)), y]
        assert after["loss"] == pytest.approx(-np.log(right).mean(), rel=1e-4)
        assert after["accuracy"] == (shares.argmax(axis=1) == y).mean()


def test_a_device_gets_the_same_bits_whoever_else_is_there():
    model, devices = CASES["MLP"]
    start = model.initial(1)
    together = train_cohort(devices, model, start, LOCAL, seed=0, round=1, threads=2)
    for number, device in enumerate(devices):
        alone = train_cohort([device], model, start, LOCAL, seed=0, round=1)
        np.testing.assert_array_equal(alone.changes[0], together.changes[number])


@pytest.mark.parametrize(
    ("phase", "local", "why"),
    [
        ({"mu": 0.1}, {}, "a pull towards an anchor, which no partial_fit takes; choose FedAvg"),
        ({"gradient": True}, {}, "a gradient to send"),
        ({"offset": np.ones(15, np.float32)}, {}, "an offset of gradients"),
        ({"trained": np.ones(15, np.bool_)}, {}, "a mask of what trains"),
        ({}, {"momentum": 0.9}, r"momentum=0\.9, which no partial_fit takes"),
        ({}, {"weight_decay": 0.1}, r"weight_decay=0\.1"),
        ({}, {"clip": 1.0}, r"clip=1\.0"),
    ],
)
def test_what_partial_fit_can_not_do_is_refused(phase, local, why):
    model, devices = CASES["log"]
    work = Phase(model.initial(0), **phase)
    with pytest.raises(ValueError, match=why):
        train_cohort(devices, model, work, replace(LOCAL, **local), seed=0, round=1)


def test_an_algorithm_that_adds_to_gradients_is_refused_by_a_run():
    model, devices = CASES["log"]
    run = Federation(devices, model, algorithm=FedProx(mu=0.1), local=LOCAL, seed=0)
    with pytest.raises(ValueError, match="choose FedAvg, or a TorchModel"):
        run.run(rounds=1)
    with pytest.raises(ValueError, match="an estimator steps by itself"):
        trainer_of(model, "plain")
    with pytest.raises(TypeError, match="gives no gradient"):
        model.loss_and_gradient(model.initial(0), np.zeros((1, 4)), np.zeros(1, int))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: SklearnModel(Perceptron(), 4, 3), "give an object of SGDClassifier"),
        (lambda: SklearnModel(SGDClassifier, 4, 3), "estimator is the class SGDClassifier"),
        (lambda: SklearnModel(SGDClassifier(), 4), "classes is None"),
        (lambda: SklearnModel(SGDRegressor(), 4, 3), "SGDRegressor predicts numbers"),
        (
            lambda: SklearnModel(SGDRegressor(loss="huber"), 4),
            "loss of SGDRegressor is 'huber'; choose one of squared_error",
        ),
        (
            lambda: SklearnModel(SGDClassifier(), 4, 3),
            "loss of SGDClassifier is 'hinge'; choose one of log_loss",
        ),
        (
            lambda: SklearnModel(SGDClassifier(loss="log_loss", average=True), 4, 3),
            "average of SGDClassifier is True",
        ),
        (
            lambda: SklearnModel(MLPClassifier(early_stopping=True), 4, 3),
            "early_stopping of MLPClassifier is True",
        ),
        (
            lambda: SklearnModel(MLPClassifier(solver="lbfgs"), 4, 3),
            "solver of MLPClassifier is 'lbfgs'; choose one of sgd, adam",
        ),
    ],
)
def test_what_can_not_be_a_model_is_refused(made, why):
    with pytest.raises((TypeError, ValueError), match=why):
        made()


def test_estimators_are_told_apart_by_their_settings():
    logistic = (SGDClassifier(loss="log_loss", alpha=alpha) for alpha in (0.1, 0.2))
    one, two = (SklearnModel(made, 4, 3) for made in logistic)
    assert described(one) != described(two)
    before = described(one)
    one.evaluate(one.initial(0), *DEVICES[0].training())
    assert described(one) == before
