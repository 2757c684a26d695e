"""Each algorithm against facts that are not ours: fixed points, first steps, equalities."""

import numpy as np
import pytest

from fedlab import Federation, LinearRegression, LocalSGD
from fedlab.algorithms import FedAvg, FedNova, FedProx, Scaffold, WithServer, by_name
from fedlab.fleet import Stragglers
from fedlab.updates import SGD, Adagrad, Adam, Yogi
from tests.federations import quadratic, regression_device

RATE = 0.2


@pytest.fixture(scope="module")
def five():
    return [regression_device(n, rows=20 + 10 * n, inputs=3, seed=7) for n in range(5)]


def learn(
    devices,
    algorithm,
    rounds,
    epochs=5,
    cohort=None,
    rate=RATE,
    weights="uniform",
    server=None,
    **local,
):
    federation = Federation(
        devices,
        LinearRegression(3),
        algorithm=algorithm,
        local=LocalSGD(epochs=epochs, batch_size=None, learning_rate=rate, **local),
        cohort=cohort,
        weights=weights,
        server=server,
        parameters=np.zeros(4),
    )
    federation.run(rounds)
    return federation


def optimum(devices):
    """Of the uniform average of the devices' losses."""
    parts = [quadratic(device) for device in devices]
    return np.linalg.solve(sum(h for h, _ in parts), sum(h @ c for h, c in parts))


def test_fedprox_without_a_pull_is_fedavg_bit_for_bit(five):
    a, b = learn(five, FedProx(mu=0.0), 7), learn(five, FedAvg(), 7)
    assert a.parameters.tobytes() == b.parameters.tobytes()


def test_fedprox_s_fixed_point(five):
    mu, steps = 0.5, 5
    left, right = np.zeros((4, 4)), np.zeros(4)
    for device in five:
        h, c = quadratic(device)
        a = h + mu * np.eye(4)
        pull = (np.eye(4) - np.linalg.matrix_power(np.eye(4) - RATE * a, steps)) @ np.linalg.inv(a)
        left += pull @ h
        right += pull @ h @ c
    found = learn(five, FedProx(mu=mu), 500, epochs=steps).parameters
    np.testing.assert_allclose(found, np.linalg.solve(left, right), atol=1e-11)


@pytest.mark.parametrize("option", [1, 2])
@pytest.mark.parametrize("cohort", [None, 3])
def test_scaffold_reaches_the_uniform_optimum_where_fedavg_is_biased(five, option, cohort):
    best = optimum(five)
    found = learn(five, Scaffold(option=option), 900, cohort=cohort).parameters
    np.testing.assert_allclose(found, best, atol=1e-9)
    assert np.abs(learn(five, FedAvg(), 400).parameters - best).max() > 1e-3


def test_scaffold_s_server_variate_is_always_the_mean_of_the_devices(five):
    federation = learn(five, Scaffold(), 0, cohort=2)
    for _ in range(12):
        federation.round()
        state = federation.state
        mean = state.kept.column("control")[1].sum(axis=0) / len(five)
        np.testing.assert_allclose(state.algorithm["control"], mean, atol=1e-12)


def fednova_round(federation, stragglers):
    """One round written out: x - tau_eff sum p_k d_k, on the quadratics."""
    number = federation.round_number + 1
    done = stragglers.epochs(len(federation.devices), federation.local.epochs, 0, number)
    x, p = federation.parameters, 1 / len(done)
    move, effective = np.zeros(4), p * done.sum()
    for device, k in zip(federation.devices, done, strict=True):
        h, c = quadratic(device)
        end = c + np.linalg.matrix_power(np.eye(4) - RATE * h, int(k)) @ (x - c)
        move += p * (x - end) / k
    return x - effective * move


def test_fednova_with_unequal_steps_is_its_equation(five):
    stragglers = Stragglers(share=0.6)
    federation = Federation(
        five,
        LinearRegression(3),
        algorithm=FedNova(),
        local=LocalSGD(epochs=6, batch_size=None, learning_rate=RATE),
        weights="uniform",
        stragglers=stragglers,
        parameters=np.zeros(4),
    )
    for _ in range(4):
        expected = fednova_round(federation, stragglers)
        federation.round()
        np.testing.assert_allclose(federation.parameters, expected, atol=1e-12)


