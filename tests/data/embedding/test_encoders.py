"""Embeddings: which encoder, the published values of MiniLM, and what is kept."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedlab.data import (
    DataUnavailable,
    Embedded,
    VectorsChanged,
    embed,
    kept_vectors,
    text_encoder,
)
from fedlab.data.embedding.minilm import minilm

Ensure = Callable[[str], None]
EMBEDDING = importlib.import_module("fedlab.data.embedding.encoders")
PUBLIC = [f"{a} {b} {c}" for a in ("cat", "dog", "moon") for b in ("river", "tree") for c in ("sun", "rain")]  # fmt: skip  # noqa: E501


@pytest.fixture
def encode(pulled: Ensure) -> Callable[[list[str]], np.ndarray]:
    pytest.importorskip("tokenizers")
    pytest.importorskip("safetensors")
    pulled("minilm")
    return minilm()


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    return tmp_path


def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = lambda: ("safetensors", "tokenizers")  # noqa: E731
    for module in ("fedlab.data.embedding.minilm", "fedlab.data.embedding.encoders"):
        monkeypatch.setattr(sys.modules[module], "missing_packages", missing)
    minilm.cache_clear()


def test_minilm_gives_the_published_similarities(encode: Callable[[list[str]], np.ndarray]) -> None:
    """Those in the quick start of the Sentence Transformers' documentation."""
    rows = encode(
        ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    )
    published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(rows @ rows.T, published, atol=1e-4)


def test_minilm_knows_paraphrases(encode: Callable[[list[str]], np.ndarray]) -> None:
    rows = encode(
        ["High blood pressure", "Arterial hypertension", "Fractured femur", "Broken thigh bone"]
    )
    near = rows @ rows.T
    unlike = [near[0, 2], near[0, 3], near[1, 2], near[1, 3]]
    assert max(unlike) < 0.3 < 0.5 < min(near[0, 1], near[2, 3])


