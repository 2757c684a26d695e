"""A contest: the same for all, tuned alike, and nothing leaks from what it is judged by."""

from functools import lru_cache

import numpy as np
import pandas as pd
import pytest

from fedlab import Device, Federation, LocalSGD, SoftmaxRegression, VectorIndex
from fedlab.algorithms import Alone, Ditto, FedProx
from fedlab.device import hold_out_devices
from fedlab.metrics import compared, fairness
from fedlab.workbench.experiments import contest

MODEL = SoftmaxRegression(4, 3)
LOCAL = LocalSGD(learning_rate=0.2)
COUNT = 8


def make_devices(seed, flip=None):
    """Devices whose classes are numbered in an order of their own: one model can't serve all."""
    centres = np.random.default_rng(seed).normal(size=(3, 4)) * 2
    devices = []
    for name in range(COUNT):
        draw = np.random.default_rng([seed, name])
        own = draw.integers(0, 3, 24 + name)
        x = centres[own] + draw.normal(size=(len(own), 4))
        labels = (own + name) % 3
        index = VectorIndex(4, "l2sq")
        patients = np.arange(len(own)) // 2
        index.add(x, labels=labels, metadata={"patient": patients})
        device = Device(f"ward {name}", index).hold_out(0.3, seed, groups="patient")
        if flip is not None:
            changed = labels.copy()
            aside = np.isin(index.keys, device.validation_keys)
            changed[flip(name, seed, aside)] = 0
            other = VectorIndex(4, "l2sq")
            other.add(x, labels=changed, metadata={"patient": patients})
            device = Device(device.id, other).holding_out(device.validation_keys)
        devices.append(device)
    return devices


GIVEN = {
    "seeds": (0, 1, 2, 3, 4),
    "rounds": 20,
    "local": LOCAL,
    "trials": 2,
    "cohort": 4,
    "unseen": 2,
}


@lru_cache(maxsize=1)
def results():
    ways = {"ditto": Ditto(lam=0.1), "fedprox": [FedProx(0.01), FedProx(1.0)]}
    return contest(make_devices, ways, MODEL, groups="patient", **GIVEN)


def test_all_stand_in_one_tidy_frame_beside_the_yardsticks():
    frame = results()
    ways = {"alone", "central", "fedavg", "fine-tuned fedavg", "ditto", "fedprox"}
    assert set(frame.way) == ways
    assert not frame.drop(columns="settings").isna().any(axis=None)
    told = frame[frame.seed < 5].pivot_table(
        index=["seed", "who", "metric"], columns="way", values="value"
    )
    devices = told.xs("accuracy", level="metric")
    assert not devices.isna().any(axis=None)  # the same devices for all
    assert len(devices) == 5 * COUNT
    assert set(told.loc[(0, "unseen")].index) == {
        *("mean", "worst tenth", "gini", "entropy", "variance")
    }


def test_what_was_tried_stands_in_the_frame_and_is_the_same_number_for_all():
    frame = results()
    trials = frame[frame.seed == 1000]
    assert (frame.trials == 2).all()
    assert (trials.groupby("way").size() == 2).all()
    for way, rows in trials.groupby("way"):
        chosen = frame[(frame.way == way) & (frame.seed < 5)].settings.unique()
        assert list(chosen) == [rows.settings.iloc[int(rows.value.argmax())]]
    fedavg = frame[(frame.way == "fedavg")]
    run = fedavg[(fedavg.who == "server") & (fedavg.seed == 0)].set_index("metric").value
    assert fedavg.bytes.iloc[0] == 2 * run["bytes"]  # two trials like the run
    assert fedavg.settings.iloc[0].startswith("algorithm=FedAvg(), local=LocalSGD(")


def of(frame, way, seed, who):
    return frame[(frame.way == way) & (frame.seed == seed) & (frame.who == who)].set_index("metric")


def test_the_run_is_the_federation_written_by_hand():
    frame = results()
    parts, unseen = hold_out_devices(make_devices(1), 2, 1)
    step = float(of(frame, "ditto", 1, "unseen").settings.iloc[0].split("rate=")[1].split(",")[0])
    local = LocalSGD(learning_rate=step)
    hand = Federation(parts, MODEL, algorithm=Ditto(lam=0.1), local=local, cohort=4, seed=1)
    hand.run(20)
    for who, devices in (("taking part", parts), ("unseen", unseen)):
        told = hand.validate(devices=devices, model="personal")
        expected = fairness(told.accuracy, weights=told.rows)
        rows = of(frame, "ditto", 1, who).value
        assert rows["mean"] == pytest.approx(expected.mean)
        assert rows["worst tenth"] == expected.worst == told.accuracy.min()
        assert rows["gini"] == pytest.approx(expected.gini)


