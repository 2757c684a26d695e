"""Secure sums between nodes: devices that drop out of any message, and what is told once."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from fedlab.deploy import deployed, messages
from tests.deploy.parties import EXPERIMENT, Direct, folders, nodes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return folders(tmp_path_factory.mktemp("nodes"))


class Watched(Direct):
    """A link on which some devices do not answer messages of a kind, and all is written down."""

    def __init__(self, nodes, silent=(), kind=None, back=None):
        super().__init__(nodes)
        self.silent, self.kind, self.back, self.seen = silent, kind, back, []

    def send(self, device, kind, data):
        if kind == self.kind and device in self.silent:
            answer = Future()
            if self.back is None:
                answer.set_exception(ConnectionError("it is gone"))
            else:
                told = messages.unpacked(super().send(device, kind, data).result())
                answer.set_result(messages.packed(self.back(told)))
            return answer
        answer = super().send(device, kind, data)
        self.seen.append((device, kind, data, answer.result()))
        return answer


def after(made, way, *, silent=(), kind=None, back=None, rounds=1):
    federation = deployed(Watched(nodes(made), silent, kind, back), EXPERIMENT, way=way)
    for _ in range(rounds):
        federation.round()
    return federation


def last(federation, metric):
    return [*federation.history.points(metric)][-1][1]


def texts(federation):
    return federation.history.remarks().text.tolist()


@pytest.mark.parametrize("kind", ["train", "share", "mask"])
def test_who_drops_out_before_it_sends_is_named_and_the_sum_is_that_of_the_others(made, kind):
    masked = after(made, "masked rows", silent=[7], kind=kind)
    plain = after(made, "clipped", silent=[7], kind="train")
    assert texts(masked) == ["left out: ConnectionError: it is gone"]
    assert masked.history.remarks().who.tolist() == ["7"]
    step = 2.0 ** (2 - 24)
    np.testing.assert_allclose(masked.parameters, plain.parameters, atol=3 * step)
    assert last(masked, "devices") == 2
    assert last(masked, "rows") == last(plain, "rows")
    np.testing.assert_allclose(last(masked, "train_loss"), last(plain, "train_loss"), atol=1e-7)


def test_who_drops_out_after_it_has_sent_is_in_the_sum(made):
    whole, one = after(made, "masked rows"), after(made, "masked rows", silent=[7], kind="tell")
    assert one.parameters.tobytes() == whole.parameters.tobytes()
    assert last(one, "dropped") == 1
    assert texts(one) == []


@pytest.mark.parametrize("kind", ["train", "share", "mask", "tell"])
def test_too_few_devices_tell_no_sum_and_the_next_round_is_whole(made, kind):
    link = Watched(nodes(made), [7, "ward 1"], kind)
    federation = deployed(link, EXPERIMENT, way="masked rows")
    before = federation.parameters
    federation.round()
    assert (federation.parameters == before).all()
    assert any("skipped" in text for text in texts(federation))
    link.kind = None
    federation.round()
    assert (federation.parameters != before).any()
    assert last(federation, "devices") == 3


def test_the_server_is_told_rows_and_keys_then_nothing_but_what_is_masked(made):
    first, second = Watched(nodes(made)), Watched(nodes(made))
    for link in (first, second):
        deployed(link, EXPERIMENT, way="masked rows").round()
    told = [messages.unpacked(answer) for _, kind, _, answer in first.seen if kind == "train"]
    assert {frozenset(one) for one in told} == {
        frozenset({"nonce", "round", "rows", "epochs", "sum", "publics"})
    }
    one, other = (
        [messages.unpacked(a)["masked"] for _, kind, _, a in link.seen if kind == "mask"]
        for link in (first, second)
    )
    for mine, again in zip(one, other, strict=True):  # the same numbers under other masks
        assert np.mean(mine[0] == again[0]) < 0.02
        assert (mine[1] != again[1]).any()
    assert len(one) == 3


@pytest.mark.parametrize("kind", ["share", "mask", "tell"])
def test_a_message_is_answered_once(made, kind):
    link = Watched(nodes(made))
    deployed(link, EXPERIMENT, way="masked rows").round()
    again = {node.device.id: node for node in nodes(made)}  # as after a restart
    for device, way, data, _ in link.seen:
        if way == kind:
            told = messages.unpacked(again[device].answer(kind, data))
            assert "answered that message of a sum before" in told["failed"]
    for folder, _ in made.values():
        assert not (folder / "kept" / "sum").exists()


def altered(told):
    first = next(iter(told["shares"]))
    data = told["shares"][first]
    return {**told, "shares": {**told["shares"], first: bytes([data[0] ^ 1]) + data[1:]}}


@pytest.mark.parametrize(
    ("kind", "back", "says"),
    [
        ("train", lambda told: {**told, "rows": 0}, "0 rows"),
        ("train", lambda told: {**told, "publics": [b"1", b"2"]}, "public keys are none"),
        ("train", lambda told: {**told, "round": 9}, "an answer of round 9"),
        ("share", lambda told: {**told, "shares": {}}, "other shares"),
        ("mask", lambda told: {**told, "masked": told["masked"][:1]}, "zip"),
        ("mask", lambda told: {**told, "blocks": {"change": (3, "<f4")}}, "are needed"),
        ("mask", lambda told: {**told, "averaged": ["more"]}, "another form"),
        (
            "mask",
            lambda told: {**told, "masked": [told["masked"][0][:-1], told["masked"][1]]},
            "form",
        ),
    ],
)
def test_what_does_not_fit_is_set_aside_with_the_reason(made, kind, back, says):
    federation = after(made, "masked rows", silent=[7], kind=kind, back=back)
    [text] = texts(federation)
    assert says in text
    assert last(federation, "devices") == 2
    assert np.isfinite(federation.parameters).all()


def test_an_altered_share_is_noticed_by_the_device_that_it_is_for(made):
    federation = after(made, "masked rows", silent=[7], kind="share", back=altered)
    assert any("CryptoError" in text for text in texts(federation))
    assert last(federation, "devices") == 2


def test_what_is_kept_beside_a_sum_stays_at_nodes(made):
    federation = after(made, "masked sketch", rounds=2)
    assert federation.state.kept.names == ["kept at nodes"]
    for folder, _ in made.values():
        assert all(f.read_bytes().startswith(b"FEDLABSL") for f in (folder / "kept").iterdir())


def test_devices_share_noise_and_a_round_with_too_few_is_given_up(made):
    noisy, plain = after(made, "masked noise"), after(made, "clipped")
    # Parts of three devices, each of 4 / sqrt(2) of what one may move the mean by.
    gap = noisy.parameters - plain.parameters
    assert 0.5 < gap.std() / (4 / np.sqrt(2) * np.sqrt(3) / 3) < 1.5
    assert last(noisy, "epsilon") > 0
    few = after(made, "masked noise", silent=[7, "ward 1"], kind="mask")
    assert any("noise counts on 2 devices, and 1 sent theirs" in text for text in texts(few))
    assert last(few, "epsilon") == last(noisy, "epsilon")


def test_bytes_on_the_way_are_those_of_the_ledger(made):
    federation = after(made, "masked rows")
    up = sum(one.received for one in federation.where.traffic if one.kind in {"mask"})
    numbers = 3 * (-(-len(federation.parameters) * 24 // 8) + 16)
    assert numbers < up < numbers + 3 * 1500
