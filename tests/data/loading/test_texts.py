"""Texts and terms against facts about the data that don't come from this code."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedlab.data import (
    DataError,
    Origin,
    Terms,
    Texts,
    load_icd10,
    load_newsgroups,
    load_reuters,
    source,
)
from fedlab.data.loading.registry import Member, Source

Ensure = Callable[[str], None]
ORIGIN = Origin("a test", "", "0" * 64, 2, "", "")
TEXTS = importlib.import_module("fedlab.data.loading.texts")


def test_newsgroups_are_those_of_the_literature(pulled: Ensure) -> None:
    pulled("newsgroups")
    train, test = load_newsgroups()
    # Cardoso-Cachopo's 20ng-all-terms: 11,293 and 7,528, of which seven texts stand in both.
    assert (len(train), len(test)) == (11_293 - 7, 7_528)
    assert not set(train.texts) & set(test.texts)
    assert train.classes == test.classes
    assert len(test.classes) == 20
    counts = dict(zip(test.classes, np.bincount(test.y).tolist(), strict=True))
    assert (counts["rec.sport.hockey"], counts["talk.religion.misc"]) == (399, 251)  # his table
    assert train.origin.sha256 == source("newsgroups").members[0].sha256
    assert test.origin.sha256 == source("newsgroups").members[1].sha256
    assert all(train.texts)


def test_reuters_are_those_of_the_literature(pulled: Ensure) -> None:
    pulled("reuters")
    train, test = load_reuters()
    assert (len(train), len(test)) == (5_485 - 5, 2_189)
    assert not set(train.texts) & set(test.texts)
    counts = dict(zip(test.classes, np.bincount(test.y).tolist(), strict=True))
    # His table of R8's test part.
    assert counts == {
        "acq": 696, "crude": 121, "earn": 1083, "grain": 10,
        "interest": 81, "money-fx": 87, "ship": 36, "trade": 75,
    }  # fmt: skip


def test_subjects_stand_at_the_right_texts(pulled: Ensure) -> None:
    """A linear classifier reads them as the literature says: .97 on R8."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import RidgeClassifier

    pulled("reuters")
    train, test = load_reuters()
    counter = TfidfVectorizer(sublinear_tf=True)
    model = RidgeClassifier().fit(counter.fit_transform(train.texts), train.y)
    assert 0.95 < model.score(counter.transform(test.texts), test.y) < 0.99


def test_icd10_has_the_codes_of_the_classification(pulled: Ensure) -> None:
    pulled("icd10")
    icd = load_icd10()
    assert (len(icd), len(icd.terms), len(icd.chapters)) == (46_881, 12_569, 22)
    at = {code: place for place, code in enumerate(icd.codes)}
    described = {code: icd.descriptions[place] for code, place in at.items()}
    assert described["J00"] == "Acute nasopharyngitis [common cold]"
    assert described["I10"] == "Essential (primary) hypertension"
    assert described["E11.9"] == "Type 2 diabetes mellitus without complications"
    assert icd.chapters[icd.chapter[at["E11.9"]]].startswith("Endocrine, nutritional")
    assert icd.chapters[icd.chapter[at["U07.1"]]].startswith("Codes for special purposes")
    under = {term: icd.codes[code] for term, code in zip(icd.terms, icd.code, strict=True)}
    assert under["Classical cholera"] == "A00.0"
    assert under["Acute rhinitis"] == "J00"


def test_a_code_stands_in_the_chapter_of_its_letter(pulled: Ensure) -> None:
    pulled("icd10")
    icd = load_icd10()
    letters = [{code[0] for code, at in zip(icd.codes, icd.chapter, strict=True) if at == place}
               for place in range(22)]  # fmt: skip
    assert letters[:3] == [{"A", "B"}, {"C", "D"}, {"D"}]
    assert letters[8] == {"I"}
    assert letters[18] == {"S", "T"}
    assert letters[21] == {"U"}


def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *contents: bytes) -> Source:
    """A source of these files, pinned and already pulled."""
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    (tmp_path / "madeup").mkdir()
    members = []
    for place, content in enumerate(contents):
        (tmp_path / "madeup" / f"{place}.tab").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        members.append(Member(f"{place}.tab", digest, len(content)))
    return Source(
        "madeup", "Made up", "", "madeup", "", "", "", "1.0", "0" * 64, "digits", tuple(members)
    )


def test_of_a_tab_file_header_and_broken_lines_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = b"Category\tText\nd\tstring\nclass\t\n"
    train = header + b"b\tsame text\na\tone\n\nno tab\na\tb\tc\n"
    what = made_up(tmp_path, monkeypatch, train, header + b"a\tsame text\nb\ttwo\n")
    monkeypatch.setattr(TEXTS, "source", lambda _: what)
    first, second = TEXTS._collection("madeup", (2, 2))
    assert (first.texts, first.y.tolist(), first.classes) == (("one",), [0], ("a", "b"))
    assert (second.texts, second.y.tolist()) == (("same text", "two"), [0, 1])
    with pytest.raises(DataError, match=r"has the right bytes but was read as \(2, 2\) rows"):
        TEXTS._collection("madeup", (3, 2))


def test_another_header_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = made_up(tmp_path, monkeypatch, b"Text\tCategory\n\n\n", b"\n")
    monkeypatch.setattr(TEXTS, "source", lambda _: what)
    with pytest.raises(DataError, match="a header of"):
        TEXTS._collection("madeup", (0, 0))


def test_no_entity_is_expanded() -> None:
    laughs = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(12))
    bomb = f'<!DOCTYPE x [<!ENTITY a0 "ha">{laughs}]><x>&a12;</x>'.encode()
    with pytest.raises(DataError, match="document type declaration"):
        TEXTS._parsed(bomb, "icd10")
    outside = b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]><x>&f;</x>'
    with pytest.raises(DataError, match="document type declaration"):
        TEXTS._parsed(outside, "icd10")
    assert TEXTS._parsed(b"<x><y>1 &lt; 2</y></x>", "icd10").findtext("y") == "1 < 2"


def test_values_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"y has shape \(1,\); with 2 texts"):
        Texts(("a", "b"), np.array([0]), ("x",), ORIGIN)
    with pytest.raises(ValueError, match=r"y holds 0 \.\.\. 1; with 1 classes it takes 0 \.\.\. 0"):
        Texts(("a", "b"), np.array([0, 1]), ("x",), ORIGIN)
    codes = {"codes": ("A",), "descriptions": ("a",), "chapters": ("I",), "origin": ORIGIN}
    with pytest.raises(ValueError, match="1 codes but 0 descriptions"):
        Terms(**{**codes, "descriptions": ()}, chapter=np.array([0]), terms=(), code=np.array([]))
    with pytest.raises(ValueError, match=r"code holds 1 \.\.\. 1; with 1 codes"):
        Terms(**codes, chapter=np.array([0]), terms=("t",), code=np.array([1]))


def test_taken_texts_keep_their_subjects_and_are_read_only() -> None:
    texts = Texts(("a", "b", "c"), np.array([0, 1, 1]), ("x", "y"), ORIGIN)
    some = texts.take(np.array([2, 0]))
    assert (some.texts, some.y.tolist(), some.classes) == (("c", "a"), [1, 0], ("x", "y"))
    with pytest.raises(ValueError, match="read-only"):
        some.y[0] = 0
