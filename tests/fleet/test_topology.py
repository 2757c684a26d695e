"""Edges and gossip: against flat and separate federations, by hand, resumed to the same bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedlab import Device, Federation, LinearRegression, LocalSGD, Profile, SoftmaxRegression
from fedlab.algorithms import Ditto, Scaffold
from fedlab.fleet import Cohort, Gossip, Hierarchy, Plainly, PowerOfChoice, round_seconds
from fedlab.fleet.topology import metropolis
from fedlab.updates import SGD, ChainError, ClipNorm, ErrorFeedback, TopK
from fedlab.updates.robust import Median
from tests.federation.test_wire import Remembering
from tests.federations import class_device, regression_device
from tests.fleet.test_clock import told
from tests.fleet.test_selection import Hides

INPUTS = 3
DEVICES = [regression_device(n, rows=12 + 5 * n, inputs=INPUTS, seed=3) for n in range(7)]
EDGES = {"north": [0, 3, 4], "south": [6, 1], "west": [2, 5]}
NBYTES = 8 * (INPUTS + 1)


def federation(devices: Any, schedule: Any = None, **settings: Any) -> Federation:
    """In float64, so that sums in another order agree to 1e-12 and not to 1e-6 alone."""
    given = {"local": LocalSGD(batch_size=5, epochs=2, learning_rate=0.05), "seed": 4, **settings}
    given.setdefault("parameters", np.zeros(INPUTS + 1))
    return Federation(devices, LinearRegression(INPUTS), schedule=schedule, **given)


def edge_rows(name: str) -> int:
    return sum(DEVICES[n].rows for n in EDGES[name])


class Turns(Plainly):
    """A rule that chooses given places in each round."""

    def __init__(self, *turns: list[int]) -> None:
        self.turns = turns

    def choose(self, state, view):
        return Cohort(np.array(self.turns[view.round - 1]), state, "its turn")


# -- a hierarchy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["rows", "uniform"])
@pytest.mark.parametrize("cohort", [None, 4])
def test_where_the_cloud_averages_in_every_round_it_is_flat_fedavg(cohort, weights):
    """To rounding: sum_e W_e (sum_k w_k v_k / W_e) is added up in another order."""
    flat = federation(DEVICES, cohort=cohort, weights=weights)
    edges = federation(DEVICES, Hierarchy(EDGES), cohort=cohort, weights=weights)
    for _ in range(6):
        ours, theirs = edges.round().measures, flat.round().measures
        np.testing.assert_allclose(edges.parameters, flat.parameters, rtol=1e-12)
        for name in ("train_loss", "rows", "devices", "bytes_up", "bytes_down", "update_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-9), name
        assert ours["cloud_bytes_down"] == 3 * NBYTES
        assert ours["consensus_distance"] < 1e-15


def test_edge_rounds_are_those_of_a_federation_for_each_edge_and_the_cloud_averages_by_rows():
    edges = federation(DEVICES, Hierarchy(EDGES, every=3))
    alone = {name: federation([DEVICES[n] for n in ids]) for name, ids in EDGES.items()}
    rows = [edge_rows(name) for name in EDGES]
    for number in range(1, 7):
        measures = edges.round().measures
        for one in alone.values():
            one.round()
        models = np.array([one.parameters for one in alone.values()])
        mean = np.average(models, axis=0, weights=rows)
        np.testing.assert_allclose(edges.parameters, mean, rtol=1e-12)
        if number % 3 == 0:
            for one in alone.values():
                one.parameters = mean
            models = np.tile(mean, (3, 1))
        own = edges.personal_parameters()
        for place, ids in enumerate(EDGES.values()):
            np.testing.assert_allclose(own[ids], np.tile(models[place], (len(ids), 1)), rtol=1e-12)
        apart = np.sqrt(np.square(models - models.mean(axis=0)).sum(axis=1).mean())
        assert measures["consensus_distance"] == pytest.approx(apart, rel=1e-9, abs=1e-12)
        assert measures["cloud_bytes_up"] == (0 if number % 3 else 3 * NBYTES)
    assert apart < 1e-15


def test_an_edge_counts_by_what_came_to_it_since_the_cloud_last_averaged():
    edges = federation(DEVICES, Hierarchy(EDGES, every=2), selection=Turns([0, 6], [3, 4]))
    for _ in range(2):
        report = edges.round()
    north = federation(DEVICES, selection=Turns([0], [3, 4]))
    south = federation(DEVICES, selection=Turns([6]))
    north.run(2), south.run(1)
    w = np.array([DEVICES[n].rows for n in range(7)], float)
    share = w[0] / (w[0] + w[6]) + 1, w[6] / (w[0] + w[6])
    mean = np.average([north.parameters, south.parameters], axis=0, weights=share)
    np.testing.assert_allclose(edges.parameters, mean, rtol=1e-12)
    assert report.measures["cloud_bytes_up"] == 2 * NBYTES  # the third has nothing new
    assert report.measures["cloud_bytes_down"] == 3 * NBYTES


def test_edges_wait_for_one_another_only_where_the_cloud_averages():
    up = NBYTES + 24
    took = [1.0, 3.0, 1.0, 3.0]
    devices = [regression_device(n, rows=10, inputs=INPUTS, seed=1) for n in range(4)]
    for device, seconds in zip(devices, took, strict=True):
        device.profile = Profile(bandwidth=(NBYTES + up) / seconds, compute=1e300)
    link = Profile(bandwidth=100.0, upload=50.0)
    schedule = Hierarchy({"a": [0, 1], "b": [2, 3]}, every=2, link=link)
    turns = Turns([0, 3], [1, 2], [0, 1, 2], [0])
    edges = federation(devices, schedule, selection=turns)
    seconds = [edges.round().measures["seconds"] for _ in range(4)]
    cloud = round_seconds(link, NBYTES, NBYTES, 0, 0)
    assert cloud == NBYTES / 100 + NBYTES / 50
    # Edge a: 1 + 3 s; b: 3 + 1 s. Then a: 3 + 1 s; b: 1 s.
    assert seconds == pytest.approx([3, 1 + cloud, 3, 1 + cloud], rel=1e-9)
    assert edges.state.clock == pytest.approx(sum(seconds), rel=1e-12)


def test_buffers_are_averaged_by_edges_as_by_one_server():
    settings = {"weights": "uniform", "engine": "plain", "parameters": None}
    ends = []
    for schedule in (None, Hierarchy(EDGES)):
        one = Federation(
            DEVICES, Remembering(), local=LocalSGD(learning_rate=0.1), schedule=schedule, **settings
        )
        one.run(3)
        ends.append(one.parameters)
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-5, atol=1e-6)
    assert np.abs(ends[1][4:]).min() > 0


def wards(order: Any = range(9)) -> list[Device]:
    devices = [class_device(f"ward {n}", [0, 1, 2] * (2 + n % 3), seed=n) for n in order]
    for device, n in zip(devices, order, strict=True):
        device.profile = Profile(
            1e4 * (1 + n % 5), compute=1e6 * (1 + n % 4), availability=0.7, dropout=0.2
        )
    return devices


def softmax(devices: list[Device], schedule: Any, **settings: Any) -> Federation:
    given = {"local": LocalSGD(batch_size=4), "seed": 2, **settings}
    return Federation(devices, SoftmaxRegression(4, 3), schedule=schedule, **given)


THREE = Hierarchy({str(k): [f"ward {n}" for n in range(k, 9, 3)] for k in range(3)}, every=4)
BOTH = [THREE, Gossip("regular")]


@pytest.mark.filterwarnings("ignore:.*remarks were made")
@pytest.mark.parametrize("schedule", BOTH, ids=["hierarchy", "gossip"])
def test_a_run_is_resumed_between_two_averages_to_the_same_bits(schedule, tmp_path):
    coded = [ErrorFeedback(TopK(0.3))]
    settings = {"cohort": 6, "updates": coded if schedule is THREE else [ClipNorm(0.5)]}
    whole = softmax(wards(), schedule, **settings)
    whole.run(11)
    softmax(wards(), schedule, **settings).run_to(6, tmp_path / "run")
    half = softmax(wards(), schedule, threads=2, **settings)
    half.run_to(11, tmp_path / "run")
    assert told(half) == told(whole)
    assert half.personal_parameters().tobytes() == whole.personal_parameters().tobytes()
    other = softmax(wards([5, 3, 0, 2, 1, 4, 8, 7, 6]), schedule, **settings)
    other.run(11)
    assert told(other) == told(whole)
    assert (whole.history.series("seconds") >= 0).all()
    assert whole.history.series("dropped").sum() > 0


@pytest.mark.parametrize("schedule", BOTH, ids=["hierarchy", "gossip"])
def test_parameters_that_are_assigned_are_everybody_s(schedule):
    one = softmax(wards(), schedule, weights="uniform")
    with pytest.warns(UserWarning, match="remarks"):
        one.run(2)
    assert len(np.unique(one.personal_parameters(), axis=0)) > 1
    one.parameters = np.ones(15)
    assert (one.personal_parameters() == 1).all()
    [stranger] = one.personal_parameters([class_device("else", [0, 1])])
    assert (stranger == 1).all()
    other = softmax(wards(), schedule, weights="uniform", parameters=np.ones(15))
    other.round_number = 2
    other.state = replace(other.state, clock=one.state.clock)
    one.round(), other.round()
    assert one.parameters.tobytes() == other.parameters.tobytes()


def test_a_round_that_is_skipped_moves_no_model_and_takes_its_time():
    devices = [replace_profile(device, dropout=1.0) for device in wards()]
    one = softmax(devices, THREE)
    report = one.round()
    assert report.measures["seconds"] > 0
    assert (one.personal_parameters() == one.parameters).all()
    assert one.state.flight["clock"].max() == one.state.clock


@pytest.mark.parametrize("schedule", BOTH, ids=["hierarchy", "gossip"])
def test_a_step_that_is_not_finite_is_skipped_by_all_nodes(schedule):
    devices = [replace_profile(device, dropout=0.0, availability=1.0) for device in wards()]
    one = softmax(devices, schedule, server=SGD(1e300))
    report = one.round()
    assert "gives NaN or inf" in report.remarks[-1][1]
    assert np.isfinite(one.personal_parameters()).all()
    assert (one.personal_parameters() == one.parameters).all()


def replace_profile(device: Device, **profile: Any) -> Device:
    device.profile = replace(device.profile, **profile)
    return device


@pytest.mark.parametrize("schedule", [Hierarchy(EDGES), Gossip()], ids=["hierarchy", "gossip"])
@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"updates": [Hides()]}, "hide"),
        ({"down": [TopK(0.5)]}, "down="),
        ({"aggregator": Median()}, "Median"),
        ({"server": "adam"}, "Adam"),
        ({"server": "momentum"}, "momentum"),
        ({"selection": PowerOfChoice(7)}, "PowerOfChoice"),
        ({"algorithm": Scaffold()}, "Scaffold"),
        ({"algorithm": Ditto()}, "Ditto"),
    ],
)
def test_what_does_not_go_with_several_models_is_refused_with_the_reason(schedule, settings, why):
    with pytest.raises(ChainError, match=f"{type(schedule).__name__} .*{why}.*(take|leave)"):
        federation(DEVICES, schedule, **settings)


def test_edges_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"no edge names the devices \[6\]"):
        federation(DEVICES, Hierarchy({"north": [0, 3, 4], "rest": [1, 2, 5]}))
    with pytest.raises(ValueError, match="two edges name the same device"):
        federation(DEVICES, Hierarchy({**EDGES, "east": [0]}))
    with pytest.raises(ValueError, match=r"edges name \['x'\], which no device is called"):
        federation(DEVICES, Hierarchy({**EDGES, "east": ["x"]}))
    for wrong in ({"every": 0}, {"edges": [[0, 1]]}, {"link": 1e6}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            Hierarchy(**{"edges": EDGES, **wrong})
    with pytest.raises(TypeError, match="FedBuff or FedAsync, or Hierarchy or Gossip"):
        federation(DEVICES, EDGES)


# -- gossip ---------------------------------------------------------------------------------------


def test_weights_are_doubly_stochastic_and_shrink_by_the_closed_forms():
    count = 12
    turn = 2 * np.pi * np.arange(count) / count
    square = 2 * np.pi * np.arange(3) / 3, 2 * np.pi * np.arange(4) / 4
    forms = {
        "ring": 1 / 3 + 2 / 3 * np.cos(turn),
        "torus": (1 + 2 * np.add.outer(*map(np.cos, square)).ravel()) / 5,
        "complete": np.eye(count)[0],
    }
    for graph, form in forms.items():
        links = Gossip(graph).links(count, seed=0)
        matrix = metropolis(links)
        np.testing.assert_allclose(np.linalg.eigvalsh(matrix), np.sort(form), atol=1e-12)
        assert (matrix == matrix.T).all()
        np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=1e-15)
        assert matrix.min() >= -1e-15
        assert ((matrix > 1e-15) == (links | np.eye(count, dtype=bool))).all()
    path = np.array([[0, 1, 0, 0], [1, 0, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0]], bool)
    np.testing.assert_allclose(metropolis(path)[1], [0.25] * 4)
    np.testing.assert_allclose(metropolis(path)[0], [0.75, 0.25, 0, 0])


def test_a_regular_graph_is_regular_and_follows_from_the_seed():
    for rings in (1, 2, 3, 4):
        one = Gossip("regular", rings).links(20, seed=1)
        assert (one.sum(axis=1) == 2 * rings).all()
        assert (one == one.T).all()
        assert not one.diagonal().any()
        assert (one == Gossip("regular", rings).links(20, seed=1)).all()
        assert (one != Gossip("regular", rings).links(20, seed=2)).any()


def test_on_a_complete_graph_gossip_is_fedavg_with_all_devices():
    """To rounding: each device's model and the mean change are added up in another order."""
    flat, gossip = (
        federation(DEVICES, schedule, weights="uniform", algorithm="fedprox")
        for schedule in (None, Gossip("complete"))
    )
    for _ in range(4):
        ours, theirs = gossip.round().measures, flat.round().measures
        np.testing.assert_allclose(gossip.parameters, flat.parameters, rtol=1e-12)
        own = gossip.personal_parameters()
        np.testing.assert_allclose(own, np.tile(flat.parameters, (7, 1)), rtol=1e-12)
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-12)


