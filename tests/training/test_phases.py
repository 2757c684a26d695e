"""Work in phases, each device with a round, a step size and a start of its own; both doors."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from fedlab import MLP, Federation, LinearRegression, LocalSGD, SoftmaxRegression
from fedlab.algorithms import FedAvg, Stateless
from fedlab.training import Phase, Plain, train_cohort, train_device, trainer_of, validate
from fedlab.training.cohort import train_in_parts
from tests.federations import class_device, quadratic, regression_device

ENGINES = ("compiled", "plain")
MODEL = MLP(4, (6,), 3)
LOCAL = LocalSGD(epochs=2, batch_size=4, learning_rate=0.05)


def devices(count: int = 5) -> list[Any]:
    return [class_device(n, [0, 1, 2] * (2 + n)) for n in range(count)]


def start(numbers: Any = np.float64) -> Any:
    return MODEL.initial(0).astype(numbers)


# -- a dispatch -----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", [MODEL, LinearRegression(4)], ids=["mlp", "linear"])
def test_devices_of_different_rounds_train_in_one_call_as_each_alone(
    engine: Any, model: Any
) -> None:
    """Versions, step sizes and epochs mixed: what asynchronous learning hands out."""
    some = devices()
    if model is not MODEL:
        some = [regression_device(n, rows=9 + n, inputs=4, seed=1) for n in range(5)]
    draw = np.random.default_rng(3)
    starts = draw.normal(size=(5, model.layout.size)) / 9
    rounds, rates = np.array([7, 1, 3, 7, 2]), np.array([0.1, 0.02, 0.05, 0.03, 0.1])
    epochs = np.array([1, 3, 2, 1, 2])
    given = {"seed": 6, "engine": engine}
    batch = LocalSGD(batch_size=4 if model is MODEL else None)
    mixed = train_cohort(
        some, model, Phase(starts), batch, round=rounds, epochs=epochs, rates=rates, **given
    )
    for place, device in enumerate(some):
        alone = train_device(
            *(device, model, starts[place], batch),
            seed=6,
            round=int(rounds[place]),
            epochs=int(epochs[place]),
            rate=float(rates[place]),
        )
        np.testing.assert_allclose(mixed.changes[place], alone.change, atol=1e-12)
        one = train_cohort(
            [device],
            model,
            starts[place],
            batch,
            round=int(rounds[place]),
            epochs=int(epochs[place]),
            rates=float(rates[place]),
            **given,
        )
        assert one.changes[0].tobytes() == mixed.changes[place].tobytes()


def test_each_device_is_measured_with_its_own_parameters() -> None:
    held = [device.hold_out(0.3, seed=0) for device in devices()]
    draw = np.random.default_rng(2)
    each = (draw.normal(size=(5, MODEL.layout.size)) / 3).astype(np.float32)
    for engine in ENGINES:
        measured = validate(held, MODEL, each, engine=engine)
        for place, device in enumerate(held):
            expected = MODEL.evaluate(each[place], *device.validation())
            assert measured["loss"][place] == pytest.approx(expected["loss"], rel=1e-5)
            assert measured["accuracy"][place] == pytest.approx(expected["accuracy"])


@pytest.mark.parametrize("engine", ENGINES)
def test_parts_of_a_cohort_give_the_bits_of_the_whole(engine: Any) -> None:
    some, whole = devices(), None
    empty = [*some[:2], class_device("none", []), *some[2:]]
    for local in (LOCAL, LocalSGD(batch_size=None)):
        whole = train_cohort(empty, MODEL, start(), local, seed=1, round=2, engine=engine)
        order = np.arange(6)
        from fedlab.device.dispatch import Dispatch

        parts = list(
            train_in_parts(
                *(empty, trainer_of(MODEL, engine), start(), local),
                Dispatch.alike(len(order), 2, local.rate(2), local.epochs),
                seed=1,
                held=2 * 8 * MODEL.layout.size,
            )
        )
        assert len(parts) == 3
        assert np.concatenate([p.changes for p in parts]).tobytes() == whole.changes.tobytes()
        assert {p: why for part in parts for p, why in part.set_aside.items()} == whole.set_aside


# -- phases ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ditto(Stateless):
    """Devices train the shared model, and one of their own that is pulled towards it.

    Source: Li et al., "Ditto: fair and robust federated learning through personalization", ICML
    2021, algorithm 1.
    """

    pull: float = 1.0

    def work(self, state, parameters, places, kept):
        own = kept.rows("own", places, parameters)
        shared = Phase(parameters)
        return shared, Phase(own, mu=self.pull, anchor=parameters, send=None, keep="own")


@dataclass(frozen=True)
class FedRep(Stateless):
    """Devices train a head of their own, then the shared body, which alone is averaged.

    Source: Collins et al., "Exploiting shared representations for personalized federated learning",
    ICML 2021, algorithm 1.
    """

    head: int = 0  # how many of the last parameters
    heads: ClassVar[str] = "own"

    def work(self, state, parameters, places, kept):
        is_head = np.arange(len(parameters)) >= len(parameters) - self.head
        own = np.where(is_head, kept.rows("own", places, parameters), parameters)
        return (
            Phase(own, trained=is_head, send=None, keep="own"),
            Phase(trained=~is_head, epochs=1),
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_ditto_s_own_models_reach_their_closed_form(engine: Any) -> None:
    """With quadratics, v_k minimises f_k(v) + mu / 2 |v - x|^2 where the shared x stands still."""
    some = [regression_device(n, rows=20 + 5 * n, inputs=2, seed=3) for n in range(4)]
    one = Federation(
        some,
        LinearRegression(2),
        algorithm=Ditto(pull=0.5),
        local=LocalSGD(epochs=3, batch_size=None, learning_rate=0.2),
        parameters=np.zeros(3),
        engine=engine,
    )
    shared = Federation(
        some,
        LinearRegression(2),
        local=LocalSGD(epochs=3, batch_size=None, learning_rate=0.2),
        parameters=np.zeros(3),
        engine=engine,
    )
    one.run(300)
    shared.run(300)
    np.testing.assert_allclose(one.parameters, shared.parameters, atol=1e-12)
    places, own = one.state.kept.column("own")
    assert places.tolist() == [0, 1, 2, 3]
    for device, found in zip(some, own, strict=True):
        hessian, centre = quadratic(device)
        pulled = hessian + 0.5 * np.eye(3)
        expected = np.linalg.solve(pulled, hessian @ centre + 0.5 * one.parameters)
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("algorithm", [Ditto(), FedRep(head=21)], ids=repr)
def test_phases_agree_in_both_doors_and_after_a_restart(algorithm: Any, tmp_path: Any) -> None:
    ends = []
    for engine in ENGINES:
        runs = [
            Federation(
                *(devices(), MODEL),
                algorithm=algorithm,
                local=LOCAL,
                cohort=3,
                parameters=start(),
                engine=engine,
            )
            for _ in range(3)
        ]
        whole, first, second = runs
        whole.run(6)
        first.run_to(3, tmp_path / engine)
        second.run_to(6, tmp_path / engine)
        assert second.parameters.tobytes() == whole.parameters.tobytes()
        kept = [one.state.kept.column("own")[1] for one in (second, whole)]
        assert kept[0].tobytes() == kept[1].tobytes()
        ends.append(np.concatenate([whole.parameters, *kept[0]]))
    np.testing.assert_allclose(*ends, atol=1e-12)


def test_fedrep_averages_the_body_and_never_the_head() -> None:
    one = Federation(devices(), MODEL, algorithm=FedRep(head=21), local=LOCAL, parameters=start())
    one.run(4)
    assert (one.parameters[-21:] == start()[-21:]).all()
    assert (one.parameters[:-21] != start()[:-21]).any()
    own = one.state.kept.column("own")[1]
    assert np.ptp(own[:, -21:], axis=0).min() > 0  # heads differ from device to device
    # The second phase goes on from the first, with draws of its own.
    once = train_cohort(devices(), MODEL, start(), LOCAL, seed=0, round=1).changes
    twice = train_cohort(
        devices(), MODEL, (Phase(start(), send=None), Phase()), LOCAL, seed=0, round=1
    ).changes
    longer = replace(LOCAL, epochs=4)
    both = train_cohort(devices(), MODEL, start(), longer, seed=0, round=1).changes
    np.testing.assert_allclose(once + twice, both, atol=1e-7)


def test_a_first_phase_without_a_start_is_refused() -> None:
    with pytest.raises(ValueError, match="the first phase has no start"):
        train_cohort(devices(), MODEL, Phase(), LOCAL, seed=0, round=1)


# -- trainers -------------------------------------------------------------------------------------


class Doubled(SoftmaxRegression):
    """A model from outside, with a trainer of its own."""


@dataclass(frozen=True)
class Counting(Plain):
    """The plain loop, that tells how many devices it trained."""

    name: str = "counting"
    trained: ClassVar[list[int]] = []

    def train(self, ready, places, *given, **more):
        self.trained.append(len(places))
        return super().train(ready, places, *given, **more)


def test_a_trainer_is_registered_from_outside_for_a_model_s_class() -> None:
    assert trainer_of(Doubled(4, 3)).name == "plain"
    trainer_of.register(Doubled, lambda model, backend="auto": Counting(model))
    one = Federation(devices(), Doubled(4, 3), local=LOCAL, cohort=2, algorithm=FedAvg())
    other = Federation(devices(), SoftmaxRegression(4, 3), local=LOCAL, cohort=2, engine="plain")
    one.run(3)
    other.run(3)
    assert Counting.trained == [2, 2, 2]
    assert one.plan.engine == "counting"
    assert one.parameters.tobytes() == other.parameters.tobytes()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"offset": np.ones(3)}, r"offset is float64 of shape \(3,\); 5 devices with 51"),
        ({"offset": np.ones((2, 51))}, r"numbers of shape \(51,\) or \(5, 51\)"),
        ({"anchor": np.zeros((51, 1)), "mu": 1.0}, "anchor is float64"),
        ({"start": np.zeros(50)}, "start is float64"),
        ({"start": np.full(51, np.nan)}, "start holds NaN or inf"),
        ({"offset": np.array(["a"] * 51)}, "offset is <U1"),
        ({"trained": np.ones(3, bool)}, "mask of what trains is bool"),
        ({"trained": np.arange(51)}, "mask of what trains is int64"),
        ({"mu": float("nan")}, "mu is nan"),
        ({"epochs": -1}, "epochs"),
        ({"stays": np.ones(3, bool)}, "mask of what stays is bool"),
        ({"choose": np.zeros((2, 50))}, "what a phase chooses from"),
        ({"rate": 0.0}, "rate"),
    ],
)
def test_work_that_fits_no_cohort_is_refused_at_the_door(
    engine: Any, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        train_cohort(
            *(devices(), MODEL, Phase(**{"start": start(), **given}), LOCAL),
            seed=0,
            round=1,
            engine=engine,
        )


def test_copies_of_devices_train_on_memory_of_their_own() -> None:
    some = devices()
    wanted = train_cohort(some, MODEL, start(), LOCAL, seed=0, round=1).changes
    copies = pickle.loads(pickle.dumps(some)), copy.deepcopy(some)
    del some
    _ = [np.random.default_rng(0).normal(size=1000) for _ in range(500)]
    for twin in copies:
        again = train_cohort(twin, MODEL, start(), LOCAL, seed=0, round=1).changes
        assert again.tobytes() == wanted.tobytes()
