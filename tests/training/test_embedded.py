"""An index of embeddings under a model that moves, a model judged near queries, and evidence."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab import MLP, Device, Federation, LocalSGD, SoftmaxRegression, VectorIndex
from fedlab.algorithms import FineTuned
from fedlab.training import Near, evidence, validate
from fedlab.training.embedded import EmbeddedRows
from tests.helpers import distances, normal

MODEL = MLP(4, (6,), 3)
START = MODEL.initial(0)


def device(rows=60, held_out=0.25):
    index = VectorIndex(4, "l2sq")
    index.add(normal(rows, 4), keys=np.arange(rows) * 3, labels=np.arange(rows) % 3)
    return Device("ward 3", index).hold_out(held_out, seed=0)


def scaled(factor):
    """The same network with the hidden layer times a factor, and so its embeddings."""
    parameters = START.copy()
    parts = MODEL.layout.views(parameters)
    parts["weights1"] *= factor
    parts["bias1"] *= factor
    return parameters


def test_drift_and_overlap_of_a_scaled_encoder_are_known():
    ward = device()
    kept = EmbeddedRows(ward, MODEL, START, sample=1000)
    assert kept.index.keys.tolist() == ward.training_keys.tolist()
    np.testing.assert_array_equal(kept.index.vectors, MODEL.embed(START, ward.training()[0]))
    assert kept.staleness(START, k=5) == {"overlap": 1.0, "recall": 1.0}
    assert kept.drift(START) == 0.0
    assert kept.drift(scaled(1.5)) == pytest.approx(0.5, rel=1e-5)
    stale = kept.staleness(scaled(1.5), k=5)
    assert stale["overlap"] == 1.0  # neighbours keep their order under a change of scale
    assert stale["recall"] < 0.9  # but queries of today fall elsewhere in yesterday's space


def test_staleness_equals_brute_force():
    ward, moved = device(), MODEL.initial(1)
    kept = EmbeddedRows(ward, MODEL, START)
    x = ward.training()[0]
    old, new = (MODEL.embed(p, x) for p in (START, moved))

    def nearest(rows, queries):
        apart = distances(rows, queries, "l2sq")
        np.fill_diagonal(apart, np.inf)
        return np.argsort(apart, axis=1, kind="stable")[:, :5]

    truth = nearest(new, new)
    for name, queries in (("overlap", old), ("recall", new)):
        shared = [len(set(a) & set(b)) for a, b in zip(nearest(old, queries), truth, strict=True)]
        assert kept.staleness(moved, k=5)[name] == pytest.approx(np.sum(shared) / truth.size)


def test_policies_and_what_they_cost():
    ward, rows = device(), 45
    path = [scaled(1 + 0.1 * round) for round in range(7)]
    times = {}
    for name, policy in {
        "never": {},
        "every 3": {"every": 3},
        "drift": {"most": 0.25, "sample": 10},
    }.items():
        kept = EmbeddedRows(ward, MODEL, path[0], **policy)
        times[name] = [r for r in range(1, 7) if kept.follow(path[r], r)]
        kept.staleness(path[6])  # what tells us, and not the device, is no cost of the policy
        sampled = 6 * 10 if name == "drift" else 0
        assert kept.rows == rows * (1 + len(times[name])) + sampled
        assert kept.seconds > 0
    # 1.3 / 1 - 1 is the first above .25; from 1.3, 1.6 / 1.3 - 1 = .23 is not.
    assert times == {"never": [], "every 3": [3, 6], "drift": [3]}
    for wrong in ({"every": 0}, {"most": -1.0}, {"sample": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
            EmbeddedRows(ward, MODEL, START, **wrong)
    with pytest.raises(TypeError, match="no embed"):
        EmbeddedRows(ward, SoftmaxRegression(4, 3), np.zeros(15))


def test_rows_that_come_or_go_are_followed():
    ward = device()
    kept = EmbeddedRows(ward, MODEL, START)
    gone = int(ward.training_keys[0])
    ward.index.remove([gone])
    assert kept.follow(START, 1)
    assert gone not in kept.index
    assert not kept.follow(START, 2)


def test_near_judges_on_the_held_out_rows_nearest_to_queries():
    ward, queries = device(), normal(3, 4, seed=7)
    x, y = ward.validation()
    order = np.argsort(distances(x, queries, "l2sq"), axis=1, kind="stable")[:, :4]
    places = np.unique(order)
    near = Near(ward, queries, 4)
    assert sorted(near.validation_keys) == sorted(ward.validation_keys[places])
    found = validate([near], MODEL, START)
    assert found["rows"].tolist() == [len(places)]
    assert found["loss"][0] == pytest.approx(MODEL.evaluate(START, x[places], y[places])["loss"])
    # What is held out besides is not trained on.
    assert near.training_rows() is ward.training_rows()
    local = LocalSGD(epochs=1, batch_size=8)
    federation = Federation([ward], MODEL, algorithm=FineTuned(), local=local)
    federation.run(1)
    personal = federation.personal_parameters([near])
    np.testing.assert_array_equal(personal, federation.personal_parameters([ward]))


def test_evidence_is_the_nearest_training_rows_beside_the_prediction():
    ward, asked = device(), normal(5, 4, seed=9)
    x, y = ward.training()
    shown = evidence(ward, MODEL, START, asked, k=3)
    apart = distances(x, asked, "l2sq").astype(float)
    order = np.argsort(apart, axis=1, kind="stable")[:, :3]
    assert shown["query"].tolist() == np.repeat(range(5), 3).tolist()
    assert shown.key.tolist() == ward.training_keys[order.ravel()].tolist()
    assert shown.label.tolist() == y[order.ravel()].tolist()
    np.testing.assert_allclose(shown.distance, np.take_along_axis(apart, order, 1).ravel(), 1e-5)
    assert shown.predicted.tolist() == np.repeat(MODEL.predict(START, asked).argmax(1), 3).tolist()
