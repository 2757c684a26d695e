"""FedProx's own experiment on synthetic(1, 1) and the IID set: what must hold at 100 rounds.

Li et al., "Federated optimization in heterogeneous networks", MLSys 2020, figures 1 and 2. Levels
differ from seed to seed, so orderings are asserted.
"""

import numpy as np
import pytest

from fedlab import Federation, LocalSGD, SoftmaxRegression, spread
from fedlab.algorithms import FedAvg, FedProx
from fedlab.data import synthetic, synthetic_iid
from fedlab.fleet import Stragglers

SEEDS = (0, 1, 3)
ROUNDS = 100


def losses(data, algorithm, stragglers, seed):
    """The loss on all training rows after each round."""
    federation = Federation(
        spread(data.train, data.train_partition),
        SoftmaxRegression(60, 10),
        algorithm=algorithm,
        local=LocalSGD(epochs=20, batch_size=10, learning_rate=0.01),
        cohort=10,
        stragglers=stragglers,
        test=(data.train.x, data.train.y),
        seed=seed,
    )
    federation.run(ROUNDS)
    return federation.history.series("test_loss").to_numpy()


@pytest.fixture(scope="module")
def stragglers_90():
    runs = {"FedAvg": [], "mu = 0": [], "mu = 1": []}
    for seed in SEEDS:
        data = synthetic(1, 1, seed)
        dropped, kept = Stragglers(0.9, drop=True), Stragglers(0.9)
        runs["FedAvg"].append(losses(data, FedAvg(), dropped, seed))
        runs["mu = 0"].append(losses(data, FedProx(mu=0.0), kept, seed))
        runs["mu = 1"].append(losses(data, FedProx(mu=1.0), kept, seed))
    return {name: np.array(each) for name, each in runs.items()}


def swings(loss):
    """Mean change of the loss between rounds, in the second half of the run."""
    return np.abs(np.diff(loss[..., ROUNDS // 2 :])).mean(axis=-1)


def test_with_stragglers_the_proximal_term_gives_the_lowest_loss(stragglers_90):
    last = {name: each[:, -1] for name, each in stragglers_90.items()}
    assert (last["mu = 1"] < 0.75 * last["mu = 0"]).all()
    assert (last["mu = 1"] < 0.75 * last["FedAvg"]).all()


def test_partial_work_is_better_than_none(stragglers_90):
    # At a single round it depends on the seed; over the run it holds.
    over_the_run = {name: each.mean(axis=1) for name, each in stragglers_90.items()}
    assert (over_the_run["mu = 0"] < over_the_run["FedAvg"]).all()


def test_the_proximal_term_damps_the_swings(stragglers_90):
    assert (swings(stragglers_90["mu = 1"]) < 0.3 * swings(stragglers_90["mu = 0"])).all()
    assert (swings(stragglers_90["mu = 0"]) < swings(stragglers_90["FedAvg"])).all()


def test_on_iid_data_the_proximal_term_only_slows():
    data = synthetic_iid(seed=0)
    free = losses(data, FedAvg(), None, 0)
    held = losses(data, FedProx(mu=1.0), None, 0)
    # What FedAvg reaches after 10 rounds takes the pull more than three times as long.
    assert np.argmax(held <= free[9]) > 30 or held.min() > free[9]
