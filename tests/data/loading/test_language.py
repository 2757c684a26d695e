"""Pre-trained language models: MiniLM against fedlab's own in NumPy, and rows of tokens."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab.data import Origin, Pretrained
from tests.registry import need_registry

TEXTS = ["It is sunny.", "The sun shines, and it is warm.", "Stocks fell."]


def words() -> Pretrained:
    """A tokenizer that takes a letter for a token."""
    origin = Origin("made by hand", "", "0" * 64, 3, "", "")
    return Pretrained(
        None,
        lambda texts: [[ord(c) for c in t] for t in texts],
        lambda tokens: "".join(map(chr, tokens)),
        128,
        0,
        origin,
    )


def test_blocks_cut_one_stream_and_drop_what_is_left() -> None:
    rows = words().blocks(["abc", "defg"], 3)
    assert rows.dtype == np.float32
    assert rows.tolist() == [[97, 98, 99], [100, 101, 102]]
    assert words().blocks([], 3).shape == (0, 3)
    with pytest.raises(ValueError, match="length is 1"):
        words().blocks(["abc"], 1)


def test_padded_rows_are_cut_or_filled() -> None:
    assert words().padded(["abcd", "e"], 3).tolist() == [[97, 98, 99], [101, 0, 0]]


@pytest.mark.network
def test_minilm_as_a_torch_module_is_the_encoder_in_numpy() -> None:
    torch = pytest.importorskip("torch", reason="takes the extra llm")
    pytest.importorskip("transformers", reason="takes the extra llm")
    need_registry()
    from fedlab.data import load_minilm
    from fedlab.data.embedding.minilm import minilm

    pretrained = load_minilm()
    with torch.no_grad():
        found = pretrained.module(torch.tensor(pretrained.padded(TEXTS, 16)).long()).numpy()
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(found, minilm()(TEXTS), atol=1e-5)


@pytest.mark.network
def test_smollm2_knows_the_capital_of_france() -> None:
    torch = pytest.importorskip("torch", reason="takes the extra llm")
    for name in ("transformers", "gguf"):
        pytest.importorskip(name, reason="takes the extra llm")
    need_registry()
    from fedlab.data import load_smollm2

    pretrained = load_smollm2()
    [start], [paris] = (
        pretrained.tokens(["The capital of France is"]),
        pretrained.tokens([" Paris"]),
    )
    with torch.no_grad():
        scores = pretrained.module(torch.tensor([start]))
    assert scores.shape == (1, len(start), pretrained.words)
    assert int(scores[0, -1].argmax()) == paris[0]
