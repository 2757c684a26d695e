"""What a server does not believe: answers, rows and commitments, judged before they are used.

Each function returns what is wrong, in words that follow a device's name, or None.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlab.core.typing import F32, F64, I64, U64, Places
from fedlab.core.validation import read_only
from fedlab.index.ingest import KEY_LIMIT, as_lengths, as_vectors
from fedlab.index.scan import ordering
from fedlab.search.commitment import Commitment, Opening, opens
from fedlab.search.messages import Answer, Question, Remeasure, Remeasured, Request, Shown

_FLAWS = {
    1: "gave counts that are below zero or beyond what it was asked for",
    2: "gave a distance that is NaN or inf",
    3: "gave a distance that the metric doesn't have",
    4: "gave hits that are out of order",
    5: "gave the same key twice",
    6: "gave a hit without a key, or filled places beyond its count",
}
_FORMS = tuple(
    (name, np.dtype(kind))
    for name, kind in (("distances", np.float64), ("keys", np.uint64), ("counts", np.int64))
)
_RANGES = {"cosine": (0.0, 2.0 + 1e-9), "inner": (-np.inf, np.inf), "l2sq": (0.0, np.inf)}
#: Two machines may differ by so much in a distance, relative to the numbers that it is made of.
_TOLERANCE = 1e-9


def flaw_in_form(answer: Any, question: Question) -> str | None:
    """Judge types, shapes and nonce of what came as an answer, reading no array's content."""
    # Exact types: what a subclass does when it is looked at is the device's choice.
    if type(answer) is not Answer:
        return f"answered with a {type(answer).__name__}"
    if not _same(answer.nonce, question.nonce):
        return "answered another question than it was asked (a replay)"
    if type(answer.exact) is not bool:
        return "did not say whether its answer is exact"
    count = len(question.queries)
    places = count, question.k
    arrays = answer.distances, answer.keys, answer.counts
    for (name, kind), given, shape in zip(_FORMS, arrays, (places, places, (count,)), strict=True):
        if type(given) is not np.ndarray or given.dtype != kind:
            return f"gave {name} that are no array of {kind}"
        if given.shape != shape:
            return f"gave {name} of shape {given.shape}; {shape} was asked for"
    return None


def flaw_in_answer(distances: F64, keys: U64, counts: I64, metric: str) -> str | None:
    """Judge whether hits can be true: finite, in the metric's range, in order, distinct."""
    from fedlab.search import kernels

    flaw = kernels.flaw(distances, keys, counts, *_RANGES[metric])
    if not flaw and keys.shape[1] > kernels.FEW:
        in_order = np.sort(keys, axis=1)
        same = in_order[:, 1:] == in_order[:, :-1]
        flaw = 5 if (same & (in_order[:, 1:] != KEY_LIMIT)).any() else 0
    return _FLAWS.get(flaw)


def flaw_in_distances(measured: Any, request: Remeasure, metric: str) -> str | None:
    """Judge distances that were measured again."""
    if not isinstance(measured, Remeasured):
        return f"measured with a {type(measured).__name__}"
    if not _same(measured.nonce, request.nonce):
        return "measured for another request (a replay)"
    given, shape = measured.distances, (len(request.keys),)
    if not isinstance(given, np.ndarray) or given.dtype != np.float64 or given.shape != shape:
        return f"gave no float64 distances of shape {shape}"
    least, most = _RANGES[metric]
    if not (np.isfinite(given) & (given >= least) & (given <= most)).all():
        return "gave a distance that the metric doesn't have"
    return None


def flaw_in_commitment(commitment: Any) -> str | None:
    """Judge the form of a commitment."""
    if type(commitment) is not Commitment:
        return f"committed with a {type(commitment).__name__}"
    if type(commitment.root) is not bytes or len(commitment.root) != 32:
        return "committed with a root that is not 32 bytes"
    if type(commitment.rows) is not int or not 0 <= commitment.rows < 2**63:
        return "committed to a number of rows that is none"
    return None


def flaw_in_rows(
    shown: Any,
    request: Request,
    claims: tuple[Places, F32, F64],
    metric: str,
    commitment: Commitment | None,
) -> str | None:
    """Judge rows that were shown against the distances that were claimed for them.

    Parameters
    ----------
    claims : tuple
        Which of the request's keys each claim is about, its query, and the distance claimed.
    commitment : Commitment, optional
        What the rows must open; None where nothing was committed.
    """
    if type(shown) is not Shown:
        return f"showed a {type(shown).__name__}"
    if not _same(shown.nonce, request.nonce):
        return "showed rows for another request (a replay)"
    which, queries, claimed = claims
    rows = shown.rows
    shape = len(request.keys), queries.shape[1]
    if type(rows) is not np.ndarray or rows.dtype != np.float32 or rows.shape != shape:
        return f"showed no float32 rows of shape {shape}"
    rows = np.array(rows)  # one that no other can change while it is judged
    try:
        lengths = np.sqrt(as_lengths(as_vectors(rows, shape[1], "rows"), metric, "rows"))
    except ValueError as error:
        return f"showed rows that no index holds ({error})"
    if commitment is not None and isinstance(shown.openings, tuple) and not shown.openings:
        return (
            "has not proven that its rows are those it had committed to; if they were changed "
            "since, a new FederatedSearch has it commit anew"
        )
    if commitment is not None and not _all_open(shown.openings, request, rows, commitment):
        return "showed a row that is not the one it had committed to under that key"
    true = ordering(read_only(rows[which]), queries, metric)
    size, asked = lengths[which].astype(np.float64), _lengths(queries)
    scales = {
        "cosine": np.ones(len(size)),
        "inner": np.maximum(size, 2.0**-63) * asked,
        "l2sq": np.square(size + asked),
    }
    if (np.abs(true - claimed) > _TOLERANCE * scales[metric]).any():
        return "showed a row that is not at the distance it had claimed"
    return None


def _all_open(openings: Any, request: Request, rows: F32, commitment: Commitment) -> bool:
    if type(openings) is not tuple or len(openings) != len(rows):
        return False
    return all(
        _well_formed(opening) and opens(commitment, key, row, opening)
        for key, row, opening in zip(request.keys.tolist(), rows, openings, strict=True)
    )


def _well_formed(opening: Any) -> bool:
    return (
        type(opening) is Opening
        and type(opening.place) is int
        and type(opening.salt) is bytes
        and len(opening.salt) == 16
        and type(opening.path) is tuple
        and all(type(beside) is bytes and len(beside) == 32 for beside in opening.path)
    )


def _same(nonce: Any, other: bytes) -> bool:
    return type(nonce) is bytes and nonce == other


def _lengths(queries: F32) -> F64:
    squares: F64 = np.einsum("ij,ij->i", queries, queries, dtype=np.float64)
    return np.sqrt(squares)