def test_alone_an_unseen_device_learns_from_its_own_rows_in_as_many_rounds():
    frame = results()
    unseen = hold_out_devices(make_devices(0), 2, 0)[1]
    rows = of(frame, "alone", 0, unseen[0].id)
    step = float(rows.settings.iloc[0].split("rate=")[1].split(",")[0])
    hand = Federation(unseen[:1], MODEL, local=LocalSGD(learning_rate=step), seed=0)
    hand.run(20)
    assert rows.value["accuracy"] == pytest.approx(hand.validate().accuracy.iloc[0])


def test_pooling_is_one_device_of_all_training_rows_and_costs_their_bytes():
    frame = results()
    parts, _ = hold_out_devices(make_devices(2), 2, 2)
    rows = [device.training() for device in parts]
    index = VectorIndex(4, "l2sq")
    index.add(np.concatenate([x for x, _ in rows]), labels=np.concatenate([y for _, y in rows]))
    told = of(frame, "central", 2, "taking part")
    step = float(told.settings.iloc[0].split("rate=")[1].split(",")[0])
    pooled = Device("one place", index)
    hand = Federation([pooled], MODEL, local=LocalSGD(learning_rate=step), seed=2)
    hand.run(20)
    measured = hand.validate(devices=parts)
    mean = np.average(measured.accuracy, weights=measured.rows)
    assert told.value["mean"] == pytest.approx(mean)
    assert of(frame, "central", 2, "server").value["bytes"] == sum(
        x.nbytes + y.nbytes for x, y in rows
    )


def test_where_devices_want_models_of_their_own_the_verdict_says_so_of_those_that_have_them():
    frame = results()
    of_mean = frame[(frame.who == "taking part") & (frame.metric == "mean")]
    table = of_mean.pivot_table(index="seed", columns="way", values="value")
    told = compared(table[["fedavg", "alone", "central"]], "fedavg")
    assert told.verdict["alone"] == "better"
    assert told.verdict["central"] != "better"  # it can't tell devices apart either


def test_it_depends_on_seeds_and_settings_alone():
    ways = {"ditto": Ditto(lam=0.1), "fedprox": [FedProx(0.01), FedProx(1.0)]}
    again = contest(make_devices, ways, MODEL, groups="patient", **GIVEN | {"threads": 2})
    pd.testing.assert_frame_equal(again, results())


def test_rows_that_are_judged_by_play_no_part_in_tuning():
    def flip(name, seed, aside):
        return aside & (seed == 1000)

    few = GIVEN | {"seeds": (0,)}
    plain = contest(make_devices, {}, MODEL, **few)
    other = contest(lambda seed: make_devices(seed, flip), {}, MODEL, **few)
    pd.testing.assert_frame_equal(plain, other)


def test_rows_of_unseen_devices_play_no_part_in_what_is_learned():
    unseen = {device.id for device in hold_out_devices(make_devices(0), 2, 0)[1]}

    def flip(name, seed, aside):
        return np.full(len(aside), seed == 0 and f"ward {name}" in unseen)

    few = GIVEN | {"seeds": (0,)}
    plain = contest(make_devices, {}, MODEL, **few)
    other = contest(lambda seed: make_devices(seed, flip), {}, MODEL, **few)
    same = ~plain.who.isin({"unseen", *unseen})
    pd.testing.assert_frame_equal(plain[same], other[same])
    assert not np.array_equal(plain.value, other.value)


def test_the_better_candidate_is_chosen_for_a_loss_too():
    slow, fast = LocalSGD(learning_rate=1e-6), LocalSGD(learning_rate=0.2)
    ways = {"mine": [{"algorithm": Alone(), "local": one} for one in (slow, fast)]}
    frame = contest(make_devices, ways, MODEL, metric="loss", better="lower", **GIVEN)
    told = of(frame, "mine", 0, "unseen").settings.iloc[0]
    assert repr(fast) in told


@pytest.mark.parametrize(
    ("ways", "given", "said"),
    [
        ({"mine": [FedProx()]}, {}, r"2 trials are for each contestant; \{'mine': 1\}"),
        ({}, {"tuning_seed": 1}, "all must differ"),
        ({}, {"seeds": (1, 1)}, "all must differ"),
        ({}, {"trials": 0}, "trials is 0"),
    ],
)
def test_an_unfair_contest_is_refused(ways, given, said):
    with pytest.raises(ValueError, match=said):
        contest(make_devices, ways, MODEL, **GIVEN | given)
