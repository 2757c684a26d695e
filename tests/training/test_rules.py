"""Rules that choose rows: against brute force, bounds of the literature, and their definitions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from fedlab import MLP, Device, LinearRegression, SoftmaxRegression, VectorIndex
from fedlab.core.randomness import Purpose, generator
from fedlab.models import base
from fedlab.training.choice import Chosen, Given
from fedlab.training.rules import (
    Distinct,
    Diverse,
    Drawn,
    Highest,
    Nearness,
    Relevance,
    Uniform,
    class_means,
    gradient_bound,
    loss,
)
from tests.helpers import distances, normal

MODEL = SoftmaxRegression(3, 4)
PARAMETERS = MODEL.layout.size * [0.0]


def device_of(rows, metric="l2sq", labels=None, held_out=0.0):
    index = VectorIndex(rows.shape[1], metric)
    index.add(rows, labels=np.arange(len(rows)) % 4 if labels is None else labels)
    return Device("ward 3", index).hold_out(held_out, seed=1)


def given(parameters=None, model=MODEL, seed=0):
    return Given(model, parameters, generator(seed, Purpose.ROWS))


def chosen(device, *rules, parameters=None, seed=0, round=1):
    for part, rule in enumerate(rules):
        device = Chosen(
            device, rule, MODEL, parameters, {"seed": seed, "round": round, "part": part}
        )
    return device


# -- by distance ----------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "l2sq"])
def test_farthest_first_equals_brute_force(metric):
    rows = normal(40, 3)
    device = device_of(rows, metric, held_out=0.25)
    mine = device.training()[0]
    apart = distances(mine, mine, metric)
    taken = [0]
    while len(taken) < round(0.3 * len(mine)):
        taken.append(int(np.argmax(apart[:, taken].min(axis=1))))
    assert Diverse(0.3).choose(device, given()).tolist() == sorted(taken)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("metric", ["cosine", "l2sq"])
def test_farthest_first_covers_within_twice_the_best(metric, seed):
    rows = normal(12, 2, seed)
    places = Diverse(0.25).choose(device_of(rows, metric), given())
    # Lengths of differences; under cosine those of directions, whose squares are 2 (1 - cos).
    apart = np.sqrt(np.maximum(distances(rows, rows, metric), 0))

    def radius(centres):
        return apart[:, list(centres)].min(axis=1).max()

    best = min(radius(centres) for centres in combinations(range(12), 3))
    assert best <= radius(places) <= 2 * best


@pytest.mark.parametrize("metric", ["cosine", "l2sq"])
def test_near_duplicates_are_dropped_as_by_brute_force(metric):
    draw = np.random.default_rng(0)
    once = normal(30, 3)
    copies = once[draw.integers(30, size=50)] + np.float32(0.01) * normal(50, 3, 1)
    rows = np.concatenate([once, copies])[draw.permutation(80)]
    device, radius = device_of(rows, metric, held_out=0.2), 0.002
    mine, kept = device.training()[0], []
    for place in range(len(mine)):
        if not kept or distances(mine[kept], mine[[place]], metric).min() > radius:
            kept.append(place)
    assert 15 < len(kept) < 35
    assert Distinct(radius).choose(device, given()).tolist() == kept


def test_inner_products_are_refused():
    for rule in (Diverse(0.5), Distinct(0.1)):
        with pytest.raises(ValueError, match="inner products are no distances"):
            rule.choose(device_of(normal(5, 3), "inner"), given())


@pytest.mark.parametrize("metric", ["cosine", "inner", "l2sq"])
def test_nearness_is_that_of_the_nearest_query_and_of_the_own_label(metric):
    device, queries = device_of(normal(40, 3), metric, held_out=0.25), normal(6, 3, 2)
    x, y = device.training()
    apart = distances(queries, x, metric).astype(float)
    got = Nearness(queries, scale=0.5)(device, given())
    np.testing.assert_allclose(got, np.exp(-apart.min(axis=1) / 0.5), rtol=1e-5)
    assert Relevance(queries, scale=0.5)(device) == pytest.approx(got.sum())
    nearest = np.argsort(apart.min(axis=1), kind="stable")[: round(0.5 * len(x))]
    found = Highest(0.5, Nearness(queries)).choose(device, given())
    assert sorted(found) == sorted(nearest)

    labels = np.array([0, 0, 1, 1, 2, 2])
    own = np.where(labels == y[:, None], apart, np.inf).min(axis=1)
    got = Nearness(queries, labels, 0.5)(device, given())
    np.testing.assert_allclose(got, np.exp(-own / 0.5), rtol=1e-5)
    assert (got[y == 3] == 0).all()
    assert (Nearness(queries).nbytes, Nearness(queries, labels).nbytes) == (72, 72 + 48)


def test_class_means_are_those_of_all_rows_in_one_place():
    rows, labels = normal(60, 3), np.arange(60) % 5
    devices = [device_of(rows[part], labels=labels[part]) for part in np.split(np.arange(60), 4)]
    classes, means = class_means(devices)
    assert classes.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(means, [rows[labels == c].mean(axis=0) for c in range(5)], rtol=1e-5)


# -- by the model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MODEL, MLP(3, (5,), 4), LinearRegression(3)])
def test_losses_are_those_of_the_model_row_by_row(model):
    parameters = normal(1, model.layout.size)[0]
    device = device_of(normal(20, 3), held_out=0.2)
    x, y = device.training()
    own = [model.evaluate(parameters, x[i : i + 1], y[i : i + 1])["loss"] for i in range(len(x))]
    np.testing.assert_allclose(loss(device, given(parameters, model)), own, rtol=1e-5)

    class Without:  # a model of one's own need not have `losses`
        check_labels, evaluate = staticmethod(model.check_labels), staticmethod(model.evaluate)

    np.testing.assert_allclose(loss(device, given(parameters, Without())), own, rtol=1e-12)


def test_the_bound_is_the_gradient_s_length_at_the_scores():
    parameters = normal(1, MODEL.layout.size)[0].astype(np.float64)
    device = device_of(normal(10, 3))
    x, y = device.training()
    bias = MODEL.layout.mask("bias")  # its gradient is that of the scores
    own = [
        np.linalg.norm(MODEL.loss_and_gradient(parameters, x[i : i + 1], y[i : i + 1])[1][bias])
        for i in range(10)
    ]
    np.testing.assert_allclose(gradient_bound(device, given(parameters)), own, rtol=1e-6)


def test_the_hardest_are_those_with_the_highest_loss_of_all_or_of_each_class():
    parameters = normal(1, MODEL.layout.size)[0]
    device = device_of(normal(40, 3))
    _, y = device.training()
    losses = loss(device, given(parameters))
    hardest = Highest(0.25, loss).choose(device, given(parameters))
    assert losses[hardest].min() > np.delete(losses, hardest).max()
    each = Highest(0.25, loss, by_class=True).choose(device, given(parameters))
    for label in range(4):
        mine = np.flatnonzero(y == label)
        best = mine[np.argsort(-losses[mine])[: round(len(mine) / 4)]]
        assert set(best) == set(each) & set(mine)
    with pytest.raises(ValueError, match="an algorithm that sends one model"):
        loss(device, given())


# -- by chance ------------------------------------------------------------------------------------


def test_a_drawn_batch_is_an_unbiased_estimate_of_the_weighted_gradient():
    parameters = normal(1, MODEL.layout.size)[0].astype(np.float64)
    device = device_of(normal(12, 3))
    x, y = device.training()
    weights = loss(device, given(parameters))
    weights /= weights.sum()
    each = np.array(
        [MODEL.loss_and_gradient(parameters, x[i : i + 1], y[i : i + 1])[1] for i in range(12)]
    )
    times = 4000
    means = np.empty((times, MODEL.layout.size))
    for time in range(times):
        places = Drawn(0.5, loss).choose(device, given(parameters, seed=time))
        assert len(places) == 6
        means[time] = MODEL.loss_and_gradient(parameters, x[places], y[places])[1]
    spread = np.sqrt(weights @ (each - weights @ each) ** 2 / 6 / times)  # of 6 rows, by each draw
    off = np.abs(means.mean(axis=0) - weights @ each) / spread
    assert off.max() < 4
    plain = np.abs(means.mean(axis=0) - each.mean(axis=0)) / spread
    assert plain.max() > 10  # it is not the plain mean


def test_uniform_takes_each_row_as_often():
    device, counts = device_of(normal(10, 3)), np.zeros(10)
    for round in range(3000):
        counts[chosen(device, Uniform(0.3), round=round).training_rows().chosen] += 1
    # Chi-square of draws without replacement: (n - 1) / (n - k) of the usual statistic.
    statistic = ((counts - 900) ** 2 / 900).sum() * 9 / 7
    assert statistic < 27.9  # 99.9% of chi-square with 9 degrees of freedom
    fixed = chosen(device, Uniform(0.3, fixed=True))
    assert len(fixed.training_rows()) == 3


# -- the seam -------------------------------------------------------------------------------------


def test_rules_choose_in_turn_among_what_is_left():
    rows = np.repeat(normal(10, 3), 3, axis=0)
    device = device_of(rows)
    view = chosen(device, Distinct(0.0), Uniform(0.5))
    x, y = view.training()
    assert (view.rows, len(np.unique(x, axis=0))) == (5, 5)
    assert set(view.training_keys) <= set(range(0, 30, 3))
    np.testing.assert_array_equal(x, device.index.get(view.training_keys))
    np.testing.assert_array_equal(y, device.index.labels_of(view.training_keys))


def test_held_out_rows_are_never_chosen():
    device = device_of(normal(40, 3), held_out=0.5)
    queries = device.validation()[0]
    parameters = np.zeros(MODEL.layout.size)
    rules = Highest(0.5, Nearness(queries)), Diverse(0.5), Distinct(0.1), Uniform(0.5)
    for rule in (*rules, Drawn(0.9, loss), Highest(0.5, loss)):
        view = chosen(device, rule, parameters=parameters)
        assert not set(view.training_keys) & set(device.validation_keys)
        assert view.validation_rows == device.validation_rows


@pytest.mark.parametrize("places", [[], [0.5], [-1], [5], [[0]]])
def test_what_is_no_choice_is_refused(places):
    class Own:
        def choose(self, device, given):
            return np.array(places)

    with pytest.raises(ValueError, match=r"Own.choose gave .*places among 5 rows"):
        chosen(device_of(normal(5, 3)), Own()).training_rows()


def test_a_rule_that_takes_all_and_a_device_without_rows():
    class All:
        def choose(self, device, given):
            return None

    device = device_of(normal(5, 3))
    assert chosen(device, All()).training_keys.tolist() == [0, 1, 2, 3, 4]
    empty = Device("none", VectorIndex(3))
    assert chosen(empty, Diverse(0.5)).rows == 0


def test_settings_that_make_no_sense_are_refused():
    for share in (0.0, 1.5, -1.0):
        with pytest.raises(ValueError, match="share is"):
            Uniform(share)
    with pytest.raises(ValueError, match="radius is -1"):
        Distinct(-1.0)
    with pytest.raises(ValueError, match="the number of queries is 0"):
        Nearness(np.empty((0, 3)))
    with pytest.raises(ValueError, match="scale is 0"):
        Nearness(normal(2, 3), scale=0)
    device = device_of(normal(5, 3))
    for score, says in ((lambda d, g: np.full(5, np.nan), "finite"), (loss_below, "below 0")):
        with pytest.raises(ValueError, match=says):
            Drawn(0.5, score).choose(device, given())


def loss_below(device, given):
    return -np.ones(device.rows)


def test_models_say_what_losses_are():
    assert "losses(parameters, x, y)" in base.Model.__doc__
