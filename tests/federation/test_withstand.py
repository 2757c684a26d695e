"""Attacks and robust aggregators through a federation: whole cohorts, refusals, resuming."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedlab import MLP, Device, Federation, LocalSGD, SoftmaxRegression, VectorIndex
from fedlab.algorithms import _ALGORITHMS, AFL, IFCA, FedBN, FedNova, Scaffold
from fedlab.updates import Cast, Chain, ChainError, ClipNorm, Mean
from fedlab.updates.attacks import ALIE, IPM, FreeRider, GaussianAttack, MinMax, SignFlip
from fedlab.updates.robust import (
    NNM,
    Bulyan,
    CenteredClipping,
    FLTrust,
    GeometricMedian,
    Krum,
    Median,
    MultiKrum,
    TrimmedMean,
)
from tests.federations import class_device
from tests.updates.test_composition import Mask, Whole

COUNT = 9
#: Steps at which large rows come to inf.
FAST = LocalSGD(epochs=4, learning_rate=1e12)
ROOT = class_device("server", [0, 1, 2] * 4)
AGGREGATORS: dict[str, Any] = {
    "mean": Mean(),
    "median": Median(),
    "trimmed mean": TrimmedMean(1),
    "krum": Krum(1),
    "multi-krum": MultiKrum(1, "byzfl"),
    "bulyan": Bulyan(1),
    "geometric median": GeometricMedian(),
    "centred clipping": CenteredClipping(0.5),
    "fltrust": FLTrust(ROOT),
    "nnm, krum": NNM(1, Krum(1)),
    "nnm, fltrust": NNM(1, FLTrust(ROOT)),
    "nnm, centred clipping": NNM(1, CenteredClipping(0.5)),
}
ATTACKS: dict[str, Any] = {
    "sign flip": SignFlip(0.2, 5.0),
    "gaussian": GaussianAttack(0.2, 3.0),
    "free rider": FreeRider(0.2, 0.1),
    "ipm": IPM(0.2),
    "alie": ALIE(0.2),
    "min-max": MinMax(0.2),
}
STAGES: dict[str, Any] = {"none": [], "cast": [Cast()], "clip": [ClipNorm(1.0)]}


def federation(**given: Any) -> Federation:
    devices = [class_device(n, [0, 1, 2] * (2 + n % 3), seed=n % 2) for n in range(COUNT)]
    settings = {"local": LocalSGD(epochs=1, batch_size=4, learning_rate=0.1), "seed": 3}
    return Federation(devices, SoftmaxRegression(4, 3), **{**settings, **given})


@pytest.mark.parametrize("aggregator", AGGREGATORS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_meets_every_aggregator_behind_other_stages(attack, aggregator):
    one = federation(updates=[ATTACKS[attack], Cast()], aggregator=AGGREGATORS[aggregator])
    one.run(2)
    told = one.history.wide()
    assert np.isfinite(one.parameters).all()
    assert told.devices.tolist() == [COUNT, COUNT]  # a root is none of them, and sends nothing
    assert told.bytes_up.tolist() == [COUNT * (2 * 15 + 24)] * 2
    # Where all point away from what the server's rows teach, nothing moves.
    assert (told.update_norm > 0).all() or "fltrust" in aggregator


@pytest.mark.parametrize("aggregator", AGGREGATORS)
@pytest.mark.parametrize("stage", [*STAGES, "mask"])
def test_the_table_of_stages_and_aggregators(stage, aggregator):
    """Each pair runs, or is refused with the reason; a mask goes with the mean alone."""
    if stage == "mask" and aggregator != "mean":
        with pytest.raises(ChainError, match=r"needs each device's own numbers, which Mask takes"):
            federation(updates=[Whole(), Mask()], aggregator=AGGREGATORS[aggregator])
        return
    stages = [Whole(), Mask()] if stage == "mask" else STAGES[stage]
    one = federation(updates=stages, aggregator=AGGREGATORS[aggregator])
    one.run(2)
    assert np.isfinite(one.parameters).all()
    assert ("drift" in one.history.wide()) == (aggregator == "mean" and stage != "mask")


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_behind_a_mask_is_refused(attack):
    with pytest.raises(ChainError, match=r"each device's own numbers, which Mask takes away; put"):
        Chain((Whole(), Mask(), ATTACKS[attack]))


@pytest.mark.parametrize("aggregator", AGGREGATORS)
@pytest.mark.parametrize("algorithm", ["fedavg", "scaffold"])
def test_a_run_resumes_to_the_same_bits_whatever_the_threads(aggregator, algorithm, tmp_path):
    def made(threads: int) -> Federation:
        return federation(
            algorithm=algorithm,
            updates=[GaussianAttack(0.2), ALIE(0.3)],
            aggregator=AGGREGATORS[aggregator],
            cohort=7,
            threads=threads,
        )

    whole, first, second = made(1), made(2), made(2)
    whole.run(5)
    first.run_to(2, tmp_path / "run")
    second.run_to(5, tmp_path / "run")
    assert second.parameters.tobytes() == whole.parameters.tobytes()
    assert second.history.to_frame().equals(whole.history.to_frame())


def test_another_root_or_f_is_another_run(tmp_path):
    federation(aggregator=FLTrust(ROOT)).run_to(1, tmp_path / "run")
    other = class_device("server", [0, 1, 2] * 5)
    for aggregator in (FLTrust(other), FLTrust(ROOT.hold_out(0.5, 0)), Krum(1)):
        with pytest.raises(ValueError, match="of another run: its chain"):
            federation(aggregator=aggregator).load(tmp_path / "run")
    federation(aggregator=FLTrust(ROOT)).load(tmp_path / "run")


@pytest.mark.parametrize(
    "given",
    [
        {"aggregator": Median()},
        {"aggregator": Krum(1)},
        {"aggregator": CenteredClipping(0.5)},
        {"updates": [ALIE(0.3)]},
        {"updates": [SignFlip(0.3), ClipNorm(1.0)]},
    ],
)
def test_however_little_memory_parts_may_hold_the_bits_are_the_same(given, monkeypatch):
    """Whoever looks at a cohort gets it whole; the others get it in parts."""
    plain, parts = federation(**given), federation(**given)
    plain.run(3)
    monkeypatch.setattr("fedlab.federation.on_devices.HELD", 1)
    parts.run(3)
    assert parts.parameters.tobytes() == plain.parameters.tobytes()


def test_devices_count_alike_unless_weights_are_taken():
    by_rows, alike = federation(), federation(weights="uniform")
    for one in (by_rows, alike):
        one.run(1)
    assert by_rows.parameters.tobytes() != alike.parameters.tobytes()
    for aggregator in (TrimmedMean(0), GeometricMedian(nu=1e9)):
        one = federation(aggregator=aggregator)
        one.run(1)
        like = alike if aggregator.weights else by_rows
        np.testing.assert_allclose(one.parameters, like.parameters, rtol=1e-6)
    with pytest.raises(ValueError, match=r"Krum weighs devices by 'uniform', and weights='rows'"):
        federation(aggregator=Krum(1), weights="rows")


@pytest.mark.parametrize("algorithm", [AFL(), FedNova(), IFCA()])
def test_algorithms_that_weigh_blocks_in_their_own_way_are_refused(algorithm):
    with pytest.raises(ChainError, match=r"Median counts devices alike, and the algorithm weighs"):
        federation(aggregator=Median(), algorithm=algorithm).round()


@pytest.mark.parametrize(
    ("aggregator", "least"),
    [
        (TrimmedMean(3), 7),
        (Krum(2), 7),
        (Krum(1, keep=7), 8),
        (Bulyan(1), 7),
        (NNM(3, Median()), 7),
        (NNM(1, Bulyan(1)), 7),
    ],
)
def test_too_few_devices_are_refused_or_the_round_is_skipped(aggregator, least):
    name = type(aggregator).__name__
    with pytest.raises(ChainError, match=rf"{name}\(.* needs {least} devices .* has {least - 1}"):
        federation(aggregator=aggregator, cohort=least - 1)
    federation(aggregator=aggregator, cohort=least).round()
    devices = [class_device(n, [0, 1, 2] * 2) for n in range(COUNT)]
    for n in range(COUNT - least + 1):  # they come to inf, and are set aside
        index = VectorIndex(4, "l2sq")
        index.add(np.linspace(-5e17, 5e17, 24).reshape(6, 4), labels=[0, 1, 2] * 2)
        devices[n] = Device(n, index)
    one = Federation(devices, SoftmaxRegression(4, 3), local=FAST, aggregator=aggregator)
    start = one.parameters
    with pytest.warns(UserWarning, match="remarks"):
        one.run(1)
    text = one.history.remarks().text.iloc[-1]
    assert text.startswith(f"skipped: {least - 1} usable updates; {name}(")
    assert text.endswith(f" needs {least}")
    assert one.parameters.tobytes() == start.tobytes()


def test_named_attackers_must_be_there():
    federation(updates=[SignFlip([3])]).round()
    with pytest.raises(ValueError, match=r"not here: \['ward 3'\]"):
        federation(updates=[SignFlip(["ward 3"])])


def test_the_servers_rows_teach_what_a_device_would():
    """A cohort that sends what the root would is trusted; whoever sends the opposite is not."""
    twins = [Device(n, ROOT.index) for n in range(3)]
    local = LocalSGD(epochs=1, batch_size=None, learning_rate=0.1)
    model, flip = SoftmaxRegression(4, 3), [SignFlip([2], scale=7.0)]
    given = {"local": local, "seed": 1}
    plain = Federation(twins, model, **given)
    trusting = Federation(twins, model, aggregator=FLTrust(ROOT), updates=flip, **given)
    for one in (plain, trusting):
        one.run(3)
    np.testing.assert_allclose(trusting.parameters, plain.parameters, rtol=1e-5)
    deaf = Federation(twins, model, aggregator=FLTrust(ROOT), updates=[SignFlip(1.0)], **given)
    start = deaf.parameters
    deaf.run(1)
    assert deaf.parameters.tobytes() == start.tobytes()


def test_a_root_that_cannot_train_says_so():
    for labels, rows, says in (
        ([0, 1, 2, 7], np.eye(4), "labels from 0 to 7 were given"),
        ([0, 1], np.ones((2, 3)), "vectors of 3 numbers"),
    ):
        index = VectorIndex(rows.shape[1], "l2sq")
        index.add(rows, labels=labels)
        with pytest.raises(ValueError, match=says):
            federation(aggregator=FLTrust(Device("root", index)))
    index = VectorIndex(4, "l2sq")
    index.add(np.linspace(-5e17, 5e17, 24).reshape(6, 4), labels=[0, 1, 2] * 2)
    with pytest.raises(RuntimeError, match=r"server's rows can't train: .*NaN"):
        federation(aggregator=FLTrust(Device("root", index)), local=FAST).round()


def test_a_control_variate_is_judged_with_its_change():
    """Who lies in either of SCAFFOLD's blocks is left out of both."""

    class LiesInControl(SignFlip):
        def forged(self, honest, mine, places, at):
            return {**mine, "control": -1e6 * mine["control"]}

    given = {"algorithm": Scaffold(), "aggregator": MultiKrum(1)}
    lied, without = federation(updates=[LiesInControl([0])], **given), federation(**given)
    for one in (lied, without):
        one.run(3)
    assert np.abs(lied.state.algorithm["control"]).max() < 10
    assert lied.parameters.tobytes() != without.parameters.tobytes()


#: Those that weigh a block in a way of their own; the others' blocks are judged like FedAvg's.
OWN_WEIGHTS = {"afl", "fednova", "ifca"}


@pytest.mark.parametrize("name", [name for name in _ALGORITHMS if "lora" not in name])
@pytest.mark.parametrize("aggregator", [MultiKrum(1), FLTrust(ROOT), CenteredClipping(0.5)])
def test_every_algorithm_runs_with_a_defence_or_is_refused(name, aggregator):
    devices = [class_device(n, [0, 1, 2] * (2 + n % 3)) for n in range(COUNT)]
    algorithm = FedBN(keep=("bias1",)) if name == "fedbn" else name
    given = {"algorithm": algorithm, "aggregator": aggregator, "updates": [IPM(0.2)]}
    local = LocalSGD(epochs=2, batch_size=4, learning_rate=0.1)
    one = Federation(devices, MLP(4, (5,), 3), local=local, **given)
    if name in OWN_WEIGHTS:
        with pytest.raises(ChainError, match="a way of its own"):
            one.round()
        return
    for _ in one.rounds(2):
        assert np.isfinite(one.parameters).all()
    assert not len(one.history.remarks())