@pytest.mark.parametrize("tau", [1, 2, 7])
def test_fednova_s_weights_are_those_of_the_gradients_in_the_change(tau):
    # With a constant gradient of 1 and eta = 1, the change is the sum of the weights.
    def change(momentum=0.0, mu=0.0, rate=1.0):
        y = velocity = 0.0
        for _ in range(tau):
            velocity = momentum * velocity + 1.0 + mu * y
            y -= rate * velocity
        return -y / rate

    steps = np.array([tau])
    assert FedNova().effective_steps(steps, 1.0)[0] == tau
    assert FedNova(momentum=0.9).effective_steps(steps, 1.0)[0] == pytest.approx(change(0.9))
    nova = FedNova(mu=0.5)
    assert nova.effective_steps(steps, 0.1)[0] == pytest.approx(change(mu=0.5, rate=0.1))


def test_fednova_with_equal_steps_is_fedavg(five):
    a, b = learn(five, FedNova(), 6), learn(five, FedAvg(), 6)
    np.testing.assert_allclose(a.parameters, b.parameters, atol=1e-12)


@pytest.mark.parametrize(("convention", "first"), [("paper", 0.096723), ("flower", 0.071851)])
def test_fedadam_s_first_step(convention, first):
    adam = Adam(rate=0.1, convention=convention)
    start = np.zeros(1)
    moved, state = adam.step(adam.init(start), start, np.array([0.3]))
    assert moved[0] == pytest.approx(first, abs=5e-7)
    assert (start[0], state["steps"]) == (0.0, 1)


def test_second_moments_follow_reddi_et_al():
    square, v = 0.09, 0.5
    start = np.zeros(1)
    expected = {
        Adagrad: v + square,
        Yogi: v - 0.01 * square * np.sign(v - square),
        Adam: 0.99 * v + 0.01 * square,
    }
    for rule, after in expected.items():
        state = {"m": np.zeros(1), "v": np.array([v]), "steps": 0}
        moved, state = rule(rate=0.1).step(state, start, np.array([0.3]))
        assert state["v"][0] == pytest.approx(after)
        assert moved[0] == pytest.approx(0.1 * 0.03 / (np.sqrt(after) + 1e-3))


def test_server_momentum_is_the_heavy_ball(five):
    federation = learn(five, FedAvg(), 0, epochs=1, server=SGD(momentum=0.5))
    h = sum(quadratic(d)[0] for d in five) / 5
    b = sum(quadratic(d)[0] @ quadratic(d)[1] for d in five) / 5
    x, v = np.zeros(4), np.zeros(4)
    for _ in range(10):
        federation.round()
        v = 0.5 * v - RATE * (h @ x - b)
        x = x + v
        np.testing.assert_allclose(federation.parameters, x, atol=1e-12)


def test_local_momentum_and_weight_decay_are_torch_s_rule(five):
    # v <- rho v + (g + wd y), y <- y - eta v: the form of torch.optim.SGD.
    [device] = five[:1]
    federation = learn([device], FedAvg(), 1, epochs=4, momentum=0.9, weight_decay=0.1)
    h, c = quadratic(device)
    y, v = np.zeros(4), np.zeros(4)
    for _ in range(4):
        v = 0.9 * v + h @ (y - c) + 0.1 * y
        y = y - RATE * v
    np.testing.assert_allclose(federation.parameters, y, atol=1e-12)


def test_clipped_steps_are_no_longer_than_allowed_and_decay_shortens_them(five):
    [device] = five[:1]
    federation = learn([device], FedAvg(), 3, epochs=1, clip=1e-3, decay=0.5)
    lengths = federation.history.series("update_norm").to_numpy()
    np.testing.assert_allclose(lengths, RATE * 1e-3 * np.array([1, 0.5, 0.25]), rtol=1e-9)


def test_an_algorithm_of_one_s_own_needs_no_change_of_the_engine(five):
    class Halfway(FedAvg):
        def learn(self, state, means, devices):
            return means["change"] / 2, state

    a, b = learn(five, Halfway(), 3), learn(five, FedAvg(), 3, server=SGD(rate=0.5))
    np.testing.assert_array_equal(a.parameters, b.parameters)


