"""Text on devices, with letters for tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedlab.data import Origin, Pretrained, Texts, text_encoder
from fedlab.models import Layout
from fedlab.workbench.experiments import (
    adapters_apart,
    continuation_losses,
    deal_stories,
    deal_texts,
    passages,
    retrieved,
    with_context,
)

HERE = Origin("made by hand", "", "0" * 64, 2, "", "")
WORDS = [f"{kind}{number:02d} " for kind in ("ice", "cell") for number in range(80)]
TEXTS = Texts(tuple(WORDS), np.repeat([0, 1], 80), ("sport", "health"), HERE)
LETTERS = Pretrained(
    None,
    lambda texts: [[ord(letter) for letter in text] for text in texts],
    lambda tokens: "".join(map(chr, tokens)),
    128,
    32,
    HERE,
)


def said(rows: Any) -> str:
    return "".join(LETTERS.text(row) for row in rows.astype(int).tolist())


def test_no_text_has_a_part_in_two_sets_and_strangers_are_like_others() -> None:
    measured, choosing = deal_texts(TEXTS, ("sport", "health"), LETTERS, 12, (4, 2, 3), seed=0)
    for one, other, kind in zip(measured, choosing, ("ice", "cell"), strict=True):
        assert one.rows == other.rows == 4
        assert (one.validation_rows, other.validation_rows) == (3, 2)
        np.testing.assert_array_equal(one.training()[0], other.training()[0])
        assert not set(one.validation_keys) & set(other.validation_keys)
        parts = [said(part) for part in (one.training()[0], one.validation()[0])]
        assert all(set(part) <= set(kind + "0123456789 ") for part in parts)
    # Two words of sport fill a row, so that each is whole.
    first, second = measured[0], choosing[0]
    sets = [first.training()[0], first.validation()[0], second.validation()[0]]
    words = [said(part).split() for part in sets]
    assert [len(part) for part in words] == [8, 6, 4]
    assert len({word for part in words for word in part}) == 18


def test_texts_are_drawn_anew_for_each_seed_and_the_same_for_one() -> None:
    def rows(seed: int) -> Any:
        return deal_texts(TEXTS, ("sport",), LETTERS, 12, (4, 2, 3), seed)[0][0].training()[0]

    np.testing.assert_array_equal(rows(1), rows(1))
    assert not np.array_equal(rows(1), rows(2))


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="no subject is called 'sports'"):
        deal_texts(TEXTS, ("sports",), LETTERS, 12, (1, 1, 1), seed=0)
    with pytest.raises(ValueError, match="too few texts for"):
        deal_texts(TEXTS, ("sport",), LETTERS, 12, (50, 1, 1), seed=0)


def test_a_context_fills_the_first_half_from_the_right() -> None:
    rows = LETTERS.blocks(["abcdefgh"], 8)
    made = with_context(["xyz"], rows, LETTERS)
    assert said(made) == " xyzefgh"
    assert said(with_context(["uvwxyz"], rows, LETTERS)) == "wxyzefgh"
    assert said(rows) == "abcdefgh"


def test_continuations_count_the_last_tokens_alone() -> None:
    table = np.random.default_rng(0).normal(size=(5, 5))
    model = SimpleNamespace(predict=lambda parameters, rows: table[rows.astype(int)])
    rows = np.random.default_rng(1).integers(0, 5, (9, 6)).astype(np.float32)
    p = np.exp(table) / np.exp(table).sum(1, keepdims=True)
    expected = [
        np.mean([-np.log(p[int(row[at - 1]), int(row[at])]) for at in (4, 5)]) for row in rows
    ]
    np.testing.assert_allclose(continuation_losses(model, np.empty(0), rows, 2), expected)


def test_what_averaging_apart_loses_is_the_product_of_the_deviations() -> None:
    shapes = (
        ("q.lora_A.default.weight", (2, 4)),
        ("q.lora_B.default.weight", (3, 2)),
        ("head", (3,)),
    )
    model: Any = SimpleNamespace(layout=Layout(shapes))
    ends = np.random.default_rng(0).normal(size=(5, model.layout.size))
    a, b = ends[:, :8].reshape(5, 2, 4), ends[:, 8:14].reshape(5, 3, 2)
    apart = ((b - b.mean(0)) @ (a - a.mean(0))).mean(0)
    expected = np.linalg.norm(apart) / np.linalg.norm((b @ a).mean(0))
    assert adapters_apart(model, list(ends)) == pytest.approx(expected)
    assert adapters_apart(model, [ends[0], ends[0]]) == pytest.approx(0, abs=1e-12)


def test_passages_are_found_where_they_lie_and_the_ledger_counts_their_text() -> None:
    texts = ["the goal keeper ", "a cell divides. ", "the goal keeper ", "a cell divides. "]
    there = Texts(tuple(texts * 8), np.array([0, 1] * 16), ("sport", "health"), HERE)
    devices, _ = deal_texts(there, ("sport", "health"), LETTERS, 32, (2, 1, 1), seed=0)
    encoder = text_encoder("hashing", public=texts, dimensions=3)
    store = passages(devices[1], LETTERS, encoder)
    assert store.index.metadata["text"].tolist() == ["a cell divides. "] * 4
    found, ledger = retrieved(devices, LETTERS, encoder)
    assert found["nearest of all"].tolist() == ["the goal keeper ", "a cell divides. "]
    assert found["nearest of its own"].tolist() == found["any of its own"].tolist()
    assert not found["elsewhere"].any()
    sent = ledger.to_frame()
    assert sent[sent.what == "labels and metadata"].bytes.sum() > 2 * len(texts[0])


def test_stories_are_dealt_out_with_a_third_held_out() -> None:
    devices = deal_stories(TEXTS, LETTERS, 8, 90, 3, seed=0)
    assert sum(device.rows + device.validation_rows for device in devices) == 90
    assert sum(device.validation_rows for device in devices) == pytest.approx(30, abs=4)
    assert said(devices[0].training()[0][:1]).strip()[:3] in ("ice", "cel")
