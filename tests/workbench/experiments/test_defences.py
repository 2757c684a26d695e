"""Every attack meets every defence, on the same devices and with the same seed."""

import numpy as np

from fedlab import Federation, LocalSGD, SoftmaxRegression
from fedlab.device.poison import LabelFlip, poisoned
from fedlab.updates import ClipNorm
from fedlab.updates.attacks import SignFlip
from fedlab.updates.robust import Krum, Median
from fedlab.workbench.experiments import withstand
from tests.federations import class_device

ATTACKS = {
    "none": lambda devices, share, seed: {},
    "sign flip": lambda devices, share, seed: {"updates": [SignFlip(share, scale=9.0)]},
    "label flip": lambda devices, share, seed: {
        "devices": poisoned(devices, share, LabelFlip(3), seed=seed)
    },
}
DEFENCES = {
    "mean": lambda f: {},
    "clipped": lambda f: {"updates": [ClipNorm(0.1)]},
    "median": lambda f: {"aggregator": Median()},
    "krum": lambda f: {"aggregator": Krum(f)},
}
LOCAL = LocalSGD(epochs=2, batch_size=4, learning_rate=0.1)


def make(seed):
    devices = [class_device(n, [0, 1, 2] * 3, seed=seed) for n in range(8)]
    given = {"model": SoftmaxRegression(4, 3), "local": LOCAL}
    return {"devices": devices, "test": devices[0].training(), **given}


def measure(run):
    return {
        "accuracy": run.history.last("test_accuracy"),
        "length": run.parameters @ run.parameters,
    }


def test_each_pair_is_the_federation_that_one_would_write():
    found = withstand(
        make, ATTACKS, DEFENCES, measure, shares=[0.25, 0.5], seeds=[0, 3], rounds=3
    ).set_index(["attack", "defence", "share", "seed"])
    assert found.index.is_unique
    for share, seed in ((0.25, 0), (0.5, 3)):
        devices = make(seed)["devices"]
        written = {
            ("none", "mean"): {},
            ("sign flip", "median"): {"updates": [SignFlip(share, 9.0)], "aggregator": Median()},
            ("sign flip", "clipped"): {"updates": [SignFlip(share, 9.0), ClipNorm(0.1)]},
            ("label flip", "mean"): {"devices": poisoned(devices, share, LabelFlip(3), seed=seed)},
        }
        for (attack, defence), more in written.items():
            run = Federation(**{**make(seed), **more}, seed=seed)
            run.run(3)
            told = found.loc[attack, defence, share, seed]
            assert told.accuracy == run.history.last("test_accuracy")
            np.testing.assert_allclose(told.length, run.parameters @ run.parameters)


def test_what_is_refused_is_left_out():
    found = withstand(make, ATTACKS, DEFENCES, measure, shares=[0.25, 0.5], seeds=[0], rounds=1)
    counts = found.groupby(["share", "defence"]).size().unstack(fill_value=0)
    assert counts.loc[0.25].to_dict() == dict.fromkeys(DEFENCES, 3)
    assert counts.loc[0.5].to_dict() == dict.fromkeys(DEFENCES, 3) | {"krum": 0}  # 8 < 2 * 4 + 3
