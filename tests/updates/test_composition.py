"""Algorithms, server optimisers, stages and aggregators go together, or say why they don't."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from fedlab import Federation, LinearRegression, LocalSGD, SoftmaxRegression
from fedlab.algorithms import FedAvg, FedNova, FedProx, Scaffold, by_name
from fedlab.device.states import DeviceStates
from fedlab.updates import (
    SGD,
    Adam,
    Cast,
    Chain,
    ChainError,
    ClipNorm,
    Context,
    Mean,
    Updates,
    optimiser,
)
from fedlab.updates.optimisers import OPTIMISERS
from fedlab.updates.stages import At, Rowwise
from tests.federations import class_device, regression_device

ALGORITHMS = ("fedavg", "fedprox", "scaffold", "fednova")
FULL = LocalSGD(epochs=2, batch_size=None, learning_rate=0.1)


@pytest.fixture(scope="module")
def five() -> Any:
    return [regression_device(n, rows=20 + 10 * n, inputs=3, seed=7) for n in range(5)]


def federation(devices: Any, **given: Any) -> Federation:
    model = LinearRegression(3)
    return Federation(devices, model, parameters=np.zeros(4), **{"local": FULL, **given})


@pytest.mark.parametrize("server", OPTIMISERS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_any_algorithm_goes_with_any_server_optimiser(
    five: Any, algorithm: str, server: str
) -> None:
    """Round by round, the server steps along what the algorithm learns from plain averaging."""
    one = federation(five, algorithm=algorithm, server=server, cohort=3)
    steps = optimiser(server)
    state, x = steps.init(np.zeros(4)), np.zeros(4)
    for _ in range(4):
        # What is learned from here, by a federation whose server moves by it.
        plain = federation(five, algorithm=algorithm, cohort=3)
        plain.state = replace(one.state, server={})
        plain.round()
        x, state = steps.step(state, x, plain.parameters - one.parameters)
        one.round()
        np.testing.assert_allclose(one.parameters, x, atol=1e-12)


def test_one_word_names_are_an_algorithm_and_a_server_optimiser(five: Any) -> None:
    for word, server in (("fedavgm", "momentum"), ("fedadam", "adam"), ("fedyogi", "yogi")):
        a, b = federation(five, algorithm=word), federation(five, server=server)
        a.run(5)
        b.run(5)
        assert a.parameters.tobytes() == b.parameters.tobytes()
    with pytest.raises(ValueError, match="name one of them"):
        federation(five, algorithm="fedadam", server="yogi")
    with pytest.raises(ValueError, match=r"did you mean 'adagrad'\?"):
        federation(five, server="adagrd")
    with pytest.raises(TypeError, match="fedprox has no setting lr; it has momentum, mu, rate"):
        by_name("fedprox", lr=1)


@pytest.mark.parametrize(
    ("algorithm", "local", "says"),
    [
        (
            FedNova(),
            LocalSGD(momentum=0.9),
            r"momentum=0.0\) was given with LocalSGD\(momentum=0.9",
        ),
        (FedNova(momentum=0.9), LocalSGD(), "give both the same"),
        (Scaffold(), LocalSGD(momentum=0.5), "take option=1"),
        (Scaffold(), LocalSGD(weight_decay=0.1), "take option=1"),
        (Scaffold(), LocalSGD(clip=1.0), "take option=1"),
    ],
)
def test_local_training_under_which_an_algorithm_is_wrong_is_refused(
    five: Any, algorithm: Any, local: LocalSGD, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        federation(five, algorithm=algorithm, local=local)


def test_weights_that_an_algorithm_would_ignore_are_refused(five: Any) -> None:
    federation(five, algorithm="scaffold", weights="uniform")
    with pytest.raises(ValueError, match="Scaffold weighs devices by 'uniform'"):
        federation(five, algorithm="scaffold", weights="rows")


# -- stages ---------------------------------------------------------------------------------------


def sent(blocks: dict[str, Any]) -> Updates:
    count = len(next(iter(blocks.values())))
    return Updates(np.arange(count), blocks, np.full(count, 1 / count), {})


def through(stage: Any, updates: Updates) -> Updates:
    after, _, _ = stage.apply(stage.init(4), updates, DeviceStates(), At(0, 1))
    return after


def test_a_cast_is_what_its_bytes_decode_to() -> None:
    draw = np.random.default_rng(0)
    block = (draw.normal(size=(7, 33)) * 10.0 ** draw.integers(-9, 9, (7, 33))).astype(np.float32)
    cast = Cast(blocks=("change", "control"))
    coded = through(cast, sent({"change": block, "control": 2 * block}))
    at = Context(33, block.dtype)
    for name, factor in (("change", 1), ("control", 2)):
        for row, seen in zip(factor * block, coded.blocks[name], strict=True):
            travels = cast.encode(row, at)
            assert cast.decode(travels, at).tobytes() == seen.tobytes()
            assert len(travels) == 2 * 33
    assert coded.nbytes.tolist() == [2 * 2 * 33 + 24] * 7
    near = np.abs(block) < 65504
    np.testing.assert_allclose(coded.blocks["change"][near], block[near], rtol=2**-11, atol=2**-25)
    assert np.isfinite(coded.blocks["change"]).all()


def test_no_update_is_longer_than_the_norm_over_all_its_blocks() -> None:
    draw = np.random.default_rng(1)
    blocks = {name: draw.normal(size=(5, 8)) * np.arange(5)[:, None] for name in ("change", "b")}
    clipped = through(ClipNorm(4.0), sent(blocks)).blocks
    lengths = np.sqrt(sum(np.square(block).sum(axis=1) for block in blocks.values()))
    after = np.sqrt(sum(np.square(block).sum(axis=1) for block in clipped.values()))
    np.testing.assert_allclose(after, np.minimum(lengths, 4.0))
    short = lengths <= 4.0
    assert short.any()
    np.testing.assert_array_equal(clipped["change"][short], blocks["change"][short])


def test_stages_enter_the_round_and_its_bytes(five: Any) -> None:
    plain, clipped, cast = (
        federation(five, updates=updates) for updates in ([], [ClipNorm(1e-3)], [Cast()])
    )
    for one in (plain, clipped, cast):
        one.run(3)
    assert np.linalg.norm(clipped.parameters) <= 3e-3 * (1 + 1e-9)
    np.testing.assert_allclose(cast.parameters, plain.parameters, rtol=2e-3)
    assert plain.history.last("bytes_up") == 5 * (8 * 4 + 24)
    assert cast.history.last("bytes_up") == 5 * (2 * 4 + 24)
    several = federation(five, algorithm="scaffold", updates=[Cast()])
    several.round()
    told = several.history.wide().loc[1]
    assert told.bytes_up_change == told.bytes_up_control == 5 * 2 * 4
    assert told.bytes_up == 5 * (2 * 2 * 4 + 24)


class Whole(Rowwise):
    gives: ClassVar[frozenset[str]] = frozenset({"integer"})

    def apply(self, state, sent, kept, at):
        return sent.with_blocks(change=np.rint(sent.blocks["change"])), state, kept


class Mask(Rowwise):
    needs: ClassVar[frozenset[str]] = frozenset({"rows", "integer"})
    takes: ClassVar[frozenset[str]] = frozenset({"rows"})
    gives: ClassVar[frozenset[str]] = frozenset({"hidden"})

    def apply(self, state, sent, kept, at):
        return sent, state, kept


@dataclass(frozen=True)
class Median:
    """Holds all rows; so it can't see masked ones."""

    needs: ClassVar[frozenset[str]] = frozenset({"rows"})

    def begin(self, size):
        return []

    def add(self, held, block, weights):
        return [*held, block]

    def done(self, held, share):
        return np.median(np.concatenate(held), axis=0)


