"""Noise beside attacks, defences, codecs and secure sums: each pair runs, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlab import MLP, Federation
from fedlab.algorithms import _ALGORITHMS, FedBN
from fedlab.core.randomness import address_of
from fedlab.fleet import Poisson
from fedlab.privacy.accounting import Sampled, Unsampled, epsilon_of
from fedlab.updates import (
    EF21,
    Cast,
    ChainError,
    ClipNorm,
    Codec,
    Context,
    ErrorFeedback,
    FixedPoint,
    LocalNoise,
    LowRank,
    PrivateMean,
    SecureSum,
    Sign,
    TopK,
)
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
            "noise in its sum would have to be the devices' own; take LocalNoise in front",
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


@pytest.mark.parametrize("given", [SELDOM, {"updates": [LOCAL]}], ids=["mean", "local"])
@pytest.mark.parametrize("name", [name for name in _ALGORITHMS if "lora" not in name])
def test_every_algorithm_runs_with_noise_or_is_refused_when_built(name: str, given: Any) -> None:
    devices = [class_device(n, [0, 1, 2] * (2 + n % 3)) for n in range(COUNT)]
    algorithm = FedBN(keep=("bias1",)) if name == "fedbn" else name
    given = {"algorithm": algorithm, "weights": "uniform", **given}
    if name in {"fednova", "qffl", "afl", "ifca", "fedproto", "feddbe"}:
        with pytest.raises(ChainError, match=r"gives no epsilon with .*; take another algorithm"):
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
        {"updates": [LOCAL, ATTACKS["alie"]], "aggregator": AGGREGATORS["nnm, krum"]},
    ],
    ids=["codecs and a noised mean", "error feedback", "secure sum", "defence"],
)
def test_a_run_with_noise_resumes_to_the_same_bits_whatever_the_threads(
    given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runs(noised(threads=1, **given), 6)
    monkeypatch.setattr("fedlab.federation.round.HELD", 1)
    noised(threads=2, **given).run_to(3, tmp_path / "run")
    second = noised(threads=2, **given)
    second.run_to(6, tmp_path / "run")
    assert second.parameters.tobytes() == whole.parameters.tobytes()
    assert second.history.to_frame().equals(whole.history.to_frame())
    assert second.privacy == whole.privacy
