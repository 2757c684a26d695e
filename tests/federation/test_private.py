"""Runs under differential privacy: what is accounted, noised, refused, ended, and resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlab import Device, Federation, LinearRegression, LocalSGD, SoftmaxRegression
from fedlab.device.profile import Profile
from fedlab.fleet import AtRandom, Deadline, Oort, Poisson, PowerOfChoice, RoundRobin, Stragglers
from fedlab.privacy.accounting import Fixed, Sampled, Unsampled, epsilon_of
from fedlab.privacy.mechanisms import BudgetError
from fedlab.updates import Cast, ChainError, ClipNorm, LocalNoise, PrivateMean
from fedlab.updates.stages import Rowwise
from tests.federations import class_device, regression_device

pytest.importorskip("dp_accounting", reason="dp-accounting is not installed (the extra privacy)")

FULL = LocalSGD(epochs=1, batch_size=None, learning_rate=0.1)
pytestmark = pytest.mark.filterwarnings("ignore:.* remarks were made in this run")


@pytest.fixture(scope="module")
def twenty() -> list[Device]:
    return [regression_device(n, rows=10 + n, inputs=3, seed=7) for n in range(20)]


def mean(**given: Any) -> PrivateMean:
    return PrivateMean(**{"clip": 0.5, "noise_multiplier": 2.0, "delta": 1e-3, **given})


def private(devices: Any, **given: Any) -> Federation:
    settings = {"local": FULL, "weights": "uniform", "selection": Poisson(0.3)}
    settings |= {"aggregator": mean(simulated=True), "parameters": np.zeros(4), **given}
    return Federation(devices, LinearRegression(3), **settings)


# -- what is accounted ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selection", "cohort", "adversary", "sampling"),
    [
        (Poisson(0.3), None, "model", Sampled(0.3)),
        (Poisson(0.3), None, "server", Unsampled("add or remove one device")),
        (AtRandom(), 5, "model", Fixed(5, 20)),
        (AtRandom(), 5, "server", Unsampled("replace one device")),
        (AtRandom(), None, "model", Unsampled("replace one device")),
        (RoundRobin(), 5, "model", Unsampled("replace one device")),
    ],
)
def test_epsilon_is_that_of_the_sampling_and_the_adversary(
    twenty: Any, selection: Any, cohort: int | None, adversary: Any, sampling: Any
) -> None:
    part = mean(adversary=adversary)
    one = private(twenty, selection=selection, cohort=cohort, aggregator=part)
    one.run(3)
    want = [epsilon_of(2.0, done, sampling, 1e-3) for done in (1, 2, 3)]
    assert one.history.series("epsilon").tolist() == want
    told = one.privacy
    assert told is not None
    assert (told.epsilon, told.rounds, told.delta) == (want[-1], 3, 1e-3)
    assert told.adjacency == sampling.adjacency
    for word in (sampling.adjacency, str(sampling), "delta 0.001", "Outside", "train_loss"):
        assert word in str(told)
    assert "cohorts" in told.adversary
    assert "simulated" not in str(told)
    first = one.history.remarks().iloc[0]
    assert first["round"] == 0
    assert "differential privacy: epsilon 0 at delta 0.001" in first.text


def test_every_epsilon_of_simulated_noise_says_so(twenty: Any) -> None:
    one = private(twenty)
    one.run(2)
    assert "epsilon_simulated" in one.history.wide()
    assert "epsilon" not in one.history.wide()
    assert "simulated: the noise follows from the seed" in str(one.privacy)
    assert "simulated" in one.history.remarks().iloc[0].text


def test_local_noise_is_accounted_for_a_device_that_is_in_every_round(twenty: Any) -> None:
    stage = LocalNoise(0.5, 8.0, delta=1e-3)
    one = private(twenty, updates=[stage, Cast()], aggregator=None)
    one.run(3)
    assert one.history.last("epsilon") == epsilon_of(8.0, 3, Unsampled(), 1e-3)
    assert "a server that reads each update" in str(one.privacy)


# -- the noised round ----------------------------------------------------------------------------


def test_the_step_is_the_clipped_sum_with_noise_over_the_expected_number(twenty: Any) -> None:
    """Against the formula, from the updates of a run without noise and clipping."""
    tiny = mean(noise_multiplier=1e-6, clip=0.02, simulated=True, delta=1e-3)
    one, plain = private(twenty, aggregator=tiny), private(twenty, aggregator=None)
    one.run(1)
    plain.run(1)
    places = np.sort(plain.state.chosen["place"])
    total = np.zeros(4)
    for place in places:
        alone = Federation([twenty[place]], LinearRegression(3), local=FULL, parameters=np.zeros(4))
        alone.run(1)
        total += alone.parameters * min(1.0, 0.02 / np.linalg.norm(alone.parameters))
    np.testing.assert_allclose(one.parameters, total / (0.3 * 20), atol=1e-6)


@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox", "scaffold", "feddyn"])
def test_a_round_to_which_nobody_came_is_noise_alone(twenty: Any, algorithm: str) -> None:
    rate = 1e-9
    one = private(
        twenty,
        algorithm=algorithm,
        selection=Poisson(rate),
        aggregator=mean(simulated=True, expected=4.0),
    )
    report = one.round()
    assert report.measures["devices"] == 0
    assert report.measures["update_norm"] > 0
    assert (one.parameters != 0).all()
    assert not [text for _, text in report.remarks if "skipped" in text]
    assert report.measures["epsilon_simulated"] == epsilon_of(2.0, 1, Sampled(rate), 1e-3)


def test_results_depend_neither_on_threads_nor_on_parts(
    twenty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (private(twenty, threads=threads, algorithm="scaffold") for threads in (1, 2))
    one.run(3)
    monkeypatch.setattr("fedlab.federation.on_devices.HELD", 1)
    other.run(3)
    np.testing.assert_array_equal(one.parameters, other.parameters)


def test_an_adaptive_clip_is_told_saved_and_goes_on(twenty: Any, tmp_path: Path) -> None:
    part = mean(simulated=True, quantile=0.5, count_noise=2.0, clip=0.05)
    whole, first, second = (private(twenty, aggregator=part) for _ in range(3))
    whole.run(6)
    first.run(3)
    first.save(tmp_path / "run")
    second.load(tmp_path / "run")
    second.run(3)
    assert second.parameters.tobytes() == whole.parameters.tobytes()
    clips = whole.history.series("clip")
    assert second.history.series("clip").tolist() == clips.tolist()
    assert clips.iloc[-1] != clips.iloc[0]
    assert second.history.series("epsilon_simulated").tolist() == pytest.approx(
        whole.history.series("epsilon_simulated").tolist()
    )


def test_going_on_with_the_systems_noise_is_said(twenty: Any, tmp_path: Path) -> None:
    one, other = (private(twenty, aggregator=mean()) for _ in range(2))
    one.run(2)
    one.save(tmp_path / "run")
    with pytest.warns(UserWarning, match="noise comes from the operating system.*not counted here"):
        other.load(tmp_path / "run")
    assert other.privacy == one.privacy
    one.round()
    other.round()
    assert not np.array_equal(one.parameters, other.parameters)


# -- the budget ----------------------------------------------------------------------------------


def test_a_run_ends_before_it_goes_beyond_its_budget(twenty: Any) -> None:
    budget = epsilon_of(2.0, 4, Sampled(0.3), 1e-3)
    one = private(twenty, aggregator=mean(epsilon=budget + 1e-6))
    one.run(10)
    assert one.round_number == 4
    assert one.stopped == "budget"
    last = one.history.remarks().iloc[-1]
    assert "ended: the budget is spent" in last.text
    assert "after 4 rounds" in last.text
    before = one.parameters
    with pytest.raises(BudgetError, match="budget is spent"):
        one.round()
    assert list(one.rounds()) == []
    assert one.parameters.tobytes() == before.tobytes()


def test_a_step_that_is_skipped_is_paid_for(twenty: Any) -> None:
    one = private(twenty, parameters=np.full(4, 1.0), aggregator=mean(simulated=True, clip=1e300))
    one.state = replace(one.state, parameters=np.full(4, 1e30, np.float32))
    one.round()
    assert one.privacy is not None
    assert one.privacy.rounds == 1


def test_devices_that_send_nothing_have_nothing_noised(twenty: Any) -> None:
    local = LocalNoise(1.0, 1.0, delta=1e-3, simulated=True)
    one = private(twenty, algorithm="alone", aggregator=None, updates=[ClipNorm(1.0), local])
    one.run(2)
    np.testing.assert_array_equal(one.parameters, np.zeros(4))


# -- what is refused -----------------------------------------------------------------------------


class Remembers(Rowwise):
    def init(self, size: int) -> Any:
        return {"seen": 0}

    def apply(self, state: Any, sent: Any, kept: Any, at: Any) -> Any:
        return sent, state, kept


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"weights": "rows"}, 'weights that tell how much devices hold; give weights="uniform"'),
        ({"weights": dict.fromkeys(range(20), 1.0)}, 'give weights="uniform"'),
        (
            {"selection": Oort(9.0), "cohort": 5},
            "Oort, whose choice tells what devices hold",
        ),
        ({"selection": PowerOfChoice(10), "cohort": 5}, "PowerOfChoice.*take Poisson, AtRandom"),
        ({"stragglers": Stragglers(0.5)}, "stragglers: one device more changes what others do"),
        ({"selection": None, "schedule": Deadline(1e9)}, "a schedule: who enters depends"),
        ({"quorum": 2}, "quorum=2, which shows how many came"),
        ({"record": "devices"}, 'take record="cohort"'),
        ({"algorithm": "fednova"}, "FedNova, which weighs or averages change, effective by"),
        ({"algorithm": "afl"}, "AFL, which reads places besides the noised sum"),
        ({"algorithm": "qffl"}, "QFFL, which sends more than how far local training moved"),
        (
            {"aggregator": mean(delta=0.05)},
            r"delta=0\.05, which lets one of 20 go; take less than 0\.05",
        ),
        ({"updates": [Remembers()]}, "Remembers before it, which remembers"),
        ({"updates": [LocalNoise(1.0, 1.0, delta=1e-3)]}, "2 parts noise the updates"),
        ({"selection": Poisson(0.0)}, r"Poisson\(0\), which expects nobody"),
    ],
)
def test_what_the_account_does_not_cover_is_refused(twenty: Any, given: Any, says: str) -> None:
    with pytest.raises(ChainError, match=says):
        private(twenty, **given)


def test_an_account_that_is_not_there_is_refused(twenty: Any) -> None:
    with pytest.raises(ValueError, match="'pld' was given with a fixed cohort"):
        private(twenty, selection=None, cohort=5, aggregator=mean(accountant="pld"))
    with pytest.raises(ValueError, match="give a larger count_noise"):
        private(twenty, aggregator=mean(quantile=0.5))


def test_fixed_cohorts_take_devices_that_can_always_be_reached(twenty: Any) -> None:
    off = [Device(d.id, d.index, profile=Profile(availability=0.5)) for d in twenty]
    with pytest.raises(ChainError, match=r"devices that come and go.*take Poisson"):
        private(off, selection=None, cohort=5)
    private(off, selection=None, cohort=5, aggregator=mean(adversary="server"))
    private(off)
    night = [Device(d.id, d.index, profile=Profile(online_from=1, online_until=5)) for d in twenty]
    with pytest.raises(ChainError, match="hours of the day"):
        private(night)


def test_stages_before_the_sum_and_behind_local_noise_run(twenty: Any) -> None:
    one = private(twenty, updates=[Cast(), ClipNorm(0.1)])
    one.run(2)
    late = private(twenty, updates=[LocalNoise(1.0, 1.0, delta=1e-3), Remembers()], aggregator=None)
    late.run(1)
    with pytest.raises(ChainError, match="Remembers before it"):
        private(twenty, updates=[Remembers(), LocalNoise(1.0, 1.0, delta=1e-3)], aggregator=None)


def test_it_learns_where_devices_are_many() -> None:
    devices = [class_device(n, [0, 1, 2] * 4, seed=3) for n in range(300)]
    test = devices[0].training()
    one = Federation(
        devices,
        SoftmaxRegression(4, 3),
        local=LocalSGD(epochs=2, batch_size=None, learning_rate=0.3),
        selection=Poisson(0.2),
        weights="uniform",
        aggregator=mean(simulated=True, noise_multiplier=1.0, clip=1.0),
        test=test,
    )
    one.run(15)
    assert one.history.last("test_accuracy") > 0.8
    assert one.history.last("epsilon_simulated") < 15


def test_going_back_to_an_earlier_state_says_that_epsilon_is_not_given_back(twenty: Any) -> None:
    one = private(twenty, aggregator=mean(epsilon=50.0))
    before = one.state
    one.run(2)
    with pytest.warns(UserWarning, match="cost epsilon that is not counted here"):
        one.state = before
    seeded = private(twenty)
    before = seeded.state
    seeded.run(2)
    seeded.state = before  # the same noise again, and no warning
    assert seeded.privacy is not None
    assert seeded.privacy.rounds == 0


def test_a_budget_below_a_first_round_is_refused_with_what_that_costs(twenty: Any) -> None:
    with pytest.raises(ChainError, match=r"a first round costs epsilon .* take more noise"):
        private(twenty, aggregator=mean(noise_multiplier=0.1, epsilon=1.0))
