"""Algorithms by which devices keep models, or parts of them: against loops written by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fedlab import MLP, Device, Federation, LinearRegression, LocalSGD, VectorIndex
from fedlab.algorithms import (
    AFL,
    APFL,
    IFCA,
    QFFL,
    Alone,
    Ditto,
    FedAvg,
    FedBN,
    FedDyn,
    FedPer,
    FedRep,
    FineTuned,
    Scaffold,
)
from fedlab.algorithms.afl import on_simplex
from fedlab.models import Layout
from fedlab.training import train_device
from fedlab.updates import ChainError
from fedlab.updates.stages import At
from tests.federations import class_device, quadratic, regression_device

RATE, STEPS = 0.2, 5


@pytest.fixture(scope="module")
def five() -> list[Device]:
    return [regression_device(n, rows=20 + 10 * n, inputs=3, seed=7) for n in range(5)]


def learn(devices: list[Device], algorithm: Any, rounds: int, **settings: Any) -> Federation:
    given = {"weights": "uniform", "parameters": np.zeros(4)} | settings
    local = LocalSGD(epochs=STEPS, batch_size=None, learning_rate=RATE)
    federation = Federation(devices, LinearRegression(3), algorithm=algorithm, local=local, **given)
    federation.run(rounds)
    return federation


def descended(device: Device, x: Any, steps: int = STEPS, mu: float = 0.0, anchor: Any = 0) -> Any:
    """Gradient steps on a device's quadratic, under a pull."""
    h, c = quadratic(device)
    for _ in range(steps):
        x = x - RATE * (h @ (x - c) + mu * (x - anchor))
    return x


def optimum(devices: list[Device]) -> Any:
    parts = [quadratic(device) for device in devices]
    return np.linalg.solve(sum(h for h, _ in parts), sum(h @ c for h, c in parts))


@pytest.mark.parametrize("cohort", [None, 3])
def test_feddyn_reaches_the_uniform_optimum(five: list[Device], cohort: int | None) -> None:
    found = learn(five, FedDyn(alpha=0.5), 1500, cohort=cohort).parameters
    np.testing.assert_allclose(found, optimum(five), atol=1e-8)


def test_feddyn_s_first_rounds_are_its_equations(five: list[Device]) -> None:
    alpha, x, h = 0.5, np.zeros(4), np.zeros(4)
    duals = np.zeros((5, 4))
    federation = learn(five, FedDyn(alpha=alpha), 0)
    for _ in range(4):
        ends = []
        for k, device in enumerate(five):
            hessian, c = quadratic(device)
            y = x
            for _ in range(STEPS):
                y = y - RATE * (hessian @ (y - c) - duals[k] + alpha * (y - x))
            ends.append(y)
            duals[k] -= alpha * (y - x)
        h = h - alpha / 5 * sum(end - x for end in ends)
        x = np.mean(ends, axis=0) - h / alpha
        federation.round()
        np.testing.assert_allclose(federation.parameters, x, atol=1e-11)


def test_qffl_without_q_is_the_unweighted_mean(five: list[Device]) -> None:
    a, b = learn(five, QFFL(q=0.0), 5), learn(five, FedAvg(), 5)
    np.testing.assert_allclose(a.parameters, b.parameters, atol=1e-12)


def test_qffl_s_round_is_its_equation(five: list[Device]) -> None:
    q, lipschitz, x = 2.0, 1 / RATE, np.zeros(4)
    federation, model = learn(five, QFFL(q=q), 0), LinearRegression(3)
    for _ in range(3):
        top, bottom = np.zeros(4), 0.0
        for device in five:
            loss = model.evaluate(x, *device.training())["loss"]
            g = lipschitz * (x - descended(device, x))
            top += loss**q * g
            bottom += q * loss ** (q - 1) * (g @ g) + lipschitz * loss**q
        x = x - top / bottom
        federation.round()
        np.testing.assert_allclose(federation.parameters, x, rtol=1e-6)


def test_qffl_makes_losses_more_even(five: list[Device]) -> None:
    def spread(algorithm: Any) -> float:
        parameters = learn(five, algorithm, 300).parameters
        return float(
            np.std([LinearRegression(3).evaluate(parameters, *d.training())["loss"] for d in five])
        )

    assert spread(QFFL(q=5.0)) < 0.9 * spread(FedAvg())