@pytest.mark.parametrize("cohort", [None, 4])
def test_a_round_is_the_paper_s_step_among_those_who_take_part(cohort):
    """W (x + D), with W by hand and D from a federation of that device alone."""
    gossip = federation(DEVICES, Gossip("ring"), cohort=cohort)
    models = np.zeros((7, INPUTS + 1))
    for number in range(1, 5):
        report = gossip.round()
        there, after = report.senders.tolist(), models.copy()
        for n in there:
            alone = federation([DEVICES[n]], parameters=models[n])
            alone.round_number = number - 1
            alone.round()
            after[n] = alone.parameters
        friends = {a: [b for b in there if (a - b) % 7 in (1, 6)] for a in there}
        mixed = models.copy()
        for a in there:
            shares = {b: 1 / (1 + max(len(friends[a]), len(friends[b]))) for b in friends[a]}
            own = 1 - sum(shares.values())
            mixed[a] = own * after[a] + sum(share * after[b] for b, share in shares.items())
        models = mixed
        np.testing.assert_allclose(gossip.personal_parameters(), models, rtol=1e-12)
        np.testing.assert_allclose(gossip.parameters, models.mean(axis=0), rtol=1e-12)


def test_without_training_models_contract_by_the_spectral_gap_about_their_mean():
    """Steps of 1e-300 move nothing; along an eigenvector by its eigenvalue, else at least so."""
    still = {"local": LocalSGD(learning_rate=1e-300)}
    start = np.random.default_rng(0).normal(size=(7, INPUTS + 1))
    wave = np.cos(2 * np.pi * np.arange(7) / 7)[:, None] * [1.0, 2, 3, 4] + 5
    second = 1 / 3 + 2 / 3 * np.cos(2 * np.pi / 7)
    for models, exact in ((wave, True), (start, False)):
        one = federation(DEVICES, Gossip("ring"), **still)
        one.round()
        one.state = replace(one.state, flight={**one.state.flight, "models": models})
        apart = np.sqrt(np.square(models - models.mean(axis=0)).sum(axis=1).mean())
        for _ in range(5):
            now = one.round().measures["consensus_distance"]
            assert now == pytest.approx(second * apart, rel=1e-9) or not exact
            assert now <= second * apart * (1 + 1e-12)
            np.testing.assert_allclose(one.parameters, models.mean(axis=0), rtol=1e-12)
            apart = now


