"""The device's side of a search."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlab.core.validation import distinct_names
from fedlab.device.device import Device
from fedlab.index.answers import Hits
from fedlab.index.filters import FilterError
from fedlab.index.ingest import KEY_LIMIT, some
from fedlab.index.metadata import metadata_in
from fedlab.index.scan import ordering
from fedlab.search.commitment import Commitment, RowTree
from fedlab.search.describing import Describe, Described
from fedlab.search.messages import Answer, Question, Remeasure, Remeasured, Request, Shown


class Respondent(Protocol):
    """A device as the server meets it."""

    @property
    def id(self) -> int | str:
        """Its name."""

    @property
    def dimensions(self) -> int:
        """Numbers in its rows."""

    @property
    def metric(self) -> str:
        """What is near."""

    def ask(self, question: Question) -> Answer:
        """Answer a question."""

    def show(self, request: Request) -> Shown:
        """Show rows; only asked for where answers are checked."""

    def commit(self) -> Commitment:
        """Commit to all rows; only asked for, once and beforehand, where that is checked."""

    def measure(self, request: Remeasure) -> Remeasured:
        """Measure rows against queries in full; only asked for where hits are rescored."""

    def describe(self, request: Describe) -> Described:
        """Give labels and metadata, or decline; only asked for where a search wants columns."""


class Responding:
    """A `Device` of this process, answering through its own index.

    Parameters
    ----------
    device : Device
    exact : bool, optional
        As in `VectorIndex.search`.
    gives : iterable of str
        What its owner agrees to give of rows that are found: "label", and names of metadata. By
        default nothing. Whoever searches is given it in the clear.

    Raises
    ------
    TypeError, ValueError
        If `gives` isn't a list of distinct names.
    """

    def __init__(
        self, device: Device, exact: bool | None = True, gives: Iterable[str] = ()
    ) -> None:
        self.gives = distinct_names(gives, "gives", ("key",))
        self.id = device.id
        self.dimensions = device.index.dimensions
        self.metric: str = device.index.metric
        self._index, self._exact = device.index, exact
        self._tree: RowTree | None = None
        self._edits = 0

    @property
    def rows(self) -> int:
        return len(self._index)

    def ask(self, question: Question) -> Answer:
        if question.where is not None:
            return self._filtered(question, question.where)
        if self._exact is True:
            found = self._index.scan(question.ready, question.k)
            held = found.keys.shape[1]
            counts = np.full(len(found.keys), held, np.int64)
            if held == question.k:
                return Answer(question.nonce, found.distances, found.keys, counts)
            shape = len(found.keys), question.k
            distances, keys = np.full(shape, np.inf), np.full(shape, KEY_LIMIT, np.uint64)
            distances[:, :held], keys[:, :held] = found.distances, found.keys
            return Answer(question.nonce, distances, keys, counts)
        return self._answer(question, self._index.search(question.queries, question.k, self._exact))

    def _filtered(self, question: Question, where: str) -> Answer:
        try:
            hits = self._index.search(question.queries, question.k, self._exact, where=where)
        except FilterError as error:
            raise FilterError(f"device {self.id!r} can't filter: {error}") from error
        return self._answer(question, hits)

    def _answer(self, question: Question, hits: Hits) -> Answer:
        assert hits.ordering is not None
        exact = hits.engine == "scan"
        return Answer(question.nonce, hits.ordering, hits.keys, hits.counts, exact)

    def measure(self, request: Remeasure) -> Remeasured:
        rows = self._index.get(request.keys)
        far = ordering(rows, request.queries[request.who], self.metric)
        return Remeasured(request.nonce, far)

    def describe(self, request: Describe) -> Described:
        columns = {name: self._column(name) for name in request.columns if name in self.gives}
        places = self._index.rows_of(request.keys)
        if (gone := request.keys[places < 0]).size:
            raise KeyError(f"device {self.id!r} doesn't hold the rows {some(gone)} any more")
        given = {name: column[places] for name, column in columns.items()}
        return Described(request.nonce, {name: given.get(name) for name in request.columns})

    def _column(self, name: str) -> NDArray[Any]:
        held = {"label": self._index.labels, **metadata_in(self._index.columns)}
        if (column := held.get(name)) is None:
            raise ValueError(
                f"device {self.id!r} agrees to give {name!r}, but its rows have no such column; "
                "take it out of gives=, or add rows that have it"
            )
        return column

    def show(self, request: Request) -> Shown:
        rows = self._index.get(request.keys)
        if self._tree is None or self._index.edits != self._edits:
            return Shown(request.nonce, rows)  # what was committed to can't be shown any more
        return Shown(request.nonce, rows, self._tree.openings(request.keys))

    def commit(self) -> Commitment:
        self._tree, self._edits = RowTree(self._index.keys, self._index.vectors), self._index.edits
        return self._tree.commitment