def test_the_projection_on_the_simplex_is_the_nearest_point() -> None:
    draw = np.random.default_rng(0)
    grid = np.array(
        [p for p in itertools.product(np.linspace(0, 1, 51), repeat=3) if abs(sum(p) - 1) < 1e-9]
    )
    for point in draw.normal(size=(20, 3)):
        found = on_simplex(point)
        assert found.sum() == pytest.approx(1)
        nearest = np.square(grid - point).sum(axis=1).min()
        assert np.square(found - point).sum() <= nearest + 1e-12


def test_afl_s_rounds_are_its_equations(five: list[Device]) -> None:
    rate, x, mixture = 0.05, np.zeros(4), np.full(5, 0.2)
    federation, model = learn(five, AFL(rate=rate), 0), LinearRegression(3)
    for _ in range(5):
        losses = np.array([model.evaluate(x, *d.training())["loss"] for d in five])
        x = mixture @ np.array([descended(d, x) for d in five])
        mixture = on_simplex(mixture + rate * losses)
        federation.round()
        np.testing.assert_allclose(federation.parameters, x, rtol=1e-6)
        np.testing.assert_allclose(federation.state.algorithm["mixture"], mixture, atol=1e-9)


def test_afl_lowers_the_largest_loss(five: list[Device]) -> None:
    def worst(algorithm: Any) -> float:
        parameters = learn(five, algorithm, 400).parameters
        return max(LinearRegression(3).evaluate(parameters, *d.training())["loss"] for d in five)

    assert worst(AFL(rate=0.01)) < 0.9 * worst(FedAvg())


def test_what_the_server_must_read_of_single_devices_is_refused_behind_a_mask(
    five: list[Device],
) -> None:
    class Sum:
        needs, gives, takes = frozenset(), frozenset(), frozenset({"rows"})

        def init(self, size: int) -> dict[str, Any]:
            return {}

        def apply(self, state: Any, sent: Any, kept: Any, at: At) -> Any:
            return sent, state, kept

    with pytest.raises(ChainError, match="AFL reads places, loss_at_start of each device"):
        learn(five, AFL(), 0, updates=[Sum()])
    learn(five, QFFL(), 1, updates=[Sum()])


def test_ditto_s_own_models_are_its_equations(five: list[Device]) -> None:
    lam, x, own = 0.3, np.zeros(4), np.zeros((5, 4))
    federation = learn(five, Ditto(lam=lam), 0)
    for number in range(4):
        own = np.array(
            [
                descended(d, v if number else x, mu=lam, anchor=x)
                for d, v in zip(five, own, strict=True)
            ]
        )
        x = np.mean([descended(d, x) for d in five], axis=0)
        federation.round()
        np.testing.assert_allclose(federation.parameters, x, atol=1e-11)
        np.testing.assert_allclose(federation.state.kept.column("own")[1], own, atol=1e-11)


def test_ditto_s_fixed_point(five: list[Device]) -> None:
    lam = 0.3
    federation = learn(five, Ditto(lam=lam), 600)
    for device, own in zip(five, federation.personal_parameters(), strict=True):
        h, c = quadratic(device)
        best = np.linalg.solve(h + lam * np.eye(4), h @ c + lam * federation.parameters)
        np.testing.assert_allclose(own, best, atol=1e-9)


def test_ditto_s_best_pull_in_point_estimation_is_the_ratio_of_the_variances() -> None:
    """Li et al. 2021, theorem 1: devices' means drawn with variance t, their estimates with s."""
    draw, devices, s, t = np.random.default_rng(0), 20_000, 2.0, 0.5
    truth = draw.normal(0, np.sqrt(t), devices)
    seen = truth + draw.normal(0, np.sqrt(s), devices)

    def error(lam: float) -> float:
        own = (seen + lam * seen.mean()) / (1 + lam)  # argmin (v - seen)^2 / 2 + lam (v - w)^2 / 2
        return float(np.square(own - truth).mean())

    assert min([1.0, 2.0, 3.0, 4.0, 5.0, 7.0], key=error) == s / t


def test_apfl_s_steps_are_its_equations(five: list[Device]) -> None:
    a, x, own = 0.4, np.zeros(4), np.zeros((5, 4))
    federation = learn(five, APFL(share=a), 0)
    for _ in range(4):
        ends = []
        for k, device in enumerate(five):
            h, c = quadratic(device)
            w, v = x, own[k]
            for _ in range(STEPS):
                mixed = a * v + (1 - a) * w
                w, v = w - RATE * h @ (w - c), v - RATE * a * h @ (mixed - c)
            own[k] = v
            ends.append(w)
        x = np.mean(ends, axis=0)
        federation.round()
        np.testing.assert_allclose(federation.parameters, x, atol=1e-11)
        np.testing.assert_allclose(
            federation.personal_parameters(), a * own + (1 - a) * x, atol=1e-11
        )


