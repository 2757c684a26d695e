"""What is wrong with what somebody brings is said at the door, in words that name it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlab import (
    MLP,
    Convergence,
    Federation,
    LinearRegression,
    LocalSGD,
    Population,
    SoftmaxRegression,
    VectorIndex,
    write_population,
)
from fedlab.algorithms import Stateless
from fedlab.search import FederatedSearch
from fedlab.training import Phase
from fedlab.updates import SGD, ClipNorm
from tests.federations import class_device

ROOT = Path(__file__).resolve().parents[2]
DRAW = np.random.default_rng(1)
X, Y = DRAW.normal(size=(10, 4)), np.arange(10) % 3
HOLED = np.where(np.arange(40).reshape(10, 4) == 7, np.nan, X)


def devices(count: int = 3) -> list:
    return [class_device(n, [0, 1, 2] * (2 + n)) for n in range(count)]


def federation(model=None, **settings: Any) -> Federation:
    return Federation(devices(), model or SoftmaxRegression(4, 3), **settings)


# -- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["compiled", "plain"])
@pytest.mark.parametrize(
    ("test", "says"),
    [
        ((X, Y[:, None]), r"labels of shape \(10, 1\) were given for 10 rows"),
        ((X, np.column_stack([Y, Y])), r"labels of shape \(10, 2\)"),
        ((X, Y[:9]), r"labels of shape \(9,\) were given for 10 rows"),
        ((HOLED, Y), "1 of 10 rows hold NaN.*the first is row 1"),
        ((X[:, :3], Y), r"\(rows, 4\) is needed"),
        ((X[:0], Y[:0]), "no test rows"),
        ((X, Y + 1), "labels from 1 to 3 were given"),
        ((X, Y.astype(str)), "class numbers 0 ... 2"),
        ((X.astype(str), Y), "numbers are needed"),
        (X, r"test is an array of shape \(10, 4\); give rows and labels, \(x, y\)"),
        ((X, Y, Y), r"give rows and labels, \(x, y\)"),
    ],
)
def test_test_rows_are_checked_like_a_device_s(test, says, engine):
    with pytest.raises((TypeError, ValueError), match=says):
        federation(test=test, engine=engine)


def test_test_rows_in_any_byte_order_and_layout_measure_alike():
    swapped = np.asfortranarray(X.astype(">f8")), Y.astype(">i4")
    plain, odd = (federation(test=test).run(2).last("test_loss") for test in ((X, Y), swapped))
    assert plain == odd


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({1: class_device(1, [0, 1])}, "type dict.*list\\(devices.values\\(\\)\\)"),
        ([VectorIndex(4)], "VectorIndex at place 0; give Device\\(name, index\\)"),
        (class_device(1, [0, 1]), "type Device; a list of Device is needed"),
        ((X, Y), r"array of shape \(10, 4\) at place 0"),
        (None, "devices is None"),
        ((one for one in devices()), "type generator"),
        ("devices", "'d' \\(str\\) at place 0"),
    ],
)
def test_what_is_no_list_of_devices_is_refused(given, says):
    with pytest.raises(TypeError, match=says):
        Federation(given, SoftmaxRegression(4, 3))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stragglers": 0.5}, r"Stragglers\(0.5\)"),
        ({"local": {"epochs": 2}}, "local is an object of type dict; give a LocalSGD"),
        ({"local": LocalSGD}, "local is the class LocalSGD"),
        ({"weights": lambda device: np.nan}, "the weight of device 0 is nan"),
        ({"weights": lambda device: -1}, "the weight of device 0 is -1"),
        ({"weights": lambda device: "2"}, r"device 0 is '2' \(str\); it must be a number"),
        ({"weights": lambda device: None}, "device 0 is None"),
        ({"weights": {0: 1, 1: 1, 2: 1, 9: 1}}, r"devices that are not here: \['9'\]"),
        ({"weights": {0: 1, 1: np.inf, 2: 1}}, "the weight of device 1 is inf"),
        ({"aggregator": "mean"}, "aggregator of type str"),
    ],
)
def test_settings_of_another_kind_are_refused(settings, says):
    with pytest.raises((TypeError, ValueError), match=says):
        federation(**settings)


def test_a_device_without_rows_may_have_a_weight():
    three = [*devices(2), class_device(2, [])]
    run = Federation(three, SoftmaxRegression(4, 3), weights={0: 1, 1: 1, 2: 1})
    assert run.run(1).last("devices") == 2


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MLP(64, 32, 10), r"hidden is 32 \(int\);.*\(32,\) for a single one"),
        (lambda: MLP(64, (0,), 10), "a hidden layer's width is 0"),
        (lambda: MLP(64, (32,), 0), "classes is 0"),
        (lambda: MLP("64", (32,), 2), "inputs is '64'"),
        (lambda: SoftmaxRegression(0, 2), "inputs is 0"),
        (lambda: SoftmaxRegression(3, 1), "classes is 1"),
        (lambda: SoftmaxRegression(3, 2, l2=-1), "l2 is -1"),
        (lambda: LinearRegression(0), "inputs is 0"),
        (lambda: LinearRegression(2, l2=np.nan), "l2 is nan"),
        (lambda: LocalSGD(learning_rate="0.1"), r"learning_rate is '0.1' \(str\)"),
        (lambda: LocalSGD(learning_rate=True), "learning_rate is True"),
        (lambda: LocalSGD(momentum=np.ones(2)), r"momentum is an array of shape \(2,\)"),
        (lambda: ClipNorm("1"), r"'1' \(str\); it must be a number"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused(make, says):
    with pytest.raises((TypeError, ValueError), match=says):
        make()


def test_a_second_number_is_no_convergence(tmp_path):
    with pytest.raises(TypeError, match=r"convergence is 5 \(int\); give a Convergence"):
        federation().run(5, 5)
    with pytest.raises(TypeError, match="convergence is the class Convergence"):
        federation().run_to(5, tmp_path / "run", convergence=Convergence)


# -- a model of one's own ------------------------------------------------------------------------


class Own(SoftmaxRegression):
    """A model that gives what `broken` makes of the right thing."""

    def __init__(self, broken=lambda loss, gradient: (loss, gradient), measures=lambda m: m):
        super().__init__(4, 3)
        self.__dict__.update(broken=broken, measures=measures)

    def loss_and_gradient(self, parameters, x, y):
        return self.broken(*super().loss_and_gradient(parameters, x, y))

    def evaluate(self, parameters, x, y):
        return self.measures(super().evaluate(parameters, x, y))


class Writes(SoftmaxRegression):
    """A model that writes into one of its arguments."""

    def __init__(self, place):
        super().__init__(4, 3)
        self.__dict__.update(place=place)

    def loss_and_gradient(self, parameters, x, y):
        (parameters, x, y)[self.place][:] = 0
        return super().loss_and_gradient(parameters, x, y)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda loss, g: g, r"returned an array of shape \(15,\); it must return \(loss, gradient"),
        (lambda loss, g: None, "returned None"),
        (lambda loss, g: (g, loss), r"gradient of shape \(\)"),
        (lambda loss, g: (loss, g[:3]), r"gradient of shape \(3,\); \(15,\) is needed"),
        (lambda loss, g: (loss, g.astype(complex)), "not in complex128"),
        (lambda loss, g: (loss, g > 0), "not in bool"),
        (lambda loss, g: (np.ones(3), g), r"loss of Own.loss_and_gradient is an array"),
        (lambda loss, g: (None, g), "loss of Own.loss_and_gradient is None"),
        (lambda loss, g: (loss, g, 1), "of type tuple of 3"),
    ],
)
def test_a_model_that_gives_something_else_is_told_what(broken, says):
    with pytest.raises(RuntimeError, match=says):
        federation(Own(broken)).run(1)


def test_a_model_may_give_a_list_or_the_numbers_of_another_library():
    same = [
        federation(model, engine="plain").run(2).last("train_loss")
        for model in (
            SoftmaxRegression(4, 3),
            Own(lambda loss, g: (np.float32(loss), [float(one) for one in g])),
        )
    ]
    assert same[0] == pytest.approx(same[1], abs=1e-6)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_model_that_writes_into_its_arguments_is_told_so(place):
    run = Federation(devices(), Writes(place), local=LocalSGD(batch_size=None))
    before = run.devices[0].training()[0].copy()
    with pytest.raises(RuntimeError, match=r"Writes.loss_and_gradient writes into its arguments"):
        run.run(1)
    np.testing.assert_array_equal(run.devices[0].training()[0], before)


@pytest.mark.parametrize(
    ("measures", "says"),
    [
        (lambda m: m["loss"], "measures by name"),
        (lambda m: {"accuracy": 1.0}, "gave accuracy, and no .loss."),
        (lambda m: {"loss": np.ones(3)}, "loss of Own.evaluate is an array"),
    ],
)
def test_measures_that_are_none_are_named(measures, says):
    with pytest.raises(TypeError, match=says):
        federation(Own(measures=measures), test=(X, Y)).run(1)


class Dropout(SoftmaxRegression):
    """Each step leaves out some inputs, by the generator that it is given."""

    stochastic = True

    def loss_and_gradient(self, parameters, x, y, draw):
        kept = (draw.random(x.shape[1]) > 0.5).astype(np.float32)
        return super().loss_and_gradient(parameters, x * kept, y)


def test_a_model_s_chance_comes_from_the_seed_alone():
    def learned(**settings):
        run = federation(Dropout(4, 3), local=LocalSGD(batch_size=2), **settings)
        run.run(3)
        return run.parameters

    once = learned(seed=1)
    np.testing.assert_array_equal(once, learned(seed=1, threads=3))
    assert np.abs(once - learned(seed=2)).max() > 1e-3
    whole = federation(SoftmaxRegression(4, 3), local=LocalSGD(batch_size=2), engine="plain")
    whole.run(3)
    assert np.abs(once - whole.parameters).max() > 1e-3


# -- an algorithm, a server, a stage of one's own ------------------------------------------------


@dataclass(frozen=True)
class Odd(Stateless):
    """An algorithm one of whose methods gives what it shouldn't."""

    method: str
    gives: Any

    def work(self, state, parameters, places, kept):
        return self.gives if self.method == "work" else Phase(parameters)

    def report(self, state, sent, kept):
        return self.gives if self.method == "report" else (sent, kept)

    def learn(self, state, means, devices):
        return self.gives if self.method == "learn" else (means["change"], state)


