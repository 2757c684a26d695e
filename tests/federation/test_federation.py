"""Federated averaging against closed forms and scikit-learn."""

import signal
import threading

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression as Ordinary
from sklearn.linear_model import LogisticRegression

from fedlab import (
    MLP,
    Convergence,
    Device,
    Federation,
    LinearRegression,
    LocalSGD,
    Profile,
    SoftmaxRegression,
    VectorIndex,
)
from fedlab.algorithms import FedAvg
from fedlab.fleet import Stragglers
from fedlab.updates import SGD, weighted_average
from tests.federations import class_device, quadratic, regression_device

FULL = LocalSGD(epochs=1, batch_size=None, learning_rate=0.1)


@pytest.fixture
def five():
    return [regression_device(n, rows=20 + 10 * n, inputs=3, seed=7) for n in range(5)]


def pooled(devices):
    parts = [device.training() for device in devices]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


# -- facts from outside ------------------------------------------------------------------------


def test_one_full_batch_step_a_round_is_gradient_descent_on_all_rows(five):
    federation = Federation(five, LinearRegression(3), local=FULL, parameters=np.zeros(4))
    x, y = pooled(five)
    design = np.column_stack([x.astype(np.float64), np.ones(len(x))])
    central = np.zeros(4)
    for _ in range(25):
        federation.round()
        central -= 0.1 * design.T @ (design @ central - y) / len(y)
        np.testing.assert_allclose(federation.parameters, central, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weights", ["rows", "uniform"])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_fixed_point_is_that_of_the_heterogeneous_quadratics(five, steps, weights):
    rate = 0.2
    federation = Federation(
        five,
        LinearRegression(3),
        local=LocalSGD(epochs=steps, batch_size=None, learning_rate=rate),
        weights=weights,
        parameters=np.zeros(4),
    )
    federation.run(1500 // steps)
    p = np.array([device.rows if weights == "rows" else 1.0 for device in five])
    left, right = np.zeros((4, 4)), np.zeros(4)
    for share, device in zip(p / p.sum(), five, strict=True):
        hessian, centre = quadratic(device)
        pull = np.eye(4) - np.linalg.matrix_power(np.eye(4) - rate * hessian, steps)
        left += share * pull
        right += share * pull @ centre
    np.testing.assert_allclose(federation.parameters, np.linalg.solve(left, right), atol=1e-12)


def test_linear_regression_reaches_scikit_learn_s_solution(five):
    federation = Federation(five, LinearRegression(3), local=FULL, parameters=np.zeros(4))
    federation.run(1500)
    central = Ordinary().fit(*(part.astype(np.float64) for part in pooled(five)))
    np.testing.assert_allclose(federation.parameters[:3], central.coef_, atol=1e-9)
    assert federation.parameters[3] == pytest.approx(central.intercept_, abs=1e-9)


def test_softmax_regression_reaches_scikit_learn_s_solution():
    devices = [class_device(n, [0, 1, 2] * (3 + n)) for n in range(4)]
    x, y = pooled(devices)
    x = x.astype(np.float64)
    l2 = 0.05
    local = LocalSGD(epochs=1, batch_size=None, learning_rate=0.2)
    federation = Federation(
        devices, SoftmaxRegression(4, 3, l2=l2), local=local, parameters=np.zeros(15)
    )
    federation.run(3000)
    # scikit-learn minimises C * (sum of losses) + |W|^2 / 2, so C = 1 / (l2 n).
    central = LogisticRegression(C=1 / (l2 * len(y)), tol=1e-12, max_iter=10_000).fit(x, y)
    ours = federation.layout.views(federation.parameters)
    np.testing.assert_allclose(ours["weights"].T, central.coef_, atol=1e-5)
    # Biases are free up to a constant for all classes: compare differences.
    np.testing.assert_allclose(np.diff(ours["bias"]), np.diff(central.intercept_), atol=1e-5)


# -- weights -------------------------------------------------------------------------------------


def test_weights_need_not_sum_to_one(five):
    def run(weights):
        federation = Federation(five, LinearRegression(3), weights=weights, parameters=np.zeros(4))
        federation.run(5)
        return federation.parameters

    rows = run("rows")
    np.testing.assert_allclose(run({d.id: 17.0 * d.rows for d in five}), rows, atol=1e-13)
    np.testing.assert_allclose(run(lambda device: device.rows / 1e6), rows, atol=1e-13)
    np.testing.assert_allclose(run({d.id: 3.0 for d in five}), run("uniform"), atol=1e-13)
    only = run({d.id: float(d.id == 2) for d in five})
    alone = Federation(five[2:3], LinearRegression(3), parameters=np.zeros(4))
    alone.run(5)
    np.testing.assert_allclose(only, alone.parameters, atol=1e-13)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="non-negative"):
        weighted_average([np.zeros(2), np.ones(2)], weights)


# -- devices of every kind -----------------------------------------------------------------------


def test_a_device_with_one_row_with_one_class_and_with_none():
    devices = [
        class_device("usual", [0, 1, 2] * 5),
        class_device("one row", [1]),
        class_device("one class", [2] * 8),
        class_device("none", []),
    ]
    federation = Federation(devices, SoftmaxRegression(4, 3), local=LocalSGD(batch_size=4))
    federation.run(3)
    assert np.isfinite(federation.parameters).all()
    assert federation.history.series("devices").tolist() == [3.0] * 3
    assert federation.history.series("rows").tolist() == [24.0] * 3
    assert federation.history.remarks().to_dict("records") == [
        {"round": 0, "who": "none", "text": "left out: no rows to train on"}
    ]


def test_a_federation_of_one_device_is_that_device_training_alone():
    device = class_device("only", [0, 1] * 12)
    model, local = SoftmaxRegression(4, 2), LocalSGD(epochs=2, batch_size=5)
    federation = Federation([device], model, local=local, parameters=np.zeros(10))
    federation.run(4)
    alone = np.zeros(10)
    x, y = device.training()
    for number in range(1, 5):
        for rows in local.batches(len(x), seed=0, round=number, device="only"):
            alone -= 0.1 * model.loss_and_gradient(alone, x[rows], y[rows])[1]
    np.testing.assert_allclose(federation.parameters, alone, atol=1e-12)


def test_an_update_that_is_not_finite_is_left_out_and_said():
    devices = [regression_device(n, rows=12, inputs=3, seed=1) for n in range(3)]
    wild = VectorIndex(3, "l2sq")
    wild.add(np.full((4, 3), 1e15), labels=np.full(4, 1e30))
    federation = Federation([*devices, Device("wild", wild)], LinearRegression(3), local=FULL)
    with pytest.warns(UserWarning, match=r"3 remarks .* history.remarks\(\)"):
        federation.run(3)
    calm = Federation(devices, LinearRegression(3), local=FULL)
    calm.run(3)
    np.testing.assert_array_equal(federation.parameters, calm.parameters)
    remarks = federation.history.remarks()
    assert remarks.who.tolist() == ["wild"] * 3
    assert "NaN or inf" in remarks.text[0]


def test_a_round_without_any_usable_update_leaves_the_model_and_says_so():
    wild = VectorIndex(1, "l2sq")
    wild.add([[1e18]], labels=[1e38])
    federation = Federation([Device("wild", wild)], LinearRegression(1), local=FULL)
    federation.round()
    assert federation.parameters.tolist() == [0.0, 0.0]
    assert (
        federation.history.remarks().text.iloc[-1] == "skipped: no usable update; the quorum is 1"
    )


class Own(SoftmaxRegression):
    """A model of one's own, whose code fails on devices that hold class 2."""

    def loss_and_gradient(self, parameters, x, y):
        if (y == 2).any():
            raise ArithmeticError("class 2 is beyond me")
        loss, gradient = super().loss_and_gradient(parameters, x, y)
        if (y == 1).any():
            return loss, gradient[:, None]
        return loss, gradient


def test_faults_of_devices_are_left_out_and_said_which_and_why():
    devices = [class_device(n, labels) for n, labels in enumerate([[0, 0], [0, 1], [0, 2], [0]])]
    federation = Federation(devices, Own(4, 3))
    federation.round()
    alone = Federation([devices[0], devices[3]], Own(4, 3))
    alone.round()
    np.testing.assert_array_equal(federation.parameters, alone.parameters)
    remarks = federation.history.remarks()
    assert remarks.who.tolist() == ["1", "2"]
    assert remarks.text[0].startswith("left out: ValueError")
    assert remarks.text[1] == "left out: ArithmeticError: class 2 is beyond me"
    assert federation.history.last("devices") == 2


@pytest.mark.parametrize("engine", ["auto", "plain"])
def test_a_model_at_fault_is_raised_and_not_fifty_times_remarked(engine):
    device = class_device("only", [0, 2, 1])
    federation = Federation([device], Own(4, 3), engine=engine)
    with pytest.raises(
        RuntimeError, match=r"none of the 1 devices .* class 2 is beyond me"
    ) as told:
        federation.run(50)
    assert isinstance(told.value.__cause__, ArithmeticError)
    assert federation.round_number == 0
    shapes = Federation([class_device("only", [0, 1])], Own(4, 3))
    with pytest.raises(RuntimeError, match=r"gradient of shape \(15, 1\); \(15,\) is needed"):
        shapes.round()


def test_who_has_trained_once_and_fails_later_is_only_left_out():
    device = class_device("only", [0, 0])
    federation = Federation([device], Own(4, 3))
    federation.round()
    device.index.add(np.ones((1, 4)), labels=[2])
    federation.round()
    assert federation.round_number == 2
    assert "skipped: no usable update" in federation.history.remarks().text.iloc[-1]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"algorithm": FedAvg}, r"algorithm is the class FedAvg; give an object: FedAvg\(...\)"),
        (
            {"algorithm": None},
            "algorithm of type NoneType was given, which has no check, init, work, report, learn",
        ),
        ({"model": "mlp"}, "model of type str was given, which has no layout, inputs"),
    ],
)
def test_what_is_no_model_or_algorithm_is_refused_by_what_it_lacks(five, settings, says):
    given = {"model": LinearRegression(3)} | settings
    with pytest.raises(TypeError, match=says):
        Federation(five, **given)