def test_stragglers_are_dropped_or_do_part_of_their_work(five):
    dropping = Stragglers(share=0.6, drop=True)
    done = dropping.epochs(5, 20, seed=0, round=1)
    assert sorted(done.tolist()) == [0, 0, 0, 20, 20]
    drawn = np.array([Stragglers(1.0).epochs(5, 4, seed=0, round=r) for r in range(800)])
    shares = np.bincount(drawn.ravel(), minlength=5)[1:] / drawn.size
    np.testing.assert_allclose(shares, 0.25, atol=4 * np.sqrt(0.25 * 0.75 / drawn.size))


def test_names_of_the_literature_find_their_algorithm():
    assert by_name("FedAdam", rate=0.5) == WithServer(FedAvg(), Adam(rate=0.5))
    assert by_name("fedavgm") == WithServer(FedAvg(), SGD(momentum=0.9))
    assert by_name("scaffold", server_rate=0.5) == WithServer(Scaffold(), SGD(rate=0.5))
    assert by_name("scaffold") == Scaffold()
    with pytest.raises(ValueError, match=r"did you mean 'fedprox'\?"):
        by_name("fedprx")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: FedProx(mu=-1),
        lambda: Scaffold(option=3),
        lambda: Adam(convention="torch"),
        lambda: Adam(beta1=1.0),
        lambda: SGD(momentum=1.0),
        lambda: SGD(rate=0.0),
        lambda: FedNova(momentum=0.9, mu=1.0),
        lambda: Stragglers(share=2),
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"choose|must|both"):
        wrong()


class Unequal:
    """Local steps that differ by device and stay the same in all rounds."""

    steps = np.array([1, 2, 3, 6, 9])

    def epochs(self, devices, full, seed, round):
        return self.steps


def bias(devices, algorithm, rate):
    """How far the fixed point lies from the optimum of the uniform average of the losses."""
    federation = Federation(
        devices,
        LinearRegression(3),
        algorithm=algorithm,
        local=LocalSGD(epochs=9, batch_size=None, learning_rate=rate),
        weights="uniform",
        stragglers=Unequal(),
        parameters=np.zeros(4),
    )
    federation.run(round(60 / rate))
    return federation.parameters, np.linalg.norm(federation.parameters - optimum(devices))


def test_fednova_s_bias_falls_with_the_step_size_where_fedavg_s_stays(five):
    rates = 0.08, 0.04, 0.02
    nova = [bias(five, FedNova(), rate)[1] for rate in rates]
    plain = [bias(five, FedAvg(), rate)[1] for rate in rates]
    # O(eta): each halving halves it, up to a term of the next order.
    assert nova[0] / nova[1] == pytest.approx(2, abs=0.35)
    assert nova[1] / nova[2] == pytest.approx(2, abs=0.2)
    assert plain[2] > 0.7 * plain[0] > 10 * nova[2]


def test_fednova_s_fixed_point_with_unequal_steps(five):
    rate, left, right = 0.08, np.zeros((4, 4)), np.zeros(4)
    for device, steps in zip(five, Unequal.steps, strict=True):
        h, c = quadratic(device)
        pull = (np.eye(4) - np.linalg.matrix_power(np.eye(4) - rate * h, int(steps))) / steps
        left += pull
        right += pull @ c
    found = bias(five, FedNova(), rate)[0]
    np.testing.assert_allclose(found, np.linalg.solve(left, right), atol=1e-10)


def test_fedavg_with_unequal_steps_tends_to_the_optimum_of_other_weights(five):
    parts = [quadratic(device) for device in five]
    hessians = sum(k * h for (h, _), k in zip(parts, Unequal.steps, strict=True))
    pulls = sum(k * (h @ c) for (h, c), k in zip(parts, Unequal.steps, strict=True))
    elsewhere = np.linalg.solve(hessians, pulls)
    apart = [np.abs(bias(five, FedAvg(), rate)[0] - elsewhere).max() for rate in (0.04, 0.02)]
    assert apart[0] / apart[1] == pytest.approx(2, abs=0.3)