@dataclass(frozen=True)
class Misspelt(Stateless):
    """An algorithm that learns from what nobody sent."""

    def learn(self, state, means, devices):
        return means["chnge"], state


def test_a_mean_that_did_not_come_is_named_beside_those_that_did():
    with pytest.raises(KeyError, match="no 'chnge' came in this round; there are change"):
        federation(algorithm=Misspelt()).run(1)


@dataclass(frozen=True)
class Reports(Stateless):
    """An algorithm whose devices make something odd of what they send."""

    of_blocks: Any = lambda block: block
    of_weights: Any = lambda weights: weights

    def report(self, state, sent, kept):
        blocks = {"change": self.of_blocks(sent.blocks["change"])}
        return replace(sent, blocks=blocks, weights=self.of_weights(sent.weights)), kept


@dataclass(frozen=True)
class OddServer(SGD):
    def step(self, state, parameters, change):
        return parameters + change


@dataclass(frozen=True)
class OddStage(ClipNorm):
    norm: float = 1.0

    def apply(self, state, sent, kept, at):
        return sent


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"algorithm": Odd("work", {"start": 0})}, "work is an object of type dict; give a Phase"),
        ({"algorithm": Odd("work", [Phase()])}, "work is an object of type list"),
        ({"algorithm": Odd("work", None)}, "work is None"),
        ({"algorithm": Odd("work", ())}, "type tuple; give a Phase, or a tuple of them"),
        ({"algorithm": Odd("report", None)}, "Odd.report returned None; it must return"),
        ({"algorithm": Odd("report", (1, 2))}, r"Odd.report gave 1 \(int\) as updates"),
        ({"algorithm": Reports(of_blocks=lambda b: b[:1])}, r"block 'change'.*\(3, n\)"),
        ({"algorithm": Reports(of_blocks=lambda b: b[0])}, r"block 'change' is float32 of shape"),
        ({"algorithm": Reports(of_blocks=lambda b: b.astype(int))}, "'change' is int64"),
        ({"algorithm": Reports(of_blocks=lambda b: b[:, :3])}, r"gave a change of shape \(3,\)"),
        ({"algorithm": Reports(of_weights=lambda w: w[:2])}, r"'weights' has shape \(2,\)"),
        ({"algorithm": Reports(of_weights=lambda w: w[:, None])}, r"'weights' has shape \(3, 1\)"),
        ({"algorithm": Odd("learn", np.ones(15))}, r"Odd.learn returned an array.*change, state"),
        ({"algorithm": Odd("learn", (1.0, {}))}, r"Odd.learn gave a change of shape \(\)"),
        ({"server": OddServer()}, r"OddServer.step returned an array of shape \(15,\)"),
        ({"updates": [OddStage()]}, "OddStage.apply returned an object of type Updates"),
    ],
)
def test_parts_that_give_something_else_are_told_what_and_nothing_changes(settings, says):
    run = federation(**settings)
    before = run.parameters
    with pytest.raises((TypeError, ValueError), match=says):
        run.run(1)
    assert run.round_number == 0
    assert len(run.history.to_frame()) == 0
    np.testing.assert_array_equal(run.parameters, before)