def test_a_step_of_another_shape_or_in_place_is_refused(five):
    class Column(FedAvg):
        def learn(self, state, means, devices):
            return means["change"][:, None], state

    class ColumnStep(SGD):
        def step(self, state, parameters, change):
            return (parameters + change)[:, None], state

    class InPlace(SGD):
        def step(self, state, parameters, change):
            parameters += change
            return parameters, state

    with pytest.raises(ValueError, match=r"Column.learn gave a change of shape \(4, 1\)"):
        Federation(five, LinearRegression(3), algorithm=Column()).round()
    with pytest.raises(ValueError, match=r"ColumnStep.step gave parameters of shape \(4, 1\)"):
        Federation(five, LinearRegression(3), server=ColumnStep()).round()
    with pytest.raises(ValueError, match="read-only"):
        Federation(five, LinearRegression(3), server=InPlace()).round()


def test_below_the_quorum_a_round_is_skipped_and_said():
    devices = [class_device(n, labels) for n, labels in enumerate([[0, 0], [0, 2], [0]])]
    federation = Federation(devices, Own(4, 3), algorithm="fedavgm", quorum=3)
    with pytest.warns(UserWarning, match="4 remarks"):
        federation.run(2)
    assert federation.round_number == 2
    assert not federation.parameters.any()
    texts = federation.history.remarks().text.tolist()
    assert texts[1::2] == ["skipped: 2 usable updates; the quorum is 3"] * 2
    enough = Federation(devices, Own(4, 3), algorithm="fedavgm", quorum=2)
    enough.round()
    assert enough.parameters.any()


