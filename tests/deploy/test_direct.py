"""The same messages without a network: bits, what nodes keep, and what is not believed."""

from __future__ import annotations

import copy
import re
import runpy
from concurrent.futures import Future

import numpy as np
import pytest

from fedlab import MLP, Federation
from fedlab.deploy import MessageError, Node, deployed, messages, respondents
from fedlab.deploy.__main__ import main
from fedlab.deploy.server import refuse_odd
from fedlab.files.keys import Key
from fedlab.search import FederatedSearch
from fedlab.updates import ChainError
from tests.deploy.parties import EXPERIMENT, IDS, Direct, folders, here, nodes

EXPERIMENTS = runpy.run_path(str(EXPERIMENT))
#: What a network does not carry, and what is said of it.
REFUSED = {
    "dropping": "leave out drops=",
    "noised": "protects nobody",
}
NOISY = "private", "masked noise"
WAYS = [way for way in EXPERIMENTS["WAYS"] if way not in {*REFUSED, *NOISY}]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return folders(tmp_path_factory.mktemp("nodes"))


class Meddling(Direct):
    """A link on which something happens to messages to, or from, one device."""

    def __init__(self, nodes, device, to=None, back=None):
        super().__init__(nodes)
        self.device, self.to, self.back, self.kinds = device, to, back, ("train",)

    def send(self, device, kind, data):
        if device != self.device or kind not in self.kinds:
            return super().send(device, kind, data)
        if self.to is not None:
            data = messages.packed(self.to(messages.unpacked(data)))
        answer = super().send(device, kind, data)
        if self.back is None:
            return answer
        changed = Future()
        try:
            told = self.back(messages.unpacked(answer.result()))
            changed.set_result(told if isinstance(told, bytes) else messages.packed(told))
        except Exception as error:
            changed.set_exception(error)
        return changed


def simulated(made, way="plain", rounds=3):
    federation = EXPERIMENTS["federation"](here(made), way=way)
    for _ in range(rounds):
        federation.round()
    return federation


# -- the same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_parameters_and_measures_are_those_of_the_simulation(made, way):
    apart, together = deployed(Direct(nodes(made)), EXPERIMENT, way=way), simulated(made, way)
    for _ in range(3):
        report = apart.round()
    assert apart.parameters.tobytes() == together.parameters.tobytes()
    assert apart.history.to_frame().equals(together.history.to_frame())
    assert report.measures["devices"] >= 2
    assert apart.validate().equals(together.validate())


def test_metrics_of_scores_go_by_name(made):
    apart, together = deployed(Direct(nodes(made)), EXPERIMENT), simulated(made)
    apart.run(3)
    wanted = {"mean F1": "f1", "auc": "auc"}
    assert apart.validate(wanted).equals(together.validate(wanted))
    with pytest.raises(ValueError, match="'brier' is a function, which does not travel"):
        apart.validate({"brier": lambda y, scores: 0.0})
    with pytest.raises(ValueError, match="metric"):
        apart.validate("acu")
    with pytest.warns(UserWarning, match="is no measure of classes") as heard:
        frame = apart.validate(["r2"])
    assert frame.r2.isna().all()
    assert len(heard) == 1


@pytest.mark.parametrize("told", [{"scores": 3}, {"scores": {"auc": ["high", ""]}}, {}, b"torn"])
def test_scores_that_are_none_are_told_as_missing(made, told):
    def back(said):
        return told if isinstance(told, bytes) else {"nonce": said["nonce"], **told}

    link = Meddling(nodes(made), 7, back=back)
    link.kinds = ("score",)
    federation = deployed(link, EXPERIMENT)
    with pytest.warns(UserWarning, match="device 7: "):
        frame = federation.validate("auc")
    assert frame.auc.isna().tolist() == (frame.index == 7).tolist()


def test_order_and_threads_of_nodes_change_nothing(made):
    others = list(reversed(nodes(made)))
    apart = deployed(Direct(others), EXPERIMENT, way="scaffold")
    apart.run(3)
    assert apart.parameters.tobytes() == simulated(made, "scaffold").parameters.tobytes()


@pytest.mark.parametrize("way", ["sign", "qsgd", "lowrank", "random", "feedback"])
def test_what_a_codec_codes_is_what_travels(made, way):
    federation = deployed(Direct(nodes(made)), EXPERIMENT, way=way)
    federation.run(2)
    up = sum(nbytes for kind, _, _, nbytes, _ in federation.where.traffic if kind == "train")
    said = federation.history.to_frame().query("metric == 'bytes_up'").value.sum()
    sent = len([1 for kind, *_ in federation.where.traffic if kind == "train"])
    assert said < up < said + 1100 * sent  # the rest is names, shapes and digests


# -- what stays at nodes --------------------------------------------------------------------------


