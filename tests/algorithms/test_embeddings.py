"""Algorithms that pull embeddings: against equations, differences, and loops written by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedlab import MLP, Device, Federation, LocalSGD, SoftmaxRegression
from fedlab.algorithms import MOON, Alone, FedAvg, FedDBE, FedPer, FedProto
from fedlab.device.states import DeviceStates
from fedlab.training import Phase
from fedlab.updates.stages import At
from tests.federations import class_device

MODEL = MLP(4, (6,), 3)
PLAIN: dict[str, Any] = {"engine": "plain", "seed": 5}
RATE, STEPS = np.float32(0.1), 3
LOCAL = LocalSGD(epochs=STEPS, batch_size=None, learning_rate=float(RATE))


class Tap:
    """Notes what travels."""

    needs, gives, takes = frozenset[str](), frozenset[str](), frozenset[str]()

    def __init__(self) -> None:
        self.wire: list[Any] = []

    def init(self, size: int) -> dict[str, Any]:
        return {}

    def apply(self, state: Any, sent: Any, kept: Any, at: At) -> Any:
        self.wire.append(sent)
        return sent, state, kept


def three(*labels: list[int]) -> list[Device]:
    held = labels or ([0, 1, 2] * 4, [0, 0, 1, 2] * 4, [2, 1, 1, 0] * 3)
    return [class_device(n, own, seed=n) for n, own in enumerate(held)]


def point(seed: int) -> Any:
    """Parameters at which some units of a row are at work."""
    drawn = np.random.default_rng(seed).normal(size=MODEL.layout.size) * 0.5
    MODEL.layout.views(drawn)["bias1"][:] += 1
    return drawn


def rows() -> tuple[Any, Any]:
    return class_device("x", [0, 1, 2] * 4).training()


def objective(algorithm: Any, state: Any, at: Any, kept: DeviceStates | None = None) -> Any:
    """What the only device of a round minimises."""
    phase = algorithm.work(state, at, np.array([0]), kept or DeviceStates())
    assert isinstance(phase, Phase)
    return phase.some(0).objective


def assert_differences(of: Any, at: Any, x: Any, y: Any) -> None:
    """A gradient is what central differences of the loss give."""
    gradient, step = of.loss_and_gradient(MODEL, at, x, y)[1], 1e-6
    for place in range(len(at)):
        up, down = at.copy(), at.copy()
        up[place] += step
        down[place] -= step
        risen = (
            of.loss_and_gradient(MODEL, up, x, y)[0] - of.loss_and_gradient(MODEL, down, x, y)[0]
        )
        assert gradient[place] == pytest.approx(risen / 2 / step, abs=1e-6)


def last_model(before: Any) -> DeviceStates:
    return DeviceStates().put("last model", np.array([0]), before[None])


# -- MOON ---------------------------------------------------------------------------------------


def test_moon_s_contrast_of_a_model_with_itself_is_ln_2_and_pulls_nowhere() -> None:
    x, y = rows()
    now, at = point(0), point(1)
    contrast = objective(MOON(mu=2.0), {}, now)  # a first time: the last model is the server's
    loss, gradient = contrast.loss_and_gradient(MODEL, at, x, y)
    plain, of_loss = MODEL.loss_and_gradient(at, x, y)
    assert loss == plain + 2.0 * np.log(2)
    np.testing.assert_array_equal(gradient, of_loss)


def test_moon_s_loss_is_its_equation_and_its_gradient_that_of_the_loss() -> None:
    x, y = rows()
    now, before, at, t = point(0), point(1), point(2), 0.3
    contrast = objective(MOON(mu=3.0, temperature=t), {}, now, last_model(before))

    def cosine(a: Any, b: Any) -> Any:
        return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    z = MODEL.embed(at, x)
    to_now, to_before = (np.exp(cosine(z, MODEL.embed(own, x)) / t) for own in (now, before))
    term = -np.log(to_now / (to_now + to_before)).mean()
    found = contrast.loss_and_gradient(MODEL, at, x, y)[0]
    assert found == pytest.approx(MODEL.loss_and_gradient(at, x, y)[0] + 3.0 * term, rel=1e-12)
    assert_differences(contrast, at, x, y)


def test_moon_lets_an_embedding_of_zeros_be() -> None:
    x, y = rows()
    dead = point(2)
    MODEL.layout.views(dead)["bias1"][:] = -1e3
    contrast = objective(MOON(), {}, point(0), last_model(point(1)))
    loss, gradient = contrast.loss_and_gradient(MODEL, dead, x, y)
    assert loss == pytest.approx(MODEL.loss_and_gradient(dead, x, y)[0] + np.log(2))
    np.testing.assert_array_equal(gradient, MODEL.loss_and_gradient(dead, x, y)[1])


def test_moon_without_a_weight_is_fedavg() -> None:
    a, b = (Federation(three(), MODEL, algorithm=one, **PLAIN) for one in (MOON(mu=0.0), FedAvg()))
    a.run(4)
    b.run(4)
    assert a.parameters.tobytes() == b.parameters.tobytes()


def test_moon_s_rounds_are_written_by_hand() -> None:
    devices, algorithm = three(), MOON(mu=1.5)
    federation = Federation(devices, MODEL, algorithm=algorithm, local=LOCAL, weights="uniform")
    x = federation.parameters
    last: list[Any] = [x] * 3
    for _ in range(3):
        ends = []
        for device, before in zip(devices, last, strict=True):
            contrast, y = objective(algorithm, {}, x, last_model(before)), x
            for _ in range(STEPS):
                y = y - RATE * contrast.loss_and_gradient(MODEL, y, *device.training())[1]
            ends.append(y)
        x, last = np.mean(ends, axis=0), ends
        federation.round()
        np.testing.assert_allclose(federation.parameters, x, atol=1e-6)


# -- FedProto ------------------------------------------------------------------------------------


def embedded(federation: Federation) -> list[tuple[Any, Any]]:
    """Each device's embeddings under its own model, in float64, and its labels."""
    found = []
    for device, own in zip(federation.devices, federation.state.kept.column("own")[1], strict=True):
        x, y = device.training()
        found.append((MODEL.embed(own, x).astype(np.float64), y))
    return found