@pytest.mark.parametrize("engine", ["compiled", "plain"])
def test_a_server_step_beyond_the_numbers_leaves_the_model_and_says_so(engine):
    devices = [class_device(n, [0, 1] * 5) for n in range(3)]
    model, server = SoftmaxRegression(4, 2), SGD(rate=1e300)
    federation = Federation(devices, model, server=server, engine=engine)
    federation.round()
    assert np.isfinite(federation.parameters).all()
    assert "the server's step gives NaN or inf" in federation.history.remarks().text[0]


def test_a_cohort_of_stragglers_that_are_all_dropped_is_said():
    devices = [class_device(n, [0, 1] * 5) for n in range(3)]
    stragglers = Stragglers(share=1.0, drop=True)
    federation = Federation(devices, SoftmaxRegression(4, 2), stragglers=stragglers)
    federation.round()
    assert "all of the cohort straggled" in federation.history.remarks().text[0]
    assert federation.history.last("bytes_up") == 0


# -- who takes part -------------------------------------------------------------------------------


def test_threads_and_repetition_give_the_same_bits():
    devices = [class_device(n, [0, 1, 2, 3] * (4 + n)) for n in range(7)]
    runs = []
    for threads in (1, 1, 4):
        federation = Federation(
            devices,
            MLP(4, (8,), 4),
            local=LocalSGD(epochs=2, batch_size=5),
            cohort=4,
            seed=11,
            threads=threads,
        )
        federation.run(6)
        runs.append((federation.parameters.tobytes(), federation.history.to_frame()))
    assert runs[0][0] == runs[1][0] == runs[2][0]
    assert runs[0][1].equals(runs[1][1])
    assert runs[0][1].equals(runs[2][1])


