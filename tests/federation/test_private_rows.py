"""Runs of `PrivateSGD`: what each device's rows have spent, budgets, refusals, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlab import MLP, Device, Federation, LocalSGD, PrivateSGD, SoftmaxRegression, VectorIndex
from fedlab.algorithms import _ALGORITHMS, Ditto, FedBN, FedRep, Scaffold
from fedlab.fleet import (
    AtRandom,
    ByRows,
    Deadline,
    FedBuff,
    Oort,
    Poisson,
    PowerOfChoice,
    RoundRobin,
    Stragglers,
)
from fedlab.privacy.accounting import Sampled, epsilon_of
from fedlab.privacy.mechanisms import BudgetError
from fedlab.training.rules import Uniform
from fedlab.updates import (
    ChainError,
    ClipNorm,
    ErrorFeedback,
    FixedPoint,
    LocalNoise,
    PrivateMean,
    SecureSum,
    TopK,
)
from fedlab.updates.attacks import ALIE
from fedlab.updates.robust import Median
from tests.federations import class_device

pytest.importorskip("dp_accounting", reason="dp-accounting is not installed (the extra privacy)")
pytestmark = pytest.mark.filterwarnings("ignore:.* remarks were made in this run")

MEAN = PrivateMean(0.5, 2.0, delta=1e-3, simulated=True)


def steps(**given: Any) -> PrivateSGD:
    settings = {"row_clip": 0.5, "noise_multiplier": 1.0, "share": 0.25, "delta": 1e-3}
    return PrivateSGD(**{**settings, "simulated": True, "learning_rate": 0.2, **given})


def devices(count: int = 8) -> list[Device]:
    return [class_device(n, [0, 1, 2] * (4 + n % 3), seed=1) for n in range(count)]


def private(local: PrivateSGD | None = None, **given: Any) -> Federation:
    model = given.pop("model", SoftmaxRegression(4, 3))
    return Federation(given.pop("devices", devices()), model, local=local or steps(), **given)


def epsilon(taken: int) -> float:
    return epsilon_of(1.0, int(taken), Sampled(0.25), 1e-3)


# -- what is accounted ---------------------------------------------------------------------------


def test_epsilon_is_that_of_the_device_with_most_steps() -> None:
    """By hand from the cohorts; two epochs of four steps for each time in one."""
    one = private(steps(epochs=2, simulated=False), cohort=3)
    taken = np.zeros(8, int)
    for _ in range(4):
        report = one.round()
        taken[one.state.chosen["place"]] += 2 * 4
        assert report.measures["epsilon_rows"] == epsilon(taken.max())
    np.testing.assert_array_equal(one.state.private["steps"], taken)
    assert len(np.unique(taken)) > 1
    told = one.row_privacy
    assert told is not None
    assert one.privacy is None
    assert (told.epsilon, told.rounds) == (epsilon(taken.max()), taken.max())
    for word in ("steps of a device", "add or remove one row", "is public", "such as the server"):
        assert word in str(told)
    assert "Poisson sampling at a rate of 0.25" in str(told)
    assert "simulated" not in str(told)
    assert "differential privacy: epsilon 0 at" in one.history.remarks().iloc[0].text


def test_a_published_epsilon() -> None:
    """Abadi et al., section 3.2: q = 0.01, sigma = 4, 10,000 steps: at most 1.26, and 1.035 now."""
    local = steps(share=0.01, noise_multiplier=4.0, delta=1e-5, epochs=100)
    one = private(local, devices=devices(1))
    one.run(1)
    assert one.state.private["steps"].tolist() == [10_000]
    assert one.history.last("epsilon_rows_simulated") == pytest.approx(1.03549, abs=1e-5)


def test_simulated_noise_says_so() -> None:
    one = private()
    one.run(1)
    assert "epsilon_rows_simulated" in one.history.wide()
    assert "epsilon_rows" not in one.history.wide()
    assert "simulated: the noise follows from the seed" in str(one.row_privacy)


@pytest.mark.parametrize("algorithm", ["fedavg", Ditto(epochs=2), FedRep(epochs=3), Scaffold()])
def test_all_phases_of_a_round_are_paid_for(algorithm: Any) -> None:
    passes = {Ditto: 1 + 2, FedRep: 1 + 3}.get(type(algorithm), 1)
    one = private(model=MLP(4, (5,), 3), algorithm=algorithm, cohort=2)
    taken = np.zeros(8, int)
    for _ in range(2):
        one.round()
        taken[one.state.chosen["place"]] += 4 * passes
    np.testing.assert_array_equal(one.state.private["steps"], taken)


def test_who_is_late_drops_out_or_does_less_pays_for_what_the_server_may_have() -> None:
    slow = [Device(d.id, d.index) for d in devices()]
    late = private(devices=slow, schedule=Deadline(1e-9))
    late.run(1)
    assert late.history.last("late") == 8
    assert late.state.private["steps"].tolist() == [4] * 8
    fewer = private(steps(epochs=5), stragglers=Stragglers(0.9))
    fewer.run(1)
    taken = fewer.state.private["steps"] / 4
    frame = private(steps(epochs=5), stragglers=Stragglers(0.9), record="devices")
    frame.run(1)
    told = frame.history.to_frame()
    epochs = told[told["metric"] == "epochs"]["value"].to_numpy()
    np.testing.assert_array_equal(taken, epochs)
    assert len(np.unique(epochs)) > 1


def test_asynchronous_rounds_charge_when_updates_come() -> None:
    one = private(schedule=FedBuff(2), cohort=4, quorum=1)
    one.run(5)
    assert one.state.private["steps"].sum() == 5 * 2 * 4


# -- the budget ----------------------------------------------------------------------------------


def test_a_device_stays_away_before_it_goes_beyond_its_budget() -> None:
    one = private(steps(epsilon=epsilon(12) + 1e-9), selection=RoundRobin(), cohort=3)
    one.run(100)
    assert one.stopped == "budget"
    assert one.state.private["steps"].tolist() == [12] * 8
    assert one.round_number == 8 * 3 / 3
    said = one.history.remarks()
    ended = said[said["text"] == "its rows' budget is spent"]
    assert sorted(ended["who"].tolist()) == list("01234567")
    assert said.iloc[-1].text == "ended: the budget is spent of every device's rows"
    assert one.history.last("epsilon_rows_simulated") == epsilon(12)
    with pytest.raises(BudgetError, match="the model stands as it is"):
        one.round()


@pytest.mark.parametrize("rule", [AtRandom(), ByRows(), Poisson(0.4)])
def test_every_rule_leaves_out_who_has_spent(rule: Any) -> None:
    size = {} if isinstance(rule, Poisson) else {"cohort": 3}
    one = private(steps(epsilon=epsilon(8) + 1e-9), selection=rule, **size)
    one.run(200)
    assert one.stopped == "budget"
    assert one.state.private["steps"].tolist() == [8] * 8


def test_a_budget_below_one_round_is_refused_with_what_that_costs() -> None:
    with pytest.raises(ChainError, match=r"a first round costs epsilon .* take more noise"):
        private(steps(epsilon=0.01))


def test_a_run_that_ends_with_its_budget_has_left_nobody_out() -> None:
    one = private(steps(epsilon=epsilon(12) + 1e-9))
    one.run(3)
    assert (one.stopped, one.state.private["steps"].tolist()) == ("rounds", [12] * 8)
    assert one.history.remarks()["round"].tolist() == [0]
    one.run(1)
    assert one.stopped == "budget"


# -- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"cohort": 3},
        {"algorithm": Scaffold(), "threads": 2},
        {"schedule": FedBuff(2), "cohort": 4},
        {"selection": Poisson(0.4), "aggregator": MEAN, "weights": "uniform"},
    ],
    ids=["cohorts", "scaffold", "asynchronous", "noised mean"],
)
def test_a_run_resumes_to_the_same_bits(given: Any, tmp_path: Path) -> None:
    budget = None if "aggregator" in given else epsilon(12) + 1e-9
    whole, first, second = (private(steps(epsilon=budget), **given) for _ in range(3))
    whole.run(6)
    first.run_to(3, tmp_path / "run")
    second.run_to(6, tmp_path / "run")
    assert second.parameters.tobytes() == whole.parameters.tobytes()
    assert second.history.to_frame().equals(whole.history.to_frame())
    assert second.row_privacy == whole.row_privacy
    other = private(steps(epsilon=budget, noise_multiplier=1.1), **given)
    with pytest.raises(ValueError, match="its local is PrivateSGD"):
        other.load(tmp_path / "run")


def test_going_on_with_the_systems_noise_is_said(tmp_path: Path) -> None:
    one, other = (private(steps(simulated=False)) for _ in range(2))
    one.run(1)
    one.save(tmp_path / "run")
    with pytest.warns(UserWarning, match="noise comes from the operating system"):
        other.load(tmp_path / "run")
    one.round()
    other.round()
    assert not np.array_equal(one.parameters, other.parameters)


# -- what it goes with, and what is refused ------------------------------------------------------


class Moving:
    def at(self, round: int) -> list[Device]:
        return devices()


REFUSED = {"qffl", "afl", "ifca", "moon", "apfl", "fedproto", "feddbe"}


@pytest.mark.parametrize("name", [name for name in _ALGORITHMS if "lora" not in name])
def test_every_algorithm_runs_or_is_refused_when_built(name: str) -> None:
    algorithm = FedBN(keep=("bias1",)) if name == "fedbn" else name
    given = {"model": MLP(4, (5,), 3), "algorithm": algorithm}
    if name in REFUSED:
        with pytest.raises(ChainError, match=r"PrivateSGD gives no epsilon with .*take FedAvg"):
            private(**given)
        return
    one = private(**given)
    one.run(2)
    assert np.isfinite(one.parameters).all()
    assert one.history.last("epsilon_rows_simulated") > 0


def test_gradients_of_whole_losses_are_refused() -> None:
    with pytest.raises(ChainError, match="what devices compute of rows and tell without noise"):
        private(algorithm=Scaffold(option=1))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"selection": Oort(9.0), "cohort": 3}, "Oort, whose choice tells what rows are"),
        ({"selection": PowerOfChoice(5), "cohort": 3}, "PowerOfChoice.*take AtRandom"),
        ({"weights": lambda device: 1.0}, "weights by a function of a device"),
        ({"rows": Uniform(0.5)}, "rows=, by which a row decides whether others train"),
        ({"devices": Moving()}, "devices whose rows change: one that moves pays on two"),
        ({"local": steps(delta=0.1)}, r"delta=0\.1, which lets one of 18 rows go"),
        (
            {
                "local": steps(epsilon=9.0),
                "aggregator": MEAN,
                "weights": "uniform",
                "selection": Poisson(0.4),
            },
            "PrivateMean, if devices whose budget is spent stay away; leave epsilon out",
        ),
    ],
)
def test_what_the_account_does_not_cover_is_refused(given: Any, says: str) -> None:
    with pytest.raises(ChainError, match=f"PrivateSGD gives no epsilon with {says}"):
        private(**given)


def test_the_compiled_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="the compiled loops have no PrivateSGD"):
        private(engine="compiled")


def test_models_whose_rows_mix_are_refused() -> None:
    nn = pytest.importorskip("torch", reason="torch is not installed (the extra torch)").nn
    from fedlab.models import TorchModel

    def model(*layers: Any, loss: Any = None) -> TorchModel:
        net = nn.Sequential(nn.Linear(4, 6), *layers, nn.Linear(6, 3))
        return TorchModel(net, loss or nn.CrossEntropyLoss(), 4)

    weighs = nn.CrossEntropyLoss(weight=__import__("torch").tensor([1.0, 5.0, 1.0]))
    for one, says in (
        (model(nn.BatchNorm1d(6)), "buffers, which take what they hold from rows"),
        (model(nn.BatchNorm1d(6, track_running_stats=False)), "can't pass one by one: Expected"),
        (model(loss=weighs), "whose loss is no mean of rows' own"),
    ):
        with pytest.raises(ChainError, match=says):
            private(model=one)
    one = private(model=model(nn.GroupNorm(2, 6), nn.Dropout(0.2)))
    one.run(1)
    assert one.state.private["steps"].tolist() == [4] * 8


class OfPairs:
    """A loss of pairs of rows: rows have none of their own."""

    def __init__(self) -> None:
        self.inner = SoftmaxRegression(4, 3)
        self.layout, self.inputs, self.initial = self.inner.layout, 4, self.inner.initial
        self.check_labels, self.evaluate = self.inner.check_labels, self.inner.evaluate

    def loss_and_gradient(self, parameters: Any, x: Any, y: Any) -> Any:
        return self.inner.loss_and_gradient(parameters, x - x.mean(axis=0), y)


def test_models_of_ones_own_are_tried_and_estimators_are_refused() -> None:
    with pytest.raises(ChainError, match="OfPairs, whose loss is no mean of rows' own"):
        private(model=OfPairs())
    sklearn = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    from fedlab.models import SklearnModel

    estimator = SklearnModel(sklearn.SGDClassifier(loss="log_loss"), inputs=4, classes=3)
    with pytest.raises(ChainError, match=r"rows can't pass one by one: .*partial_fit"):
        private(model=estimator)


@pytest.mark.parametrize(
    "given",
    [
        {"updates": [ErrorFeedback(TopK(0.3))], "down": [TopK(0.5)]},
        {"updates": [ClipNorm(50.0), FixedPoint(50.0, 32), SecureSum(0.51)]},
        {"updates": [ALIE(0.2)], "aggregator": Median()},
        {"updates": [LocalNoise(0.5, 4.0, delta=1e-3, simulated=True)], "weights": "uniform"},
        {"weights": dict.fromkeys(range(8), 2.0)},
        {"record": "devices"},
    ],
    ids=["codecs", "secure sum", "attack and defence", "local noise", "weights", "record"],
)
def test_all_that_comes_after_costs_nothing(given: Any) -> None:
    one = private(**given)
    one.run(2)
    assert one.history.last("epsilon_rows_simulated") == epsilon(8)
    assert ("epsilon_simulated" in one.history.wide()) == (one.privacy is not None)


def test_a_population_on_disk_trains(tmp_path: Path) -> None:
    from fedlab import Population, write_population

    draw = np.random.default_rng(0)
    given = ((n, draw.normal(size=(12, 4)).astype("f"), draw.integers(0, 3, 12)) for n in range(9))
    write_population(tmp_path / "many", given, dimensions=4)
    one = private(devices=Population(tmp_path / "many"), cohort=4)
    one.run(2)
    assert one.state.private["steps"].sum() == 2 * 4 * 4


def test_it_learns_where_rows_are_many() -> None:
    parts = [class_device(n, [0, 1, 2] * 80, seed=3) for n in range(4)]
    local = steps(share=0.1, noise_multiplier=1.5, row_clip=1.0, epochs=1, learning_rate=0.5)
    one = private(local, devices=parts, test=parts[0].training())
    one.run(5)
    assert one.history.last("test_accuracy") > 0.85
    assert one.history.last("epsilon_rows_simulated") < 3.5
    plain = Federation(parts, SoftmaxRegression(4, 3), local=LocalSGD(), test=parts[0].training())
    plain.run(5)
    assert one.history.last("test_accuracy") > plain.history.last("test_accuracy") - 0.05


def test_rows_that_come_later_pay_from_where_the_device_stands() -> None:
    index = VectorIndex(4)
    index.add(np.eye(4), labels=[0, 1, 2, 0])
    one = private(devices=[Device(0, index)])
    one.round()
    index.add(np.ones((2, 4)), labels=[1, 2])
    one.round()
    assert one.state.private["steps"].tolist() == [8]
