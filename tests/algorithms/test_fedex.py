"""FedEx: the update by hand and as in the authors' code, and a best step size that is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedlab import Device, Federation, LinearRegression, LocalSGD, SoftmaxRegression, VectorIndex
from fedlab.algorithms import FedEx
from fedlab.models.base import Layout
from fedlab.training import Phase, train_cohort
from fedlab.updates import ChainError, FixedPoint, SecureSum
from tests.federations import class_device

LAYOUT = Layout((("weights", (2,)),))


def told(method: FedEx, state: Any, places: list[int], errors: list[float], rows: list[float]):
    means = {
        "places": np.array(places, np.float64),
        "held_out_error": np.array(errors),
        "held_out_rows": np.array(rows),
        "change": np.zeros(2),
    }
    return method.learn(state, means, len(places))[1]


def test_the_update_is_that_of_a_calculation_by_hand():
    method = FedEx(rates=(0.1, 1.0, 10.0), epochs=(1, 1, 1))
    state = {"theta": np.array([0.5, 0.25, 0.25]), "past": np.array([0.4, 1.0]), "round": 3}
    places, rows, errors = [0, 1, 2, 3], [10.0, 30.0, 20.0, 40.0], [0.5, 0.2, 0.9, 0.4]
    drawn = method.drawn(state, np.array(places))
    after = told(method, state, places, errors, rows)
    gradient = [0.0, 0.0, 0.0]
    for which, error, count in zip(drawn, errors, rows, strict=True):
        gradient[which] += count / 100 * (error - 0.4) / state["theta"][which]
    eta = math.sqrt(2 * math.log(3)) / max(map(abs, gradient))
    weights = [t * math.exp(-eta * g) for t, g in zip(state["theta"], gradient, strict=True)]
    np.testing.assert_allclose(after["theta"], np.array(weights) / sum(weights), rtol=1e-12)
    # The next baseline is this round's error: .05 + .06 + .18 + .16.
    np.testing.assert_allclose(after["past"], [0.45, 1.0])
    assert after["round"] == 4


def reference(theta: Any, trace: list[float], discount: float, seen: Any) -> Any:
    """What `FedEx.step` of the authors' code does to log theta, in its own words."""
    z = np.log(theta)
    if trace:
        by = discount ** np.flip(np.arange(len(trace)))
        baseline = np.inner(trace, by) / by.sum()
    else:
        baseline = 0.0
    grad = np.zeros(len(z))
    for index, score, weight in seen:
        grad[index] += weight * (score - baseline) / theta[index]
    denominator = 1.0 if np.all(grad == 0.0) else np.abs(grad).max()
    z = z - np.sqrt(2.0 * np.log(len(z))) / denominator * grad
    return np.exp(z - np.log(np.exp(z).sum()))


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99])
def test_ten_rounds_are_those_of_the_authors_code(discount):
    method = FedEx(rates=(0.1, 0.3, 1.0, 3.0), epochs=(1, 1, 2, 2), discount=discount)
    state, draw = method.init(np.zeros(2), 9, LAYOUT), np.random.default_rng(0)
    trace: list[float] = []
    for _ in range(10):
        places = np.sort(draw.choice(9, 4, replace=False))
        errors, rows = draw.random(4), draw.integers(1, 50, 4).astype(float)
        shares = rows / rows.sum()
        seen = list(zip(method.drawn(state, places), errors, shares, strict=True))
        expected = reference(state["theta"], trace, discount, seen)
        state = told(method, state, places.tolist(), errors, rows)
        trace.append(float(np.inner(errors, shares)))
        np.testing.assert_allclose(state["theta"], expected, rtol=1e-9)


def test_configurations_are_drawn_as_often_as_theta_says():
    method = FedEx(rates=(1.0, 2.0, 3.0), epochs=(1, 1, 1), seed=5)
    state = {"theta": np.array([0.7, 0.0, 0.3]), "past": np.zeros(2), "round": 0}
    drawn = method.drawn(state, np.arange(4000))
    share = np.bincount(drawn, minlength=3) / 4000
    np.testing.assert_allclose(share, state["theta"], atol=4 * math.sqrt(0.21 / 4000))
    assert not (drawn == method.drawn(state | {"round": 1}, np.arange(4000))).all()
    assert (drawn[:10] == method.drawn(state, np.arange(10))).all()