def test_another_seed_gives_another_run():
    devices = [class_device(n, [0, 1, 2, 3] * (4 + n)) for n in range(7)]
    ends = set()
    for seed in range(3):
        federation = Federation(devices, SoftmaxRegression(4, 4), cohort=3, seed=seed)
        federation.run(2)
        ends.add(federation.parameters.tobytes())
    assert len(ends) == 3


def test_rounds_one_by_one_or_continued_from_parameters_equal_one_run(five):
    whole = Federation(five, LinearRegression(3), cohort=2, seed=5)
    whole.run(6)
    parts = Federation(five, LinearRegression(3), cohort=2, seed=5)
    for _ in range(2):
        parts.round()
    parts.run(4)
    assert whole.parameters.tobytes() == parts.parameters.tobytes()
    handed_on = Federation(five, LinearRegression(3), cohort=2, seed=5)
    handed_on.run(3)
    later = Federation(five, LinearRegression(3), cohort=2, seed=5)
    later.parameters = handed_on.parameters
    later.round_number = handed_on.round_number
    later.run(3)
    assert whole.parameters.tobytes() == later.parameters.tobytes()


def test_parameters_are_copies_checked_on_the_way_in(five):
    federation = Federation(five, LinearRegression(3))
    federation.parameters[:] = 5
    assert not federation.parameters.any()
    for wrong in (np.zeros(3), np.full(4, np.nan), np.zeros((2, 2))):
        with pytest.raises(ValueError, match="4 finite numbers"):
            federation.parameters = wrong
    federation.parameters = [1, 2, 3, 4]
    assert federation.layout.views(federation.parameters)["bias"].tolist() == [4.0]


# -- when it ends ---------------------------------------------------------------------------------


def test_convergence_by_the_update_s_norm(five):
    federation = Federation(five, LinearRegression(3), local=FULL)
    federation.run(5000, Convergence("update_norm", tolerance=1e-3, patience=3))
    assert federation.stopped == "converged"
    norms = federation.history.series("update_norm")
    assert (norms.iloc[-3:] <= 1e-3).all()
    assert norms.iloc[-4] > 1e-3
    assert federation.round_number == len(norms) < 5000


def test_convergence_by_the_validation_loss():
    devices = [class_device(n, [0, 1, 2] * 10).hold_out(0.3, seed=0) for n in range(3)]
    federation = Federation(devices, SoftmaxRegression(4, 3))
    federation.run(500, Convergence(tolerance=1e-3, patience=4))
    losses = federation.history.series("validation_loss").to_numpy()
    assert federation.stopped == "converged"
    best = losses[: len(losses) - 4].min()
    assert losses[-4:].min() >= best - 1e-3 * 4


def test_the_rounds_end_it_when_it_does_not_converge(five):
    federation = Federation(five, LinearRegression(3))
    federation.run(3, Convergence("update_norm", tolerance=0.0))
    assert (federation.stopped, federation.round_number) == ("rounds", 3)