def test_what_devices_keep_stays_there_sealed(made):
    federation = deployed(Direct(nodes(made)), EXPERIMENT, way="fedper")
    federation.run(1)
    assert federation.state.kept.names == ["kept at nodes"]
    _, names = federation.state.kept.column("kept at nodes")
    assert names.shape == (3, 16)
    for folder, _ in made.values():
        files = list((folder / "kept").iterdir())
        assert files
        assert all(file.stat().st_mode & 0o077 == 0 for file in files)
        assert all(file.read_bytes().startswith(b"FEDLABSL") for file in files)
        with pytest.raises(ValueError, match="sealed under"):
            Node(folder, Key.generate())


def test_a_round_that_is_done_again_counts_once(made, tmp_path):
    path = tmp_path / "run"
    one = deployed(Direct(nodes(made)), EXPERIMENT, way="scaffold")
    one.run_to(2, path)
    one.round()  # a server that ends before it has saved
    again = deployed(Direct(nodes(made)), EXPERIMENT, way="scaffold")
    again.run_to(4, path)
    whole = simulated(made, "scaffold", 4)
    assert again.parameters.tobytes() == whole.parameters.tobytes()


def test_a_simulation_does_not_go_on_from_a_file_that_names_what_nodes_keep(made, tmp_path):
    path = tmp_path / "run"
    deployed(Direct(nodes(made)), EXPERIMENT, way="scaffold").run_to(1, path)
    with pytest.raises(ValueError, match="of another run: its where"):
        simulated(made, "scaffold", 0).load(path)


# -- what is refused, and what is set aside -------------------------------------------------------


@pytest.mark.parametrize("way", REFUSED)
def test_what_no_network_carries_is_refused_with_the_reason(made, way):
    with pytest.raises(ChainError, match=REFUSED[way]):
        deployed(Direct(nodes(made)), EXPERIMENT, way=way)


def wrong_version(told):
    return {**told, "versions": {**told["versions"], "numpy": "1.0"}}


def wrong_experiment(told):
    return {**told, "experiment": {**told["experiment"], "digest": "0" * 64}}


def wrong_plan(told):
    return {**told, "plan": {**told["plan"], "seed": "9"}}


@pytest.mark.parametrize(
    ("meddling", "says"),
    [
        ({"to": wrong_version}, "numpy 2.* .the server 1.0"),
        ({"to": wrong_experiment}, "experiment.py here is .*, the server's 0000"),
        ({"back": wrong_plan}, "another plan: seed 9 .the server 3"),
        ({"back": lambda told: {**told, "id": "ward 9"}}, "its node says that it is 'ward 9'"),
    ],
)
def test_a_node_of_another_kind_is_left_out_by_name(made, meddling, says):
    link = Meddling(nodes(made), "ward 2", **meddling)
    link.kinds = ("hello",)
    with pytest.warns(UserWarning, match="devices are left out: .*ward 2"):
        federation = deployed(link, EXPERIMENT)
    [remark] = federation.history.remarks().itertuples()
    assert (remark.round, remark.who) == (0, "ward 2")
    assert remark.text.startswith("left out: ")
    assert re.search(says, remark.text)
    assert [device.id for device in federation.devices] == [7, "ward 1"]
    federation.round()


def test_those_that_stay_have_the_places_of_a_run_without_the_other(made):
    link = Meddling(nodes(made), 7, to=wrong_version)
    link.kinds = ("hello",)
    with pytest.warns(UserWarning, match="left out"):
        apart = deployed(link, EXPERIMENT, way="fedper")
    assert [device.id for device in apart.devices] == ["ward 1", "ward 2"]
    apart.round()
    devices = [device for device in here(made) if device.id != 7]
    together = EXPERIMENTS["federation"](devices, way="fedper")
    together.round()
    assert apart.parameters.tobytes() == together.parameters.tobytes()


def change(told, **of):
    block = {**told["blocks"]["change"], **of}
    return {**told, "blocks": {**told["blocks"], "change": block}}


def nan(told):
    row = told["blocks"]["change"]["row"].copy()
    row[3] = np.nan
    return change(told, row=row)


@pytest.mark.parametrize(
    ("back", "says"),
    [
        (nan, "NaN or inf"),
        (lambda told: change(told, row=np.zeros(3, np.float32)), "float32 of shape"),
        (lambda told: change(told, width=1 << 40), "needed"),
        (lambda told: change(told, type="<f8"), "needed"),
        (lambda told: change(told, coded=True), "has no codec"),
        (lambda told: {**told, "round": 0}, "an answer of round 0, in round 1"),
        (lambda told: {**told, "nonce": "00"}, "another message"),
        (lambda told: {**told, "blocks": {}}, "another form"),
        (lambda told: {**told, "stats": {**told["stats"], "loss": np.inf}}, "NaN or inf"),
        (lambda told: {**told, "weighed": {"change": 1e9}}, "another form"),
        (lambda told: {}, "another message"),
        (lambda told: b"\x80\x04K\x01.", "no message of this library"),
        (lambda told: b"FEDLABMS" + bytes(100), "torn or altered"),
        (lambda told: {"failed": "it is late"}, "it is late"),
        (lambda told: 1 / 0, "division by zero"),
    ],
)
def test_what_can_t_be_used_is_set_aside_with_the_reason(made, back, says):
    federation = deployed(Meddling(nodes(made), 7, back=back), EXPERIMENT)
    with pytest.warns(UserWarning, match="1 remarks"):
        federation.run(1)
    [remark] = federation.history.remarks().itertuples()
    assert (remark.round, remark.who) == (1, "7")
    assert says in remark.text
    assert next(iter(federation.history.points("devices")))[1] == 2
    assert np.isfinite(federation.parameters).all()