def quadratics(count: int = 20) -> list[Device]:
    """Losses (w - c_i)^2 / 2 + b^2 / 2 in each round's start: curvature 1, other optima."""
    draw = np.random.default_rng(1)
    devices = []
    for number in range(count):
        index = VectorIndex(1, "l2sq")
        rows = np.array([[1.0], [-1.0]] * 6)
        slope = 3.0 + 0.2 * draw.standard_normal()
        index.add(rows, labels=(rows[:, 0] * slope).astype(np.float32))
        devices.append(Device(number, index).hold_out(0.34, seed=number))
    return devices


def test_the_step_size_that_solves_quadratics_at_once_is_found():
    """One full step of size 1 on a quadratic of curvature 1 ends at its lowest point."""
    rates = (0.01, 0.1, 1.0, 2.5)
    federation = Federation(
        quadratics(),
        LinearRegression(1),
        algorithm=FedEx(rates=rates, epochs=(1,) * 4),
        local=LocalSGD(batch_size=None, learning_rate=1.0),
        cohort=10,
    )
    federation.run(40)
    theta = federation.state.algorithm["theta"]
    assert rates[int(theta.argmax())] == 1.0
    assert theta.max() > 0.9


def test_devices_train_by_the_configurations_that_were_drawn():
    devices = [class_device(n, [0, 1, 2] * (4 + n)).hold_out(0.3, seed=0) for n in range(5)]
    model, local = SoftmaxRegression(4, 3), LocalSGD(batch_size=4, learning_rate=0.1)
    method = FedEx(rates=(0.5, 2.0), epochs=(1, 3), seed=2)
    federation = Federation(devices, model, algorithm=method, local=local, record="devices", seed=1)
    start, state = federation.parameters, federation.state.algorithm
    which = method.drawn(state, np.arange(5))
    assert len(set(which.tolist())) == 2
    rates, epochs = np.array([0.05, 0.2])[which], np.array([1, 3])[which]
    for engine in ("plain", "compiled"):
        work = Phase(start, rate=np.array([0.5, 2.0])[which], epochs=epochs)
        ours = train_cohort(devices, model, work, local, seed=1, round=1, engine=engine)
        theirs = train_cohort(
            devices, model, start, local, seed=1, round=1, rates=rates, epochs=epochs, engine=engine
        )
        np.testing.assert_allclose(ours.changes, theirs.changes, rtol=1e-6)
    report = federation.round()
    np.testing.assert_array_equal(report.devices["epochs"], epochs)
    expected = start + np.average(ours.changes, axis=0, weights=ours.rows)
    np.testing.assert_allclose(federation.parameters, expected, rtol=1e-5, atol=1e-7)
    # Judged by what the devices' own models are worth on rows held out.
    rows = [device.validation_rows for device in devices]
    errors = [
        1 - model.evaluate(start + change, *device.validation())["accuracy"]
        for device, change in zip(devices, ours.changes, strict=True)
    ]
    past = np.average(errors, weights=rows)
    assert federation.state.algorithm["past"][0] == pytest.approx(past, abs=1e-6)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="3 rates and 1 epochs"):
        FedEx(rates=(1.0, 2.0, 3.0), epochs=(1,))
    with pytest.raises(ValueError, match="two or more"):
        FedEx(rates=(1.0,), epochs=(1,))
    devices = [class_device(n, [0, 1, 2] * 4) for n in range(4)]
    method = FedEx(rates=(0.1, 1.0), epochs=(1, 1))
    with pytest.raises(ChainError, match="FedEx reads"):
        Federation(
            devices,
            SoftmaxRegression(4, 3),
            algorithm=method,
            updates=[FixedPoint(8.0, 32), SecureSum()],
        )
    with pytest.raises(RuntimeError, match="it holds no rows out"):
        Federation(devices, SoftmaxRegression(4, 3), algorithm=method).run(1)
    for wrong in ({"rate": np.ones(3)}, {"rate": np.zeros(4)}, {"epochs": np.array([1, 0, 1, 1])}):
        with pytest.raises(ValueError, match=r"epochs|rate|broadcast"):
            train_cohort(
                devices,
                SoftmaxRegression(4, 3),
                Phase(np.zeros(15, np.float32), **wrong),
                LocalSGD(),
                seed=0,
                round=1,
            )
