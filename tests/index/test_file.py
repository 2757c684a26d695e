from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlab.files import arrays as files
from fedlab.files import sealing
from fedlab.files.keys import Key
from fedlab.index.engines import HNSW
from fedlab.index.file import INDEX, IndexFileError
from fedlab.index.texts import folded, plain
from fedlab.index.vectorindex import VectorIndex
from tests.helpers import DTYPES, METRICS, clustered, content, filled, normal, run_child

posix = pytest.mark.skipif(os.name == "nt", reason="needs fork, signals and pipes")


def parts_of(file: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and body of an index file."""
    _, version, header_size, body_size = struct.unpack_from("<8sIIQ", file)
    start = 24 + header_size + (32 if version > 1 else 0)
    return json.loads(file[24 : 24 + header_size]), file[start:][:body_size]


def sealed(header: Any, body: bytes, version: int = 3, magic: bytes = b"FEDLABVX") -> bytes:
    """An index file with right digests, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    head = struct.pack("<8sIIQ", magic, version, len(text), len(body)) + text
    if version < 2:
        return head + body + hashlib.blake2b(head + body, digest_size=32).digest()
    digests, start = [hashlib.sha256(head).digest()], 0
    for size in sizes_in(header):
        for place in range(start, start + size, 1 << 20):
            piece = body[place : min(place + (1 << 20), start + size)]
            digests.append(hashlib.sha256(piece).digest())
        start += size
    return head + digests[0] + body + hashlib.sha256(b"".join(digests)).digest()


def sizes_in(header: Any) -> list[int]:
    """Bytes of each array that a header describes, if it does describe some."""
    try:
        arrays = header["arrays"]
        sizes = [int(math.prod(a["shape"])) * np.dtype(a["type"]).itemsize for a in arrays]
        return sizes if 0 <= sum(sizes) < 1 << 30 else []
    except (KeyError, TypeError):
        return []


def labelled(metric: str = "cosine", dtype: str = "f32", graph: bool = True) -> VectorIndex:
    index = filled(clustered(60, 5), metric, dtype, labels=[f"é{n % 3}" for n in range(60)])
    if graph:
        index.build_graph()
    return index


# -- round trips ------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("labels", [False, True])
def test_what_was_saved_is_opened(
    metric: str, dtype: str, graph: bool, labels: bool, tmp_path: Path
) -> None:
    rows = clustered(200, 7)
    index = VectorIndex(
        7,
        metric,  # type: ignore[arg-type]
        dtype,  # type: ignore[arg-type]
        HNSW(connectivity=9, expansion_add=40, expansion_search=30),
    )
    given = {"labels": np.arange(200) / 2} if labels else {}
    index.add(rows, np.arange(200)[::-1] * 3, **given)
    index.remove([30])
    if graph:
        index.build_graph()
    index.save(tmp_path / "saved.index")
    opened = VectorIndex.open(tmp_path / "saved.index")
    assert opened.engine == index.engine
    assert (opened.metric, opened.dtype, opened.dimensions) == (metric, dtype, 7)
    assert opened.has_graph == graph
    np.testing.assert_array_equal(opened.keys, index.keys)
    np.testing.assert_array_equal(opened.vectors, index.vectors)
    assert (opened.labels is None) == (not labels)
    for exact in (True, False):
        a, b = (one.search(rows[:30], 5, exact=exact) for one in (index, opened))
        np.testing.assert_array_equal(a.keys, b.keys)
        np.testing.assert_array_equal(a.distances, b.distances)
    if opened._graph is not None:
        inner = opened._graph._index
        found = inner.connectivity, inner.expansion_add, inner.expansion_search
        assert found == (9, 40, 30)
    assert content(opened, tmp_path) == content(index, tmp_path)
    assert opened.add(rows[:1], **{name: [0.5] for name in given}).tolist() == [598]


def test_an_empty_index_is_saved_and_opened(tmp_path: Path) -> None:
    VectorIndex(3, "l2sq", "i8").save(tmp_path / "empty.index")
    opened = VectorIndex.open(tmp_path / "empty.index")
    assert len(opened) == 0
    assert opened.add([[1, 2, 3]]).tolist() == [0]


def test_a_graph_that_was_opened_takes_in_rows_and_loses_some(tmp_path: Path) -> None:
    index = labelled("l2sq")
    index.save(tmp_path / "saved.index")
    opened = VectorIndex.open(tmp_path / "saved.index")
    more = normal(30, 5, seed=4)
    opened.add(more, labels=["new"] * 30)
    opened.remove([0, 1, 61])
    hits = opened.search(opened.vectors, 1, exact=False)
    assert (hits.distances == 0).all()
    assert opened._graph is not None
    assert (opened._graph.entries, opened._graph.removed) == (89, 2)  # 61 was not in it yet


def test_a_graph_with_removed_rows_stays_out_of_the_file(tmp_path: Path) -> None:
    index = labelled()
    index.remove([3])
    index.save(tmp_path / "saved.index")
    assert index.has_graph
    assert not VectorIndex.open(tmp_path / "saved.index").has_graph
    index.save(tmp_path / "saved.index", rebuild=True)
    opened = VectorIndex.open(tmp_path / "saved.index")
    assert opened.has_graph
    assert set(opened.search(opened.vectors, 3, exact=False).keys.ravel()) <= set(opened.keys)


@posix
def test_the_file_is_the_owners(tmp_path: Path) -> None:
    labelled().save(tmp_path / "saved.index")
    assert (tmp_path / "saved.index").stat().st_mode & 0o077 == 0


def test_saving_over_the_file_of_an_open_index_changes_nothing_in_it(tmp_path: Path) -> None:
    path = tmp_path / "saved.index"
    labelled().save(path)
    opened = VectorIndex.open(path)
    before = content(opened, tmp_path)
    filled(normal(3, 2)).save(path)
    assert content(opened, tmp_path) == before
    path.write_bytes(b"")
    assert content(opened, tmp_path) == before
    opened.search(opened.vectors, 3, exact=False)


@pytest.mark.parametrize(
    ("name", "error"), [("no/saved.index", FileNotFoundError), ("folder", IsADirectoryError)]
)
def test_places_where_nothing_can_be_saved(
    name: str, error: type[Exception], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(error, match="folder"):
        labelled().save(tmp_path / name)


# -- files that are no whole index ------------------------------------------------------------


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        VectorIndex.open(tmp_path / "missing.index")


def usearch_file(path: Path) -> None:
    from usearch.index import Index

    theirs = Index(ndim=4, metric="cos", dtype="f32")
    theirs.add(np.arange(10, dtype=np.uint64), normal(10, 4))
    theirs.save(str(path))


OTHERS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("key,vector\n1,2\n" * 100),
    "image": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000)),
    "numpy": lambda path: np.save(path.open("wb"), normal(3, 3)),
    "usearch": usearch_file,
    "folder": lambda path: path.mkdir(),
    "magic only": lambda path: path.write_bytes(b"FEDLABVX"),
    "magic and zeros": lambda path: path.write_bytes(b"FEDLABVX" + bytes(200)),
    "magic and ones": lambda path: path.write_bytes(b"FEDLABVX" + b"\xff" * 200),
}
if hasattr(os, "mkfifo"):
    OTHERS["pipe"] = lambda path: os.mkfifo(path)
