"""Three ways to learn from clinics, on the same folds: each alone, all pooled, federated.

The three differ in nothing else: the same model, local training, number of rounds, preparation rule
and test patients. Alone and pooled are federations of one device, so the same code trains all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedlab.core.typing import F64, Bool
from fedlab.data import Table, by_column
from fedlab.device.from_data import devices_from_table
from fedlab.federation.federation import Federation
from fedlab.metrics.auc import Ranking
from fedlab.metrics.folds import stratified_folds
from fedlab.models import SoftmaxRegression
from fedlab.training import LocalSGD


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how long.

    Parameters
    ----------
    rounds : int
        Rounds of the federation; alone and pooled take as many passes.
    local : LocalSGD
        Training between two messages.
    l2 : float
        Weight penalty of the logistic regression.
    seed : int
    """

    rounds: int
    local: LocalSGD
    l2: float
    seed: int


Way = Callable[[Table, Bool, Recipe], F64]


def federated(table: Table, held_out: Bool, recipe: Recipe) -> F64:
    """Return the held-out patients' scores by a model learned together; NaN for the others."""
    made = devices_from_table(table, held_out=held_out)
    model = SoftmaxRegression(made.devices[0].index.dimensions, classes=2, l2=recipe.l2)
    federation = Federation(made.devices, model, local=recipe.local, seed=recipe.seed)
    federation.run(recipe.rounds)
    scores = np.full(len(table), np.nan)
    for device in made.devices:
        chances = model.predict(federation.parameters, device.validation()[0])
        scores[device.validation_keys.astype(np.intp)] = chances[:, 1]
    return scores


def pooled(table: Table, held_out: Bool, recipe: Recipe) -> F64:
    """Return the scores by a model that saw all clinics' rows in one place."""
    assert table.device is not None
    one = replace(table, frame=table.frame.assign(**{table.device: "one place"}))
    return federated(one, held_out, recipe)


def alone(table: Table, held_out: Bool, recipe: Recipe) -> F64:
    """Return each clinic's patients' scores by the model of that clinic's rows only."""
    scores = np.full(len(table), np.nan)
    for rows in by_column(table.devices).rows:
        scores[rows] = federated(table.take(rows), held_out[rows], recipe)
    return scores


#: The three ways by name.
WAYS: Mapping[str, Way] = {"alone": alone, "federated": federated, "pooled": pooled}


def cross_validate(
    table: Table, recipe: Recipe, *, folds: int, repeats: int, ways: Mapping[str, Way] = WAYS
) -> dict[str, dict[str, Ranking]]:
    """Score every patient in every repeat by every way, on the same folds.

    Folds are stratified by clinic and class; a table's groups stay whole.

    Returns
    -------
    dict
        By way, by clinic: how the scores of that clinic's test patients rank them, fold by fold.
        Patients are numbered within their clinic.
    """
    clinics = by_column(table.devices)
    strata = [f"{clinic} {label}" for clinic, label in zip(table.devices, table.y, strict=True)]
    sizes = dict(zip(map(str, clinics.names), clinics.sizes, strict=True))
    rankings = {way: {name: Ranking(size) for name, size in sizes.items()} for way in ways}
    for held_out in stratified_folds(strata, folds, repeats, recipe.seed, table.groups):
        for way, score in ways.items():
            scores = score(table, held_out, recipe)
            for ranking, rows in zip(rankings[way].values(), clinics.rows, strict=True):
                tested = np.flatnonzero(held_out[rows])
                there = rows[tested]
                ranking.add_fold(tested, table.y[there], scores[there])
    return rankings
