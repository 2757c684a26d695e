"""What hostile devices try, which check notices it, and what none of them does."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlab.device.device import Device
from fedlab.search import FederatedHits, FederatedSearch
from fedlab.search.commitment import Commitment, RowTree, opens
from fedlab.search.messages import Answer, Question, Request, Shown
from fedlab.search.respondent import Responding
from tests.helpers import DTYPES, METRICS, clustered, filled, normal

CHECKS = ("none", "vectors", "commitment")
ROWS = np.array_split(clustered(400, 8), 4)
QUERIES = clustered(12, 8, seed=5)


class Hostile:
    """An honest device, and what stands between it and the server."""

    def __init__(
        self,
        ask: Callable[[Answer, Question], Any] = lambda answer, _: answer,
        show: Callable[[Shown, Request], Any] = lambda shown, _: shown,
        metric: str = "l2sq",
    ) -> None:
        self.honest = Responding(Device("hostile", filled(ROWS[3], metric)))
        self.id, self.dimensions, self.metric = "hostile", 8, metric
        self._ask, self._show = ask, show

    def ask(self, question: Question) -> Answer:
        return self._ask(self.honest.ask(question), question)  # type: ignore[no-any-return]

    def show(self, request: Request) -> Shown:
        return self._show(self.honest.show(request), request)  # type: ignore[no-any-return]

    def commit(self) -> Commitment:
        return self.honest.commit()


def honest(metric: str = "l2sq") -> list[Device]:
    return [Device(place, filled(rows, metric)) for place, rows in enumerate(ROWS[:3])]


def searched(hostile: Any, check: str, k: int = 5, **given: Any) -> FederatedHits:
    devices = [*honest(hostile.metric), hostile]
    return FederatedSearch(devices, check=check, **given).search(QUERIES, k)  # type: ignore[arg-type]


def same(hits: FederatedHits, other: FederatedHits) -> bool:
    return bool((hits.keys == other.keys).all() and (hits.devices == other.devices).all())


def without(metric: str = "l2sq", k: int = 5) -> FederatedHits:
    return FederatedSearch(honest(metric)).search(QUERIES, k)


# -- answers that can't be true: noticed without any check -----------------------------------------


def changed(name: str, change: Callable[[NDArray[Any]], Any]) -> Callable[[Answer, Question], Any]:
    return lambda answer, _: replace(answer, **{name: change(getattr(answer, name))})


def first_of(value: Any) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array = array.copy()
        array[..., 0] = value
        return array

    return change


def twice(keys: NDArray[Any]) -> NDArray[Any]:
    keys = keys.copy()
    keys[:, -1] = keys[:, 0]
    return keys


def failing(*_: Any) -> Any:
    raise ConnectionError("line is down")


IMPOSSIBLE = {
    "NaN": (changed("distances", first_of(np.nan)), "NaN or inf"),
    "inf": (changed("distances", first_of(-np.inf)), "NaN or inf"),
    "negative": (changed("distances", first_of(-1.0)), "the metric doesn't have"),
    "out of order": (changed("distances", lambda d: d[:, ::-1].copy()), "out of order"),
    "one key twice": (changed("keys", twice), "same key twice"),
    "no key": (changed("keys", first_of(2**64 - 1)), "without a key"),
    "a flood": (changed("keys", lambda k: np.tile(k, (1, 1000))), r"shape \(12, 5000\)"),
    "too few queries": (changed("counts", lambda c: c[:3]), r"shape \(3,\)"),
    "counts beyond": (changed("counts", lambda c: c + 1), "beyond what it was asked for"),
    "counts below zero": (changed("counts", lambda c: c - 99), "below zero"),
    "float keys": (changed("keys", lambda k: k.astype(float)), "no array of uint64"),
    "lists": (changed("distances", lambda d: d.tolist()), "no array of float64"),
    "objects": (changed("distances", lambda d: d.astype(object)), "no array of float64"),
    "padding": (changed("counts", lambda c: c - 1), "beyond its count"),
    "nothing": (lambda *_: None, "answered with a NoneType"),
    "no word on exactness": (lambda answer, _: replace(answer, exact="yes"), "did not say"),
    "an exception": (failing, "ConnectionError: line is down"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_answers_are_set_aside(name: str) -> None:
    attack, reason = IMPOSSIBLE[name]
    hits = searched(Hostile(attack), "none", first=5)
    assert list(hits.set_aside) == ["hostile"]
    assert re.search(reason, hits.set_aside["hostile"])
    assert same(hits, without())
    assert hits.certified.all()  # of the others


def test_one_key_twice_among_many_is_noticed_too() -> None:
    hits = searched(Hostile(changed("keys", twice)), "none", k=40, first=40)
    assert "same key twice" in hits.set_aside["hostile"]
    assert not searched(Hostile(), "none", k=150, first=150).set_aside  # 100 rows: 50 places empty


def test_every_impossible_answer_is_noticed_for_each_device_at_once() -> None:
    devices: list[Any] = honest()
    for place, (attack, _) in enumerate(IMPOSSIBLE.values()):
        hostile = Hostile(attack)
        hostile.id = f"hostile {place}"
        devices.append(hostile)
    hits = FederatedSearch(devices, first=5).search(QUERIES, 5)
    assert len(hits.set_aside) == len(IMPOSSIBLE)
    assert hits.ledger.rounds == 2  # one with them, one without
    assert same(hits, without())


def test_a_replayed_answer_is_noticed_by_its_nonce() -> None:
    kept: list[Answer] = []

    def replay(answer: Answer, _: Question) -> Answer:
        kept.append(answer)
        return kept[0]

    search = FederatedSearch([*honest(), Hostile(replay)], first=5)
    assert not search.search(QUERIES, 5).set_aside
    assert "replay" in search.search(QUERIES[::-1], 5).set_aside["hostile"]


@pytest.mark.parametrize("check", CHECKS)
def test_an_old_answer_under_a_new_nonce_is_a_false_distance(check: str) -> None:
    kept: list[Answer] = []

    def replay(answer: Answer, question: Question) -> Answer:
        kept.append(answer)
        return replace(kept[0], nonce=question.nonce)

    search = FederatedSearch([*honest(), Hostile(replay)], first=5, check=check)  # type: ignore[arg-type]
    assert not search.search(ROWS[3][:6], 5).set_aside
    later = search.search(ROWS[3][6:12] + 1, 5)
    assert bool(later.set_aside) == (check != "none")


def test_a_device_that_changes_its_story_is_noticed() -> None:
    def attack(answer: Answer, question: Question) -> Answer:
        further = question.k > 1
        return replace(answer, distances=answer.distances * 0.5) if further else answer

    near = Hostile(attack)
    queries = ROWS[3][:5] + np.float32(0.01)
    hits = FederatedSearch([*honest(), near], first=1).search(queries, 5)
    assert "otherwise when it was asked again" in hits.set_aside["hostile"]


def test_a_silent_device_costs_its_patience_once() -> None:
    wake = Event()
    search = FederatedSearch(
        [*honest(), Hostile(lambda answer, _: wake.wait(20) and answer)], patience=0.3
    )
    began = time.monotonic()
    hits = search.search(QUERIES, 5)
    assert time.monotonic() - began < 5
    assert "did not answer within 0.3 seconds" in hits.set_aside["hostile"]
    assert same(hits, without())
    again = search.search(QUERIES, 5)
    assert "still not answered" in again.set_aside["hostile"]
    wake.set()


def test_an_answer_that_is_changed_after_it_was_given_changes_nothing() -> None:
    kept: list[Answer] = []

    def keep(answer: Answer, _: Question) -> Answer:
        kept.append(answer)
        return answer

    search = FederatedSearch([*honest(), Hostile(keep)], first=5)
    hits = search.search(ROWS[3][:5], 5)
    before = hits.distances.copy()
    for answer in kept:
        answer.distances[:] = -7
    np.testing.assert_array_equal(hits.distances, before)


@pytest.mark.parametrize("of", [lambda q: q.queries, lambda q: q.sent.codes])
def test_devices_cannot_write_to_the_queries_of_others(
    of: Callable[[Question], NDArray[Any]],
) -> None:
    def attack(answer: Answer, question: Question) -> Answer:
        of(question)[:] = 0
        return answer

    hits = searched(Hostile(attack), "none")
    assert "ValueError" in hits.set_aside["hostile"]
    assert same(hits, without())


def test_a_device_that_feigns_a_graph_voids_certificates_and_breaks_nothing() -> None:
    def attack(answer: Answer, question: Question) -> Answer:
        further = question.k > 1
        return replace(answer, distances=answer.distances + 1e6 * further, exact=False)

    hits = FederatedSearch([*honest(), Hostile(attack)], first=1).search(ROWS[3][:5] + 1, 5)
    assert hits.approximate == ("hostile",)
    assert not hits.certified.any()
    assert (hits.counts == 5).all()


class Trap(Answer):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("looked at")


def test_what_only_looks_like_an_answer_is_not_looked_at() -> None:
    hits = searched(Hostile(lambda *_: object.__new__(Trap)), "none")
    assert "answered with a Trap" in hits.set_aside["hostile"]


# -- answers that could be true: noticed by what is shown ------------------------------------------


def claiming(distance: float) -> Callable[[Answer, Question], Answer]:
    """Claim the same distance for the same rows whatever is asked: a story that it can keep up."""

    def attack(answer: Answer, _: Question) -> Answer:
        keys = np.tile(np.arange(answer.keys.shape[1], dtype=np.uint64), (len(answer.keys), 1))
        return replace(answer, distances=np.full(keys.shape, distance), keys=keys)

    return attack


@pytest.mark.parametrize(("check", "noticed"), [*zip(CHECKS, (False, True, True), strict=True)])
def test_false_distances(check: str, noticed: bool) -> None:
    hits = searched(Hostile(claiming(0.0)), check)
    assert bool(hits.set_aside) == noticed
    if noticed:
        assert "not at the distance it had claimed" in hits.set_aside["hostile"]
        assert same(hits, without())
    else:
        assert (hits.devices == 3).all()  # it takes over the whole answer


@pytest.mark.parametrize(("metric", "claimed"), [("cosine", 0.0), ("inner", -1e9)])
def test_false_distances_of_other_metrics(metric: str, claimed: float) -> None:
    hostile = Hostile(claiming(claimed), metric=metric)
    assert (searched(hostile, "none").devices == 3).all()
    hits = searched(hostile, "vectors")
    assert "hostile" in hits.set_aside
    assert same(hits, without(metric))


def inventing() -> Hostile:
    """A device that makes up a row equal to the query, and shows it when asked."""
    invented: dict[int, NDArray[np.float32]] = {}

    def ask(answer: Answer, question: Question) -> Answer:
        invented.update(enumerate(question.queries, 10_000))
        keys = answer.keys.copy()
        keys[:, 0] = 10_000 + np.arange(len(keys))
        distances = answer.distances.copy()
        distances[:, 0] = 0
        return replace(answer, keys=keys, distances=distances)

    def show(request: Request) -> Shown:
        index = hostile.honest._index
        rows = [invented[k] if k in invented else index.get(k)[0] for k in request.keys.tolist()]
        known = [k if k in index else int(index.keys[0]) for k in request.keys.tolist()]
        honest = hostile.honest.show(Request(np.array(known, np.uint64), request.nonce))
        return replace(honest, rows=np.array(rows))

    hostile = Hostile(ask)
    hostile.show = show  # type: ignore[method-assign]
    return hostile


@pytest.mark.parametrize(("check", "noticed"), [*zip(CHECKS, (False, False, True), strict=True)])
def test_rows_invented_for_the_query(check: str, noticed: bool) -> None:
    hits = searched(inventing(), check)
    assert bool(hits.set_aside) == noticed
    if noticed:
        assert "not the one it had committed to" in hits.set_aside["hostile"]
        assert same(hits, without())
    else:
        assert (hits.keys[:, 0] >= 10_000).all()


@pytest.mark.parametrize("check", CHECKS)
def test_hubs_held_from_the_start_are_noticed_by_none(check: str) -> None:
    # A row in the middle of all is near to everything, and it is what was committed to.
    hub = Device("hostile", filled(np.repeat(QUERIES.mean(axis=0)[None], 5, axis=0), "l2sq"))
    far = [Device(place, filled(rows + 9, "l2sq")) for place, rows in enumerate(ROWS[:3])]
    hits = FederatedSearch([*far, hub], check=check).search(QUERIES, 3)  # type: ignore[arg-type]
    assert not hits.set_aside
    assert (hits.devices == 3).mean() > 0.5


@pytest.mark.parametrize("check", CHECKS)
def test_rows_left_out_are_noticed_by_none(check: str) -> None:
    def attack(answer: Answer, question: Question) -> Answer:
        whole = hostile.honest.ask(replace(question, k=question.k + 1))
        return replace(answer, distances=whole.distances[:, 1:], keys=whole.keys[:, 1:])

    hostile = Hostile(attack)
    devices = [*honest(), hostile]
    hits = FederatedSearch(devices, check=check, first=5).search(ROWS[3][:8], 5)  # type: ignore[arg-type]
    assert not hits.set_aside
    true = FederatedSearch([*honest(), hostile.honest], first=5).search(ROWS[3][:8], 5)
    assert not same(hits, true)


def test_rows_exchanged_after_the_commitment_are_noticed() -> None:
    index = filled(ROWS[3], "l2sq")
    search = FederatedSearch([*honest(), Device("hostile", index)], check="commitment")
    assert not search.search(QUERIES, 5).set_aside
    index.remove(index.keys)
    for first_key in (0, 10_000):
        index.add(QUERIES, keys=range(first_key, first_key + len(QUERIES)))
        hits = search.search(QUERIES, 5)
        assert "committed" in hits.set_aside["hostile"]
        index.remove(index.keys)


@pytest.mark.parametrize(
    ("show", "reason"),
    [
        (lambda *_: None, "showed a NoneType"),
        (failing, "ConnectionError"),
        (lambda shown, _: replace(shown, nonce=b"0" * 16), "replay"),
        (lambda shown, _: replace(shown, rows=shown.rows[:, :3]), "no float32 rows"),
        (lambda shown, _: replace(shown, rows=shown.rows * np.nan), "no index holds"),
        (lambda shown, _: replace(shown, rows=shown.rows + 1), "committed to"),
        (lambda shown, _: replace(shown, openings=()), "committed to"),
        (lambda shown, _: replace(shown, openings=(b"1",) * len(shown.rows)), "committed to"),
    ],
)
def test_rows_that_are_shown_wrongly(show: Any, reason: str) -> None:
    devices = [*honest(), Hostile(show=show)]
    hits = FederatedSearch(devices, check="commitment").search(ROWS[3][:4], 5)
    assert reason in hits.set_aside["hostile"]
    assert (hits.devices < 3).all()


def test_without_a_commitment_a_device_is_never_asked() -> None:
    hostile = Hostile()
    hostile.commit = lambda: Commitment(b"short", 3)  # type: ignore[method-assign]
    hits = searched(hostile, "commitment")
    assert "not 32 bytes" in hits.set_aside["hostile"]
    assert "hostile" not in set(hits.ledger.to_frame()["device"])
    assert same(hits, without())


def test_checks_find_nothing_in_honest_answers_and_cost_bytes() -> None:
    ledgers = {}
    for check in CHECKS:
        for dtype, metric in zip(DTYPES, (*METRICS, *METRICS), strict=False):
            devices = [Device(p, filled(rows, metric, dtype)) for p, rows in enumerate(ROWS)]
            hits = FederatedSearch(devices, check=check).search(QUERIES, 5)  # type: ignore[arg-type]
            assert not hits.set_aside
            assert hits.certified.all()
        ledgers[check] = hits.ledger.up
        assert ("rows" in set(hits.ledger.to_frame()["what"])) == (check != "none")
    devices = [Device(p, filled(rows, "l2sq")) for p, rows in enumerate(ROWS)]
    for check, first, rounds in (("none", 5, 1), ("vectors", 5, 2), ("vectors", 1, 3)):
        search = FederatedSearch(devices, check=check, first=first)  # type: ignore[arg-type]
        assert search.search(QUERIES, 5).ledger.rounds == rounds
    assert ledgers["none"] < ledgers["vectors"] < ledgers["commitment"]


def test_if_nobody_is_left_nothing_is_certified() -> None:
    hits = FederatedSearch([Hostile(failing)]).search(QUERIES, 2)
    assert hits.counts.tolist() == [0] * len(QUERIES)
    assert not hits.certified.any()


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 13])
def test_a_tree_opens_its_rows_and_nothing_else(rows: int) -> None:
    keys, data = np.arange(rows, dtype=np.uint64) * 7, normal(rows, 3)
    tree = RowTree(keys, data)
    for place, (opening, key) in enumerate(zip(tree.openings(keys), keys.tolist(), strict=True)):
        assert opens(tree.commitment, key, data[place], opening)
        assert not opens(tree.commitment, key + 1, data[place], opening)
        assert not opens(tree.commitment, key, data[place] + 1, opening)
        assert not opens(tree.commitment, key, data[place], replace(opening, place=rows))
        assert not opens(
            tree.commitment, key, data[place], replace(opening, path=(*opening.path, bytes(32)))
        )
        assert not opens(tree.commitment, key, data[place], replace(opening, salt=bytes(16)))
    other = RowTree(keys, data)
    assert other.commitment.root != tree.commitment.root  # salts: a root tells nothing of the rows
    with pytest.raises(KeyError):
        tree.openings(np.uint64([1]))