if os.path.exists("/dev/zero"):
    OTHERS["device"] = lambda path: path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_kinds_of_file_are_named(make: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "other.index"
    make(path)
    with pytest.raises(IndexFileError, match=r"^other\.index .*\b(index|torn)\b"):
        VectorIndex.open(path)


DAMAGE = """
import random, sys
from pathlib import Path
from fedlab.index.engines import HNSW
from fedlab.index import VectorIndex
from fedlab.index.file import IndexFileError

path, other = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
whole = path.read_bytes()
draw = random.Random(int(sys.argv[3]))
trial = path.with_name("trial.index")
header = 24 + int.from_bytes(whole[12:16], "little")

def flipped():
    file = bytearray(whole)
    # Half of them in the first bytes and the header, where they might steer the reader.
    stop = draw.choice([header, len(file)])
    for _ in range(draw.choice([1, 1, 2, 50])):
        file[draw.randrange(stop)] ^= 1 << draw.randrange(8)
    return bytes(file)

def cut():
    return whole[: draw.randrange(len(whole))]

def grown():
    return whole + draw.randbytes(draw.randrange(1, 100))

def holed():
    start = draw.randrange(len(whole))
    return whole[:start] + whole[start + draw.randrange(1, 100) :]

def zeroed():
    start = draw.randrange(len(whole) - 1)
    stop = draw.randrange(start + 1, len(whole) + 1)
    return whole[:start] + bytes(stop - start) + whole[stop:]

def swapped():
    place = draw.randrange(1, min(len(whole), len(other)))
    return whole[:place] + other[place:]

refused = 0
for number in range(360):
    if number % 60 == 0:
        trial.write_bytes(whole)
        assert len(VectorIndex.open(trial).search([[1.0] * 5], 3, exact=False).keys) == 1
    damaged = (flipped, flipped, flipped, cut, grown, holed, zeroed, swapped)[number % 8]()
    if damaged == whole or damaged == other:
        continue
    trial.write_bytes(damaged)
    try:
        VectorIndex.open(trial)
    except IndexFileError as error:
        refused += 1
        assert "trial.index" in str(error)
    else:
        raise AssertionError(f"number {number} was opened")
print(refused)
"""


@pytest.mark.parametrize("dtype", DTYPES)
def test_damaged_files_are_refused_and_never_end_the_process(dtype: str, tmp_path: Path) -> None:
    labelled("cosine", dtype).save(tmp_path / "whole.index")
    labelled("l2sq", dtype, graph=False).save(tmp_path / "other.index")
    refused = run_child(DAMAGE, tmp_path / "whole.index", tmp_path / "other.index", dtype[-1])
    assert int(refused) > 330


@pytest.mark.parametrize("version", [0, 4, 2**32 - 1])
def test_another_version_with_a_right_digest_is_named(version: int, tmp_path: Path) -> None:
    path = tmp_path / "later.index"
    path.write_bytes(sealed(*parts_of(content(labelled(), tmp_path)), version=version))
    with pytest.raises(IndexFileError, match=f"has version {version}; this library reads version"):
        VectorIndex.open(path)


@pytest.mark.parametrize(
    ("header_size", "body_size"),
    [(2**32 - 1, 0), (0, 2**64 - 1), (2**20 + 1, 100), (2**32 - 1, 2**64 - 1), (0, 2**40)],
)
def test_enormous_lengths_allocate_nothing(
    header_size: int, body_size: int, tmp_path: Path
) -> None:
    path = tmp_path / "huge.index"
    path.write_bytes(struct.pack("<8sIIQ", b"FEDLABVX", 1, header_size, body_size) + bytes(200))
    with pytest.raises(IndexFileError, match="announces"):
        VectorIndex.open(path)


def test_a_sparse_giant_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "giant.index"
    with path.open("wb") as file:
        file.write(struct.pack("<8sIIQ", b"FEDLABVX", 1, 10, 10))
        file.truncate(2**40)
    with pytest.raises(IndexFileError, match="announces"):
        VectorIndex.open(path)


# -- forged files: the digest fits, the content does not ----------------------------------------


def forged(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any], bytes], bytes]:
    def build(header: dict[str, Any], body: bytes) -> bytes:
        change(header)
        return sealed(header, body)

    return build


