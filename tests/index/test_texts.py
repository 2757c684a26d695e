"""Columns of text, which cost by their characters: in memory, in files, and after an erasure."""

from __future__ import annotations

import copy
import json
import pickle
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlab.erasure import Fingerprints, audit_erasure, content_hash
from fedlab.index.file import INDEX, IndexFileError
from fedlab.index.texts import TextColumn, folded
from fedlab.index.vectorindex import VectorIndex
from tests.helpers import filled, normal

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
FORMS: list[Callable[[list[str]], Any]] = [
    list,
    np.array,
    pd.Series,
    lambda texts: np.array(texts, object),
    lambda texts: np.array(texts, np.dtypes.StringDType()),
]


def held(index: VectorIndex) -> str:
    """All characters that the index's columns of text hold, room to spare included."""
    owners = [part.base if part.base is not None else part for _, part in index.memory()]
    found = [one.tobytes().decode("utf-32-le", "replace") for one in owners if one.dtype == "u4"]
    return "".join(found)


@pytest.mark.parametrize("form", FORMS)
def test_one_long_label_among_many_costs_its_characters(
    form: Callable[[list[str]], Any], tmp_path: Path
) -> None:
    rows, labels = np.ones((100_000, 2), np.float32), ["a"] * 100_000
    labels[7] = "b" * 10_000
    if form is not np.array:  # what NumPy makes of it takes 4 GB before we see it
        labels = form(labels)
    tracemalloc.start()
    try:
        index = VectorIndex(2)
        index.add(rows, labels=labels, metadata={"note": labels})
        index.save(tmp_path / "ward.index")
        opened = VectorIndex.open(tmp_path / "ward.index")
        for one in (index, opened):
            assert np.flatnonzero(one.passing("label != 'a'")).tolist() == [7]
            assert np.flatnonzero(one.passing("note.str.contains('bb')")).tolist() == [7]
            assert one.labels_of([6, 7]).tolist() == ["a", "b" * 10_000]
            found = one.labels
            assert found is not None
            assert (found[7], set(found[:7].tolist())) == ("b" * 10_000, {"a"})
        assert content_hash(opened) == content_hash(index)
        index.erase([7])
        assert index.labels is not None
        assert index.labels.dtype == "<U1"
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert (tmp_path / "ward.index").stat().st_size < 4e6


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_text_goes_round(data: st.DataObject) -> None:
    index, expected = VectorIndex(2), dict[int, str]()
    long = data.draw(st.sampled_from([0, 0, 1_100]))
    for _ in range(data.draw(st.integers(1, 5))):
        texts = data.draw(st.lists(TEXT, min_size=1, max_size=5))
        texts = [text * long or text for text in texts]
        form = data.draw(st.sampled_from(FORMS))
        keys = index.add(normal(len(texts), 2), labels=form(texts), metadata={"t": texts}).tolist()
        expected |= dict(zip(keys, texts, strict=True))
        gone = data.draw(st.lists(st.sampled_from(sorted(expected)), unique=True, max_size=3))
        if len(gone) < len(expected):
            data.draw(st.sampled_from([index.remove, index.erase]))(gone)
            for key in gone:
                del expected[key]
    start = data.draw(st.integers(0, len(index)))
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder, "index"))
        opened = VectorIndex.open(Path(folder, "index"))
        index.view(start, len(index)).save(Path(folder, "part"))
        part = VectorIndex.open(Path(folder, "part"))
    for one in (index, opened, copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        assert one.labels is not None
        assert one.labels.tolist() == list(expected.values())
        assert one.metadata["t"].tolist() == list(expected.values())
        assert content_hash(one) == content_hash(index)
    wanted = list(expected.values())
    assert part.labels is not None
    assert part.labels.tolist() == wanted[start:]
    for piece in {text[:2] for text in wanted if "'" not in text and "\\" not in text}:
        if piece.isprintable():
            for text, mask in (
                (f"label == '{piece}'", [text == piece for text in wanted]),
                (f"label >= '{piece}'", [text >= piece for text in wanted]),
                (f"t.str.contains('{piece}')", [piece in text for text in wanted]),
                (f"t.str.startswith('{piece}')", [text.startswith(piece) for text in wanted]),
            ):
                assert index.passing(text).tolist() == mask
    assert index.passing("label == t").all()
    assert index.passing("label <= t and 'x' in ['x'] or label > t").all()


def test_the_hash_is_what_it_was_of_text_as_wide_as_the_longest() -> None:
    index = filled(np.eye(2, dtype=np.float32)[[0, 1, 0]], labels=["é", "", "日本🙂"])
    # Written down when columns of text were NumPy's own.
    assert content_hash(index) == "77c4dc036c3fe8edc02c13113bf50008365aaaa783b040c329c2e4ac5e1bffca"


def test_half_a_character_stays_beside_a_long_text() -> None:
    index = filled(normal(1, 2), labels=["\ud800"])
    index.add(normal(1, 2), labels=["b" * 2_000])
    assert index.labels is not None
    assert index.labels.tolist() == ["\ud800", "b" * 2_000]
    with pytest.raises(ValueError, match="labels: a long text with half a character"):
        index.add(normal(1, 2), labels=["\ud800" * 2_000])


SECRET = "a very rare disease indeed"


@pytest.mark.parametrize("way", ["remove", "erase"])
def test_a_text_that_no_row_has_any_more_is_gone(way: str, tmp_path: Path) -> None:
    index = filled(normal(4, 8), labels=["kept", SECRET, "kept", SECRET], metadata={"t": ["b"] * 4})
    index.add(normal(1, 8), labels=["kept"], metadata={"t": [SECRET]})
    fingerprints = Fingerprints.taken(index, [1, 3, 4])
    assert SECRET in held(index)
    getattr(index, way)([1, 4])
    assert SECRET in held(index)  # row 3 has it
    getattr(index, way)([3])
    assert SECRET not in held(index)
    index.save(tmp_path / "index")
    assert SECRET.encode("utf-32-le") not in (tmp_path / "index").read_bytes()
    assert audit_erasure(index, fingerprints, files=[tmp_path / "index"]).clean


def test_what_leaves_a_view_takes_no_text_of_other_rows(tmp_path: Path) -> None:
    index = filled(normal(4, 8), labels=["kept", SECRET, "kept", "kept"])
    view = index.view(2, 4)
    assert SECRET in held(view)  # it shares memory, as it shares that of the rows
    view.save(tmp_path / "view")
    for sent in ((tmp_path / "view").read_bytes(), pickle.dumps(view)):
        assert SECRET.encode("utf-32-le") not in sent
    assert SECRET not in held(copy.deepcopy(view))
    fingerprints = Fingerprints.taken(index, [1])
    assert index.erase([1]).still_held == (f"{view!r}: codes, keys, labels, squares",)
    assert audit_erasure([index, view], fingerprints).verdict == "found"
    view.let_go()
    assert audit_erasure([index, view], fingerprints).clean


def test_rows_that_come_one_by_one_repeat_no_text_for_long() -> None:
    index = VectorIndex(2)
    for number in range(500):
        index.add(normal(1, 2), labels=[f"class {number % 3}"])
    assert index.labels is not None
    assert index.labels.tolist() == [f"class {number % 3}" for number in range(500)]
    other = filled(normal(500, 2), labels=index.labels)
    assert index.nbytes < 3 * other.nbytes


ALTERED: dict[str, Callable[[dict[str, NDArray[Any]]], object]] = {
    "codes beyond": lambda a: a.update(labels=np.int32([0, 2])),
    "codes below": lambda a: a.update(labels=np.int32([0, -1])),
    "codes too wide": lambda a: a.update(labels=np.int64([0, 1])),
    "codes by two": lambda a: a.update(labels=np.int32([[0, 1]])),
    "fewer codes": lambda a: a.update(labels=np.int32([0])),
    "ends that fall": lambda a: a.update({"ends:labels": np.int64([7, 5])}),
    "ends below": lambda a: a.update({"ends:labels": np.int64([-1, 5])}),
    "ends early": lambda a: a.update({"ends:labels": np.int64([3, 4])}),
    "ends late": lambda a: a.update({"ends:labels": np.int64([3, 6])}),
    "no ends": lambda a: a.pop("ends:labels"),
    "ends of floats": lambda a: a.update({"ends:labels": np.float64([3, 5])}),
    "no text": lambda a: a.pop("text:labels"),
    "text beyond Unicode": lambda a: a["text:labels"].__setitem__(0, 0x110000),
    "text of others": lambda a: a.update({"text:keys": a["text:labels"]}),
    "ends of nothing": lambda a: a.update({"ends:meta:x": a["ends:labels"]}),
    "keys as text": lambda a: a.update(keys=a["labels"], **{"ends:keys": a["ends:labels"]}),
}


@pytest.mark.parametrize("change", ALTERED.values(), ids=ALTERED)
def test_text_in_a_file_is_checked(
    change: Callable[[dict[str, NDArray[Any]]], object], tmp_path: Path
) -> None:
    path = tmp_path / "ward.index"
    filled(normal(2, 3), labels=["ab", "c"]).save(path)
    parameters, read = INDEX.read(path)
    arrays = {name: np.array(part) for name, part in read.items()}
    INDEX.write(path, json.loads(json.dumps(parameters)), arrays)
    VectorIndex.open(path)  # the control
    change(arrays)
    INDEX.write(path, json.loads(json.dumps(parameters)), arrays)
    with pytest.raises(IndexFileError):
        VectorIndex.open(path)


def test_no_text_beyond_unicode_is_taken_from_an_older_file() -> None:
    odd = np.array([0x110000], np.uint32).view("<U1")
    with pytest.raises(ValueError, match="beyond Unicode"):
        TextColumn.of(odd)
    assert folded({"labels": odd}) == {"labels": odd}
