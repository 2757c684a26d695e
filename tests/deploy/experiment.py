"""The experiment of the tests: one of several ways to learn digits."""

from fedlab import MLP, Federation, LocalSGD
from fedlab.algorithms import IFCA, FedNova, FedPer, Scaffold
from fedlab.fleet import ByDiversity, ByQuality, Oort, PowerOfChoice
from fedlab.updates import (
    QSGD,
    SGD,
    Adam,
    Cast,
    ClipNorm,
    DistributedNoise,
    ErrorFeedback,
    FixedPoint,
    LowRank,
    PrivateMean,
    RandomK,
    SecureSum,
    Sign,
    TopK,
)


def by_root(device):
    return device.rows**0.5


WAYS = {
    "plain": {},
    "scaffold": {"algorithm": Scaffold(), "cohort": 2, "server": SGD(0.7)},
    "fedper": {"algorithm": FedPer(), "weights": "uniform"},
    "feedback": {"updates": [ErrorFeedback(TopK(0.1)), Cast()], "cohort": 2},
    "sign": {"updates": [ErrorFeedback(Sign())], "server": "adam"},
    "adam": {"server": Adam(0.01), "updates": [ClipNorm(0.5)]},
    "lowrank": {"updates": [LowRank(2)]},
    "nova": {"algorithm": FedNova()},
    "ifca": {"algorithm": IFCA(2)},
    "qsgd": {"updates": [QSGD()]},
    "random": {"updates": [RandomK(0.2)]},
    "masked": {"updates": [FixedPoint(4.0), SecureSum()], "weights": "uniform"},
    "oort": {"selection": Oort(deadline=60.0), "cohort": 2},
    "highest loss": {"selection": PowerOfChoice(3), "cohort": 2},
    "quality": {"selection": ByQuality(3), "cohort": 2},
    "diverse": {"selection": ByDiversity(3), "cohort": 2},
    "own weights": {"weights": by_root},
    "clipped": {"updates": [ClipNorm(1.0)]},
    "masked rows": {"updates": [ClipNorm(1.0), FixedPoint(1.0), SecureSum(neighbours=2)]},
    "masked sketch": {
        "updates": [
            ErrorFeedback(RandomK(0.1, shared=True)),
            ClipNorm(1.0),
            FixedPoint(1.0),
            SecureSum(),
        ],
        "algorithm": FedPer(),
    },
    "masked variates": {"updates": [FixedPoint(4.0), SecureSum()], "algorithm": Scaffold()},
    "masked nova": {"updates": [FixedPoint(4.0), SecureSum()], "algorithm": FedNova()},
    "masked noise": {
        "updates": [DistributedNoise(1.0, 4.0, delta=1e-3, survivors=2), SecureSum()],
        "weights": "uniform",
    },
    "dropping": {"updates": [FixedPoint(4.0), SecureSum(drops=(0.1, 0.1))]},
    "private": {"aggregator": PrivateMean(1.0, 1.0, 1e-5), "weights": "uniform"},
    "noised": {"aggregator": PrivateMean(1.0, 1.0, 1e-5, simulated=True), "weights": "uniform"},
}


def federation(devices, way="plain", seed=3):
    devices = [device.hold_out(0.2, seed=seed) for device in devices]
    how = {"local": LocalSGD(epochs=2, batch_size=16, learning_rate=0.1), **WAYS[way]}
    return Federation(devices, MLP(64, (16,), 10), seed=seed, **how)
