"""Sealed indexes: they open under their key, and in no other way."""

from __future__ import annotations

import json
import os
from unicodedata import normalize

import numpy as np
import pytest

from benchmarks.campaign import Campaign
from fedlab import Key, Passphrase, VectorIndex
from fedlab.files import sealing
from fedlab.files.keys import KeyProblem
from fedlab.files.sealing import SealError, reseal, sealed, unsealed
from fedlab.index.file import IndexFileError

posix = pytest.mark.skipif(os.name == "nt", reason="needs fork and modes of files")
SECRET = "a patient's own words"


def filled(rows: int = 50, seed: int = 0) -> VectorIndex:
    draw = np.random.default_rng(seed)
    index = VectorIndex(8, "l2sq")
    index.add(draw.normal(size=(rows, 8)), labels=[SECRET] * rows)
    return index


@pytest.mark.parametrize(
    "sealer", [Key.generate(), Passphrase("correct horse battery")], ids=["key", "phrase"]
)
def test_a_sealed_index_comes_back_and_shows_nothing_on_disk(sealer, tmp_path):
    index, path = filled(), tmp_path / "ward"
    index.build_graph()
    index.save(path, sealer)
    opened = VectorIndex.open(path, sealer)
    np.testing.assert_array_equal(opened.vectors, index.vectors)
    np.testing.assert_array_equal(opened.labels, index.labels)
    assert opened.has_graph
    content = path.read_bytes()
    assert SECRET.encode() not in content
    assert SECRET.encode("utf-32-le") not in content
    for row in index.vectors:
        assert row.tobytes() not in content
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    index.save(tmp_path / "plain")
    assert index.vectors[3].tobytes() in (tmp_path / "plain").read_bytes(), "the control"


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20, 5_000_000])
def test_contents_of_any_size(size, tmp_path):
    key, content = Key.generate(), os.urandom(size)
    for step in (size or 1, 70_001):
        with (tmp_path / "any").open("wb") as file, sealed(file, key) as out:
            for start in range(0, size, step):
                out.write(content[start : start + step])
        assert bytes(unsealed(tmp_path / "any", key)) == content


def test_the_same_content_is_never_sealed_alike(tmp_path):
    index, key = filled(), Key.generate()
    seen = set()
    for number in range(3):
        index.generation = 0
        index.save(tmp_path / str(number), key)
        seen.add((tmp_path / str(number)).read_bytes())
    assert len(seen) == 3


def test_who_has_no_key_another_one_or_too_much_is_told(tmp_path):
    path, key, words = tmp_path / "ward", Key.generate(), Passphrase("correct horse battery")
    filled().save(path, key)
    for given, says in (
        (None, "is sealed; give the key"),
        (Key.generate(), f"under the key {key.id}, not"),
        (words, "sealed under a key"),
    ):
        with pytest.raises(IndexFileError, match=says):
            VectorIndex.open(path, given)
    filled().save(path, words)
    for given in (key, Passphrase("correct horse batterz")):
        with pytest.raises(IndexFileError, match="passphrase"):
            VectorIndex.open(path, given)
    filled().save(path)
    with pytest.raises(IndexFileError, match="with a key only sealed files are opened"):
        VectorIndex.open(path, key)


def test_an_older_generation_is_noticed_by_who_kept_the_number(tmp_path):
    path, key, index = tmp_path / "ward", Key.generate(), filled()
    index.save(path, key)
    old = path.read_bytes()
    index.save(path, key)
    assert index.generation == VectorIndex.open(path, key, at_least=2).generation == 2
    path.write_bytes(old)
    with pytest.raises(IndexFileError, match="generation 1, and at least 2"):
        VectorIndex.open(path, key, at_least=index.generation)
    again = VectorIndex.open(path, key)
    again.save(path, key)
    assert VectorIndex.open(path, key).generation == 2


def test_sealing_again_under_a_new_key(tmp_path):
    path, old, new = tmp_path / "ward", Key.generate(), Key.generate()
    index = filled()
    index.save(path, old)
    with pytest.raises(SealError):
        reseal(path, new, old)
    reseal(path, old, new)
    np.testing.assert_array_equal(VectorIndex.open(path, new).vectors, index.vectors)
    with pytest.raises(IndexFileError, match="not"):
        VectorIndex.open(path, old)


# -- keys ------------------------------------------------------------------------------------------


def test_keys_come_from_the_environment_or_a_file_of_one_s_own(tmp_path, monkeypatch):
    key, path = Key.generate(), tmp_path / "key"
    key.write(path)
    assert Key.from_file(path) == key
    with pytest.raises(FileExistsError):
        key.write(path)
    monkeypatch.setenv("WARD_KEY", key.secret.hex())
    assert Key.from_environment("WARD_KEY") == key
    with pytest.raises(KeyProblem, match="no NOWHERE"):
        Key.from_environment("NOWHERE")


@posix
def test_a_key_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "key"
    Key.generate().write(path)
    path.chmod(0o640)
    with pytest.raises(KeyProblem, match="chmod 600"):
        Key.from_file(path)


