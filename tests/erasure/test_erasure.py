"""Erased rows are nowhere; rows that were only removed are found."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedlab import (
    Device,
    Federation,
    Key,
    Passphrase,
    Population,
    SoftmaxRegression,
    VectorIndex,
    spread,
    write_population,
)
from fedlab.data import embed, iid, load_digits
from fedlab.erasure import (
    Certificate,
    CertificateError,
    Fingerprints,
    audit_erasure,
    compare_ways,
    content_hash,
    erase_across,
    erase_and_audit,
)
from fedlab.files.atomic import replacing
from fedlab.files.sealing import sealed
from tests.federations import class_device
from tests.helpers import DTYPES, METRICS, filled, normal

#: So that a row of one bit a number takes more than 16 bytes.
DIM = 136

posix = pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")
GONE = [3, 40, 41, 99]


def labelled(metric: str = "l2sq", dtype: str = "f32", rows: int = 100) -> VectorIndex:
    """An index whose every label stands in one row alone."""
    texts = [f"case {n:03d} of Dr. {chr(65 + n % 26)}" for n in range(rows)]
    return filled(normal(rows, DIM), metric, dtype, labels=texts)


def bytes_of(index: VectorIndex, keys: Any) -> list[bytes]:
    """The stored bytes of rows, taken without the package under test."""
    codes = index._table.columns["codes"]
    return [codes[row].tobytes() for row in np.flatnonzero(np.isin(index.keys, keys))]


# -- erased for certain --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("key", [None, Key.generate()], ids=["plain", "sealed"])
def test_after_erase_and_save_nothing_is_left(dtype, metric, key, tmp_path):
    index, path = labelled(metric, dtype), tmp_path / "ward"
    index.build_graph()
    index.save(path, key)
    fingerprints, codes = Fingerprints.taken(index, GONE), bytes_of(index, GONE)
    labels = index.labels_of(GONE).tolist()
    before = audit_erasure(index, fingerprints, files=[path], key=key)
    assert before.verdict == "found"
    assert {f.place for f in before.found} >= {"memory: the buffer of codes", str(path)}
    assert {f.key for f in before.found} == set(GONE)
    index.erase(GONE)
    index.build_graph()
    index.save(path, key)
    after = audit_erasure(index, fingerprints, files=[path], key=key)
    assert after.clean, str(after)
    assert after.looked_at["memory: the graph"] > 0
    if key is None:
        assert not any(code in path.read_bytes() for code in codes)
        assert not any(label.encode("utf-32-le") in path.read_bytes() for label in labels)
    assert len(index) == 96
    assert not set(GONE) & set(index)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_control_finds_what_other_ways_leave(dtype, tmp_path):
    index = labelled("cosine", dtype)
    audits = compare_ways(index, GONE, tmp_path)
    assert {name: audit.verdict for name, audit in audits.items()} == {
        "usearch remove": "found",
        "remove": "found",
        "erase": "clean",
    }
    places = {name: {f.place for f in audit.found} for name, audit in audits.items()}
    assert places["usearch remove"] == {str(tmp_path / "usearch")}
    assert places["remove"] <= {
        "memory: the graph",
        "memory: a buffer that the graph borrowed",
    }
    for audit in (audits["usearch remove"], audits["remove"]):
        assert {finding.key for finding in audit.found} == set(GONE)
    assert len(index) == 100, "what is compared stays as it was"


def test_rows_that_are_erased_leave_what_is_kept_as_it_was():
    index, whole = labelled(), labelled()
    index.erase(GONE)
    kept = np.setdiff1d(np.arange(100), GONE)
    np.testing.assert_array_equal(index.keys, kept)
    np.testing.assert_array_equal(index.vectors, whole.get(kept))
    np.testing.assert_array_equal(index.labels, whole.labels_of(kept))
    assert index.add(normal(1, DIM), labels=["x"]).tolist() == [100], "keys are not given twice"


def test_all_or_nothing():
    index = labelled()
    before, edits = content_hash(index), index.edits
    with pytest.raises(KeyError, match="1000"):
        index.erase([3, 1000])
    assert (content_hash(index), index.edits) == (before, edits)


def test_room_to_spare_holds_nothing_of_a_row_that_went():
    index = labelled()
    for number in range(5):  # leaves freed memory of the sizes that growing asks for
        index.add(normal(60, DIM, seed=number + 1), labels=["y"] * 60)
        fingerprints = Fingerprints.taken(index, index.keys[:50])
        index.erase(index.keys[:50])
        index.add(normal(7, DIM, seed=99 + number), labels=["z"] * 7)
        room = index._table._room
        assert room is not None
        assert len(room.buffers["codes"]) > len(index)
        assert not room.buffers["codes"][len(index) :].any()
        assert audit_erasure(index, fingerprints).clean


def test_the_width_of_texts_does_not_tell_of_a_long_one():
    index = filled(normal(3, 8), labels=["a", "a very rare disease indeed", "bc"])
    index.erase([1])
    assert index.labels is not None
    assert index.labels.dtype == "<U2"
    index.erase([0, 2])
    assert len(index) == 0


# -- what others still hold ----------------------------------------------------------------------


def test_a_certificate_names_memory_that_a_view_or_an_array_still_holds():
    index = labelled()
    view = index.view(0, 50)
    codes = bytes_of(index, [3])[0]
    fingerprints = Fingerprints.taken(index, [3])
    assert index.erase([3]).still_held == (f"{view!r}: codes, keys, labels, squares",)
    assert view.vectors[3].tobytes() == codes, "a view reads on what it read"
    assert audit_erasure(index, fingerprints).clean
    assert audit_erasure(view, fingerprints).verdict == "found"
    handed_out = view.vectors
    assert view.erase([]).still_held == ("something else: codes",)
    assert audit_erasure(view, fingerprints).verdict == "found", "the row is the view's own, too"
    del handed_out
    assert view.erase([3]).still_held == ()
    assert audit_erasure(view, fingerprints).clean


def test_fingerprints_are_taken_of_an_index():
    with pytest.raises(TypeError, match="index is an object of type list; give a VectorIndex"):
        Fingerprints.taken([labelled()], [3])


def test_a_buffer_behind_a_view_is_searched_whole():
    index = labelled()
    fingerprints, view = Fingerprints.taken(index, [99]), index.view(0, 50)
    found = audit_erasure(view, fingerprints).found
    assert {(f.place, f.form) for f in found} >= {("memory: the buffer of codes", "f32")}
    view.erase([])
    assert audit_erasure(view, fingerprints).clean


@pytest.fixture
def sharing() -> list[Device]:
    digits = load_digits()
    return spread(digits, iid(len(digits), devices=4, seed=0))


def test_who_shares_a_store_is_named_until_all_have_let_go(sharing):
    gone = int(sharing[2].index.keys[5])
    fingerprints = Fingerprints.taken(sharing[2].index, [gone])
    others = [sharing[0], sharing[1], sharing[3]]
    held = sharing[2].erase([gone]).still_held
    assert held == tuple(f"{one!r}: codes, keys, labels, squares" for one in others)
    while others:
        audit = audit_erasure(sharing, fingerprints)
        assert {finding.place.split(",")[0] for finding in audit.found} == {
            f"memory: {others[0]!r}"
        }
        others.pop(0).let_go()
    assert audit_erasure(sharing, fingerprints).clean


@pytest.mark.parametrize("key", [None, Key.generate()], ids=["plain", "sealed"])
def test_one_call_erases_a_row_from_all_devices_that_share_it(sharing, key):
    alone = class_device("alone", [0, 1] * 5)
    sharing = [sharing[0].hold_out(0.2, seed=1), sharing[0], *sharing[1:], alone]
    untouched = alone.index.keys
    sharing[0].training_rows(), sharing[1].training_rows()
    gone = [int(sharing[1].training_keys[5]), int(sharing[2].index.keys[100])]
    prints = [Fingerprints.taken(sharing[n].index, [k]) for n, k in zip((1, 2), gone, strict=True)]
    kept = {device.id: set(device.index.keys.tolist()) - set(gone) for device in sharing[1:4]}
    certificates = erase_across(sharing, [*gone, gone[0]], key)
    assert {n: c.keys for n, c in certificates.items()} == {0: (gone[0],), 1: (gone[1],)}
    for certificate in certificates.values():
        assert certificate.still_held == ()
        if key is not None:
            certificate.verify(key)
    assert all(audit_erasure(sharing, one).clean for one in prints)
    for device in sharing[1:4]:
        assert set(device.index.keys.tolist()) == kept[device.id]
    assert np.shares_memory(alone.index.keys, untouched), "who shares nothing copies nothing"
    assert len(sharing[0].training()[0]) == sharing[0].rows


def test_what_others_hold_is_named_after_one_call_too(sharing):
    handed_out, gone = sharing[3].index.vectors, int(sharing[0].index.keys[0])
    (certificate,) = erase_across(sharing, gone).values()
    assert certificate.still_held == ("something else: codes",)
    assert len(handed_out)


def test_a_key_on_two_devices_or_on_none_is_asked_about():
    one, other = class_device("a", [0, 1] * 5), class_device("b", [0, 1] * 5)
    with pytest.raises(KeyError, match=r"\[77\] are on none of these devices"):
        erase_across([one, other], [3, 77])
    with pytest.raises(ValueError, match=r"\['a', 'b'\] have rows of the same key; name one"):
        erase_across([one, other], [3])
    assert (len(one.index), len(other.index)) == (10, 10)
    erase_across([one, other], [3], device="b")
    assert (3 in one.index, 3 in other.index) == (True, False)
    with pytest.raises(ValueError, match="no index was given"):
        audit_erasure([], Fingerprints.taken(one.index, [3]))


def test_vectors_that_embed_kept_are_searched(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    texts = [f"patient {n + 100} has a cough" for n in range(20)]
    for keep, verdict in ((False, "clean"), (True, "found")):
        index = VectorIndex(32)
        index.add(embed(texts, "hashing", dimensions=32, keep=keep).vectors)
        fingerprints = Fingerprints.taken(index, [7])
        index.erase([7])
        audit = audit_erasure(index, fingerprints)
        assert audit.verdict == verdict
    assert {Path(finding.place).parent for finding in audit.found} == {tmp_path / "vectors"}


def test_a_device_lets_go_of_what_it_derived_and_of_held_out_keys():
    device = class_device(1, [0, 1] * 20).hold_out(0.2, seed=0)
    device.training_rows().moments.sum()
    Federation([device], SoftmaxRegression(4, 2)).run(2)
    gone = [
        int(device.validation_keys[0]),
        *np.setdiff1d(device.index.keys, device.validation_keys)[:2],
    ]
    assert device.erase(gone).still_held == ()
    assert (device.rows, device.validation_rows) == (30, 7)
    assert len(device.training()[0]) == 30
    with pytest.raises(KeyError):
        device.erase(gone)


def test_a_population_s_store_keeps_what_a_device_erases_and_is_named_and_searched(tmp_path):
    draw = np.random.default_rng(0)
    wards = [(f"ward {n}", draw.normal(size=(5, DIM)), [0, 1, 0, 1, 0]) for n in range(3)]
    write_population(tmp_path / "wards", wards, dimensions=DIM)
    population = Population(tmp_path / "wards")
    device = population[1]
    gone = device.index.keys[:2].tolist()
    fingerprints = Fingerprints.taken(device.index, gone)
    assert device.erase(gone).still_held == (f"{population!r}: codes, labels",)
    assert audit_erasure(population, fingerprints).verdict == "found", "its devices are searched"
    assert audit_erasure(device.index, fingerprints).clean
    audit = audit_erasure(device.index, fingerprints, folders=[tmp_path / "wards"])
    assert {(Path(f.place).name, f.form, f.key) for f in audit.found} == {
        ("codes.npy", "f32", key) for key in gone
    }


def test_a_graph_that_does_not_give_its_bytes_leaves_the_audit_undecided():
    index = labelled()
    fingerprints = Fingerprints.taken(index, GONE)
    index.erase(GONE)
    index.build_graph()
    assert index._graph is not None
    index._graph.to_bytes = lambda: None  # type: ignore[assignment, method-assign, return-value]
    audit = audit_erasure(index, fingerprints)
    assert (audit.verdict, list(audit.unread)) == ("undecided", ["memory: the graph"])


def test_a_copy_that_shares_memory_is_noticed():
    index = labelled()
    shallow = copy.copy(index)
    assert index.erase([3]).still_held == (f"{shallow!r}: codes, keys, labels, squares",)
    assert 3 in shallow


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_what_a_link_leads_to_is_saved_over_and_searched(tmp_path):
    index, real = labelled(), tmp_path / "real" / "ward.index"
    real.parent.mkdir()
    index.save(real)
    (tmp_path / "near").symlink_to(real)
    (tmp_path / "far").symlink_to("near")
    fingerprints = Fingerprints.taken(index, GONE)
    kept = real.with_name("ward.index.bak")
    kept.write_bytes(real.read_bytes())
    index.erase(GONE)
    index.save(tmp_path / "elsewhere")
    stale = audit_erasure(index, fingerprints, files=[tmp_path / "far"])
    assert {f.place for f in stale.found} == {str(tmp_path / "far"), str(kept)}
    index.save(tmp_path / "far")
    kept.unlink()
    assert (tmp_path / "far").is_symlink()
    assert len(VectorIndex.open(real)) == 96
    for path in (tmp_path / "far", tmp_path / "near", real):
        assert audit_erasure(index, fingerprints, files=[path]).clean


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_other_names_of_the_file_that_was_replaced_are_named(tmp_path):
    index, path = labelled(), tmp_path / "ward.index"
    index.save(path)
    (tmp_path / "backups").mkdir()
    os.link(path, tmp_path / "backups" / "yesterday")
    inode = path.stat().st_ino
    fingerprints = Fingerprints.taken(index, GONE)
    certificate = erase_and_audit(index, GONE, path)
    assert certificate.audit["verdict"] == "undecided"
    audit = audit_erasure(index, fingerprints, files=[path])
    assert audit.verdict == "undecided"
    assert [f"-inum {inode}" in why for why in audit.unread.values()] == [True]
    audit = audit_erasure(index, fingerprints, files=[path], folders=[tmp_path / "backups"])
    assert {Path(f.place).name for f in audit.found} == {"yesterday"}
    assert not audit.unread
    (tmp_path / "backups" / "lost").symlink_to("nowhere")
    audit = audit_erasure(index, fingerprints, files=[path], folders=[tmp_path / "backups"])
    assert {Path(place).name for place in audit.unread} == {"lost"}
    (tmp_path / "backups" / "yesterday").unlink()
    assert audit_erasure(VectorIndex.open(path), fingerprints, files=[path]).clean


@pytest.mark.parametrize("key", [None, Key.generate()], ids=["plain", "sealed"])
def test_older_generations_and_what_killed_saves_left_are_searched(key, tmp_path):
    index, path = labelled(), tmp_path / "ward.index"
    index.save(path, key)
    (tmp_path / "ward.index.bak").write_bytes(path.read_bytes())
    leftover = tmp_path / ".ward.index.0123456789abcdef.tmp"
    leftover.write_bytes(path.read_bytes())
    (tmp_path / "unrelated").write_bytes(normal(100, DIM).tobytes())
    fingerprints = Fingerprints.taken(index, GONE)
    index.erase(GONE)
    index.save(path)
    assert not leftover.exists(), "the next save removes it"
    index.save(path, key)
    leftover.write_bytes((tmp_path / "ward.index.bak").read_bytes())
    audit = audit_erasure(index, fingerprints, files=[path], key=key)
    assert {Path(f.place).name for f in audit.found} == {"ward.index.bak", leftover.name}
    audit = audit_erasure(index, fingerprints, files=[path], key=key, folders=[tmp_path])
    assert {Path(f.place).name for f in audit.found} == {
        "ward.index.bak",
        leftover.name,
        "unrelated",
    }


def test_a_torn_sealed_file_is_searched_as_far_as_it_opens_and_named(tmp_path):
    key, row = Key.generate(), normal(1, DIM)
    path = tmp_path / "torn"
    with path.open("wb") as file, sealed(file, key) as out:
        out.write(row.tobytes() + bytes(3 << 20))
    path.write_bytes(path.read_bytes()[: -(1 << 20)])
    fingerprints = Fingerprints.of_rows(row, [0])
    audit = audit_erasure(VectorIndex(DIM), fingerprints, folders=[tmp_path], key=key)
    assert [(f.form, f.offset) for f in audit.found] == [("f32", 0)]
    assert "torn" in audit.unread[str(path)]


def test_what_can_t_be_read_is_named_and_makes_no_clean_audit(tmp_path):
    index, key, other = labelled(), Key.generate(), Key.generate()
    fingerprints = Fingerprints.taken(index, GONE)
    index.erase(GONE)
    index.save(tmp_path / "ward", key)
    for wrong, why in ((None, "give the key"), (other, f"the key {key.id}")):
        audit = audit_erasure(index, fingerprints, files=[tmp_path / "ward"], key=wrong)
        assert audit.verdict == "undecided"
        assert why in audit.unread[str(tmp_path / "ward")]
    assert audit_erasure(index, fingerprints, files=[tmp_path / "ward"], key=[other, key]).clean
    with pytest.raises(FileNotFoundError):
        audit_erasure(index, fingerprints, files=[tmp_path / "missing"])
    with pytest.raises(FileNotFoundError):
        audit_erasure(index, fingerprints, folders=[tmp_path / "missing"])


@posix
def test_pipes_and_links_to_folders_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/usr")
    audit = audit_erasure(
        VectorIndex(DIM), Fingerprints.of_rows(normal(1, DIM), [0]), folders=[tmp_path]
    )
    assert {Path(place).name for place in audit.unread} == {"pipe", "link"}


def test_out_of_reach_is_what_it_says(tmp_path):
    # A printed copy holds the row and isn't found: the text of every audit says so.
    row = normal(1, DIM)
    np.savetxt(tmp_path / "copy.csv", row)
    audit = audit_erasure(VectorIndex(DIM), Fingerprints.of_rows(row, [0]), folders=[tmp_path])
    assert audit.clean
    assert "printed as text" in str(audit)
    assert "backups" in audit.as_dict()["out_of_reach"]


# -- shared, and not decidable -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_that_a_kept_row_has_are_shared_and_its_key_is_told(dtype):
    rows = normal(50, DIM)
    rows[7] = rows[30]
    index = filled(rows, "l2sq", dtype, labels=["influenza"] * 50)
    fingerprints = Fingerprints.taken(index, [7])
    index.erase([7])
    audit = audit_erasure(index, fingerprints)
    assert audit.clean
    assert {(f.key, f.shared_with) for f in audit.shared if f.form == dtype} == {(7, 30)}
    assert {f.form for f in audit.shared} >= {"labels, UTF-32"}
    # Rows that only round to the same codes are told apart where they are: in float32.
    apart = Fingerprints.of_rows(rows[[7]] * np.float32(1 + 1e-6), [7])
    assert not {f.form for f in audit_erasure(index, apart).found}


def test_any_text_is_looked_for():
    odd = ["\ud800 alone", "zehn µm über dem Soll", "\N{GRINNING FACE} and nothing else", ""]
    index = filled(normal(8, DIM), labels=[*odd, "a", "b", "c", "d"])
    fingerprints = Fingerprints.taken(index, [0, 1, 2, 3])
    assert fingerprints.undecidable == {"labels, UTF-32": 1, "labels, UTF-8": 2}
    found = {(f.key, f.form) for f in audit_erasure(index, fingerprints).found}
    assert {key for key, form in found if form == "labels, UTF-32"} == {0, 1, 2}
    index.erase([0, 1, 2, 3])
    assert audit_erasure(index, fingerprints).clean


def test_a_text_within_a_kept_text_is_shared():
    index = filled(normal(2, DIM), labels=["pneumonia, left", "pneumonia"])
    fingerprints = Fingerprints.taken(index, [1])
    index.erase([1])
    audit = audit_erasure(index, fingerprints)
    assert [(f.form, f.shared_with) for f in audit.shared] == [("labels, UTF-32", 0)]


def test_numpys_own_precision_is_looked_for_and_packed_files_are_named(tmp_path):
    given = np.random.default_rng(5).normal(size=(20, DIM))  # float64, more than float32 holds
    index = VectorIndex(DIM, "l2sq", "f16")
    index.add(given)
    taken, at_hand = (
        Fingerprints.taken(index, [3], vectors=given[[3]]),
        Fingerprints.of_rows(given[[3]], [3]),
    )
    index.erase([3])
    np.save(tmp_path / "given.npy", given)
    for fingerprints in (taken, at_hand):
        found = audit_erasure(index, fingerprints, folders=[tmp_path]).found
        assert [(one.form, one.key) for one in found] == [("f64", 3)]
    (tmp_path / "given.npy").unlink()
    np.savez_compressed(tmp_path / "given.npz", given=given)
    audit = audit_erasure(index, taken, folders=[tmp_path])
    assert audit.verdict == "undecided"
    assert "packed (zip or npz)" in str(audit)
    with pytest.raises(TypeError, match="give a list"):
        audit_erasure(index, taken, folders=str(tmp_path))


def test_short_codes_are_not_decidable():
    index = filled(normal(20, 8), "l2sq", "i8", labels=np.arange(20))
    fingerprints = Fingerprints.taken(index, [3])
    assert fingerprints.undecidable == {"b1": 1, "i8": 1, "labels, int64": 1}
    index.erase([3])
    audit = audit_erasure(index, fingerprints)
    assert audit.verdict == "undecided"
    assert "not decidable: i8 of 1 rows" in str(audit)


@pytest.mark.parametrize(
    "row", [np.zeros(DIM), np.ones(DIM), np.tile([1.0, 2.0], DIM // 2)], ids=str
)
def test_codes_that_repeat_a_few_bytes_are_not_decidable(row):
    index = filled(np.float32([row, *normal(3, DIM)]), "l2sq")
    fingerprints = Fingerprints.taken(index, [0])
    index.erase([0])
    assert set(fingerprints.undecidable) >= set(DTYPES)
    assert audit_erasure(index, fingerprints).verdict == "undecided"


def test_sparse_rows_side_by_side_make_no_false_alarm():
    index = filled(np.eye(DIM, dtype=np.float32)[[5, 9, 3, 6, 4]], "l2sq")
    fingerprints = Fingerprints.taken(
        index, [4]
    )  # stands across two of the others, one number aside
    index.erase([4])
    audit = audit_erasure(index, fingerprints)
    assert audit.found == ()


# -- fingerprints --------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_search_equals_plain_search_however_the_bytes_are_cut(data):
    rows = data.draw(st.integers(1, 4))
    draw = np.random.default_rng(data.draw(st.integers(0, 1000)))
    vectors = draw.integers(0, 3, (rows, 5)).astype(np.float32)
    fingerprints = Fingerprints.of_rows(vectors, np.arange(rows))
    pieces = [vectors[n].tobytes() for n in draw.integers(0, rows, 6)]
    content = b"".join(
        piece[: draw.integers(0, 21)] if draw.random() < 0.3 else piece for piece in pieces
    )
    cuts = np.sort(draw.integers(0, len(content) + 1, data.draw(st.integers(0, 6))))
    blocks = [part.tobytes() for part in np.split(np.frombuffer(content, np.uint8), cuts)]
    found = {(key, offset) for (form, key), offset in fingerprints.search(blocks) if form == "f32"}
    short = fingerprints.undecidable.get("f32", 0)
    expected = set()
    for key, row in enumerate(vectors):
        code = row.tobytes()
        if any(code == (code[:p] * 20)[:20] for p in range(1, 16)):
            short -= 1
            continue
        expected |= {(key, at) for at in range(len(content)) if content[at:].startswith(code)}
    assert short == 0
    # f32 codes of what other precisions make of a row may be another row's: small whole numbers
    # are all exact but under i8.
    assert expected <= found
    assert {
        pair for pair in found if content[pair[1] :][:20] == vectors[pair[0]].tobytes()
    } == expected


def test_fingerprints_hold_no_byte_of_a_row_and_differ_each_time():
    rows = normal(4, DIM)
    one, other = (
        Fingerprints.of_rows(rows, np.arange(4), ["a rare disease"] * 4) for _ in range(2)
    )
    held = repr(one.__dict__)
    assert "rare" not in held
    for row in rows:
        assert repr(row.tobytes())[2:-1] not in held
        assert not any(repr(float(value)) in held for value in row)
    assert not set(one._known) & set(other._known)


def test_probes_of_rows_at_hand_find_what_each_precision_made_of_them():
    rows = normal(3, DIM)
    fingerprints = Fingerprints.of_rows(rows, [0, 1, 2])
    for dtype in DTYPES:
        index = filled(rows, "l2sq", dtype)
        stored = index._table.columns["codes"].tobytes()
        decoded = index.vectors.tobytes()
        for content, form in ((stored, dtype), (decoded, "f32")):
            found = {key for (what, key), _ in fingerprints.search([content]) if what == form}
            assert found == {0, 1, 2}, (dtype, form)


def test_rows_too_large_for_a_precision_are_looked_for_in_the_others():
    rows = normal(2, DIM) * np.float32(1e6)
    found = {form for (form, _), _ in Fingerprints.of_rows(rows, [0, 1]).search([rows.tobytes()])}
    assert found == {"f32"}


def test_probes_are_refused_that_don_t_fit():
    with pytest.raises(ValueError, match="2 keys were given for 3 rows"):
        Fingerprints.of_rows(normal(3, DIM), [0, 1])
    with pytest.raises(KeyError):
        Fingerprints.taken(labelled(), [1000])


# -- mixtures ------------------------------------------------------------------------------------


@given(data=st.data())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_was_done_before_erased_rows_are_gone(data, tmp_path):
    dtype, metric = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from(METRICS))
    key = Key(b"k" * 32) if data.draw(st.booleans()) else None
    path = tmp_path / "mixed"
    index = filled(normal(40, DIM), metric, dtype)
    views, gone = [], []
    for number in range(data.draw(st.integers(1, 8))):
        step = data.draw(
            st.sampled_from(["add", "remove", "erase", "graph", "save", "open", "view"])
        )
        if step == "add":
            index.add(normal(data.draw(st.integers(1, 30)), DIM, seed=1000 + number))
        elif step == "graph":
            index.build_graph()
        elif step == "save":
            index.save(path, key)
        elif step == "open" and path.exists():
            index.save(path, key)
            index = VectorIndex.open(path, key)
        elif step == "view":
            views.append(index.view(0, len(index) // 2))
        elif step == "remove" and len(index) > 5:
            index.remove(data.draw(st.sampled_from(index.keys.tolist())))
        elif step == "erase" and len(index) > 5:
            chosen = data.draw(
                st.lists(st.sampled_from(index.keys.tolist()), min_size=1, max_size=4, unique=True)
            )
            fingerprints = Fingerprints.taken(index, chosen)
            gone.append(fingerprints)
            index.erase(chosen)
    index.save(path, key)
    opened = VectorIndex.open(path, key)
    for fingerprints in gone:
        for one in (index, opened):
            audit = audit_erasure(one, fingerprints, files=[path], key=key)
            assert audit.clean, str(audit)
    path.unlink()


# -- certificates --------------------------------------------------------------------------------


def test_erase_and_audit_in_one_step(tmp_path):
    index, key, path = labelled(), Key.generate(), tmp_path / "ward"
    index.save(path, key)
    before = content_hash(index, key)
    certificate = erase_and_audit(index, GONE, path, key=key)
    assert certificate.keys == tuple(GONE)
    assert (certificate.rows_before, certificate.rows_after) == (100, 96)
    assert (certificate.generation, index.generation) == (1, 2)
    assert certificate.hash_before == before
    opened = VectorIndex.open(path, key)
    assert certificate.hash_after == content_hash(opened, key) != content_hash(opened)
    assert certificate.audit is not None
    assert certificate.audit["verdict"] == "clean"
    assert certificate.erased.endswith("+00:00")
    certificate.verify(key)


def test_files_under_a_passphrase_are_searched(tmp_path):
    index, words = labelled(), Passphrase("correct horse battery")
    certificate = erase_and_audit(index, GONE, tmp_path / "ward", key=words)
    assert certificate.audit is not None
    assert certificate.audit["verdict"] == "clean"
    assert certificate.tag is None


def test_a_certificate_goes_to_a_file_and_back_and_shows_edits(tmp_path):
    index, key, path = labelled(), Key.generate(), tmp_path / "ward"
    certificate = erase_and_audit(index, GONE, path, key=key)
    certificate.write(tmp_path / "certificate.json")
    read = Certificate.read(tmp_path / "certificate.json")
    read.verify(key)
    assert json.loads(read.to_json()) == json.loads(certificate.to_json())
    with pytest.raises(CertificateError, match="another key"):
        read.verify(Key.generate())
    text = (tmp_path / "certificate.json").read_text()
    for old, new in (("clean", "found"), ('"rows_after": 96', '"rows_after": 95'), ("99", "98")):
        assert old in text
        (tmp_path / "edited.json").write_text(text.replace(old, new, 1))
        with pytest.raises(CertificateError, match="edited"):
            Certificate.read(tmp_path / "edited.json").verify(key)
    with pytest.raises(CertificateError, match="never signed"):
        replace(read, tag=None).verify(key)


def test_a_certificate_holds_no_row(tmp_path):
    index = labelled()
    rows, labels = index.get(GONE), index.labels_of(GONE)
    text = erase_and_audit(index, GONE, tmp_path / "ward").to_json()
    for value in rows.ravel():
        assert repr(float(value)) not in text
    assert not any(label in text for label in labels)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"keys": [1]}', b"\xff", b"[" * 100_000])
def test_what_is_no_certificate_is_refused(content, tmp_path):
    with replacing(tmp_path / "no") as file:
        file.write(content)
    with pytest.raises(CertificateError, match="is no certificate"):
        Certificate.read(tmp_path / "no")


def test_an_audit_of_other_rows_or_without_the_key_is_not_taken():
    index, key = labelled(), Key.generate()
    fingerprints, others = Fingerprints.taken(index, [3]), Fingerprints.taken(index, [4])
    certificate = index.erase([3], key)
    with pytest.raises(ValueError, match="other rows"):
        certificate.with_audit(audit_erasure(index, others), key)
    with pytest.raises(CertificateError, match="give the key"):
        certificate.with_audit(audit_erasure(index, fingerprints))
    with pytest.raises(CertificateError, match="another key"):
        certificate.with_audit(audit_erasure(index, fingerprints), Key.generate())


def test_the_content_s_hash_follows_content_alone(tmp_path):
    index = labelled()
    before = content_hash(index)
    index.build_graph()
    index.save(tmp_path / "ward")
    assert content_hash(index) == content_hash(VectorIndex.open(tmp_path / "ward")) == before
    index.add(normal(1, DIM), labels=["x"])
    assert content_hash(index) != before


def test_a_file_that_was_not_saved_anew_is_not_clean_where_a_kept_row_is_the_same(tmp_path):
    rows = normal(10, DIM)
    rows[7] = rows[3]
    index = filled(rows, keys=range(100, 110))
    index.save(tmp_path / "ward")
    fingerprints = Fingerprints.taken(index, [103])
    index.erase([103])
    stale = audit_erasure(index, fingerprints, files=[tmp_path / "ward"])
    assert stale.verdict == "undecided"
    assert "kept row 107 has the same bytes, and explains 1: save the file anew" in str(stale)
    index.save(tmp_path / "ward")
    saved = audit_erasure(index, fingerprints, files=[tmp_path / "ward"])
    assert saved.verdict == "clean"
    assert {one.shared_with for one in saved.shared} == {107}


def test_findings_as_a_frame():
    index = filled(normal(10, DIM), keys=[2**64 - 2 - n for n in range(10)])
    fingerprints = Fingerprints.taken(index, [2**64 - 2])
    frame = audit_erasure(index, fingerprints).to_frame()
    assert list(frame.columns) == [
        "place",
        "form",
        "key",
        "offset",
        "times",
        "shared_with",
        "explained",
    ]
    assert set(frame.key) == {2**64 - 2}
    assert frame.shared_with.isna().all()
    index.erase([2**64 - 2])
    assert audit_erasure(index, fingerprints).to_frame().empty
    assert Device("a", index).rows == 9