def test_a_message_that_is_too_long_is_not_opened(made, monkeypatch):
    monkeypatch.setattr(messages, "LARGEST", 5000)
    with pytest.raises(MessageError, match="6,"):
        messages.unpacked(bytes(6000), 5000)
    with pytest.raises(RuntimeError, match="no node can take part"):
        deployed(Meddling(nodes(made)[:1], IDS[0]), EXPERIMENT, filler="x" * 6000)


def test_a_node_that_is_silent_costs_no_more_than_the_patience(made):
    class Silent(Direct):
        def send(self, device, kind, data):
            return Future() if (device, kind) == (7, "train") else super().send(device, kind, data)

    federation = deployed(Silent(nodes(made)), EXPERIMENT, patience=1.0)
    federation.round()
    assert "no answer within 1 seconds" in federation.history.remarks().text[0]


def test_noise_is_released_where_nobody_answers(made):
    class Silent(Direct):
        def send(self, device, kind, data):
            return Future() if kind == "train" else super().send(device, kind, data)

    federation = deployed(Silent(nodes(made)), EXPERIMENT, patience=0.5, way="private")
    before = federation.parameters
    federation.round()
    assert (federation.parameters != before).all()
    assert len(federation.history.remarks()) == 4  # three, and what the noise is worth


def test_rows_are_asked_for_where_they_are(made):
    federation = deployed(Direct(nodes(made)), EXPERIMENT)
    with pytest.raises(ValueError, match="at its node"):
        federation.devices[0].training()
    with pytest.raises(AttributeError, match="index of device 7 is at its node"):
        federation.devices[0].erase([1])
    assert copy.deepcopy(federation.devices[0]).index.dimensions == 64


def test_weights_by_ids_that_nodes_do_not_know_are_refused(made):
    devices = here(made)
    federation = Federation(devices, MLP(64, (8,), 10), weights=dict.fromkeys(made, 1.0))
    with pytest.raises(ChainError, match="a function of the device"):
        refuse_odd(federation.plan)


def test_the_command_says_where_no_bed_is(tmp_path, capsys):
    for way in ("status", "down"):
        with pytest.raises(SystemExit):
            main(["--bed", str(tmp_path), way])
        assert "start one with `up`" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# -- search ---------------------------------------------------------------------------------------


def test_search_is_certified_and_its_ledger_the_same(made):
    federation = deployed(Direct(nodes(made)), EXPERIMENT)
    apart = FederatedSearch(respondents(Direct(nodes(made)), federation), check="vectors")
    devices = sorted(here(made), key=lambda device: str(device.id))
    together = FederatedSearch(devices, check="vectors")
    queries = devices[0].index.vectors[:20] + 0.1
    for how in ({}, {"where": "label > 4"}):
        one, other = (s.search(queries, 5, columns=["label"], **how) for s in (apart, together))
        assert one.keys.tolist() == other.keys.tolist()
        assert one.devices.tolist() == other.devices.tolist()
        assert one.certified.all()
        sent = [ledger.to_frame() for ledger in (one.ledger, other.ledger)]
        assert (
            sent[0]
            .query("what != 'labels and metadata'")
            .equals(sent[1].query("what != 'labels and metadata'"))
        )
    labels = {device.id: device.index.labels_of for device in devices}
    assert one.given["label"][0][0] == labels[one.asked[one.devices[0, 0]]]([one.keys[0, 0]])[0]


@pytest.mark.parametrize(("query", "rescore"), [("f16", 0), ("i8", 10), ("b1", 20)])
def test_a_search_in_fewer_bits_is_that_of_one_process(made, query, rescore):
    federation = deployed(Direct(nodes(made)), EXPERIMENT)
    devices = sorted(here(made), key=lambda device: str(device.id))
    queries = devices[0].index.vectors[:20] + 0.1
    one, other = (
        FederatedSearch(of, query=query, rescore=rescore).search(queries, 5)
        for of in (respondents(Direct(nodes(made)), federation), devices)
    )
    assert not one.set_aside
    assert one.keys.tolist() == other.keys.tolist()
    assert one.distances.tolist() == other.distances.tolist()
    assert one.ledger.to_frame().equals(other.ledger.to_frame())