def test_bytes_are_those_of_each_link_and_devices_wait_for_neighbours_alone():
    took = [1.0, 1, 1, 1, 1, 6]
    devices = [regression_device(n, rows=10, inputs=INPUTS, seed=1) for n in range(6)]
    for device, seconds in zip(devices, took, strict=True):
        device.profile = Profile(bandwidth=(4 * NBYTES + 24) / seconds, compute=1e300)
    one = federation(devices, Gossip("ring"), record="devices")
    report = one.round()
    assert report.measures["bytes_down"] == 6 * 2 * NBYTES  # six links, both ways
    assert report.measures["bytes_up"] == 6 * (2 * NBYTES + 24)
    assert report.devices["bytes_up"].tolist() == [2 * NBYTES + 24] * 6
    # The slow one's neighbours wait for it; theirs wait in the next round.
    np.testing.assert_allclose(one.state.flight["clock"], [6, 1, 1, 1, 6, 6], rtol=1e-9)
    measures = one.round().measures
    np.testing.assert_allclose(one.state.flight["clock"], [12, 7, 2, 7, 12, 12], rtol=1e-9)
    assert measures["seconds"] == pytest.approx(6, rel=1e-9)
    # Two who are no neighbours exchange nothing, and train by themselves.
    apart = federation(devices, Gossip("ring"), selection=Turns([1, 4])).round().measures
    assert (apart["bytes_down"], apart["bytes_up"]) == (0, 2 * 24)