def test_fedproto_s_prototypes_are_the_mean_embeddings_of_the_classes() -> None:
    devices = three([0] * 10 + [1] * 2, [0] * 4, [0] * 2 + [1] * 9)
    for weighted in (True, False):
        algorithm = FedProto(weighted=weighted)
        federation = Federation(devices, MODEL, algorithm=algorithm, local=LOCAL)
        federation.run(2)
        parts = embedded(federation)
        found = federation.state.algorithm["prototypes"]
        for c in (0, 1):
            if weighted:
                expected = np.concatenate([z[y == c] for z, y in parts]).mean(axis=0)
            else:
                expected = np.mean([z[y == c].mean(axis=0) for z, y in parts if c in y], axis=0)
            np.testing.assert_allclose(found[c], expected, atol=1e-5)
        assert np.isnan(found[2]).all()  # nobody has it


def test_fedproto_pulls_an_embedding_towards_its_class() -> None:
    x, y = rows()
    prototypes = np.random.default_rng(0).normal(size=(3, 6))
    prototypes[1] = np.nan  # nobody has had class 1: its rows are pulled nowhere
    at, state = point(2), {"size": MODEL.layout.size, "prototypes": prototypes}
    towards = objective(FedProto(lam=0.7), state, at)
    off = (MODEL.embed(at, x) - prototypes[y])[y != 1]
    expected = MODEL.loss_and_gradient(at, x, y)[0] + 0.7 * np.square(off).sum() / (len(x) * 6)
    assert towards.loss_and_gradient(MODEL, at, x, y)[0] == pytest.approx(expected, rel=1e-12)
    assert_differences(towards, at, x, y)


def test_of_fedproto_only_sums_of_classes_travel_and_they_cost_what_they_weigh() -> None:
    tap = Tap()
    devices = three([0] * 10 + [1] * 2, [0] * 4, [0] * 2 + [1] * 9)
    federation = Federation(devices, MODEL, algorithm=FedProto(), local=LOCAL, updates=[tap])
    start = federation.parameters
    reports = list(federation.rounds(2))
    assert all(set(sent.blocks) == {"sums", "counts"} for sent in tap.wire)
    assert (tap.wire[0].nbytes == 24 + 4 * (3 * 6 + 3)).all()
    # First there are no prototypes, then those of two classes.
    assert [report.measures["bytes_down"] for report in reports] == [0, 3 * 4 * 2 * 6]
    np.testing.assert_array_equal(federation.parameters, start)


def test_a_prototype_stays_while_no_device_of_the_cohort_has_its_class() -> None:
    algorithm = FedProto()
    state = algorithm.init(np.zeros(5), 3, MODEL.layout)
    both = {"sums": np.array([2.0, 4.0, 3.0, 3.0]), "counts": np.array([2.0, 1.0])}
    _, state = algorithm.learn(state, both, 3)
    one = {"sums": np.array([1.0, 1.0, 0.0, 0.0]), "counts": np.array([1.0, 0.0])}
    change, state = algorithm.learn(state, one, 3)
    assert state["prototypes"].tolist() == [[1, 1], [3, 3]]
    assert change.tolist() == [0] * 5


def test_fedproto_without_a_pull_learns_alone() -> None:
    a, b = (Federation(three(), MODEL, algorithm=one, **PLAIN) for one in (FedProto(0.0), Alone()))
    a.run(4)
    b.run(4)
    np.testing.assert_array_equal(a.state.kept.column("own")[1], b.state.kept.column("own")[1])