def test_a_text_has_the_same_vector_in_any_company(
    encode: Callable[[list[str]], np.ndarray],
) -> None:
    texts = [" ".join(["river"] * n) for n in range(1, 34)] + ["", "moon " * 400]
    together = encode(texts)
    alone = np.concatenate([encode([text]) for text in texts[::12]])
    np.testing.assert_allclose(together[::12], alone, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(together[-1:], encode(["moon " * 254]), atol=2e-6)  # cut there


def test_threads_do_not_matter(
    encode: Callable[[list[str]], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [" ".join(["river", "moon"] * (n % 5)) for n in range(100)]
    several = encode(texts)
    monkeypatch.setattr(sys.modules["fedlab.data.embedding.minilm"], "_WORKERS", 1)
    np.testing.assert_array_equal(several, encode(texts))


def test_no_text_is_no_row(encode: Callable[[list[str]], np.ndarray]) -> None:
    assert encode([]).shape == (0, 384)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without_packages(monkeypatch)
    with pytest.raises(ImportError, match=r"fedlab-workbench\[text\].*how='hashing'"):
        embed(["a text"], "minilm")


def test_auto_says_what_it_took_and_why(
    monkeypatch: pytest.MonkeyPatch, empty_folder: Path
) -> None:
    without_packages(monkeypatch)
    rows = embed(["cat river", "moon"], public=PUBLIC, dimensions=4)
    assert rows.how == "hashing"
    assert "12 public texts; MiniLM: safetensors and tokenizers not installed" in rows.made
    with pytest.raises(ValueError, match=r"takes public texts \(MiniLM can't be had: safetensors"):
        text_encoder()


def test_auto_without_a_network_says_so(
    monkeypatch: pytest.MonkeyPatch, empty_folder: Path, offline: None
) -> None:
    monkeypatch.setattr(EMBEDDING, "missing_packages", lambda: ())
    encoder = text_encoder(public=PUBLIC, dimensions=3)
    assert encoder.how == "hashing"
    assert encoder.made.endswith("MiniLM: its weights can't be downloaded now")
    with pytest.raises(DataUnavailable):
        text_encoder("minilm")


def test_auto_takes_minilm_where_it_can(encode: object) -> None:
    encoder = text_encoder()
    assert (encoder.how, encoder.dimensions) == ("minilm", 384)
    assert encoder.made.startswith("all-MiniLM-L6-v2")
    np.testing.assert_array_equal(encoder(["moon"]), encode(["moon"]))  # type: ignore[operator]
    with pytest.raises(ValueError, match="projects nothing"):
        _ = encoder.projection


def hashing(texts: list[str], seed: int = 0, dimensions: int = 4) -> Embedded:
    return embed(texts, "hashing", public=PUBLIC, seed=seed, dimensions=dimensions)


def test_vectors_are_computed_once(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hashing(["cat sun", "moon"])
    assert len(list((empty_folder / "vectors").iterdir())) == 1
    monkeypatch.setattr(EMBEDDING.Projection, "fitted", lambda *_, **__: pytest.fail("fitted"))
    again = hashing(["cat sun", "moon"])
    np.testing.assert_array_equal(first.vectors, again.vectors)
    assert again.made == first.made
    with pytest.raises(ValueError, match="read-only"):
        again.vectors[0] = 0


def test_other_texts_or_settings_are_other_files(empty_folder: Path) -> None:
    hashing(["ab", "c"])
    hashing(["a", "bc"])
    hashing(["ab", "c"], seed=1)
    hashing(["ab", "c"], dimensions=3)
    embed(["ab", "c"], "hashing", public=PUBLIC[1:], dimensions=4)
    assert len(list((empty_folder / "vectors").iterdir())) == 5


@pytest.mark.parametrize("place", [0, 30, -40, -1])
def test_an_altered_file_is_never_read_nor_overwritten(empty_folder: Path, place: int) -> None:
    hashing(["cat sun", "moon"])
    (path,) = (empty_folder / "vectors").iterdir()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(VectorsChanged, match=f"delete vectors/{path.name}"):
        hashing(["cat sun", "moon"])
    assert path.read_bytes() == content


def test_a_file_under_another_name_is_refused(empty_folder: Path) -> None:
    hashing(["cat sun", "moon"])
    (path,) = (empty_folder / "vectors").iterdir()
    content = path.read_bytes()
    path.unlink()
    hashing(["dog", "moon"])
    (other,) = (empty_folder / "vectors").iterdir()
    other.write_bytes(content)
    with pytest.raises(VectorsChanged, match="other vectors than its name says"):
        hashing(["dog", "moon"])


def test_wrong_words_are_told(empty_folder: Path) -> None:
    with pytest.raises(ValueError, match="how is 'bert'; choose"):
        text_encoder("bert")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="one text was given"):
        hashing("cat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"dimensions is 12.*at most 11"):
        hashing(["cat"], dimensions=12)


def test_nothing_is_kept_where_that_is_asked_for(empty_folder: Path) -> None:
    kept = embed(["cat sun", "moon"], "hashing", public=PUBLIC, dimensions=4)
    (file,) = kept_vectors().iterdir()
    file.write_bytes(b"not what was written")
    again = embed(["cat sun", "moon"], "hashing", public=PUBLIC, dimensions=4, keep=False)
    np.testing.assert_array_equal(kept.vectors, again.vectors)
    embed(["dog"], "hashing", public=PUBLIC, dimensions=4, keep=False)
    assert list(kept_vectors().iterdir()) == [file]


def test_hashing_works_without_public_texts(empty_folder: Path) -> None:
    rows = embed(["a cat purrs at night", "a cat purrs by day", "stocks fell"], "hashing")
    assert rows.vectors.shape == (3, 256)
    assert rows.made == "hashing and a random projection to 256 dimensions, seed 0"
    near = rows.vectors @ rows.vectors.T
    assert near[0, 1] > 0.3 > abs(near[0, 2])
    assert (embed(["stocks fell"], "hashing", seed=1).vectors[0] != rows.vectors[2]).any()
    assert text_encoder("hashing", dimensions=8).key() != text_encoder("hashing", seed=1).key()
