"""A federation whose devices choose rows: engines, threads, resuming, costs, and who used what."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from fedlab import Device, Federation, LocalSGD, Population, SoftmaxRegression, write_population
from fedlab.algorithms import IFCA, FineTuned
from fedlab.federation.checkpoint import CheckpointError
from fedlab.training.rules import (
    Distinct,
    Diverse,
    Drawn,
    Highest,
    Nearness,
    Relevance,
    Uniform,
    loss,
)
from tests.federations import class_device

LOCAL = LocalSGD(epochs=2, batch_size=4, learning_rate=0.05)
QUERIES = np.random.default_rng(5).normal(size=(3, 4)).astype(np.float32)
RULES = {
    "uniform": Uniform(0.5),
    "fixed": Uniform(0.5, fixed=True),
    "nearest": Highest(0.5, Nearness(QUERIES)),
    "hardest": Highest(0.5, loss),
    "drawn": Drawn(0.5, loss),
    "diverse": Diverse(0.5),
    "in turn": [Distinct(0.5), Highest(0.8, loss), Uniform(0.5)],
}
each = pytest.mark.parametrize("name", RULES)


def devices():
    return [class_device(n, [0, 1, 2] * 4 + [n % 3] * n) for n in range(6)]


def federation(fleet=None, **given):
    model = SoftmaxRegression(4, 3)
    given = {"local": LOCAL, "seed": 3, "cohort": 3, **given}
    return Federation(devices() if fleet is None else fleet, model, **given)


@each
def test_engines_choose_the_same_and_threads_and_order_change_no_bit(name):
    one = federation(rows=RULES[name])
    one.run(4)
    plain = federation(rows=RULES[name], engine="plain", threads=2)
    plain.run(4)
    np.testing.assert_allclose(plain.parameters, one.parameters, rtol=1e-4, atol=1e-6)
    for place in one._participation.places:
        for key in range(12):
            used = [f._participation.rounds_of(place, key).tolist() for f in (one, plain)]
            assert used[0] == used[1]
    for other in ({"threads": 1}, {"fleet": devices()[::-1]}):
        again = federation(rows=RULES[name], **other)
        again.run(4)
        assert again.parameters.tobytes() == one.parameters.tobytes()
    whole = federation()
    whole.run(4)
    assert whole.parameters.tobytes() != one.parameters.tobytes()


@each
def test_a_run_goes_on_from_a_file_and_another_rule_s_file_is_refused(name, tmp_path):
    whole, first, second = (federation(rows=RULES[name]) for _ in range(3))
    whole.run(5)
    first.run(2)
    first.save(tmp_path / "run")
    second.load(tmp_path / "run")
    second.run(3)
    assert second.parameters.tobytes() == whole.parameters.tobytes()
    assert second.history.to_frame().equals(whole.history.to_frame())
    for place in whole._participation.places:
        for key in range(12):
            used = [f._participation.rounds_of(place, key).tolist() for f in (whole, second)]
            assert used[0] == used[1]
    with pytest.raises(CheckpointError, match="rows"):
        federation(rows=Uniform(0.75)).load(tmp_path / "run")


def test_it_equals_training_on_devices_that_hold_only_those_rows():
    fleet = devices()
    rule = Highest(0.5, Nearness(QUERIES))
    mine = federation(fleet, cohort=None, rows=rule)
    mine.run(3)
    small = []
    for device in fleet:
        keys = [k for k in device.index if len(mine.rounds_that_used(device.id, k)) == 3]
        assert len(keys) == round(0.5 * device.rows)
        index = copy.deepcopy(device.index)
        index.remove(np.setdiff1d(index.keys, keys))
        small.append(Device(device.id, index))
    other = federation(small, cohort=None)
    other.run(3)
    assert other.parameters.tobytes() == mine.parameters.tobytes()


def test_a_row_that_was_not_chosen_was_not_used():
    seen = {}

    class Watching:
        def choose(self, device, given):
            places = np.sort(given.draw.permutation(device.rows)[:4])
            seen.setdefault(device.id, []).append(device.training_keys[places].tolist())
            return places

    fleet = [device.hold_out(0.25, seed=0) for device in devices()]
    one = federation(fleet, cohort=None, rows=Watching())
    one.run(6)
    for device in fleet:
        assert len(seen[device.id]) == 6
        for key in device.index.keys.tolist():
            rounds = [r for r, keys in enumerate(seen[device.id], start=1) if key in keys]
            assert one.rounds_that_used(device.id, key).tolist() == rounds


def test_of_a_population_only_chosen_rows_were_used(tmp_path):
    write_population(tmp_path / "many", devices(), dimensions=4, metric="l2sq")
    fleet = Population(tmp_path / "many")
    one = federation(fleet, cohort=None, rows=Uniform(0.5))
    one.run(4)
    rounds = [len(one.rounds_that_used(fleet[0].id, k)) for k in fleet[0].index.keys.tolist()]
    assert sum(rounds) == 4 * 6
    assert len(set(rounds)) > 1


def test_signals_and_rows_are_counted():
    plain = federation(cohort=None).run(1)
    asked = federation(cohort=None, rows=Highest(0.5, Nearness(QUERIES))).run(1)
    weighed = federation(cohort=None, weights=Relevance(QUERIES)).run(1)
    for history in (asked, weighed):
        more = history.series("bytes_down") - plain.series("bytes_down")
        assert more.tolist() == [6 * QUERIES.nbytes]
    fleet = devices()
    assert plain.series("rows").tolist() == [sum(d.rows for d in fleet)]
    assert asked.series("rows").tolist() == [sum(round(0.5 * d.rows) for d in fleet)]


def test_a_fixed_rule_is_asked_once_and_again_when_rows_change():
    asked = []

    class Once:
        fixed = True

        def choose(self, device, given):
            asked.append((device.id, given.parameters))
            return np.arange(3)

    fleet = devices()
    one = federation(fleet, cohort=None, rows=Once())
    one.run(3)
    assert asked == [(n, None) for n in range(6)]
    fleet[2].index.add(np.ones((1, 4)), labels=[0])
    one.run(2)
    assert asked[6:] == [(2, None)]
    # What a rule showed stays behind: it may be of a class that can't be pickled, as this one.
    copied = pickle.loads(pickle.dumps(federation(fleet, rows=Uniform(0.5, fixed=True))))
    copied.run(1)


def test_other_seeds_draw_other_fixed_rows_on_the_same_devices():
    fleet, rule = devices(), Uniform(0.5, fixed=True)
    used = []
    for seed in (0, 1, 0):
        one = federation(fleet, cohort=None, rows=rule, seed=seed)
        one.run(1)
        used.append([len(one.rounds_that_used(0, key)) for key in range(12)])
    assert used[0] == used[2] != used[1]


def test_rules_by_the_model_where_devices_choose_one_of_several():
    federation(algorithm=IFCA(2), rows=Uniform(0.5)).run(2)
    with pytest.raises(RuntimeError, match="an algorithm that sends one model"):
        federation(algorithm=IFCA(2), rows=Highest(0.5, loss)).run(1)


def test_personal_models_train_on_what_their_rule_chooses():
    trained = federation(algorithm=FineTuned(), cohort=None, rows=Uniform(0.5))
    trained.run(2)
    whole = federation(algorithm=FineTuned(), cohort=None)
    whole.parameters, whole.round_number = trained.parameters, 2
    assert not np.allclose(trained.personal_parameters(), whole.personal_parameters())


def test_what_is_no_rule_is_refused():
    with pytest.raises(TypeError, match="give an object: Uniform"):
        federation(rows=Uniform)
    with pytest.raises(TypeError, match="has no choose"):
        federation(rows=0.5)