def parameter(name: str, value: Any) -> Callable[[dict[str, Any], bytes], bytes]:
    return forged(lambda header: header["parameters"].update({name: value}))


def entry(place: int, name: str, value: Any) -> Callable[[dict[str, Any], bytes], bytes]:
    return forged(lambda header: header["arrays"][place].update({name: value}))


def setting(name: str, value: Any) -> Callable[[dict[str, Any], bytes], bytes]:
    return forged(lambda header: header["parameters"]["engine"].update({name: value}))


def with_body(change: Callable[[bytearray], object]) -> Callable[[dict[str, Any], bytes], bytes]:
    def build(header: dict[str, Any], body: bytes) -> bytes:
        altered = bytearray(body)
        change(altered)
        return sealed(header, bytes(altered))

    return build


def set_bytes(start: int, value: bytes) -> Callable[[bytearray], None]:
    def change(body: bytearray) -> None:
        body[start : start + len(value)] = value

    return change


# The body of labelled(): 60 x 5 float32 codes, 60 keys, 60 labels of two letters, the graph.
FORGED: dict[str, Callable[[dict[str, Any], bytes], bytes]] = {
    "no JSON": lambda _, body: sealed(b"{", body),
    "no text": lambda _, body: sealed(b"\xff\xfe", body),
    "deep": lambda _, body: sealed(b"[" * 100_000, body),
    "a long number": lambda _, body: sealed(b"[" + b"9" * 10_000 + b"]", body),
    "null": lambda _, body: sealed(None, body),
    "a list": lambda _, body: sealed([], body),
    "nothing in it": lambda _, body: sealed({}, body),
    "no header": lambda _, body: sealed(b"", body),
    "parameters a list": forged(lambda header: header.update(parameters=[1])),
    "parameters null": forged(lambda header: header.update(parameters=None)),
    "arrays null": forged(lambda header: header.update(arrays=None)),
    "arrays of text": forged(lambda header: header.update(arrays=["codes"])),
    "no arrays": lambda header, _: sealed({**header, "arrays": []}, b""),
    "metric": parameter("metric", "hamming"),
    "metric a list": parameter("metric", ["cosine"]),
    "dtype": parameter("dtype", "f64"),
    "dtype of another": parameter("dtype", "f16"),
    "dtype a list": parameter("dtype", []),
    "dimensions 0": parameter("dimensions", 0),
    "dimensions of another": parameter("dimensions", 6),
    "dimensions huge": parameter("dimensions", 2**70),
    "dimensions text": parameter("dimensions", "5"),
    "dimensions NaN": parameter("dimensions", float("nan")),
    "connectivity": setting("connectivity", 10**9),
    "connectivity of another": setting("connectivity", 17),
    "expansion": setting("expansion_search", -1),
    "graph in another dtype": setting("dtype", "bf16"),
    "engine unknown": setting("name", "scann"),
    "engine a list": setting("name", ["graph"]),
    "engine without a name": forged(lambda header: header["parameters"]["engine"].pop("name")),
    "engine null": parameter("engine", None),
    "engine of none": parameter("engine", {}),
    "engine text": parameter("engine", "graph"),
    "engine's setting unknown": setting("path", "/etc/passwd"),
    "engine twice": parameter("connectivity", 16),
    "next key -1": parameter("next_key", -1),
    "next key low": parameter("next_key", 59),
    "next key huge": parameter("next_key", 2**64),
    "next key true": parameter("next_key", True),
    "unknown parameter": parameter("path", "/etc/passwd"),
    "no next key": forged(lambda header: header["parameters"].pop("next_key")),
    "no generation": forged(lambda header: header["parameters"].pop("generation")),
    "no engine": forged(lambda header: header["parameters"].pop("engine")),
    "no dimensions": forged(lambda header: header["parameters"].pop("dimensions")),
    "array of objects": entry(0, "type", "|O"),
    "array of records": entry(0, "type", [["a", "<f4"]]),
    "array of times": entry(0, "type", "<M8[s]"),
    "array of bytes": entry(0, "type", "|V4"),
    "array type null": entry(0, "type", None),
    "array type of no size": entry(2, "type", "<U0"),
    "array type huge": entry(2, "type", "<U999999999"),
    "array type unknown": entry(0, "type", "<f3"),
    "array of another type": entry(0, "type", "<i4"),
    "array in another order": entry(0, "type", ">f4"),
    "shape -1": entry(0, "shape", [-1, 5]),
    "shape negative twice": entry(0, "shape", [-60, -5]),
    "shape huge": entry(0, "shape", [2**40, 2**40]),
    "shape short": entry(0, "shape", [59, 5]),
    "shape turned": entry(0, "shape", [5, 60]),
    "shape flat": entry(0, "shape", [300]),
    "shape empty": entry(0, "shape", []),
    "shape of many": entry(0, "shape", [1] * 70 + [60, 5]),
    "shape text": entry(0, "shape", "ab"),
    "shape of halves": entry(0, "shape", [60.0, 5.0]),
    "shape null": entry(0, "shape", None),
    "name unknown": entry(0, "name", "cores"),
    "name twice": entry(1, "name", "codes"),
    "labels of another length": entry(2, "shape", [59]),
    "labels as numbers": entry(2, "type", "<u4"),
    "graph of another type": entry(3, "type", "|i1"),
    "bytes left over": lambda header, body: sealed(header, body + b"x"),
    "bytes missing": lambda header, body: sealed(header, body[:-1]),
    "NaN": with_body(set_bytes(40, struct.pack("<f", float("nan")))),
    "inf": with_body(set_bytes(40, struct.pack("<f", float("inf")))),
    "zero row": with_body(set_bytes(40, bytes(20))),
    "endless row": with_body(set_bytes(40, struct.pack("<f", 1e30))),
    "key twice": with_body(set_bytes(1200, struct.pack("<QQ", 7, 7))),
    "key 2**64 - 1": with_body(set_bytes(1200, b"\xff" * 8)),
    "graph of nothing": with_body(lambda body: body.__setitem__(slice(2160, None), b"")),
}