# -- FedDBE --------------------------------------------------------------------------------------


def test_feddbe_without_a_pull_is_fedper_that_keeps_the_last_bias() -> None:
    ways = (FedDBE(kappa=0.0), FedPer(keep=("bias2",)))
    a, b = (Federation(three(), MODEL, algorithm=one, **PLAIN) for one in ways)
    a.run(4)
    b.run(4)
    assert a.parameters.tobytes() == b.parameters.tobytes()
    np.testing.assert_array_equal(a.personal_parameters(), b.personal_parameters())


def test_feddbe_s_bias_never_leaves_a_device() -> None:
    tap = Tap()
    federation = Federation(three(), MODEL, algorithm=FedDBE(), updates=[tap], seed=1)
    start = federation.parameters
    federation.run(3)
    assert [set(sent.blocks) for sent in tap.wire] == [{"change", "centre"}, *[{"change"}] * 2]
    assert tap.wire[0].blocks["change"].shape[1] == MODEL.layout.size - 3
    bias = MODEL.layout.mask("bias2")
    np.testing.assert_array_equal(federation.parameters[bias], start[bias])
    assert np.ptp(federation.state.kept.column("own part")[1], axis=0).min() > 0


def test_feddbe_s_consensus_is_the_mean_embedding_of_all_rows_after_the_first_round() -> None:
    devices, bias = three(), MODEL.layout.mask("bias2")
    federation = Federation(devices, MODEL, algorithm=FedDBE(), local=LOCAL, **PLAIN)
    x, seen = federation.parameters, []
    for device in devices:
        y = x
        for _ in range(STEPS):
            y = y - RATE * MODEL.loss_and_gradient(y, *device.training())[1]
        seen.append(MODEL.embed(y, device.training()[0]))
    federation.run(1)
    consensus = federation.state.algorithm["consensus"]
    np.testing.assert_allclose(consensus, np.concatenate(seen).mean(axis=0), atol=1e-6)
    federation.run(1)
    assert federation.state.algorithm["consensus"] is consensus
    assert bias.sum() == 3


def test_feddbe_pulls_the_mean_of_a_batch_towards_the_consensus() -> None:
    x, y = rows()
    consensus, at = np.random.default_rng(0).normal(size=6), point(2)
    algorithm = FedDBE(kappa=0.8)
    state = {**algorithm.init(at, 1, MODEL.layout), "consensus": consensus}
    centred = objective(algorithm, state, at)
    off = MODEL.embed(at, x).mean(axis=0) - consensus
    expected = MODEL.loss_and_gradient(at, x, y)[0] + 0.8 * 0.5 * np.square(off).mean()
    assert centred.loss_and_gradient(MODEL, at, x, y)[0] == pytest.approx(expected, rel=1e-12)
    assert_differences(centred, at, x, y)


def test_a_vector_added_before_a_linear_head_is_a_bias_of_one_s_own() -> None:
    """Why FedDBE's representation bias can stay on the device as the head's bias."""
    x, _ = rows()
    at, added = point(2), np.random.default_rng(0).normal(size=6)
    head = MODEL.layout.views(at)
    before = (MODEL.embed(at, x) + added) @ head["weights2"] + head["bias2"]
    own = at.copy()
    MODEL.layout.views(own)["bias2"][:] += added @ head["weights2"]
    shares = np.exp(before - before.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(MODEL.predict(own, x), shares, atol=1e-12)


# -- all -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [MOON(), FedProto(), FedDBE(keep=("bias",))])
def test_a_model_without_an_embedding_is_refused(algorithm: Any) -> None:
    federation = Federation(three(), SoftmaxRegression(4, 3), algorithm=algorithm)
    with pytest.raises(RuntimeError, match=f"a model that {type(algorithm).__name__} trains"):
        federation.run(1)
    assert federation.round_number == 0


@pytest.mark.parametrize("algorithm", [MOON(), FedProto(), FedDBE()])
def test_a_device_s_result_depends_on_no_other_device(algorithm: Any) -> None:
    devices = three()
    state = algorithm.init(MODEL.initial(0), 3, MODEL.layout)
    if isinstance(algorithm, FedProto):
        state = {**state, "prototypes": np.ones((3, 6))}
    from fedlab.training import train_cohort

    work = algorithm.work(state, MODEL.initial(0), np.arange(3), DeviceStates())
    together = train_cohort(devices, MODEL, replace(work, send="change"), LOCAL, seed=0, round=1)
    for place, device in enumerate(devices):
        alone = replace(work.some(np.array([place])), send="change")
        one = train_cohort([device], MODEL, alone, LOCAL, seed=0, round=1)
        assert one.changes[0].tobytes() == together.changes[place].tobytes()