@pytest.mark.parametrize(
    ("stages", "aggregator", "says"),
    [
        ([Mask()], Mean(), "Mask needs whole numbers; put a stage before it"),
        (
            [Whole(), Mask(), ClipNorm(1.0)],
            Mean(),
            "ClipNorm needs .*, which Mask takes away; put it before",
        ),
        (
            [Whole(), Mask()],
            Median(),
            "Median needs each device's own numbers, which Mask takes .* another aggregator",
        ),
    ],
)
def test_a_chain_that_makes_no_sense_is_refused_with_the_reason(stages, aggregator, says) -> None:
    with pytest.raises(ChainError, match=says):
        Chain(tuple(stages), aggregator)


def test_one_that_does_is_taken_and_another_aggregator_serves(five: Any) -> None:
    chain = Chain((ClipNorm(1.0), Whole(), Mask()))
    assert not chain.shows_rows
    one = federation(five, updates=chain.stages)
    one.round()
    assert "drift" not in one.history.to_frame().metric.tolist()
    plain, robust = federation(five, record="devices"), federation(five, aggregator=Median())
    plain.round()
    robust.round()
    assert robust.parameters.tobytes() != plain.parameters.tobytes()
    with pytest.raises(TypeError, match="stage 1 is the class Cast; give an object"):
        federation(five, updates=[Cast])


def test_a_run_with_stages_and_an_optimiser_goes_on_from_a_file(tmp_path: Any) -> None:
    def made() -> Federation:
        devices = [class_device(n, [0, 1, 2] * (2 + n)) for n in range(6)]
        return Federation(
            devices,
            SoftmaxRegression(4, 3),
            algorithm=Scaffold(),
            server=Adam(rate=0.1),
            updates=[ClipNorm(1.0), Cast()],
            cohort=3,
            seed=4,
        )

    whole, first, second = made(), made(), made()
    whole.run(7)
    first.run_to(4, tmp_path / "run")
    second.run_to(7, tmp_path / "run")
    assert second.parameters.tobytes() == whole.parameters.tobytes()
    assert second.history.to_frame().equals(whole.history.to_frame())
    others = {"server": SGD(), "updates": [Cast()], "algorithm": FedProx()}
    for name, value in others.items():
        other = Federation(
            [class_device(n, [0, 1, 2] * (2 + n)) for n in range(6)],
            SoftmaxRegression(4, 3),
            **{
                "algorithm": Scaffold(),
                "server": Adam(rate=0.1),
                "updates": [ClipNorm(1.0), Cast()],
                "cohort": 3,
                "seed": 4,
                name: value,
            },
        )
        with pytest.raises(ValueError, match="another run"):
            other.load(tmp_path / "run")
    assert FedAvg() == by_name("fedavg")