@pytest.mark.parametrize("content", ["", "zz" * 32, "ab" * 31, "ab" * 33])
def test_what_is_no_key_is_refused_and_not_shown(content, tmp_path, monkeypatch):
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(0o600)
    monkeypatch.setenv("FEDLAB_KEY", content)
    for read in (lambda: Key.from_file(path), Key.from_environment):
        with pytest.raises(KeyProblem, match="64 hex digits") as caught:
            read()
        assert not content or content not in str(caught.value)
    with pytest.raises(KeyProblem):
        Key(b"short")
    with pytest.raises(KeyProblem, match="at least 12"):
        Passphrase("short")


def test_secrets_are_not_shown():
    key, words = Key.generate(), Passphrase("correct horse battery")
    shown = f"{key!r} {key} {words!r} {words}"
    assert key.secret.hex() not in shown
    assert "horse" not in shown


# -- fails closed ----------------------------------------------------------------------------------


def test_a_header_does_not_decide_how_long_opening_takes(tmp_path):
    path, words = tmp_path / "ward", Passphrase("correct horse battery")
    filled().save(path, words)
    content = path.read_bytes()
    for old, new in (
        (b'"passes": 3', b'"passes":99'),
        (b'"memory": 268435456', b'"memory":9268435456'),
    ):
        assert old in content
        path.write_bytes(content.replace(old, new))
        with pytest.raises(IndexFileError, match="describes no seal"):
            VectorIndex.open(path, words)


@posix
@pytest.mark.slow
def test_a_share_of_the_campaign_ends_without_a_crash_and_with_nothing_opened(tmp_path):
    trials = 220
    counts = Campaign.of(tmp_path, rows=20_000).run(tmp_path, trials, seed=1)
    control = counts.pop("control")
    assert set(control) == {"opened"}
    assert {how for ends in counts.values() for how in ends} == {"refused"}, counts
    assert sum(sum(ends.values()) for ends in counts.values()) == trials
    assert len(counts) == 22


@posix
@pytest.mark.slow
def test_a_share_of_the_campaign_on_files_that_are_open_gives_the_same_rows_or_none(tmp_path):
    counts = Campaign.of(tmp_path, rows=20_000).run(tmp_path, 66, seed=2, mapped=True)
    assert set(counts.pop("control")) == {"opened"}
    assert {how for ends in counts.values() for how in ends} == {"refused", "opened"}, counts
    assert sum(ends["refused"] for ends in counts.values()) > 33


PHRASES = [
    "çédille sur un été",
    "Schlüssel für Zoë",
    "한국어 비밀번호 열두 글자 이상",
    "ﬁne Å Ω plain",
]


@pytest.mark.parametrize("phrase", PHRASES)
@pytest.mark.parametrize("composed", ["NFC", "NFD"])
def test_a_passphrase_opens_however_a_keyboard_composed_it(phrase, composed, tmp_path):
    other = {"NFC": "NFD", "NFD": "NFC"}[composed]
    assert normalize(composed, phrase) != normalize(other, phrase), "the control"
    filled().save(tmp_path / "ward", Passphrase(normalize(composed, phrase)))
    for typed in (phrase, normalize(other, phrase)):
        assert len(VectorIndex.open(tmp_path / "ward", Passphrase(typed))) == 50
    with pytest.raises(IndexFileError, match="another passphrase"):
        VectorIndex.open(tmp_path / "ward", Passphrase(phrase + "."))


def without_form(said):
    """What a seal's header said before phrases were normalised."""
    derived = said.get("argon2id", {})
    return {**said, **({"argon2id": {**derived, "form": None}} if derived else {})}


@pytest.mark.parametrize("composed", ["NFC", "NFD"])
def test_files_sealed_under_a_phrase_as_it_was_typed_still_open(composed, tmp_path, monkeypatch):
    index, path, typed = filled(), tmp_path / "ward", normalize(composed, PHRASES[0])
    dumps = json.dumps
    monkeypatch.setattr(Passphrase, "forms", property(lambda phrase: (phrase.text.encode(),)))
    monkeypatch.setattr(sealing.json, "dumps", lambda said: dumps(without_form(said)))
    index.save(path, Passphrase(typed))
    monkeypatch.undo()
    assert b"NFC" not in path.read_bytes()[:400]
    for way in ("NFC", "NFD"):
        assert len(VectorIndex.open(path, Passphrase(normalize(way, PHRASES[0])))) == 50
    with pytest.raises(IndexFileError, match="another passphrase"):
        VectorIndex.open(path, Passphrase(PHRASES[1]))


def test_a_passphrase_is_text_of_whole_characters():
    for odd in (b"correct horse battery", "correct horse \udc80attery", None):
        with pytest.raises(KeyProblem, match="a passphrase is text"):
            Passphrase(odd)
    with pytest.raises(KeyProblem, match="of 6 characters"):
        Passphrase(normalize("NFD", "éééééé"))
