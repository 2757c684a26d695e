"""Labels and metadata of the rows that were found: what owners agreed to give, and no more."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedlab.device.device import Device
from fedlab.index.vectorindex import VectorIndex
from fedlab.search import FederatedHits, FederatedSearch, Responding, private
from fedlab.search.describing import Describe, Described
from tests.helpers import normal

ROWS = 12
QUERIES = normal(5, 4, seed=9)
SEEN = pd.date_range("2020-01-01", periods=ROWS)


def ward(name: int | str, seed: int, **columns: Any) -> Device:
    index = VectorIndex(4, "l2sq")
    index.add(
        normal(ROWS, 4, seed=seed),
        keys=np.arange(ROWS) + 100 * seed,
        labels=[f"{name} ü{n}" for n in range(ROWS)],
        metadata={"age": np.arange(ROWS) + seed, "seen": SEEN, **columns},
    )
    return Device(name, index)


def wards() -> list[Device]:
    return [ward("A", 1), ward("B", 2), ward("C", 3)]


def searched(gives: list[list[str]], columns: list[str], **given: Any) -> FederatedHits:
    members = [Responding(w, gives=g) for w, g in zip(wards(), gives, strict=True)]
    return FederatedSearch(members, **given).search(QUERIES, 8, columns=columns)


def test_columns_are_those_of_the_rows_found_and_declining_is_said() -> None:
    hits = searched([["label", "age", "seen"], ["age"], []], ["label", "age", "seen"])
    assert hits.declined == {"B": ("label", "seen"), "C": ("label", "age", "seen")}
    indexes = {w.id: w.index for w in wards()}
    frame = hits.to_frame()
    assert set(frame.device) == {"A", "B", "C"}
    assert frame.columns.tolist() == ["query", "device", "key", "distance", "label", "age", "seen"]
    for row in frame.itertuples():
        index = indexes[row.device]
        about = index.metadata_of([row.key]).iloc[0]
        told = {"label": index.labels_of([row.key])[0], "age": about.age, "seen": about.seen}
        for name, value in told.items():
            kept = name in hits.declined.get(row.device, ())
            assert pd.isna(getattr(row, name)) if kept else getattr(row, name) == value
    assert frame.age.dtype == "Int64"
    plain = FederatedSearch(wards()).search(QUERIES, 8)
    np.testing.assert_array_equal(hits.keys, plain.keys)
    assert hits.certified.all()


def test_nothing_is_given_by_default() -> None:
    hits = FederatedSearch(wards()).search(QUERIES, 8, columns=["label"])
    assert hits.declined == {"A": ("label",), "B": ("label",), "C": ("label",)}
    assert hits.to_frame().label.isna().all()
    assert not FederatedSearch(wards()).search(QUERIES, 8).given


def encoded(message: Describe | Described) -> bytes:
    """The message as it would travel, written with struct alone."""
    parts = [message.nonce]
    if isinstance(message, Describe):
        parts.append(message.keys.astype("<u8").tobytes())
        for name in message.columns:
            parts += [struct.pack("<I", len(name.encode())), name.encode()]
        return b"".join(parts)
    for column in message.columns.values():
        if column is None:
            parts.append(b"-")
            continue
        parts.append(column.dtype.kind.encode())
        if column.dtype.kind == "U":
            for text in map(str.encode, column.tolist()):
                parts += [struct.pack("<I", len(text)), text]
        else:
            parts.append(column.tobytes())
    return b"".join(parts)


def test_the_ledger_counts_the_bytes_of_the_encoded_messages() -> None:
    sent: dict[str, list[tuple[str, str, int]]] = {"said": []}

    class Heard(Responding):
        def describe(self, request: Describe) -> Described:
            answer = super().describe(request)
            sent["said"] += [
                ("down", str(self.id), len(encoded(request))),
                ("up", str(self.id), len(encoded(answer))),
            ]
            return answer

    gives = [["label", "age", "seen", "ill"], ["age", "surname"], []]
    extra = {"ill": np.arange(ROWS) % 2 == 0, "surname": ["é" * n for n in range(ROWS)]}
    members = [
        Heard(ward(name, seed, **extra), gives=g)
        for name, seed, g in zip("ABC", (1, 2, 3), gives, strict=True)
    ]
    hits = FederatedSearch(members).search(
        QUERIES, 8, columns=["label", "age", "seen", "ill", "surname"]
    )
    frame = hits.ledger.to_frame().query("what in ('keys and columns', 'labels and metadata')")
    told = [(row.direction, row.device, row.bytes) for row in frame.itertuples()]
    assert sorted(told) == sorted(sent["said"])
    assert len(told) == 6


def test_a_row_that_several_queries_find_is_asked_for_once() -> None:
    asked = []

    class Heard(Responding):
        def describe(self, request: Describe) -> Described:
            asked.append(request.keys.tolist())
            return super().describe(request)

    member = Heard(ward("A", 1), gives=["label"])
    hits = FederatedSearch([member]).search(np.repeat(QUERIES[:1], 3, axis=0), 2, columns=["label"])
    assert asked == [sorted(hits.keys[0].tolist())]
    assert hits.given["label"][0].tolist() == hits.given["label"][2].tolist()


def test_a_column_that_is_agreed_to_and_missing_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'A' agrees to give 'agee', .*no such column"):
        searched([["agee"], [], []], ["agee"])
    unlabelled = Device("D", VectorIndex(4, "l2sq"))
    unlabelled.index.add(normal(3, 4))
    search = FederatedSearch([Responding(unlabelled, gives=["label"])])
    with pytest.raises(ValueError, match=r"'D' agrees to give 'label'"):
        search.search(QUERIES, 2, columns=["label"])
    # Of a column that a device has not agreed to, nobody learns whether it has it.
    assert searched([[], [], []], ["agee"]).declined["A"] == ("agee",)


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ("age", r"columns is 'age'; names go in a list"),
        (["age", "age"], "name each once"),
        ([3], "names are text"),
        (["key"], "'key', which stands for something else"),
    ],
)
def test_columns_that_are_no_names_are_refused(columns: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        FederatedSearch(wards()).search(QUERIES, 8, columns=columns)


def test_gives_that_is_one_name_is_refused() -> None:
    with pytest.raises(TypeError, match=r"gives is 'label'; names go in a list"):
        Responding(wards()[0], gives="label")


class Far:
    """A device beyond this process, with something in its way."""

    def __init__(self, change: Any) -> None:
        self.near, self._change = Responding(ward("far", 4), gives=["label", "age"]), change
        self.id, self.dimensions, self.metric = "far", 4, "l2sq"
        self.ask, self.show, self.commit = self.near.ask, self.near.show, self.near.commit

    def describe(self, request: Describe) -> Any:
        return self._change(self.near.describe(request))


def gone(_: Any) -> Any:
    raise ConnectionError("line is down")


def with_column(column: Any) -> Any:
    return lambda said: replace(said, columns={**said.columns, "age": column})


FALSE = {
    "gone": (gone, "line is down"),
    "nothing": (lambda _: None, "described rows with a NoneType"),
    "a replay": (lambda said: replace(said, nonce=b"0" * 16), "replay"),
    "a column less": (lambda said: replace(said, columns={}), "did not say of each"),
    "a flood": (with_column(np.zeros(10_000)), "one value a row"),
    "a list": (with_column([1, 2]), "one value a row"),
    "objects": (
        lambda said: with_column(np.full(len(said.columns["label"]), None))(said),
        "as object",
    ),
    "no text": (
        lambda said: with_column(np.full(len(said.columns["label"]), 2**31, np.uint32).view("<U1"))(
            said
        ),
        "text that is none",
    ),
}


@pytest.mark.parametrize("name", FALSE)
def test_a_device_that_leaves_or_sends_what_it_may_not_is_set_aside(name: str) -> None:
    change, reason = FALSE[name]
    members: list[Any] = [*(Responding(w, gives=["label"]) for w in wards()), Far(change)]
    hits = FederatedSearch(members).search(QUERIES, 8, columns=["label", "age"])
    assert reason in hits.set_aside["far"]
    plain = FederatedSearch(wards()).search(QUERIES, 8, columns=["label", "age"])
    np.testing.assert_array_equal(hits.keys, plain.keys)
    assert hits.to_frame().label.notna().all()


def test_a_far_device_gives_what_it_agreed_to() -> None:
    hits = FederatedSearch([Far(lambda said: said)]).search(  # type: ignore[list-item]
        QUERIES, 3, columns=["age", "label"]
    )
    assert not hits.set_aside
    assert not hits.declined
    assert hits.to_frame().age.notna().all()


def test_a_row_that_goes_between_the_answer_and_its_description_is_told() -> None:
    class Losing(Responding):
        def describe(self, request: Describe) -> Described:
            device.index.remove(request.keys[:1])
            return super().describe(request)

    device = ward("A", 1)
    with pytest.raises(KeyError, match=r"'A' doesn't hold the rows \d+ any more"):
        FederatedSearch([Losing(device, gives=["label"])]).search(QUERIES, 3, columns=["label"])


def test_a_respondent_without_describe_is_refused_where_columns_are_wanted() -> None:
    class Old:
        id, dimensions, metric = "old", 4, "l2sq"
        near = Responding(wards()[0])
        ask, show, commit = near.ask, near.show, near.commit

    assert len(FederatedSearch([Old()]).search(QUERIES, 3)) == 5  # type: ignore[list-item]
    with pytest.raises(TypeError, match="describe"):
        FederatedSearch([Old()]).search(QUERIES, 3, columns=["label"])  # type: ignore[list-item]


def test_private_searches_take_no_columns() -> None:
    shared = private.SharedIndex(wards())
    with pytest.raises(TypeError, match="columns"):
        shared.search(QUERIES, 3, columns=["label"])  # type: ignore[call-arg]
    agreed: list[Any] = [Responding(w, gives=["label"]) for w in wards()]
    for refusing in (
        private.SharedIndex,
        lambda m: private.kth_distances(m, QUERIES, 3),
        lambda m: private.vote(m, QUERIES, k=3, classes=["a"]),
    ):
        with pytest.raises(TypeError, match="type Responding was given, which has no index"):
            refusing(agreed)


def test_columns_come_after_rescoring_and_of_blocks_in_one_exchange(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fedlab.search.federated._QUERIES", 2)
    given = {"query": "i8", "rescore": 8}
    hits = searched([["label"]] * 3, ["label"], check="vectors", **given)
    frame = hits.ledger.to_frame().query("what == 'labels and metadata'")
    assert frame.device.is_unique
    assert (frame["round"] == hits.ledger.rounds).all()
    assert hits.to_frame().label.notna().all()