def test_a_round_whose_weights_are_all_zero_is_skipped_and_said():
    run = federation(weights={0: 0, 1: 0, 2: 1}, cohort=1, seed=3)
    with pytest.warns(UserWarning, match="all weights are zero"):
        history = run.run(8)
    skipped = history.remarks()
    assert set(skipped.text) == {"skipped: all weights are zero"}
    assert 0 < len(skipped) < 8
    still = history.series("update_norm").loc[skipped["round"]]
    assert (still == 0).all()
    assert history.series("update_norm").max() > 0


# -- copies --------------------------------------------------------------------------------------


def pickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy])
@pytest.mark.parametrize("rounds", [0, 2])
def test_a_federation_goes_on_as_its_copy_does(rounds, copied):
    run = federation(weights="uniform", cohort=2, algorithm="scaffold", test=(X, Y))
    run.run(rounds)
    other = copied(run)
    assert run.run(3).to_frame().equals(other.run(3).to_frame())
    assert run.parameters.tobytes() == other.parameters.tobytes()
    assert run.rounds_that_used(0, 0).tolist() == other.rounds_that_used(0, 0).tolist()


def test_a_copy_in_another_process_leaves_the_files_that_devices_keep(tmp_path):
    run = federation(cohort=2, algorithm="scaffold", keep_in=tmp_path / "kept")
    run.run(3)
    (tmp_path / "run.pickle").write_bytes(pickle.dumps(run))
    program = (
        "import pickle, sys; run = pickle.load(open(sys.argv[1], 'rb'));"
        "run.run(2); print(run.parameters.tobytes().hex())"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "run.pickle")]
    said = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert len(list((tmp_path / "kept").iterdir())) > 0
    run.run(2)
    assert said.stdout.strip() == run.parameters.tobytes().hex()


def test_populations_and_searches_can_be_pickled(tmp_path):
    write_population(tmp_path / "some", [(n, X + n, Y) for n in range(3)], dimensions=4)
    population = Population(tmp_path / "some")
    run = Federation(population, SoftmaxRegression(4, 3), cohort=2)
    other = pickled(run)
    assert run.run(2).to_frame().equals(other.run(2).to_frame())
    searcher = FederatedSearch(devices())
    mine, theirs = (one.search(X[:2], k=3) for one in (searcher, pickled(searcher)))
    np.testing.assert_array_equal(mine.keys, theirs.keys)
