"""Recommenders on devices: the compiled loops, negatives, and what is shared."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab import Device, Federation, LocalSGD, VectorIndex
from fedlab.algorithms import FedPer, PFedRec
from fedlab.leaks import Overheard
from fedlab.models import AdditiveFactorisation, MatrixFactorisation
from fedlab.training import Phase, train_cohort, train_device
from fedlab.training.choice import Chosen
from fedlab.training.negatives import Negatives
from fedlab.updates import ClipNorm, FixedPoint, SecureSum

ITEMS = 9
LIKES = MatrixFactorisation(ITEMS, 3, l2=0.01)
MODELS = {
    "likes": LIKES,
    "ratings": MatrixFactorisation(ITEMS, 3, "squared", centre=0.5, l2=0.1),
    "additive": AdditiveFactorisation(ITEMS, 3, l2=0.02, lam=0.3, mu=0.2),
}
MASKS = {
    "all": lambda layout: None,
    "user": lambda layout: layout.mask("user*"),
    "items": lambda layout: layout.mask("item*"),
    "views": lambda layout: layout.mask(layout.shapes[-2][0]),
    "some numbers": lambda layout: np.arange(layout.size) % 3 > 0,
}


def device(name: int | str, items: list[int], labels: list[int] | None = None) -> Device:
    index = VectorIndex(1, "l2sq")
    index.add(np.array(items, np.float32)[:, None], labels=labels or [1] * len(items))
    return Device(name, index)


@pytest.fixture(scope="module")
def fleet() -> list[Device]:
    draw = np.random.default_rng(0)
    rows = [(draw.integers(0, ITEMS, 11 + n), draw.integers(0, 2, 11 + n)) for n in range(5)]
    return [device(f"user {n}", x.tolist(), y.tolist()) for n, (x, y) in enumerate(rows)]


@pytest.mark.parametrize("batch", [None, 4, 1])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", MODELS)
def test_the_compiled_loops_equal_the_plain_one(fleet, name, mask, batch):
    model, local = MODELS[name], LocalSGD(3, batch, 0.3)
    for numbers, off in ((np.float64, 1e-12), (np.float32, 2e-6)):
        start = model.initial(0).astype(numbers)
        starts = start + np.arange(5)[:, None].astype(numbers) / 10
        phase = Phase(starts, trained=MASKS[mask](model.layout))
        fast, plain = (
            train_cohort(fleet, model, phase, local, seed=2**40, round=3, engine=engine)
            for engine in ("compiled", "plain")
        )
        np.testing.assert_allclose(fast.changes, plain.changes, atol=off)
        np.testing.assert_allclose(fast.losses, plain.losses, atol=off)
        assert (fast.steps == plain.steps).all()
        assert np.abs(plain.changes).max() > 0.05


@pytest.mark.parametrize("local", [LocalSGD(momentum=0.5), LocalSGD(clip=0.1), LocalSGD(decay=0.5)])
def test_other_steps_are_those_of_the_plain_loop(fleet, local):
    start = LIKES.initial(0)
    fast = train_cohort(fleet, LIKES, start, local, seed=0, round=2)
    plain = train_device(fleet[1], LIKES, start, local, seed=0, round=2)
    np.testing.assert_allclose(fast.changes[1], plain.change, atol=1e-6)


def test_bits_do_not_depend_on_threads_or_company(fleet):
    start, local = LIKES.initial(0), LocalSGD(2, 2, 0.3)
    given = {"seed": 0, "round": 1}
    one, two = (train_cohort(fleet, LIKES, start, local, threads=n, **given) for n in (1, 2))
    alone = train_cohort(fleet[3:4], LIKES, start, local, **given)
    assert one.changes.tobytes() == two.changes.tobytes()
    assert alone.changes.tobytes() == one.changes[3:4].tobytes()


def test_a_step_moves_the_items_it_touched_and_no_other():
    start = LIKES.initial(0)
    moved = train_cohort([device(0, [2, 5])], LIKES, start, LocalSGD(), seed=0, round=1).changes
    rows = np.abs(LIKES.layout.views(moved[0])["item_vectors"]).max(axis=1)
    assert np.flatnonzero(rows).tolist() == [2, 5]


def test_rows_that_would_lie_beyond_the_model_are_set_aside(fleet):
    bad = [device("none", [ITEMS]), device("half", [1]), device("label", [1], [2])]
    bad[1].index.add(np.array([[0.5]], np.float32), labels=[1])
    found = train_cohort([*bad, fleet[0]], LIKES, LIKES.initial(0), LocalSGD(), seed=0, round=1)
    assert found.places.tolist() == [3]
    assert "numbers of items, 0 ... 8" in found.set_aside[0]
    assert "numbers of items" in found.set_aside[1]
    assert "classes 0 ... 1" in found.set_aside[2]


def test_a_rate_that_is_too_high_is_told(fleet):
    model, local = MODELS["ratings"], LocalSGD(20, 1, 1e9)
    found = train_cohort(fleet[:1], model, model.initial(0), local, seed=0, round=1)
    assert "NaN or inf" in found.set_aside[0]


# -- negatives ------------------------------------------------------------------------------------


def drawn(one: Device, rule: Negatives, round: int = 1, seed: int = 0) -> np.ndarray:
    shown = Chosen(one, rule, LIKES, None, {"seed": seed, "round": round, "part": 0})
    x, y = shown.training()
    assert (x[: one.rows] == one.training()[0]).all()
    assert y.tolist() == [1] * one.rows + [0] * (len(y) - one.rows)
    assert (shown.training_keys == one.training_keys).all()
    return x[one.rows :, 0].astype(int)


def test_negatives_are_items_that_a_device_lacks_each_as_often():
    one = device("ann", [0, 1, 2, 3])
    found = np.concatenate([drawn(one, Negatives(ITEMS), round) for round in range(1, 401)])
    assert len(found) == 400 * 16
    counts = np.bincount(found, minlength=ITEMS)
    assert counts[:4].sum() == 0
    assert np.abs(counts[4:] - 1280).max() < 5 * np.sqrt(1280 * 0.8)


def test_what_is_held_out_may_be_drawn_unless_it_is_spared():
    one = device("ann", [0, 1, 2, 3])
    one = one.holding_out(one.index.keys[3:])
    seen, spared = (
        set(np.concatenate([drawn(one, Negatives(ITEMS, 4, spare), r) for r in range(1, 60)]))
        for spare in (False, True)
    )
    assert seen == {3, 4, 5, 6, 7, 8}
    assert spared == {4, 5, 6, 7, 8}


def test_negatives_have_the_address_of_seed_round_and_device():
    rule = Negatives(ITEMS, each=20)
    at = {
        (seed, round, name): drawn(device(name, [0]), rule, round, seed).tolist()
        for seed in (0, 1)
        for round in (1, 2)
        for name in ("ann", "bo")
    }
    assert at[0, 1, "ann"] == drawn(device("ann", [0]), rule).tolist()
    assert len(set(map(tuple, at.values()))) == len(at)


def test_a_device_that_has_everything_is_set_aside():
    devices = [device("all", list(range(ITEMS))), device("few", [1])]
    federation = Federation(devices, LIKES, algorithm=FedPer(("user*",)), rows=Negatives(ITEMS))
    with pytest.warns(UserWarning, match="remarks"):
        federation.run(1)
    assert "none to draw" in federation.history.remarks().text.iloc[0]


# -- shared parts ---------------------------------------------------------------------------------


def federated(fleet, algorithm, **given):
    local = LocalSGD(2, 4, 0.3)
    return Federation(fleet, LIKES, algorithm=algorithm, local=local, weights="uniform", **given)


def test_nothing_of_the_user_is_sent_and_the_server_has_the_mean_of_the_items(fleet):
    ear = Overheard()
    federation = federated(fleet, FedPer(("user*",)), updates=[ear])
    start = federation.parameters
    federation.run(1)
    items = LIKES.layout.mask("item*")
    assert {change.shape for change in ear.changes.values()} == {(items.sum(),)}
    mean = np.mean(list(ear.changes.values()), axis=0)
    np.testing.assert_allclose(federation.parameters[items], start[items] + mean, atol=1e-6)
    assert (federation.parameters[~items] == start[~items]).all()
    assert federation.history.last("bytes_up") >= 4 * items.sum() * len(fleet)


@pytest.mark.parametrize("engine", ["compiled", "plain"])
def test_pfedrec_by_hand(fleet, engine):
    """The user's part trains, then the items; the device predicts with where a round would end."""
    federation = federated(fleet, PFedRec(("user*",), items=2.0), engine=engine)
    shared, own = federation.parameters, {}
    user = LIKES.layout.mask("user*")
    local = LocalSGD(1, 4, 0.3)

    def turn(one: Device, round: int) -> np.ndarray:
        begin = shared.copy()
        begin[user] = own.get(one.id, begin[user])
        for mask, rate, begun in ((user, 0.3, 0), (~user, 0.6, 1)):
            at = {"seed": 0, "round": round, "epochs": 1, "rate": rate, "begun": begun}
            begin = begin + train_device(one, LIKES, Phase(begin, trained=mask), local, **at).change
        return begin

    for round in (1, 2):
        ends = [turn(one, round) for one in fleet]
        own = {one.id: end[user] for one, end in zip(fleet, ends, strict=True)}
        shared = np.where(user, shared, np.mean(ends, axis=0)).astype(np.float32)
    federation.run(2)
    np.testing.assert_allclose(federation.parameters, shared, atol=2e-6)
    mine = federation.personal_parameters(fleet)
    np.testing.assert_allclose(mine, [turn(one, 3) for one in fleet], atol=2e-6)


def test_strangers_fit_their_vector_alone_to_items_that_stay(fleet):
    federation = federated(fleet[:3], FedPer(("user*",), epochs=4))
    federation.run(2)
    items = LIKES.layout.mask("item*")
    for own in federation.personal_parameters(fleet[3:]):
        assert (own[items] == federation.parameters[items]).all()
        assert (own[~items] != federation.parameters[~items]).all()


def test_items_learn_the_same_behind_masks(fleet):
    """A secure sum hides each update, and leaves the mean, up to its rounding."""
    clip = ClipNorm(1.0)
    masks = [clip, FixedPoint(1.0, bits=32), SecureSum()]
    plain, hidden = (
        federated(fleet, FedPer(("user*",)), updates=stages) for stages in ([clip], masks)
    )
    plain.run(2)
    hidden.run(2)
    np.testing.assert_allclose(hidden.parameters, plain.parameters, atol=1e-6)