def test_apfl_without_a_share_of_its_own_serves_the_server_s_model(five: list[Device]) -> None:
    federation = learn(five, APFL(share=0.0), 3)
    np.testing.assert_array_equal(
        federation.personal_parameters(), np.tile(federation.parameters, (5, 1))
    )


@pytest.mark.parametrize(
    "algorithm", [FedPer(), FedRep(epochs=2), FedRep(keep=("weights1", "bias1"), epochs=1)]
)
def test_what_stays_never_leaves_a_device(algorithm: FedPer) -> None:
    devices, wire = [class_device(n, [0, 1, 2] * 4, seed=n) for n in range(3)], []

    class Tap:
        needs, gives, takes = frozenset(), frozenset(), frozenset()

        def init(self, size: int) -> dict[str, Any]:
            return {}

        def apply(self, state: Any, sent: Any, kept: Any, at: At) -> Any:
            wire.append(sent)
            return sent, state, kept

    model = MLP(4, (6,), 3)
    federation = Federation(devices, model, algorithm=algorithm, updates=[Tap()], seed=1)
    stays = federation.state.algorithm["stays"]
    start = federation.parameters
    federation.run(3)
    assert all(set(sent.blocks) == {"change"} for sent in wire)
    assert all(sent.blocks["change"].shape[1] == (~stays).sum() for sent in wire)
    assert (wire[0].nbytes == 24 + 4 * (~stays).sum()).all()
    # The server has neither a device's own part nor any trace of it.
    np.testing.assert_array_equal(federation.parameters[stays], start[stays])
    own = federation.state.kept.column("own part")[1]
    assert own.shape == (3, stays.sum())
    assert np.abs(own[0] - own[1]).max() > 1e-3
    assert (federation.parameters[~stays] != start[~stays]).mean() > 0.5


def test_fedrep_s_round_is_written_by_hand() -> None:
    devices = [class_device(n, [0, 1, 2] * 4, seed=n) for n in range(3)]
    model, local = MLP(4, (6,), 3), LocalSGD(batch_size=None, learning_rate=0.1)
    federation = Federation(devices, model, algorithm=FedRep(epochs=4), local=local, engine="plain")
    x, stays = federation.parameters, federation.state.algorithm["stays"]
    heads = [x[stays]] * 3
    for _ in range(2):
        bodies = []
        for k, device in enumerate(devices):
            y = x.copy()
            y[stays] = heads[k]
            for step in range(5):
                gradient = model.loss_and_gradient(y, *device.training())[1]
                y = y - np.float32(0.1) * gradient * (stays if step < 4 else ~stays)
            heads[k] = y[stays]
            bodies.append(y[~stays])
        x[~stays] = np.mean(bodies, axis=0)
        federation.round()
        np.testing.assert_allclose(federation.parameters, x, atol=1e-6)
    np.testing.assert_allclose(federation.state.kept.column("own part")[1], heads, atol=1e-6)


def test_fedbn_keeps_what_it_is_told_and_says_what_there_is() -> None:
    layout = Layout((("fc", (2, 2)), ("bn.weight", (2,)), ("bn.mean", (2,))), buffers=("bn.mean",))
    state = FedBN().init(np.zeros(8, np.float32), 3, layout)
    assert state["stays"].tolist() == [False] * 4 + [True] * 4
    with pytest.raises(ValueError, match="no array is called like"):
        FedBN().init(np.zeros(4), 3, Layout((("fc", (2, 2)),)))
    with pytest.raises(ValueError, match="share nothing"):
        FedPer(keep=("*",)).init(np.zeros(4), 3, Layout((("fc", (2, 2)),)))


def test_alone_is_a_federation_of_one_for_each_device() -> None:
    devices = [class_device(n, [0, 1, 2] * (4 + n), seed=n) for n in range(3)]
    together = Federation(devices, MLP(4, (6,), 3), algorithm=Alone(), seed=5)
    together.run(4)
    assert (together.history.series("bytes_up") == 3 * 24).all()
    assert (together.history.series("bytes_down") == 0).all()
    for device, own in zip(devices, together.personal_parameters(), strict=True):
        one = Federation([device], MLP(4, (6,), 3), seed=5)
        one.run(4)
        np.testing.assert_allclose(own, one.parameters, atol=1e-6)


