"""Three ways on the same folds."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from fedlab import LocalSGD
from fedlab.data import read_table
from fedlab.workbench.experiments.clinics import (
    WAYS,
    Recipe,
    alone,
    cross_validate,
    federated,
    pooled,
)


@pytest.fixture(scope="module")
def table():
    draw = np.random.default_rng(1)
    size = 160
    ill = draw.integers(0, 2, size)
    age = 60 + 8 * ill + draw.normal(size=size) * 8
    age[::9] = np.nan
    frame = pd.DataFrame(
        {
            "age": age,
            "sex": draw.choice(["f", "m"], size),
            "ill": ill,
            "clinic": np.where(np.arange(size) < 100, "large", "small"),
        }
    )
    return read_table(frame, label="ill", device="clinic")


RECIPE = Recipe(rounds=10, local=LocalSGD(batch_size=None, learning_rate=0.5), l2=0.01, seed=0)


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_each_way_scores_exactly_the_held_out_patients_and_learns(table, way):
    held_out = np.arange(160) % 4 == 0
    scores = way(table, held_out, RECIPE)
    np.testing.assert_array_equal(np.isfinite(scores), held_out)
    assert roc_auc_score(table.y[held_out], scores[held_out]) > 0.6


def test_with_one_full_batch_step_a_round_federated_and_pooled_are_the_same(table):
    # The average of gradients is the gradient of the whole, whoever holds the rows.
    held_out = np.arange(160) % 5 == 0
    one, other = federated(table, held_out, RECIPE), pooled(table, held_out, RECIPE)
    np.testing.assert_allclose(one[held_out], other[held_out], atol=1e-5)


def test_alone_is_each_clinic_s_own_federation_of_one(table):
    held_out = np.arange(160) % 5 == 0
    scores = alone(table, held_out, RECIPE)
    small = np.arange(100, 160)
    own = federated(table.take(small), held_out[small], RECIPE)
    np.testing.assert_array_equal(scores[small], own)


def test_held_out_patients_labels_do_not_matter_to_their_scores(table):
    from dataclasses import replace

    from fedlab.data import Target

    held_out = np.arange(160) % 5 == 0
    flipped = np.where(held_out, 1 - table.y, table.y)
    other = replace(table, target=Target(flipped, table.classes))
    for way in WAYS.values():
        np.testing.assert_array_equal(
            way(table, held_out, RECIPE)[held_out], way(other, held_out, RECIPE)[held_out]
        )


def test_cross_validation_ranks_every_patient_in_every_repeat(table):
    rankings = cross_validate(table, RECIPE, folds=4, repeats=2)
    assert list(rankings) == ["alone", "federated", "pooled"]
    for by_clinic in rankings.values():
        assert {name: r.rows for name, r in by_clinic.items()} == {"large": 100, "small": 60}
        assert all(r.folds == 8 for r in by_clinic.values())
        areas = [r.auc(np.ones((1, r.rows)))[0] for r in by_clinic.values()]
        assert all(0.55 < area < 1 for area in areas)
