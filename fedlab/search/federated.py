"""Exact search across devices, with a proof: the answer of one index that held all rows.

A hit's place in the answer is decided by (distance, device's place, key): distances are measured
in float64 by the device from its stored rows, in one order of summation, so equal rows are equally
far wherever they lie. Each device is first asked for k' < k hits.

*The proof.* A device's answer is the beginning of its rows in that order. Let z be the merged k-th
hit. A row that a device has not given comes after the last hit it gave. So if that last hit does
not come before z, or if the device has given all its rows, then nothing that it holds back comes
before z. If this is so for every device, no row of any device is missing from the k that were
merged. Where it is not, those devices are asked for k hits, for those queries alone; then each of
them has given k hits, none of its others can be among the k nearest, and the proof is complete.

Within a device, float32 products only choose which rows are measured in float64, with a margin for
all their errors (`fedlab.index.scan`), so what a device gives is exact and no margin is needed.

*What it rests on.* Devices that answer truthfully and by their exact scan. One that answers by a
graph, or that says so, voids the certificate. One that lies is noticed as `check` says:

========================== =================== =================== ===================
a device that              "none"              "vectors"           "commitment"
========================== =================== =================== ===================
sends NaN, wrong shapes,   set aside           set aside           set aside
repeated keys, too many
hits, replays, nothing
claims distances that      not noticed         set aside           set aside
its rows don't have
shows rows invented for    not noticed         not noticed         set aside
the query, or keys it
doesn't have
held false rows when it    not noticed         not noticed         not noticed
committed (hubs)
leaves rows out, or says   not noticed         not noticed         not noticed
that they are farther
========================== =================== =================== ===================

A replay is noticed by its nonce alone: an old answer under the new nonce is a false distance, and
noticed as such. "vectors" and "commitment" show the server the rows of the final hits: that is
what they cost, besides bytes.

What one device can take is bounded: its hits have a fixed place in memory, one outside this process
has `patience` seconds a message, and a search is done again at most once for each device caught.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.ledger import Ledger
from fedlab.core.threads import usable_threads
from fedlab.core.typing import F32, Bool, Places
from fedlab.core.validation import (
    distinct_names,
    of_kind,
    one_of,
    positive,
    read_only,
    require,
    whole_number,
    whole_or_none,
)
from fedlab.device.compatibility import in_common, require_several
from fedlab.device.device import Device
from fedlab.index.ingest import as_lengths, as_vectors
from fedlab.index.scan import as_distances
from fedlab.search import verification
from fedlab.search.answers import TAKEN, FederatedHits
from fedlab.search.commitment import Commitment
from fedlab.search.describing import Describe, Described, believed
from fedlab.search.exchange import Exchange
from fedlab.search.merging import Found, Gathered, copied
from fedlab.search.messages import Answer, Question, Remeasure, Remeasured, Request, Shown
from fedlab.search.options import Options
from fedlab.search.queries import PackedQueries
from fedlab.search.respondent import Respondent, Responding
from fedlab.search.routing import Router

Check = Literal["none", "vectors", "commitment"]
CHECKS = ("none", "vectors", "commitment")

_MANY = 1 << 20
_QUERIES = 4096  # asked at once, at most
_HITS = 1 << 22  # held at once (64 MB)


def first_asked(devices: int, k: int) -> int:
    """Return how many hits each device is asked for first: a choice by sizes alone.

    It is the least k' for which, if the k nearest rows lay on devices at random, at most .1 devices
    were expected to hold k' of them or more: D C(k, k') / D^k' <= .1.

    Examples
    --------
    >>> first_asked(devices=100, k=10), first_asked(devices=2, k=10), first_asked(devices=1, k=10)
    (3, 9, 10)
    """
    expected = float(devices)
    for asked in range(1, k):
        expected *= (k - asked + 1) / (asked * devices)
        if expected <= 0.1:
            return asked
    return k


class FederatedSearch:
    """Search over the rows of many devices, each answering through its own index.

    Parameters
    ----------
    devices : sequence of Device or Respondent
        Of one metric and number of dimensions; how they store rows may differ.
    first : int, optional
        Hits that each device is asked for first; `first_asked` by default. The answer does not
        depend on it, only what is sent does.
    exact : bool, optional
        How devices of this process answer, as in `VectorIndex.search`. By default they scan; a
        graph voids the certificate.
    check : {"none", "vectors", "commitment"}
        What devices have to show: nothing; the rows of the final hits; or these, and that they are
        the rows to which the device committed when this object was made.
    patience : float
        Seconds within which a device outside this process must answer a message.
    threads : int, optional
        Threads that devices of this process share; by default all processors. Results don't
        depend on them.
    router, ask : Router and int, optional
        Ask only so many devices, whose centroids are nearest to a query. The answer is then that of
        those devices together, and certified where they are all there are.
    query : {"f32", "f16", "bf16", "i8", "b1"}
        How queries travel. In fewer bits than f32 devices search for something else, and distances
        are to that; nothing is certified.
    rescore : int
        Where the query travels in fewer bits: how many of the best hits, k or more, are measured
        against it in full by the devices that hold them. That is one exchange more, which puts
        order and distances right, and finds neighbours that lay beyond the first k.
    ask_again : bool
        Whether devices that may hold more are asked again. If not, answers that lack the proof are
        as good as the first hits make them.

    Examples
    --------
    >>> from fedlab import Device, VectorIndex
    >>> east, north = VectorIndex(2, "l2sq"), VectorIndex(2, "l2sq")
    >>> keys = east.add([[1.0, 0.0], [2.0, 0.0]]), north.add([[0.0, 1.0]])
    >>> search = FederatedSearch([Device("east", east), Device("north", north)])
    >>> hits = search.search([1.0, 0.1], k=2)
    >>> hits.devices.tolist(), hits.keys.tolist(), hits.certified.tolist()
    ([[0, 0]], [[0, 1]], [True])
    """

    def __init__(
        self,
        devices: Sequence[Device | Respondent],
        *,
        first: int | None = None,
        exact: bool | None = True,
        check: Check = "none",
        patience: float = 30.0,
        threads: int | None = None,
        router: Router | None = None,
        ask: int | None = None,
        query: str = "f32",
        rescore: int = 0,
        ask_again: bool = True,
    ) -> None:
        one_of(check, CHECKS, "check")
        positive(patience=patience)
        require_several(devices)
        self._members = [_member(device, exact) for device in devices]
        self.devices = tuple(member.id for member in self._members)
        self.metric, self.dimensions = in_common(
            [(member.id, member.metric, member.dimensions) for member in self._members]
        )
        self._first = whole_or_none(first, "first", 1)
        self._options = Options(router, ask, query, rescore, ask_again)
        self._options.require(self.devices, self.metric, self.dimensions)
        for member in self._members if rescore else ():
            require(member, "a device", "measure")
        self._check = check
        workers = usable_threads() if threads is None else whole_number(threads, "threads", 1, 1024)
        self._exchange = Exchange(dict(enumerate(self._members)), workers, patience)
        self._commitments: dict[int, Commitment] = {}
        self._refused = self._commit() if check == "commitment" else {}

    def __repr__(self) -> str:
        return (
            f"FederatedSearch({len(self.devices)} devices, {self.dimensions} dimensions, "
            f"{self.metric}, check={self._check!r})"
        )

    def search(
        self, queries: ArrayLike, k: int, *, where: str | None = None, columns: Iterable[str] = ()
    ) -> FederatedHits:
        """Find the k nearest rows of all devices for each query, among all or those that pass.

        A device that is caught is set aside, and the search is done again without it; the
        certificate then speaks of the others. The ledger counts what was sent for both, but for
        answers that were refused, and for commitments (40 bytes a device, once).

        Parameters
        ----------
        queries : (q, d) or (d,) array
            Finite numbers; under cosine none of length zero.
        k : int
        where : str, optional
            A filter, as `VectorIndex.search` takes it, which travels with the queries: only rows
            that pass are meant, and the certificate speaks of those. All devices must know the
            columns that it names.
        columns : iterable of str
            What is wanted of the rows that are found: "label", and names of metadata. When the hits
            are certain, the devices that hold them are asked for just these, in one exchange more;
            a device gives what its owner agreed to (`Responding`), and `FederatedHits.declined`
            names the rest. The devices learn which of their rows were found.

        Returns
        -------
        FederatedHits

        Raises
        ------
        ValueError, TypeError
            If something is refused: a query, k, a filter (`fedlab.index.filters.FilterError`),
            columns; or if a device's rows don't have a column that it agreed to give.
        KeyError
            If a device of this process no longer holds a row that was found.
        """
        k = whole_number(k, "k", 1, _MANY)
        if where is not None:
            of_kind(where, str, "where, which across devices is text,")
        names = distinct_names(columns, "columns", TAKEN)
        for member in self._members if names else ():
            require(member, "a device", "describe")
        wanted = as_vectors(queries, self.dimensions, "queries")
        as_lengths(wanted, self.metric, "queries")
        sent, whom = self._options.sent(wanted, self.metric), self._options.whom(wanted)
        asked = sent.decoded()
        ledger, aside = Ledger(self.devices), dict(self._refused)
        self._options.note(ledger)
        while True:
            run = _Run(self, max(k, self._options.rescore), where, aside, ledger)
            try:
                parts = []
                for part in _blocks(len(sent), len(self.devices) * run.k):
                    found = run.answered(sent[part], None if whom is None else whom[part])
                    if self._options.rescore:
                        found = run.measured_again(wanted[part], found, k)
                    run.verify(wanted[part] if self._options.rescore else asked[part], found)
                    parts.append(found)
                hits = run.joined(parts)
                return run.described(hits, names) if names else hits
            except _Caught as caught:
                aside.update(caught.reasons)

    def _commit(self) -> dict[int, str]:
        def take(place: int, commitment: Any) -> str | None:
            flaw = verification.flaw_in_commitment(commitment)
            if flaw is None:
                self._commitments[place] = commitment
            return flaw

        everyone = range(len(self._members))
        return self._exchange(everyone, lambda _, member: member.commit(), take)


class _Caught(Exception):
    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(reasons)
        self.reasons = reasons


class _Run:
    """One search without those who were set aside so far."""

    def __init__(
        self,
        search: FederatedSearch,
        k: int,
        where: str | None,
        aside: Mapping[int, str],
        ledger: Ledger,
    ) -> None:
        self._search, self.k, self._where = search, k, where
        self._aside, self._ledger = aside, ledger
        self._places = [p for p in range(len(search.devices)) if p not in aside]
        self._before = ledger.rounds  # blocks of queries follow each other within the same rounds
        self._round = 0
        self._loose: set[int] = set()

    def answered(self, sent: PackedQueries, whom: Bool | None) -> Found:
        """Return the answer to a block of queries; `whom` is who is asked, (q, m), if not all."""
        self._round = self._before
        k, devices = self.k, len(self._search.devices)
        many = self._search._options.ask or max(len(self._places), 1)
        first = min(self._search._first or first_asked(many, k), k)
        gathered = Gathered.empty(devices, len(sent), first)
        if whom is None:
            question = self._question(sent, first)
            question.ready  # noqa: B018 - made once, before threads ask for it
            self._ask(dict.fromkeys(self._places, question), gathered, {})
        else:
            rows = {p: own for p in self._places if len(own := np.flatnonzero(whom[:, p]))}
            questions = {p: self._question(sent[own], first) for p, own in rows.items()}
            self._ask(questions, gathered, rows)
        found, unsure = gathered.merged(k)
        which = np.flatnonzero(unsure.any(axis=0))
        if len(which) and self._search._options.ask_again:
            found.put(which, self._asked_again(sent, gathered, unsure, which))
        if self._loose or not self._places or not self._search._options.exact:
            found.certified[:] = False
        if whom is not None:
            found.certified[:] &= whom[:, self._places].all(axis=1)
        return found

    def _asked_again(
        self, sent: PackedQueries, gathered: Gathered, unsure: Bool, which: Places
    ) -> Found:
        wide = gathered.widened(which, self.k)
        rows = {
            int(d): np.flatnonzero(unsure[d, which]) for d in np.flatnonzero(unsure.any(axis=1))
        }
        questions = {place: self._question(sent[which[own]], self.k) for place, own in rows.items()}
        self._ask(questions, wide, rows)
        return wide.merged(self.k)[0]

    def _question(self, sent: PackedQueries, k: int) -> Question:
        return Question(sent, k, self._search.metric, os.urandom(16), self._where)

    def _ask(
        self, questions: Mapping[int, Question], gathered: Gathered, rows: Mapping[int, Places]
    ) -> None:
        """Ask devices, and gather their hits: for all queries, or for a device's `rows` of them."""

        def take(place: int, answer: Answer) -> str | int:
            question = questions[place]
            if flaw := verification.flaw_in_form(answer, question):
                return flaw
            own = rows.get(place)
            # Judged are copies, which the device can't change.
            mine = gathered.put(place, answer) if own is None else copied(answer)
            if flaw := verification.flaw_in_answer(*mine, question.metric):
                return flaw
            if own is not None and (flaw := gathered.put_again(place, own, answer.exact, *mine)):
                return flaw
            if not answer.exact:
                self._loose.add(place)
            return question.bytes_of(int(mine[2].sum()))

        self._exchanged("ask", ("queries", questions), ("hits", take))

    def measured_again(self, queries: F32, found: Found, k: int) -> Found:
        """Have all hits measured against the full queries, and return the k nearest of each."""
        who, place = found.filled()
        holder, keys = found.devices[who, place], found.keys[who, place]
        mine = {device: np.flatnonzero(holder == device) for device in np.unique(holder).tolist()}
        requests = {}
        for device, held in mine.items():
            asking, which = np.unique(who[held], return_inverse=True)
            full = read_only(queries[asking])
            requests[device] = Remeasure(full, which, read_only(keys[held]), os.urandom(16))
        distances = np.empty(len(who))

        def take(place: int, measured: Remeasured) -> str | int:
            metric = self._search.metric
            if flaw := verification.flaw_in_distances(measured, requests[place], metric):
                return flaw
            distances[mine[place]] = measured.distances
            return measured.nbytes

        self._exchanged("measure", ("full queries and keys", requests), ("distances", take))
        return found.reordered(distances, len(self._search.devices), k)

    def verify(self, queries: F32, found: Found) -> None:
        """Have the rows of the final hits shown, where that is wanted, and measure them again."""
        if self._search._check == "none":
            return
        who, place = found.filled()
        holder = found.devices[who, place]
        requests, claims = {}, {}
        for device in np.unique(holder).tolist():
            mine = holder == device
            keys, which = np.unique(found.keys[who, place][mine], return_inverse=True)
            requests[device] = Request(read_only(keys), os.urandom(16))
            claims[device] = which, queries[who[mine]], found.distances[who, place][mine]

        def take(place: int, shown: Shown) -> str | int:
            flaw = verification.flaw_in_rows(
                *(shown, requests[place], claims[place], self._search.metric),
                self._search._commitments.get(place),
            )
            return flaw or shown.nbytes

        self._exchanged("show", ("keys", requests), ("rows", take))

    def described(self, hits: FederatedHits, columns: tuple[str, ...]) -> FederatedHits:
        """Ask for columns of the rows that were found, once each, of who holds them."""
        who, place = np.nonzero(hits.found)
        holder, keys = hits.devices[who, place], hits.keys[who, place]
        given = {name: np.full(hits.keys.shape, None, np.object_) for name in columns}
        requests, held, declined = {}, {}, dict[int, tuple[str, ...]]()
        for device in np.unique(holder).tolist():
            mine = holder == device
            distinct, which = np.unique(keys[mine], return_inverse=True)
            requests[device] = Describe(read_only(distinct), columns, os.urandom(16))
            held[device] = who[mine], place[mine], which

        def take(place: int, described: Described) -> str | int:
            if isinstance(said := believed(described, requests[place]), str):
                return said
            *cells, which = held[place]
            for name, column in said.columns.items():
                if column is not None:
                    given[name][tuple(cells)] = column.astype(np.object_)[which]
            if refused := tuple(name for name, c in said.columns.items() if c is None):
                declined[place] = refused
            return said.nbytes

        self._exchanged("describe", ("keys and columns", requests), ("labels and metadata", take))
        by_id = {hits.asked[place]: names for place, names in sorted(declined.items())}
        return replace(hits, given=given, declined=by_id)

    def _exchanged(
        self,
        door: str,
        sent: tuple[str, Mapping[int, Question | Remeasure | Request | Describe]],
        taken: tuple[str, Callable[[int, Any], str | int]],
    ) -> None:
        """Exchange messages with devices, by a method of theirs, and raise if any is caught.

        What is sent, and what is taken in, has a name in the ledger; taking in an answer says its
        bytes, or what is wrong with it.
        """
        (down, messages), (up, take) = sent, taken
        sizes: dict[int, int] = {}

        def noted(place: int, answer: Any) -> str | None:
            said = take(place, answer)
            if isinstance(said, str):
                return said
            sizes[place] = said
            return None

        def send(place: int, member: Respondent) -> Any:
            return getattr(member, door)(messages[place])

        self._round += 1
        self._note("down", down, {place: message.nbytes for place, message in messages.items()})
        faults = self._search._exchange(messages, send, noted)
        self._note("up", up, sizes)
        if faults:
            raise _Caught(faults)

    def _note(self, way: Literal["down", "up"], what: str, of: dict[int, int]) -> None:
        if of:
            places = sorted(of)
            sizes = [of[place] for place in places]
            self._ledger.note(self._round, way, what, sizes, places)

    def joined(self, parts: Sequence[Found]) -> FederatedHits:
        whole: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in Found.__annotations__
        }
        devices = self._search.devices
        whole["distances"] = as_distances(whole["distances"], self._search.metric)
        whole["devices"][np.isinf(whole["distances"])] = -1
        return FederatedHits(
            **whole,
            set_aside={devices[place]: why for place, why in sorted(self._aside.items())},
            ledger=self._ledger,
            approximate=tuple(devices[place] for place in sorted(self._loose)),
            asked=devices,
        )


def _blocks(queries: int, hits: int) -> Iterator[slice]:
    step = max(1, min(_QUERIES, _HITS // hits))
    for start in range(0, max(queries, 1), step):
        yield slice(start, start + step)


def _member(device: Device | Respondent, exact: bool | None) -> Respondent:
    if isinstance(device, Device):
        return Responding(device, exact)
    require(device, "a device", "id", "dimensions", "metric", "ask", "show", "commit")
    return device