def older(header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and body as versions 1 and 2 had them: text as wide as the longest in every row."""
    arrays, start = {}, 0
    for one, size in zip(header["arrays"], sizes_in(header), strict=True):
        content = np.frombuffer(body[start : start + size], one["type"])
        arrays[one["name"]], start = content.reshape(one["shape"]), start + size
    columns = {name: plain(column) for name, column in folded(arrays).items()}
    described = [{"name": n, "type": c.dtype.str, "shape": c.shape} for n, c in columns.items()]
    return {**header, "arrays": described}, b"".join(c.tobytes() for c in columns.values())


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("build", FORGED.values(), ids=FORGED)
def test_forged_files_are_refused(
    build: Callable[[dict[str, Any], bytes], bytes],
    version: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sealed, "__defaults__", (version, b"FEDLABVX"))
    header, body = older(*parts_of(content(labelled(), tmp_path)))
    assert [array["name"] for array in header["arrays"]] == ["codes", "keys", "labels", "graph"]
    path = tmp_path / "forged.index"
    path.write_bytes(sealed(header, body))
    assert len(VectorIndex.open(path)) == 60  # the control
    path.write_bytes(build(header, body))
    with pytest.raises(IndexFileError, match=r"forged\.index"):
        VectorIndex.open(path)


def replaced_graph(graph: bytes) -> Callable[[dict[str, Any], bytes], bytes]:
    def build(header: dict[str, Any], body: bytes) -> bytes:
        header["arrays"][-1]["shape"] = [len(graph)]
        return sealed(header, body[: sum(sizes_in(header)[:-1])] + graph)

    return build


@pytest.mark.parametrize("rows", [61, 100])
def test_a_graph_of_more_rows_than_there_are_is_refused(rows: int, tmp_path: Path) -> None:
    header, body = parts_of(content(labelled(), tmp_path))
    larger = filled(clustered(rows, 5))
    larger.build_graph()
    assert larger._graph is not None
    path = tmp_path / "forged.index"
    path.write_bytes(replaced_graph(larger._graph.to_bytes())(header, body))
    with pytest.raises(IndexFileError, match=f"{rows} entries for 60 rows"):
        VectorIndex.open(path)


def test_a_graph_of_another_version_of_usearch_is_left_out_and_said(tmp_path: Path) -> None:
    header, body = parts_of(content(labelled(), tmp_path))
    header["parameters"]["library"] = "USearch 1.0.0"
    path = tmp_path / "old.index"
    path.write_bytes(sealed(header, body))
    with pytest.warns(UserWarning, match=r"written by USearch 1\.0\.0"):
        opened = VectorIndex.open(path)
    assert not opened.has_graph
    assert opened.search(opened.vectors[:1], 1, exact=False).keys.tolist() == [[0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labelled(graph=False).save(path)
        VectorIndex.open(path)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("key", [None, Key.generate()], ids=["plain", "sealed"])
def test_files_of_older_versions_are_opened(version: int, key: Key | None, tmp_path: Path) -> None:
    index, path = labelled(), tmp_path / "old.index"
    old = sealed(*older(*parts_of(content(index, tmp_path))), version=version)
    with path.open("wb") as file, sealing.sealed(file, key) if key else nullcontext(file) as out:
        out.write(old)
    opened = VectorIndex.open(path, key)
    assert opened.has_graph
    assert content(opened, tmp_path)[24:] == content(index, tmp_path)[24:]
    if key is None:
        for place in (len(old) - 1, len(old) // 2, 30):
            altered = bytearray(old)
            altered[place] ^= 1
            path.write_bytes(altered)
            with pytest.raises(IndexFileError, match=r"old\.index"):
                VectorIndex.open(path)


@pytest.mark.parametrize("rows", [1, 8191, 8192, 8193, 40_000])
def test_each_piece_of_each_array_is_checked(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.index"
    arrays = {"a": normal(rows, 32), "b": np.arange(rows), "c": np.zeros(rows, np.int8)}
    INDEX.write(path, {"p": 1}, arrays)
    for threads in ("1", "4"):
        monkeypatch.setenv("FEDLAB_THREADS", threads)
        _, found = INDEX.read(path)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
        assert not np.may_share_memory(found["a"], found["b"])
    whole = path.read_bytes()
    assert whole == sealed(*parts_of(whole)), "as the layout says"
    start, piece = len(whole) - 32 - sum(array.nbytes for array in arrays.values()), 1 << 20
    places = {0, 20, start - 40, start - 1, start, len(whole) - 33, len(whole) - 1}
    places |= {min(start + n * piece + m, len(whole) - 1) for n in range(1, 5) for m in (-1, 0)}
    for place in places:
        altered = bytearray(whole)
        altered[place] ^= 16
        path.write_bytes(altered)
        with pytest.raises(IndexFileError, match=r"large\.index is "):
            INDEX.read(path)


def test_a_file_that_shrinks_while_it_is_read_is_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, take = tmp_path / "shrinking.index", files._bytes_from
    INDEX.write(path, {}, {"a": normal(50_000, 32)})

    def shrink(*given: Any) -> bytes:
        os.truncate(path, 1 << 20)
        return take(*given)

    monkeypatch.setattr(files, "_bytes_from", shrink)
    with pytest.raises(IndexFileError, match=r"shrinking\.index is torn"):
        INDEX.read(path)


def test_arrays_of_any_shape_and_order_are_written_and_read(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(12, dtype=np.int16).reshape(3, 4).T[::2],
        "b": np.array(["x", "yz"]),
        "c": np.empty((0, 3), np.float32),
        "d": np.array(5, np.uint64),
    }
    INDEX.write(tmp_path / "any.index", {"p": 1}, arrays)
    parameters, found = INDEX.read(tmp_path / "any.index")
    assert parameters == {"p": 1}
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.writeable


# -- killed while saving -----------------------------------------------------------------------

KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from fedlab.index.engines import HNSW
from fedlab.index import VectorIndex

folder = Path(sys.argv[1])
path = folder / "saved.index"
draw = random.Random(0)
made = []
for seed in (0, 1):
    index = VectorIndex(64, "l2sq")
    index.add(np.random.default_rng(seed).normal(size=(8000 + 4000 * seed, 64)))
    made.append(index)
began = time.perf_counter()
made[0].save(path)
took = time.perf_counter() - began  # machines differ, and are busy
sizes, leftovers = set(), 0
for number in range(300):
    if number >= 40 and len(sizes) == 2 and leftovers > 5:
        break
    child = os.fork()
    if not child:
        while True:
            for index in made:
                index.save(path)
    time.sleep(draw.uniform(0.2, 4) * took)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    leftovers += len(os.listdir(folder)) > 1
    opened = VectorIndex.open(path)
    sizes.add(len(opened))
    np.testing.assert_array_equal(opened.vectors, made[len(opened) == 12000].vectors)
    if number % 4 == 0:
        made[0].save(path)
        assert os.listdir(folder) == ["saved.index"], os.listdir(folder)
assert sizes == {8000, 12000}, sizes
assert leftovers > 5, leftovers
print("whole every time")
"""


@posix
def test_a_save_that_is_killed_leaves_the_old_index_or_the_new(tmp_path: Path) -> None:
    assert run_child(KILLS, tmp_path) == "whole every time\n"
