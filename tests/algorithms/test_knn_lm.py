"""A memory of text beside a language model, against sums written by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fedlab import Device, Key, VectorIndex
from fedlab.algorithms import KNNLM

WORDS, LENGTH, WIDTH = 7, 6, 5


@dataclass(frozen=True)
class Small:
    """Scores of the next token from a table; hidden states depend on the token and its place."""

    inputs: int = LENGTH

    def predict(self, parameters: Any, x: Any) -> Any:
        return parameters.reshape(WORDS, WORDS)[x.astype(int)]

    def embed(self, parameters: Any, x: Any) -> Any:
        table = np.random.default_rng(3).normal(size=(WORDS, WIDTH))
        return (table[x.astype(int)] + 0.01 * np.arange(LENGTH)[:, None] ** 2).reshape(len(x), -1)

    def predict_and_embed(self, parameters: Any, x: Any) -> Any:
        return self.predict(parameters, x), self.embed(parameters, x)


@pytest.fixture
def parameters() -> Any:
    return np.random.default_rng(0).normal(size=WORDS * WORDS).astype(np.float32)


def text(rows: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, WORDS, (rows, LENGTH)).astype(np.float32)


def by_hand(of: KNNLM, parameters: Any, own: Any, asked: Any, share: float) -> float:
    model, total = Small(), []
    places = (
        model.embed(parameters, own).reshape(len(own), LENGTH, WIDTH)[:, :-1].reshape(-1, WIDTH)
    )
    followed = own[:, 1:].astype(int).ravel()
    for row in asked:
        states = model.embed(parameters, row[None]).reshape(LENGTH, WIDTH)
        for at in range(LENGTH - 1):
            scores = model.predict(parameters, row[None])[0, at].astype(float)
            of_model = np.exp(scores) / np.exp(scores).sum()
            squares = np.square(places - states[at]).sum(axis=1)
            near = np.argsort(squares, kind="stable")[: of.k]
            votes = np.exp(-squares[near] / (WIDTH * of.scale))
            of_places = np.bincount(followed[near], votes, WORDS) / votes.sum()
            total.append(-np.log(share * of_places + (1 - share) * of_model)[int(row[at + 1])])
    return float(np.mean(total))


@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_losses_are_the_sums_of_the_paper(parameters: Any, scale: float) -> None:
    of = KNNLM(k=4, scale=scale, dtype="f32")
    own, asked = text(9, 1), text(5, 2)
    memory = of.memory(own, Small(), parameters)
    shares = [0.0, 0.3, 0.9]
    expected = [by_hand(of, parameters, own, asked, share) for share in shares]
    np.testing.assert_allclose(memory.losses(asked, shares), expected, rtol=1e-5)


def test_without_a_share_or_a_memory_it_is_the_model_exactly(parameters: Any) -> None:
    asked, model = text(5, 2), Small()
    scores = model.predict(parameters, asked)[:, :-1].astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(scores, asked[:, 1:, None].astype(int), -1)[..., 0]
    exact = -(chosen - np.log(np.exp(scores).sum(-1))).mean()
    full, empty = (KNNLM().memory(text(rows, 1), model, parameters) for rows in (9, 0))
    assert full.losses(asked, [0.0])[0] == exact
    assert empty.losses(asked, [0.0, 0.5]).tolist() == [exact, exact]


def device(parts: dict[str, int], held: str) -> Device:
    """With rows to train on, to choose on and to measure on, of which some are held out."""
    index = VectorIndex(LENGTH, "l2sq", "f32")
    rows = {name: text(count, at) for at, (name, count) in enumerate(parts.items())}
    keys = {n: index.add(part, labels=np.zeros(len(part), int)) for n, part in rows.items()}
    aside = keys["choose" if held == "measure" else "measure"]
    index.remove(aside)
    return Device("ward", index).holding_out(keys[held])


def test_devices_choose_their_share_on_rows_that_are_neither_remembered_nor_measured(
    parameters: Any,
) -> None:
    parts = {"train": 9, "choose": 4, "measure": 5}
    measured, choosing = (device(parts, held) for held in ("measure", "choose"))
    of = KNNLM(k=4, dtype="f32")
    shares = (0.0, 0.3, 0.9)
    given = {"choosing": [choosing], "shares": shares}
    told = of.validate([measured], Small(), parameters, **given).loc["ward"]
    rows = {name: text(count, at) for at, (name, count) in enumerate(parts.items())}
    own = measured.training()[0]  # in the index's order, in which equal distances stand
    np.testing.assert_array_equal(np.sort(own, axis=0), np.sort(rows["train"], axis=0))
    losses = [by_hand(of, parameters, own, rows["choose"], share) for share in shares]
    assert told["share"] == shares[int(np.argmin(losses))]
    for column, share in (("loss", told["share"]), ("model", 0.0)):
        expected = by_hand(of, parameters, own, rows["measure"], share)
        assert told[column] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="measured on"):
        of.validate([measured], Small(), parameters, choosing=[measured])


def test_a_memory_of_the_text_itself_foretells_it(parameters: Any) -> None:
    own = np.arange(LENGTH, dtype=np.float32)[None] % WORDS
    memory = KNNLM(k=1, dtype="f32").memory(own, Small(), parameters)
    assert memory.losses(own, [1.0])[0] == pytest.approx(0)
    chosen = memory.choose(own)
    assert chosen.of.share == 0.9
    assert chosen.losses(own)[0] < memory.losses(own, [0.0])[0]


def test_the_memory_is_an_index_that_can_be_sealed_and_erased_from(
    parameters: Any, tmp_path: Any
) -> None:
    memory, key = KNNLM(dtype="f32").memory(text(4, 1), Small(), parameters), Key.generate()
    memory.index.erase(memory.index.keys[:3])
    memory.index.save(tmp_path / "memory", key)
    assert len(VectorIndex.open(tmp_path / "memory", key)) == 4 * (LENGTH - 1) - 3


def test_wrong_input_is_told(parameters: Any) -> None:
    memory = KNNLM().memory(text(4, 1), Small(), parameters)
    with pytest.raises(ValueError, match="no rows of tokens"):
        memory.losses(text(0, 1))
    with pytest.raises(ValueError, match="share is 2"):
        memory.losses(text(1, 1), [2.0])
    with pytest.raises(TypeError, match="has no predict_and_embed"):
        KNNLM().memory(text(1, 1), object(), parameters)