@pytest.mark.parametrize("inner", [FedAvg(), Scaffold(), FedRep()])
def test_fine_tuning_changes_nothing_of_what_is_learned_together(inner: Any) -> None:
    devices = [class_device(n, [0, 1, 2] * 4, seed=n) for n in range(3)]
    plain, tuned = (
        Federation(devices, MLP(4, (6,), 3), algorithm=algorithm, seed=5)
        for algorithm in (inner, FineTuned(inner, epochs=2))
    )
    plain.run(3)
    tuned.run(3)
    assert plain.parameters.tobytes() == tuned.parameters.tobytes()


def test_a_fine_tuned_model_is_what_the_device_s_own_training_gives() -> None:
    device = class_device("ward", [0, 1, 2] * 4).hold_out(0.3, seed=0)
    stranger = class_device("new", [0, 1, 2] * 3, seed=3).hold_out(0.3, seed=0)
    model, local = MLP(4, (6,), 3), LocalSGD(batch_size=4)
    federation = Federation(
        [device], model, algorithm=FineTuned(epochs=3, rate=0.5), local=local, seed=2
    )
    federation.run(2)
    rows = federation.validate(devices=[device, stranger], model="personal")
    for who in (device, stranger):
        update = train_device(
            *(who, model, federation.parameters, local), seed=2, round=3, epochs=3, rate=0.05
        )
        own = federation.personal_parameters([who])[0]
        np.testing.assert_allclose(own, federation.parameters + update.change, atol=1e-6)
        expected = model.evaluate(own, *who.validation())
        assert rows.loc[who.id, "accuracy"] == pytest.approx(expected["accuracy"])
    assert federation.validate().equals(federation.validate(model="server"))


def test_a_linear_probe_trains_the_last_layer_only() -> None:
    device = class_device("ward", [0, 1, 2] * 4)
    probe = FineTuned(epochs=2, only=("weights2", "bias2"))
    federation = Federation([device], MLP(4, (6,), 3), algorithm=probe)
    moved = federation.personal_parameters()[0] != federation.parameters
    assert moved.sum() > 0
    assert not moved[: 4 * 6 + 6].any()


def test_ifca_finds_two_populations_of_opposite_labels() -> None:
    draw, devices = np.random.default_rng(0), []
    for n in range(8):
        x = draw.normal(size=(60, 3)).astype(np.float32)
        sign = 1 if n % 2 else -1
        index = VectorIndex(3, "l2sq")
        index.add(x, labels=sign * (x @ np.array([2.0, -1.0, 0.5])) + 0.05 * draw.normal(size=60))
        devices.append(Device(n, index))
    federation = learn(devices, IFCA(clusters=2, spread=0.5), 60)
    found = federation.personal_parameters()
    for n, own in enumerate(found):
        sign = 1 if n % 2 else -1
        np.testing.assert_allclose(own, sign * np.array([2, -1, 0.5, 0]), atol=0.05)
    report = federation.round()
    assert report.measures["bytes_down"] == 8 * 2 * 4 * 8  # both models, float64
    one_change, members = 4 * 8, 2 * 8
    assert report.measures["bytes_up"] == 8 * (24 + one_change + members)


def test_ifca_with_one_cluster_is_fedavg(five: list[Device]) -> None:
    one = learn(five, IFCA(clusters=1, spread=1e-12), 6, weights="rows")
    plain = learn(five, FedAvg(), 6, weights="rows")
    np.testing.assert_allclose(one.parameters, plain.parameters, atol=1e-9)


@pytest.mark.parametrize("algorithm", [Ditto(), APFL(), FedRep(), IFCA(), QFFL(), Alone()])
def test_a_device_that_cannot_train_is_set_aside_and_the_others_go_on(algorithm: Any) -> None:
    class Broken(Device):
        def training_rows(self) -> Any:
            raise OSError("its disk is gone")

    devices = [class_device(n, [0, 1, 2] * 4, seed=n) for n in range(3)]
    devices.append(Broken(3, class_device(3, [0, 1, 2]).index))
    federation = Federation(devices, MLP(4, (6,), 3), algorithm=FineTuned(algorithm))
    with pytest.warns(UserWarning, match="its disk is gone"):
        federation.run(2)
    assert (federation.history.series("devices") == 3).all()
    with pytest.raises(ValueError, match="device 3 could not make its model: OSError: its disk"):
        federation.personal_parameters()