def test_convergence_on_a_loss_that_nobody_measures_is_refused(five):
    with pytest.raises(ValueError, match="hold_out"):
        Federation(five, LinearRegression(3)).run(3, Convergence())


def test_ctrl_c_keeps_what_was_done_and_the_run_can_go_on():
    devices = [class_device(n, [0, 1, 2, 3] * 50) for n in range(10)]

    def federation():
        return Federation(devices, MLP(4, (16,), 4), local=LocalSGD(batch_size=4), seed=2)

    interrupted = federation()
    timer = threading.Timer(0.4, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.warns(UserWarning, match="interrupted after round"):
        interrupted.run(100_000)
    done = interrupted.round_number
    assert interrupted.stopped == "interrupted"
    assert len(interrupted.history.series("train_loss")) == done > 0
    interrupted.run(2)
    straight = federation()
    straight.run(done + 2)
    assert straight.parameters.tobytes() == interrupted.parameters.tobytes()
    assert straight.history.to_frame().equals(interrupted.history.to_frame())


# -- what is measured -----------------------------------------------------------------------------


def test_bytes_and_simulated_seconds_follow_from_sizes_and_profiles():
    slow, fast = Profile(bandwidth=1e3, compute=1e4), Profile(bandwidth=1e6, compute=1e9)
    devices = [class_device("a", [0, 1] * 5), class_device("b", [0, 1] * 10)]
    devices = [Device("a", devices[0].index, slow), Device("b", devices[1].index, fast)]
    federation = Federation(devices, SoftmaxRegression(4, 2), local=LocalSGD(epochs=3))
    federation.round()
    last = federation.history.last
    sent, back = 10 * 4, 10 * 4 + 24
    assert (last("bytes_down"), last("bytes_up")) == (2 * sent, 2 * back)
    assert last("seconds") == pytest.approx((sent + back) / 1e3 + 6 * 10 * 10 * 3 / 1e4)


def test_the_test_set_and_held_out_rows_are_measured_each_round():
    devices = [class_device(n, [0, 1] * (5 + 5 * n)).hold_out(0.2, seed=1) for n in range(2)]
    test = class_device("t", [0, 1] * 6).training()
    federation = Federation(devices, SoftmaxRegression(4, 2), test=test)
    federation.run(2)
    model, parameters = federation.model, federation.parameters
    assert federation.history.last("test_accuracy") == model.evaluate(parameters, *test)["accuracy"]
    x, y = (np.concatenate(part) for part in zip(*(d.validation() for d in devices), strict=True))
    measured = federation.history.last("validation_loss")
    assert measured == pytest.approx(model.evaluate(parameters, x, y)["loss"], rel=1e-6)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cohort": 0}, "cohort"),
        ({"cohort": 6}, "at most 5"),
        ({"cohort": 1.5}, "share"),
        ({"weights": "size"}, "'rows', 'uniform'"),
        ({"weights": {0: 1.0}}, "no number for the devices"),
        ({"seed": -1}, "seed"),
        ({"threads": 0}, "threads"),
        ({"parameters": [1.0]}, "4 finite numbers"),
    ],
)
def test_settings_out_of_range_are_refused(five, settings, says):
    with pytest.raises(ValueError, match=says):
        Federation(five, LinearRegression(3), **settings)


def test_devices_that_do_not_fit_the_model_are_refused_by_name(five):
    with pytest.raises(ValueError, match=r"device 0 holds vectors of 3 numbers; the model takes 4"):
        Federation(five, LinearRegression(4))
    with pytest.raises(TypeError, match="device 0: labels of type float64"):
        Federation(five, SoftmaxRegression(3, 2))
    with pytest.raises(ValueError, match="same id"):
        Federation([five[0], five[0]], LinearRegression(3))
    with pytest.raises(ValueError, match="none of the 1 devices"):
        Federation([class_device("empty", [])], SoftmaxRegression(4, 2))
    bare = VectorIndex(3)
    bare.add(np.eye(3))
    with pytest.raises(ValueError, match="rows without labels"):
        Federation([Device("bare", bare)], LinearRegression(3))