def test_models_of_devices_are_measured_as_their_mean_is():
    always = {"dropout": 0.0, "availability": 1.0}
    devices = [replace_profile(device, **always).hold_out(0.4, seed=0) for device in wards()]
    one = softmax(devices, Gossip("ring"))
    one.run(3)
    own = one.validate(model="personal")
    for device, parameters in zip(one.devices, one.personal_parameters(), strict=True):
        loss = one.model.evaluate(parameters, *device.validation())["loss"]
        assert own.loc[device.id, "loss"] == pytest.approx(loss, rel=1e-6)
    mean = one.validate()
    last = one.history.last("validation_loss")
    assert last == pytest.approx(np.average(mean["loss"], weights=mean["rows"]), rel=1e-6)
    assert np.abs(mean["loss"] - own["loss"]).max() > 1e-3


def test_graphs_that_make_no_sense_are_refused():
    for schedule, why in (
        (Gossip("torus"), "7 devices make no torus"),
        (Gossip("regular"), "devices in a regular graph is 7; .* at least 9"),
    ):
        with pytest.raises(ValueError, match=why):
            federation(DEVICES, schedule)
    with pytest.raises(ValueError, match="weighs devices by 'uniform'"):
        federation(DEVICES, Gossip(), weights="rows")
    with pytest.raises(ChainError, match="sends models"):
        federation(DEVICES, Gossip(), updates=[TopK(0.5)])
    for wrong in ({"graph": "star"}, {"rings": 5}, {"rings": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Gossip(**wrong)
