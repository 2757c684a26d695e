"""Noise beside attacks, defences, codecs and secure sums: each pair runs, or is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlab import MLP, Federation
from fedlab.algorithms import _ALGORITHMS, FedBN
from fedlab.core.randomness import address_of
from fedlab.device.profile import Profile
from fedlab.device.states import DeviceStates
from fedlab.fleet import AtRandom, Deadline, Poisson, RoundRobin, Stragglers
from fedlab.privacy.accounting import Sampled, Shared, Unsampled, epsilon_of
from fedlab.privacy.mechanisms import BudgetError
from fedlab.updates import (
    EF21,
    Cast,
    ChainError,
    ClipNorm,
    Codec,
    Context,
    CountSketch,
    DistributedNoise,
    ErrorFeedback,
    FixedPoint,
    LocalNoise,
    LowRank,
    PrivateMean,
    RandomK,
    SecureSum,
    Sign,
    TopK,
    Updates,
)
from fedlab.updates.stages import At
from tests.federation.test_withstand import AGGREGATORS, ATTACKS, COUNT, STAGES, federation
from tests.federations import class_device
from tests.updates.test_codecs import CODECS
from tests.updates.test_composition import Mask, Whole

pytest.importorskip("dp_accounting", reason="dp-accounting is not installed (the extra privacy)")
pytestmark = pytest.mark.filterwarnings("ignore:.* remarks were made in this run")

LOCAL = LocalNoise(0.5, 4.0, delta=1e-3, simulated=True)
MEAN = PrivateMean(0.5, 2.0, delta=1e-3, simulated=True)
#: Those that see a cohort send what others' rows say.
WHOLE = {"ipm", "alie", "min-max"}
SHARED = DistributedNoise(0.5, 4.0, delta=1e-3, survivors=6, colluders=2, simulated=True)
FIXED = [ClipNorm(200.0), FixedPoint(200.0, 32)]
#: Where nobody comes, as a rule: the first rounds are noise alone.
SELDOM: dict[str, Any] = {"aggregator": MEAN, "selection": Poisson(0.1), "seed": 1}


def noised(*updates: Any, **given: Any) -> Federation:
    return federation(**{"updates": updates, "weights": "uniform", **given})


def runs(one: Federation, rounds: int = 2) -> Federation:
    for _ in one.rounds(rounds):
        assert np.isfinite(one.parameters).all()
    return one


@pytest.mark.parametrize("aggregator", AGGREGATORS)
@pytest.mark.parametrize("behind", [*STAGES, *ATTACKS, "nothing"])
def test_whatever_stands_behind_noise_of_devices_costs_nothing(
    behind: str, aggregator: str
) -> None:
    after = [ATTACKS[behind]] if behind in ATTACKS else STAGES.get(behind, [])
    one = runs(noised(LOCAL, *after, aggregator=AGGREGATORS[aggregator]))
    assert one.history.last("epsilon_simulated") == epsilon_of(4.0, 2, Unsampled(), 1e-3)
    assert ("drift" in one.history.wide()) == (aggregator == "mean")


@pytest.mark.parametrize("part", [LOCAL, MEAN])
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_in_front_of_noise_run_unless_they_look_at_a_cohort(attack: str, part: Any) -> None:
    given = {"aggregator": part} if part is MEAN else {}
    stages = [ATTACKS[attack]] if part is MEAN else [ATTACKS[attack], part]
    if attack in WHOLE:
        says = rf"{type(part).__name__} gives no epsilon with .*a device changes what others send"
        with pytest.raises(ChainError, match=says):
            noised(*stages, **given)
        return
    runs(noised(*stages, **given))


@pytest.mark.parametrize("stage", [*STAGES, "mask", "local noise", "secure sum"])
def test_the_table_of_stages_and_the_noised_mean(stage: str) -> None:
    refused = {
        "mask": ([Whole(), Mask()], "PrivateMean needs each device's own numbers, which Mask"),
        "local noise": ([LOCAL], "2 parts noise the updates; leave one of them"),
        "secure sum": (
            [*FIXED, SecureSum()],
            "would have to be the devices' own; take DistributedNoise with SecureSum",
        ),
    }
    if stage in refused:
        stages, says = refused[stage]
        with pytest.raises(ChainError, match=says):
            noised(*stages, aggregator=MEAN)
        return
    one = runs(noised(*STAGES[stage], aggregator=MEAN))
    assert "drift" not in one.history.wide()


@pytest.mark.parametrize("codec", [*CODECS, ErrorFeedback(TopK(0.2)), EF21(Sign())], ids=repr)
def test_codecs_stand_behind_noise_and_in_front_of_it_if_they_remember_nothing(codec: Any) -> None:
    late = runs(noised(LOCAL, codec))
    assert late.history.last("epsilon_simulated") == epsilon_of(4.0, 2, Unsampled(), 1e-3)
    # Of rank 2, fifteen parameters are no fewer numbers, and travel whole.
    if isinstance(codec, ErrorFeedback | EF21) or codec == LowRank(1):
        for stages, given in (([codec], {"aggregator": MEAN}), ([codec, LOCAL], {})):
            with pytest.raises(ChainError, match="before it, which remembers devices without"):
                noised(*stages, **given)
        return
    runs(noised(codec, LOCAL))
    one = runs(noised(codec, **SELDOM))
    assert one.history.series("devices").eq(0).any()
    assert (one.history.series("update_norm") > 0).all()


@pytest.mark.parametrize(
    "given",
    [SELDOM, {"updates": [LOCAL]}, {"updates": [SHARED, SecureSum()]}],
    ids=["mean", "local", "shared"],
)
@pytest.mark.parametrize("name", [name for name in _ALGORITHMS if "lora" not in name])
def test_every_algorithm_runs_with_noise_or_is_refused_when_built(name: str, given: Any) -> None:
    devices = [class_device(n, [0, 1, 2] * (2 + n % 3)) for n in range(COUNT)]
    algorithm = FedBN(keep=("bias1",)) if name == "fedbn" else name
    given = {"algorithm": algorithm, "weights": "uniform", **given}
    if name in {"fednova", "qffl", "afl", "ifca", "fedproto", "feddbe"}:
        with pytest.raises(ChainError, match=r"(no epsilon with|AFL reads) .*; .* algorithm"):
            Federation(devices, MLP(4, (5,), 3), **given)
        return
    runs(Federation(devices, MLP(4, (5,), 3), **given))


def test_a_secure_sum_of_devices_noise_is_the_plain_one_in_fixed_point() -> None:
    plain, secure = noised(LOCAL, FIXED[0]), noised(LOCAL, *FIXED, SecureSum())
    for one in (plain, secure):
        runs(one, 3)
    step = COUNT * 3 * FIXED[1].step
    np.testing.assert_allclose(secure.parameters, plain.parameters, rtol=0, atol=step)
    assert secure.privacy == plain.privacy
    with pytest.raises(
        ChainError, match=r"SecureSum needs whole numbers; .* LocalNoise takes away"
    ):
        noised(*FIXED, LOCAL, SecureSum())


# -- noise that devices share, under masks --------------------------------------------------------


def test_a_secure_sum_with_shared_noise_is_the_plain_sum_of_what_devices_would_send() -> None:
    """To the bit, and close to the clipped mean where noise is small."""
    shared = noised(SHARED, SecureSum())
    start = shared.parameters
    places = np.arange(COUNT)
    changes = []
    for device in shared.devices:
        alone = Federation(
            [device], shared.model, local=shared.plan.local, seed=3, parameters=start
        )
        alone.round()
        changes.append(alone.parameters - start)
    sent = Updates(places, {"change": np.array(changes)}, np.full(COUNT, 1 / COUNT), {})
    made, _, _ = SHARED.apply({}, sent, DeviceStates(), At(3, 1))
    shared.round()
    mean = made.blocks["change"].sum(axis=0) * SHARED.step
    np.testing.assert_allclose(shared.parameters - start, mean, atol=1e-7)
    quiet = noised(replace(SHARED, noise_multiplier=1e-3, clip=0.05), SecureSum())
    clipped = noised(ClipNorm(0.05))
    quiet.run(3)
    clipped.run(3)
    np.testing.assert_allclose(quiet.parameters, clipped.parameters, atol=1e-3)
    assert np.abs(clipped.parameters - start).max() > 0.02


@pytest.mark.parametrize(
    ("codec", "numbers"), [([], 15), ([RandomK(5, shared=True)], 5), ([CountSketch(2, lines=3)], 6)]
)
def test_its_epsilon_joins_the_run(codec: Any, numbers: int) -> None:
    part = replace(SHARED, simulated=False)
    one = runs(noised(*codec, part, SecureSum()))
    deviation = float(part.deviation(1 / COUNT))
    want = epsilon_of(4.0, 2, Shared(4, deviation, numbers), 1e-3)
    assert (
        one.history.last("epsilon") == want == pytest.approx(epsilon_of(4.0, 2, Unsampled(), 1e-3))
    )
    told = str(one.privacy)
    for word in (
        "sees sums of masked updates, with up to 2 devices colluding",
        "noise of 4 devices, no amplification",
        "replace one device",
        "train_loss",
    ):
        assert word in told
    budget = noised(*codec, replace(part, epsilon=want + 1e-9), SecureSum())
    budget.run(5)
    assert (budget.round_number, budget.stopped) == (2, "budget")
    with pytest.raises(BudgetError):
        budget.round()
    # Where noise is coarse, what sums of it lack is paid for.
    coarse = noised(*codec, replace(part, bits=8), SecureSum())
    few = Shared(4, float(replace(part, bits=8).deviation(1 / COUNT)), numbers)
    assert few.tau > 0
    assert coarse.round().measures["epsilon"] == epsilon_of(4.0, 1, few, 1e-3)


def test_a_round_with_fewer_survivors_than_noise_counts_on_is_given_up() -> None:
    """Enough for the shares of secrets, and too few for the noise: nobody tells a share."""
    for drops, devices in (((0.3, 0), 6), ((0, 0.3), 9)):
        part = replace(SHARED, survivors=7)
        one = noised(part, SecureSum(0.51, drops=drops))
        before = one.parameters
        report = one.round()
        assert report.measures["devices"] == devices
        given_up = [text for _, text in report.remarks if "skipped" in text]
        if devices == 9:  # who drops out after sending has sent its noise
            assert not given_up
            continue
        assert given_up == ["skipped: noise counts on 7 devices, and 6 sent theirs"]
        np.testing.assert_array_equal(one.parameters, before)
        assert report.measures["epsilon_simulated"] > 0


@pytest.mark.parametrize(
    ("updates", "given", "says"),
    [
        ([SHARED], {}, "Mean needs blocks whose .*, which DistributedNoise takes away"),
        ([SHARED], {"aggregator": AGGREGATORS["median"]}, "anything but SecureSum right behind it"),
        ([SHARED, FixedPoint(1.0), SecureSum()], {}, "anything but SecureSum right behind it"),
        ([SHARED, ClipNorm(1.0), SecureSum()], {}, "whole numbers; .* ClipNorm takes away"),
        ([LOCAL, SHARED, SecureSum()], {}, "2 parts noise the updates"),
        ([ErrorFeedback(RandomK(3, shared=True)), SHARED, SecureSum()], {}, "remembers devices"),
        ([TopK(3), SHARED, SecureSum()], {}, r"TopK takes away; take RandomK\(shared=True\)"),
        ([ATTACKS["alie"], SHARED, SecureSum()], {}, "a device changes what others send"),
        ([SHARED, SecureSum()], {"selection": Poisson(0.5)}, "Poisson, whose cohorts may have any"),
        ([SHARED, SecureSum()], {"schedule": Deadline(9.0)}, "a schedule: who enters depends on"),
        ([SHARED, SecureSum()], {"stragglers": Stragglers(0.5)}, "stragglers"),
        ([SHARED, SecureSum()], {"weights": "rows"}, 'give weights="uniform"'),
        (
            [SHARED, SecureSum(0.9)],
            {},
            r"survivors=6 of cohorts of 9, .* fewer than 9; give 9 to 9",
        ),
        ([SHARED, SecureSum()], {"cohort": 5}, "survivors=6 of cohorts of 5, .* give 4 to 5"),
        (
            [replace(SHARED, colluders=4), SecureSum()],
            {},
            "colluders=4 and 3 of 9 that may drop out: with .* tell masks of others, or split",
        ),
        ([SHARED, SecureSum(neighbours="few")], {}, "take fewer, or neighbours='all'"),
        ([SHARED, SecureSum(neighbours=2)], {}, "colluders=2 and 3 of 9 that may drop out"),
        (
            # Two and two next to each other would leave two sums, each with less noise.
            [replace(SHARED, colluders=1), SecureSum(neighbours=4)],
            {},
            "colluders=1 and 3 of 9 that may drop out: .* or split the sum",
        ),
    ],
)
def test_what_shared_noise_does_not_go_with_is_refused(updates: Any, given: Any, says: str) -> None:
    with pytest.raises(ChainError, match=says):
        noised(*updates, **given)


def test_devices_that_their_profiles_let_drop_out_count_as_no_survivors() -> None:
    devices = [class_device(n, [0, 1, 2] * 4) for n in range(COUNT)]
    for device in devices:
        device.profile = Profile(dropout=0.3)
    one = Federation(devices, noised().model, updates=[SHARED, SecureSum()], weights="uniform")
    came = [one.round().measures for _ in range(12)]
    assert {told["devices"] >= 6 for told in came} == {True, False}
    for told in came:
        assert ("rows" in told) == (told["devices"] >= 6)  # six of nine is the threshold, too


def test_noise_too_coarse_for_its_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="its bound takes 1/2; take more bits, or more noise"):
        noised(replace(SHARED, bits=8, noise_multiplier=0.1), SecureSum())


@pytest.mark.parametrize(
    ("updates", "given"),
    [
        ([SHARED], {"down": [TopK(0.3)]}),
        ([ClipNorm(0.1), SHARED], {"selection": RoundRobin(), "cohort": 7}),
        ([ATTACKS["sign flip"], SHARED], {"selection": AtRandom(), "cohort": 8}),
        ([replace(SHARED, colluders=0)], {"masks": SecureSum(neighbours=4)}),
        ([replace(SHARED, colluders=0, survivors=9)], {"masks": SecureSum(neighbours="few")}),
    ],
)
def test_what_shared_noise_goes_with_runs(updates: Any, given: Any) -> None:
    others = {name: part for name, part in given.items() if name != "masks"}
    one = runs(noised(*updates, given.get("masks", SecureSum()), **others))
    assert one.history.series("epsilon_simulated").notna().all()


def test_what_goes_down_depends_on_released_models_alone_whoever_came() -> None:
    """Replayed from the models of all rounds, those without devices among them."""
    codec: Codec = TopK(0.3)
    one = noised(down=[codec], **SELDOM)
    held, came, rounds = one.parameters, [], 9
    for number in range(1, rounds + 1):
        difference = one.parameters - held
        at = Context(15, difference.dtype, 1, number, 0, address_of("change at down 0"))
        held = held + codec.decode(codec.encode(difference, at), at)
        came.append(one.round().measures["devices"])
        assert one.state.sent is not None
        np.testing.assert_array_equal(one.state.sent["model"], held)
    assert 0 in came
    assert max(came) > 0
    assert one.history.last("epsilon_simulated") == epsilon_of(2.0, rounds, Sampled(0.1), 1e-3)


@pytest.mark.parametrize(
    "given",
    [
        {"updates": [TopK(0.5)], "down": [Cast("i8")], **SELDOM},
        {"updates": [LOCAL, ErrorFeedback(TopK(0.2))], "down": [LowRank(1)]},
        {"updates": [LOCAL, *FIXED, SecureSum(0.51, drops=(0.2, 0.2))], "cohort": 8},
        {"updates": [RandomK(0.5, shared=True), SHARED, SecureSum(drops=(0.1, 0.1))]},
        {"updates": [LOCAL, ATTACKS["alie"]], "aggregator": AGGREGATORS["nnm, krum"]},
    ],
    ids=["codecs and a noised mean", "error feedback", "secure sum", "shared noise", "defence"],
)
def test_a_run_with_noise_resumes_to_the_same_bits_whatever_the_threads(
    given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runs(noised(threads=1, **given), 6)
    monkeypatch.setattr("fedlab.federation.on_devices.HELD", 1)
    noised(threads=2, **given).run_to(3, tmp_path / "run")
    second = noised(threads=2, **given)
    second.run_to(6, tmp_path / "run")
    assert second.parameters.tobytes() == whole.parameters.tobytes()
    assert second.history.to_frame().equals(whole.history.to_frame())
    assert second.privacy == whole.privacy
