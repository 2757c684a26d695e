"""Attacks on models and changes, with and without differential privacy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedlab import MLP, Device, Federation, LocalSGD, SoftmaxRegression, VectorIndex
from fedlab.algorithms import FedPer
from fedlab.fleet import Poisson
from fedlab.leaks import Overheard, chosen_auc, membership_auc, row_from_change
from fedlab.models import LinearRegression, MatrixFactorisation
from fedlab.training.negatives import Negatives
from fedlab.updates import ChainError, ClipNorm, FixedPoint, LocalNoise, PrivateMean, SecureSum

DRAW = np.random.default_rng(5)
STEP = LocalSGD(epochs=1, batch_size=None, learning_rate=0.3)


def random_device(name: int, rows: int, inputs: int) -> Device:
    """Labels by chance: all that can be learned is rows by heart."""
    index = VectorIndex(inputs, "l2sq")
    x = DRAW.normal(size=(rows, inputs)).astype(np.float32)
    index.add(x, labels=DRAW.integers(2, size=rows))
    return Device(name, index)


@pytest.mark.parametrize("model", [SoftmaxRegression(5, 3), MLP(5, (8,), 3)])
def test_one_step_on_one_row_gives_the_row_away_clipped_or_not(model: Any) -> None:
    index = VectorIndex(5, "l2sq")
    x = DRAW.normal(size=(1, 5)).astype(np.float32)
    index.add(x, labels=np.array([1]))
    start = model.initial(0)
    name = next(iter(model.layout.views(start))).removeprefix("weights")

    def found(updates: Any) -> Any:
        one = Federation([Device(0, index)], model, local=STEP, updates=updates, parameters=start)
        one.run(1)
        change = model.layout.views((one.parameters - start).astype(np.float64))
        return row_from_change(change[f"weights{name}"], change[f"bias{name}"])

    for updates in ([], [ClipNorm(0.1)]):
        np.testing.assert_allclose(found(updates), x[0], atol=1e-4)


def test_local_noise_hides_the_row() -> None:
    pytest.importorskip(
        "dp_accounting", reason="dp-accounting is not installed (the extra privacy)"
    )
    model, device = SoftmaxRegression(64, 3), random_device(0, 1, 64)
    x, _ = device.training()
    noise = LocalNoise(1.0, 2.0, delta=1e-5, simulated=True)
    one = Federation([device], model, local=STEP, updates=[noise], weights="uniform")
    one.run(1)
    change = model.layout.views(one.parameters)
    found = row_from_change(change["weights"], change["bias"])
    assert abs(np.corrcoef(found, x[0])[0, 1]) < 0.4  # three standard errors of chance
    with pytest.raises(ValueError, match="has not changed"):
        row_from_change(np.zeros((2, 2)), np.zeros(2))


def test_noise_hides_which_devices_a_model_learned_from() -> None:
    pytest.importorskip(
        "dp_accounting", reason="dp-accounting is not installed (the extra privacy)"
    )
    model = SoftmaxRegression(200, 2)
    inside, outside = ([random_device(place, 4, 200) for place in range(30)] for _ in range(2))
    found = {}
    for name, part in (
        ("bare", None),
        ("private", PrivateMean(0.5, 4.0, delta=1e-3, simulated=True)),
    ):
        one = Federation(
            inside, model, local=STEP, selection=Poisson(0.5), weights="uniform", aggregator=part
        )
        one.run(60)
        rows = ([device.training() for device in side] for side in (inside, outside))
        found[name] = membership_auc(model, one.parameters, *rows)
    assert found["bare"] > 0.95
    assert found["private"] < 0.75  # three standard errors above chance


def test_a_reference_tells_members_from_candidates_that_are_easy_for_everybody() -> None:
    model, one = LinearRegression(1), np.ones((1, 1))
    inside, outside = [(one, [4.0]), (one, [6.0])], [(one, [1.0]), (one, [5.0])]
    learned, other = np.array([2.0, 0.0]), np.array([0.0, 0.0])
    # Squared errors fall from 16, 36 to 4, 16 for members, and from 1, 25 to 1, 9 for others.
    assert membership_auc(model, learned, inside, outside) == 0.25
    assert membership_auc(model, learned, inside, outside, reference=other) == 0.75


def test_what_is_overheard_is_what_each_device_sends_at_that_place_of_the_chain() -> None:
    devices = [random_device(place, 2, 5) for place in range(3)]
    model, first, last = SoftmaxRegression(5, 2), Overheard(), Overheard()
    parts = [first, ClipNorm(0.01), last]
    together = Federation(devices, model, local=STEP, updates=parts, weights="uniform")
    together.run(1)
    for place, device in enumerate(devices):
        alone = Federation([device], model, local=STEP)
        alone.run(1)
        moved = alone.parameters
        np.testing.assert_allclose(first.changes[place], moved, atol=1e-6)
        short = moved * 0.01 / np.linalg.norm(moved)
        np.testing.assert_allclose(last.changes[place], short, atol=1e-6)


def test_only_what_was_sent_in_the_run_is_overheard() -> None:
    pytest.importorskip(
        "dp_accounting", reason="dp-accounting is not installed (the extra privacy)"
    )
    ear, part = Overheard(), PrivateMean(0.5, 4.0, delta=1e-3, simulated=True)
    devices = [random_device(place, 4, 20) for place in range(3)]
    for _ in range(2):
        run = Federation(
            devices,
            SoftmaxRegression(20, 2),
            selection=Poisson(0.5),
            weights="uniform",
            updates=[ear],
            aggregator=part,
        )
        assert not ear.changes
        run.run(1)
        assert set(ear.changes) == set(run.state.chosen["place"].tolist())


def test_behind_masks_there_is_nothing_to_overhear() -> None:
    devices = [random_device(place, 2, 5) for place in range(3)]
    parts = [ClipNorm(1.0), FixedPoint(1.0), SecureSum(), Overheard()]
    with pytest.raises(ChainError, match="Overheard"):
        Federation(devices, SoftmaxRegression(5, 2), updates=parts)


def test_what_a_user_chose_is_read_off_one_update_and_hides_in_a_sum() -> None:
    """With a step on each row, biases of chosen items rise, of negatives fall, others stay."""
    draw, items = np.random.default_rng(0), 60
    model = MatrixFactorisation(items, 4)
    fleet = []
    for user in range(40):
        index = VectorIndex(1, "l2sq")
        chosen = draw.permutation(items)[:10].astype(np.float32)
        index.add(chosen[:, None], labels=[1] * 10)
        fleet.append(Device(user, index))
    ear = Overheard()
    given = {"algorithm": FedPer(("user*",)), "rows": Negatives(items), "updates": [ear]}
    Federation(fleet, model, local=LocalSGD(batch_size=4), weights="uniform", **given).round()
    changes = {p: c.reshape(items, 5) for p, c in ear.changes.items()}
    whole = sum(changes.values())
    one, blind, summed, least = [], [], [], []
    for place, change in changes.items():
        mine = fleet[place].training()[0].ravel().astype(int)
        one.append(chosen_auc(change, mine))
        expected = (whole - change)[:, -1] * 40 / 39
        blind.append(chosen_auc(whole, mine))
        summed.append(chosen_auc(whole, mine, expected))
        least.append(chosen_auc(whole - change, mine))
    assert min(one) > 0.98
    assert np.mean(least) == pytest.approx(0.5, abs=0.05)  # nothing of its own
    assert 0.55 < np.mean(blind) < 0.75
    assert np.mean(summed) > 0.98  # who knows all others knows the last


def test_only_candidates_count() -> None:
    vectors = np.array([[0.3], [0.2], [-0.1], [0.9]])
    assert chosen_auc(vectors, [0], among=np.array([True, True, True, False])) == 1.0
    assert chosen_auc(vectors, [0]) == pytest.approx(2 / 3)
